//! A network that could be the answer, and what was measured of it.

use std::collections::BTreeMap;

use espalier_graph::{Format, Graph, Lineage, Manifest, Package, Weights};
use espalier_tasks::anomaly::Judge;
use espalier_tasks::classification::argmax;
use espalier_tasks::series::Follows;
use espalier_tasks::{Content, Limits, Model, Recorder, Task, TaskError};
use sha2::{Digest, Sha256};

use super::budget::Figures;
use super::recipe::Recipe;
use super::variant::Structure;
use super::{Calibration, Event, Request};
use crate::best::{shrunk, spaced};
use crate::data::Examples;
use crate::digest;
use crate::evaluate::measure_each;
use crate::reference::Looks;
use crate::series::calibrated;

/// A network that could be the answer.
pub struct Candidate {
    /// In words.
    pub name: String,
    /// What was taken out of the network.
    pub structure: Structure,
    /// How it was quantized; `None` for a float network.
    pub recipe: Option<Recipe>,
    /// What was measured.
    pub figures: Figures,
    /// Share of val on which it names the class that the float network names, or gives an alarm where that does.
    pub agreement: Option<f64>,
    /// Why it is not the answer; `None` for the answer, and for what keeps the budget but is slower.
    pub refused: Option<String>,
    /// Likeliest class of every image, for classifiers; whether it is an alarm, for every window.
    pub(super) labels: BTreeMap<usize, usize>,
    pub(super) package: Package,
    /// The number of the float network that it is made of.
    pub(super) variant: usize,
}

/// What every candidate is measured on and written with.
pub(super) struct Bench<'a> {
    pub(super) request: &'a Request,
    /// Where golden samples come from.
    inputs: Vec<Content>,
    looks: Looks,
    dataset: String,
}

impl<'a> Bench<'a> {
    /// # Errors
    /// No picture of val can be read.
    pub(super) fn new(request: &'a Request, calibration: &Calibration) -> anyhow::Result<Bench<'a>> {
        let mut hash = Sha256::new();
        hash.update(request.val.digest());
        hash.update(calibration.digest());
        let dataset = digest::finish(hash);
        let looks = Looks::of_examples(&request.val, &request.task, request.threads);
        Ok(Bench { request, inputs: inputs(&request.val)?, looks, dataset })
    }

    /// Identifies val and the calibration images.
    pub(super) fn dataset(&self) -> &str {
        &self.dataset
    }

    /// Answers val with the plan of `graph` that a device would run, and makes the package.
    ///
    /// # Errors
    /// A graph that cannot be lowered; images that cannot be read.
    pub(super) fn measure(
        &self,
        (variant, structure): (usize, Structure),
        recipe: Option<Recipe>,
        (graph, weights): (Graph, Weights),
        notify: &mut dyn FnMut(Event),
    ) -> anyhow::Result<Candidate> {
        let Request { task, val, isa, threads, .. } = self.request;
        let name = name(structure, recipe.as_ref());
        notify(Event::Began { what: name.clone(), unit: "images", length: val.list.len() });
        let mut model = Model::new(graph.clone(), weights.clone(), task.clone(), *isa, *threads)?;
        let task = self.calibrated(&mut model, recipe.is_some())?;
        let (mut labels, mut recorder) = (Labels::new(&task, val), Recorder::new(&task));
        let measured = measure_each(
            &mut model,
            val,
            *threads,
            &mut |at, outputs| {
                labels.add(at, outputs[0])?;
                self.looks.record(&mut recorder, &task, at, outputs)
            },
            &mut |done| notify(Event::Done(done)),
        )?;
        let (metrics, labels) = (measured.metrics.metrics(), labels.found);
        let golden =
            self.inputs.iter().map(|content| model.golden(content.input())).collect::<Result<_, _>>()?;
        let mut manifest = self.manifest(&graph, &task, (structure, &recipe), metrics.clone())?;
        let reference = recorder.finish().map(|reference| reference.tensors()).unwrap_or_default();
        if !reference.is_empty() {
            manifest.format = manifest.format.with_reference();
        }
        let package = Package { manifest, graph, weights, golden, reference };
        let size_bytes = package.to_bytes()?.len() as u64;
        let figures = Figures::untimed(metrics, size_bytes);
        let (agreement, refused) = (None, None);
        Ok(Candidate { name, structure, recipe, figures, agreement, refused, labels, package, variant })
    }

    /// The task of a candidate: what is usual of errors, and the threshold, are those of its own arithmetic.
    fn calibrated(&self, model: &mut Model, is_rounded: bool) -> anyhow::Result<Task> {
        let Request { task, train, val, .. } = self.request;
        let task = match task {
            Task::Anomaly(task) if is_rounded => Task::Anomaly(calibrated(model, task, train, val)?),
            task => return Ok(task.clone()),
        };
        model.set_task(task.clone())?;
        Ok(task)
    }

    fn manifest(
        &self,
        graph: &Graph,
        task: &Task,
        made: (Structure, &Option<Recipe>),
        metrics: BTreeMap<String, f64>,
    ) -> anyhow::Result<Manifest> {
        let parent = &self.request.source.package.manifest;
        let settings = serde_json::to_vec(&(&self.request.settings, made))?;
        Ok(Manifest {
            format: Format::of(graph),
            name: parent.name.clone(),
            // What trains is the parent; this graph is folded, and mostly of integers.
            network: None,
            task: Some(serde_json::to_value(task)?),
            metric: Some(self.request.task.primary_metric().name.into()),
            metrics,
            budget: Some(serde_json::to_value(&self.request.settings.budget)?),
            lineage: Lineage {
                parent: Some(self.request.source.digest.clone()),
                dataset: Some(self.dataset.clone()),
                settings: Some(digest::of(settings)),
            },
            version: parent.version.max(1),
        })
    }
}

/// In words.
pub(super) fn name(structure: Structure, recipe: Option<&Recipe>) -> String {
    let arithmetic = recipe.map_or_else(|| "float".into(), Recipe::name);
    match structure.is_whole() {
        true => arithmetic,
        false => format!("{}, {arithmetic}", structure.name()),
    }
}

impl Candidate {
    /// What a device would get.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// Share of the images on which both name the same class.
    pub(super) fn agreement_with(&self, other: &Candidate) -> Option<f64> {
        let both: Vec<bool> =
            self.labels.iter().filter_map(|(at, label)| Some(other.labels.get(at)? == label)).collect();
        (!both.is_empty()).then(|| both.iter().filter(|same| **same).count() as f64 / both.len() as f64)
    }
}

/// What a network says about each input of val, as a number that can be compared.
struct Labels<'a> {
    task: &'a Task,
    val: &'a Examples,
    judge: Option<Judge>,
    found: BTreeMap<usize, usize>,
}

