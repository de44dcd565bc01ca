//! Sixteen f32 lanes, the channel block of the layout, in the registers of each instruction set.
//!
//! Plain intrinsics behind one small trait, so that a kernel is written once: one zmm, two ymm, four registers of NEON,
//! or an array.
//! Everything here is `inline(always)` and takes its instruction set from the function that
//! [`multiversion!`](crate::isa::multiversion) made around it.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

/// Channels in a block of the blocked layout, and lanes of a `Lanes`.
pub const LANES: usize = 16;

/// Sixteen f32 values.
///
/// # Safety of every method
/// The instruction set must be present, which holds inside of functions made by `multiversion!`; pointers must be valid
/// for 16 elements (no alignment is needed).
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Lanes: Copy {
    /// How many of them the registers hold.
    const REGISTERS: usize;

    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    /// `b` where `self` is NaN, as the x86 instruction has it.
    unsafe fn max(self, b: Self) -> Self;
    /// `b` where `self` is NaN, as the x86 instruction has it.
    unsafe fn min(self, b: Self) -> Self;
    /// `self * b + c`, fused where the instruction set can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// Lanewise `if self > b { yes } else { no }`.
    unsafe fn select_gt(self, b: Self, yes: Self, no: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// `self` where it is NaN, else `b`.
    unsafe fn nan_or(self, b: Self) -> Self;
    /// `self * 2^n` for integral `n` in `-252..=254`, rounding to subnormals and overflowing to infinity.
    unsafe fn scale2(self, n: Self) -> Self;
    /// `(m, e)` with `self = m * 2^e` and `m` in `2/3..4/3`, for positive normal numbers.
    unsafe fn split(self) -> (Self, Self);
    /// The first `n < 16` elements at `p`, which need be valid for these only; `rest` in the other lanes.
    unsafe fn load_first(p: *const f32, n: usize, rest: Self) -> Self;
    /// Stores the first `n < 16` lanes; `p` need be valid for these only.
    unsafe fn store_first(self, p: *mut f32, n: usize);
    /// Lane `i` takes lane `i ^ N`, for `N` of 1, 2, 4 and 8.
    unsafe fn swap<const N: usize>(self) -> Self;
    /// Rows and columns swapped.
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: the array has 16 elements.
        unsafe { self.store(out.as_mut_ptr()) };
        out
    }
    #[inline(always)]
    unsafe fn from_array(a: [f32; LANES]) -> Self {
        // SAFETY: the array has 16 elements.
        unsafe { Self::load(a.as_ptr()) }
    }
    /// Sum of the lanes, pairwise in a fixed order.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the trait's contract.
        let mut a = unsafe { self.to_array() };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                a[i] += a[i + width];
            }
            width /= 2;
        }
        a[0]
    }
}

/// Adding and subtracting it rounds a small f32 to an integer, ties to even: it leaves no room for fractions.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// The bits of 2/3: subtracting them from those of `x` leaves the exponent that [`Lanes::split`] wants.
const TWO_THIRDS: i32 = 0x3f2a_aaab;

/// `2^n` for integral `n` in `-126..=127`: the sum's low bits are the biased exponent.
#[inline(always)]
fn pow2(n: f32) -> f32 {
    f32::from_bits((n + (ROUND + 127.0)).to_bits() << 23)
}

/// Plain Rust. It needs no instruction set, so what is long and rare is called, not inlined: copies in each kernel would be large.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; LANES]);

macro_rules! lanewise {
    ($a:expr, $b:expr, $f:expr) => {
        Scalar(std::array::from_fn(|i| $f($a.0[i], $b.0[i])))
    };
}

