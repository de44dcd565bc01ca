//! Plain Rust. What rounds, fuses and moves bytes is called, not inlined: without instructions for it that takes a call or a few
//! instructions for each lane, and a copy in each tile would make half of all kernels.

use super::{Limits, Sums, collect_pixels, spread_pixels};
use crate::lanes::{self, LANES, Lanes};

/// Sixteen i32 in an array.
#[derive(Clone, Copy)]
pub(crate) struct Scalar(pub(crate) [i32; LANES]);

#[inline(always)]
fn lanewise(f: impl Fn(usize) -> i32) -> Scalar {
    Scalar(std::array::from_fn(f))
}

#[inline(always)]
fn byte(v: i32, limits: Limits) -> u8 {
    v.saturating_add(i32::from(limits.zero)).clamp(i32::from(limits.lo), i32::from(limits.hi)) as u8
}

impl Sums for Scalar {
    type Floats = lanes::Scalar;

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self {
        Scalar([v; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        // SAFETY: the caller gives 16 elements; no alignment is needed.
        Scalar(unsafe { p.cast::<[i32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn repeat4(p: *const i32) -> Self {
        // SAFETY: the caller gives 4 elements.
        let four = unsafe { p.cast::<[i32; 4]>().read_unaligned() };
        lanewise(|i| four[i % 4])
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> Self {
        // SAFETY: the caller gives 16 bytes.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read() };
        lanewise(|i| i32::from(bytes[i]))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        lanewise(|i| self.0[i].wrapping_add(b.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        lanewise(|i| self.0[i].wrapping_sub(b.0[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, w: Self) -> Self {
        lanewise(|i| self.0[i].wrapping_add(x.0[i].wrapping_mul(w.0[i])))
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        // SAFETY: plain Rust.
        unsafe { lanes::Scalar::from_array(self.0.map(|v| v as f32)) }
    }
    #[inline(never)]
    unsafe fn round(v: Self::Floats) -> Self {
        // SAFETY: plain Rust. The conversion saturates, which is more than is asked for.
        Scalar(unsafe { v.to_array() }.map(|v| v.round_ties_even() as i32))
    }
    #[inline(never)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: plain Rust.
        unsafe {
            let (a, b, c) = (a.to_array(), b.to_array(), c.to_array());
            lanes::Scalar::from_array(std::array::from_fn(|i| a[i].mul_add(b[i], c[i])))
        }
    }
    #[inline(never)]
    unsafe fn load_channels(p: *const u8) -> [Self; 4] {
        // SAFETY: the caller gives 64 bytes.
        let quads = unsafe { p.cast::<[[u8; 4]; LANES]>().read() };
        std::array::from_fn(|c| lanewise(|i| i32::from(quads[i][c])))
    }
    #[inline(never)]
    unsafe fn load_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [Self; 4] {
        // SAFETY: the caller's contract.
        let quads = unsafe { collect_pixels(p, plane, planes, pixels) };
        std::array::from_fn(|pixel| lanewise(|i| i32::from(quads[i / 4 * 16 + pixel * 4 + i % 4])))
    }
    #[inline(never)]
    unsafe fn store_channels(sums: [Self; 4], limits: Limits, p: *mut u8) {
        let quads: [[u8; 4]; LANES] =
            std::array::from_fn(|i| std::array::from_fn(|c| byte(sums[c].0[i], limits)));
        // SAFETY: the caller gives 64 bytes.
        unsafe { p.cast::<[[u8; 4]; LANES]>().write(quads) };
    }
    #[inline(never)]
    unsafe fn store_pixels(
        sums: [Self; 4],
        limits: Limits,
        p: *mut u8,
        plane: usize,
        planes: usize,
        pixels: usize,
    ) {
        let quads = std::array::from_fn(|i| byte(sums[i % 16 / 4].0[i / 16 * 4 + i % 4], limits));
        // SAFETY: the caller's contract.
        unsafe { spread_pixels(quads, p, plane, planes, pixels) };
    }
    #[inline(never)]
    unsafe fn store_bytes(self, limits: Limits, p: *mut u8) {
        // SAFETY: the caller gives 16 bytes.
        unsafe { p.cast::<[u8; LANES]>().write(self.0.map(|v| byte(v, limits))) };
    }
}
