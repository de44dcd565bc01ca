//! Training: what is asked for, and how a classifier of pictures is learned. [`crate::series`] learns from series.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use espalier_graph::{Graph, Package, Role, State, Weights};
use espalier_passes::Optimizer;
use espalier_runtime::Plan;
use espalier_tasks::classification::{Metrics, argmax};
use espalier_tasks::{ClassifyImage, Image, Limits, Recorder};

use crate::best;
use crate::checkpoint::{Epoch, Progress};
use crate::data::series::is_series;
use crate::data::{self, Batch, Batches, CACHE_BYTES, Dataset, Images, Loader, Sample, Split, Statistics};
use crate::diagnosis::{Evidence, Verdict, diagnose, standard_error};
use crate::evaluate::answers;
use crate::event::{Event, Learned, Outcome, Stopped, Subject};
use crate::imported;
use crate::init::{Import, Init};
use crate::observers::{Observers, mlflow};
use crate::reference::Looks;
use crate::rules::cores;
use crate::run::{Feed, Lesson, Run, Validated, fresh, resumed};
use crate::run_folder::{RunError, RunFolder};
use crate::settings::{OptimizerName, Overrides, Settings};
use crate::step::{StepOptions, training_step};
use crate::{layers, networks, series};

/// How far checkpoints are apart at most, where nothing else is asked for.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// What is to be trained.
#[derive(Clone, Debug)]
pub struct Request {
    /// The data, as on the command line.
    pub data: String,
    /// What the user set.
    pub overrides: Overrides,
    /// The run's folder.
    pub out: PathBuf,
    /// A file of weights to begin with: a package, PyTorch's in a safetensors file, or an ONNX file.
    pub init: Option<PathBuf>,
    /// The reader of ONNX files.
    pub import: Import,
    /// Goes on with a run that is there.
    pub resume: bool,
    /// How far checkpoints are apart at most; it has no influence on the result.
    pub checkpoint_every: Duration,
    /// An MLflow server that the run is logged to.
    pub mlflow: Option<mlflow::Server>,
}

/// Wrong usage: a resumed run with other settings, or data that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Trains, and tells `notify` how it goes.
///
/// # Errors
/// [`UsageError`] where the request contradicts itself or what is there; else whatever failed, by name.
pub fn train(request: &Request, notify: &mut dyn FnMut(Event<'_>)) -> anyhow::Result<Outcome> {
    if is_series(Path::new(&request.data)) {
        return series::train(request, notify);
    }
    if let Some(flag) = request.overrides.of_series() {
        let text = format!("--{flag}: that is for series (.csv, .jsonl), and {} is none", request.data);
        return Err(UsageError(text).into());
    }
    let mut dataset = Dataset::open(&request.data).map_err(usage_if_missing)?;
    dataset.require(Split::Train).map_err(usage_if_missing)?;
    dataset.require(Split::Val).map_err(usage_if_missing)?;
    let threads = request.overrides.threads.unwrap_or_else(cores);
    let statistics = dataset.survey(&Limits::default(), threads)?;
    let folder = RunFolder::open(&request.out, request.resume).map_err(usage_if_taken)?;
    if statistics.images[0] < 2 {
        bail!("dataset {} has one picture in train: at least two are needed", dataset.name);
    }
    let init = init(request, &folder)?;
    let (settings, mut notes) = settings(request, init.as_ref(), &folder, &statistics, &dataset)?;
    if request.resume
        && let Some(outcome) = folder.result::<Outcome>()?
    {
        notify(Event::AlreadyDone);
        return Ok(outcome);
    }
    let (mut run, more) =
        run(&dataset, &statistics, settings.clone(), init.as_ref(), folder, request.checkpoint_every)?;
    notes.extend(more);
    let mut observers = Observers::new(&run.folder, request.mlflow.clone(), notify);
    // Only now, so that what cannot be trained leaves no folder.
    run.folder.create()?;
    run.folder.write_settings(&settings)?;
    let resumed = (run.progress.step > 0).then_some((run.progress.epoch, run.progress.batch));
    observers.tell(Event::Started {
        subject: Subject::Pictures { dataset: &dataset, statistics: &statistics, settings: &settings },
        cost: networks::cost(&run.lesson.network),
        notes: &notes,
        resumed,
        step: run.progress.step,
        history: &run.progress.history,
    })?;
    let outcome = run.train(&mut observers)?;
    observers.tell(Event::Ended {
        outcome: &outcome,
        history: &run.progress.history,
        times: &run.times(),
        learned: Learned::Pictures { loader: &run.lesson.loader, val: &run.lesson.val },
    })?;
    // The last of all: with it the run counts as ended, and nothing is done again.
    run.folder.write_result(&outcome)?;
    Ok(outcome)
}

pub(crate) fn usage_if_missing(error: data::DataError) -> anyhow::Error {
    if error.is_usage() { UsageError(error.to_string()).into() } else { error.into() }
}

pub(crate) fn usage_if_taken(error: RunError) -> anyhow::Error {
    match error {
        RunError::Exists(_) => UsageError(error.to_string()).into(),
        _ => error.into(),
    }
}

/// The file of weights to begin with. A run that began with one goes on without it.
fn init(request: &Request, folder: &RunFolder) -> anyhow::Result<Option<Init>> {
    let Some(path) = &request.init else { return Ok(None) };
    let resumed: Option<Settings> = if request.resume { folder.settings()? } else { None };
    if !path.exists() && resumed.as_ref().is_some_and(|settings| settings.init.is_some()) {
        return Ok(None);
    }
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
        return Init::read(path).map(Some);
    }
    let side = request.overrides.imgsz.or(resumed.map(|settings| settings.imgsz));
    Init::import(path, side, request.import).map(Some)
}

