//! Four registers of 64-bit Arm.

// SAFETY of every block in this module: the contract of `Sums`; NEON is part of the target.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::*;

use super::{Limits, Sums, collect_pixels, spread_pixels};
use crate::lanes;

/// Sixteen i32 in four registers.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) [int32x4_t; 4]);

#[inline(always)]
fn each(f: impl Fn(usize) -> int32x4_t) -> Neon {
    Neon(std::array::from_fn(f))
}

#[inline(always)]
unsafe fn widen(bytes: uint8x16_t) -> [int32x4_t; 4] {
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        [
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
            vreinterpretq_s32_u32(vmovl_high_u16(low)),
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
            vreinterpretq_s32_u32(vmovl_high_u16(high)),
        ]
    }
}

/// Saturating and limited.
#[inline(always)]
unsafe fn narrow(v: [int32x4_t; 4], limits: Limits) -> uint8x16_t {
    unsafe {
        let zero = vdupq_n_s16(i16::from(limits.zero));
        let low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(v[0]), v[1]), zero);
        let high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(v[2]), v[3]), zero);
        let bytes = vqmovun_high_s16(vqmovun_s16(low), high);
        vmaxq_u8(vminq_u8(bytes, vdupq_n_u8(limits.hi)), vdupq_n_u8(limits.lo))
    }
}

impl Sums for Neon {
    type Floats = lanes::Neon;

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self {
        unsafe { Neon([vdupq_n_s32(v); 4]) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        each(|i| unsafe { vld1q_s32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn repeat4(p: *const i32) -> Self {
        unsafe { Neon([vld1q_s32(p); 4]) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> Self {
        unsafe { Neon(widen(vld1q_u8(p))) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        each(|i| unsafe { vaddq_s32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        each(|i| unsafe { vsubq_s32(self.0[i], b.0[i]) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, w: Self) -> Self {
        each(|i| unsafe { vmlaq_s32(self.0[i], x.0[i], w.0[i]) })
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        lanes::Neon(self.0.map(|v| unsafe { vcvtq_f32_s32(v) }))
    }
    #[inline(always)]
    unsafe fn round(v: Self::Floats) -> Self {
        // The conversion saturates on both sides, which is more than is asked for.
        Neon(v.0.map(|v| unsafe { vcvtnq_s32_f32(v) }))
    }
    #[inline(always)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        lanes::Neon(std::array::from_fn(|i| unsafe { vfmaq_f32(c.0[i], a.0[i], b.0[i]) }))
    }
    #[inline(always)]
    unsafe fn load_channels(p: *const u8) -> [Self; 4] {
        unsafe {
            let uint8x16x4_t(a, b, c, d) = vld4q_u8(p);
            [a, b, c, d].map(|bytes| Neon(widen(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn load_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [Self; 4] {
        unsafe {
            let by_plane: [[int32x4_t; 4]; 4] = match (planes, pixels) {
                (4, 4) => std::array::from_fn(|q| widen(vld1q_u8(p.add(q * plane)))),
                _ => {
                    let quads = collect_pixels(p, plane, planes, pixels);
                    std::array::from_fn(|q| widen(vld1q_u8(quads.as_ptr().add(16 * q))))
                }
            };
            std::array::from_fn(|pixel| Neon(std::array::from_fn(|q| by_plane[q][pixel])))
        }
    }
    #[inline(always)]
    unsafe fn store_channels(sums: [Self; 4], limits: Limits, p: *mut u8) {
        unsafe {
            let [a, b, c, d] = sums.map(|v| narrow(v.0, limits));
            vst4q_u8(p, uint8x16x4_t(a, b, c, d));
        }
    }
    #[inline(always)]
    unsafe fn store_pixels(
        sums: [Self; 4],
        limits: Limits,
        p: *mut u8,
        plane: usize,
        planes: usize,
        pixels: usize,
    ) {
        unsafe {
            let of_plane = |q: usize| narrow(std::array::from_fn(|pixel| sums[pixel].0[q]), limits);
            if (planes, pixels) == (4, 4) {
                (0..4).for_each(|q| vst1q_u8(p.add(q * plane), of_plane(q)));
                return;
            }
            let mut quads = [0; 64];
            (0..4).for_each(|q| vst1q_u8(quads.as_mut_ptr().add(16 * q), of_plane(q)));
            spread_pixels(quads, p, plane, planes, pixels);
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, limits: Limits, p: *mut u8) {
        unsafe { vst1q_u8(p, narrow(self.0, limits)) };
    }
}
