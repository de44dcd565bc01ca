//! The loop of a run, whatever is learned: epochs, validation, the best package, checkpoints.
//!
//! What a run computes is a function of data, settings, seed and thread count: every random number comes from (seed,
//! epoch, position), so a run that was killed goes on from its checkpoint to the same bits. Only `--max-time` brings the
//! clock in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use espalier_graph::{Bindings, Graph, Package, Weights};
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_tasks::{Model, Recorder};

use crate::best;
use crate::checkpoint::{self, Epoch, Progress};
use crate::diagnosis::Verdict;
use crate::event::{Event, Outcome, Stopped, Times};
use crate::observers::Observers;
use crate::run_folder::RunFolder;
use crate::schedule::{Schedule, Shape, ema_decay};

/// What a validation comes to.
pub(crate) struct Validated {
    pub(crate) model: Model,
    /// On val.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// What was observed of val; nothing of a task that looks at no pictures.
    pub(crate) recorder: Recorder,
}

/// What is learned, and from what.
pub(crate) trait Lesson {
    /// The trainable network.
    fn network(&self) -> &Graph;
    /// The primary metric, as it is called in the metrics of val.
    fn metric(&self) -> &'static str;
    /// Batches of every epoch.
    fn batches_per_epoch(&self) -> usize;
    /// The batches of an epoch, from number `first` on.
    fn epoch(&self, epoch: u64, first: usize) -> Box<dyn Feed>;
    /// The model with `weights`, and its metrics on val.
    ///
    /// # Errors
    /// A model that cannot be made; inputs that cannot be read.
    fn validate(&self, weights: &Weights) -> anyhow::Result<Validated>;
    /// Whether an epoch is better than the best so far, which is one of `history`.
    fn is_better(&self, history: &[Epoch], best: &Epoch, row: &Epoch) -> bool;
    /// The package of a model that was validated.
    ///
    /// # Errors
    /// A golden sample that cannot be answered.
    fn package(&self, weights: &Weights, validated: Validated) -> anyhow::Result<Package>;
    /// What happened, and what to try.
    fn verdict(&self, history: &[Epoch], stopped: Stopped, best_epoch: usize) -> Verdict;
    /// Training inputs of each class, where there are classes.
    fn class_counts(&self) -> BTreeMap<String, usize> {
        BTreeMap::new()
    }
}

/// Batches, one after another.
pub(crate) trait Feed {
    /// Writes the next batch into the inputs of the step; the number of its inputs.
    fn present(&mut self, step: &mut Plan) -> Option<anyhow::Result<usize>>;
    /// How many inputs of the batch were answered rightly, once the step has run; none where nothing says what is right.
    fn right(&self, step: &Plan) -> Option<usize>;
}

/// What of a run's settings its loop has to know.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    pub(crate) model: String,
    pub(crate) batch: usize,
    pub(crate) epochs: usize,
    pub(crate) patience: usize,
    pub(crate) target: Option<f64>,
    pub(crate) max_time_s: Option<f64>,
    pub(crate) shape: Shape,
    /// Highest learning rate.
    pub(crate) lr: f32,
    /// Epochs of linear warm-up.
    pub(crate) warmup: f32,
    /// Decay of the moving average of weights.
    pub(crate) ema: f32,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    /// SHA-256 of the file of weights that it began with.
    pub(crate) init: Option<String>,
}

pub(crate) struct Run<L> {
    pub(crate) lesson: L,
    pub(crate) folder: RunFolder,
    pub(crate) progress: Progress,
    pace: Pace,
    /// What the step does not change.
    held: Weights,
    plan: Plan,
    pool: Pool,
    schedule: Schedule,
    checkpoint_every: Duration,
    started: Instant,
    saved: Instant,
    /// Learning rate of the last step.
    rate: f32,
    times: Times,
}

impl<L: Lesson> Run<L> {
    /// A run of `step` that goes on where `progress` and `weights` stand.
    ///
    /// # Errors
    /// A step that cannot be lowered.
    pub(crate) fn new(
        lesson: L,
        pace: Pace,
        folder: RunFolder,
        step: &Graph,
        (progress, weights): (Progress, Weights),
        checkpoint_every: Duration,
    ) -> anyhow::Result<Run<L>> {
        let bindings = Bindings::batch(pace.batch);
        let plan = lower(step, &weights, Options { isa: Isa::best(), threads: pace.threads, bindings })?;
        let batches = lesson.batches_per_epoch();
        let schedule = Schedule {
            shape: pace.shape,
            peak: pace.lr,
            warmup: (pace.warmup * batches as f32) as usize,
            steps: pace.epochs * batches,
        };
        let changes = plan.states();
        let held = weights.into_iter().filter(|(name, _)| !changes.contains_key(name)).collect();
        let pool = Pool::new(pace.threads);
        let (started, saved) = (Instant::now(), Instant::now());
        let (rate, times) = (0.0, Times::default());
        Ok(Run {
            lesson,
            folder,
            progress,
            pace,
            held,
            plan,
            pool,
            schedule,
            checkpoint_every,
            started,
            saved,
            rate,
            times,
        })
    }

