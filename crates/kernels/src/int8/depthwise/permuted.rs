//! 3x3 and 5x5 kernels at strides 1 and 2: `vpermb` gathers the taps of a row for sixteen pixels of one channel.
//!
//! A *segment* is up to sixteen output pixels of one row, or of two where rows are short. Masked loads read the input
//! row around it, with the zero point where there is no input; a permutation that is the same for all segments puts the
//! taps of each output pixel into its lane, and dot products add it to all the output rows that the input row touches.

// SAFETY of every block in the bodies: the plane, its weights and its rows fit the geometry (contract of `Way::run`), and
// masked lanes touch no memory.

use super::{HEADER, Part, TAPS, Way};
use crate::conv::ConvGeometry;
use crate::int8::form::{Form, Step};
use crate::int8::sums::Sums;
use crate::int8::sums::avx512::{Avx512, channels_to_quads};
use crate::lanes::{self, Lanes};
use std::arch::x86_64::*;

pub(super) struct Permuted {
    segments: Vec<Segment>,
    /// For each channel and four kernel columns: which byte goes where.
    order: Vec<[u8; 64]>,
    size: [usize; 2],
    output: [usize; 2],
    top: usize,
    zero: u8,
    body: BodyFn,
}

/// Neighbouring output pixels.
struct Segment {
    /// Where its input begins in a row, and which of 16 (and 16 more, or 16 of the second row) quads exist.
    from: isize,
    inside: [u16; 2],
    /// Where its output begins in a row, and which pixels it has.
    to: usize,
    outputs: u16,
}

