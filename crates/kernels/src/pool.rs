//! Maximum and average over windows, and their gradients.
//!
//! Sixteen planes (one image, one channel) are computed at once: a block of the blocked layout, or any 16 planes of
//! plain memory. NaN propagates, as in PyTorch; where a window holds NaN, its first element gets the gradient.

mod reference;

use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{Layout, blocks, physical_len};
use espalier_graph::Window;

pub(crate) use reference::reference;

/// Shapes of one pooling: `x[batch, channels, input]`, `y[batch, channels, output]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Layout of x, y and their gradients.
    pub layout: Layout,
}

impl PoolGeometry {
    fn groups(&self) -> usize {
        match self.layout {
            Layout::Blocked => self.batch * blocks(self.channels),
            Layout::Plain => (self.batch * self.channels).div_ceil(LANES),
        }
    }

    /// Planes of `group` that exist in memory.
    fn planes(&self, group: usize) -> usize {
        match self.layout {
            Layout::Blocked => LANES,
            Layout::Plain => LANES.min(self.batch * self.channels - group * LANES),
        }
    }

    fn len(&self, [h, w]: [usize; 2]) -> usize {
        physical_len(self.layout, self.batch, self.channels, h * w)
    }

    fn taps(&self, axis: usize) -> Vec<Taps> {
        (0..self.output[axis]).map(|o| Taps::new(&self.window, axis, self.input[axis], o)).collect()
    }
}

/// The taps of one window along one axis that lie on the input: `first, first + dilation, ...`.
#[derive(Clone, Copy)]
struct Taps {
    first: usize,
    count: usize,
}

impl Taps {
    fn new(window: &Window, axis: usize, input: usize, output: usize) -> Taps {
        let (step, start, pad) = (window.dilation[axis], output * window.stride[axis], window.pad[axis]);
        let skipped = pad.saturating_sub(start).div_ceil(step);
        let first = start + skipped * step - pad.min(start + skipped * step);
        let inside = input.saturating_sub(first).div_ceil(step);
        Taps { first, count: inside.min(window.kernel[axis].saturating_sub(skipped)) }
    }
}

/// Maximum of each window; padding never wins. in: x; out: y.
pub fn max_pool(isa: Isa, g: PoolGeometry) -> Box<dyn Kernel> {
    let part = match g.layout {
        Layout::Blocked => pick_max::<true>(isa),
        Layout::Plain => pick_max::<false>(isa),
    };
    Box::new(Pool::new("max pool", isa, g, Pass::Forward, part))
}

/// Gradient of [`max_pool`]: the first of equal maxima gets it. in: x, dy; out: dx.
pub fn max_pool_grad(isa: Isa, g: PoolGeometry) -> Box<dyn Kernel> {
    let part = match g.layout {
        Layout::Blocked => pick_max_grad::<true>(isa),
        Layout::Plain => pick_max_grad::<false>(isa),
    };
    Box::new(Pool::new("max pool gradient", isa, g, Pass::Gradient { inputs: 2 }, part))
}

/// Mean of each window; padding counts as zeros if `count_pad`, else not at all. in: x; out: y.
pub fn avg_pool(isa: Isa, g: PoolGeometry, count_pad: bool) -> Box<dyn Kernel> {
    let part = match g.layout {
        Layout::Blocked => pick_avg::<true>(isa),
        Layout::Plain => pick_avg::<false>(isa),
    };
    Box::new(Pool { count_pad, ..Pool::new("average pool", isa, g, Pass::Forward, part) })
}

/// Gradient of [`avg_pool`]. in: dy; out: dx.
pub fn avg_pool_grad(isa: Isa, g: PoolGeometry, count_pad: bool) -> Box<dyn Kernel> {
    let part = match g.layout {
        Layout::Blocked => pick_avg_grad::<true>(isa),
        Layout::Plain => pick_avg_grad::<false>(isa),
    };
    let pass = Pass::Gradient { inputs: 1 };
    Box::new(Pool { count_pad, ..Pool::new("average pool gradient", isa, g, pass, part) })
}

/// What a work item is: a row of 16 planes of y, or 16 planes of dx, which windows may share.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Gradient { inputs: usize },
}

