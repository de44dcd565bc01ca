//! Reading every image once: what is unreadable is set aside, the rest is measured.

use std::sync::atomic::{AtomicUsize, Ordering};

use espalier_tasks::Limits;
use sha2::{Digest, Sha256};

use super::duplicates::{self, Group, exact};
use super::fingerprint::Fingerprint;
use super::statistics::{Moments, Statistics};
use super::{DataError, Dataset, Sample, Skipped, Split, parallel};

/// Mean and deviation are taken over at most this many images, evenly spaced over train.
const SAMPLE_MAX: usize = 2048;

/// Classes that differ in size by more than this factor are reported.
pub const IMBALANCE: f64 = 1.5;

/// At most so many of them are named.
const CLASSES_SHOWN: usize = 10;

/// What is known of a dataset after every image was read.
#[derive(Debug)]
pub struct Survey {
    /// Figures of the whole.
    pub statistics: Statistics,
    /// Of each split, one for each sample that is left.
    facts: [Vec<Facts>; 3],
}

/// What is remembered of one readable image.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) grey: bool,
    pub(super) label: usize,
    pub(super) digest: [u8; 32],
    pub(super) moments: Option<Box<Moments>>,
    pub(super) fingerprint: Option<Box<Fingerprint>>,
}

/// How a survey is made.
pub struct Options<'a> {
    /// Of each image.
    pub limits: Limits,
    /// Threads that read.
    pub threads: usize,
    /// Whether near-duplicates will be looked for.
    pub fingerprints: bool,
    /// Is told how many images are done.
    pub progress: &'a (dyn Fn(usize) + Sync),
}

impl Dataset {
    /// Reads every image once on `threads` threads and gives the figures. Unreadable ones move to `skipped`; more than
    /// 1 % of a split is an error, and so is a class of train without any readable image. Copies of an image in two
    /// splits, or under two labels, become warnings.
    pub fn survey(&mut self, limits: &Limits, threads: usize) -> Result<Statistics, DataError> {
        let options = Options { limits: *limits, threads, fingerprints: false, progress: &|_| {} };
        let Survey { statistics, facts } = self.examine(&options);
        Split::ALL.into_iter().try_for_each(|split| self.check_readable(split, &statistics))?;
        let copies = exact(&facts);
        self.warn_of_leaks(&copies);
        self.warn_of_conflicts(&copies);
        *self = std::mem::take(self).checked()?;
        self.warn_of_imbalance();
        Ok(statistics)
    }

    /// Reads every image once. Unreadable ones move to `skipped`, however many they are.
    pub fn examine(&mut self, options: &Options<'_>) -> Survey {
        let measured = if self.split(Split::Train).is_empty() { &Split::ALL[..] } else { &Split::ALL[..1] };
        let done = AtomicUsize::new(0);
        let mut read = |split| {
            let samples = std::mem::take(&mut self.splits[split as usize]);
            let results = examine_all(&samples, measured.contains(&split), options, &done);
            self.keep_readable(split, samples, results)
        };
        let facts = Split::ALL.map(&mut read);
        let unreadable = Split::ALL.map(|split| self.unreadable(split).count());
        Survey { statistics: self.statistics(&facts, unreadable), facts }
    }

    /// Puts back the samples that could be read.
    fn keep_readable(
        &mut self,
        split: Split,
        samples: Vec<Sample>,
        results: Vec<Result<Facts, DataError>>,
    ) -> Vec<Facts> {
        let mut kept = Vec::with_capacity(samples.len());
        for (sample, result) in samples.into_iter().zip(results) {
            match result {
                Ok(facts) => {
                    self.splits[split as usize].push(sample);
                    kept.push(facts);
                }
                Err(error) => self.skipped.push(skipped(&sample, split, error)),
            }
        }
        kept
    }

    /// The images of a split that could not be read.
    pub fn unreadable(&self, split: Split) -> impl Iterator<Item = &Skipped> {
        self.skipped.iter().filter(move |skipped| skipped.split == Some(split))
    }

    fn check_readable(&self, split: Split, statistics: &Statistics) -> Result<(), DataError> {
        let all = statistics.unreadable[split as usize] + statistics.images[split as usize];
        check_readable(split, all, &self.unreadable(split).collect::<Vec<_>>())
    }