type BodyFn = unsafe fn(&Permuted, &Part<'_>);

impl Permuted {
    /// None where the form or the geometry is another.
    pub(super) fn new(form: Form, g: &ConvGeometry, zero: u8) -> Option<Permuted> {
        let w = &g.window;
        let [k, s] = [w.kernel[0], w.stride[0]];
        let square = w.kernel[1] == k && w.stride[1] == s && w.dilation == [1, 1];
        if form.step() != Step::Vbmi || !square {
            return None;
        }
        let paired = g.output[1] <= pair(k, s);
        let body: BodyFn = match (k, s, paired) {
            (3, 1, false) => planes::<3, 1, 1, 1>,
            (3, 1, true) => planes::<3, 1, 1, 2>,
            (3, 2, false) => planes::<3, 1, 2, 1>,
            (3, 2, true) => planes::<3, 1, 2, 2>,
            (5, 1, false) => planes::<5, 2, 1, 1>,
            (5, 1, true) => planes::<5, 2, 1, 2>,
            (5, 2, false) => planes::<5, 2, 2, 1>,
            (5, 2, true) => planes::<5, 2, 2, 2>,
            _ => return None,
        };
        Some(Permuted {
            segments: segments(g, paired),
            order: order(k, s, paired),
            size: g.input,
            output: g.output,
            top: w.pad[0],
            zero,
            body,
        })
    }
}

/// Most output pixels of a row whose input is 16 pixels, at most 8: two such rows make a segment.
fn pair(k: usize, s: usize) -> usize {
    ((16 - k) / s + 1).min(8)
}

fn segments(g: &ConvGeometry, paired: bool) -> Vec<Segment> {
    let w = &g.window;
    let (k, s) = (w.kernel[1], w.stride[1]);
    let most = match (paired, s) {
        (true, _) => pair(k, s),
        (false, 1) => 17 - k,
        (false, _) => ((32 - k) / s + 1).min(16),
    };
    let width = g.output[1];
    let count = width.div_ceil(most);
    let segment = |i: usize| {
        let (first, end) = (width * i / count, width * (i + 1) / count);
        let from = (first * s) as isize - w.pad[1] as isize;
        let inside = |start: isize| {
            (0..16)
                .filter(|i| (0..g.input[1] as isize).contains(&(from + start + i)))
                .fold(0u16, |mask, i| mask | 1 << i)
        };
        // The second sixteen follow the first in the same row, or lie in the second row.
        let inside = [inside(0), inside(if paired { 0 } else { 16 })];
        Segment { from: 4 * from, inside, to: 4 * first, outputs: ((1u32 << (end - first)) - 1) as u16 }
    };
    (0..count).map(segment).collect()
}

/// Lane `i` of channel `c` takes byte `c` of the pixels that output `i` reads, four kernel columns at a time.
fn order(k: usize, s: usize, paired: bool) -> Vec<[u8; 64]> {
    let byte = |d: usize, channel: usize, at: usize| {
        let (lane, column) = (at / 4, 4 * d + at % 4);
        let first = if paired { lane / 8 * 16 + lane % 8 * s } else { lane * s };
        // Columns past the kernel have zero weights, lanes past the segment are not stored.
        (4 * (first + column).min(31) + channel) as u8
    };
    (0..k.div_ceil(4)).flat_map(|d| (0..4).map(move |c| std::array::from_fn(|at| byte(d, c, at)))).collect()
}

impl Way for Permuted {
    fn scratch(&self) -> usize {
        0
    }

    fn run(&self, part: &Part<'_>, _scratch: &mut [u8]) {
        // SAFETY: the body was chosen for a form that this CPU has; the caller's part fits the geometry.
        unsafe { (self.body)(self, part) };
    }
}

/// `K` kernel rows and columns in `D` quads, stride `S`, `T` rows in a segment.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma")]
unsafe fn planes<const K: usize, const D: usize, const S: usize, const T: usize>(
    p: &Permuted,
    part: &Part<'_>,
) {
    let mut row = part.rows.start;
    while row < part.rows.end {
        // Twice the permutations leave room for fewer sums.
        let most = if D == 1 { 4 } else { 3 };
        let groups = (part.rows.end - row).div_ceil(T).min(most);
        for segment in &p.segments {
            // SAFETY: see the top of the file.
            unsafe {
                match groups {
                    4 => rows::<K, D, S, T, 4>(p, part, segment, row),
                    3 => rows::<K, D, S, T, 3>(p, part, segment, row),
                    2 => rows::<K, D, S, T, 2>(p, part, segment, row),
                    _ => rows::<K, D, S, T, 1>(p, part, segment, row),
                }
            }
        }
        row += groups * T;
    }
}

/// `R` times `T` output rows of a segment.
#[inline(always)]
unsafe fn rows<const K: usize, const D: usize, const S: usize, const T: usize, const R: usize>(
    p: &Permuted,
    part: &Part<'_>,
    segment: &Segment,
    row: usize,
) {
    // SAFETY: see the top of the file.
    unsafe {
        let mut order = [[_mm512_setzero_si512(); 4]; D];
        for d in 0..D {
            for c in 0..4 {
                order[d][c] = _mm512_loadu_si512(p.order[4 * d + c].as_ptr().cast());
            }
        }
        let w = part.w.as_ptr();
        let header = w.cast::<i32>();
        let mut start = [_mm512_set1_epi32(*header); 4];
        for c in 1..4 {
            start[c] = _mm512_set1_epi32(*header.add(c));
        }
        let mut sums = [start; R];
        let first = (row * S) as isize - p.top as isize;
        macro_rules! steps {
            ($($k:literal)*) => {
                $(step::<K, D, S, T, R, $k>(p, part, segment, w, first, &order, &mut sums);)*
            };
        }
        // As many as the largest R and K have.
        steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
        for r in 0..R {
            store::<T>(p, part, segment, w, row + r * T, sums[r]);
        }
    }
}

/// The same address, unknown to the compiler: a weight is broadcast from memory by the product that takes it, for free,
/// where the compiler would keep it in a register for the next row, and then spill that.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // Nothing is read through it.
fn opaque(w: *const u8) -> *const u8 {
    let mut w = w;
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) w, options(readonly, nostack, preserves_flags)) };
    w
}

/// The same register, unknown to the compiler, which then computes it before what follows: it would gather the taps of all
/// rows first, and spill them.
#[inline]
#[target_feature(enable = "avx512f")]
fn pinned(x: __m512i) -> __m512i {
    let mut x = x;
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) x, options(readonly, nostack, preserves_flags)) };
    x
}

