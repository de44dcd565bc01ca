//! Weights from OIHW into the order in which the engine streams them.

use super::channels::{CELL, Channels, Direction, Span};
use super::panel::{self, Panel};
use crate::{Io, Isa, Kernel, Worker, blocks};

/// `w` OIHW -> packed `[output block][input block][tap][16 in][16 out]`, zero where no weight is.
pub(super) struct Pack {
    name: String,
    channels: Channels,
    dense: unsafe fn(Panel, &[f32], &mut [f32]),
}

impl Pack {
    pub(super) fn new(isa: Isa, channels: Channels) -> Pack {
        let dense = match channels.direction {
            Direction::Forward => panel::pick_pack(isa),
            Direction::InputGrad => panel::pick_pack_transposed(isa),
        };
        Pack { name: format!("conv pack weights {isa}"), channels, dense }
    }

    fn pack_output(&self, span: &Span, output: usize, w: &[f32], packed: &mut [f32]) {
        packed.fill(0.0);
        let taps = self.channels.taps;
        for (input, cells) in span.inputs.clone().zip(packed.chunks_exact_mut(taps * CELL)) {
            match self.channels.panel(output, input) {
                // SAFETY: picked for this CPU; it checks its bounds.
                Some(panel) => unsafe { (self.dense)(panel, w, cells) },
                None => self.channels.cell(output, input).for_each(|at, index| cells[at] = w[index]),
            }
        }
    }
}

impl Kernel for Pack {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(blocks(self.channels.outputs));
        let packed = io.output::<f32>(0);
        for span in &self.channels.spans {
            for output in share.start.max(span.outputs.start)..share.end.min(span.outputs.end) {
                let start = self.channels.packed_at(span, output, span.inputs.start);
                let range = start..start + self.channels.packed_output(span);
                // SAFETY: every output block has its own range, and belongs to one worker.
                self.pack_output(span, output, io.input(0), unsafe { packed.slice_mut(range) });
            }
        }
    }
}
