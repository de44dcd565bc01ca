//! Dense or sparse, and in which blocks: the choice for a layer, from measured times.
//!
//! What a block costs when it is skipped in no other place, in units of what its weights cost in the dense kernel, depends
//! on how well pixels fill vectors of sixteen, thus on the size of the map; on how often loads cross cache lines, thus on
//! the kernel's size; and little on channels. So a row for each size of map is enough. Measured on Zen 4 and Zen 5 with
//! `int8_speed sparse` (`bench/runs/*-int8-sparse-kernels.txt`), rounded up to the slowest shape of a row on either, so that
//! nothing becomes slower by being computed sparsely.
//! Epilogues are the same for all methods and decide nothing.

use super::stream::{Block, Blocks};
use crate::conv::ConvGeometry;
use crate::int8::conv::{Epilogue, Method, Weights, pack::Arrangement};
use crate::int8::form::{Form, Step};

/// Least pixels of an output map; cost of a block in units of its dense weights: for 1x1 kernels, blocks of 1x4 and 2x4,
/// and for larger ones.
type Row = (usize, [f64; 2], [f64; 2]);

/// Products of bytes: bound by loads in blocks of 1x4, by products in blocks of 2x4.
#[cfg(target_arch = "x86_64")]
const BYTES: &[Row] = &[
    (784, [1.85, 1.45], [2.75, 1.55]),
    (196, [3.4, 1.95], [2.75, 1.55]),
    (49, [4.6, 2.5], [3.7, 2.05]),
    (16, [2.8, 1.8], [4.0, 2.6]),
];

/// Products of 16 bits.
#[cfg(target_arch = "x86_64")]
const WORDS: &[Row] = &[
    (784, [1.25, 1.1], [1.6, 1.4]),
    (196, [1.65, 1.3], [1.6, 1.4]),
    (49, [2.1, 1.6], [1.9, 1.6]),
    (16, [1.45, 1.2], [2.6, 2.3]),
];

/// Plain Rust.
const PLAIN: &[Row] =
    &[(49, [1.1, 1.1], [1.0, 1.0]), (16, [0.8, 0.8], [1.5, 1.5]), (4, [3.0, 3.0], [3.0, 3.0])];

/// By how much a sparse kernel should be faster to be taken: measurements are not exact.
const MARGIN: f64 = 0.95;

/// With fewer zeros than this share no form of blocks pays.
const ZEROS: f64 = 0.1;

/// The fastest method for these weights.
pub(in crate::int8) fn choose(form: Form, g: &ConvGeometry, weights: &Weights<'_>, e: &Epilogue) -> Method {
    let table = match form.step() {
        Step::Scalar => PLAIN,
        #[cfg(target_arch = "x86_64")]
        Step::Avx2 | Step::Avx512 => WORDS,
        #[cfg(target_arch = "x86_64")]
        Step::Vnni | Step::Vbmi => BYTES,
        // Not measured there: emulated time says nothing.
        #[cfg(target_arch = "aarch64")]
        Step::Neon | Step::Dotprod => PLAIN,
    };
    let row = table.iter().find(|(least, ..)| g.output[0] * g.output[1] >= *least);
    let (Some((_, single, larger)), true) = (row, super::is_possible(g, e)) else {
        return Method::Dense;
    };
    // A byte counts up to 255 of them, sixty-four at a time.
    let zeros = |w: &[i8]| usize::from(w.iter().map(|&w| u8::from(w == 0)).sum::<u8>());
    let zeros: usize = weights.values.chunks(255).map(zeros).sum();
    if (zeros as f64) < ZEROS * weights.values.len() as f64 {
        return Method::Dense;
    }
    let costs = if g.window.kernel == [1, 1] { single } else { larger };
    let time = |block: Block| {
        let blocks = Blocks::new(g, weights.values, block);
        costs[block.outputs() - 1] * blocks.count() as f64 / blocks.all().max(1) as f64
    };
    let (one, two) = (time(Block::One), time(Block::Two));
    match one.min(two) < MARGIN * Arrangement::new(g).share_of_quads(g) {
        false => Method::Dense,
        true if two <= one => Method::Sparse(Block::Two),
        true => Method::Sparse(Block::One),
    }
}
