//! Pools of quads: maximum and average over windows.
//!
//! Rows are combined first, byte by byte along whole rows, then columns. The loops are plain Rust, which the compiler
//! turns into the vectors of each form: pools are a hundredth of a network's time.

use super::dots::Dots;
use super::form::{Form, per_form};
use super::share::Share;
use super::{quads, quads_len};
use crate::kernel::as_bytes;
use crate::{Io, Isa, Kernel, LANES, Rows, Worker};
use espalier_graph::Window;

/// Shapes of one pooling: `x[batch, channels, input]`, `y[batch, channels, output]`, both in quads.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolGeometry {
    /// Images.
    pub batch: usize,
    /// Channels, each pooled by itself.
    pub channels: usize,
    /// Height and width of x.
    pub input: [usize; 2],
    /// Height and width of y, as `window.output(input)` gives them.
    pub output: [usize; 2],
    /// Size, stride, padding and dilation.
    pub window: Window,
}

/// How sums become bytes: `y = clamp(round_ties_even(fma(sum of x - zero, ratio / count, bias)), lo, hi)`, where
/// `ratio / count` is one division in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    /// Zero point of x.
    pub zero: u8,
    /// Size of a unit of x, in units of y.
    pub ratio: f32,
    /// Zero point of y.
    pub bias: f32,
    /// Whether `count` is the whole window; else its positions that lie on the input.
    pub count_pad: bool,
    /// `lo` and `hi`.
    pub limits: [u8; 2],
}

/// Kernel `x -> y`: maximum of each window; padding never wins, and a window of nothing else gives 0.
pub fn max_pool(isa: Isa, g: &PoolGeometry) -> Box<dyn Kernel> {
    max_pool_with(Form::of(isa), g)
}

fn max_pool_with(form: Form, g: &PoolGeometry) -> Box<dyn Kernel> {
    Box::new(Pool::new(form, g, "max", None, pick_max(form)))
}

/// Kernel `x -> y`: average of each window (the whole input for a global one). Panics where ratio or bias is not finite.
pub fn avg_pool(isa: Isa, g: &PoolGeometry, average: Average) -> Box<dyn Kernel> {
    avg_pool_with(Form::of(isa), g, average)
}

fn avg_pool_with(form: Form, g: &PoolGeometry, average: Average) -> Box<dyn Kernel> {
    let Average { ratio, bias, limits: [lo, hi], .. } = average;
    assert!(ratio.is_finite() && bias.is_finite(), "ratio {ratio} and bias {bias} must be finite");
    assert!(lo <= hi, "limits {lo} and {hi}");
    let body = if is_global(g) { pick_global(form) } else { pick_average(form) };
    Box::new(Pool::new(form, g, "average", Some(average), body))
}

/// One row of output; of a global pool, whose rows are one quad, those of several planes.
struct Row<'a> {
    pool: &'a Pool,
    /// The plane of the input (planes of a global pool), and the output row's number.
    x: &'a [u8],
    number: usize,
    y: &'a mut [u8],
    scratch: &'a mut [f32],
}

type Body = for<'a, 'b> unsafe fn(&'a mut Row<'b>);

struct Pool {
    name: String,
    g: PoolGeometry,
    average: Option<Average>,
    is_global: bool,
    body: Body,
    /// For each output row and column, the first input position and how many follow, a dilation apart.
    taps: [Vec<Taps>; 2],
}

#[derive(Clone, Copy)]
struct Taps {
    first: usize,
    count: usize,
}

fn taps(g: &PoolGeometry, axis: usize) -> Vec<Taps> {
    let w = &g.window;
    let (step, pad) = (w.dilation[axis], w.pad[axis]);
    let at = |o: usize| {
        let inside = |k: &usize| (pad..pad + g.input[axis]).contains(&(o * w.stride[axis] + k * step));
        let mut inside = (0..w.kernel[axis]).filter(inside);
        let first = inside.next();
        let count = first.map_or(0, |_| 1 + inside.count());
        Taps { first: first.map_or(0, |k| o * w.stride[axis] + k * step - pad), count }
    };
    (0..g.output[axis]).map(at).collect()
}

