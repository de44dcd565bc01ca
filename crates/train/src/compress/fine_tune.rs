//! Fine-tuning: what a network lost by being changed, it learns again from the labels and from the network that it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use espalier_graph::{Bindings, Graph, Op, Weights};
use espalier_passes::Optimizer;
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_tasks::classification::softmax;
use espalier_tasks::{ClassifyImage, Limits, Task};

use super::{Event, Request, STOPPED};
use crate::data::{self, Batch, CACHE_BYTES, Dataset, Images, Loader, Split, Statistics};
use crate::imported::with_our_names;
use crate::networks::initial_weights;
use crate::rules::clip_for;
use crate::schedule::{Schedule, Shape};
use crate::settings::{Overrides, Settings};
use crate::step::{StepOptions, gradient_name, gradient_step, training_step};

/// How much of a target is the teacher's answer; the rest is the label.
const TEACHER: f32 = 0.5;
/// Steps in which the rate rises, as a share of a lesson.
const WARMUP: f64 = 0.05;

/// Data, teacher and settings of all fine-tuning of one compression.
///
/// The teacher is the network that is compressed. A target is half the label, half the teacher's probabilities for the
/// same augmented picture (Hinton et al. 2015, at temperature 1).
pub(super) struct Tutor {
    settings: Settings,
    loader: Loader,
    teacher: Plan,
    pool: Pool,
    stop: Arc<AtomicBool>,
}

/// Of the loss for each weight, by the weight's name.
pub(super) type Gradients = BTreeMap<String, Vec<f32>>;

/// One fine-tuning.
pub(super) struct Lesson<'l> {
    /// What it is called on the screen.
    pub(super) what: &'l str,
    /// A float classifier.
    pub(super) network: &'l Graph,
    /// Its states.
    pub(super) weights: &'l Weights,
    /// How often all of train is seen; may be a fraction.
    pub(super) epochs: f64,
    /// The highest learning rate, in units of what training takes for these data.
    pub(super) rate: f32,
    /// Where the epochs take longer, the schedule follows the clock.
    pub(super) max_time: Option<Duration>,
    /// Called after every step with the share of the lesson that is done.
    pub(super) after_step: &'l mut dyn FnMut(f64, &mut Plan),
}

impl Tutor {
    /// A tutor for `request`, whose network is `graph` with `weights`, batch normalisation folded.
    ///
    /// # Errors
    /// A task that is not learned from labelled images; data that cannot be read.
    pub(super) fn new(request: &Request, graph: &Graph, weights: &Weights) -> anyhow::Result<Tutor> {
        let Task::ClassifyImage(task) = &request.task else {
            bail!(
                "fine-tuning learns to tell images apart; a network for the task {} is quantized, and is neither pruned nor \
                 trained",
                request.task.kind()
            );
        };
        let mut dataset = Dataset::open(&request.data)?;
        let statistics = dataset.survey(&Limits::default(), request.threads)?;
        dataset.match_labels(&task.labels)?;
        let settings = settings(request, task, &statistics)?;
        let [height, width] = task.input.size;
        let stored = match height == width {
            true => task.with_size([settings.augment.stored_side(height, &statistics); 2]),
            false => task.clone(),
        };
        let samples = dataset.split(Split::Train);
        let images = Images::load(samples, &stored, &Limits::default(), CACHE_BYTES, request.threads)?;
        let options = data::Options {
            batch: settings.batch,
            size: task.input.size,
            seed: settings.seed,
            sampling: settings.sampling,
            augment: settings.augment.clone(),
            smoothing: 0.0,
            threads: 1,
        };
        let loader = Loader::new(Arc::new(images), options);
        let teacher = lower(&named(graph)?, weights, plan_options(&settings))?;
        Ok(Tutor { loader, teacher, pool: Pool::new(settings.threads), settings, stop: request.stop.clone() })
    }

