//! Transcendental functions over lanes: argument reduction and minimax polynomials, fitted for this file in relative
//! error. The same algorithm runs on every instruction set; NaN gives NaN.

// SAFETY of every block in this module: the contract of `Lanes`.
#![allow(clippy::undocumented_unsafe_blocks)]

use crate::lanes::{Lanes, ROUND};

/// 355 / 512: its products with exponents are exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// `(exp(r) - 1 - r) / r^2` for `|r| < ln 2 / 2`.
const EXP: [f32; 5] = [0.49999997, 0.16666539, 0.041667223, 0.008367181, 0.001388239];

/// `(ln(1 + f) - f) / f^2` for `|f| < 1/3`.
const LOG: [f32; 9] = [
    -0.5,
    0.33333206,
    -0.2499971,
    0.20010959,
    -0.16682616,
    0.13997342,
    -0.121_626_47,
    0.14025144,
    -0.12970018,
];

/// `Q(y) exp(y^2 / 2) / t` in `t = 1 / (1 + 0.3 y)`, where `Q` is the upper tail of the normal distribution, `y` in 0..14.
const TAIL: [f32; 10] = [
    0.11968669,
    0.11957181,
    0.11023542,
    0.07838966,
    0.096156806,
    -0.07942344,
    0.19178449,
    -0.22821356,
    0.1124356,
    -0.020623466,
];
const TAIL_SCALE: f32 = 0.3;

/// Horner's scheme.
#[inline(always)]
unsafe fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: &[f32; N]) -> V {
    unsafe {
        let mut y = V::splat(coefficients[N - 1]);
        for i in (0..N - 1).rev() {
            y = y.mul_add(x, V::splat(coefficients[i]));
        }
        y
    }
}

/// `min(max(x, lo), hi)`; NaN stays.
#[inline(always)]
pub(crate) unsafe fn clip<V: Lanes>(x: V, lo: f32, hi: f32) -> V {
    unsafe { V::splat(hi).min(V::splat(lo).max(x)) }
}

#[inline(always)]
pub(crate) unsafe fn neg<V: Lanes>(x: V) -> V {
    unsafe { x.mul(V::splat(-1.0)) }
}

#[inline(always)]
pub(crate) unsafe fn abs<V: Lanes>(x: V) -> V {
    unsafe { x.max(V::zero().sub(x)) }
}

/// The larger, NaN where either is NaN.
#[inline(always)]
pub(crate) unsafe fn max_nan<V: Lanes>(a: V, b: V) -> V {
    unsafe { a.nan_or(a.max(b)) }
}

/// The smaller, NaN where either is NaN.
#[inline(always)]
pub(crate) unsafe fn min_nan<V: Lanes>(a: V, b: V) -> V {
    unsafe { a.nan_or(a.min(b)) }
}

/// `(n, exp(r) - 1)` with `x = n ln 2 + r`, `|r| < ln 2 / 2`.
#[inline(always)]
unsafe fn reduced_expm1<V: Lanes>(x: V) -> (V, V) {
    unsafe {
        let round = V::splat(ROUND);
        let n = x.mul_add(V::splat(std::f32::consts::LOG2_E), round).sub(round);
        let r = n.mul_add(V::splat(-LN2_LO), n.mul_add(V::splat(-LN2_HI), x));
        (n, r.mul(r).mul_add(polynomial(r, &EXP), r))
    }
}

/// The natural exponential; relative error below 2e-7 where the result is normal.
#[inline(always)]
pub(crate) unsafe fn exp<V: Lanes>(x: V) -> V {
    unsafe {
        let (n, e) = reduced_expm1(clip(x, -104.0, 89.0));
        e.add(V::splat(1.0)).scale2(n)
    }
}

/// The natural logarithm; relative error below 3e-7.
#[inline(always)]
pub(crate) unsafe fn log<V: Lanes>(x: V) -> V {
    unsafe {
        let normal = V::splat(f32::MIN_POSITIVE);
        let scaled = normal.select_gt(x, x.mul(V::splat((1u32 << 24) as f32)), x);
        let (m, e) = scaled.split();
        let e = normal.select_gt(x, e.sub(V::splat(24.0)), e);
        let f = m.sub(V::splat(1.0));
        let tail = f.mul(f).mul_add(polynomial(f, &LOG), e.mul(V::splat(LN2_LO)));
        let y = e.mul_add(V::splat(LN2_HI), f.add(tail));
        let y = x.select_gt(V::splat(f32::MAX), x, y);
        let outside = V::zero().select_gt(x, V::splat(f32::NAN), V::splat(f32::NEG_INFINITY));
        x.nan_or(x.select_gt(V::zero(), y, outside))
    }
}

/// `1 / (1 + exp(-x))`; relative error below 3e-7.
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Lanes>(x: V) -> V {
    unsafe {
        let one = V::splat(1.0);
        one.div(one.add(exp(neg(x))))
    }
}

/// Hyperbolic tangent as `e / (e + 2)` with `e = exp(2x) - 1`; relative error below 4e-7.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Lanes>(x: V) -> V {
    unsafe {
        let (n, p) = reduced_expm1(clip(x, -9.1, 9.1).mul(V::splat(2.0)));
        let power = V::splat(1.0).scale2(n);
        let e = p.mul_add(power, power.sub(V::splat(1.0)));
        e.div(e.add(V::splat(2.0)))
    }
}

