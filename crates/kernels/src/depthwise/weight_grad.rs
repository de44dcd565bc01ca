//! The gradient for the weights: sums over all pixels of all images, a group of taps of one block of channels at a time.

use super::ConvGeometry;
use super::correlate::pixel;
use crate::Layout;
use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{blocks, physical_len};

/// Pixels whose sums stay in f32.
const CHUNK: usize = 1024;

pub(super) struct WeightGrad {
    name: String,
    g: ConvGeometry,
    /// Kernel rows and columns that one pass sums up.
    group: [usize; 2],
    pass: Pass,
}

type Pass = unsafe fn(&WeightGrad, &Io<'_>, usize, [usize; 2]);

impl WeightGrad {
    pub(super) fn new(isa: Isa, name: String, g: &ConvGeometry) -> WeightGrad {
        let (group, pass) = pick(isa, g);
        WeightGrad { name, g: g.clone(), group, pass }
    }

    fn check(&self, io: &Io<'_>) {
        let g = &self.g;
        let physical = |[h, w]: [usize; 2]| physical_len(Layout::Blocked, g.batch, g.channels_in, h * w);
        let want = [physical(g.input), physical(g.output)];
        assert_eq!([0, 1].map(|i| io.input::<f32>(i).len()), want, "{}: elements", self.name);
        let weights = g.channels_in * g.window.kernel[0] * g.window.kernel[1];
        assert_eq!(io.output::<f32>(0).len(), weights, "{}: elements of dw", self.name);
    }
}

impl Kernel for WeightGrad {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        self.check(io);
        let [down, across] = [0, 1].map(|axis| self.g.window.kernel[axis] / self.group[axis]);
        for item in worker.share(blocks(self.g.channels_in) * down * across) {
            let (block, group) = (item / (down * across), item % (down * across));
            let tap = [group / across * self.group[0], group % across * self.group[1]];
            // SAFETY: lengths were checked; groups of taps of blocks are disjoint.
            unsafe { (self.pass)(self, io, block, tap) };
        }
    }
}

/// All taps at once where their sums fit in the registers, a kernel row at once, or a single tap.
fn pick(isa: Isa, g: &ConvGeometry) -> ([usize; 2], Pass) {
    let w = &g.window;
    let many = isa.registers() >= 32;
    match (w.kernel, w.stride, w.dilation) {
        ([3, 3], [1, 1], [1, 1]) if many => ([3, 3], pick_pass::<3, 3, 4, 1, 1>(isa)),
        ([3, 3], [2, 2], [1, 1]) if many => ([3, 3], pick_pass::<3, 3, 4, 1, 2>(isa)),
        ([5, 5], [1, 1], [1, 1]) if many => ([5, 5], pick_pass::<5, 5, 1, 1, 1>(isa)),
        ([5, 5], [2, 2], [1, 1]) if many => ([5, 5], pick_pass::<5, 5, 1, 1, 2>(isa)),
        ([_, 3], [_, 1], [_, 1]) => ([1, 3], pick_pass::<1, 3, 4, 2, 1>(isa)),
        ([_, 3], [_, 2], [_, 1]) => ([1, 3], pick_pass::<1, 3, 4, 2, 2>(isa)),
        ([_, 5], [_, 1], [_, 1]) => ([1, 5], pick_pass::<1, 5, 2, 1, 1>(isa)),
        ([_, 5], [_, 2], [_, 1]) => ([1, 5], pick_pass::<1, 5, 2, 1, 2>(isa)),
        _ => ([1, 1], pick_pass::<1, 1, 4, 4, 0>(isa)),
    }
}

