//! 3x3 and 5x5 kernels at strides 1 and 2: `vpermb` gathers the taps of a row for sixteen pixels of one channel.
//!
//! A *segment* is up to sixteen output pixels of one row, or of two where rows are short. Masked loads read the input
//! row around it, with the zero point where there is no input; a permutation that is the same for all segments puts the
//! taps of each output pixel into its lane, and dot products add it to all the output rows that the input row touches.
//!
//! A register holds sixteen pixels, and [`Gather`] is how they are chosen: taps of a 5x5 kernel are divided so that either
//! quad of them spans three pixels, so fourteen outputs find theirs in one register.

// SAFETY of every block in the bodies: the plane, its weights and its rows fit the geometry (contract of `Way::run`), and
// masked lanes touch no memory.

use super::{Columns, HEADER, Part, TAPS, Way};
use crate::conv::ConvGeometry;
use crate::int8::form::{Form, Step};
use crate::int8::sums::Sums;
use crate::int8::sums::avx512::{Avx512, channels_to_quads};
use crate::lanes::{self, Lanes};
use std::arch::x86_64::*;

pub(super) struct Permuted {
    segments: Vec<Segment>,
    /// For each quad of taps and channel: which byte goes where.
    order: [[[u8; 64]; 4]; 2],
    /// Which quads of two registers are even and which odd.
    halves: [[u32; 16]; 2],
    size: [usize; 2],
    output: [usize; 2],
    top: usize,
    zero: u8,
    body: BodyFn,
}

/// Neighbouring output pixels.
struct Segment {
    /// Where its input begins in a row, and which of 16 quads exist in each of the two reads of a row.
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
        let (held, body) = choose(k, s, g.input[1], g.output[1])?;
        Some(Permuted {
            segments: segments(g, held),
            order: order(g, held),
            halves: halves(g, held),
            size: g.input,
            output: g.output,
            top: w.pad[0],
            zero,
            body,
        })
    }
}

/// Which pixels of the input two registers hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Sixteen of a row for either quad of taps, which begin where the quad does.
    Row,
    /// 32 of a row.
    Wide,
    /// Sixteen of each of two rows.
    Pair,
    /// Two whole rows, of which each register holds all or half; its last quad lies outside.
    Whole,
}

/// What to hold of rows of `input` pixels for rows of `output`, and the code for it.
fn choose(k: usize, s: usize, input: usize, output: usize) -> Option<(Held, BodyFn)> {
    let whole = input <= 7 * s && output <= 8;
    let pair = output <= 8 && output.saturating_sub(1) * s + k <= 16;
    Some(match (k, s) {
        (3, 1) if whole => (Held::Whole, planes::<Flat<3>>),
        (5, 1) if whole => (Held::Whole, planes::<Flat<5>>),
        (5, 2) if whole => (Held::Whole, planes::<Halves<2>>),
        (3, 1) if pair => (Held::Pair, planes::<Joined<3, 1, 2>>),
        (5, 1) if pair => (Held::Pair, planes::<Joined<5, 1, 2>>),
        (3, 2) if pair => (Held::Pair, planes::<Joined<3, 2, 2>>),
        (3, 1) => (Held::Row, planes::<Row<3>>),
        (5, 1) => (Held::Row, planes::<Row<5>>),
        (3, 2) => (Held::Wide, planes::<Joined<3, 2, 1>>),
        (5, 2) => (Held::Wide, planes::<Halves<1>>),
        _ => return None,
    })
}

fn segments(g: &ConvGeometry, held: Held) -> Vec<Segment> {
    let w = &g.window;
    let (k, s, width) = (w.kernel[1], w.stride[1], g.output[1]);
    // Outputs whose taps fit, and where the second read begins.
    let (most, second) = match held {
        Held::Row => (14, Columns::new(k, s).column(1, 0)),
        Held::Wide => ((32 - k) / s + 1, 16),
        Held::Pair | Held::Whole => (8, 0),
    };
    let count = width.div_ceil(most);
    let segment = |i: usize| {
        let (first, end) = (width * i / count, width * (i + 1) / count);
        let from = if held == Held::Whole { 0 } else { (first * s) as isize - w.pad[1] as isize };
        let inside = |start: usize| {
            (0..16)
                .filter(|i| (0..g.input[1] as isize).contains(&(from + (start + i) as isize)))
                .fold(0u16, |mask, i| mask | 1 << i)
        };
        let inside = [inside(0), inside(second)];
        Segment { from: 4 * from, inside, to: 4 * first, outputs: ((1u32 << (end - first)) - 1) as u16 }
    };
    (0..count).map(segment).collect()
}