struct Pool {
    what: &'static str,
    isa: Isa,
    g: PoolGeometry,
    pass: Pass,
    count_pad: bool,
    rows: Vec<Taps>,
    columns: Vec<Taps>,
    part: unsafe fn(&Pool, &Io<'_>, usize),
}

impl Pool {
    fn new(
        what: &'static str,
        isa: Isa,
        g: PoolGeometry,
        pass: Pass,
        part: unsafe fn(&Pool, &Io<'_>, usize),
    ) -> Pool {
        assert_eq!(g.window.output(g.input), Some(g.output), "output size of {g:?}");
        Pool { what, isa, g, pass, count_pad: false, rows: g.taps(0), columns: g.taps(1), part }
    }

    fn check(&self, io: &Io<'_>) {
        let (x, y) = (self.g.len(self.g.input), self.g.len(self.g.output));
        let inputs = [0, 1].map(|i| if i < io.inputs() { io.input::<f32>(i).len() } else { 0 });
        let (want, output) = match self.pass {
            Pass::Forward => ([x, 0], y),
            Pass::Gradient { inputs: 1 } => ([y, 0], x),
            Pass::Gradient { .. } => ([x, y], x),
        };
        assert_eq!((inputs, io.output::<f32>(0).len()), (want, output), "{}: elements", self.what);
    }

    /// Weight of each element in the mean over a window.
    fn share(&self, rows: Taps, columns: Taps) -> f32 {
        let [kh, kw] = self.g.window.kernel;
        let count = if self.count_pad { kh * kw } else { rows.count * columns.count };
        1.0 / count.max(1) as f32
    }
}

impl Kernel for Pool {
    fn name(&self) -> String {
        let [kh, kw] = self.g.window.kernel;
        format!("{} {kh}x{kw} {}", self.what, self.isa)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        self.check(io);
        let rows = if self.pass == Pass::Forward { self.g.output[0] } else { 1 };
        for item in worker.share(self.g.groups() * rows) {
            // SAFETY: lengths were checked; items are disjoint.
            unsafe { (self.part)(self, io, item) };
        }
    }
}

/// Sixteen planes of equal size: pixel by pixel if `BLOCKED`, else one after the other, of which `count` exist.
#[derive(Clone, Copy)]
struct Planes<const BLOCKED: bool> {
    start: *mut f32,
    width: usize,
    len: usize,
    count: usize,
}

impl<const BLOCKED: bool> Planes<BLOCKED> {
    #[inline(always)]
    unsafe fn new(g: &PoolGeometry, base: *mut f32, [h, w]: [usize; 2], group: usize) -> Self {
        // SAFETY: the caller's group exists; in both layouts 16 planes take 16 h w elements.
        let start = unsafe { base.add(group * LANES * h * w) };
        Planes { start, width: w, len: h * w, count: g.planes(group) }
    }

    #[inline(always)]
    unsafe fn load<V: Lanes>(&self, pixel: usize) -> V {
        // SAFETY: the caller's pixel exists.
        unsafe {
            if BLOCKED {
                return V::load(self.start.add(pixel * LANES));
            }
            let mut lanes = [0.0; LANES];
            for i in 0..self.count {
                lanes[i] = *self.start.add(i * self.len + pixel);
            }
            V::from_array(lanes)
        }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes>(&self, v: V, pixel: usize) {
        // SAFETY: the caller's pixel exists and is not shared.
        unsafe {
            if BLOCKED {
                return v.store(self.start.add(pixel * LANES));
            }
            let lanes = v.to_array();
            for i in 0..self.count {
                *self.start.add(i * self.len + pixel) = lanes[i];
            }
        }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(&self, v: V, pixel: usize) {
        // SAFETY: the caller's pixel exists and is not shared.
        unsafe { self.store(self.load::<V>(pixel).add(v), pixel) };
    }

    #[inline(always)]
    unsafe fn clear(&self) {
        // SAFETY: the planes exist and are not shared; zero bits are 0.0.
        unsafe { self.start.write_bytes(0, self.count * self.len) };
    }

    /// The pixels of one window.
    #[inline(always)]
    fn pixels(&self, window: &Window, rows: Taps, columns: Taps) -> impl Iterator<Item = usize> {
        let ([dy, dx], width) = (window.dilation, self.width);
        (0..rows.count).flat_map(move |ky| {
            let row = (rows.first + ky * dy) * width + columns.first;
            (0..columns.count).map(move |kx| row + kx * dx)
        })
    }
}

#[inline(always)]
unsafe fn maximum<V: Lanes, const BLOCKED: bool>(
    x: &Planes<BLOCKED>,
    window: &Window,
    rows: Taps,
    columns: Taps,
) -> V {
    // SAFETY: taps lie on the input.
    unsafe {
        let mut max = V::splat(f32::NEG_INFINITY);
        for pixel in x.pixels(window, rows, columns) {
            max = max.nan_or(max.max(x.load(pixel)));
        }
        max
    }
}

multiversion! { fn pick_max<; const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, item: usize) = max_row }

#[inline(always)]
unsafe fn max_row<V: Lanes, const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, item: usize) {
    let (g, [height, width]) = (&pool.g, pool.g.output);
    let (group, row) = (item / height, item % height);
    // SAFETY: `run` checked the lengths; this worker alone writes this row. x is only read.
    unsafe {
        let x = Planes::<BLOCKED>::new(g, io.input::<f32>(0).as_ptr().cast_mut(), g.input, group);
        let y = Planes::<BLOCKED>::new(g, io.output::<f32>(0).as_mut_ptr(), g.output, group);
        for (i, &columns) in pool.columns.iter().enumerate() {
            y.store(maximum::<V, BLOCKED>(&x, &g.window, pool.rows[row], columns), row * width + i);
        }
    }
}

multiversion! { fn pick_avg<; const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, item: usize) = avg_row }

#[inline(always)]
unsafe fn avg_row<V: Lanes, const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, item: usize) {
    let (g, [height, width]) = (&pool.g, pool.g.output);
    let (group, row) = (item / height, item % height);
    // SAFETY: as in `max_row`.
    unsafe {
        let x = Planes::<BLOCKED>::new(g, io.input::<f32>(0).as_ptr().cast_mut(), g.input, group);
        let y = Planes::<BLOCKED>::new(g, io.output::<f32>(0).as_mut_ptr(), g.output, group);
        for (i, &columns) in pool.columns.iter().enumerate() {
            let share = V::splat(pool.share(pool.rows[row], columns));
            let mut mean = V::zero();
            for pixel in x.pixels(&g.window, pool.rows[row], columns) {
                mean = x.load::<V>(pixel).mul_add(share, mean);
            }
            y.store(mean, row * width + i);
        }
    }
}

