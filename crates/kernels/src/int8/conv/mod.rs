//! Dense and grouped convolution of bytes, and with it the fully connected layer (a 1x1 convolution of 1x1 maps).
//!
//! `acc = bias + sum of w * (x - zero)` over channels and taps in i32, where padding contributes nothing; then
//! `v = f32(acc) * scale`, both rounded to f32, for a residual `v = fma(r - zero_r, scale_r, v)`, and
//! `y = clamp(round_ties_even(v) + zero_y, lo, hi)`, where `lo` and `hi` say ReLU, ReLU6 or nothing. A [`Table`] may follow.
//! Or `y` is `v` itself, in f32. That is ONNX Runtime's arithmetic to the bit (its QLinearConv).
//!
//! Two register tiles (`tile`) read the same packed weights (`pack`) from the input itself or from padded rows in scratch
//! (`source`); `engine` walks them over the output. Depthwise convolution has kernels of its own
//! ([`depthwise`](mod@crate::int8::depthwise)).

mod engine;
pub(super) mod pack;
pub(super) mod source;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
pub(super) mod tests;
mod tile;

use super::depthwise;
use super::finish::Finish;
use super::form::Form;
use super::packing::Packing;
use super::share::by_lines;
use super::sparse::{self, Block};
use super::sums::Limits;
use super::table::{Lookup, Table, lookup_of};
use crate::conv::ConvGeometry;
use crate::{Isa, Kernel, LANES};
use engine::Engine;
use pack::Arrangement;
use source::Source;
use std::borrow::Cow;
use tile::Tiles;

/// Weights, and what makes results of sums; one scale and bias for each output channel.
#[derive(Clone, Debug)]
pub struct Weights<'a> {
    /// OIHW, where I is the channels of one group.
    pub values: &'a [i8],
    /// Real size of a unit of the sum, in units of the output.
    pub scale: Cow<'a, [f32]>,
    /// In units of the sum, which wraps.
    pub bias: &'a [i32],
}

/// What follows a convolution in the same pass.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// Another tensor in quads, of the output's shape, is added.
    pub residual: Option<Operand>,
    /// The form of the result.
    pub result: Output,
}

/// A tensor that is added before the result is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    /// Its zero point.
    pub zero: u8,
    /// Real size of its unit, in units of the output.
    pub scale: f32,
}

/// The form of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Quads of bytes in `lo..=hi`, then through a table if there is one.
    Quads {
        /// The byte that stands for 0.
        zero: u8,
        /// Least byte.
        lo: u8,
        /// Greatest byte.
        hi: u8,
        /// Applied last.
        table: Option<Table>,
    },
    /// f32 in blocks of 16 channels ([`Layout::Blocked`](crate::Layout)).
    Float,
}

impl Default for Output {
    fn default() -> Self {
        Output::Quads { zero: 0, lo: 0, hi: 255, table: None }
    }
}

/// A kernel, and the packed weights that it reads as input 1 (64-byte aligned, like every buffer).
pub struct Prepared<'a> {
    /// `x`, packed weights, residual if there is one `-> y`.
    pub kernel: Box<dyn Kernel>,
    /// Weights and what goes with them; the same for all forms that take the same from every byte.
    pub packed: Packing<'a>,
    /// Multiply-accumulates of a run: those of all weights, or of the blocks that are not zero where no others are
    /// computed.
    pub macs: usize,
}

/// How a convolution is computed; results are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With all weights.
    Dense,
    /// With the blocks that are not zero; without groups and from quads to quads only.
    Sparse(Block),
}

/// Prepares the convolution `x` in quads whose zero point is `zero`, packed weights, residual in quads if there is one
/// `-> y`, by the method that is faster for these weights.
///
/// Panics where shapes do not fit, where a scale is not finite, or where the sum over channels and taps could
/// leave i32 (more than 65,793 terms).
pub fn conv<'a>(isa: Isa, g: &ConvGeometry, zero: u8, weights: &Weights<'a>, e: &Epilogue) -> Prepared<'a> {
    let form = Form::of(isa);
    check(g, weights, e);
    with_form(form, sparse::choose(form, g, weights, e), g, zero, weights, e)
}

/// [`conv`] by the given method. Panics where it is sparse and there are groups or results in f32.
pub fn conv_by<'a>(
    isa: Isa,
    method: Method,
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'a>,
    e: &Epilogue,
) -> Prepared<'a> {
    check(g, weights, e);
    with_form(Form::of(isa), method, g, zero, weights, e)
}

