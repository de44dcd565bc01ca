//! Training on series: an autoencoder learns, without labels, to say their windows again.
//!
//! The loss on val, which comes later in time, decides which epoch is kept; labels, where there are any, only measure. With
//! every epoch that is kept the usual error and the threshold are set anew, on train and val.

mod autoencoder;
mod calibrate;
mod false_alarms;
mod settings;
mod verdict;

use std::path::Path;
use std::sync::Arc;

use espalier_graph::random::{Random, bits};
use espalier_graph::{Graph, Package, Weights};
use espalier_passes::portable;
use espalier_runtime::{Isa, Plan};
use espalier_tasks::anomaly::Calibration;
use espalier_tasks::{Anomaly, Model, Recorder, Task};

use crate::best::{self, model_states};
use crate::checkpoint::Epoch;
use crate::data::series::SeriesSet;
use crate::data::{Examples, Split, windows};
use crate::diagnosis::Verdict;
use crate::event::{Event, Learned, Outcome, Stopped, Subject};
use crate::networks;
use crate::observers::Observers;
use crate::run::{Feed, Lesson, Run, Validated, fresh, resumed};
use crate::run_folder::RunFolder;
use crate::step::training_step;
use crate::trainer::{Request, UsageError, usage_if_missing, usage_if_taken};

pub use autoencoder::{NAME, autoencoder};
pub(crate) use calibrate::calibrated;
pub use false_alarms::FalseAlarms;
pub use settings::SeriesSettings;

/// Stream of the seed that shuffles windows.
const ORDER: u64 = 41;
/// Windows whose errors are computed at once.
pub(crate) const BATCH: usize = 256;
/// The metric that decides which epoch is kept; smaller is better.
const METRIC: &str = "loss";