impl Pool {
    fn new(form: Form, g: &PoolGeometry, what: &str, average: Option<Average>, body: Body) -> Pool {
        assert_eq!(g.window.output(g.input), Some(g.output), "output size of {g:?}");
        let [kh, kw] = g.window.kernel;
        let name = format!("{what} pool {kh}x{kw} int8 {form}");
        let is_global = average.is_some() && is_global(g);
        let g = one_row(g);
        let taps = [taps(&g, 0), taps(&g, 1)];
        Pool { name, g, average, is_global, body, taps }
    }
}

impl Pool {
    fn share(&self) -> Share {
        let planes = self.g.batch * quads(self.g.channels);
        let [rows, width] = self.g.output;
        Share { rows, row: 4 * width, planes, planes_weigh: false, plane_by_plane: true }
    }

    /// Bytes of the positions of a row of windows; what does not fill a vector would be computed one by one.
    fn positions(&self) -> usize {
        let last = self.g.output[1].saturating_sub(1) * self.g.window.stride[1];
        (4 * (last + 1)).next_multiple_of(4 * LANES)
    }

    /// Bytes of a row of quads with the padding that windows reach.
    fn padded(&self) -> usize {
        let w = &self.g.window;
        let reach = self.positions() + 4 * (w.kernel[1] - 1) * w.dilation[1];
        reach.max(4 * (w.pad[1] + self.g.input[1]))
    }
}

/// Whether the only window is the whole input.
fn is_global(g: &PoolGeometry) -> bool {
    g.window.kernel == g.input && g.window.pad == [0; 4] && g.window.dilation == [1; 2]
}

/// A global pool as one over a single row, which runs along the whole plane.
fn one_row(g: &PoolGeometry) -> PoolGeometry {
    let mut g = g.clone();
    if is_global(&g) {
        g.input = [1, g.input[0] * g.input[1]];
        g.window.kernel = g.input;
    }
    g
}

impl Kernel for Pool {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        // Sums of a row, or a row with its padding and the windows at its positions.
        (4 * self.g.input[1]).max((self.padded() + self.positions()).div_ceil(size_of::<f32>()))
    }

    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        self.share().written(1, workers)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let g = &self.g;
        let (x, y) = (io.input::<u8>(0), io.output::<u8>(0));
        let len = |[h, w]: [usize; 2]| quads_len(g.batch, g.channels, h * w);
        assert_eq!([x.len(), y.len()], [len(g.input), len(g.output)], "{}: bytes", self.name);
        let (rows, planes) = self.share().of(worker);
        let (plane, row) = (4 * g.input[0] * g.input[1], 4 * g.output[1]);
        let at_once = if self.is_global && !rows.is_empty() { planes.len().max(1) } else { 1 };
        for p in planes.step_by(at_once) {
            for number in rows.clone() {
                let at = (p * g.output[0] + number) * row;
                // SAFETY: rows of planes are disjoint, and the body was picked for this CPU.
                unsafe {
                    let x = &x[p * plane..(p + at_once) * plane];
                    let y = y.slice_mut(at..at + at_once * row);
                    (self.body)(&mut Row { pool: self, x, number, y, scratch });
                }
            }
        }
    }
}