/// What input row `I`, counted from `first`, adds to the sums. It is a constant, or sums would be kept in memory.
#[inline(always)]
unsafe fn step<
    const K: usize,
    const D: usize,
    const S: usize,
    const T: usize,
    const R: usize,
    const I: usize,
>(
    p: &Permuted,
    part: &Part<'_>,
    segment: &Segment,
    w: *const u8,
    first: isize,
    order: &[[__m512i; 4]; D],
    sums: &mut [[__m512i; 4]; R],
) {
    if I >= (R - 1) * T * S + K {
        return;
    }
    let w = opaque(w);
    // SAFETY: see the top of the file.
    unsafe {
        let x = load::<S, T>(p, part, segment, first + I as isize);
        let x = [pinned(x[0]), pinned(x[1])];
        for d in 0..D {
            for c in 0..4 {
                let taps = match S * T {
                    1 => _mm512_permutexvar_epi8(order[d][c], x[0]),
                    _ => _mm512_permutex2var_epi8(x[0], order[d][c], x[1]),
                };
                for r in 0..R {
                    if I >= r * T * S && I < r * T * S + K {
                        let at = ((I - r * T * S) * D + d) * TAPS + 4 * c;
                        let w = w.add(HEADER + at).cast::<i32>().read_unaligned();
                        sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], taps, _mm512_set1_epi32(w));
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..4 {
                sums[r][c] = pinned(sums[r][c]);
            }
        }
    }
}

/// Quads of input row `at` around a segment, and 16 more of the same row, or those of the row that the segment's second
/// row reads.
#[inline(always)]
unsafe fn load<const S: usize, const T: usize>(
    p: &Permuted,
    part: &Part<'_>,
    segment: &Segment,
    at: isize,
) -> [__m512i; 2] {
    // SAFETY: see the top of the file.
    unsafe {
        let first = quads(p, part, segment.from, at, segment.inside[0]);
        match (S, T) {
            (1, 1) => [first, first],
            (_, 1) => [first, quads(p, part, segment.from + 64, at, segment.inside[1])],
            _ => [first, quads(p, part, segment.from, at + S as isize, segment.inside[1])],
        }
    }
}

/// Sixteen quads of an input row from byte `from` of the row on, those that are `inside`.
#[inline(always)]
unsafe fn quads(p: &Permuted, part: &Part<'_>, from: isize, row: isize, inside: u16) -> __m512i {
    let [height, width] = p.size;
    let mask = if (0..height as isize).contains(&row) { inside } else { 0 };
    let from = part.x.as_ptr().wrapping_offset(row * 4 * width as isize + from);
    // SAFETY: lanes that are not inside of the plane are masked.
    unsafe { _mm512_mask_loadu_epi32(_mm512_set1_epi8(p.zero as i8), mask, from.cast()) }
}

#[inline(always)]
unsafe fn store<const T: usize>(
    p: &Permuted,
    part: &Part<'_>,
    segment: &Segment,
    w: *const u8,
    row: usize,
    sums: [__m512i; 4],
) {
    // SAFETY: see the top of the file.
    unsafe {
        let header = w.cast::<f32>();
        let mut v = [Avx512(sums[0]); 4];
        for c in 0..4 {
            let scale = lanes::Avx512::splat(header.add(4 + c).read_unaligned());
            v[c] = part.finish.round(Avx512(sums[c]).floats().mul(scale));
        }
        let quads = channels_to_quads(v, part.finish.limits);
        let y = part.y.add(4 * row * p.output[1] + segment.to);
        if T == 1 {
            _mm512_mask_storeu_epi32(y.cast(), segment.outputs, quads);
            return;
        }
        let outputs = segment.outputs as u8;
        _mm256_mask_storeu_epi32(y.cast(), outputs, _mm512_castsi512_si256(quads));
        if row + 1 < part.rows.end {
            let next = y.add(4 * p.output[1]).cast();
            _mm256_mask_storeu_epi32(next, outputs, _mm512_extracti64x4_epi64::<1>(quads));
        }
    }
}
