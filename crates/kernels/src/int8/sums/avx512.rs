//! One zmm.

// SAFETY of every block in this module: the contract of `Sums` (the instructions are there, pointers are valid).
#![allow(clippy::undocumented_unsafe_blocks)]

use super::{Limits, Sums, collect_pixels, spread_pixels};
use crate::lanes;
use std::arch::x86_64::*;

/// Sixteen i32 in one register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512i);

/// Bytes within their limits: in each quarter of the register, four lanes of each of the sums in turn. Saturation on the way
/// changes nothing that the next step would not.
#[inline(always)]
unsafe fn pack(s: [Avx512; 4], limits: Limits) -> __m512i {
    unsafe {
        let mut low = _mm512_packs_epi32(s[0].0, s[1].0);
        let mut high = _mm512_packs_epi32(s[2].0, s[3].0);
        // Behind a ReLU it is 0: up to a twentieth of a convolution's time.
        if limits.zero != 0 {
            let zero = _mm512_set1_epi16(i16::from(limits.zero));
            low = _mm512_adds_epi16(low, zero);
            high = _mm512_adds_epi16(high, zero);
        }
        limit(_mm512_packus_epi16(low, high), limits)
    }
}

#[inline(always)]
unsafe fn limit(bytes: __m512i, limits: Limits) -> __m512i {
    if limits.is_whole() {
        return bytes;
    }
    unsafe {
        let bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(limits.lo as i8));
        _mm512_min_epu8(bytes, _mm512_set1_epi8(limits.hi as i8))
    }
}

/// Rows and columns of 4 x 4 bytes swapped in each quarter.
#[inline(always)]
unsafe fn transpose_quarters(bytes: __m512i) -> __m512i {
    unsafe {
        let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order))
    }
}

/// Sixteen quads of the sums of four channels.
///
/// # Safety
/// Inside of a function made for AVX-512.
#[inline(always)]
pub(crate) unsafe fn channels_to_quads(sums: [Avx512; 4], limits: Limits) -> __m512i {
    unsafe { transpose_quarters(pack(sums, limits)) }
}

/// The four bytes of sixteen quads, each by itself.
#[inline(always)]
unsafe fn channels(quads: __m512i) -> [Avx512; 4] {
    unsafe {
        let low = _mm512_set1_epi32(0xff);
        [
            Avx512(_mm512_and_si512(quads, low)),
            Avx512(_mm512_and_si512(_mm512_srli_epi32::<8>(quads), low)),
            Avx512(_mm512_and_si512(_mm512_srli_epi32::<16>(quads), low)),
            Avx512(_mm512_srli_epi32::<24>(quads)),
        ]
    }
}

impl Sums for Avx512 {
    type Floats = lanes::Avx512;

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self {
        unsafe { Avx512(_mm512_set1_epi32(v)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        unsafe { Avx512(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn repeat4(p: *const i32) -> Self {
        unsafe { Avx512(_mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> Self {
        unsafe { Avx512(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Avx512(_mm512_add_epi32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Avx512(_mm512_sub_epi32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, w: Self) -> Self {
        unsafe { Avx512(_mm512_add_epi32(self.0, _mm512_madd_epi16(x.0, w.0))) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        unsafe { lanes::Avx512(_mm512_cvtepi32_ps(self.0)) }
    }
    #[inline(always)]
    unsafe fn round(v: Self::Floats) -> Self {
        unsafe { Avx512(_mm512_cvtps_epi32(v.0)) }
    }
    #[inline(always)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        unsafe { lanes::Avx512(_mm512_fmadd_ps(a.0, b.0, c.0)) }
    }
    #[inline(always)]
    unsafe fn load_channels(p: *const u8) -> [Self; 4] {
        unsafe { channels(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [Self; 4] {
        unsafe {
            let quads = if planes == 4 && pixels == 4 {
                let quads = _mm512_castsi128_si512(_mm_loadu_si128(p.cast()));
                let quads = _mm512_inserti32x4::<1>(quads, _mm_loadu_si128(p.add(plane).cast()));
                let quads = _mm512_inserti32x4::<2>(quads, _mm_loadu_si128(p.add(2 * plane).cast()));
                _mm512_inserti32x4::<3>(quads, _mm_loadu_si128(p.add(3 * plane).cast()))
            } else {
                _mm512_loadu_si512(collect_pixels(p, plane, planes, pixels).as_ptr().cast())
            };
            let first = _mm512_broadcast_i32x4(_mm_setr_epi32(!0xff, !0xff | 1, !0xff | 2, !0xff | 3));
            let mut pixels = [Avx512(_mm512_shuffle_epi8(quads, first)); 4];
            for i in 1..4 {
                let order = _mm512_add_epi32(first, _mm512_set1_epi32(4 * i as i32));
                pixels[i] = Avx512(_mm512_shuffle_epi8(quads, order));
            }
            pixels
        }
    }
    #[inline(always)]
    unsafe fn store_channels(sums: [Self; 4], limits: Limits, p: *mut u8) {
        unsafe { _mm512_storeu_si512(p.cast(), channels_to_quads(sums, limits)) };
    }
    #[inline(always)]
    unsafe fn load_chosen(p: *const u8, chosen: u16) -> [Self; 4] {
        unsafe { channels(_mm512_maskz_expandloadu_epi32(chosen, p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_chosen(sums: [Self; 4], limits: Limits, p: *mut u8, chosen: u16) {
        unsafe {
            // Compressed in a register: straight to memory it is many times slower on Zen 4.
            let quads = _mm512_maskz_compress_epi32(chosen, channels_to_quads(sums, limits));
            let few = ((1u32 << chosen.count_ones()) - 1) as u16;
            _mm512_mask_storeu_epi32(p.cast(), few, quads);
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
            let bytes = pack(sums, limits);
            if planes == 4 && pixels == 4 {
                _mm_storeu_si128(p.cast(), _mm512_castsi512_si128(bytes));
                _mm_storeu_si128(p.add(plane).cast(), _mm512_extracti32x4_epi32::<1>(bytes));
                _mm_storeu_si128(p.add(2 * plane).cast(), _mm512_extracti32x4_epi32::<2>(bytes));
                _mm_storeu_si128(p.add(3 * plane).cast(), _mm512_extracti32x4_epi32::<3>(bytes));
                return;
            }
            let mut quads = [0; 64];
            _mm512_storeu_si512(quads.as_mut_ptr().cast(), bytes);
            spread_pixels(quads, p, plane, planes, pixels);
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, limits: Limits, p: *mut u8) {
        unsafe {
            let words = _mm512_cvtsepi32_epi16(self.0);
            let words = _mm256_adds_epi16(words, _mm256_set1_epi16(i16::from(limits.zero)));
            let mut bytes = _mm256_cvtusepi16_epi8(_mm256_max_epi16(words, _mm256_setzero_si256()));
            if !limits.is_whole() {
                bytes = _mm_max_epu8(bytes, _mm_set1_epi8(limits.lo as i8));
                bytes = _mm_min_epu8(bytes, _mm_set1_epi8(limits.hi as i8));
            }
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
}