per_form!(fn pick_max(row: &mut Row<'_>) = max_row);
per_form!(fn pick_average(row: &mut Row<'_>) = average_row);
per_form!(fn pick_global(row: &mut Row<'_>) = global_row);

/// Maxima of columns of bytes, then of windows of these at every position; of those, each stride's is kept.
#[inline(always)]
unsafe fn max_row<D: Dots>(r: &mut Row<'_>) {
    let (g, width) = (&r.pool.g, 4 * r.pool.g.input[1]);
    let (stride, step) = (4 * g.window.stride[1], 4 * g.window.dilation[1]);
    let (most, rest) = as_bytes(r.scratch).split_at_mut(r.pool.padded());
    let windows = &mut rest[..r.pool.positions()];
    let rows = r.pool.taps[0][r.number];
    let (left, right) = (4 * g.window.pad[1], 4 * g.window.pad[1] + width);
    most[..left].fill(0);
    most[right..].fill(0);
    largest(&mut most[left..right], &r.x[rows.first * width..], g.window.dilation[0] * width, rows.count);
    largest(windows, most, step, g.window.kernel[1]);
    match g.window.stride[1] {
        1 => r.y.copy_from_slice(&windows[..r.y.len()]),
        2 => every_second(windows, r.y),
        _ => {
            r.y.chunks_exact_mut(4).zip(windows.chunks(stride)).for_each(|(y, w)| y.copy_from_slice(&w[..4]))
        }
    }
}

/// The largest of `count` bytes of `from` that are `apart`, for each byte of `to`; 0 of none.
#[inline(always)]
fn largest(to: &mut [u8], from: &[u8], apart: usize, count: usize) {
    let len = to.len();
    let at = |k: usize| &from[k * apart..][..len];
    let mut done = count.min(3);
    match count {
        0 => to.fill(0),
        1 => to.copy_from_slice(at(0)),
        2 => {
            let (a, b) = (at(0), at(1));
            for i in 0..len {
                to[i] = a[i].max(b[i]);
            }
        }
        _ => {
            let (a, b, c) = (at(0), at(1), at(2));
            for i in 0..len {
                to[i] = a[i].max(b[i]).max(c[i]);
            }
        }
    }
    while done < count {
        let from = at(done);
        for i in 0..len {
            to[i] = to[i].max(from[i]);
        }
        done += 1;
    }
}

/// Quads as the lower halves of pairs, which vectors have an instruction for.
#[inline(always)]
fn every_second(from: &[u8], to: &mut [u8]) {
    for (pair, quad) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<4>().0) {
        *quad = (u64::from_le_bytes(*pair) as u32).to_le_bytes();
    }
}

#[inline(always)]
unsafe fn average_row<D: Dots>(r: &mut Row<'_>) {
    let (g, width) = (&r.pool.g, 4 * r.pool.g.input[1]);
    let average = r.pool.average.as_ref().expect("an average pool says how");
    let bytes = &mut as_bytes(r.scratch)[..4 * width];
    let (sums, _) = bytes.as_chunks_mut::<4>();
    sums.fill([0; 4]);
    let rows = r.pool.taps[0][r.number];
    for k in 0..rows.count {
        let from = &r.x[(rows.first + k * g.window.dilation[0]) * width..][..width];
        for i in 0..width {
            sums[i] = (i32::from_ne_bytes(sums[i]) + i32::from(from[i])).to_ne_bytes();
        }
    }
    for (y, columns) in r.y.chunks_exact_mut(4).zip(&r.pool.taps[1]) {
        let mut quad = [0; 4];
        for k in 0..columns.count {
            let at = 4 * (columns.first + k * g.window.dilation[1]);
            for c in 0..4 {
                quad[c] += i32::from_ne_bytes(sums[at + c]);
            }
        }
        let inside = rows.count * columns.count;
        let whole = r.pool.g.window.kernel.iter().product();
        y.copy_from_slice(&average.of(quad, inside, if average.count_pad { whole } else { inside }));
    }
}

/// The averages of whole planes: sums of four pixels side by side.
#[inline(always)]
unsafe fn global_row<D: Dots>(r: &mut Row<'_>) {
    let average = r.pool.average.as_ref().expect("an average pool says how");
    let pixels = r.pool.g.input[1];
    for (x, y) in r.x.chunks_exact(4 * pixels).zip(r.y.as_chunks_mut::<4>().0) {
        let mut sums = [0i32; 16];
        let (lines, rest) = x.as_chunks::<16>();
        for line in lines {
            for i in 0..16 {
                sums[i] += i32::from(line[i]);
            }
        }
        let mut quad: [i32; 4] = std::array::from_fn(|c| sums[c] + sums[4 + c] + sums[8 + c] + sums[12 + c]);
        for pixel in rest.as_chunks::<4>().0 {
            for c in 0..4 {
                quad[c] += i32::from(pixel[c]);
            }
        }
        *y = average.of(quad, pixels, pixels);
    }
}

impl Average {
    /// Results for the sums of `inside` pixels, of which there should be `count`.
    #[inline(always)]
    fn of(&self, sums: [i32; 4], inside: usize, count: usize) -> [u8; 4] {
        let [lo, hi] = self.limits.map(f32::from);
        let scale = self.ratio / count.max(1) as f32;
        let zeros = (inside * usize::from(self.zero)) as i32;
        let mut results = [0; 4];
        for c in 0..4 {
            let v = ((sums[c] - zeros) as f32).mul_add(scale, self.bias);
            results[c] = v.clamp(lo, hi).round_ties_even() as u8;
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::testing::{bytes, from_quads, run, to_quads};
    use proptest::prelude::*;

    /// For every output in logical order, the bytes of its window that lie on the input.
    fn windows(g: &PoolGeometry, x: &[u8]) -> Vec<Vec<u8>> {
        let ([ih, iw], [oh, ow], w) = (g.input, g.output, &g.window);
        let mut all = Vec::new();
        for plane in 0..g.batch * g.channels {
            for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                let mut window = Vec::new();
                for (ky, kx) in (0..w.kernel[0]).flat_map(|y| (0..w.kernel[1]).map(move |x| (y, x))) {
                    let y = (oy * w.stride[0] + ky * w.dilation[0]).wrapping_sub(w.pad[0]);
                    let z = (ox * w.stride[1] + kx * w.dilation[1]).wrapping_sub(w.pad[1]);
                    if y < ih && z < iw {
                        window.push(x[(plane * ih + y) * iw + z]);
                    }
                }
                all.push(window);
            }
        }
        all
    }

    fn check(batch: usize, channels: usize, input: [usize; 2], window: Window, zero: u8) {
        let Some(output) = window.output(input) else { return };
        let g = PoolGeometry { batch, channels, input, output, window };
        let x = bytes(1, batch * channels * input[0] * input[1]);
        let quads = to_quads(&x, channels, input[0] * input[1]);
        let len = quads_len(batch, channels, output[0] * output[1]);
        let windows = windows(&g, &x);
        let logical = |y: &[u8]| from_quads(y, batch, channels, output[0] * output[1]);
        let most: Vec<u8> = windows.iter().map(|w| w.iter().copied().max().unwrap_or(0)).collect();
        for form in Form::available() {
            let kernel = max_pool_with(form, &g);
            assert_eq!(logical(&run(&*kernel, &[&quads], len)), most, "{} {g:?}", kernel.name());
        }
        for (ratio, count_pad, limits) in
            [(1.0, true, [0, 255]), (1.9, false, [3, 200]), (-1e38, false, [0, 255])]
        {
            let average = Average { zero, ratio, bias: 19.5, count_pad, limits };
            let value = |window: &Vec<u8>| {
                let sum: i32 = window.iter().map(|&x| i32::from(x) - i32::from(zero)).sum();
                let whole = g.window.kernel[0] * g.window.kernel[1];
                let count = if count_pad { whole } else { window.len().max(1) };
                let v = (sum as f32).mul_add(ratio / count as f32, 19.5);
                v.round_ties_even().clamp(f32::from(limits[0]), f32::from(limits[1])) as u8
            };
            let want: Vec<u8> = windows.iter().map(value).collect();
            for form in Form::available() {
                let kernel = avg_pool_with(form, &g, average);
                let y = logical(&run(&*kernel, &[&quads], len));
                assert_eq!(y, want, "{} {g:?} {average:?}", kernel.name());
            }
        }
    }

    #[test]
    fn pools_have_the_bits_of_the_definition() {
        let global =
            |[h, w]: [usize; 2]| Window { kernel: [h, w], stride: [1; 2], pad: [0; 4], dilation: [1; 2] };
        for input in [[1, 1], [7, 7], [9, 14], [33, 57]] {
            check(2, 5, input, global(input), 128);
            check(1, 17, input, Window::square(3, 2, 1), 255);
            check(1, 4, input, Window::square(3, 1, 1), 0);
            check(1, 3, input, Window::square(2, 2, 0), 9);
            // Windows that lie in the padding altogether.
            check(1, 3, input, Window::square(2, 1, 3), 9);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_pool_has_the_bits_of_the_definition(
            channels in 1usize..9,
            input in [1usize..15, 1usize..40],
            kernel in [1usize..5, 1usize..5],
            stride in [1usize..4, 1usize..4],
            pad in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
            dilation in [1usize..3, 1usize..3],
            zero: u8,
        ) {
            check(1, channels, input, Window { kernel, stride, pad, dilation }, zero);
        }
    }
}