    pub(crate) fn train(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<Outcome> {
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
        let history = &self.progress.history;
        Ok(Outcome {
            model: self.pace.model.clone(),
            epochs: self.progress.epoch,
            best_epoch,
            stopped,
            metric: self.lesson.metric().into(),
            metrics: history[best_epoch - 1].val.clone(),
            images_per_second: (count > 0).then(|| (count * self.pace.batch) as f64 / epochs.as_secs_f64()),
            class_counts: self.lesson.class_counts(),
            target: self.pace.target,
            init: self.pace.init.clone(),
            out: self.folder.path().into(),
            verdict: self.lesson.verdict(history, stopped, best_epoch),
        })
    }

    pub(crate) fn times(&self) -> Times {
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
        let (epoch, batches) = (self.progress.epoch, self.lesson.batches_per_epoch());
        let mut data = self.lesson.epoch(epoch as u64, self.progress.batch);
        while let Some(given) = timed(&mut self.times.data, || data.present(&mut self.plan)) {
            let inputs = given?;
            let at = self.scheduled();
            self.rate = self.schedule.at(at);
            self.plan.input("lr").fill(self.rate);
            self.set_counters();
            timed(&mut self.times.steps, || self.plan.run(&mut self.pool));
            self.times.count += 1;
            let loss = f64::from(self.plan.output("loss")[0]);
            if !loss.is_finite() {
                bail!(
                    "the loss became {loss} in epoch {} at step {}: try a smaller --lr",
                    epoch + 1,
                    self.progress.batch + 1
                );
            }
            self.progress.loss_sum += loss;
            if let Some(right) = data.right(&self.plan) {
                self.progress.seen += inputs;
                self.progress.right += right;
            }
            self.progress.batch += 1;
            self.progress.step += 1;
            let Progress { batch, step, loss_sum, .. } = self.progress;
            let mean = loss_sum / batch as f64;
            observers.tell(Event::Step { epoch, batch, batches, loss: mean, step, step_loss: loss })?;
            if self.time_is_up() {
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
            self.plan.input_i32("rng").copy_from_slice(&[self.pace.seed as i32, step as i32]);
        }
        if self.plan.has_input("ema_decay") {
            self.plan.input("ema_decay").fill(ema_decay(self.pace.ema, step));
        }
    }

    fn validate(&mut self, observers: &mut Observers<'_>) -> anyhow::Result<()> {
        let start = Instant::now();
        let weights = best::model_states(self.lesson.network(), &self.states());
        let validated = self.lesson.validate(&weights)?;
        let Progress { right, seen, batch, loss_sum, epoch, .. } = self.progress;
        let row = Epoch {
            epoch: epoch + 1,
            train_loss: loss_sum / batch.max(1) as f64,
            train_accuracy: (seen > 0).then(|| right as f64 / seen as f64),
            lr: f64::from(self.rate),
            val: validated.metrics.clone(),
        };
        let is_best = self.is_best(&row);
        if is_best {
            self.progress.best = Some((row.val[self.lesson.metric()], row.epoch));
            let package = self.lesson.package(&weights, validated)?;
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

    fn is_best(&self, row: &Epoch) -> bool {
        let history = &self.progress.history;
        let Some((_, epoch)) = self.progress.best else { return true };
        self.lesson.is_better(history, &history[epoch - 1], row)
    }

    fn stop_reason(&self) -> Option<Stopped> {
        let (best, epoch) = self.progress.best?;
        if self.pace.target.is_some_and(|target| best >= target) {
            Some(Stopped::Target)
        } else if self.progress.epoch >= self.pace.epochs {
            Some(Stopped::Epochs)
        } else if self.progress.epoch - epoch >= self.pace.patience {
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

    /// The step for the schedule: where the clock is further than the count, the clock decides, so that a run that is cut
    /// short by `--max-time` still ends with a small learning rate.
    fn scheduled(&self) -> usize {
        let share = |limit: f64| self.started.elapsed().as_secs_f64() / limit.max(1e-9);
        let share = self.pace.max_time_s.map_or(0.0, share);
        self.progress.step.max((self.schedule.steps as f64 * share) as usize)
    }

    fn time_is_up(&self) -> bool {
        self.pace.max_time_s.is_some_and(|limit| self.started.elapsed().as_secs_f64() >= limit)
    }
}

/// Where a run begins that has not begun yet.
pub(crate) fn fresh(settings: String) -> Progress {
    Progress {
        settings,
        epoch: 0,
        batch: 0,
        loss_sum: 0.0,
        seen: 0,
        right: 0,
        step: 0,
        best: None,
        history: Vec::new(),
    }
}

/// Progress and states of the newest whole checkpoint of `folder`, where there is one.
///
/// # Errors
/// One of a run with other settings, whose digest is `settings`; none that is whole.
pub(crate) fn resumed(folder: &RunFolder, settings: &str) -> anyhow::Result<Option<(Progress, Weights)>> {
    let Some((progress, states)) = checkpoint::load(folder.path())? else { return Ok(None) };
    if progress.settings != settings {
        bail!("the checkpoint in {} was made with other settings than its run.toml", folder.path().display());
    }
    Ok(Some((progress, states)))
}

/// What `work` gives; its time is added to `time`.
fn timed<T>(time: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *time += start.elapsed();
    result
}
