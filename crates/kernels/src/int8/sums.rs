//! Sixteen i32 lanes, in the registers of each instruction set: sums of products, and the bytes they become.
//!
//! Plain intrinsics behind one small trait, as [`Lanes`] is for f32: one zmm, two ymm, or an array. Everything is
//! `inline(always)` and takes its instruction set from the function that
//! [`per_form!`](crate::int8::form::per_form) made around it.

use crate::lanes::Lanes;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

/// How an integer becomes a byte: `clamp(v + zero, lo, hi)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Added on the way, where vectors of 16 bits hold more of them.
    pub(crate) zero: u8,
    pub(crate) lo: u8,
    pub(crate) hi: u8,
}

impl Limits {
    /// Those of a byte itself.
    pub(crate) const NONE: Limits = Limits { zero: 0, lo: 0, hi: 255 };

    /// Whether those of a byte itself are all.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_whole(self) -> bool {
        self.lo == 0 && self.hi == 255
    }
}

/// Sixteen i32.
///
/// # Safety of every method
/// The instruction set must be present, which holds inside of functions made by `per_form!`; pointers must be valid for
/// what the method says (no alignment is needed).
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Sums: Copy {
    type Floats: Lanes;

    unsafe fn splat(v: i32) -> Self;
    /// 16 elements.
    unsafe fn load(p: *const i32) -> Self;
    /// 4 elements, four times.
    unsafe fn repeat4(p: *const i32) -> Self;
    /// 16 bytes, each a lane.
    unsafe fn widen(p: *const u8) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    /// `self + x * w` for lanes of `x` in `0..=32767` and of `w` in i16.
    unsafe fn mul_add(self, x: Self, w: Self) -> Self;
    /// The nearest f32.
    unsafe fn floats(self) -> Self::Floats;
    /// The nearest integer, ties to even; anything below i32 is i32::MIN, nothing may be above.
    unsafe fn round(v: Self::Floats) -> Self;
    /// `a * b + c` with one rounding.
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Of 16 quads (64 bytes) at `p`, lane `i` of element `c` is byte `c` of quad `i`.
    unsafe fn load_channels(p: *const u8) -> [Self; 4];
    /// Of `planes <= 4` planes that are `plane` bytes apart and `pixels <= 4` quads in each, lane `4 q + c` of element
    /// `i` is byte `c` of quad `i` of plane `q`; 0 where there is none.
    unsafe fn load_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [Self; 4];
    /// The inverse of [`Sums::load_channels`]; with `limits` applied to what is in i32.
    unsafe fn store_channels(sums: [Self; 4], limits: Limits, p: *mut u8);
    /// [`Sums::load_channels`] of as many quads as `chosen` has bits: they go to those lanes, in their order.
    #[inline(always)]
    unsafe fn load_chosen(p: *const u8, chosen: u16) -> [Self; 4] {
        let (mut quads, mut from) = ([[0u8; 4]; 16], p.cast::<[u8; 4]>());
        for lane in (0..16).filter(|lane| chosen >> lane & 1 == 1) {
            // SAFETY: the caller gives a quad for each bit.
            unsafe {
                quads[lane] = from.read();
                from = from.add(1);
            }
        }
        // SAFETY: 64 bytes.
        unsafe { Self::load_channels(quads.as_ptr().cast()) }
    }
    /// The inverse of [`Sums::load_chosen`], with `limits` applied.
    #[inline(always)]
    unsafe fn store_chosen(sums: [Self; 4], limits: Limits, p: *mut u8, chosen: u16) {
        let (mut quads, mut to) = ([[0u8; 4]; 16], p.cast::<[u8; 4]>());
        // SAFETY: 64 bytes.
        unsafe { Self::store_channels(sums, limits, quads.as_mut_ptr().cast()) };
        for lane in (0..16).filter(|lane| chosen >> lane & 1 == 1) {
            // SAFETY: the caller gives a quad for each bit.
            unsafe {
                to.write(quads[lane]);
                to = to.add(1);
            }
        }
    }
    /// The inverse of [`Sums::load_pixels`], with `limits` applied; only `planes` and `pixels` are written.
    unsafe fn store_pixels(
        sums: [Self; 4],
        limits: Limits,
        p: *mut u8,
        plane: usize,
        planes: usize,
        pixels: usize,
    );
    /// 16 bytes, with `limits` applied.
    unsafe fn store_bytes(self, limits: Limits, p: *mut u8);
}

/// Copies `len` bytes, which may be few.
///
/// # Safety
/// Both must be valid for `len` bytes and not overlap.
#[inline(always)]
unsafe fn copy_few(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// `pixels` quads of `planes` planes at `p` as sixteen quads: plane `q` begins at quad `4 q`.
///
/// # Safety
/// That of [`Sums::load_pixels`].
#[inline(always)]
unsafe fn collect_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [u8; 64] {
    let mut quads = [0; 64];
    for q in 0..planes {
        // SAFETY: `planes` and `pixels` are at most 4, and the caller's planes hold that many quads.
        unsafe { copy_few(p.add(q * plane), quads.as_mut_ptr().add(16 * q), 4 * pixels) };
    }
    quads
}

/// The inverse of [`collect_pixels`].
///
/// # Safety
/// That of [`Sums::store_pixels`].
#[inline(always)]
unsafe fn spread_pixels(quads: [u8; 64], p: *mut u8, plane: usize, planes: usize, pixels: usize) {
    for q in 0..planes {
        // SAFETY: as in `collect_pixels`.
        unsafe { copy_few(quads.as_ptr().add(16 * q), p.add(q * plane), 4 * pixels) };
    }
}

#[cfg(test)]
mod tests;
