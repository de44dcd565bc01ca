//! The training loop.
//!
//! What a run computes is a function of data, settings, seed and thread count: every random number comes from (seed,
//! epoch, position), so a run that was killed goes on from its checkpoint to the same bits. Only `--max-time` brings the
//! clock in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use espalier_graph::{Bindings, Graph, Role, State, Weights};
use espalier_passes::Optimizer;
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_tasks::classification::{Metrics, argmax};
use espalier_tasks::{ClassifyImage, Image, Limits, Model, Recorder};

use crate::best;
use crate::checkpoint::{self, Epoch, Progress};
use crate::data::{self, Batch, CACHE_BYTES, Dataset, Images, Loader, Sample, Split, Statistics};
use crate::diagnosis::{Evidence, diagnose, standard_error};
use crate::evaluate::answers;
use crate::event::{Event, Outcome, Stopped, Times};
use crate::imported;
use crate::init::{Import, Init};
use crate::observers::{Observers, mlflow};
use crate::reference::Looks;
use crate::rules::cores;
use crate::run_folder::{RunError, RunFolder};
use crate::schedule::{Schedule, ema_decay};
use crate::settings::{OptimizerName, Overrides, Settings};
use crate::step::{StepOptions, training_step};
use crate::{layers, networks};

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
    let mut run = Run::new(&dataset, &statistics, settings, init.as_ref(), folder, request.checkpoint_every)?;
    notes.append(&mut run.notes);
    let mut observers = Observers::new(&run.folder, request.mlflow.clone(), notify);
    // Only now, so that what cannot be trained leaves no folder.
    run.folder.create()?;
    run.folder.write_settings(&run.settings)?;
    let resumed = (run.progress.step > 0).then_some((run.progress.epoch, run.progress.batch));
    observers.tell(Event::Started {
        dataset: &dataset,
        statistics: &statistics,
        settings: &run.settings,
        cost: networks::cost(&run.network),
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
        loader: &run.loader,
        val: &run.val,
    })?;
    // The last of all: with it the run counts as ended, and nothing is done again.
    run.folder.write_result(&outcome)?;
    Ok(outcome)
}

fn usage_if_missing(error: data::DataError) -> anyhow::Error {
    if error.is_usage() { UsageError(error.to_string()).into() } else { error.into() }
}

fn usage_if_taken(error: RunError) -> anyhow::Error {
    match error {
        RunError::Exists(_) => UsageError(error.to_string()).into(),
        _ => error.into(),
    }
}