impl Lanes for Scalar {
    const REGISTERS: usize = 4;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Scalar([v; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid for 16 elements; arrays of f32 need the alignment of f32 only.
        Scalar(unsafe { p.cast::<[f32; LANES]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as in load.
        unsafe { p.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| x + y)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| x - y)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| x * y)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| x / y)
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Scalar(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, yes: Self, no: Self) -> Self {
        Scalar(std::array::from_fn(|i| if self.0[i] > b.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Scalar(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    unsafe fn nan_or(self, b: Self) -> Self {
        lanewise!(self, b, |x: f32, y: f32| if x.is_nan() { x } else { y })
    }
    #[inline(never)]
    unsafe fn scale2(self, n: Self) -> Self {
        lanewise!(self, n, |x: f32, n: f32| {
            let half = n * 0.5 + ROUND - ROUND;
            x * pow2(half) * pow2(n - half)
        })
    }
    #[inline(never)]
    unsafe fn split(self) -> (Self, Self) {
        let exponent = self.0.map(|x| (x.to_bits() as i32).wrapping_sub(TWO_THIRDS) >> 23);
        let mantissa = std::array::from_fn(|i| {
            f32::from_bits(self.0[i].to_bits().wrapping_sub((exponent[i] << 23) as u32))
        });
        (Scalar(mantissa), Scalar(exponent.map(|e| e as f32)))
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize, rest: Self) -> Self {
        let mut lanes = rest;
        // SAFETY: valid for `n` < 16 elements.
        unsafe { std::ptr::copy_nonoverlapping(p, lanes.0.as_mut_ptr(), n) };
        lanes
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: valid for `n` < 16 elements.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), p, n) };
    }
    #[inline(always)]
    unsafe fn swap<const N: usize>(self) -> Self {
        Scalar(std::array::from_fn(|i| self.0[i ^ N]))
    }
    #[inline(never)]
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|i| Scalar(std::array::from_fn(|j| rows[j].0[i])))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    // SAFETY of every block in this module: the contract of `Lanes` (the instructions are there, pointers are valid).
    #![allow(clippy::undocumented_unsafe_blocks)]
    use super::{LANES, Lanes, ROUND, TWO_THIRDS};
    use std::arch::x86_64::*;

    /// Two ymm registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(pub(crate) __m256, pub(crate) __m256);

    impl Lanes for Avx2 {
        const REGISTERS: usize = 8;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(v), _mm256_set1_ps(v)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_sub_ps(self.0, b.0), _mm256_sub_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_div_ps(self.0, b.0), _mm256_div_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_min_ps(self.0, b.0), _mm256_min_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { Avx2(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn select_gt(self, b: Self, yes: Self, no: Self) -> Self {
            unsafe {
                let lo = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, b.0);
                let hi = _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, b.1);
                Avx2(_mm256_blendv_ps(no.0, yes.0, lo), _mm256_blendv_ps(no.1, yes.1, hi))
            }
        }
        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            unsafe { Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
        }
        #[inline(always)]
        unsafe fn nan_or(self, b: Self) -> Self {
            unsafe { Avx2(nan_or8(self.0, b.0), nan_or8(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn scale2(self, n: Self) -> Self {
            unsafe { Avx2(scale8(self.0, n.0), scale8(self.1, n.1)) }
        }
        #[inline(always)]
        unsafe fn split(self) -> (Self, Self) {
            unsafe {
                let ((m0, e0), (m1, e1)) = (split8(self.0), split8(self.1));
                (Avx2(m0, m1), Avx2(e0, e1))
            }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize, rest: Self) -> Self {
            unsafe {
                let (m0, m1) = (first8(n), first8(n.saturating_sub(8)));
                let (a, b) = (_mm256_maskload_ps(p, m0), _mm256_maskload_ps(p.wrapping_add(8), m1));
                Avx2(
                    _mm256_blendv_ps(rest.0, a, _mm256_castsi256_ps(m0)),
                    _mm256_blendv_ps(rest.1, b, _mm256_castsi256_ps(m1)),
                )
            }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, n: usize) {
            unsafe {
                _mm256_maskstore_ps(p, first8(n), self.0);
                _mm256_maskstore_ps(p.wrapping_add(8), first8(n.saturating_sub(8)), self.1);
            }
        }
        #[inline(always)]
        unsafe fn swap<const N: usize>(self) -> Self {
            unsafe {
                match N {
                    1 => Avx2(_mm256_permute_ps::<0xb1>(self.0), _mm256_permute_ps::<0xb1>(self.1)),
                    2 => Avx2(_mm256_permute_ps::<0x4e>(self.0), _mm256_permute_ps::<0x4e>(self.1)),
                    4 => Avx2(
                        _mm256_permute2f128_ps::<1>(self.0, self.0),
                        _mm256_permute2f128_ps::<1>(self.1, self.1),
                    ),
                    8 => Avx2(self.1, self.0),
                    _ => unreachable!("lanes are swapped by 1, 2, 4 or 8"),
                }
            }
        }
        #[inline(always)]
        unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
            unsafe {
                // Closures with instructions in them are not always inlined.
                let (lows, highs) = (rows.map(|row| row.0), rows.map(|row| row.1));
                let [[a, b], [c, d]] = [lows, highs].map(|halves| {
                    let half = |first: usize| std::array::from_fn::<_, 8, _>(|i| halves[first + i]);
                    [half(0), half(8)]
                });
                let [a, b, c, d] = [transpose8(a), transpose8(b), transpose8(c), transpose8(d)];
                let top: [Self; 8] = std::array::from_fn(|i| Avx2(a[i], b[i]));
                let bottom: [Self; 8] = std::array::from_fn(|i| Avx2(c[i], d[i]));
                std::array::from_fn(|i| if i < 8 { top[i] } else { bottom[i - 8] })
            }
        }
    }

    #[inline(always)]
    unsafe fn nan_or8(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
    }

    #[inline(always)]
    unsafe fn scale8(x: __m256, n: __m256) -> __m256 {
        unsafe {
            let round = _mm256_set1_ps(ROUND);
            let half = _mm256_sub_ps(_mm256_fmadd_ps(n, _mm256_set1_ps(0.5), round), round);
            let rest = _mm256_sub_ps(n, half);
            _mm256_mul_ps(_mm256_mul_ps(x, pow2_8(half)), pow2_8(rest))
        }
    }

    /// As [`super::pow2`].
    #[inline(always)]
    unsafe fn pow2_8(n: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(ROUND + 127.0)));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    unsafe fn split8(x: __m256) -> (__m256, __m256) {
        unsafe {
            let bits = _mm256_castps_si256(x);
            let e = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, _mm256_set1_epi32(TWO_THIRDS)));
            let m = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(e));
            (_mm256_castsi256_ps(m), _mm256_cvtepi32_ps(e))
        }
    }

