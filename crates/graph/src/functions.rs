//! What the element functions mean: their exact values, in f64.

use crate::op::{BinaryFn, UnaryFn};

impl UnaryFn {
    /// `f(x)`, exact in f64.
    pub fn value(self, x: f64) -> f64 {
        let clip = |x: f64, lo: f64, hi: f64| {
            if x < lo {
                lo
            } else if x > hi {
                hi
            } else {
                x
            }
        };
        match self {
            UnaryFn::Relu => clip(x, 0.0, f64::INFINITY),
            UnaryFn::Clip { lo, hi } => clip(x, lo.into(), hi.into()),
            UnaryFn::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(slope) * x
                }
            }
            UnaryFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            UnaryFn::Silu | UnaryFn::HardSwish | UnaryFn::Gelu if x == f64::NEG_INFINITY => 0.0,
            UnaryFn::Silu => x / (1.0 + (-x).exp()),
            UnaryFn::HardSwish => x * clip(x / 6.0 + 0.5, 0.0, 1.0),
            UnaryFn::HardSigmoid { alpha, beta } => clip(f64::from(alpha) * x + f64::from(beta), 0.0, 1.0),
            UnaryFn::Gelu => x * normal_cdf(x),
            UnaryFn::Erf => erf(x),
            UnaryFn::Tanh => x.tanh(),
            UnaryFn::Exp => x.exp(),
            UnaryFn::Log => x.ln(),
            UnaryFn::Sqrt => x.sqrt(),
            UnaryFn::Abs => x.abs(),
            UnaryFn::Neg => -x,
            UnaryFn::Reciprocal => 1.0 / x,
            UnaryFn::Affine { scale, offset } => f64::from(scale) * x + f64::from(offset),
            UnaryFn::Round => x.round_ties_even(),
        }
    }
}

impl BinaryFn {
    /// `f(a, b)`, exact in f64.
    pub fn value(self, a: f64, b: f64) -> f64 {
        match self {
            BinaryFn::Add => a + b,
            BinaryFn::Sub => a - b,
            BinaryFn::Mul => a * b,
            BinaryFn::Div => a / b,
            BinaryFn::Pow => a.powf(b),
            BinaryFn::Max | BinaryFn::Min | BinaryFn::Step if a.is_nan() || b.is_nan() => f64::NAN,
            BinaryFn::Max => a.max(b),
            BinaryFn::Min => a.min(b),
            BinaryFn::Step => {
                if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                }
            }
        }
    }
}

/// Distribution function of the normal distribution. Near zero by the series of erf whose terms are all positive
/// (Abramowitz and Stegun 7.1.6), in the tails by the continued fraction (26.2.14).
pub fn normal_cdf(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() > 5.0 {
        let fraction = (1..200).rev().fold(x.abs(), |below, k| x.abs() + f64::from(k) / below);
        let tail = density / fraction;
        return if x > 0.0 { 1.0 - tail } else { tail };
    }
    0.5 + density * series(x)
}

/// `x + x^3 / 3 + x^5 / (3 * 5) + ...`
fn series(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (x, 0.0, 1.0);
    while f64::abs(term) > 1e-18 * f64::abs(sum) {
        sum += term;
        k += 2.0;
        term *= x * x / k;
    }
    sum
}

/// The error function, without cancellation near zero.
fn erf(x: f64) -> f64 {
    let z = x * std::f64::consts::SQRT_2;
    if z.abs() > 5.0 {
        2.0 * normal_cdf(z) - 1.0
    } else {
        2.0 * (-x * x).exp() / std::f64::consts::TAU.sqrt() * series(z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_cdf_is_exact() {
        let cases = [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-2.0, 0.022_750_131_948_179_21),
            (-4.9, 4.791_832_765_903_203e-7),
            (-5.1, 1.698_267_406_621_486e-7),
            (-10.0, 7.619_853_024_160_527e-24),
        ];
        for (x, want) in cases {
            let got = normal_cdf(x);
            assert!((got - want).abs() < 1e-12 * want + 1e-16, "{x}: {got:e}, {want:e}");
        }
    }
}