/// Every window of an output plane: its pixel there, and its taps.
fn windows(pool: &Pool) -> impl Iterator<Item = (usize, Taps, Taps)> {
    let width = pool.columns.len();
    pool.rows.iter().enumerate().flat_map(move |(y, &rows)| {
        pool.columns.iter().enumerate().map(move |(x, &columns)| (y * width + x, rows, columns))
    })
}

multiversion! { fn pick_max_grad<; const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, group: usize) = max_grad }

#[inline(always)]
unsafe fn max_grad<V: Lanes, const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, group: usize) {
    let g = &pool.g;
    // SAFETY: `run` checked the lengths; this worker alone writes these planes. x and dy are only read.
    unsafe {
        let x = Planes::<BLOCKED>::new(g, io.input::<f32>(0).as_ptr().cast_mut(), g.input, group);
        let dy = Planes::<BLOCKED>::new(g, io.input::<f32>(1).as_ptr().cast_mut(), g.output, group);
        let dx = Planes::<BLOCKED>::new(g, io.output::<f32>(0).as_mut_ptr(), g.input, group);
        dx.clear();
        for (output, rows, columns) in windows(pool) {
            let max = maximum::<V, BLOCKED>(&x, &g.window, rows, columns);
            let mut rest = dy.load::<V>(output);
            for pixel in x.pixels(&g.window, rows, columns) {
                let v = x.load::<V>(pixel);
                dx.add(max.select_gt(v, V::zero(), rest), pixel);
                rest = max.select_gt(v, rest, V::zero());
            }
        }
    }
}

multiversion! { fn pick_avg_grad<; const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, group: usize) = avg_grad }

