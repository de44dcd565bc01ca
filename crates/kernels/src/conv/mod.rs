//! Dense and grouped convolution in f32: forward, gradient for the input, gradient for the weights.
//!
//! One engine serves every kernel size, stride, padding and dilation. A worker gathers the part of the input that its
//! next output pixels need into scratch (`gather`), once per kernel column, with padding, stride and dilation
//! resolved. Then the pixels that a kernel tap multiplies are one contiguous run, taps are mere address offsets
//! (`space`), and one register tile (`tile`, [`weight_grad`]) does all the arithmetic: a direct convolution after
//! Georganas et al. 2018 ("Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures") with the
//! gathering of Goto and van de Geijn's matrix product. The gradient for the input is the same engine over transposed
//! weights, once for each residue of the position modulo the stride.
//!
//! Grouped weights are blocks of 16 x 16 channels with zeros between the groups inside of a block (`channels`), so a
//! non-finite value in one group may reach another that shares its block.

mod channels;
mod engine;
mod gather;
mod pack;
mod panel;
mod reference;
mod space;
#[cfg(test)]
mod tests;
mod tile;
mod weight_grad;

pub(crate) use reference::reference;

use crate::{Activation, Isa, Kernel, LANES, Layout, depthwise};
use channels::{Channels, Direction};
use engine::Engine;
use espalier_graph::Window;
use gather::Input;
use space::Phase;

/// All shapes of one convolution. Where `groups == channels_in == channels_out` it is depthwise.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvGeometry {
    /// Images.
    pub batch: usize,
    /// Input channels, a multiple of `groups`.
    pub channels_in: usize,
    /// Output channels, a multiple of `groups`.
    pub channels_out: usize,
    /// Independent parts of the channels.
    pub groups: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width, as `window.output(input)` gives them.
    pub output: [usize; 2],
    /// Kernel size, stride, padding and dilation.
    pub window: Window,
}

impl ConvGeometry {
    /// Whether every channel is convolved by itself.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.channels_in && self.groups == self.channels_out
    }

    /// Kernel positions.
    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// With very few input channels (pictures), channels times kernel columns fill registers better than channels.
    fn folds_columns(&self) -> bool {
        self.groups == 1 && self.channels_in <= LANES / 4 && self.window.kernel[1] > 1
    }

    /// The same convolution with a single row stood upright, where that saves gathering its columns: rows need no copies
    /// per tap and can be cut into items. Both layouts are the same either way.
    fn upright(&self) -> ConvGeometry {
        let mut g = self.clone();
        let line = g.input[0] == 1 && g.output[0] == 1 && g.window.kernel[0] == 1;
        if line && !g.folds_columns() {
            let w = &mut g.window;
            for pair in [&mut g.input, &mut g.output, &mut w.kernel, &mut w.stride, &mut w.dilation] {
                pair.swap(0, 1);
            }
            let [top, left, bottom, right] = w.pad;
            w.pad = [left, top, right, bottom];
        }
        g
    }

    pub(crate) fn check(&self) {
        assert!(self.groups > 0, "groups of {self:?}");
        assert!(self.channels_in.is_multiple_of(self.groups), "input channels of {self:?}");
        assert!(self.channels_out.is_multiple_of(self.groups), "output channels of {self:?}");
        assert_eq!(self.window.output(self.input), Some(self.output), "output size of {self:?}");
    }

    fn name(&self, what: &str) -> String {
        let [kh, kw] = self.window.kernel;
        let grouped = if self.groups > 1 { " grouped" } else { "" };
        format!("{what} {kh}x{kw}{grouped} direct")
    }
}

/// What follows a convolution in the same pass: `y = activation(conv + bias + residual)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epilogue {
    /// A bias per output channel is added.
    pub bias: bool,
    /// A tensor of the output's shape is added.
    pub residual: bool,
    /// The function of the sum.
    pub activation: Activation,
}

/// f32 elements of the packed weights of [`forward`].
pub fn packed_len(g: &ConvGeometry) -> usize {
    if g.is_depthwise() {
        return depthwise::packed_len(g);
    }
    Channels::new(g, Direction::Forward).packed_len()
}

/// Kernel `w` (OIHW, plain) `->` packed weights for [`forward`].
pub fn pack_weights(isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    g.check();
    if g.is_depthwise() {
        return depthwise::pack_weights(isa, g);
    }
    Box::new(pack::Pack::new(isa, Channels::new(g, Direction::Forward)))
}

/// Kernel `x` (in layout `x`, which must be blocked for a depthwise convolution), packed weights, bias `[O]` plain if
/// `e.bias`, residual blocked if `e.residual` `-> y` blocked.
pub fn forward(isa: Isa, g: &ConvGeometry, x: Layout, e: Epilogue) -> Box<dyn Kernel> {
    g.check();
    if g.is_depthwise() {
        return depthwise::forward(isa, g, x, e);
    }
    let name = g.name("conv");
    let g = &g.upright();
    let channels = Channels::new(g, Direction::Forward);
    let input = Input::new(x, g.channels_in, g.input, g.folds_columns().then_some(&g.window));
    let phases = vec![Phase::forward(g)];
    Box::new(Engine::new(isa, g, name, channels, phases, input, g.output, e))
}

/// f32 elements of the packed weights of [`input_grad`].
pub fn packed_len_input_grad(g: &ConvGeometry) -> usize {
    if g.is_depthwise() {
        return depthwise::packed_len_input_grad(g);
    }
    Channels::new(g, Direction::InputGrad).packed_len()
}

/// Kernel `w` (OIHW, plain) `->` packed weights for [`input_grad`].
pub fn pack_weights_input_grad(isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    g.check();
    if g.is_depthwise() {
        return depthwise::pack_weights_input_grad(isa, g);
    }
    Box::new(pack::Pack::new(isa, Channels::new(g, Direction::InputGrad)))
}

/// Kernel `dy` (blocked), packed weights `-> dx` blocked.
pub fn input_grad(isa: Isa, g: &ConvGeometry) -> Box<dyn Kernel> {
    g.check();
    if g.is_depthwise() {
        return depthwise::input_grad(isa, g);
    }
    let name = g.name("conv input grad");
    let g = &g.upright();
    let channels = Channels::new(g, Direction::InputGrad);
    let input = Input::new(Layout::Blocked, g.channels_out, g.output, None);
    let phases = Phase::input_grad(g);
    Box::new(Engine::new(isa, g, name, channels, phases, input, g.input, Epilogue::default()))
}

/// Kernel `x` (in layout `x`, which must be blocked for a depthwise convolution), `dy` (blocked) `-> dw` (OIHW, plain).
pub fn weight_grad(isa: Isa, g: &ConvGeometry, x: Layout) -> Box<dyn Kernel> {
    g.check();
    if g.is_depthwise() {
        return depthwise::weight_grad(isa, g, x);
    }
    Box::new(weight_grad::WeightGrad::new(isa, &g.upright(), g.name("conv weight grad"), x))
}
