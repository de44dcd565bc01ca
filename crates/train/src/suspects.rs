//! Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).
//!
//! A small network learns from all folds of the data but one and judges that one, so every image is judged by a network
//! that never saw it. Where it is surer of another class than it usually is of images labelled with that class, the
//! label is suspicious.

use std::sync::Arc;

use anyhow::Context;
use espalier_graph::random::Random;
use espalier_graph::{Bindings, Graph, Weights};
use espalier_runtime::{Isa, Options as PlanOptions, Pool, lower};
use espalier_tasks::{ClassifyImage, Limits};

use crate::best;
use crate::data::duplicates::Member;
use crate::data::{self, Batches, CACHE_BYTES, Dataset, Images, Level, Loader, Sample, Split, Statistics};
use crate::evaluate::BATCH;
use crate::networks;
use crate::schedule::Schedule;
use crate::settings::{Overrides, Settings};
use crate::step::training_step;
use crate::trainer::step_options;

/// Parts of the data, each judged by a network that learned from the others.
const FOLDS: usize = 4;
/// The network: small, since it has to learn `FOLDS` times.
const NETWORK: (&str, f32) = ("plain6", 0.5);
/// Longest side of its input.
const SIDE_MAX: usize = 64;
/// Multiply-accumulates of all folds together (three for each of the forward pass): some minutes on two cores.
const MACS_MAX: f64 = 1.2e13;
/// Images that a fold's network learns from, all epochs together, where the data is small.
const IMAGES_SEEN: usize = 40_000;
/// Epochs at least and at most.
const EPOCHS: (usize, usize) = (2, 40);

/// An image whose label is probably wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspect {
    /// Which.
    pub member: Member,
    /// What the network takes it for.
    pub guess: usize,
    /// Probability of the guess.
    pub confidence: f32,
    /// Probability of its label.
    pub own: f32,
}

