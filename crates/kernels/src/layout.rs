//! The physical layouts of activations, and the copies between them.
//!
//! *Plain* is the logical order (NCHW). *Blocked* is nChw16c: `[N][ceil(C/16)][H][W][16]`, where the lanes past C in
//! the last block are finite but otherwise meaningless: no result may depend on them.

use crate::lanes::LANES;

/// Physical order of a value in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major in the logical order.
    Plain,
    /// nChw16c, for values of rank 4 (rank 2 counts as H = W = 1).
    Blocked,
}

/// Number of 16-channel blocks that hold `channels`.
pub fn blocks(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Elements that a value of shape `[n, c, spatial]` takes in `layout`.
pub fn physical_len(layout: Layout, n: usize, c: usize, spatial: usize) -> usize {
    match layout {
        Layout::Plain => n * c * spatial,
        Layout::Blocked => n * blocks(c) * LANES * spatial,
    }
}
