//! From sums to results: what every convolution does at its end.

use super::sums::{Limits, Sums};
use crate::lanes::Lanes;

/// What becomes of a sum once its scale is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// Zero point and scale of the residual.
    pub(super) residual: (i32, f32),
    /// With the zero point of the result.
    pub(super) limits: Limits,
    /// Whether results may lie beyond i32 before they are limited.
    pub(super) wide: bool,
}

impl Finish {
    /// `v + scale * (residual - zero)`, fused.
    ///
    /// # Safety
    /// Inside of a function made by `per_form!`.
    #[inline(always)]
    pub(super) unsafe fn add<S: Sums>(&self, v: S::Floats, residual: S) -> S::Floats {
        let (zero, scale) = self.residual;
        // SAFETY: the caller's contract.
        unsafe { S::fused(residual.sub(S::splat(zero)).floats(), S::Floats::splat(scale), v) }
    }

    /// The nearest integers, ties to even, or others beyond the same limit.
    ///
    /// # Safety
    /// Inside of a function made by `per_form!`.
    #[inline(always)]
    pub(super) unsafe fn round<S: Sums>(&self, v: S::Floats) -> S {
        // SAFETY: the caller's contract. 256 is beyond every limit, with a zero point too.
        unsafe { S::round(if self.wide { v.min(S::Floats::splat(256.0)) } else { v }) }
    }

    /// [`Finish::round`] of four.
    ///
    /// # Safety
    /// Inside of a function made by `per_form!`.
    #[inline(always)]
    pub(super) unsafe fn round4<S: Sums>(&self, v: [S::Floats; 4]) -> [S; 4] {
        // SAFETY: the caller's contract.
        unsafe { [self.round(v[0]), self.round(v[1]), self.round(v[2]), self.round(v[3])] }
    }

    /// The results of the sums of four channels, whose scales lie at `scale`, before they are limited.
    ///
    /// # Safety
    /// Inside of a function made by `per_form!`; four values at each address.
    #[inline(always)]
    pub(super) unsafe fn channels<S: Sums>(
        &self,
        sums: [S; 4],
        scale: *const f32,
        residual: Option<[S; 4]>,
    ) -> [S; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let mut v = [S::Floats::zero(); 4];
            for i in 0..4 {
                v[i] = sums[i].floats().mul(S::Floats::splat(*scale.add(i)));
            }
            if let Some(residual) = residual {
                for i in 0..4 {
                    v[i] = self.add(v[i], residual[i]);
                }
            }
            self.round4(v)
        }
    }
}
