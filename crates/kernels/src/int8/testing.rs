//! Bytes for tests, and kernels run on them.

use super::{quads, quads_len};
use crate::testing::{Input, Out, run_bytes};
use crate::{Kernel, LANES, blocks};
use espalier_graph::random::Random;

/// Reproducible bytes, the extremes among them often.
pub(crate) fn bytes(stream: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(11, stream);
    let mut byte = || match (random.range(0.0, 16.0), random.range(0.0, 256.0)) {
        (kind, _) if kind < 1.0 => 0,
        (kind, _) if kind < 2.0 => 255,
        (_, value) => value as u8,
    };
    (0..len).map(|_| byte()).collect()
}

/// Runs a kernel of one output with 1, 2 and 3 workers.
pub(crate) fn run(kernel: &dyn Kernel, inputs: &[&[u8]], len: usize) -> Vec<u8> {
    let inputs: Vec<Input<'_>> = inputs.iter().map(|x| Input::U8(x)).collect();
    run_bytes(kernel, &inputs, &[Out::Bytes(len)]).remove(0)
}

/// Index of a logical (NCHW) element in quads.
pub(crate) fn quad_index(i: usize, c: usize, spatial: usize) -> usize {
    let (image, channel, pixel) = (i / spatial / c, i / spatial % c, i % spatial);
    ((image * quads(c) + channel / 4) * spatial + pixel) * 4 + channel % 4
}

/// Quads of logical bytes, with garbage past the last channel.
pub(crate) fn to_quads(logical: &[u8], c: usize, spatial: usize) -> Vec<u8> {
    let n = logical.len().checked_div(c * spatial).unwrap_or(0);
    let mut out = bytes(99, quads_len(n, c, spatial));
    logical.iter().enumerate().for_each(|(i, &v)| out[quad_index(i, c, spatial)] = v);
    out
}

/// The logical bytes of quads.
pub(crate) fn from_quads(quads: &[u8], n: usize, c: usize, spatial: usize) -> Vec<u8> {
    (0..n * c * spatial).map(|i| quads[quad_index(i, c, spatial)]).collect()
}

/// The logical elements of f32 in blocks of 16 channels.
pub(crate) fn from_blocks(blocked: &[u8], n: usize, c: usize, spatial: usize) -> Vec<f32> {
    let at = |i: usize| {
        let (image, channel, pixel) = (i / spatial / c, i / spatial % c, i % spatial);
        ((image * blocks(c) + channel / LANES) * spatial + pixel) * LANES + channel % LANES
    };
    let float = |i: usize| f32::from_ne_bytes(blocked[4 * i..4 * i + 4].try_into().unwrap());
    (0..n * c * spatial).map(|i| float(at(i))).collect()
}