#[inline(always)]
unsafe fn avg_grad<V: Lanes, const BLOCKED: bool>(pool: &Pool, io: &Io<'_>, group: usize) {
    let g = &pool.g;
    // SAFETY: as in `max_grad`.
    unsafe {
        let dy = Planes::<BLOCKED>::new(g, io.input::<f32>(0).as_ptr().cast_mut(), g.output, group);
        let dx = Planes::<BLOCKED>::new(g, io.output::<f32>(0).as_mut_ptr(), g.input, group);
        dx.clear();
        for (output, rows, columns) in windows(pool) {
            let v = dy.load::<V>(output).mul(V::splat(pool.share(rows, columns)));
            for pixel in dx.pixels(&g.window, rows, columns) {
                dx.add(v, pixel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{blocked, plain};
    use crate::reference::RefTensor;
    use crate::testing::{Input, Out, assert_close, run, values};
    use espalier_graph::Op;

    fn windows() -> Vec<Window> {
        let odd = |kernel, stride, pad, dilation| Window { kernel, stride, pad, dilation };
        vec![
            Window::square(2, 2, 0),
            Window::square(3, 2, 1),
            Window::square(3, 1, 1),
            Window::square(1, 1, 0),
            Window::square(5, 3, 2),
            odd([2, 3], [1, 2], [0, 1, 1, 0], [1, 1]),
            odd([3, 2], [2, 1], [2, 0, 1, 3], [2, 3]),
            odd([1, 7], [3, 1], [0, 3, 0, 3], [1, 1]),
        ]
    }

    /// Small integers, so that equal maxima are common.
    fn ties(stream: u64, len: usize) -> Vec<f32> {
        values(stream, len).iter().map(|v| (v * 3.0).round()).collect()
    }

    #[test]
    fn match_the_reference() {
        for (batch, channels, input) in
            [(1, 1, [7, 7]), (2, 3, [8, 9]), (1, 17, [5, 13]), (3, 40, [7, 6]), (1, 16, [11, 8])]
        {
            for window in windows() {
                let Some(output) = window.output(input) else { continue };
                for layout in [Layout::Plain, Layout::Blocked] {
                    let g = PoolGeometry { batch, channels, input, output, window, layout };
                    Isa::available().into_iter().for_each(|isa| check_all(isa, g));
                }
            }
        }
    }

    fn check_all(isa: Isa, g: PoolGeometry) {
        let planes = g.batch * g.channels;
        let x = ties(1, planes * g.input[0] * g.input[1]);
        let dy = values(2, planes * g.output[0] * g.output[1]);
        let (window, input) = (g.window, g.input);
        check(&*max_pool(isa, g), &g, &Op::MaxPool { window }, &[(&x, g.input)], g.output);
        let both = [(&x[..], g.input), (&dy[..], g.output)];
        check(&*max_pool_grad(isa, g), &g, &Op::MaxPoolGrad { window }, &both, g.input);
        for count_pad in [false, true] {
            let op = Op::AvgPool { window, count_pad };
            check(&*avg_pool(isa, g, count_pad), &g, &op, &[(&x, g.input)], g.output);
            let op = Op::AvgPoolGrad { window, count_pad, input };
            check(&*avg_pool_grad(isa, g, count_pad), &g, &op, &[(&dy, g.output)], g.input);
        }
    }

    fn check(
        kernel: &dyn Kernel,
        g: &PoolGeometry,
        op: &Op,
        inputs: &[(&[f32], [usize; 2])],
        out: [usize; 2],
    ) {
        let shape = |[h, w]: [usize; 2]| vec![g.batch, g.channels, h, w];
        let physical: Vec<Vec<f32>> = inputs
            .iter()
            .map(|(data, [h, w])| match g.layout {
                Layout::Plain => data.to_vec(),
                Layout::Blocked => blocked(data, g.channels, h * w, 1e30),
            })
            .collect();
        let tensors: Vec<RefTensor> = inputs
            .iter()
            .map(|(data, size)| RefTensor::new(&shape(*size), data.iter().map(|&v| v.into()).collect()))
            .collect();
        let buffers: Vec<Input<'_>> = physical.iter().map(|v| Input::F32(v)).collect();
        let got = run(kernel, &buffers, &[Out::Len(g.len(out))]).remove(0);
        let got = match g.layout {
            Layout::Plain => got,
            Layout::Blocked => plain(&got, g.channels, out[0] * out[1]),
        };
        let want = reference(op, &tensors.iter().collect::<Vec<_>>(), &[shape(out)]).remove(0);
        assert_close(&format!("{} {g:?}", kernel.name()), &got, &want.data, 1e-6);
    }

    #[test]
    fn extreme_values() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let window = Window::square(2, 1, 0);
        let g = PoolGeometry {
            batch: 1,
            channels: 1,
            input: [2, 6],
            output: [1, 5],
            window,
            layout: Layout::Plain,
        };
        let x = [nan, 1.0, -inf, -inf, 2.0, inf, 1.0, 2.0, -inf, -inf, 3.0, nan];
        for isa in Isa::available() {
            let y = run(&*max_pool(isa, g), &[Input::F32(&x)], &[Out::Len(5)]).remove(0);
            assert!(y[0].is_nan() && y[4].is_nan(), "{isa}: NaN propagates");
            assert_eq!(y[1..4], [2.0, -inf, 3.0], "{isa}");
            let dy = [0.0, 0.0, 1.0, 0.0, 0.0];
            let dx = run(&*max_pool_grad(isa, g), &[Input::F32(&x), Input::F32(&dy)], &[Out::Len(12)]);
            assert_eq!(dx[0].iter().position(|&v| v == 1.0), Some(2), "{isa}: the first maximum gets it");
            assert_eq!(dx[0].iter().sum::<f32>(), 1.0, "{isa}: and no other");
        }
    }
}
