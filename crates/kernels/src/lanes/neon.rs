//! Four registers of 64-bit Arm, where NEON is always there.

// SAFETY of every block in this module: the contract of `Lanes`; NEON is part of the target.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::*;

use super::{LANES, Lanes, ROUND, TWO_THIRDS};

/// Sixteen f32 in four registers.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) [float32x4_t; 4]);

#[inline(always)]
fn each(f: impl Fn(usize) -> float32x4_t) -> Neon {
    Neon(std::array::from_fn(f))
}

/// As [`super::pow2`].
#[inline(always)]
unsafe fn pow2(n: float32x4_t) -> float32x4_t {
    unsafe {
        let biased = vreinterpretq_s32_f32(vaddq_f32(n, vdupq_n_f32(ROUND + 127.0)));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
    }
}

/// `x * 2^n` in two steps, so that neither power leaves f32.
#[inline(always)]
unsafe fn scale(x: float32x4_t, n: float32x4_t) -> float32x4_t {
    unsafe {
        let round = vdupq_n_f32(ROUND);
        let half = vsubq_f32(vfmaq_f32(round, n, vdupq_n_f32(0.5)), round);
        vmulq_f32(vmulq_f32(x, pow2(half)), pow2(vsubq_f32(n, half)))
    }
}

#[inline(always)]
unsafe fn split(x: float32x4_t) -> (float32x4_t, float32x4_t) {
    unsafe {
        let bits = vreinterpretq_s32_f32(x);
        let e = vshrq_n_s32::<23>(vsubq_s32(bits, vdupq_n_s32(TWO_THIRDS)));
        let m = vsubq_s32(bits, vshlq_n_s32::<23>(e));
        (vreinterpretq_f32_s32(m), vcvtq_f32_s32(e))
    }
}

/// Swaps rows and columns by pairs, then by pairs of pairs.
#[inline(always)]
unsafe fn transpose4(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    unsafe {
        let wide = |v| vreinterpretq_f64_f32(v);
        let narrow = |v| vreinterpretq_f32_f64(v);
        let (even, odd) = (
            [vtrn1q_f32(r[0], r[1]), vtrn1q_f32(r[2], r[3])],
            [vtrn2q_f32(r[0], r[1]), vtrn2q_f32(r[2], r[3])],
        );
        [
            narrow(vtrn1q_f64(wide(even[0]), wide(even[1]))),
            narrow(vtrn1q_f64(wide(odd[0]), wide(odd[1]))),
            narrow(vtrn2q_f64(wide(even[0]), wide(even[1]))),
            narrow(vtrn2q_f64(wide(odd[0]), wide(odd[1]))),
        ]
    }
}

impl Lanes for Neon {
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        unsafe { Neon([vdupq_n_f32(v); 4]) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        each(|i| unsafe { vld1q_f32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        (0..4).for_each(|i| unsafe { vst1q_f32(p.add(4 * i), self.0[i]) });
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        each(|i| unsafe { vaddq_f32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        each(|i| unsafe { vsubq_f32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        each(|i| unsafe { vmulq_f32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        each(|i| unsafe { vdivq_f32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { self.select_gt(b, self, b) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { b.select_gt(self, self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        each(|i| unsafe { vfmaq_f32(c.0[i], self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, yes: Self, no: Self) -> Self {
        each(|i| unsafe { vbslq_f32(vcgtq_f32(self.0[i], b.0[i]), yes.0[i], no.0[i]) })
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        each(|i| unsafe { vsqrtq_f32(self.0[i]) })
    }
    #[inline(always)]
    unsafe fn nan_or(self, b: Self) -> Self {
        each(|i| unsafe { vbslq_f32(vceqq_f32(self.0[i], self.0[i]), b.0[i], self.0[i]) })
    }
    #[inline(always)]
    unsafe fn scale2(self, n: Self) -> Self {
        each(|i| unsafe { scale(self.0[i], n.0[i]) })
    }
    #[inline(always)]
    unsafe fn split(self) -> (Self, Self) {
        unsafe {
            let parts = self.0.map(|x| split(x));
            (Neon(parts.map(|(m, _)| m)), Neon(parts.map(|(_, e)| e)))
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize, rest: Self) -> Self {
        let mut lanes = unsafe { rest.to_array() };
        unsafe { std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n) };
        unsafe { Self::from_array(lanes) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        let lanes = unsafe { self.to_array() };
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n) };
    }
    #[inline(always)]
    unsafe fn swap<const N: usize>(self) -> Self {
        match N {
            1 => each(|i| unsafe { vrev64q_f32(self.0[i]) }),
            2 => each(|i| unsafe { vextq_f32::<2>(self.0[i], self.0[i]) }),
            4 => each(|i| self.0[i ^ 1]),
            8 => each(|i| self.0[i ^ 2]),
            _ => unreachable!("lanes are swapped by 1, 2, 4 or 8"),
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut out = rows;
        for i in 0..4 {
            for j in 0..4 {
                let block = unsafe { transpose4(std::array::from_fn(|k| rows[4 * i + k].0[j])) };
                for k in 0..4 {
                    out[4 * j + k].0[i] = block[k];
                }
            }
        }
        out
    }
}