    fn warn_of_leaks(&mut self, copies: &[Group]) {
        let leaks = duplicates::leaks(copies);
        for split in [Split::Val, Split::Test] {
            let in_split = |group: &&Group| group.is_leak_of(split);
            if let Some(group) = copies.iter().find(in_split) {
                let name = |split| self.sample(group.first_in(split).expect("the group is in both")).name();
                let (one, other) = (name(split), name(Split::Train));
                let n = leaks[split as usize];
                self.warn(format!("{n} images of {split} are in train as well, such as {one} = {other}"));
            }
        }
    }

    fn warn_of_conflicts(&mut self, copies: &[Group]) {
        let conflicts: Vec<&Group> = copies.iter().filter(|group| group.is_conflict()).collect();
        let Some(group) = conflicts.first() else { return };
        let one = group.members[0];
        let other = group.members.iter().find(|m| m.label != one.label).expect("it is a conflict");
        let text = |member| {
            let sample = self.sample(member);
            format!("{} ({})", sample.name(), self.classes[sample.label])
        };
        let (n, one, other) = (conflicts.len(), text(one), text(*other));
        self.warn(format!("{n} images have several labels, such as {one} = {other}"));
    }

    /// Says how many images each class of train has, where they differ much.
    fn warn_of_imbalance(&mut self) {
        let counts = self.counts(Split::Train);
        let extremes = counts.iter().max().zip(counts.iter().min());
        if extremes.is_some_and(|(&most, &least)| most as f64 > IMBALANCE * least as f64) {
            let mut classes: Vec<(usize, &String)> = counts.into_iter().zip(&self.classes).collect();
            classes.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
            let figures: Vec<String> =
                classes.iter().map(|(count, class)| format!("{class} {count}")).collect();
            let figures = match &figures[..] {
                [first @ .., last] if first.len() >= CLASSES_SHOWN => {
                    format!("{}, .. {last}", first[..CLASSES_SHOWN - 1].join(", "))
                }
                all => all.join(", "),
            };
            self.warn(format!(
                "classes of train differ in size: {figures}; --sampling balanced draws them equally often"
            ));
        }
    }
}

impl Survey {
    /// Images that are one and the same, byte by byte or nearly so; see [`duplicates`].
    pub fn duplicates(&self, threads: usize) -> Vec<Group> {
        duplicates::all(&self.facts, threads)
    }

    /// Number of images without any colour.
    pub fn grey_images(&self) -> usize {
        self.facts.iter().flatten().filter(|facts| facts.grey).count()
    }

    /// Width and height of every image.
    pub fn sizes(&self) -> impl Iterator<Item = (usize, usize)> {
        self.facts.iter().flatten().map(|facts| (facts.width, facts.height))
    }
}

fn examine_all(
    samples: &[Sample],
    measured: bool,
    options: &Options<'_>,
    done: &AtomicUsize,
) -> Vec<Result<Facts, DataError>> {
    let stride = samples.len().div_ceil(SAMPLE_MAX).max(1);
    let numbered: Vec<(usize, &Sample)> = samples.iter().enumerate().collect();
    parallel::map(options.threads, &numbered, |(i, sample)| {
        let facts = examine(sample, options, measured && i % stride == 0);
        (options.progress)(done.fetch_add(1, Ordering::Relaxed) + 1);
        facts
    })
}

fn examine(sample: &Sample, options: &Options<'_>, measure: bool) -> Result<Facts, DataError> {
    let content = sample.source.content(&options.limits)?;
    let digest = Sha256::digest(&content).into();
    let image = sample.source.decode(content, &options.limits)?;
    Ok(Facts {
        width: image.width,
        height: image.height,
        grey: image.is_grey(),
        label: sample.label,
        digest,
        moments: measure.then(|| Box::new(Moments::of(&image))),
        fingerprint: options.fingerprints.then(|| Fingerprint::of(&image)).flatten().map(Box::new),
    })
}

fn skipped(sample: &Sample, split: Split, error: DataError) -> Skipped {
    Skipped { name: sample.name(), split: Some(split), reason: error.reason() }
}

/// Refuses a split of `n` images of which more than 1 % are unreadable.
pub(super) fn check_readable(split: Split, n: usize, unreadable: &[&Skipped]) -> Result<(), DataError> {
    let bad = unreadable.len();
    if bad * 100 <= n {
        return Ok(());
    }
    let first = unreadable.iter().take(3).map(|s| format!("{}: {}", s.name, s.reason));
    Err(DataError::Unreadable { split, bad, n, first: first.collect::<Vec<_>>().join("; ") })
}
