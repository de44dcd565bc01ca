//! Activations that kernels apply to their results before they store them.

use crate::functions::{Clip, Function, HardSwish, Params, Visitor};
use crate::lanes::Lanes;
use espalier_graph::UnaryFn;

/// What a kernel does to each of its results in the same pass; NaN stays NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// Lower and upper bound: `[0, inf]` for ReLU.
    Clip([f32; 2]),
    /// `x * clip(x / 6 + 1/2, 0, 1)`.
    HardSwish,
}

impl Activation {
    /// The activation that computes `f`, where there is one.
    pub fn of(f: UnaryFn) -> Option<Activation> {
        match f {
            UnaryFn::Relu => Some(Activation::Clip([0.0, f32::INFINITY])),
            UnaryFn::Clip { lo, hi } => Some(Activation::Clip([lo, hi])),
            UnaryFn::HardSwish => Some(Activation::HardSwish),
            _ => None,
        }
    }

    /// Bounds of the result, where the activation is nothing else.
    pub fn bounds(self) -> Option<[f32; 2]> {
        match self {
            Activation::Identity => Some([f32::NEG_INFINITY, f32::INFINITY]),
            Activation::Clip(bounds) => Some(bounds),
            Activation::HardSwish => None,
        }
    }

    /// What a kernel's name says of it.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Activation::Identity => "",
            Activation::Clip(_) => " + clamp",
            Activation::HardSwish => " + hardswish",
        }
    }

    /// Calls `visitor` with the function and its parameters.
    pub(crate) fn visit<R>(self, visitor: impl Visitor<R>) -> R {
        match self {
            Activation::Identity => visitor.visit::<Identity>([0.0; 2]),
            Activation::Clip(bounds) => visitor.visit::<Clip>(bounds),
            Activation::HardSwish => visitor.visit::<HardSwish>([0.0; 2]),
        }
    }

    /// The function's value, inside of a function made by `multiversion!`.
    #[inline(always)]
    pub(crate) unsafe fn value<V: Lanes>(self, x: V) -> V {
        // SAFETY: the caller's instruction set.
        unsafe {
            match self {
                Activation::Identity => x,
                Activation::Clip(bounds) => Clip::value(bounds, x),
                Activation::HardSwish => HardSwish::value([0.0; 2], x),
            }
        }
    }
}

/// The function of [`Activation::Identity`].
pub(crate) struct Identity;

impl Function for Identity {
    #[inline(always)]
    unsafe fn value<V: Lanes>(_: Params, x: V) -> V {
        x
    }
    #[inline(always)]
    unsafe fn derivative<V: Lanes>(_: Params, _: V) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { V::splat(1.0) }
    }
}

/// The activations that tests go through, and their exact values and slopes.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::functions::unary_derivative;

    pub(crate) const ACTIVATIONS: [Activation; 4] = [
        Activation::Identity,
        Activation::Clip([0.0, f32::INFINITY]),
        Activation::Clip([-0.3, 0.5]),
        Activation::HardSwish,
    ];

    fn function(activation: Activation) -> UnaryFn {
        match activation {
            Activation::Identity => UnaryFn::Affine { scale: 1.0, offset: 0.0 },
            Activation::Clip([lo, hi]) => UnaryFn::Clip { lo, hi },
            Activation::HardSwish => UnaryFn::HardSwish,
        }
    }

    pub(crate) fn exact(activation: Activation, x: f64) -> f64 {
        function(activation).value(x)
    }

    pub(crate) fn exact_slope(activation: Activation, x: f64) -> f64 {
        unary_derivative(function(activation), x)
    }

    #[test]
    fn every_activation_is_the_one_of_its_function() {
        for activation in ACTIVATIONS.into_iter().filter(|&a| a != Activation::Identity) {
            assert_eq!(Activation::of(function(activation)), Some(activation));
        }
        assert_eq!(Activation::of(UnaryFn::Relu), Some(Activation::Clip([0.0, f32::INFINITY])));
        assert_eq!(Activation::of(UnaryFn::Tanh), None);
    }
}
