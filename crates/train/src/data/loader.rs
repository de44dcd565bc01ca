//! Batches, made ahead of the step by background threads.
//!
//! What a batch holds depends on nothing but (seed, epoch, its number): not on threads, nor on the batches before it. So
//! a resumed run continues in the middle of an epoch.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use espalier_graph::random::{Random, bits};
use espalier_tasks::{ClassifyImage, Image};
use serde::{Deserialize, Serialize};

use super::augment::mixup;
use super::{Augment, DataError, Images};

/// Streams of the seed: which order, what happens to each image, and which are mixed.
const ORDER: u64 = 1;
const AUGMENT: u64 = 2;
const MIXUP: u64 = 3;

/// Batches that each thread may be ahead.
const AHEAD: usize = 2;

/// Which images make an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once.
    #[default]
    Uniform,
    /// As many as there are, drawn with replacement so that all classes are equally likely: each image with the inverse
    /// of its class's count.
    Balanced,
}

/// How training batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Images a batch.
    pub batch: usize,
    /// Height and width of the network's input; [`Images`] may be larger.
    pub size: [usize; 2],
    /// Of order and augmentation.
    pub seed: u64,
    /// Which images make an epoch.
    pub sampling: Sampling,
    /// What may happen to an image.
    pub augment: Augment,
    /// Label smoothing, 0..1.
    pub smoothing: f32,
    /// Background threads, at least 1.
    pub threads: usize,
}

/// Some images with their targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Its number in the epoch.
    pub number: usize,
    /// Which images, as indices into [`Images`].
    pub indices: Vec<usize>,
    /// The true classes, those before mixup.
    pub labels: Vec<usize>,
    /// Input tensors, \[batch, channels, height, width\].
    pub images: Vec<f32>,
    /// Soft targets, \[batch, classes\].
    pub targets: Vec<f32>,
    /// One image between augmentation and normalisation.
    scratch: Vec<u8>,
}

/// Makes the batches of any epoch.
#[derive(Clone, Debug)]
pub struct Loader {
    images: Arc<Images>,
    options: Options,
}

impl Loader {
    /// Of the images of train. Panics where there are none, or the batch is 0.
    pub fn new(images: Arc<Images>, options: Options) -> Loader {
        assert!(!images.is_empty() && options.batch > 0, "there are images and batches to make");
        Loader { images, options }
    }

    /// Batches an epoch. What does not fill the last one is left out in this epoch (another order, another rest),
    /// unless there is less than one batch in all.
    pub fn batches_per_epoch(&self) -> usize {
        (self.images.len() / self.options.batch).max(1)
    }

    /// The batches of an epoch, shuffled and augmented, from number `first` on.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches {
        Batches::start(self.plan(epoch), first..self.batches_per_epoch(), self.options.threads)
    }

    /// The first `count` images that the network learns from, as it sees them (fewer where an epoch has fewer): to be
    /// looked at.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn preview(&self, count: usize) -> Result<Vec<Image>, DataError> {
        let (plan, mut batch, mut images) = (self.plan(0), Batch::default(), Vec::new());
        let size = plan.task.input.shape().iter().product();
        for number in 0..count.div_ceil(self.options.batch).min(self.batches_per_epoch()) {
            plan.fill(number, &mut batch)?;
            images.extend(batch.images.chunks_exact(size).map(|input| plan.task.input.denormalize(input)));
        }
        images.truncate(count);
        Ok(images)
    }

    fn plan(&self, epoch: u64) -> Plan {
        let options = &self.options;
        let seeds = [AUGMENT, MIXUP].map(|stream| bits(options.seed, stream, epoch));
        Plan {
            images: self.images.clone(),
            task: self.images.task().with_size(options.size),
            order: self.order(Random::new(bits(options.seed, ORDER, epoch), 0)),
            batch: options.batch,
            augment: Some((options.augment.clone(), seeds)),
            smoothing: options.smoothing,
        }
    }

    fn order(&self, mut random: Random) -> Vec<usize> {
        let all = 0..self.images.len();
        match self.options.sampling {
            Sampling::Uniform => {
                let mut order: Vec<usize> = all.collect();
                random.shuffle(&mut order);
                order
            }
            Sampling::Balanced => {
                let mut classes = vec![Vec::new(); self.images.task().labels.len()];
                all.clone().for_each(|index| classes[self.images.samples()[index].label].push(index));
                classes.retain(|members| !members.is_empty());
                let mut draw = |_| {
                    let members = &classes[random.below(classes.len())];
                    members[random.below(members.len())]
                };
                all.map(&mut draw).collect()
            }
        }
    }
}

/// What the threads need to know to make any batch of an epoch.
struct Plan {
    images: Arc<Images>,
    /// At the size of the network's input.
    task: ClassifyImage,
    order: Vec<usize>,
    batch: usize,
    /// With the epoch's seeds of augmentation and of mixup.
    augment: Option<(Augment, [u64; 2])>,
    smoothing: f32,
}

