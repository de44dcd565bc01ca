//! Weights in the order in which a correlation reads them.

use super::{ConvGeometry, Phase, packed_len};
use crate::kernel::{Io, Kernel, Worker};
use crate::{LANES, blocks};

/// `w[C,1,kh,kw]` plain `->` `[block][phases][taps][16]`; every kernel element belongs to one phase of each axis.
pub(super) struct Pack {
    channels: usize,
    len: usize,
    /// The kernel element of each packed tap.
    order: Vec<usize>,
}

impl Pack {
    pub(super) fn new(g: &ConvGeometry, [rows, columns]: &[Vec<Phase>; 2]) -> Pack {
        let mut order = Vec::new();
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            for ky in 0..row.taps {
                let first = row.element(ky) * g.window.kernel[1];
                order.extend((0..column.taps).map(|kx| first + column.element(kx)));
            }
        }
        Pack { channels: g.channels_in, len: packed_len(g), order }
    }
}

impl Kernel for Pack {
    fn name(&self) -> String {
        "pack depthwise weights".into()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (w, packed, taps) = (io.input::<f32>(0), io.output::<f32>(0), self.order.len());
        assert_eq!((w.len(), packed.len()), (self.channels * taps, self.len), "{}: elements", self.name());
        for block in worker.share(blocks(self.channels)) {
            // SAFETY: blocks are disjoint.
            let out = unsafe { packed.slice_mut(block * taps * LANES..(block + 1) * taps * LANES) };
            for (i, v) in out.iter_mut().enumerate() {
                let channel = block * LANES + i % LANES;
                *v = if channel < self.channels { w[channel * taps + self.order[i / LANES]] } else { 0.0 };
            }
        }
    }
}