/// From run.toml where the run is resumed, else from the request, the weights to begin with and the rules; with
/// sentences about what the weights asked for.
fn settings(
    request: &Request,
    init: Option<&Init>,
    folder: &RunFolder,
    statistics: &Statistics,
    dataset: &Dataset,
) -> anyhow::Result<(Settings, Vec<String>)> {
    if request.resume
        && let Some(settings) = folder.settings::<Settings>()?
    {
        let mut wanted = request.overrides.over(&settings);
        wanted.dataset.clone_from(&statistics.digest);
        wanted.init = init.map(|init| init.digest().into()).or(wanted.init);
        let changed = settings.differences(&wanted);
        if !changed.is_empty() {
            let path = folder.path().join("run.toml");
            let text = format!("--resume: {} differs from {}", changed.join(", "), path.display());
            return Err(UsageError(text).into());
        }
        return Ok((settings, Vec::new()));
    }
    let (given, notes) = match init {
        Some(init) => init.complete(&request.overrides, statistics)?,
        None => (request.overrides.clone(), Vec::new()),
    };
    let imported = init.and_then(Init::imported);
    let settings = Settings::resolve(&given, statistics, dataset.classes.len(), imported);
    Ok((settings.map_err(|e| UsageError(e.to_string()))?, notes))
}

/// That of the name in the settings, or of the file to begin with.
fn network(
    settings: &Settings,
    classes: usize,
    init: Option<&Init>,
    folder: &RunFolder,
) -> anyhow::Result<Graph> {
    if settings.model != imported::NAME {
        return Ok(networks::build(&settings.model, &settings.network(classes))?);
    }
    let path = folder.path().display();
    let missing = || {
        UsageError(format!(
            "--resume: the network of {path} is that of the file which it began with; give that by --init FILE"
        ))
    };
    let imported = init.and_then(Init::imported).ok_or_else(missing)?;
    Ok(imported.with_classes(classes)?)
}

/// A classifier of pictures, and the data that it learns from.
struct Pictures {
    settings: Settings,
    task: ClassifyImage,
    network: Graph,
    loader: Loader,
    val: Arc<Images>,
    /// What the images of val look like.
    looks: Looks,
    golden: Vec<Image>,
    class_counts: BTreeMap<String, usize>,
}

