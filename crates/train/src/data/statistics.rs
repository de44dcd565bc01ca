//! What a dataset looks like, from what is known of each image.

use espalier_tasks::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::duplicates::{exact, leaks};
use super::survey::Facts;
use super::{Dataset, Sample};

/// Classes of train that differ by more than this factor are reported.
const IMBALANCE: f64 = 1.5;

/// At most so many of them are named.
const CLASSES_SHOWN: usize = 10;

/// Up to this side, images are used at their own size.
const SMALL_SIDE: usize = 64;

/// The largest recommended side.
const SIDE_MAX: usize = 224;

/// What a dataset looks like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Number of readable images in train, val and test.
    pub images: [usize; 3],
    /// Number of readable images of each class in train.
    pub per_class: Vec<usize>,
    /// Number of unreadable images in train, val and test.
    pub unreadable: [usize; 3],
    /// Number of images in val and test whose very bytes are in train as well.
    pub leaked: usize,
    /// Widths in pixels.
    pub width: Range,
    /// Heights in pixels.
    pub height: Range,
    /// Whether no image has a colour.
    pub grey: bool,
    /// The mean of each channel over (a sample of) train, or of all where there is no train; values scaled to 0..1.
    pub mean: Vec<f32>,
    /// The standard deviation likewise, at least 1/255.
    pub std: Vec<f32>,
    /// SHA-256 in hexadecimal over splits, class names and contents; paths, names and order of files do not matter.
    pub digest: String,
}

/// The spread of a size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Smallest.
    pub min: usize,
    /// Middle one.
    pub median: usize,
    /// Largest.
    pub max: usize,
}