pub(super) fn with_form<'a>(
    form: Form,
    method: Method,
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'a>,
    e: &Epilogue,
) -> Prepared<'a> {
    let g = &pixels_by_lines(g);
    if let Method::Sparse(block) = method {
        return sparse::prepare(form, block, g, zero, weights, e);
    }
    if g.is_depthwise() && matches!(e.result, Output::Quads { .. }) {
        return depthwise::prepare(form, g, zero, weights, e);
    }
    let arrangement = Arrangement::new(g);
    let source = Source::new(g, zero, &arrangement);
    let tiles = Tiles::new(form);
    let pixels = prefers_pixels(g, &source, &arrangement, e);
    let [kh, kw] = g.window.kernel;
    let what = if g.groups > 1 { " grouped" } else { "" };
    let lanes = if pixels { "pixels" } else { "channels" };
    Prepared {
        packed: pack::packing(g, zero, weights, &arrangement, form.offset()),
        kernel: Box::new(Engine {
            name: format!("conv {kh}x{kw}{what} int8, {lanes} in lanes, {form}"),
            g: g.clone(),
            arrangement,
            source,
            tiles,
            pixels,
            finish: finish(g, weights, e),
            float: e.result == Output::Float,
            residual: e.residual.is_some(),
            table: lookup(form, &e.result),
        }),
        macs: macs(g),
    }
}

/// The same convolution over rows that are cache lines, where it takes every pixel by itself.
fn pixels_by_lines(g: &ConvGeometry) -> ConvGeometry {
    let w = &g.window;
    if [w.kernel, w.stride] != [[1; 2]; 2] || w.pad != [0; 4] {
        return g.clone();
    }
    let [rows, bytes] = by_lines([g.output[0], 4 * g.output[1]]);
    ConvGeometry { input: [rows, bytes / 4], output: [rows, bytes / 4], ..g.clone() }
}

/// Multiply-accumulates with all weights.
pub(super) fn macs(g: &ConvGeometry) -> usize {
    let terms = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
    g.batch * g.output[0] * g.output[1] * g.channels_out * terms
}

/// Whether pixels lie in lanes. They can where a run of output pixels is a run of input pixels, as in a 1x1 convolution
/// at stride 1. Measured on Zen 4 (`examples/int8_speed.rs`): from 28 x 28 pixels on they are as fast or faster than
/// channels in lanes; on smaller maps 5 to 7 % slower, but they compute channels by 4 and not by 16, which counts for
/// more where the last block is mostly empty.
fn prefers_pixels(g: &ConvGeometry, source: &Source, a: &Arrangement, e: &Epilogue) -> bool {
    let whole = a.starts.iter().all(|&s| s == 0);
    if e.result == Output::Float || a.by_rows() || source.step != 4 || !engine::rows_join(g, source) || !whole
    {
        return false;
    }
    let pixels = g.output[0] * g.output[1];
    let by_pixels = pixels.next_multiple_of(LANES) * g.channels_out.next_multiple_of(4);
    let by_channels = pixels * g.channels_out.next_multiple_of(LANES);
    pixels >= 28 * 28 || (pixels >= 2 * LANES && by_pixels as f64 * 1.07 < by_channels as f64)
}

fn check(g: &ConvGeometry, weights: &Weights<'_>, e: &Epilogue) {
    g.check();
    let terms = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
    assert_eq!(weights.values.len(), g.channels_out * terms, "weights of {g:?}");
    assert_eq!([weights.scale.len(), weights.bias.len()], [g.channels_out; 2], "scales and biases of {g:?}");
    assert!(terms as i64 * 255 * 128 <= i64::from(i32::MAX), "{terms} products may leave i32: {g:?}");
    let residual = e.residual.map_or(0.0, |r| r.scale);
    let finite = weights.scale.iter().chain([&residual]).all(|v| v.is_finite());
    assert!(finite, "scales must be finite: {g:?}");
    if let Output::Quads { lo, hi, .. } = e.result {
        assert!(lo <= hi, "limits {lo} and {hi}");
    }
}

pub(super) fn lookup(form: Form, output: &Output) -> Option<Lookup> {
    match output {
        Output::Quads { table, .. } => lookup_of(form, table.as_ref()),
        Output::Float => None,
    }
}

pub(super) fn finish(g: &ConvGeometry, weights: &Weights<'_>, e: &Epilogue) -> Finish {
    let limits = match e.result {
        Output::Quads { zero, lo, hi, .. } => Limits { zero, lo, hi },
        Output::Float => Limits::NONE,
    };
    let residual = e.residual.map_or((0, 0.0), |r| (i32::from(r.zero), r.scale));
    Finish { residual, limits, wide: wide(g, weights, residual.1) }
}

/// Whether some result could lie beyond i32 before it is limited: half of that range is left for roundings.
fn wide(g: &ConvGeometry, weights: &Weights<'_>, residual: f32) -> bool {
    let terms = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
    let residual = 255.0 * f64::from(residual.abs());
    let most = (terms * 255 * 128) as f64;
    let bound =
        |(&scale, &bias): (&f32, &i32)| (most + f64::from(bias).abs()) * f64::from(scale.abs()) + residual;
    !weights.scale.iter().zip(weights.bias).all(|pair| bound(pair) < f64::from(1 << 30))
}