/// The run, and sentences about where the weights come from and what is frozen.
fn run(
    dataset: &Dataset,
    statistics: &Statistics,
    settings: Settings,
    init: Option<&Init>,
    folder: RunFolder,
    checkpoint_every: Duration,
) -> anyhow::Result<(Run<Pictures>, Vec<String>)> {
    let size = [settings.imgsz; 2];
    let mut task =
        ClassifyImage::new(size, settings.mean.clone(), settings.std.clone(), dataset.classes.clone());
    task.input.bgr = settings.bgr;
    task.input.fit = settings.fit.unwrap_or(task.input.fit);
    let network = network(&settings, dataset.classes.len(), init, &folder)?;
    let frozen = layers::frozen(&settings.freeze, &network);
    let frozen = frozen.map_err(|reason| UsageError(format!("--freeze: {reason}")))?;
    let step = training_step(&network, &step_options(&settings), &|name| frozen.contains(name));
    let step = match init.filter(|init| init.imported().is_some()) {
        Some(init) => step.with_context(|| format!("--init {}: it cannot be trained", init.file()))?,
        None => step?,
    };
    let (progress, weights, mut notes) = begin(&step, &network, &settings, &task.labels, init, &folder)?;
    notes.extend(about_frozen(&frozen, &network, &settings));
    let load = |split, side| {
        let task = task.with_size([side; 2]);
        Images::load(dataset.split(split), &task, &Limits::default(), CACHE_BYTES, settings.threads)
            .map(Arc::new)
    };
    let stored = settings.augment.stored_side(settings.imgsz, statistics);
    let (train, val) = (load(Split::Train, stored)?, load(Split::Val, settings.imgsz)?);
    let looks = Looks::of_images(&val, settings.threads);
    let samples = dataset.split(Split::Val);
    let golden = best::golden_pictures(samples.len(), |i| samples[i].image(&Limits::default()))?;
    let loader = Loader::new(
        train,
        data::Options {
            batch: settings.batch,
            size,
            seed: settings.seed,
            sampling: settings.sampling,
            augment: settings.augment.clone(),
            smoothing: settings.smoothing,
            threads: 1,
        },
    );
    let class_counts = dataset.classes.iter().cloned().zip(dataset.counts(Split::Train)).collect();
    let pace = settings.pace();
    let lesson = Pictures { settings, task, network, loader, val, looks, golden, class_counts };
    Ok((Run::new(lesson, pace, folder, &step, (progress, weights), checkpoint_every)?, notes))
}

impl Lesson for Pictures {
    fn network(&self) -> &Graph {
        &self.network
    }

    fn metric(&self) -> &'static str {
        METRIC
    }

    fn batches_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    fn epoch(&self, epoch: u64, first: usize) -> Box<dyn Feed> {
        let (batches, classes) = (self.loader.epoch(epoch, first), self.task.labels.len());
        Box::new(PictureFeed { batches, classes, wanted: Vec::new() })
    }

    fn validate(&self, weights: &Weights) -> anyhow::Result<Validated> {
        let mut model = best::model(&self.network, weights, &self.task, self.settings.threads)?;
        let task = model.task().clone();
        let (mut metrics, mut recorder) = (Metrics::new(task.labels()), Recorder::new(&task));
        answers(&mut model, &self.val, &mut |at, logits, label| {
            metrics.add(logits, label)?;
            self.looks.record(&mut recorder, &task, at, &[logits])
        })?;
        Ok(Validated { model, metrics: metrics.metrics(), recorder })
    }

    /// By the one-standard-error rule (Breiman et al. 1984): among the epochs whose metric is within a standard error of
    /// the highest, the one with the smallest loss. A few lucky images do not outweigh the loss over all of them.
    fn is_better(&self, history: &[Epoch], best: &Epoch, row: &Epoch) -> bool {
        let loss = |row: &Epoch| row.val.get("loss").copied().unwrap_or(0.0);
        let metric = row.val[METRIC];
        let highest = history.iter().map(|e| e.val[METRIC]).fold(metric, f64::max);
        let bar = highest - standard_error(highest, self.val.len());
        metric >= bar && (loss(row) < loss(best) || best.val[METRIC] < bar)
    }

    fn package(&self, weights: &Weights, validated: Validated) -> anyhow::Result<Package> {
        let Validated { mut model, metrics, recorder } = validated;
        let (settings, rest) = (&self.settings, (&self.golden[..], recorder.finish()));
        best::package(&self.network, weights, &self.task, settings, metrics, &mut model, rest)
    }

    fn verdict(&self, history: &[Epoch], stopped: Stopped, best_epoch: usize) -> Verdict {
        diagnose(&Evidence {
            history,
            stopped,
            metric: METRIC,
            target: self.settings.target,
            best_epoch,
            images: self.val.len(),
            chance: most_frequent(self.val.samples(), self.task.labels.len()),
        })
    }

    fn class_counts(&self) -> BTreeMap<String, usize> {
        self.class_counts.clone()
    }
}

