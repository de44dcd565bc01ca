//! Dot products of quads, four u8 with four s8, into sixteen sums at once; exact in every form.
//!
//! VNNI has an instruction for it, and so has Arm for signed bytes: there 128 is taken from every byte, and sums start
//! higher by as much ([`Form::offset`](super::form::Form::offset)). Elsewhere the bytes of even and of odd index are multiplied as 16-bit numbers, whose
//! products and their pairwise sums fit in 32 bits; the 8-bit instruction of AVX2 (`vpmaddubsw`) saturates and is no
//! use. Packed weights are the same for all forms, where sums start apart.

use super::sums::{Sums, scalar};

/// How sixteen sums take in sixteen products of quads.
///
/// # Safety of every method
/// As for [`Sums`].
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Dots: Copy {
    type Sums: Sums;
    /// Sixteen quads of u8, ready to be multiplied.
    type Bytes: Copy;
    /// Sixteen quads of s8, ready to be multiplied.
    type Weights: Copy;

    /// Registers, what a [`Dots::Bytes`], a [`Dots::Weights`] and a [`Dots::Sums`] take of them, and what is needed
    /// besides.
    const REGISTERS: usize;
    const BYTES: usize;
    const WEIGHTS: usize;
    const SUMS: usize;
    const BESIDES: usize;

    /// 64 bytes.
    unsafe fn bytes(p: *const u8) -> Self::Bytes;
    /// 4 bytes, sixteen times.
    unsafe fn splat_bytes(p: *const u8) -> Self::Bytes;
    /// 64 bytes.
    unsafe fn weights(p: *const i8) -> Self::Weights;
    /// 4 bytes, sixteen times.
    unsafe fn splat_weights(p: *const i8) -> Self::Weights;
    /// 16 bytes: [`Dots::splat_weights`] of every four.
    #[inline(always)]
    unsafe fn splat_four(p: *const i8) -> [Self::Weights; 4] {
        // SAFETY: the caller gives 16 bytes.
        unsafe {
            [
                Self::splat_weights(p),
                Self::splat_weights(p.add(4)),
                Self::splat_weights(p.add(8)),
                Self::splat_weights(p.add(12)),
            ]
        }
    }
    /// `sums + (x - offset) . w`, lane by lane, with the offset of the form.
    unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums;

    /// Whether the registers hold `sums`, and `bytes` and `weights` that are multiplied at a time.
    fn fits(sums: usize, bytes: usize, weights: usize) -> bool {
        let operands = bytes * Self::BYTES + weights * Self::WEIGHTS;
        sums * Self::SUMS + operands + Self::BESIDES <= Self::REGISTERS
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Dots for Scalar {
    type Sums = scalar::Scalar;
    type Bytes = [[u8; 4]; 16];
    type Weights = [[i8; 4]; 16];

    // In vectors of four, as 64-bit Arm has them.
    const REGISTERS: usize = 32;
    const BYTES: usize = 2;
    const WEIGHTS: usize = 2;
    const SUMS: usize = 4;
    const BESIDES: usize = 2;

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 64 bytes.
        unsafe { p.cast::<Self::Bytes>().read() }
    }
    #[inline(always)]
    unsafe fn splat_bytes(p: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 4 bytes.
        [unsafe { p.cast::<[u8; 4]>().read() }; 16]
    }
    #[inline(always)]
    unsafe fn weights(p: *const i8) -> Self::Weights {
        // SAFETY: the caller gives 64 bytes.
        unsafe { p.cast::<Self::Weights>().read() }
    }
    #[inline(always)]
    unsafe fn splat_weights(p: *const i8) -> Self::Weights {
        // SAFETY: the caller gives 4 bytes.
        [unsafe { p.cast::<[i8; 4]>().read() }; 16]
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
        // Taken out of 32 bits by shifts: for that compilers find vector instructions, for single bytes they do not.
        let (x, w) = (x.map(u32::from_le_bytes), w.map(|quad| i32::from_le_bytes(quad.map(|v| v as u8))));
        let mut sums = sums.0;
        for shift in [0, 8, 16, 24] {
            for i in 0..16 {
                let product = (x[i] >> shift & 255) as i32 * (w[i] << (24 - shift) >> 24);
                sums[i] = sums[i].wrapping_add(product);
            }
        }
        scalar::Scalar(sums)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Vnni};

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::{Dotprod, Neon};

#[cfg(target_arch = "aarch64")]
mod arm {
    // SAFETY of every block in this module: the contract of `Dots` (the instructions are there, pointers are valid).
    #![allow(clippy::undocumented_unsafe_blocks)]
    use super::Dots;
    use crate::int8::sums;
    use std::arch::{aarch64::*, asm};

    type Quads = [int8x16_t; 4];

    #[inline(always)]
    unsafe fn shifted(x: uint8x16_t) -> int8x16_t {
        unsafe { vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128))) }
    }

    #[inline(always)]
    unsafe fn splat(p: *const u8) -> uint8x16_t {
        unsafe { vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())) }
    }

    /// Without dot products, bytes give products of 16 bits, which two by two fit in 32; a quad is two such pairs.
    #[derive(Clone, Copy)]
    pub(crate) struct Arm<const DOTPROD: bool>;

    pub(crate) type Neon = Arm<false>;
    pub(crate) type Dotprod = Arm<true>;

    impl<const DOTPROD: bool> Dots for Arm<DOTPROD> {
        type Sums = sums::neon::Neon;
        type Bytes = Quads;
        type Weights = Quads;

        const REGISTERS: usize = 32;
        const BYTES: usize = 1;
        const WEIGHTS: usize = 4;
        const SUMS: usize = 4;
        // Counted (`bench/neon_instructions.py`): with fewer, sums are moved or spilled in the inner loop.
        const BESIDES: usize = if DOTPROD { 4 } else { 11 };

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            std::array::from_fn(|i| unsafe { shifted(vld1q_u8(p.add(16 * i))) })
        }
        #[inline(always)]
        unsafe fn splat_bytes(p: *const u8) -> Self::Bytes {
            unsafe { [shifted(splat(p)); 4] }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            std::array::from_fn(|i| unsafe { vld1q_s8(p.add(16 * i)) })
        }
        #[inline(always)]
        unsafe fn splat_weights(p: *const i8) -> Self::Weights {
            unsafe { [vreinterpretq_s8_u8(splat(p.cast())); 4] }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            let one = |i: usize| unsafe {
                if DOTPROD { sdot(sums.0[i], x[i], w[i]) } else { products(sums.0[i], x[i], w[i]) }
            };
            sums::neon::Neon(std::array::from_fn(one))
        }
    }

    #[inline(always)]
    unsafe fn products(sums: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        unsafe {
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
            let high = vpaddlq_s16(vmull_high_s8(x, w));
            vaddq_s32(sums, vpaddq_s32(low, high))
        }
    }

    /// The intrinsic is not stable.
    #[inline(always)]
    unsafe fn sdot(mut sums: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // It touches neither memory nor flags.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {x:v}.16b, {w:v}.16b",
                sums = inout(vreg) sums, x = in(vreg) x, w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    // SAFETY of every block in this module: the contract of `Dots` (the instructions are there, pointers are valid).
    #![allow(clippy::undocumented_unsafe_blocks)]
    use super::Dots;
    use crate::int8::sums;
    use std::arch::{asm, x86_64::*};

    /// The bytes of even and of odd index as 16-bit numbers.
    #[derive(Clone, Copy)]
    pub(crate) struct Halves<R> {
        even: R,
        odd: R,
    }

    type Ymm = Halves<__m256i>;
    type Zmm = Halves<__m512i>;

    #[inline(always)]
    unsafe fn unsigned_ymm(x: __m256i) -> Ymm {
        unsafe {
            Halves { even: _mm256_and_si256(x, _mm256_set1_epi16(0xff)), odd: _mm256_srli_epi16::<8>(x) }
        }
    }

    #[inline(always)]
    unsafe fn signed_ymm(w: __m256i) -> Ymm {
        unsafe {
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
            Halves { even, odd: _mm256_srai_epi16::<8>(w) }
        }
    }

    #[inline(always)]
    unsafe fn dot_ymm(sums: __m256i, x: Ymm, w: Ymm) -> __m256i {
        unsafe {
            let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x.even, w.even));
            _mm256_add_epi32(sums, _mm256_madd_epi16(x.odd, w.odd))
        }
    }

    /// Two ymm at a time, products of 16 bits.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    impl Dots for Avx2 {
        type Sums = sums::avx2::Avx2;
        type Bytes = [Ymm; 2];
        type Weights = [Ymm; 2];

        const REGISTERS: usize = 16;
        const BYTES: usize = 2;
        const WEIGHTS: usize = 4;
        const SUMS: usize = 2;
        const BESIDES: usize = 2;

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            unsafe {
                let (low, high) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()));
                [unsigned_ymm(low), unsigned_ymm(high)]
            }
        }
        #[inline(always)]
        unsafe fn splat_bytes(p: *const u8) -> Self::Bytes {
            unsafe { [unsigned_ymm(_mm256_set1_epi32(p.cast::<i32>().read_unaligned())); 2] }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            unsafe {
                let (low, high) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()));
                [signed_ymm(low), signed_ymm(high)]
            }
        }
        #[inline(always)]
        unsafe fn splat_weights(p: *const i8) -> Self::Weights {
            unsafe { [signed_ymm(_mm256_set1_epi32(p.cast::<i32>().read_unaligned())); 2] }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            unsafe { sums::avx2::Avx2(dot_ymm(sums.0, x[0], w[0]), dot_ymm(sums.1, x[1], w[1])) }
        }
    }

    /// A zmm at a time, products of 16 bits.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    #[inline(always)]
    unsafe fn unsigned_zmm(x: __m512i) -> Zmm {
        unsafe {
            Halves { even: _mm512_and_si512(x, _mm512_set1_epi16(0xff)), odd: _mm512_srli_epi16::<8>(x) }
        }
    }

    #[inline(always)]
    unsafe fn signed_zmm(w: __m512i) -> Zmm {
        unsafe {
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w));
            Halves { even, odd: _mm512_srai_epi16::<8>(w) }
        }
    }

    impl Dots for Avx512 {
        type Sums = sums::avx512::Avx512;
        type Bytes = Zmm;
        type Weights = Zmm;

        const REGISTERS: usize = 32;
        const BYTES: usize = 2;
        const WEIGHTS: usize = 2;
        const SUMS: usize = 1;
        const BESIDES: usize = 2;

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            unsafe { unsigned_zmm(_mm512_loadu_si512(p.cast())) }
        }
        #[inline(always)]
        unsafe fn splat_bytes(p: *const u8) -> Self::Bytes {
            unsafe { unsigned_zmm(_mm512_set1_epi32(p.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            unsafe { signed_zmm(_mm512_loadu_si512(p.cast())) }
        }
        #[inline(always)]
        unsafe fn splat_weights(p: *const i8) -> Self::Weights {
            unsafe { signed_zmm(_mm512_set1_epi32(p.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            unsafe {
                let sums = _mm512_add_epi32(sums.0, _mm512_madd_epi16(x.even, w.even));
                sums::avx512::Avx512(_mm512_add_epi32(sums, _mm512_madd_epi16(x.odd, w.odd)))
            }
        }
    }

    /// 16 bytes, four times. LLVM would make a load for each part that is used of an intrinsic.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn sixteen_bytes(p: *const i8) -> __m512i {
        let four;
        unsafe {
            asm!("vbroadcasti32x4 {}, xmmword ptr [{}]", out(zmm_reg) four, in(reg) p, options(pure, readonly, nostack, preserves_flags));
        }
        four
    }

    /// A zmm at a time, products of bytes.
    #[derive(Clone, Copy)]
    pub(crate) struct Vnni;

    impl Dots for Vnni {
        type Sums = sums::avx512::Avx512;
        type Bytes = __m512i;
        type Weights = __m512i;

        const REGISTERS: usize = 32;
        const BYTES: usize = 1;
        const WEIGHTS: usize = 1;
        const SUMS: usize = 1;
        const BESIDES: usize = 0;

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_bytes(p: *const u8) -> Self::Bytes {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_weights(p: *const i8) -> Self::Weights {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        /// One load and four shuffles: where sums are few, loads are what takes longest.
        #[inline(always)]
        unsafe fn splat_four(p: *const i8) -> [Self::Weights; 4] {
            unsafe {
                let four = sixteen_bytes(p);
                [
                    _mm512_shuffle_epi32::<0x00>(four),
                    _mm512_shuffle_epi32::<0x55>(four),
                    _mm512_shuffle_epi32::<0xaa>(four),
                    _mm512_shuffle_epi32::<0xff>(four),
                ]
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            unsafe { sums::avx512::Avx512(_mm512_dpbusd_epi32(sums.0, x, w)) }
        }
    }
}