multiversion! {
    fn pick_pass<; const R: usize, const K: usize, const T: usize, const U: usize, const S: usize>
    (k: &WeightGrad, io: &Io<'_>, block: usize, tap: [usize; 2]) = pass
}

/// The `R` input rows that the taps of one row of dy meet: column 0 of each, and its width, 0 where it lies outside.
struct Rows<const R: usize> {
    x: [*const f32; R],
    widths: [usize; R],
    dy: *const f32,
    /// Input column of the first tap of the first pixel.
    column: isize,
    stride: usize,
}

impl<const R: usize> Rows<R> {
    #[inline(always)]
    unsafe fn new(k: &WeightGrad, io: &Io<'_>, plane: usize, row: usize, tap: [usize; 2]) -> Self {
        let (g, w) = (&k.g, &k.g.window);
        let ([ih, iw], [oh, ow]) = (g.input, g.output);
        let at = |r: usize| (row * w.stride[0] + (tap[0] + r) * w.dilation[0]).wrapping_sub(w.pad[0]);
        let x = io.input::<f32>(0).as_ptr();
        Rows {
            x: std::array::from_fn(|r| {
                if at(r) < ih { x.wrapping_add((plane * ih + at(r)) * iw * LANES) } else { x }
            }),
            widths: std::array::from_fn(|r| if at(r) < ih { iw } else { 0 }),
            // SAFETY: the caller's row of dy exists.
            dy: unsafe { io.input::<f32>(1).as_ptr().add((plane * oh + row) * ow * LANES) },
            column: (tap[1] * w.dilation[1]) as isize - w.pad[1] as isize,
            stride: w.stride[1],
        }
    }
}

/// Sums of `R` x `K` taps starting at `tap`, over `T` pixels at a time into `U` sums in turn; stride `S` (0: any).
#[inline(always)]
unsafe fn pass<V: Lanes, const R: usize, const K: usize, const T: usize, const U: usize, const S: usize>(
    k: &WeightGrad,
    io: &Io<'_>,
    block: usize,
    tap: [usize; 2],
) {
    let (g, mut pixels) = (&k.g, 0);
    let mut totals = [[[0.0f64; LANES]; K]; R];
    // SAFETY: `run` checked the lengths; this worker alone writes these taps.
    unsafe {
        let mut sums = [[[V::zero(); U]; K]; R];
        for image in 0..g.batch {
            let plane = image * blocks(g.channels_in) + block;
            for row in 0..g.output[0] {
                let rows = Rows::<R>::new(k, io, plane, row, tap);
                add_row::<V, R, K, T, U, S>(&rows, g, &mut sums);
                pixels += g.output[1];
                if pixels >= CHUNK {
                    flush(&mut sums, &mut totals);
                    pixels = 0;
                }
            }
        }
        flush(&mut sums, &mut totals);
        write(g, io, block, tap, &totals);
    }
}

#[inline(always)]
unsafe fn add_row<
    V: Lanes,
    const R: usize,
    const K: usize,
    const T: usize,
    const U: usize,
    const S: usize,
>(
    rows: &Rows<R>,
    g: &ConvGeometry,
    sums: &mut [[[V; U]; K]; R],
) {
    let stride = if S > 0 { S } else { rows.stride };
    let inside = inside(rows, g.input[1], g.output[1], stride, K);
    // SAFETY: the caller's rows; what is not inside is replaced.
    unsafe {
        let mut i = 0;
        while i < g.output[1] {
            if inside.contains(&i) && i + T <= inside.end {
                add_pixels::<V, R, K, T, U, S, false>(rows, i, sums);
                i += T;
            } else {
                add_pixels::<V, R, K, 1, U, S, true>(rows, i, sums);
                i += 1;
            }
        }
    }
}

/// Pixels of dy whose taps all lie on the input.
#[inline(always)]
fn inside<const R: usize>(
    rows: &Rows<R>,
    input: usize,
    output: usize,
    stride: usize,
    taps: usize,
) -> std::ops::Range<usize> {
    if rows.widths.contains(&0) {
        return 0..0;
    }
    let begin = ((-rows.column).max(0) as usize).div_ceil(stride);
    let left = input as isize - rows.column - (taps as isize - 1);
    begin..(left.max(0) as usize).div_ceil(stride).min(output)
}

#[inline(always)]
unsafe fn add_pixels<
    V: Lanes,
    const R: usize,
    const K: usize,
    const T: usize,
    const U: usize,
    const S: usize,
    const EDGE: bool,
>(
    rows: &Rows<R>,
    first: usize,
    sums: &mut [[[V; U]; K]; R],
) {
    let stride = if S > 0 { S } else { rows.stride };
    for i in 0..T {
        // SAFETY: the caller's pixels of dy exist; those of x do, or are replaced.
        unsafe {
            let dy = V::load(rows.dy.add((first + i) * LANES));
            for r in 0..R {
                for k in 0..K {
                    let at = rows.column + ((first + i) * stride + k) as isize;
                    let x = V::load(pixel::<EDGE>(rows.x[r], at, rows.widths[r]));
                    sums[r][k][i % U] = x.mul_add(dy, sums[r][k][i % U]);
                }
            }
        }
    }
}

/// Moves the sums into the totals.
#[inline(always)]
unsafe fn flush<V: Lanes, const R: usize, const K: usize, const U: usize>(
    sums: &mut [[[V; U]; K]; R],
    totals: &mut [[[f64; LANES]; K]; R],
) {
    for (r, k) in (0..R).flat_map(|r| (0..K).map(move |k| (r, k))) {
        for u in 0..U {
            // SAFETY: inside of a function made by `multiversion!`.
            let lanes = unsafe { std::mem::replace(&mut sums[r][k][u], V::zero()).to_array() };
            for i in 0..LANES {
                totals[r][k][i] += f64::from(lanes[i]);
            }
        }
    }
}

/// Writes the totals of one group of taps to dw.
#[inline(always)]
unsafe fn write<const R: usize, const K: usize>(
    g: &ConvGeometry,
    io: &Io<'_>,
    block: usize,
    tap: [usize; 2],
    totals: &[[[f64; LANES]; K]; R],
) {
    let ([kh, kw], dw) = (g.window.kernel, io.output::<f32>(0).as_mut_ptr());
    for lane in 0..LANES.min(g.channels_in - block * LANES) {
        for (r, row) in totals.iter().enumerate() {
            for (k, total) in row.iter().enumerate() {
                let at = ((block * LANES + lane) * kh + tap[0] + r) * kw + tap[1] + k;
                // SAFETY: the element exists, and only this worker writes these taps.
                unsafe { *dw.add(at) = total[lane] as f32 };
            }
        }
    }
}
