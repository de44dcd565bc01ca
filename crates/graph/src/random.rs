//! The one source of random numbers: a counter-based generator, so that the same (seed, stream, index) means the same
//! number on every backend, thread count and instruction set.
//!
//! `bits` is SplitMix64's finalizer (Steele, Lea and Flood 2014) applied to seed, stream and index in turn.

#[inline]
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 random bits for element `index` of `stream`.
#[inline]
pub fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    mix(mix(mix(seed) ^ stream) ^ index)
}

/// Uniform in `0..1`, a multiple of 2^-24 (exact in f32).
#[inline]
pub fn uniform(seed: u64, stream: u64, index: u64) -> f32 {
    (bits(seed, stream, index) >> 40) as f32 * (1.0 / (1 << 24) as f32)
}

/// A sequence of random numbers: the elements 0, 1, 2, ... of one stream.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    stream: u64,
    next: u64,
}

impl Random {
    /// The sequence of `stream` under `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Random { seed, stream, next: 0 }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.next += 1;
        bits(self.seed, self.stream, self.next - 1)
    }

    /// Uniform in `0..1`.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `lo..hi`.
    pub fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.uniform()
    }

    /// Uniform among `0..n` (`n` > 0), by multiplication; the bias is below `n / 2^64`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Standard normal, by Box and Muller (1958).
    pub fn normal(&mut self) -> f32 {
        let u = (self.bits() >> 11) as f64 + 1.0;
        let v = (self.bits() >> 11) as f64;
        let scale = 1.0 / (1u64 << 53) as f64;
        ((-2.0 * (u * scale).ln()).sqrt() * (std::f64::consts::TAU * v * scale).cos()) as f32
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
