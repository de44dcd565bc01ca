//! Sixteen f32 lanes, the channel block of the layout, in the registers of each instruction set.
//!
//! Plain intrinsics behind one small trait, so that a kernel is written once: one zmm, two ymm, or an array.
//! Everything here is `inline(always)` and takes its instruction set from the function that
//! [`multiversion!`](crate::isa::multiversion) made around it.

/// Channels in a block of the blocked layout, and lanes of a [`Lanes`].
pub const LANES: usize = 16;

/// Sixteen f32 values.
///
/// # Safety of every method
/// The instruction set must be present, which holds inside of functions made by `multiversion!`; pointers must be valid
/// for 16 elements (no alignment is needed).
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Lanes: Copy {
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
    /// Lanewise by a scalar function, for what has no instruction; the compiler may still vectorise it.
    #[inline(always)]
    unsafe fn map(self, f: impl Fn(f32) -> f32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self::from_array(self.to_array().map(f)) }
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

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; LANES]);

macro_rules! lanewise {
    ($a:expr, $b:expr, $f:expr) => {
        Scalar(std::array::from_fn(|i| $f($a.0[i], $b.0[i])))
    };
}

impl Lanes for Scalar {
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
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    // SAFETY of every block in this module: the contract of `Lanes` (the instructions are there, pointers are valid).
    #![allow(clippy::undocumented_unsafe_blocks)]
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Two ymm registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
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
    }

    /// One zmm register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl Lanes for Avx512 {
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
    }
}