    /// All bits set in the first `n` of 8 lanes.
    #[inline(always)]
    unsafe fn first8(n: usize) -> __m256i {
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
        }
    }

    /// Swaps rows and columns by interleaving pairs, pairs of pairs, and halves.
    #[inline(always)]
    unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
        unsafe {
            let mut pairs = r;
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut quads = r;
            for i in [0, 4] {
                for j in 0..2 {
                    quads[i + 2 * j] = _mm256_shuffle_ps::<0x44>(pairs[i + j], pairs[i + j + 2]);
                    quads[i + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(pairs[i + j], pairs[i + j + 2]);
                }
            }
            let mut out = r;
            for i in 0..4 {
                out[i] = _mm256_permute2f128_ps::<0x20>(quads[i], quads[i + 4]);
                out[i + 4] = _mm256_permute2f128_ps::<0x31>(quads[i], quads[i + 4]);
            }
            out
        }
    }

    /// One zmm register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(pub(crate) __m512);

    impl Lanes for Avx512 {
        const REGISTERS: usize = 32;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { Avx512(_mm512_set1_ps(v)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { Avx512(_mm512_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_add_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_sub_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_mul_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_div_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_max_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_min_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { Avx512(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn select_gt(self, b: Self, yes: Self, no: Self) -> Self {
            unsafe {
                Avx512(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, b.0), no.0, yes.0))
            }
        }
        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            unsafe { Avx512(_mm512_sqrt_ps(self.0)) }
        }
        #[inline(always)]
        unsafe fn nan_or(self, b: Self) -> Self {
            unsafe {
                Avx512(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0), b.0, self.0))
            }
        }
        #[inline(always)]
        unsafe fn scale2(self, n: Self) -> Self {
            unsafe { Avx512(_mm512_scalef_ps(self.0, n.0)) }
        }
        #[inline(always)]
        unsafe fn split(self) -> (Self, Self) {
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let e = _mm512_srai_epi32::<23>(_mm512_sub_epi32(bits, _mm512_set1_epi32(TWO_THIRDS)));
                let m = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(e));
                (Avx512(_mm512_castsi512_ps(m)), Avx512(_mm512_cvtepi32_ps(e)))
            }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize, rest: Self) -> Self {
            unsafe { Avx512(_mm512_mask_loadu_ps(rest.0, (1 << n) - 1, p)) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, n: usize) {
            unsafe { _mm512_mask_storeu_ps(p, (1 << n) - 1, self.0) }
        }
        #[inline(always)]
        unsafe fn swap<const N: usize>(self) -> Self {
            unsafe {
                match N {
                    1 => Avx512(_mm512_permute_ps::<0xb1>(self.0)),
                    2 => Avx512(_mm512_permute_ps::<0x4e>(self.0)),
                    4 => Avx512(_mm512_shuffle_f32x4::<0xb1>(self.0, self.0)),
                    8 => Avx512(_mm512_shuffle_f32x4::<0x4e>(self.0, self.0)),
                    _ => unreachable!("lanes are swapped by 1, 2, 4 or 8"),
                }
            }
        }
        #[inline(always)]
        unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
            unsafe {
                let r = rows.map(|row| row.0);
                let mut quads = r;
                for i in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|j| r[4 * i + j]);
                    let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                    quads[4 * i] = _mm512_shuffle_ps::<0x44>(ab, cd);
                    quads[4 * i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
                    let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                    quads[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab, cd);
                    quads[4 * i + 3] = _mm512_shuffle_ps::<0xee>(ab, cd);
                }
                // Row i of the result is 128-bit lane i / 4 of quads i % 4, 4 + i % 4, 8 + i % 4, 12 + i % 4.
                let mut out = rows;
                for i in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|j| quads[i + 4 * j]);
                    let even = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                    let odd = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    out[i] = Avx512(_mm512_shuffle_f32x4::<0x88>(even.0, even.1));
                    out[i + 4] = Avx512(_mm512_shuffle_f32x4::<0x88>(odd.0, odd.1));
                    out[i + 8] = Avx512(_mm512_shuffle_f32x4::<0xdd>(even.0, even.1));
                    out[i + 12] = Avx512(_mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1));
                }
                out
            }
        }
    }
}
