//! What a dataset looks like, from what is known of each image.

use espalier_tasks::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::duplicates::{exact, leaks};
use super::survey::Facts;
use super::{Dataset, Sample, Split};

use crate::digest;

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
    pub(super) fn statistics(&self, facts: &[Vec<Facts>; 3], unreadable: [usize; 3]) -> Statistics {
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
        digest::finish(hash)
    }
}
