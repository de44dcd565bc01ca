//! Kernels of integers: activations of u8, weights of s8, sums of i32.
//!
//! # Layout
//!
//! Activations are *quads*: `[N][ceil(C/4)][H][W][4]` bytes, four channels of a pixel side by side, which are one 32-bit lane
//! of a dot product. Bytes past the last channel may hold anything and meet zero weights. It is the one layout in which
//! sixteen pixels of four channels are one load, four channels of a pixel are one broadcast, and both kinds of results
//! are stored without a pass that transposes them. Planes carry no halo; `conv/source.rs` says why.
//!
//! A byte `q` with zero point `z` and scale `s` stands for `s * (q - z)`. A tensor of signed bytes is stored with its top
//! bits flipped and 128 added to its zero point.
//!
//! # Results
//!
//! Every result is the exact integer sum, rounded as each function says: by fused multiply-adds in f32, each one
//! rounding, and to the nearest integer, ties to even. So all instruction sets and numbers of workers give the same bits.

mod channels;
pub mod conv;
pub mod depthwise;
pub(crate) mod dots;
mod finish;
pub(crate) mod form;
mod movement;
mod packing;
mod pairs;
mod pool;
mod quantize;
pub(crate) mod reference;
mod share;
mod sparse;
pub(crate) mod sums;
mod table;
#[cfg(test)]
mod testing;

pub use channels::{Part, Pick, channels};
pub use conv::{Epilogue, Method, Operand, Output, Prepared, Weights, conv, conv_by};
pub use movement::{from_quads, resize_nearest, to_quads};
pub use packing::Packing;
pub use pairs::{add, gate, multiply};
pub use pool::{Average, PoolGeometry, avg_pool, max_pool};
pub use quantize::{dequantize, quantize};
pub use sparse::Block;
pub use table::{Table, table};

/// Channels of a quad.
pub const QUAD: usize = 4;

/// Planes of quads that hold `channels`.
pub fn quads(channels: usize) -> usize {
    channels.div_ceil(QUAD)
}

/// Bytes of `[n, c, spatial]` in quads.
pub fn quads_len(n: usize, c: usize, spatial: usize) -> usize {
    n * quads(c) * spatial * 4
}