impl Plan {
    fn fill(&self, number: usize, batch: &mut Batch) -> Result<(), DataError> {
        let (size, classes) = (self.task.input.shape().iter().product(), self.task.labels.len());
        let start = number * self.batch;
        let end = (start + self.batch).min(self.order.len());
        batch.number = number;
        batch.indices.clear();
        batch.indices.extend_from_slice(&self.order[start..end]);
        batch.labels.clear();
        batch.labels.extend(batch.indices.iter().map(|&index| self.images.samples()[index].label));
        batch.images.resize((end - start) * size, 0.0);
        batch.targets.resize((end - start) * classes, 0.0);
        batch.scratch.resize(size, 0);
        for (i, image) in batch.images.chunks_exact_mut(size).enumerate() {
            self.image(start + i, &mut batch.scratch, image)?;
        }
        for (&label, target) in batch.labels.iter().zip(batch.targets.chunks_exact_mut(classes)) {
            self.task.target(label, self.smoothing, target)?;
        }
        if let Some((augment, [_, seed])) = &self.augment {
            let mut random = Random::new(*seed, number as u64);
            mixup(augment.mixup, &mut batch.images, size, &mut batch.targets, classes, &mut random);
        }
        Ok(())
    }

    /// The image at a position of the epoch, augmented by the stream of that position.
    fn image(&self, position: usize, scratch: &mut [u8], out: &mut [f32]) -> Result<(), DataError> {
        let pixels = self.images.pixels(self.order[position])?;
        let Some((augment, [seed, _])) = &self.augment else {
            return Ok(self.task.input.normalize(&pixels, out)?);
        };
        let from = self.images.task().input.shape();
        augment.apply(&pixels, from, self.task.input.size, *seed, position as u64, scratch);
        Ok(self.task.input.normalize(scratch, out)?)
    }
}

/// A thread, the batches it has made, and the way back for used ones.
struct Worker {
    made: Receiver<Result<Batch, DataError>>,
    used: Sender<Batch>,
    thread: JoinHandle<()>,
}

/// The batches of an epoch in order. Dropping it early stops and joins its threads.
pub struct Batches {
    workers: Vec<Worker>,
    next: usize,
    first: usize,
    end: usize,
    current: Option<Batch>,
}

impl Batches {
    /// All images in order, none left out, nothing augmented, targets not smoothed: for validation.
    pub fn eval(images: Arc<Images>, batch: usize, threads: usize) -> Batches {
        assert!(batch > 0, "a batch has images");
        let count = images.len().div_ceil(batch);
        let (task, order) = (images.task().clone(), (0..images.len()).collect());
        Batches::start(Plan { images, task, order, batch, augment: None, smoothing: 0.0 }, 0..count, threads)
    }

    fn start(plan: Plan, numbers: std::ops::Range<usize>, threads: usize) -> Batches {
        let plan = Arc::new(plan);
        let threads = threads.clamp(1, numbers.len().max(1));
        let worker = |i: usize| start_worker(plan.clone(), numbers.clone().skip(i).step_by(threads));
        let workers = (0..threads).map(worker).collect();
        Batches { workers, next: numbers.start, first: numbers.start, end: numbers.end, current: None }
    }

    /// The next batch, valid until the next call; its buffers are used again. After an error there is none.
    pub fn next_batch(&mut self) -> Option<Result<&Batch, DataError>> {
        if self.next >= self.end {
            return None;
        }
        self.give_back();
        let worker = &self.workers[(self.next - self.first) % self.workers.len()];
        let made = worker.made.recv().unwrap_or(Err(DataError::Worker));
        self.next += 1;
        match made {
            Ok(batch) => Some(Ok(self.current.insert(batch))),
            Err(error) => {
                self.next = self.end;
                Some(Err(error))
            }
        }
    }

    /// Number of batches still to come.
    pub fn remaining(&self) -> usize {
        self.end.saturating_sub(self.next)
    }

    /// Returns the current batch's buffers to the thread that made it.
    fn give_back(&mut self) {
        if let Some(batch) = self.current.take() {
            let worker = &self.workers[(batch.number - self.first) % self.workers.len()];
            // A thread that has made its last batch takes none back.
            let _ = worker.used.send(batch);
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        for Worker { made, used, thread } in self.workers.drain(..) {
            // A thread waiting to hand over a batch wakes up when nobody can take it.
            drop((made, used));
            let _ = thread.join();
        }
    }
}

fn start_worker(plan: Arc<Plan>, numbers: impl Iterator<Item = usize> + Send + 'static) -> Worker {
    let (send, made) = sync_channel(AHEAD);
    let (used, take_back) = channel();
    let thread = std::thread::spawn(move || work(&plan, numbers, &send, &take_back));
    Worker { made, used, thread }
}

/// Makes batches until all are made or nobody wants them any more.
fn work(
    plan: &Plan,
    numbers: impl Iterator<Item = usize>,
    send: &SyncSender<Result<Batch, DataError>>,
    take_back: &Receiver<Batch>,
) {
    for number in numbers {
        let mut batch = take_back.try_recv().unwrap_or_default();
        let made = plan.fill(number, &mut batch).map(|()| batch);
        let failed = made.is_err();
        if send.send(made).is_err() || failed {
            return;
        }
    }
}
