//! Augmentation: the same picture, as the camera might have seen it a moment later. docs/augmentation.md is for users.
//!
//! One idea a file. All but mixup go from u8 to u8 in fixed-point arithmetic, so that (seed, position) gives the same
//! pixels on every machine; each idea draws from a stream of its own, so that one setting does not change what another
//! one does.

mod colour;
mod erase;
mod geometric;
mod mixup;
#[cfg(test)]
mod tests;

use espalier_graph::random::{Random, bits};
use serde::{Deserialize, Serialize};

use super::Statistics;

pub use colour::Jitter;
pub use geometric::{Edge, Geometric};
pub(super) use mixup::mixup;

/// Up to this side, pictures count as small: shifted rather than cropped.
const SMALL_SIDE: usize = 64;

/// What may happen to a training picture. Everything zero or false leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// The set that the values below come from.
    pub level: Level,
    /// Probability that a rectangle is erased.
    pub erase: f32,
    /// Mixup's alpha, at most 1: how evenly two pictures of a batch are mixed.
    pub mixup: f32,
    /// Where the camera stood.
    pub geometric: Geometric,
    /// How the light fell.
    pub colour: Jitter,
}

/// How much is done, as on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    None,
    /// What nearly every data set gains from.
    #[default]
    Light,
    /// For long training on little data.
    Strong,
}

/// The streams of a position's random numbers.
const GEOMETRIC: u64 = 0;
const COLOUR: u64 = 1;
const ERASE: u64 = 2;

impl Augment {
    /// What `level` means for data like this at `side` pixels: one set for natural photographs, another for small grey
    /// pictures such as digits and drawings. Only colour pictures are ever mirrored.
    pub fn for_data(level: Level, statistics: &Statistics, side: usize) -> Augment {
        let strong = match level {
            Level::None => return Augment { level, ..Augment::default() },
            Level::Light => false,
            Level::Strong => true,
        };
        let (geometric, colour) = if statistics.grey && side <= SMALL_SIDE {
            (Geometric::of_drawings(side, strong), Jitter::default().grey(if strong { 0.2 } else { 0.0 }))
        } else {
            let geometric = Geometric::of_photographs(side, !statistics.grey, strong);
            (geometric, Jitter::of_photographs(side, strong))
        };
        let (erase, mixup) = if strong { (0.25, 0.2) } else { (0.0, 0.0) };
        Augment { level, erase, mixup, geometric, colour }
    }

    /// The side at which pictures are kept in memory for an input of `side` pixels: a quarter larger where parts of them
    /// are enlarged and the files hold that much.
    pub fn stored_side(&self, side: usize, statistics: &Statistics) -> usize {
        let larger = side + side / 4;
        let held = statistics.width.median.min(statistics.height.median);
        if self.geometric.crop > 0.0 && held >= larger { larger } else { side }
    }

    /// Writes a variation of `image` (HWC), of `from` (channels, height, width), to `out` of the same channels and `size`
    /// (height, width), drawing from the streams of `position` under `seed`.
    pub fn apply(
        &self,
        image: &[u8],
        from: [usize; 3],
        size: [usize; 2],
        seed: u64,
        position: u64,
        out: &mut [u8],
    ) {
        let [channels, height, width] = from;
        assert_eq!(image.len(), channels * height * width, "the image has the given shape");
        assert_eq!(out.len(), channels * size[0] * size[1], "the output has the given size");
        let random = |idea| Random::new(bits(seed, idea, 0), position);
        match channels {
            1 => self.run::<1>(image, [height, width], size, &random, out),
            3 => self.run::<3>(image, [height, width], size, &random, out),
            _ => panic!("images have 1 or 3 channels, not {channels}"),
        }
    }

    fn run<const C: usize>(
        &self,
        image: &[u8],
        from: [usize; 2],
        size: [usize; 2],
        random: &dyn Fn(u64) -> Random,
        out: &mut [u8],
    ) {
        let (source, out) = (image.as_chunks::<C>().0, out.as_chunks_mut::<C>().0);
        self.geometric.apply(source, from, size, &mut random(GEOMETRIC), out);
        self.colour.apply(out, &mut random(COLOUR));
        erase::erase(self.erase, out, size[1], &mut random(ERASE));
    }
}

/// A ratio of width to height between `1 / most` and `most`, wide and high ones equally likely.
fn aspect(most: f64, random: &mut Random) -> f64 {
    let u = f64::from(random.range(-1.0, 1.0));
    if u < 0.0 { 1.0 / (1.0 - u * (most - 1.0)) } else { 1.0 + u * (most - 1.0) }
}