/// Lane `i` of channel `c` takes byte `c` of the pixels that output `i` reads, one quad of taps at a time. Columns past the
/// kernel have zero weights, and lanes past the segment are not stored.
fn order(g: &ConvGeometry, held: Held) -> [[[u8; 64]; 4]; 2] {
    let w = &g.window;
    let (k, s) = (w.kernel[1], w.stride[1]);
    let columns = Columns::new(k, s);
    // Whether each register holds every second pixel of two.
    let halves = (k, s) == (5, 2);
    let quad = |d: usize, lane: usize, place: usize| {
        let (row, output) = (lane / 8, lane % 8);
        match held {
            Held::Row => (lane + place).min(15),
            Held::Wide if halves => (lane + place).min(15),
            Held::Wide => (lane * s + columns.column(d, place)).min(31),
            Held::Pair => 16 * row + (output * s + columns.column(d, place)).min(15),
            Held::Whole => {
                let at = (output * s + columns.column(d, place)).wrapping_sub(w.pad[1]);
                match at < g.input[1] {
                    true if halves => 8 * row + at / 2,
                    true => g.input[1] * row + at,
                    false => 15,
                }
            }
        }
    };
    let byte = |d: usize, c: usize, at: usize| (4 * quad(d, at / 4, at % 4) + c) as u8;
    std::array::from_fn(|d| std::array::from_fn(|c| std::array::from_fn(|at| byte(d, c, at))))
}

/// For each quad of taps, every second quad of two registers.
fn halves(g: &ConvGeometry, held: Held) -> [[u32; 16]; 2] {
    let quad = |d: usize, lane: usize| match held {
        // Outputs read the pixels that are even in the padded row, then the odd ones.
        Held::Whole => lane / 8 * 16 + lane % 8 * 2 + (d + g.window.pad[1]) % 2,
        _ => 2 * lane + d,
    };
    std::array::from_fn(|d| std::array::from_fn(|lane| quad(d, lane) as u32))
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

/// How the taps of an input row get into the lanes of the outputs.
trait Gather {
    const KERNEL: usize;
    const STRIDE: usize;
    /// Output rows of a segment.
    const ROWS: usize;
    /// Quads of taps in a kernel row.
    const QUADS: usize = Self::KERNEL.div_ceil(4);
    /// Quads of taps whose permutations differ.
    const ORDERS: usize = Self::QUADS;

    /// What the taps of a segment in input row `row` are gathered from.
    unsafe fn load(from: &Input<'_>, row: isize) -> [__m512i; 2];

    /// Quad of taps `d` by its permutation.
    #[inline(always)]
    unsafe fn taps(x: [__m512i; 2], order: __m512i, d: usize) -> __m512i {
        // SAFETY: see the top of the file.
        unsafe { _mm512_permutexvar_epi8(order, x[d]) }
    }
}

/// Stride 1: a read for each quad of taps.
struct Row<const K: usize>;

impl<const K: usize> Gather for Row<K> {
    const KERNEL: usize = K;
    const STRIDE: usize = 1;
    const ROWS: usize = 1;
    const ORDERS: usize = 1;

    #[inline(always)]
    unsafe fn load(from: &Input<'_>, row: isize) -> [__m512i; 2] {
        // SAFETY: see the top of the file.
        unsafe {
            let first = from.quads(row, 0, 0);
            // The second quad of taps begins as many columns on as the first has.
            let columns = K.div_ceil(Self::QUADS) as isize;
            let second = if Self::QUADS == 1 { first } else { from.quads(row, columns, 1) };
            [first, second]
        }
    }
}

/// Stride 1: two rows of at most seven pixels, which follow each other in memory, as one.
struct Flat<const K: usize>;

impl<const K: usize> Gather for Flat<K> {
    const KERNEL: usize = K;
    const STRIDE: usize = 1;
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: &Input<'_>, row: isize) -> [__m512i; 2] {
        let width = from.p.size[1];
        let inside = from.inside(row, 0) | from.inside(row + 1, 0) << width;
        // SAFETY: see the top of the file.
        [unsafe { from.read(row, 0, inside) }; 2]
    }
}

/// Any bytes of two registers: 32 pixels of a row, or sixteen of each of two.
struct Joined<const K: usize, const S: usize, const T: usize>;

impl<const K: usize, const S: usize, const T: usize> Gather for Joined<K, S, T> {
    const KERNEL: usize = K;
    const STRIDE: usize = S;
    const ROWS: usize = T;

    #[inline(always)]
    unsafe fn load(from: &Input<'_>, row: isize) -> [__m512i; 2] {
        // SAFETY: see the top of the file.
        unsafe { from.two::<S, T>(row) }
    }

    #[inline(always)]
    unsafe fn taps(x: [__m512i; 2], order: __m512i, _d: usize) -> __m512i {
        // SAFETY: see the top of the file.
        unsafe { _mm512_permutex2var_epi8(x[0], order, x[1]) }
    }
}

/// 5x5 kernels at stride 2: even pixels in one register, odd ones in the other.
struct Halves<const T: usize>;

impl<const T: usize> Gather for Halves<T> {
    const KERNEL: usize = 5;
    const STRIDE: usize = 2;
    const ROWS: usize = T;
    // Of one row both halves are read alike; ends of two whole rows differ.
    const ORDERS: usize = T;

    #[inline(always)]
    unsafe fn load(from: &Input<'_>, row: isize) -> [__m512i; 2] {
        // SAFETY: see the top of the file.
        unsafe {
            let x = from.two::<2, T>(row);
            let even = _mm512_loadu_si512(from.p.halves[0].as_ptr().cast());
            let odd = _mm512_loadu_si512(from.p.halves[1].as_ptr().cast());
            [_mm512_permutex2var_epi32(x[0], even, x[1]), _mm512_permutex2var_epi32(x[0], odd, x[1])]
        }
    }
}

/// The input of a segment.
#[derive(Clone, Copy)]
struct Input<'a> {
    p: &'a Permuted,
    x: *const u8,
    segment: &'a Segment,
}

