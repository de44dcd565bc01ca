//! Which instructions the int8 kernels of an instruction set use: not every CPU with AVX-512 multiplies bytes.

use crate::Isa;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 without VNNI: products of 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// And bytes moved anywhere within a register.
    #[cfg(target_arch = "x86_64")]
    Vbmi,
    /// Products of bytes, added up in pairs.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Dot products of quads.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
}

/// The int8 form of an [`Isa`]; it exists only where the CPU has its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Form(Step);

impl Form {
    /// The best form of `isa` on this CPU.
    pub(crate) fn of(isa: Isa) -> Form {
        let forms = Form::all(isa);
        forms[forms.len() - 1]
    }

    /// Every form of `isa` that this CPU can run, slowest first.
    fn all(isa: Isa) -> Vec<Form> {
        match isa.level() {
            crate::isa::Level::Scalar => vec![Form(Step::Scalar)],
            #[cfg(target_arch = "x86_64")]
            crate::isa::Level::Avx2 => vec![Form(Step::Avx2)],
            #[cfg(target_arch = "x86_64")]
            crate::isa::Level::Avx512 => {
                let mut forms = vec![Form(Step::Avx512)];
                if is_x86_feature_detected!("avx512vnni") {
                    forms.push(Form(Step::Vnni));
                    if is_x86_feature_detected!("avx512vbmi") {
                        forms.push(Form(Step::Vbmi));
                    }
                }
                forms
            }
            #[cfg(target_arch = "aarch64")]
            crate::isa::Level::Neon => vec![Form(Step::Neon)],
            #[cfg(target_arch = "aarch64")]
            crate::isa::Level::NeonDotprod => vec![Form(Step::Dotprod)],
        }
    }

    /// Every form that this CPU can run.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Form> {
        Isa::available().into_iter().flat_map(Form::all).collect()
    }

    /// What [`Dots::bytes`](super::dots::Dots::bytes) takes from every byte: where only signed bytes are multiplied, 128.
    pub(crate) fn offset(self) -> u8 {
        match self.0 {
            #[cfg(target_arch = "aarch64")]
            Step::Neon | Step::Dotprod => 128,
            _ => 0,
        }
    }

    pub(crate) fn step(self) -> Step {
        self.0
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Step::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Step::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Step::Avx512 => "avx512 without vnni",
            #[cfg(target_arch = "x86_64")]
            Step::Vnni => "avx512 vnni",
            #[cfg(target_arch = "x86_64")]
            Step::Vbmi => "avx512 vnni vbmi",
            #[cfg(target_arch = "aarch64")]
            Step::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Step::Dotprod => "neon-dotprod",
        })
    }
}

/// Compiles one generic body for every form and makes the function that picks the compiled one, as
/// [`multiversion!`](crate::isa::multiversion) does for f32. The body is
/// `#[inline(always)] unsafe fn body<D: Dots, const N: usize>(..)`; type parameters may stand between.
macro_rules! per_form {
    ($(#[$meta:meta])* $vis:vis fn $pick:ident $(<$($t:ident : $bound:ident),* $(,)? $(; $(const $c:ident : $ct:ty),+)?>)?
     ($($arg:ident : $argt:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis fn $pick $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? (form: $crate::int8::form::Form)
            -> unsafe fn($($argt),*)
        {
            use $crate::int8::dots;
            unsafe fn scalar $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: the caller keeps the body's contract.
                unsafe { $body::<dots::Scalar $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2 $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where AVX2 and FMA are.
                unsafe { $body::<dots::Avx2 $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512 $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where AVX-512 is.
                unsafe { $body::<dots::Avx512 $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
            unsafe fn vnni $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where AVX-512 with VNNI is.
                unsafe { $body::<dots::Vnni $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            unsafe fn neon $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; NEON is part of the target.
                unsafe { $body::<dots::Neon $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            #[cfg(target_arch = "aarch64")]
            unsafe fn dotprod $(<$($t: $bound,)* $($(const $c: $ct),+)?>)? ($($arg: $argt),*) {
                // SAFETY: as above; this function runs only where the CPU has dotprod.
                unsafe { $body::<dots::Dotprod $($(, $t)* $($(, $c)+)?)?>($($arg),*) }
            }
            use $crate::int8::form::Step;
            match form.step() {
                Step::Scalar => scalar $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "x86_64")]
                Step::Avx2 => avx2 $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "x86_64")]
                Step::Avx512 => avx512 $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "x86_64")]
                Step::Vnni | Step::Vbmi => vnni $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "aarch64")]
                Step::Neon => neon $(::<$($t,)* $($($c),+)?>)?,
                #[cfg(target_arch = "aarch64")]
                Step::Dotprod => dotprod $(::<$($t,)* $($($c),+)?>)?,
            }
        }
    };
}
pub(crate) use per_form;
