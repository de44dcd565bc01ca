//! Depthwise convolution: every channel by itself, so 16 of them are 16 lanes and no sum crosses a lane.
//!
//! Forward and the gradient for the input are the same correlation ([`correlate`]) over different phases ([`phase`]):
//! a register tile of neighbouring output pixels of one block of channels, a loop over the kernel rows that lie on the
//! input, and the kernel columns unrolled. Where a tile touches the border its loads are redirected to zeros, so that
//! small maps run nearly as fast as the inside of large ones. A non-finite weight meets these zeros too, as it does in
//! an implementation that pads.
//!
//! Activations are blocked. Packed weights are `[block][tap][16]`, with zeros in the lanes past C.

mod correlate;
mod pack;
mod phase;
#[cfg(test)]
mod tests;
mod weight_grad;

use crate::conv::{ConvGeometry, Epilogue};
use crate::{Isa, Kernel, LANES, Layout, blocks};
use correlate::Correlate;
use pack::Pack;
use phase::Phase;
use weight_grad::WeightGrad;

/// Sixteen zeros, which are read in place of what lies outside of the input.
static ZEROS: [f32; LANES] = [0.0; LANES];

fn check(g: &ConvGeometry) {
    let channels = [g.channels_in, g.channels_out];
    assert_eq!(channels, [g.groups; 2], "depthwise needs as many groups as channels: {g:?}");
    assert_eq!(g.window.output(g.input), Some(g.output), "output size of {g:?}");
}

fn check_layout(g: &ConvGeometry, x: Layout) {
    assert_eq!(x, Layout::Blocked, "depthwise kernels read blocked activations; reorder x first: {g:?}");
}

fn name(g: &ConvGeometry, what: &str, isa: Isa) -> String {
    let [kh, kw] = g.window.kernel;
    format!("{what} {kh}x{kw} {isa}")
}

/// f32 elements of the packed weights of [`forward`].
pub(crate) fn packed_len(g: &ConvGeometry) -> usize {
    blocks(g.channels_in) * g.window.kernel[0] * g.window.kernel[1] * LANES
}

/// Kernel `w[C,1,kh,kw]` plain `->` packed weights for [`forward`].
pub(crate) fn pack_weights(_isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    check(g);
    Box::new(Pack::new(g, &[0, 1].map(|axis| Phase::forward(g, axis))))
}

/// Kernel `x` (blocked), packed weights, bias `[C]` plain if `e.bias`, residual blocked if `e.residual` `-> y` blocked.
pub(crate) fn forward(isa: Isa, g: &ConvGeometry, x: Layout, e: Epilogue) -> Box<dyn Kernel> {
    check(g);
    check_layout(g, x);
    let phases = [0, 1].map(|axis| Phase::forward(g, axis));
    Box::new(Correlate::new(isa, name(g, "depthwise conv", isa), g, [g.input, g.output], phases, e))
}

/// f32 elements of the packed weights of [`input_grad`].
pub(crate) fn packed_len_input_grad(g: &ConvGeometry) -> usize {
    packed_len(g)
}

/// Kernel `w[C,1,kh,kw]` plain `->` packed weights for [`input_grad`].
pub(crate) fn pack_weights_input_grad(_isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    check(g);
    Box::new(Pack::new(g, &[0, 1].map(|axis| Phase::input_grad(g, axis))))
}

/// Kernel `dy` (blocked), packed weights `-> dx` blocked.
pub(crate) fn input_grad(isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    check(g);
    let phases = [0, 1].map(|axis| Phase::input_grad(g, axis));
    let name = name(g, "depthwise conv input grad", isa);
    Box::new(Correlate::new(isa, name, g, [g.output, g.input], phases, Epilogue::default()))
}

/// Kernel `x` (blocked), `dy` (blocked) `-> dw[C,1,kh,kw]` plain.
pub(crate) fn weight_grad(isa: Isa, g: &ConvGeometry, x: Layout) -> Box<dyn Kernel> {
    check(g);
    check_layout(g, x);
    Box::new(WeightGrad::new(isa, name(g, "depthwise conv weight grad", isa), g))
}
