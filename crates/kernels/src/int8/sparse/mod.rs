//! Convolution with weights that are zero in blocks, of which only the others are stored and multiplied.
//!
//! A block is a quad of input channels of one kernel tap, for one output channel or for two ([`Block`]). Pixels lie in lanes
//! whatever the kernel is: for each block of the stream (`stream`) sixteen pixels at a time are loaded from where its
//! tap reads them (`field`) and multiplied by its weights, in a tile of up to seven such vectors (`tile`); `engine` walks the
//! tiles over the output. Two outputs share a load, which pays: measured on Zen 4 (`examples/int8_speed.rs`), loads that
//! cross cache lines come at 0.6 a cycle against one product, so that blocks of one output reach half of the peak and
//! blocks of two nine tenths. What comes in, what comes out and every bit of it are as for dense weights.
//!
//! Whether a layer is computed so is decided by a measured table (`choice`).

mod choice;
mod engine;
mod field;
mod stream;
#[cfg(test)]
mod tests;
mod tile;

pub use stream::Block;

use super::conv::{Epilogue, Output, Prepared, Weights, finish, lookup};
use super::form::Form;
use super::packing::Packing;
use crate::conv::ConvGeometry;
use engine::{After, Engine};
use field::Field;
use stream::{Blocks, Stream};

pub(super) use choice::choose;

/// Whether a convolution can be computed sparsely: without groups, from quads to quads.
pub(super) fn is_possible(g: &ConvGeometry, e: &Epilogue) -> bool {
    let addressable = super::quads_len(1, g.channels_in, g.input[0] * g.input[1]) <= u32::MAX as usize;
    g.groups == 1 && matches!(e.result, Output::Quads { .. }) && addressable
}

/// Prepares `x`, packed weights, residual if there is one `-> y`, all in quads.
pub(super) fn prepare<'a>(
    form: Form,
    block: Block,
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'a>,
    e: &Epilogue,
) -> Prepared<'a> {
    assert!(is_possible(g, e), "groups and results in f32 are computed densely: {g:?}");
    let field = Field::new(g, zero);
    let stream = Stream::new(g, zero, form.offset(), weights, block, &field);
    let (kept, all) = (stream.offsets.len(), Blocks::new(g, weights.values, block).all());
    let [kh, kw] = g.window.kernel;
    let share = 100.0 * kept as f64 / all.max(1) as f64;
    let name = format!("conv {kh}x{kw} int8 sparse {block} {share:.0} %, {form}");
    let after = After {
        finish: finish(g, weights, e),
        residual: e.residual.is_some(),
        table: lookup(form, &e.result),
    };
    let (kernel, packed) = Engine::new((name, form), g, field, block, stream, after);
    let pixels = g.batch * g.output[0] * g.output[1];
    let packed = Packing::new(packed.len(), move |to| to.copy_from_slice(&packed));
    Prepared { kernel: Box::new(kernel), packed, macs: pixels * kept * 4 * block.outputs() }
}
