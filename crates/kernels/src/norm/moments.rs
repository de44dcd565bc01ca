//! Sums that stay accurate: f32 lanes over a chunk that fits the first cache, then f64.

use crate::lanes::{LANES, Lanes};
use crate::layout::load_up_to;

/// Vectors of a chunk: 16 KiB, so that a second look at it costs no memory traffic.
const CHUNK: usize = 256;
/// Partial sums that are added to in turn, since an addition takes four cycles.
const PARTS: usize = 4;

/// Two f64 sums per lane.
pub(super) type Sums = [[f64; LANES]; 2];

/// Adds the sums and the sums of squares of the `len` elements at `x`, element i in lane i % 16. Each chunk is centred
/// by its own mean before it is squared, so that a mean far from 0 does not cost the variance its digits.
///
/// # Safety
/// `x` must be valid for `len` elements; inside of a function made by `multiversion!`.
#[inline(always)]
pub(super) unsafe fn add_moments<V: Lanes>(x: *const f32, len: usize, sums: &mut Sums) {
    let mut start = 0;
    while start < len {
        let chunk = (len - start).min(CHUNK * LANES);
        // SAFETY: the chunk is inside of the `len` elements.
        unsafe { add_chunk::<V>(x.add(start), chunk, sums) };
        start += chunk;
    }
}

#[inline(always)]
unsafe fn add_chunk<V: Lanes>(x: *const f32, len: usize, sums: &mut Sums) {
    // SAFETY: the caller's `len` elements.
    unsafe {
        let counts = counts::<V>(len);
        let mean = sum::<V>(x, len).div(counts.max(V::splat(1.0)));
        let [d, dd] = centred_sums(x, len, mean).map(|v| v.to_array());
        let (n, m) = (counts.to_array(), mean.to_array());
        for i in 0..LANES {
            let (n, m, d, dd) = (f64::from(n[i]), f64::from(m[i]), f64::from(d[i]), f64::from(dd[i]));
            sums[0][i] += n * m + d;
            sums[1][i] += dd + m * (2.0 * d + n * m);
        }
    }
}

/// How many of `len` consecutive elements each lane gets.
#[inline(always)]
unsafe fn counts<V: Lanes>(len: usize) -> V {
    // SAFETY: the array has 16 elements.
    unsafe {
        let rest = load_up_to(const { [1.0; LANES] }.as_ptr(), len % LANES, V::zero());
        rest.add(V::splat((len / LANES) as f32))
    }
}

#[inline(always)]
unsafe fn sum<V: Lanes>(x: *const f32, len: usize) -> V {
    // SAFETY: the caller's `len` elements.
    unsafe {
        let mut parts = [V::zero(); PARTS];
        let (vectors, step) = (len / LANES, PARTS * LANES);
        for i in 0..vectors / PARTS {
            for j in 0..PARTS {
                parts[j] = parts[j].add(V::load(x.add(i * step + j * LANES)));
            }
        }
        for i in vectors / PARTS * PARTS..vectors {
            parts[0] = parts[0].add(V::load(x.add(i * LANES)));
        }
        parts[1] = parts[1].add(load_up_to(x.add(vectors * LANES), len % LANES, V::zero()));
        total(parts)
    }
}

/// Sums of `x - centre` and of its square.
#[inline(always)]
unsafe fn centred_sums<V: Lanes>(x: *const f32, len: usize, centre: V) -> [V; 2] {
    // SAFETY: the caller's `len` elements.
    unsafe {
        let (mut sums, mut squares) = ([V::zero(); PARTS], [V::zero(); PARTS]);
        let (vectors, step) = (len / LANES, PARTS * LANES);
        for i in 0..vectors / PARTS {
            for j in 0..PARTS {
                let d = V::load(x.add(i * step + j * LANES)).sub(centre);
                (sums[j], squares[j]) = (sums[j].add(d), d.mul_add(d, squares[j]));
            }
        }
        for i in vectors / PARTS * PARTS..vectors {
            let d = V::load(x.add(i * LANES)).sub(centre);
            (sums[0], squares[0]) = (sums[0].add(d), d.mul_add(d, squares[0]));
        }
        let d = load_up_to(x.add(vectors * LANES), len % LANES, centre).sub(centre);
        [total(sums).add(d), d.mul_add(d, total(squares))]
    }
}

#[inline(always)]
unsafe fn total<V: Lanes>(parts: [V; PARTS]) -> V {
    // SAFETY: inside of a function made by `multiversion!`.
    unsafe { parts[0].add(parts[1]).add(parts[2].add(parts[3])) }
}

/// Two values whose sums over many elements are wanted.
pub(super) trait Terms<V: Lanes> {
    /// The values for the up to 16 elements at offset `i`; 0 in the lanes past `len`.
    ///
    /// # Safety
    /// The offset and length are inside of what is summed; inside of a function made by `multiversion!`.
    unsafe fn at(&self, i: usize, len: usize) -> [V; 2];
}

/// Adds the sums of `terms` over offsets `0..len`, element i in lane i % 16.
///
/// # Safety
/// As [`Terms::at`].
#[inline(always)]
pub(super) unsafe fn add_terms<V: Lanes>(terms: &impl Terms<V>, len: usize, sums: &mut Sums) {
    let mut start = 0;
    while start < len {
        let chunk = (len - start).min(CHUNK * LANES);
        // SAFETY: the chunk is inside of `0..len`.
        let [a, b] = unsafe { chunk_terms(terms, start, chunk).map(|v| v.to_array()) };
        for i in 0..LANES {
            sums[0][i] += f64::from(a[i]);
            sums[1][i] += f64::from(b[i]);
        }
        start += chunk;
    }
}

#[inline(always)]
unsafe fn chunk_terms<V: Lanes>(terms: &impl Terms<V>, start: usize, len: usize) -> [V; 2] {
    // SAFETY: the caller's range.
    unsafe {
        let mut sums = [[V::zero(); 2]; PARTS];
        let (vectors, step) = (len / LANES, PARTS * LANES);
        for i in 0..vectors / PARTS {
            for j in 0..PARTS {
                sums[j] = add_pair(sums[j], terms.at(start + i * step + j * LANES, LANES));
            }
        }
        for i in vectors / PARTS * PARTS..vectors {
            sums[0] = add_pair(sums[0], terms.at(start + i * LANES, LANES));
        }
        if !len.is_multiple_of(LANES) {
            sums[1] = add_pair(sums[1], terms.at(start + vectors * LANES, len % LANES));
        }
        add_pair(add_pair(sums[0], sums[1]), add_pair(sums[2], sums[3]))
    }
}

#[inline(always)]
unsafe fn add_pair<V: Lanes>(a: [V; 2], b: [V; 2]) -> [V; 2] {
    // SAFETY: inside of a function made by `multiversion!`.
    unsafe { [a[0].add(b[0]), a[1].add(b[1])] }
}