/// Judges every image of every split; the most suspicious come first. `progress` is told the steps done, of how many.
///
/// # Errors
/// An image that cannot be read; fewer than two classes, or fewer images than folds.
pub fn suspects(
    dataset: &Dataset,
    statistics: &Statistics,
    threads: usize,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Vec<Suspect>> {
    let members = members(dataset);
    let labels: Vec<usize> = members.iter().map(|member| member.label).collect();
    let classes = dataset.classes.len();
    let folds = folds(&labels, classes, seed);
    let mut trial = Trial::new(dataset, statistics, members.len(), threads, seed)?;
    let mut probabilities = vec![0.0; members.len() * classes];
    for fold in 0..FOLDS {
        let samples = |held: bool| -> Vec<Sample> {
            let chosen = members.iter().zip(&folds).filter(|(_, f)| (**f == fold) == held);
            chosen.map(|(member, _)| dataset.sample(*member).clone()).collect()
        };
        let weights = trial.learn(&samples(false), fold, progress).context("cross-validation")?;
        let judged = trial.judge(&weights, &samples(true)).context("cross-validation")?;
        let places = folds.iter().enumerate().filter(|(_, f)| **f == fold);
        for ((place, _), row) in places.zip(judged.chunks_exact(classes)) {
            probabilities[place * classes..][..classes].copy_from_slice(row);
        }
    }
    let issues = issues(&probabilities, &labels, classes);
    let suspect = |issue: Issue| {
        let row = &probabilities[issue.index * classes..];
        let member = members[issue.index];
        Suspect { member, guess: issue.guess, confidence: row[issue.guess], own: row[member.label] }
    };
    Ok(issues.into_iter().map(suspect).collect())
}

fn members(dataset: &Dataset) -> Vec<Member> {
    let of_split = |split| {
        let numbered = dataset.split(split).iter().enumerate();
        numbered.map(move |(index, sample)| Member { split, index, label: sample.label })
    };
    Split::ALL.into_iter().flat_map(of_split).collect()
}

/// The fold of each image: every class is spread evenly over them, at random.
fn folds(labels: &[usize], classes: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    Random::new(seed, 0).shuffle(&mut order);
    let mut next: Vec<usize> = (0..classes).collect();
    let mut folds = vec![0; labels.len()];
    for i in order {
        let turn = &mut next[labels[i]];
        folds[i] = *turn % FOLDS;
        *turn += 1;
    }
    folds
}

/// A network that is trained once for each fold.
struct Trial {
    settings: Settings,
    task: ClassifyImage,
    network: Graph,
    step: Graph,
    pool: Pool,
}

impl Trial {
    fn new(
        dataset: &Dataset,
        statistics: &Statistics,
        images: usize,
        threads: usize,
        seed: u64,
    ) -> anyhow::Result<Trial> {
        anyhow::ensure!(images >= 2 * FOLDS, "{images} images are too few to judge labels by the others");
        let (model, width) = NETWORK;
        let imgsz = statistics.image_size().clamp(8, SIDE_MAX);
        let seen = Statistics { images: [images - images / FOLDS, 0, 0], ..statistics.clone() };
        let overrides = Overrides {
            model: Some(model.into()),
            width: Some(width),
            imgsz: Some(imgsz),
            epochs: Some(1),
            augment: Some(Level::Light),
            ema: Some(0.0),
            seed: Some(seed),
            threads: Some(threads),
            ..Overrides::default()
        };
        let mut settings = Settings::resolve(&overrides, &seen, dataset.classes.len(), None)?;
        let network = networks::build(model, &settings.network(dataset.classes.len()))?;
        let macs = 3.0 * networks::cost(&network).macs as f64 * (seen.images[0] * FOLDS) as f64;
        let wanted = IMAGES_SEEN / seen.images[0];
        settings.epochs = wanted.min((MACS_MAX / macs) as usize).clamp(EPOCHS.0, EPOCHS.1);
        let step = training_step(&network, &step_options(&settings), &|_| false)?;
        let (mean, std) = (statistics.mean.clone(), statistics.std.clone());
        let task = ClassifyImage::new([imgsz; 2], mean, std, dataset.classes.clone());
        let pool = Pool::new(threads);
        Ok(Trial { settings, task, network, step, pool })
    }

    fn images(&self, samples: &[Sample]) -> anyhow::Result<Arc<Images>> {
        let threads = self.settings.threads;
        Ok(Arc::new(Images::load(samples, &self.task, &Limits::default(), CACHE_BYTES, threads)?))
    }

    /// The weights that `samples` teach.
    fn learn(
        &mut self,
        samples: &[Sample],
        fold: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> anyhow::Result<Weights> {
        let settings = &self.settings;
        let seed = settings.seed.wrapping_add(fold as u64);
        let weights = networks::initial_weights(&self.step, seed);
        let bindings = Bindings::batch(settings.batch);
        let options = PlanOptions { isa: Isa::best(), threads: settings.threads, bindings };
        let mut plan = lower(&self.step, &weights, options)?;
        let options = data::Options {
            batch: settings.batch,
            size: self.task.input.size,
            seed,
            sampling: settings.sampling,
            augment: settings.augment.clone(),
            smoothing: settings.smoothing,
            threads: 1,
        };
        let loader = Loader::new(self.images(samples)?, options);
        let steps = settings.epochs * loader.batches_per_epoch();
        let schedule = Schedule { shape: settings.schedule, peak: settings.lr, warmup: 0, steps };
        let mut step = 0;
        for epoch in 0..settings.epochs {
            let mut batches = loader.epoch(epoch as u64, 0);
            while let Some(batch) = batches.next_batch() {
                let batch = batch?;
                plan.input("x").copy_from_slice(&batch.images);
                plan.input("target").copy_from_slice(&batch.targets);
                plan.input("lr").fill(schedule.at(step));
                plan.run(&mut self.pool);
                step += 1;
                progress(fold * steps + step, FOLDS * steps);
            }
        }
        Ok(best::model_states(&self.network, &plan.states()))
    }

    /// The probabilities of every class (softmax), for each of `samples`.
    fn judge(&mut self, weights: &Weights, samples: &[Sample]) -> anyhow::Result<Vec<f32>> {
        let mut model = best::model(&self.network, weights, &self.task, self.settings.threads)?;
        let images = self.images(samples)?;
        let classes = self.task.labels.len();
        let mut probabilities = Vec::with_capacity(samples.len() * classes);
        let mut batches = Batches::eval(images, BATCH.min(samples.len()), 1);
        while let Some(batch) = batches.next_batch() {
            let batch = batch?;
            let logits = model.infer(&batch.images, batch.labels.len())?.swap_remove(0);
            for row in logits.chunks_exact(classes) {
                probabilities.extend(self.task.postprocess(row)?.scores);
            }
        }
        Ok(probabilities)
    }
}

/// A label that the out-of-fold probabilities speak against.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Issue {
    index: usize,
    guess: usize,
}

/// The off-diagonal part of the confident joint, by normalised margin: the probability of the label less that of the
/// guess, most negative first. `probabilities` is \[images, classes\].
fn issues(probabilities: &[f32], labels: &[usize], classes: usize) -> Vec<Issue> {
    let thresholds = thresholds(probabilities, labels, classes);
    let row = |i: usize| &probabilities[i * classes..(i + 1) * classes];
    let confident = |index: usize| {
        let above = (0..classes).filter(|&class| row(index)[class] >= thresholds[class]);
        let guess = above.max_by(|&a, &b| row(index)[a].total_cmp(&row(index)[b]))?;
        (guess != labels[index]).then_some(Issue { index, guess })
    };
    let margin = |issue: &Issue| row(issue.index)[labels[issue.index]] - row(issue.index)[issue.guess];
    let mut issues: Vec<Issue> = (0..labels.len()).filter_map(confident).collect();
    issues.sort_by(|a, b| margin(a).total_cmp(&margin(b)).then(a.index.cmp(&b.index)));
    issues
}

/// For each class, how sure the network is on average of the images that are labelled with it.
fn thresholds(probabilities: &[f32], labels: &[usize], classes: usize) -> Vec<f32> {
    let (mut sums, mut counts) = (vec![0.0f64; classes], vec![0usize; classes]);
    for (&label, row) in labels.iter().zip(probabilities.chunks_exact(classes)) {
        sums[label] += f64::from(row[label]);
        counts[label] += 1;
    }
    sums.iter().zip(counts).map(|(sum, n)| (sum / n.max(1) as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_even_in_every_class() {
        let labels: Vec<usize> = (0..103).map(|i| i % 3).collect();
        let folds = folds(&labels, 3, 7);
        for class in 0..3 {
            let in_class =
                |fold| folds.iter().zip(&labels).filter(|&(&f, &label)| f == fold && label == class).count();
            let counts: Vec<usize> = (0..FOLDS).map(in_class).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
        assert_ne!(folds, self::folds(&labels, 3, 8));
    }

    #[test]
    fn confident_learning_by_hand() {
        let check = |probabilities: &[f32], labels: &[usize], expected: &[(usize, usize)]| {
            let found = issues(probabilities, labels, 2);
            let found: Vec<_> = found.iter().map(|issue| (issue.index, issue.guess)).collect();
            assert_eq!(found, expected, "{probabilities:?}");
        };
        let rows = |first: &[f32]| first.iter().flat_map(|&p| [p, 1.0 - p]).collect::<Vec<_>>();
        // Both classes are recognised with 0.6 on average; one image of each is taken for the other with more.
        check(&rows(&[0.9, 0.8, 0.1, 0.2, 0.1, 0.95]), &[0, 0, 0, 1, 1, 1], &[(5, 0), (2, 1)]);
        // The second is taken for class 1, but with less than images of class 1 usually are.
        check(&rows(&[0.9, 0.45, 0.1, 0.1]), &[0, 0, 1, 1], &[]);
        check(&[], &[], &[]);
    }
}