struct PictureFeed {
    batches: Batches,
    classes: usize,
    /// The class with the largest share of each target of the batch.
    wanted: Vec<usize>,
}

impl Feed for PictureFeed {
    fn present(&mut self, step: &mut Plan) -> Option<anyhow::Result<usize>> {
        let Batch { images, targets, labels, .. } = match self.batches.next_batch()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.into())),
        };
        step.input("x").copy_from_slice(images);
        step.input("target").copy_from_slice(targets);
        self.wanted.clear();
        self.wanted.extend(targets.chunks_exact(self.classes).map(argmax));
        Some(Ok(labels.len()))
    }

    /// How many images of the batch are answered with their most likely class; where two are mixed, with that of the larger
    /// share.
    fn right(&self, step: &Plan) -> Option<usize> {
        let rows = step.output("logits").chunks_exact(self.classes).zip(&self.wanted);
        Some(rows.filter(|(logits, wanted)| argmax(logits) == **wanted).count())
    }
}

/// The primary metric of classifiers.
const METRIC: &str = "accuracy";

/// The share of the most frequent class.
fn most_frequent(samples: &[Sample], classes: usize) -> f64 {
    let mut counts = vec![0; classes];
    samples.iter().for_each(|sample| counts[sample.label] += 1);
    counts.into_iter().max().unwrap_or(0) as f64 / samples.len().max(1) as f64
}

pub(crate) fn step_options(settings: &Settings) -> StepOptions {
    let optimizer = match settings.optimizer {
        OptimizerName::Sgd => Optimizer::Sgd { momentum: 0.9, nesterov: true },
        OptimizerName::Adamw => Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
    };
    let clip_norm = (settings.clip_norm > 0.0).then_some(settings.clip_norm);
    StepOptions { optimizer, weight_decay: settings.weight_decay, clip_norm, ema: settings.ema > 0.0 }
}

/// From the run's newest whole checkpoint, else from the file of weights, else at random; with sentences about the file.
fn begin(
    step: &Graph,
    network: &Graph,
    settings: &Settings,
    labels: &[String],
    init: Option<&Init>,
    folder: &RunFolder,
) -> anyhow::Result<(Progress, Weights, Vec<String>)> {
    let mut weights = networks::initial_weights(step, settings.seed);
    let Some((progress, states)) = resumed(folder, &settings.digest())? else {
        let notes = match (init, &settings.init) {
            (Some(init), _) => init.fill(network, labels, &mut weights)?.lines(),
            (None, Some(_)) => return Err(UsageError(needs_file(folder)).into()),
            (None, None) => Vec::new(),
        };
        return Ok((fresh(settings.digest()), weights, notes));
    };
    weights.extend(states);
    Ok((progress, weights, Vec::new()))
}

fn needs_file(folder: &RunFolder) -> String {
    let path = folder.path().display();
    format!(
        "--resume: {path} has no checkpoint yet, so the weights that it begins with are needed; give --init FILE"
    )
}

/// What `--freeze` comes to.
fn about_frozen(frozen: &BTreeSet<String>, network: &Graph, settings: &Settings) -> Option<String> {
    let held = network.states().iter().filter(|s| frozen.contains(&network.value(s.value).name));
    let elements = |s: &State| network.ty(s.value).shape.elements().factor;
    let held: usize = held.filter(|s| s.role == Role::Weight).map(elements).sum();
    let random = if settings.init.is_none() { ", at random values: there is no --init" } else { "" };
    let (layers, all) = (settings.freeze.join(", "), networks::cost(network).parameters);
    (!frozen.is_empty()).then(|| format!("{layers} stay as they are: {held} of {all} parameters{random}"))
}
