//! Instruction sets: a value of [`Isa`] is the proof that this CPU has them.

use crate::lanes::{self, Lanes};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// And dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
}

/// An instruction set that this CPU supports. It can only be obtained from [`Isa::available`], [`Isa::best`] or
/// [`Isa::named`], so a kernel built for it can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isa(Level);

/// Why an instruction set was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No such name on any platform.
    Unknown(String),
    /// Known, but not on this CPU.
    Unsupported(String),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have = Isa::available().iter().map(Isa::to_string).collect::<Vec<_>>().join(", ");
        match self {
            IsaError::Unknown(name) => write!(f, "unknown instruction set `{name}`; this CPU has: {have}"),
            IsaError::Unsupported(name) => write!(f, "this CPU cannot run `{name}`; it has: {have}"),
        }
    }
}

impl std::error::Error for IsaError {}

impl Isa {
    /// Plain Rust, on every CPU.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// All that this CPU supports, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut isas = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if fma {
                isas.push(Isa(Level::Avx2));
            }
            let bw_dq_vl = is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if fma && is_x86_feature_detected!("avx512f") && bw_dq_vl {
                isas.push(Isa(Level::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            isas.push(Isa(Level::Neon));
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                isas.push(Isa(Level::NeonDotprod));
            }
        }
        isas
    }

    /// The fastest one.
    pub fn best() -> Isa {
        *Isa::available().last().expect("scalar is always available")
    }

    /// The one called `name`: `scalar`; `avx2`, `avx512`; `neon`, `neon-dotprod`.
    ///
    /// # Errors
    /// Unknown, or not supported by this CPU.
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        if let Some(isa) = Isa::available().into_iter().find(|isa| isa.to_string() == name) {
            return Ok(isa);
        }
        let known = ["avx2", "avx512", "neon", "neon-dotprod"].contains(&name);
        Err(if known { IsaError::Unsupported(name.into()) } else { IsaError::Unknown(name.into()) })
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }

    /// [`Lanes::REGISTERS`] of it.
    pub(crate) fn registers(self) -> usize {
        match self.0 {
            Level::Scalar => lanes::Scalar::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => lanes::Avx2::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => lanes::Avx512::REGISTERS,
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod => lanes::Neon::REGISTERS,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => "neon-dotprod",
        })
    }
}

/// Compiles one generic body for every instruction set and makes the function that picks the compiled form.
///
/// `multiversion!(fn pick_dot<const N: usize>(a: &[f32], b: *mut f32) = dot_body);` defines
/// `fn pick_dot<const N: usize>(isa: Isa) -> unsafe fn(&[f32], *mut f32)`. The body is
/// `#[inline(always)] unsafe fn dot_body<V: Lanes, const N: usize>(a: &[f32], b: *mut f32)`, and so must be whatever it
/// calls: only inlined code is compiled with the wider instructions. Type parameters (`F: Trait`) may precede the
/// constants. Calling what was picked is sound wherever the body is, since an [`Isa`] exists only where its
/// instructions do.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $pick:ident $(<$($t:ident : $bound:ident),* $(,)? $(; $(const $c:ident : $ct:ty),+)?>)?
     ($($arg:ident : $argt:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis fn $pick $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? (isa: $crate::isa::Isa) -> unsafe fn($($argt),*) {
            unsafe fn scalar $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: the caller keeps the body's contract.
                unsafe { $body::<$crate::lanes::Scalar $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2 $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where AVX2 and FMA are.
                unsafe { $body::<$crate::lanes::Avx2 $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512 $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where AVX-512 is.
                unsafe { $body::<$crate::lanes::Avx512 $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            unsafe fn neon $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; NEON is part of the target.
                unsafe { $body::<$crate::lanes::Neon $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            match isa.level() {
                $crate::isa::Level::Scalar => scalar $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2 => avx2 $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512 => avx512 $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Level::Neon | $crate::isa::Level::NeonDotprod => neon $(::<$($t,)* $($($c),+)?>)?,
            }
        }
    };
}
pub(crate) use multiversion;