/// The file of weights to begin with. A run that began with one goes on without it.
fn init(request: &Request, folder: &RunFolder) -> anyhow::Result<Option<Init>> {
    let Some(path) = &request.init else { return Ok(None) };
    let resumed = if request.resume { folder.settings()? } else { None };
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
        && let Some(settings) = folder.settings()?
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

struct Run {
    settings: Settings,
    folder: RunFolder,
    task: ClassifyImage,
    network: Graph,
    /// What the step does not change.
    held: Weights,
    plan: Plan,
    pool: Pool,
    loader: Loader,
    val: Arc<Images>,
    /// What the images of val look like.
    looks: Looks,
    golden: Vec<Image>,
    class_counts: BTreeMap<String, usize>,
    progress: Progress,
    schedule: Schedule,
    checkpoint_every: Duration,
    /// Where the weights come from, and what is frozen.
    notes: Vec<String>,
    started: Instant,
    saved: Instant,
    /// Learning rate of the last step.
    rate: f32,
    times: Times,
}

impl Run {
    fn new(
        dataset: &Dataset,
        statistics: &Statistics,
        settings: Settings,
        init: Option<&Init>,
        folder: RunFolder,
        checkpoint_every: Duration,
    ) -> anyhow::Result<Run> {
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
        let options = Options {
            isa: Isa::best(),
            threads: settings.threads,
            bindings: Bindings::batch(settings.batch),
        };
        let plan = lower(&step, &weights, options)?;
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
        let batches = loader.batches_per_epoch();
        let schedule = Schedule {
            shape: settings.schedule,
            peak: settings.lr,
            warmup: (settings.warmup * batches as f32) as usize,
            steps: settings.epochs * batches,
        };
        let changes = plan.states();
        let held = weights.into_iter().filter(|(name, _)| !changes.contains_key(name)).collect();
        let pool = Pool::new(settings.threads);
        let (started, saved) = (Instant::now(), Instant::now());
        Ok(Run {
            settings,
            folder,
            task,
            network,
            held,
            plan,
            pool,
            loader,
            val,
            looks,
            golden,
            class_counts: dataset.classes.iter().cloned().zip(dataset.counts(Split::Train)).collect(),
            progress,
            schedule,
            checkpoint_every,
            notes,
            started,
            saved,
            rate: 0.0,
            times: Times::default(),
        })
    }

    fn train(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<Outcome> {
        // A run that was killed between its last checkpoint and its result has nothing left to do.
        let mut stopped = self.stop_reason();
        while stopped.is_none() {
            let in_time = self.epoch(observers)?;
            self.validate(observers)?;
            stopped = self.stop_reason().or((!in_time).then_some(Stopped::Time));
        }
        self.outcome(stopped.expect("the loop ends with a reason"))
    }

    fn outcome(&self, stopped: Stopped) -> anyhow::Result<Outcome> {
        let (_, best_epoch) = self.progress.best.context("no epoch was validated")?;
        let Times { epochs, count, .. } = self.times;
        Ok(Outcome {
            model: self.settings.model.clone(),
            epochs: self.progress.epoch,
            best_epoch,
            stopped,
            metric: METRIC.into(),
            metrics: self.progress.history[best_epoch - 1].val.clone(),
            images_per_second: (count > 0)
                .then(|| (count * self.settings.batch) as f64 / epochs.as_secs_f64()),
            class_counts: self.class_counts.clone(),
            target: self.settings.target,
            init: self.settings.init.clone(),
            out: self.folder.path().into(),
            verdict: diagnose(&Evidence {
                history: &self.progress.history,
                stopped,
                metric: METRIC,
                target: self.settings.target,
                best_epoch,
                images: self.val.len(),
                chance: most_frequent(self.val.samples(), self.task.labels.len()),
            }),
        })
    }

    fn times(&self) -> Times {
        Times { total: self.started.elapsed(), ..self.times.clone() }
    }

    /// The rest of the current epoch, timed; false where the time was up before its end.
    fn epoch(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<bool> {
        let start = Instant::now();
        let in_time = self.steps(observers);
        self.times.epochs += start.elapsed();
        in_time
    }

    fn steps(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<bool> {
        let (epoch, batches) = (self.progress.epoch, self.loader.batches_per_epoch());
        let mut data = self.loader.epoch(epoch as u64, self.progress.batch);
        while let Some(batch) = timed(&mut self.times.data, || data.next_batch()) {
            let batch = batch?;
            let at = scheduled(&self.settings, &self.schedule, &self.started, self.progress.step);
            self.rate = self.schedule.at(at);
            self.plan.input("x").copy_from_slice(&batch.images);
            self.plan.input("target").copy_from_slice(&batch.targets);
            self.plan.input("lr").fill(self.rate);
            self.set_counters();
            timed(&mut self.times.steps, || self.plan.run(&mut self.pool));
            self.times.count += 1;
            let loss = f64::from(self.plan.output("loss")[0]);
            if !loss.is_finite() {
                bail!(
                    "the loss became {loss} in epoch {} at step {}: try a smaller --lr",
                    epoch + 1,
                    batch.number + 1
                );
            }
            self.progress.loss_sum += loss;
            self.progress.seen += batch.labels.len();
            self.progress.right += right(self.plan.output("logits"), batch);
            self.progress.batch += 1;
            self.progress.step += 1;
            let Progress { batch, step, loss_sum, .. } = self.progress;
            let mean = loss_sum / batch as f64;
            observers.tell(Event::Step { epoch, batch, batches, loss: mean, step, step_loss: loss })?;
            if time_is_up(&self.settings, &self.started) {
                return Ok(self.progress.batch == batches);
            }
            if self.saved.elapsed() > self.checkpoint_every && self.progress.batch < batches {
                self.save()?;
            }
        }
        Ok(true)
    }

    /// Inputs that only some steps have: AdamW's step number, the random numbers of dropout, the moving average's decay.
    fn set_counters(&mut self) {
        let step = self.progress.step;
        if self.plan.has_input("step") {
            self.plan.input("step").fill((step + 1) as f32);
        }
        if self.plan.has_input("rng") {
            self.plan.input_i32("rng").copy_from_slice(&[self.settings.seed as i32, step as i32]);
        }
        if self.plan.has_input("ema_decay") {
            self.plan.input("ema_decay").fill(ema_decay(self.settings.ema, step));
        }
    }

    fn validate(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<()> {
        let start = Instant::now();
        let states = self.states();
        let weights = best::model_states(&self.network, &states);
        let mut model = best::model(&self.network, &weights, &self.task, self.settings.threads)?;
        let (metrics, recorder) = self.answer_val(&mut model)?;
        let row = Epoch {
            epoch: self.progress.epoch + 1,
            train_loss: self.progress.loss_sum / self.progress.batch.max(1) as f64,
            train_accuracy: self.progress.right as f64 / self.progress.seen.max(1) as f64,
            lr: f64::from(self.rate),
            val: metrics.metrics(),
        };
        let is_best = self.is_best(&row);
        if is_best {
            self.progress.best = Some((row.val[METRIC], row.epoch));
            let val = row.val.clone();
            let package = best::package(
                &self.network,
                &weights,
                &self.task,
                &self.settings,
                val,
                &mut model,
                (&self.golden, recorder.finish()),
            )?;
            package.write(self.folder.best())?;
        }
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.progress.loss_sum = 0.0;
        (self.progress.seen, self.progress.right) = (0, 0);
        self.progress.history.push(row);
        self.times.validation += start.elapsed();
        // The checkpoint comes last: with it the epoch counts as done, and nothing of it is written again.
        let (history, step) = (&self.progress.history, self.progress.step);
        let row = history.last().expect("just pushed");
        observers.tell(Event::Epoch { row, best: is_best, history, step })?;
        self.save()
    }

    /// Metrics and reference statistics of val.
    fn answer_val(&self, model: &mut Model) -> anyhow::Result<(Metrics, Recorder)> {
        let task = model.task().clone();
        let (mut metrics, mut recorder) = (Metrics::new(task.labels()), Recorder::new(&task));
        answers(model, &self.val, &mut |at, logits, label| {
            metrics.add(logits, label)?;
            self.looks.record(&mut recorder, &task, at, &[logits])
        })?;
        Ok((metrics, recorder))
    }

    /// By the one-standard-error rule (Breiman et al. 1984): among the epochs whose metric is within a standard error of
    /// the highest, the one with the smallest loss. A few lucky images do not outweigh the loss over all of them.
    fn is_best(&self, row: &Epoch) -> bool {
        let Some((_, epoch)) = self.progress.best else { return true };
        let loss = |row: &Epoch| row.val.get("loss").copied().unwrap_or(0.0);
        let (metric, before) = (row.val[METRIC], &self.progress.history[epoch - 1]);
        let highest = self.progress.history.iter().map(|e| e.val[METRIC]).fold(metric, f64::max);
        let bar = highest - standard_error(highest, self.val.len());
        metric >= bar && (loss(row) < loss(before) || before.val[METRIC] < bar)
    }

    fn stop_reason(&self) -> Option<Stopped> {
        let (best, epoch) = self.progress.best?;
        if self.settings.target.is_some_and(|target| best >= target) {
            Some(Stopped::Target)
        } else if self.progress.epoch >= self.settings.epochs {
            Some(Stopped::Epochs)
        } else if self.progress.epoch - epoch >= self.settings.patience {
            Some(Stopped::Patience)
        } else {
            None
        }
    }

    /// All states, those that the step does not change among them.
    fn states(&self) -> Weights {
        let mut states = self.plan.states();
        states.extend(self.held.clone());
        states
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let states = self.states();
        timed(&mut self.times.checkpoints, || checkpoint::save(self.folder.path(), &self.progress, &states))?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// The primary metric of the only task that trains so far.
const METRIC: &str = "accuracy";

/// What `work` gives; its time is added to `time`.
fn timed<T>(time: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *time += start.elapsed();
    result
}

/// How many images of a batch are answered with their most likely class; where two are mixed, with that of the larger
/// share.
fn right(logits: &[f32], batch: &Batch) -> usize {
    let classes = logits.len() / batch.labels.len();
    let rows = logits.chunks_exact(classes).zip(batch.targets.chunks_exact(classes));
    rows.filter(|(logits, target)| argmax(logits) == argmax(target)).count()
}

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
    let fresh = Progress {
        settings: settings.digest(),
        epoch: 0,
        batch: 0,
        loss_sum: 0.0,
        seen: 0,
        right: 0,
        step: 0,
        best: None,
        history: Vec::new(),
    };
    let Some((progress, states)) = checkpoint::load(folder.path())? else {
        let notes = match (init, &settings.init) {
            (Some(init), _) => init.fill(network, labels, &mut weights)?.lines(),
            (None, Some(_)) => return Err(UsageError(needs_file(folder)).into()),
            (None, None) => Vec::new(),
        };
        return Ok((fresh, weights, notes));
    };
    if progress.settings != fresh.settings {
        bail!("the checkpoint in {} was made with other settings than its run.toml", folder.path().display());
    }
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

/// The step for the schedule: where the clock is further than the count, the clock decides, so that a run that is cut
/// short by `--max-time` still ends with a small learning rate.
fn scheduled(settings: &Settings, schedule: &Schedule, started: &Instant, step: usize) -> usize {
    let share = settings.max_time_s.map_or(0.0, |limit| started.elapsed().as_secs_f64() / limit.max(1e-9));
    step.max((schedule.steps as f64 * share) as usize)
}

fn time_is_up(settings: &Settings, started: &Instant) -> bool {
    settings.max_time_s.is_some_and(|limit| started.elapsed().as_secs_f64() >= limit)
}