/// Trains on series, as [`crate::train`] does on pictures.
///
/// # Errors
/// As [`crate::train`].
pub(crate) fn train(request: &Request, notify: &mut dyn FnMut(Event<'_>)) -> anyhow::Result<Outcome> {
    refuse(request)?;
    let columns = request.overrides.columns.as_deref();
    let data = SeriesSet::open(Path::new(&request.data), None, columns).map_err(usage_if_missing)?;
    data.require(Split::Train).map_err(usage_if_missing)?;
    data.require(Split::Val).map_err(usage_if_missing)?;
    let folder = RunFolder::open(&request.out, request.resume).map_err(usage_if_taken)?;
    let settings = settings(request, &data, &folder)?;
    if request.resume
        && let Some(outcome) = folder.result::<Outcome>()?
    {
        notify(Event::AlreadyDone);
        return Ok(outcome);
    }
    let mut run = run(&data, settings.clone(), folder, request)?;
    let mut observers = Observers::new(&run.folder, request.mlflow.clone(), notify);
    // Only now, so that what cannot be trained leaves no folder.
    run.folder.create()?;
    run.folder.write_settings(&settings)?;
    observers.tell(Event::Started {
        subject: Subject::Series { data: &data, settings: &settings },
        cost: networks::cost(&run.lesson.network),
        notes: &[],
        resumed: (run.progress.step > 0).then_some((run.progress.epoch, run.progress.batch)),
        step: run.progress.step,
        history: &run.progress.history,
    })?;
    let outcome = run.train(&mut observers)?;
    observers.tell(Event::Ended {
        outcome: &outcome,
        history: &run.progress.history,
        times: &run.times(),
        learned: Learned::Series { data: &data },
    })?;
    // The last of all: with it the run counts as ended, and nothing is done again.
    run.folder.write_result(&outcome)?;
    Ok(outcome)
}

/// What only pictures have is refused, not ignored.
fn refuse(request: &Request) -> anyhow::Result<()> {
    let flag = request.overrides.of_pictures().or(request.init.as_ref().map(|_| "init"));
    match flag {
        Some(flag) => {
            let text = format!("--{flag}: that is for pictures, and {} holds series", request.data);
            Err(UsageError(text).into())
        }
        None => Ok(()),
    }
}

/// From run.toml where the run is resumed, else from the request and the rules.
fn settings(request: &Request, data: &SeriesSet, folder: &RunFolder) -> anyhow::Result<SeriesSettings> {
    let wrong = |error: crate::SettingsError| UsageError(error.to_string());
    let stored = if request.resume { folder.settings::<SeriesSettings>()? } else { None };
    let wanted = SeriesSettings::resolve(&request.overrides, data).map_err(wrong)?;
    let Some(stored) = stored else { return Ok(wanted) };
    let changed = crate::settings::differences(&stored, &wanted);
    if changed.is_empty() {
        return Ok(stored);
    }
    let path = folder.path().join("run.toml");
    Err(UsageError(format!("--resume: {} differs from {}", changed.join(", "), path.display())).into())
}

fn run(
    data: &SeriesSet,
    settings: SeriesSettings,
    folder: RunFolder,
    request: &Request,
) -> anyhow::Result<Run<Windowed>> {
    let task = settings.task(data);
    task.validate()?;
    let [train, val] = [Split::Train, Split::Val].map(|split| windows(data, split, &task));
    for examples in [&train, &val] {
        if examples.list.is_empty() {
            let (split, rows) = (examples.split, data.rows()[examples.split as usize]);
            anyhow::bail!(
                "{split} of {} has {rows} rows and no window of {} without a gap: more rows are needed, or a shorter --window",
                data.name,
                task.window
            );
        }
    }
    let network = autoencoder(task.window, task.columns.len())?;
    let step = training_step(&network, &settings.step_options(), &|_| false)?;
    let mut weights = networks::initial_weights(&step, settings.seed);
    let progress = match resumed(&folder, &settings.digest())? {
        Some((progress, states)) => {
            weights.extend(states);
            progress
        }
        None => fresh(settings.digest()),
    };
    let inputs = Arc::new(tensors(&train, &task)?);
    let pace = settings.pace();
    let lesson = Windowed { settings, task, network, inputs, train, val };
    Run::new(lesson, pace, folder, &step, (progress, weights), request.checkpoint_every)
}

/// An autoencoder of windows, and what it learns from.
struct Windowed {
    settings: SeriesSettings,
    /// With a calibration that is still to come.
    task: Anomaly,
    network: Graph,
    /// Windows of train as tensors, one after another.
    inputs: Arc<Vec<f32>>,
    train: Examples,
    val: Examples,
}

/// The tensors of all windows, one after another.
fn tensors(examples: &Examples, task: &Anomaly) -> anyhow::Result<Vec<f32>> {
    let [len] = task.shape();
    let mut tensors = vec![0.0; len * examples.list.len()];
    for (tensor, example) in tensors.chunks_exact_mut(len).zip(&examples.list) {
        task.preprocess(example.window().expect("it was cut from a series"), tensor)?;
    }
    Ok(tensors)
}

impl Lesson for Windowed {
    fn network(&self) -> &Graph {
        &self.network
    }

    fn metric(&self) -> &'static str {
        METRIC
    }

    fn batches_per_epoch(&self) -> usize {
        self.settings.batches_per_epoch(self.train.list.len())
    }

    fn epoch(&self, epoch: u64, first: usize) -> Box<dyn Feed> {
        let (batch, windows) = (self.settings.batch, self.train.list.len());
        let mut random = Random::new(bits(self.settings.seed, ORDER, epoch), 0);
        let mut order = Vec::new();
        while order.len() < batch * self.batches_per_epoch() {
            let mut all: Vec<usize> = (0..windows).collect();
            random.shuffle(&mut all);
            order.extend(all);
        }
        order.truncate(batch * self.batches_per_epoch());
        Box::new(WindowFeed {
            inputs: self.inputs.clone(),
            len: self.task.shape()[0],
            order,
            batch,
            at: first * batch,
        })
    }

    fn validate(&self, weights: &Weights) -> anyhow::Result<Validated> {
        let portable = portable(&self.network)?;
        let (task, threads) = (Task::Anomaly(self.task.clone()), self.settings.threads);
        let mut model = Model::new(portable, weights.clone(), task, Isa::best(), threads)?;
        let task = calibrated(&mut model, &self.task, &self.train, &self.val)?;
        model.set_task(Task::Anomaly(task))?;
        let metrics = crate::evaluate::measure(&mut model, &self.val, 1, &mut |_| {})?.metrics.metrics();
        let recorder = Recorder::new(model.task());
        Ok(Validated { model, metrics, recorder })
    }

    fn is_better(&self, _: &[Epoch], best: &Epoch, row: &Epoch) -> bool {
        row.val[METRIC] < best.val[METRIC]
    }

    fn package(&self, weights: &Weights, validated: Validated) -> anyhow::Result<Package> {
        let Validated { mut model, metrics, recorder } = validated;
        let count = self.val.list.len();
        let golden = best::spaced(count).map(|at| {
            let window = self.val.list[at].window().expect("it was cut from a series");
            Ok(model.golden(window)?)
        });
        let golden = golden.collect::<anyhow::Result<Vec<_>>>()?;
        let graph = portable(&self.network)?;
        let weights = model_states(&graph, weights);
        let metric = if metrics.contains_key("f1") { "f1" } else { METRIC };
        let manifest = best::manifest(model.task(), metric, metrics, &self.settings)?;
        let reference = recorder.finish().map(|reference| reference.tensors()).unwrap_or_default();
        Ok(Package { manifest, graph, weights, golden, reference })
    }

    fn verdict(&self, history: &[Epoch], stopped: Stopped, best_epoch: usize) -> Verdict {
        verdict::verdict(history, stopped, best_epoch)
    }
}

/// Windows of train in a random order.
struct WindowFeed {
    inputs: Arc<Vec<f32>>,
    len: usize,
    order: Vec<usize>,
    batch: usize,
    at: usize,
}

impl Feed for WindowFeed {
    fn present(&mut self, step: &mut Plan) -> Option<anyhow::Result<usize>> {
        let chosen = self.order.get(self.at..self.at + self.batch)?;
        for (to, &window) in step.input("x").chunks_exact_mut(self.len).zip(chosen) {
            to.copy_from_slice(&self.inputs[window * self.len..][..self.len]);
        }
        self.at += self.batch;
        Some(Ok(self.batch))
    }

    fn right(&self, _: &Plan) -> Option<usize> {
        None
    }
}

/// A calibration before there is one: nothing is an alarm.
pub(crate) const UNCALIBRATED: Calibration = Calibration { mean: 0.0, std: 1.0, threshold: f64::MAX };
