//! Functions of a byte by a table of 256: activations (HardSwish, SiLU, sigmoid, LeakyReLU) and changes of scale.

use super::form::Form;
use crate::{Io, Isa, Kernel, Worker};

/// Any function from byte to byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(Box<[u8; 256]>);

impl Table {
    /// Tabulates `f`.
    pub fn new(f: impl Fn(u8) -> u8) -> Table {
        Table(Box::new(std::array::from_fn(|x| f(x as u8))))
    }

    /// Its value at `x`.
    pub fn get(&self, x: u8) -> u8 {
        self.0[usize::from(x)]
    }

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        (0..=255).all(|x| self.get(x) == x)
    }
}

/// Looks up `len` bytes from one place to another, which may be the same.
type Body = unsafe fn(&[u8; 256], *const u8, *mut u8, usize);

/// A table with the code that applies it.
pub(super) struct Lookup {
    table: Table,
    body: Body,
}

impl Lookup {
    pub(super) fn new(form: Form, table: Table) -> Lookup {
        let body = match form.step() {
            #[cfg(target_arch = "x86_64")]
            super::form::Step::Vbmi => vbmi,
            _ => one_by_one as Body,
        };
        Lookup { table, body }
    }

    /// Its value at `x`.
    pub(super) fn get(&self, x: u8) -> u8 {
        self.table.get(x)
    }

    /// Replaces every byte by its value.
    pub(super) fn apply(&self, bytes: &mut [u8]) {
        // SAFETY: the body was picked for this CPU, and the bytes are read and written once each.
        unsafe { (self.body)(&self.table.0, bytes.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Writes the value of every byte of `from`.
    pub(super) fn copy(&self, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len(), "as many bytes");
        // SAFETY: the body was picked for this CPU, and both hold the same number of bytes.
        unsafe { (self.body)(&self.table.0, from.as_ptr(), to.as_mut_ptr(), from.len()) };
    }
}

/// The lookup in a table that changes something.
pub(super) fn lookup_of(form: Form, table: Option<&Table>) -> Option<Lookup> {
    table.filter(|table| !table.is_identity()).map(|table| Lookup::new(form, table.clone()))
}

unsafe fn one_by_one(table: &[u8; 256], from: *const u8, to: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: the caller gives `len` bytes on both sides.
        unsafe { *to.add(i) = table[usize::from(*from.add(i))] };
    }
}

/// The table is four registers; `vpermi2b` looks up 64 bytes in two of them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn vbmi(table: &[u8; 256], from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller gives `len` bytes on both sides, and the mask keeps the last step within them.
    unsafe {
        let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
        let parts = [part(0), part(1), part(2), part(3)];
        for at in (0..len).step_by(64) {
            let mask = u64::MAX >> 64usize.saturating_sub(len - at);
            let x = _mm512_maskz_loadu_epi8(mask, from.add(at).cast());
            let low = _mm512_permutex2var_epi8(parts[0], x, parts[1]);
            let high = _mm512_permutex2var_epi8(parts[2], x, parts[3]);
            let y = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
            _mm512_mask_storeu_epi8(to.add(at).cast(), mask, y);
        }
    }
}

/// Kernel `x -> y`, both `len` bytes in any layout.
pub fn table(isa: Isa, table: Table, len: usize) -> Box<dyn Kernel> {
    with_form(Form::of(isa), table, len)
}

fn with_form(form: Form, table: Table, len: usize) -> Box<dyn Kernel> {
    Box::new(Apply { name: format!("table int8 {form}"), lookup: Lookup::new(form, table), len })
}

struct Apply {
    name: String,
    lookup: Lookup,
    len: usize,
}

impl Kernel for Apply {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (io.input::<u8>(0), io.output::<u8>(0));
        assert_eq!((x.len(), y.len()), (self.len, self.len), "{}: bytes", self.name);
        let lines = worker.share(self.len.div_ceil(64));
        let part = (64 * lines.start).min(self.len)..(64 * lines.end).min(self.len);
        // SAFETY: shares are disjoint.
        self.lookup.copy(&x[part.clone()], unsafe { y.slice_mut(part) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::testing::{bytes, run};

    #[test]
    fn every_form_looks_up_every_byte() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let x = bytes(1, len);
            for f in [|x: u8| x ^ 0x5a, |x: u8| x.saturating_mul(2), |x: u8| 255 - x] {
                let want: Vec<u8> = x.iter().map(|&x| f(x)).collect();
                for form in Form::available() {
                    let kernel = with_form(form, Table::new(f), len);
                    assert_eq!(run(&*kernel, &[&x], len), want, "{} {len}", kernel.name());
                }
            }
        }
    }
}