impl<'a> Labels<'a> {
    fn new(task: &'a Task, val: &'a Examples) -> Labels<'a> {
        Labels { task, val, judge: None, found: BTreeMap::new() }
    }

    /// Inputs come in their order.
    fn add(&mut self, at: usize, output: &[f32]) -> Result<(), TaskError> {
        let label = match self.task {
            Task::ClassifyImage(_) => argmax(output),
            Task::Detect(_) => return Ok(()),
            Task::Anomaly(task) => {
                let Some(window) = self.val.list[at].window() else { return Ok(()) };
                let error = task.error(&task.window_errors(window, output)?)?;
                if window.follows == Follows::Nothing {
                    self.judge = None;
                }
                let judge = self.judge.get_or_insert_with(|| Judge::new(task));
                usize::from(judge.judge(window.follows, error).alarm)
            }
        };
        self.found.insert(at, label);
        Ok(())
    }
}

/// Whether each window of `val` is an alarm of `model`.
///
/// # Errors
/// A model that cannot be lowered.
pub(super) fn alarms(model: &mut Model, val: &Examples, threads: usize) -> anyhow::Result<Vec<bool>> {
    let task = model.task().clone();
    let mut labels = Labels::new(&task, val);
    measure_each(model, val, threads, &mut |at, outputs| labels.add(at, outputs[0]), &mut |_| {})?;
    Ok((0..val.list.len()).map(|at| labels.found.get(&at) == Some(&1)).collect())
}

/// Inputs for golden samples; of those that cannot be read, the next one.
fn inputs(val: &Examples) -> anyhow::Result<Vec<Content>> {
    let count = val.list.len();
    let input = |at: usize| {
        let mut rest = (at..count).chain(0..at).map(|i| val.list[i].load(&Limits::default()));
        let first = rest.next().expect("val is not empty");
        match (first, rest.find_map(Result::ok)) {
            (Ok((content, _)), _) | (Err(_), Some((content, _))) => Ok(content),
            (Err(error), None) => Err(error.into()),
        }
    };
    let shrunk = |content| match content {
        Content::Image(image) => Content::Image(shrunk(&image)),
        other => other,
    };
    spaced(count).map(|at| input(at).map(shrunk)).collect()
}