    /// Whether `network` can be trained.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check(&self, network: &Graph) -> anyhow::Result<()> {
        let network = named(network)?;
        training_step(&network, &self.step_options(&network), &|_| false)?;
        Ok(())
    }

    /// Trains, and gives the states that the network then has.
    ///
    /// # Errors
    /// A network that cannot be trained; a loss that is not finite; an image that cannot be read.
    pub(super) fn teach(
        &mut self,
        lesson: Lesson<'_>,
        notify: &mut dyn FnMut(Event),
    ) -> anyhow::Result<Weights> {
        let network = named(lesson.network)?;
        let step = training_step(&network, &self.step_options(&network), &|_| false)?;
        // Those of the optimizer begin as in training.
        let mut states = initial_weights(&step, self.settings.seed);
        states.extend(lesson.weights.clone());
        let mut plan = lower(&step, &states, plan_options(&self.settings))?;
        let batches = self.loader.batches_per_epoch();
        let steps = ((lesson.epochs * batches as f64).round() as usize).max(1);
        let schedule = Schedule {
            shape: Shape::Cosine,
            peak: self.settings.lr * lesson.rate,
            warmup: (steps as f64 * WARMUP).ceil() as usize,
            steps,
        };
        notify(Event::Began { what: lesson.what.into(), unit: "steps", length: steps });
        let (start, mut at) = (Instant::now(), 0);
        for epoch in 0.. {
            let mut data = self.loader.epoch(epoch, 0);
            while let Some(batch) = data.next_batch() {
                let batch = batch?;
                plan.input("lr").fill(schedule.at(at));
                self.step(&mut plan, batch, lesson.what)?;
                at = clocked(at + 1, steps, start, lesson.max_time);
                (lesson.after_step)(at as f64 / steps as f64, &mut plan);
                notify(Event::Done(at));
                if at == steps {
                    states.extend(plan.states());
                    states.retain(|name, _| lesson.weights.contains_key(name));
                    return Ok(states);
                }
            }
        }
        unreachable!("epochs have no end")
    }

    fn step(&mut self, plan: &mut Plan, batch: &Batch, what: &str) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!(STOPPED);
        }
        self.present(plan, batch);
        plan.run(&mut self.pool);
        let loss = plan.output("loss")[0];
        if !loss.is_finite() {
            bail!("{what}: the loss became {loss} at step {}", batch.number + 1);
        }
        Ok(())
    }

    /// Gives `plan` the pictures, and targets of labels and teacher.
    fn present(&mut self, plan: &mut Plan, batch: &Batch) {
        self.teacher.input("x").copy_from_slice(&batch.images);
        self.teacher.run(&mut self.pool);
        plan.input("x").copy_from_slice(&batch.images);
        let (target, logits) = (plan.input("target"), self.teacher.output("logits"));
        target.copy_from_slice(logits);
        let classes = target.len() / batch.labels.len();
        for (row, labels) in target.chunks_exact_mut(classes).zip(batch.targets.chunks_exact(classes)) {
            row.copy_from_slice(&softmax(row));
            row.iter_mut().zip(labels).for_each(|(t, label)| *t = TEACHER * *t + (1.0 - TEACHER) * label);
        }
    }

    /// The gradients of the loss for all weights of `network`, by name, for the first `batches` batches of an epoch.
    ///
    /// # Errors
    /// As [`Tutor::teach`].
    pub(super) fn gradients(
        &mut self,
        network: &Graph,
        weights: &Weights,
        batches: usize,
        each: &mut dyn FnMut(&Gradients),
    ) -> anyhow::Result<()> {
        let graph = gradient_step(&named(network)?)?;
        let mut plan = lower(&graph, weights, plan_options(&self.settings))?;
        let names = weights.keys().filter(|name| graph.output(&gradient_name(name)).is_some());
        let names: Vec<&String> = names.collect();
        let mut data = self.loader.epoch(0, 0);
        for _ in 0..batches.min(self.loader.batches_per_epoch()) {
            let Some(batch) = data.next_batch() else { break };
            self.step(&mut plan, batch?, "gradients")?;
            let read = |name: &&String| ((*name).clone(), plan.output(&gradient_name(name)).to_vec());
            each(&names.iter().map(read).collect());
        }
        Ok(())
    }

    fn step_options(&self, network: &Graph) -> StepOptions {
        let is_normalised = network.nodes().iter().any(|node| {
            matches!(node.op, Op::BatchNorm { .. } | Op::BatchNormTraining { .. } | Op::LayerNorm { .. })
        });
        let clip_norm = clip_for(is_normalised);
        StepOptions {
            optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true },
            weight_decay: self.settings.weight_decay,
            clip_norm: (clip_norm > 0.0).then_some(clip_norm),
            ema: false,
        }
    }
}

/// What training takes for these data, at the network's size and with its normalisation.
fn settings(request: &Request, task: &ClassifyImage, statistics: &Statistics) -> anyhow::Result<Settings> {
    let input = &task.input;
    let given = Overrides {
        imgsz: Some(input.size[0].clamp(8, 1024)),
        channels: Some(input.channels),
        mean: Some(input.mean.clone()),
        std: Some(input.std.clone()),
        seed: Some(request.settings.seed),
        threads: Some(request.threads),
        ..Overrides::default()
    };
    Ok(Settings::resolve(&given, statistics, task.labels.len(), None)?)
}

fn plan_options(settings: &Settings) -> Options {
    Options { isa: Isa::best(), threads: settings.threads, bindings: Bindings::batch(settings.batch) }
}

/// The network with input `x` and output `logits`; states keep their names.
fn named(graph: &Graph) -> anyhow::Result<Graph> {
    let (_, logits) = graph.outputs().first().context("the network has no output")?;
    Ok(with_our_names(graph, *logits)?)
}

/// The step after which a lesson of `steps` goes on: `done` steps, or as many as the clock says.
fn clocked(done: usize, steps: usize, start: Instant, max_time: Option<Duration>) -> usize {
    let share = max_time.map_or(0.0, |time| start.elapsed().as_secs_f64() / time.as_secs_f64().max(1e-9));
    done.max((steps as f64 * share) as usize).min(steps)
}