impl Range {
    fn of(mut values: Vec<usize>) -> Range {
        values.sort_unstable();
        let at = |i: usize| values.get(i).copied().unwrap_or(0);
        Range { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

impl Statistics {
    /// 1 for grey data, 3 for colour.
    pub fn channels(&self) -> usize {
        if self.grey { 1 } else { 3 }
    }

    /// A side that suits the data: the median of the shorter sides; from 64 pixels on a multiple of 32, at most 224.
    pub fn image_size(&self) -> usize {
        let side = self.width.median.min(self.height.median).max(1);
        if side <= SMALL_SIDE { side } else { ((side + 16) / 32 * 32).min(SIDE_MAX) }
    }
}

/// Sums over pixels, in integers so that their order does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pixels: u64,
    sum: [u64; 3],
    squares: [u64; 3],
}

impl Moments {
    pub(super) fn of(image: &Image) -> Moments {
        let mut moments = Moments { pixels: (image.width * image.height) as u64, ..Moments::default() };
        for pixel in image.pixels.chunks_exact(image.channels) {
            for c in 0..3 {
                let value = u64::from(pixel[c % image.channels]);
                moments.sum[c] += value;
                moments.squares[c] += value * value;
            }
        }
        moments
    }

    fn add(mut self, other: &Moments) -> Moments {
        self.pixels += other.pixels;
        (0..3).for_each(|c| self.sum[c] += other.sum[c]);
        (0..3).for_each(|c| self.squares[c] += other.squares[c]);
        self
    }

    /// Mean and standard deviation of a channel, of values scaled to 0..1.
    fn channel(&self, c: usize) -> (f32, f32) {
        let n = self.pixels.max(1) as f64;
        let mean = self.sum[c] as f64 / n;
        let variance = (self.squares[c] as f64 / n - mean * mean).max(0.0);
        ((mean / 255.0) as f32, (variance.sqrt() / 255.0).max(1.0 / 255.0) as f32)
    }
}

impl Dataset {
<<<<<<< HEAD
    /// Reads every image once on `threads` threads. Unreadable ones move to `skipped`; more than one and more than
    /// 1 % of a split is an error, and so is a class of train without any readable image. Images that occur in two
    /// splits become a warning.
    pub fn survey(&mut self, limits: &Limits, threads: usize) -> Result<Statistics, DataError> {
        let measured = if self.split(Split::Train).is_empty() { &Split::ALL[..] } else { &Split::ALL[..1] };
        let surveyed =
            Split::ALL.map(|split| survey(self.split(split), limits, threads, measured.contains(&split)));
        let unreadable =
            surveyed.each_ref().map(|results| results.iter().filter(|result| result.is_err()).count());
        for (split, results) in Split::ALL.into_iter().zip(&surveyed) {
            check_unreadable(split, results)?;
        }
        let facts = self.keep_readable(surveyed);
        let leaked = self.find_leaks(&facts);
        *self = std::mem::take(self).checked()?;
        self.warn_of_imbalance();
        Ok(self.statistics(&facts, unreadable, leaked))
    }

    /// Drops the unreadable samples, so that samples and facts go together.
    fn keep_readable(&mut self, surveyed: [Surveyed; 3]) -> [Vec<Facts>; 3] {
        let mut kept = [const { Vec::new() }; 3];
        for (i, results) in surveyed.into_iter().enumerate() {
            let samples = std::mem::take(&mut self.splits[i]);
            for (sample, result) in samples.into_iter().zip(results) {
                match result {
                    Ok(facts) => {
                        self.splits[i].push(sample);
                        kept[i].push(facts);
                    }
                    Err(error) => self.skipped.push(skipped(&sample, &error)),
                }
            }
        }
        kept
    }

    /// Counts the images of val and test that train has too, and warns.
    fn find_leaks(&mut self, facts: &[Vec<Facts>; 3]) -> usize {
        let train: HashMap<_, _> = facts[0].iter().map(|f| f.digest).zip(0..).collect();
        let mut leaked = 0;
        for split in [Split::Val, Split::Test] {
            let facts = &facts[split as usize];
            let twins: Vec<(usize, usize)> =
                facts.iter().enumerate().filter_map(|(i, f)| Some((i, *train.get(&f.digest)?))).collect();
            leaked += twins.len();
            if let Some(&(i, j)) = twins.first() {
                let (one, other) = (self.split(split)[i].name(), self.split(Split::Train)[j].name());
                self.warn(format!(
                    "{} images of {split} are in train as well, such as {one} = {other}",
                    twins.len()
                ));
            }
        }
        leaked
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

    fn statistics(&self, facts: &[Vec<Facts>; 3], unreadable: [usize; 3], leaked: usize) -> Statistics {
=======
    pub(super) fn statistics(&self, facts: &[Vec<Facts>; 3], unreadable: [usize; 3]) -> Statistics {
>>>>>>> e217f54 (espalier data: copies, leaks, conflicts and suspicious labels; readers hardened)
        let all = || facts.iter().flatten();
        let grey = all().all(|f| f.grey);
        let moments = all().filter_map(|f| f.moments.as_deref()).fold(Moments::default(), Moments::add);
        let (mean, std) = (0..if grey { 1 } else { 3 }).map(|c| moments.channel(c)).unzip();
        Statistics {
            images: facts.each_ref().map(Vec::len),
            per_class: self.counts(Split::Train),
            unreadable,
            leaked: leaks(&exact(facts)).iter().sum(),
            width: Range::of(all().map(|f| f.width).collect()),
            height: Range::of(all().map(|f| f.height).collect()),
            grey,
            mean,
            std,
            digest: self.digest(facts),
        }
    }

    fn digest(&self, facts: &[Vec<Facts>; 3]) -> String {
        let mut items: Vec<(usize, &str, [u8; 32])> = Vec::new();
        for (split, facts) in facts.iter().enumerate() {
            let class = |sample: &Sample| self.classes[sample.label].as_str();
            items.extend(self.splits[split].iter().zip(facts).map(|(s, f)| (split, class(s), f.digest)));
        }
        items.sort_unstable();
        let mut hash = Sha256::new();
        for (split, class, digest) in items {
            hash.update([split as u8]);
            hash.update((class.len() as u64).to_le_bytes());
            hash.update(class);
            hash.update(digest);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

