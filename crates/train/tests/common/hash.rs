//! The integer hash of `tests/golden/README.md`, from which Python and Rust make the same numbers.
#![allow(dead_code)] // Each test uses a part of it.

/// The numbers of the tensor that [`Hash::new`] names.
pub(crate) struct Hash(u32);

impl Hash {
    pub(crate) fn new(name: &str) -> Hash {
        Hash(name.bytes().fold(0x811c_9dc5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }

    pub(crate) fn bits(&self, i: usize) -> u32 {
        mix32(mix32(i as u32) ^ self.0)
    }

    pub(crate) fn uniform(&self, i: usize, bound: f64) -> f32 {
        ((f64::from(self.bits(i) >> 8) * 2f64.powi(-23) - 1.0) * bound) as f32
    }

    pub(crate) fn below(&self, i: usize, n: u32) -> u32 {
        self.bits(i) % n
    }
}

fn mix32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Sum of the bits of all elements.
pub(crate) fn checksum(values: &[f32]) -> u64 {
    values.iter().map(|v| u64::from(v.to_bits())).sum()
}

/// `n` labels in `0..classes` by the hash of `name`, one-hot.
pub(crate) fn targets(name: &str, n: usize, classes: usize) -> Vec<f32> {
    let hash = Hash::new(name);
    let label = |row: usize| hash.below(row, classes as u32) as usize;
    (0..n * classes).map(|i| f32::from(u8::from(label(i / classes) == i % classes))).collect()
}
