//! The element functions of the vocabulary, twice: over lanes, where value and derivative of each are one line of a table,
//! and exactly in f64, for the reference.

// SAFETY of every block in this module: the contract of `Lanes`.
#![allow(clippy::undocumented_unsafe_blocks)]

use crate::lanes::Lanes;
use crate::math::{abs, clip, erf, exp, log, max_nan, min_nan, neg, normal, sigmoid, tanh};
use espalier_graph::{UnaryFn, normal_cdf};

/// Parameters of a [`Function`], in the order of its enum variant.
pub(crate) type Params = [f32; 2];

/// An element function of one argument.
pub(crate) trait Function {
    unsafe fn value<V: Lanes>(params: Params, x: V) -> V;
    unsafe fn derivative<V: Lanes>(params: Params, x: V) -> V;
}

/// An element function of two arguments.
pub(crate) trait Function2 {
    unsafe fn value<V: Lanes>(a: V, b: V) -> V;
}

/// One type for each row `Name { params } x => value, derivative`, and the callers of a macro `$call!(Name)` for each.
macro_rules! functions {
    ($($name:ident $({ $($p:ident),+ })? $x:ident => $value:expr, $derivative:expr;)+) => {
        $(pub(crate) struct $name;
        impl Function for $name {
            #[inline(always)]
            unsafe fn value<V: Lanes>(params: Params, $x: V) -> V {
                let [$($($p,)+)? ..] = params;
                unsafe { $value }
            }
            #[inline(always)]
            #[allow(unused_variables)]
            unsafe fn derivative<V: Lanes>(params: Params, $x: V) -> V {
                let [$($($p,)+)? ..] = params;
                unsafe { $derivative }
            }
        })+

        /// Calls `visitor` with the type of `f` and its parameters.
        pub(crate) fn visit<R>(f: UnaryFn, visitor: impl Visitor<R>) -> R {
            match f {
                $(UnaryFn::$name $({ $($p),+ })? => visitor.visit::<$name>(params(&[$($($p),+)?])),)+
            }
        }
    };
}

/// What [`visit`] calls.
pub(crate) trait Visitor<R> {
    fn visit<F: Function>(self, params: Params) -> R;
}

fn params(given: &[f32]) -> Params {
    std::array::from_fn(|i| given.get(i).copied().unwrap_or(0.0))
}

functions! {
    Relu x => V::zero().max(x), positive(x);
    Clip { lo, hi } x => clip(x, lo, hi), between(x, lo, hi);
    LeakyRelu { slope } x => x.select_gt(V::zero(), x, x.mul(V::splat(slope))), x.select_gt(V::zero(), V::splat(1.0), V::splat(slope));
    Sigmoid x => sigmoid(x), bump(sigmoid(x));
    Silu x => { let x = V::splat(-HUGE).max(x); x.mul(sigmoid(x)) }, silu_derivative(clip(x, -HUGE, HUGE));
    HardSwish x => V::splat(-3.0).max(x).mul(ramp(x)), ramp(x).add(clip(x, -3.0, 3.0).mul(between(x, -3.0, 3.0)).mul(V::splat(SIXTH)));
    HardSigmoid { alpha, beta } x => clip(affine(x, alpha, beta), 0.0, 1.0), between(affine(x, alpha, beta), 0.0, 1.0).mul(V::splat(alpha));
    Gelu x => { let x = V::splat(-HUGE).max(x); x.mul(normal(x).0) }, gelu_derivative(clip(x, -HUGE, HUGE));
    Erf x => erf(x), exp(neg(x.mul(x))).mul(V::splat(std::f32::consts::FRAC_2_SQRT_PI));
    Tanh x => tanh(x), { let y = tanh(x); V::splat(1.0).sub(y.mul(y)) };
    Exp x => exp(x), exp(x);
    Log x => log(x), V::splat(1.0).div(x);
    Sqrt x => x.sqrt(), V::splat(0.5).div(x.sqrt());
    Abs x => abs(x), x.select_gt(V::zero(), V::splat(1.0), V::zero().select_gt(x, V::splat(-1.0), V::zero()));
    Neg x => neg(x), V::splat(-1.0);
    Reciprocal x => V::splat(1.0).div(x), V::splat(-1.0).div(x.mul(x));
    Affine { scale, offset } x => affine(x, scale, offset), V::splat(scale);
    Round x => round(x), V::splat(1.0);
}

/// From here on every f32 is an integer, and so is every sum of it and less.
const INTEGERS: f32 = 8_388_608.0;

/// The nearest integer, ties to even, as the rounding of a sum gives it.
#[inline(always)]
unsafe fn round<V: Lanes>(x: V) -> V {
    unsafe {
        let magnitude = abs(x);
        let rounded = magnitude.add(V::splat(INTEGERS)).sub(V::splat(INTEGERS));
        let signed = V::zero().select_gt(x, neg(rounded), rounded);
        magnitude.select_gt(V::splat(INTEGERS - 1.0), x, signed)
    }
}

/// A bound that loses nothing but the product of infinity and zero.
const HUGE: f32 = 1e30;
const SIXTH: f32 = 1.0 / 6.0;

#[inline(always)]
unsafe fn affine<V: Lanes>(x: V, scale: f32, offset: f32) -> V {
    unsafe { x.mul_add(V::splat(scale), V::splat(offset)) }
}

/// 1 where `x > 0`, else 0.
#[inline(always)]
unsafe fn positive<V: Lanes>(x: V) -> V {
    unsafe { x.select_gt(V::zero(), V::splat(1.0), V::zero()) }
}

/// 1 where `lo < x < hi`, else 0.
#[inline(always)]
unsafe fn between<V: Lanes>(x: V, lo: f32, hi: f32) -> V {
    unsafe { x.select_gt(V::splat(lo), V::splat(hi).select_gt(x, V::splat(1.0), V::zero()), V::zero()) }
}

