//! Two ymm.

// SAFETY of every block in this module: the contract of `Sums` (the instructions are there, pointers are valid).
#![allow(clippy::undocumented_unsafe_blocks)]

use super::{Limits, Sums, collect_pixels, spread_pixels};
use crate::lanes;
use std::arch::x86_64::*;

/// Sixteen i32 in two registers, lower half first.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) __m256i, pub(crate) __m256i);

/// Bytes of one half within their limits: in each of its halves, four lanes of each of the sums in turn. Saturation on the
/// way changes nothing that the next step would not.
#[inline(always)]
unsafe fn pack(s: [__m256i; 4], limits: Limits) -> __m256i {
    unsafe {
        let zero = _mm256_set1_epi16(i16::from(limits.zero));
        let low = _mm256_adds_epi16(_mm256_packs_epi32(s[0], s[1]), zero);
        let high = _mm256_adds_epi16(_mm256_packs_epi32(s[2], s[3]), zero);
        limit(_mm256_packus_epi16(low, high), limits)
    }
}

#[inline(always)]
unsafe fn limit(bytes: __m256i, limits: Limits) -> __m256i {
    if limits.is_whole() {
        return bytes;
    }
    unsafe {
        let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(limits.lo as i8));
        _mm256_min_epu8(bytes, _mm256_set1_epi8(limits.hi as i8))
    }
}

/// Rows and columns of 4 x 4 bytes swapped in each half.
#[inline(always)]
unsafe fn transpose_halves(bytes: __m256i) -> __m256i {
    unsafe {
        let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order))
    }
}

/// The four bytes of 8 quads, each by itself.
#[inline(always)]
unsafe fn channels(p: *const u8) -> [__m256i; 4] {
    unsafe {
        let (quads, low) = (_mm256_loadu_si256(p.cast()), _mm256_set1_epi32(0xff));
        [
            _mm256_and_si256(quads, low),
            _mm256_and_si256(_mm256_srli_epi32::<8>(quads), low),
            _mm256_and_si256(_mm256_srli_epi32::<16>(quads), low),
            _mm256_srli_epi32::<24>(quads),
        ]
    }
}

impl Sums for Avx2 {
    type Floats = lanes::Avx2;

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self {
        unsafe { Avx2(_mm256_set1_epi32(v), _mm256_set1_epi32(v)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        unsafe { Avx2(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())) }
    }
    #[inline(always)]
    unsafe fn repeat4(p: *const i32) -> Self {
        unsafe {
            let four = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast()));
            Avx2(four, four)
        }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> Self {
        unsafe {
            let (low, high) = (_mm_loadl_epi64(p.cast()), _mm_loadl_epi64(p.add(8).cast()));
            Avx2(_mm256_cvtepu8_epi32(low), _mm256_cvtepu8_epi32(high))
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Avx2(_mm256_add_epi32(self.0, b.0), _mm256_add_epi32(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Avx2(_mm256_sub_epi32(self.0, b.0), _mm256_sub_epi32(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, w: Self) -> Self {
        unsafe { self.add(Avx2(_mm256_madd_epi16(x.0, w.0), _mm256_madd_epi16(x.1, w.1))) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        unsafe { lanes::Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }
    #[inline(always)]
    unsafe fn round(v: Self::Floats) -> Self {
        unsafe { Avx2(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1)) }
    }
    #[inline(always)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        unsafe { lanes::Avx2(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn load_channels(p: *const u8) -> [Self; 4] {
        unsafe {
            let (low, high) = (channels(p), channels(p.add(32)));
            let [a, b, c, d] = low;
            let [e, f, g, h] = high;
            [Avx2(a, e), Avx2(b, f), Avx2(c, g), Avx2(d, h)]
        }
    }
    #[inline(always)]
    unsafe fn load_pixels(p: *const u8, plane: usize, planes: usize, pixels: usize) -> [Self; 4] {
        unsafe {
            let [low, high] = if planes == 4 && pixels == 4 {
                let low = _mm_loadu_si128(p.cast());
                let low = _mm256_set_m128i(_mm_loadu_si128(p.add(plane).cast()), low);
                let high = _mm_loadu_si128(p.add(2 * plane).cast());
                [low, _mm256_set_m128i(_mm_loadu_si128(p.add(3 * plane).cast()), high)]
            } else {
                let quads = collect_pixels(p, plane, planes, pixels);
                let p = quads.as_ptr();
                [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
            };
            let first = _mm256_broadcastsi128_si256(_mm_setr_epi32(!0xff, !0xff | 1, !0xff | 2, !0xff | 3));
            let mut pixels = [Avx2(low, high); 4];
            for i in 0..4 {
                let order = _mm256_add_epi32(first, _mm256_set1_epi32(4 * i as i32));
                pixels[i] = Avx2(_mm256_shuffle_epi8(low, order), _mm256_shuffle_epi8(high, order));
            }
            pixels
        }
    }
    #[inline(always)]
    unsafe fn store_channels(sums: [Self; 4], limits: Limits, p: *mut u8) {
        unsafe {
            let [a, b, c, d] = sums;
            let (low, high) = (pack([a.0, b.0, c.0, d.0], limits), pack([a.1, b.1, c.1, d.1], limits));
            _mm256_storeu_si256(p.cast(), transpose_halves(low));
            _mm256_storeu_si256(p.add(32).cast(), transpose_halves(high));
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
            let [a, b, c, d] = sums;
            let (low, high) = (pack([a.0, b.0, c.0, d.0], limits), pack([a.1, b.1, c.1, d.1], limits));
            if planes == 4 && pixels == 4 {
                _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(low));
                _mm_storeu_si128(p.add(plane).cast(), _mm256_extracti128_si256::<1>(low));
                _mm_storeu_si128(p.add(2 * plane).cast(), _mm256_castsi256_si128(high));
                _mm_storeu_si128(p.add(3 * plane).cast(), _mm256_extracti128_si256::<1>(high));
                return;
            }
            let mut quads = [0; 64];
            _mm256_storeu_si256(quads.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(quads.as_mut_ptr().add(32).cast(), high);
            spread_pixels(quads, p, plane, planes, pixels);
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, limits: Limits, p: *mut u8) {
        unsafe {
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(self.0, self.1));
            let words = _mm256_adds_epi16(words, _mm256_set1_epi16(i16::from(limits.zero)));
            let words = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let mut bytes = _mm_packus_epi16(words.0, words.1);
            if !limits.is_whole() {
                bytes = _mm_max_epu8(bytes, _mm_set1_epi8(limits.lo as i8));
                bytes = _mm_min_epu8(bytes, _mm_set1_epi8(limits.hi as i8));
            }
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
}