impl Input<'_> {
    /// Which quads of read `i` exist in a row.
    #[inline(always)]
    fn inside(&self, row: isize, i: usize) -> u16 {
        if (0..self.p.size[0] as isize).contains(&row) { self.segment.inside[i] } else { 0 }
    }

    /// Sixteen quads from quad `skip` of the segment on: those that are `inside`, and the zero point for the others.
    #[inline(always)]
    unsafe fn read(&self, row: isize, skip: isize, inside: u16) -> __m512i {
        let from = self.x.wrapping_offset(row * 4 * self.p.size[1] as isize + self.segment.from + 4 * skip);
        // SAFETY: lanes that are not inside of the plane are masked.
        unsafe { _mm512_mask_loadu_epi32(_mm512_set1_epi8(self.p.zero as i8), inside, from.cast()) }
    }

    /// Read `i` of a row.
    #[inline(always)]
    unsafe fn quads(&self, row: isize, skip: isize, i: usize) -> __m512i {
        // SAFETY: see the top of the file.
        unsafe { self.read(row, skip, self.inside(row, i)) }
    }

    /// 32 quads of a row, or sixteen of the two rows that two output rows begin with.
    #[inline(always)]
    unsafe fn two<const S: usize, const T: usize>(&self, row: isize) -> [__m512i; 2] {
        // SAFETY: see the top of the file.
        unsafe {
            let second = if T == 1 { self.quads(row, 16, 1) } else { self.quads(row + S as isize, 0, 1) };
            [self.quads(row, 0, 0), second]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma")]
unsafe fn planes<G: Gather>(p: &Permuted, part: &Part<'_>) {
    let mut row = part.rows.start;
    while row < part.rows.end {
        // Three together, and two of two rows, seldom come, and code takes room on a device.
        let groups = match (part.rows.end - row).div_ceil(G::ROWS) {
            4.. => 4,
            2.. if G::ROWS == 1 => 2,
            _ => 1,
        };
        for segment in &p.segments {
            // SAFETY: see the top of the file.
            unsafe {
                match groups {
                    4 => rows::<G, 4>(p, part, segment, row),
                    2 => rows::<G, 2>(p, part, segment, row),
                    _ => rows::<G, 1>(p, part, segment, row),
                }
            }
        }
        row += groups * G::ROWS;
    }
}

/// `R` times as many output rows of a segment as it has.
#[inline(always)]
unsafe fn rows<G: Gather, const R: usize>(p: &Permuted, part: &Part<'_>, segment: &Segment, row: usize) {
    // SAFETY: see the top of the file.
    unsafe {
        let mut order = [[_mm512_setzero_si512(); 4]; 2];
        for d in 0..G::ORDERS {
            for c in 0..4 {
                order[d][c] = _mm512_loadu_si512(p.order[d][c].as_ptr().cast());
            }
        }
        let w = part.w.as_ptr();
        let header = w.cast::<i32>();
        let mut start = [_mm512_set1_epi32(*header); 4];
        for c in 1..4 {
            start[c] = _mm512_set1_epi32(*header.add(c));
        }
        let mut sums = [start; R];
        let from = Input { p, x: part.x.as_ptr(), segment };
        let first = (row * G::STRIDE) as isize - p.top as isize;
        macro_rules! steps {
            ($($i:literal)*) => {
                $(step::<G, R, $i>(&from, w, first, &order, &mut sums);)*
            };
        }
        // As many as the largest R and kernel have.
        steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
        for r in 0..R {
            store::<G>(p, part, segment, w, row + r * G::ROWS, sums[r]);
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
unsafe fn step<G: Gather, const R: usize, const I: usize>(
    from: &Input<'_>,
    w: *const u8,
    first: isize,
    order: &[[__m512i; 4]; 2],
    sums: &mut [[__m512i; 4]; R],
) {
    // Input rows between the output rows of a sum and the next.
    let apart = G::ROWS * G::STRIDE;
    if I >= (R - 1) * apart + G::KERNEL {
        return;
    }
    let w = opaque(w);
    // SAFETY: see the top of the file.
    unsafe {
        let x = G::load(from, first + I as isize);
        let x = [pinned(x[0]), pinned(x[1])];
        for d in 0..G::QUADS {
            for c in 0..4 {
                let taps = G::taps(x, order[d % G::ORDERS][c], d);
                for r in 0..R {
                    if I >= r * apart && I < r * apart + G::KERNEL {
                        let at = ((I - r * apart) * G::QUADS + d) * TAPS + 4 * c;
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

#[inline(always)]
unsafe fn store<G: Gather>(
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
        if G::ROWS == 1 {
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
