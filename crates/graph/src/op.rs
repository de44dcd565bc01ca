//! The op vocabulary: one closed enum. Every consumer (shape inference, gradients, lowering, the reference
//! interpreter) matches it exhaustively, so the compiler names what a new op still lacks.
//!
//! Logical layouts are NCHW for activations and OIHW for weights, as in ONNX and PyTorch. A layer that can be
//! composed from these ops (1-D convolution, attention, linear, global pooling) is a function of
//! [`Graph`](crate::Graph), not an op.

use crate::attr::{Attr, AttrError, Attrs};
use crate::types::{DType, Quant, Shape};

/// Declares the vocabulary and, from the same field list, the text form of every attribute.
macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $name:ident $({ $($(#[doc = $fdoc:literal])* $field:ident: $ty:ty),* $(,)? })?),* $(,)?) => {
        /// One operation of a graph. The comment of each variant gives `inputs -> outputs`.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $($(#[doc = $doc])+ $name $({ $(#[doc = "Attribute; the op's comment explains it."] $(#[doc = $fdoc])* $field: $ty),* })?),* }

        impl Op {
            /// The op's name in the text form, which is the variant's name.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name { .. } => stringify!($name)),* }
            }

            /// The attributes as `(name, text)` in declaration order.
            pub fn attrs(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(Op::$name $({ $($field),* })? => vec![$($((stringify!($field), $field.write())),*)?]),*
                }
            }

            /// Builds an op from its name and its attributes' texts.
            ///
            /// # Errors
            /// An unknown op, a missing, unknown or malformed attribute.
            pub fn parse(name: &str, attrs: &mut Attrs) -> Result<Op, AttrError> {
                Ok(match name {
                    $(stringify!($name) => Op::$name $({ $($field: attrs.take(stringify!($field))?),* })?,)*
                    other => return Err(AttrError::UnknownOp(other.to_string())),
                })
            }

            /// Every op's name, in declaration order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

/// Kernel window of a convolution or a pooling: sizes are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps between windows.
    pub stride: [usize; 2],
    /// Implicit padding: top, left, bottom, right (the order of ONNX).
    pub pad: [usize; 4],
    /// Steps between the taps of one window.
    pub dilation: [usize; 2],
}

impl Window {
    /// A square window of size `kernel` with equal padding on all sides.
    pub fn square(kernel: usize, stride: usize, pad: usize) -> Self {
        Window { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 4], dilation: [1; 2] }
    }

    /// Output height and width over an input of `hw`, or `None` where the window does not fit.
    pub fn output(&self, hw: [usize; 2]) -> Option<[usize; 2]> {
        let mut out = [0; 2];
        for axis in 0..2 {
            let padded = hw[axis].checked_add(self.pad[axis])?.checked_add(self.pad[axis + 2])?;
            let extent =
                self.kernel[axis].checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
            out[axis] = padded.checked_sub(extent)?.checked_div(self.stride[axis])? + 1;
        }
        Some(out)
    }
}

/// Declares an enum of element functions whose text form is the variant's name with its parameters.
macro_rules! functions {
    ($(#[$meta:meta])* $enum:ident { $($(#[doc = $doc:literal])+ $name:ident $(($($p:ident),+))?),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum $enum { $($(#[doc = $doc])+ $name $({ $(#[doc = "Parameter of the function."] $p: f32),+ })?),* }

        impl Attr for $enum {
            fn write(&self) -> String {
                match self {
                    $($enum::$name $({ $($p),+ })? => {
                        let params: Vec<String> = vec![$($($p.write()),+)?];
                        if params.is_empty() { stringify!($name).into() } else { format!("{}({})", stringify!($name), params.join(",")) }
                    })*
                }
            }
            fn read(text: &str) -> Option<Self> {
                let (name, params) = match text.split_once('(') {
                    Some((name, rest)) => (name, rest.strip_suffix(')')?),
                    None => (text, ""),
                };
                #[allow(unused_mut, unused_variables)]
                let mut params = params.split(',');
                Some(match name {
                    $(stringify!($name) => $enum::$name $({ $($p: f32::read(params.next()?)?),+ })?,)*
                    _ => return None,
                })
            }
        }
    };
}

functions! {
    /// Elementwise functions of one argument.
    UnaryFn {
        /// `max(x, 0)`; its derivative at 0 is 0.
        Relu,
        /// `min(max(x, lo), hi)`, derivative 0 outside and on the bounds; ReLU6 is `Clip(0, 6)`.
        Clip(lo, hi),
        /// `x` where `x > 0`, else `slope * x`.
        LeakyRelu(slope),
        /// `1 / (1 + exp(-x))`.
        Sigmoid,
        /// `x * sigmoid(x)`.
        Silu,
        /// `x * clip(x / 6 + 1/2, 0, 1)`, as PyTorch and ONNX have it.
        HardSwish,
        /// `clip(alpha * x + beta, 0, 1)`; PyTorch's has 1/6 and 1/2.
        HardSigmoid(alpha, beta),
        /// `x * (1 + erf(x / sqrt 2)) / 2`, the exact form.
        Gelu,
        /// `2 / sqrt(pi)` times the integral of `exp(-t^2)` from 0 to x.
        Erf,
        /// Hyperbolic tangent.
        Tanh,
        /// Natural exponential.
        Exp,
        /// Natural logarithm.
        Log,
        /// Square root.
        Sqrt,
        /// Absolute value; derivative 0 at 0.
        Abs,
        /// `-x`.
        Neg,
        /// `1 / x`.
        Reciprocal,
        /// `scale * x + offset`.
        Affine(scale, offset),
        /// The nearest integer, ties to even; its derivative counts as 1, so that gradients pass straight through (Bengio et al. 2013).
        Round,
    }
}

functions! {
    /// Elementwise functions of two arguments, broadcast as in NumPy.
    BinaryFn {
        /// `a + b`.
        Add,
        /// `a - b`.
        Sub,
        /// `a * b`.
        Mul,
        /// `a / b`.
        Div,
        /// The larger; each argument gets half of the gradient where they are equal.
        Max,
        /// The smaller; each argument gets half of the gradient where they are equal.
        Min,
        /// `a` to the power of `b`; the gradient is defined for `a > 0`.
        Pow,
        /// 1 where `a > b`, 0.5 where they are equal, else 0; its gradient is 0 (a Heaviside step).
        Step,
    }
}

functions! {
    /// Reductions over axes.
    ReduceFn {
        /// Sum.
        Sum,
        /// Arithmetic mean.
        Mean,
        /// Maximum; equal maxima share the gradient evenly.
        Max,
    }
}

functions! {
    /// How a resized picture is sampled; pixel centres lie at half-integers (ONNX `half_pixel`, PyTorch `align_corners=False`).
    ResizeMode {
        /// The nearest source pixel, `floor(x * scale)` (ONNX `asymmetric` with `floor`, PyTorch `nearest`).
        Nearest,
        /// Bilinear between the four nearest, clamped at the border.
        Linear,
    }
}

ops! {
    // Convolution and matrix products.
    /// `x[N,C,H,W], w[O,C/groups,kh,kw] (, b[O]) -> y[N,O,H',W']`: cross-correlation as in PyTorch and ONNX.
    Conv { window: Window, groups: usize },
    /// `dy[N,O,H',W'], w[O,C/groups,kh,kw] -> dx[N,C,H,W]`: gradient of Conv for its input of size `input`; also the transposed convolution.
    ConvInputGrad { window: Window, groups: usize, input: [usize; 2] },
    /// `x[N,C,H,W], dy[N,O,H',W'] -> dw[O,C/groups,kh,kw]`: gradient of Conv for its weights.
    ConvWeightGrad { window: Window, groups: usize },
    /// `a[..,M,K], b[..,K,N] -> y[..,M,N]`; a flag means that operand's last two axes are swapped. Leading axes are equal, or `b` has none.
    MatMul { trans_a: bool, trans_b: bool },

    // Pooling and resizing.
    /// `x[N,C,H,W] -> y[N,C,H',W']`: padding never wins; the first of equal maxima gets the gradient.
    MaxPool { window: Window },
    /// `x, dy -> dx`: gradient of MaxPool.
    MaxPoolGrad { window: Window },
    /// `x[N,C,H,W] -> y[N,C,H',W']`: mean over the window; padding counts as zeros only if `count_pad`.
    AvgPool { window: Window, count_pad: bool },
    /// `dy -> dx`: gradient of AvgPool for an input of size `input`.
    AvgPoolGrad { window: Window, count_pad: bool, input: [usize; 2] },
    /// `x[N,C,H,W] -> y[N,C,size]`.
    Resize { mode: ResizeMode, size: [usize; 2] },
    /// `dy -> dx`: gradient of Resize for an input of size `input`.
    ResizeGrad { mode: ResizeMode, input: [usize; 2] },

    // Normalisation.
    /// `x[N,C,..], gamma[C], beta[C], mean[C], var[C] -> y`: with the given statistics (Ioffe and Szegedy 2015).
    BatchNorm { eps: f32, #[doc = "Weight of the batch in the running statistics once trained (PyTorch's convention)."] momentum: f32 },
    /// `x, gamma, beta, mean, var -> y, mean', var', batch_mean[C], batch_rstd[C]`: with the batch's statistics; the running ones move by `momentum` (variance unbiased).
    BatchNormTraining { eps: f32, momentum: f32 },
    /// `x, dy, gamma, batch_mean, batch_rstd -> dx, dgamma, dbeta`: gradient of BatchNormTraining.
    BatchNormGrad,
    /// `x[..,D], gamma[D], beta[D] -> y`: over the last axis (Ba et al. 2016).
    LayerNorm { eps: f32 },
    /// `x, dy, gamma -> dx, dgamma, dbeta`: gradient of LayerNorm.
    LayerNormGrad { eps: f32 },

    // Elementwise.
    /// `x -> f(x)`.
    Unary { f: UnaryFn },
    /// `x, dy -> f'(x) * dy`.
    UnaryGrad { f: UnaryFn },
    /// `a, b -> f(a, b)`, broadcast as in NumPy.
    Binary { f: BinaryFn },
    /// `x, rng i32[2] -> y`: zero with probability `p`, else `x / (1 - p)`; the same `rng` (seed, step) and `stream` give the same mask, so it is its own gradient.
    Dropout { p: f32, #[doc = "Distinguishes the dropouts of one graph."] stream: usize },
    /// `-> y`: a constant f32 tensor.
    Fill { shape: Shape, value: f32 },
    /// `x -> y` of element type `to`, between f32 and i32; floats round toward zero and saturate on the way to integers.
    Cast { to: DType },

    // Reductions and losses.
    /// `x -> y`: over `axes`, which stay as 1 if `keep`.
    Reduce { f: ReduceFn, axes: Vec<usize>, keep: bool },
    /// `x -> y`: exponentials normalised to sum 1 over `axis`.
    Softmax { axis: usize },
    /// `y, dy -> dx`: gradient of Softmax from its output.
    SoftmaxGrad { axis: usize },
    /// `x -> log(softmax(x))` over `axis`, in the stable form.
    LogSoftmax { axis: usize },
    /// `logits[N,K], target[N,K] -> loss[]`: mean over N of the cross-entropy with target probabilities (soft labels, smoothing, mixup).
    CrossEntropy,
    /// `logits, target, dloss[] -> dlogits`: gradient of CrossEntropy; the targets get none.
    CrossEntropyGrad,

    // Movement.
    /// `x -> y` with the same elements in the same order.
    Reshape { shape: Shape },
    /// `x -> y`: axis i of the result is axis `perm[i]` of `x`.
    Transpose { perm: Vec<usize> },
    /// `x -> y`: broadcast to `shape` as in NumPy.
    Expand { shape: Shape },
    /// `x, ... -> y`: joined along `axis`.
    Concat { axis: usize },
    /// `x -> y`: elements `start..end` of `axis`.
    Slice { axis: usize, start: usize, end: usize },
    /// `x -> y`: `before` and `after` elements of `value` around `axis`.
    Pad { axis: usize, before: usize, after: usize, value: f32 },
    /// `table, index i32[..] -> y`: slices of `table` along `axis`; an embedding is a gather along axis 0.
    Gather { axis: usize },
    /// `index i32[..], dy -> dtable`: gradient of Gather for a table with `size` slices; repeated indices add up.
    GatherGrad { axis: usize, size: usize },

    // Integers, in the arithmetic of ONNX Runtime's operators, so that what comes from there gives the same bits here. Sums
    // are those of i32; every product, sum and quotient of floats is rounded to f32, `fma` once for both; `round` rounds to
    // the nearest integer, ties to even.
    /// `x -> y q8`: `clamp(round(x / scale) + zero, 0, 255)`, as ONNX has it.
    Quantize { to: Quant },
    /// `x q8 -> y`: `(q - zero) * scale`.
    Dequantize,
    /// `x q8[N,C,H,W], w s8[O,C/groups,kh,kw], scale[O], bias i32[O] (, r q8[N,O,H',W']) -> y[N,O,H',W']`: Conv with the weights `scale * w` and the bias `scale * scale_x * bias`, plus `r`. With the sum `a` of `bias` and `w * (q - zero)`, which wraps, `v = f32(a) * ((scale * scale_x) / s)`, then `v = fma(r - zero_r, scale_r / s, v)`; `y = clamp(round(v) + z, lo, hi)` for `to` of `q8(s,z)`, or `y = v` for f32, where `s` is 1.
    QConv { window: Window, groups: usize, to: DType, #[doc = "`lo` and `hi`, which say ReLU and its like; `[0,255]` where `to` is f32."] limits: [u8; 2] },
    /// `a q8, b q8 -> y q8`, of one shape: with the factors `f = scale_a / s` and `g = scale_b / s`, `v = fma(a, f, fma(b, g, z - (f * zero_a + g * zero_b)))`, `y = clamp(round(v), lo, hi)`.
    QAdd { to: Quant, #[doc = "`lo` and `hi`."] limits: [u8; 2] },
    /// `a q8, b q8 -> y q8`, where `b` has the shape of `a[N,C,H,W]`, or `[N,C,1,1]`: `clamp(round((a - zero_a) * (b - zero_b) * f + z), lo, hi)` with `f = scale_a * scale_b / s`, computed in f64 and rounded once.
    QMul { to: Quant, #[doc = "`lo` and `hi`."] limits: [u8; 2] },
    /// `x q8[N,C,H,W] -> y q8`: `clamp(round(fma(a, (scale_x / s) / count, z)), 0, 255)` with the sum `a` of `q - zero` over the window; padding counts only if `count_pad`.
    QAvgPool { window: Window, count_pad: bool, to: Quant },
    /// `x q8, table u8[256] -> y q8`: `table[q]`, any function of a byte.
    Table { to: Quant },

    // Training state.
    /// `g, ... -> norm[]`: Euclidean norm over all inputs together.
    GlobalNorm,
    /// `w, g, m, lr[], scale[] -> w', m'`: with `g' = scale g + decay w`, `m' = momentum m + g'`, `w' = w - lr (g' + momentum m')` if Nesterov, else `w - lr m'` (PyTorch's form).
    Sgd { momentum: f32, nesterov: bool, decay: f32 },
    /// `w, g, m, v, lr[], scale[], step[] -> w', m', v'`: decoupled weight decay (Loshchilov and Hutter 2019); `step` counts from 1.
    AdamW { beta1: f32, beta2: f32, eps: f32, decay: f32 },
    /// `average, value, decay[] -> average'`: `decay average + (1 - decay) value`, the exponential moving average; a decay of 0 gives `value` exactly.
    Ema,
}