/// `clip(x / 6 + 1/2, 0, 1)`.
#[inline(always)]
unsafe fn ramp<V: Lanes>(x: V) -> V {
    unsafe { clip(affine(x, SIXTH, 0.5), 0.0, 1.0) }
}

/// `s (1 - s)`.
#[inline(always)]
unsafe fn bump<V: Lanes>(s: V) -> V {
    unsafe { s.mul(V::splat(1.0).sub(s)) }
}

#[inline(always)]
unsafe fn silu_derivative<V: Lanes>(x: V) -> V {
    unsafe {
        let s = sigmoid(x);
        x.mul_add(bump(s), s)
    }
}

#[inline(always)]
unsafe fn gelu_derivative<V: Lanes>(x: V) -> V {
    unsafe {
        let (cdf, density) = normal(x);
        x.mul_add(density, cdf)
    }
}

macro_rules! functions2 {
    ($($name:ident $a:ident $b:ident => $value:expr;)+) => {
        $(pub(crate) struct $name;
        impl Function2 for $name {
            #[inline(always)]
            unsafe fn value<V: Lanes>($a: V, $b: V) -> V {
                unsafe { $value }
            }
        })+
    };
}

functions2! {
    Add a b => a.add(b);
    Sub a b => a.sub(b);
    Mul a b => a.mul(b);
    Div a b => a.div(b);
    Max a b => max_nan(a, b);
    Min a b => min_nan(a, b);
    Pow a b => pow(a, b);
    Step a b => a.nan_or(b.nan_or(a.select_gt(b, V::splat(1.0), b.select_gt(a, V::zero(), V::splat(0.5)))));
}

/// Through f64 and lane by lane, since `exp(b log a)` in f32 is off by `b log a` ulp.
#[inline(always)]
unsafe fn pow<V: Lanes>(a: V, b: V) -> V {
    unsafe {
        let (a, b) = (a.to_array(), b.to_array());
        V::from_array(std::array::from_fn(|i| a[i].powf(b[i])))
    }
}

/// `f'(x)`, exact in f64.
pub(crate) fn unary_derivative(f: UnaryFn, x: f64) -> f64 {
    let inside = |x: f64, lo: f64, hi: f64| f64::from(u8::from(lo < x && x < hi));
    let smooth = matches!(f, UnaryFn::Silu | UnaryFn::HardSwish | UnaryFn::Gelu);
    match f {
        _ if smooth && x == f64::INFINITY => 1.0,
        _ if smooth && x == f64::NEG_INFINITY => 0.0,
        UnaryFn::Relu => inside(x, 0.0, f64::INFINITY).max(f64::from(u8::from(x == f64::INFINITY))),
        UnaryFn::Clip { lo, hi } => inside(x, lo.into(), hi.into()),
        UnaryFn::LeakyRelu { slope } => {
            if x > 0.0 {
                1.0
            } else {
                slope.into()
            }
        }
        UnaryFn::Sigmoid => f.value(x) * f.value(-x),
        UnaryFn::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            s + x * s * (1.0 - s)
        }
        UnaryFn::HardSwish if x <= -3.0 => 0.0,
        UnaryFn::HardSwish => {
            if x >= 3.0 {
                1.0
            } else {
                x / 3.0 + 0.5
            }
        }
        UnaryFn::HardSigmoid { alpha, beta } => {
            f64::from(alpha) * inside(f64::from(alpha) * x + f64::from(beta), 0.0, 1.0)
        }
        UnaryFn::Gelu => normal_cdf(x) + x * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt(),
        UnaryFn::Erf => std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp(),
        UnaryFn::Tanh => x.cosh().powi(-2),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => 1.0 / x,
        UnaryFn::Sqrt => 0.5 / x.sqrt(),
        UnaryFn::Abs => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        UnaryFn::Neg => -1.0,
        UnaryFn::Reciprocal => -1.0 / (x * x),
        UnaryFn::Affine { scale, .. } => scale.into(),
        UnaryFn::Round => 1.0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::values;

    pub(crate) const FUNCTIONS: [UnaryFn; 19] = [
        UnaryFn::Relu,
        UnaryFn::Clip { lo: 0.0, hi: 6.0 },
        UnaryFn::Clip { lo: -0.5, hi: 0.25 },
        UnaryFn::LeakyRelu { slope: 0.1 },
        UnaryFn::Sigmoid,
        UnaryFn::Silu,
        UnaryFn::HardSwish,
        UnaryFn::HardSigmoid { alpha: 0.2, beta: 0.5 },
        UnaryFn::Gelu,
        UnaryFn::Erf,
        UnaryFn::Tanh,
        UnaryFn::Exp,
        UnaryFn::Log,
        UnaryFn::Sqrt,
        UnaryFn::Abs,
        UnaryFn::Neg,
        UnaryFn::Reciprocal,
        UnaryFn::Affine { scale: -2.5, offset: 0.75 },
        UnaryFn::Round,
    ];

    #[test]
    fn reference_derivatives_are_those_of_the_values() {
        // That of rounding is what it should be, not what it is.
        for f in FUNCTIONS.into_iter().filter(|f| *f != UnaryFn::Round) {
            for x in values(3, 100).iter().map(|v| f64::from(v * 5.0)) {
                let h = 1e-5;
                let difference = (f.value(x + h) - f.value(x - h)) / (2.0 * h);
                let slope = unary_derivative(f, x);
                let close = (slope - difference).abs() < 1e-5 * (1.0 + slope.abs());
                assert!(close || (x < 0.0 && difference.is_nan()), "{f:?} at {x}: {slope}, {difference}");
            }
        }
    }
}