/// Distribution function and density of the normal distribution; the former keeps its relative accuracy in the lower
/// tail, as `(1 + erf(x / sqrt 2)) / 2` would not.
#[inline(always)]
pub(crate) unsafe fn normal<V: Lanes>(x: V) -> (V, V) {
    unsafe {
        let one = V::splat(1.0);
        let bell = exp(x.mul(x).mul(V::splat(-0.5)));
        let t = one.div(abs(x).mul_add(V::splat(TAIL_SCALE), one));
        let tail = bell.mul(t).mul(polynomial(t, &TAIL));
        let cdf = x.select_gt(V::zero(), one.sub(tail), tail);
        (cdf, bell.mul(V::splat(0.398_942_3)))
    }
}

/// The error function: near zero by its Taylor series, elsewhere from the tail of the normal distribution; relative
/// error below 1e-6.
#[inline(always)]
pub(crate) unsafe fn erf<V: Lanes>(x: V) -> V {
    unsafe {
        let square = x.mul(x);
        let near = x.mul(polynomial(square, &ERF));
        let size = abs(x);
        let beyond = V::splat(-2.0)
            .mul_add(normal(neg(size.mul(V::splat(std::f32::consts::SQRT_2)))).0, V::splat(1.0));
        let far = x.select_gt(V::zero(), beyond, neg(beyond));
        let y = size.select_gt(V::splat(0.5), far, near);
        x.nan_or(y)
    }
}

/// `2 / sqrt(pi) (-1)^n / (n! (2 n + 1))`.
const ERF: [f32; 6] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    -0.376_126_4,
    0.112_837_92,
    -0.026_866_17,
    0.005_223_978,
    -0.000_854_832_7,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, multiversion};

    macro_rules! over_slice {
        ($($pick:ident $body:ident $f:ident),*) => {$(
            multiversion!(fn $pick(x: &mut [f32; 16]) = $body);
            #[inline(always)]
            unsafe fn $body<V: Lanes>(x: &mut [f32; 16]) {
                unsafe { $f(V::load(x.as_ptr())).store(x.as_mut_ptr()) }
            }
        )*};
    }
    #[inline(always)]
    unsafe fn cdf<V: Lanes>(x: V) -> V {
        unsafe { normal(x).0 }
    }
    over_slice!(pick_exp exp_body exp, pick_log log_body log, pick_sigmoid sigmoid_body sigmoid);
    over_slice!(pick_tanh tanh_body tanh, pick_cdf cdf_body cdf, pick_erf erf_body erf);

    /// Largest relative error over `lo..hi` in steps of `step`.
    fn check(
        name: &str,
        pick: fn(Isa) -> unsafe fn(&mut [f32; 16]),
        exact: fn(f64) -> f64,
        range: [f32; 2],
        tolerance: f64,
    ) {
        let steps = 100_000;
        for isa in Isa::available() {
            let mut worst = (0.0, 0.0);
            for i in 0..steps / 16 {
                let x: [f32; 16] = std::array::from_fn(|lane| {
                    range[0] + (range[1] - range[0]) * (16 * i + lane) as f32 / steps as f32
                });
                let mut y = x;
                unsafe { pick(isa)(&mut y) };
                for (x, y) in x.into_iter().zip(y) {
                    let want = exact(f64::from(x));
                    let error = (f64::from(y) - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE));
                    if error > worst.0 || y.is_nan() {
                        worst = (if y.is_nan() { f64::INFINITY } else { error }, x);
                    }
                }
            }
            assert!(worst.0 < tolerance, "{name} {isa}: relative error {:e} at {}", worst.0, worst.1);
        }
    }

    #[test]
    fn accuracy() {
        check("exp", pick_exp, f64::exp, [-87.3, 88.7], 2e-7);
        check("exp", pick_exp, f64::exp, [-1.0, 1.0], 2e-7);
        check("log", pick_log, f64::ln, [1e-3, 2.0], 3e-7);
        check("log", pick_log, f64::ln, [0.99, 1.01], 3e-7);
        check("log", pick_log, f64::ln, [1.0, 1e30], 3e-7);
        check("log", pick_log, f64::ln, [1e-44, 1e-37], 3e-7);
        check("sigmoid", pick_sigmoid, |x| 1.0 / (1.0 + (-x).exp()), [-87.0, 88.0], 3e-7);
        check("tanh", pick_tanh, f64::tanh, [-1.0, 1.0], 4e-7);
        check("tanh", pick_tanh, f64::tanh, [-12.0, 12.0], 4e-7);
        let phi = espalier_graph::normal_cdf;
        check("cdf", pick_cdf, phi, [-4.0, 9.0], 2e-6);
        let erf = |x| espalier_graph::UnaryFn::Erf.value(x);
        check("erf", pick_erf, erf, [-0.6, 0.6], 1e-6);
        check("erf", pick_erf, erf, [-6.0, 6.0], 1e-6);
    }
}
