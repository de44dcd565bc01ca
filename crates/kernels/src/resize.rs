//! Resizing of planes, nearest and bilinear, with gradients: one axis after the other, from tables made beforehand.

use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{load_up_to, store_up_to};
use crate::reference::RefTensor;
use espalier_graph::{Op, ResizeMode};

/// `y = (1 - weight) * x[lo] + weight * x[hi]` along one axis.
#[derive(Clone, Copy)]
struct Sample {
    lo: usize,
    hi: usize,
    weight: f32,
}

fn samples(mode: ResizeMode, input: usize, output: usize) -> Vec<Sample> {
    assert!(input > 0 || output == 0, "nothing can be resized to {output}");
    let linear = |o: usize| {
        let at = ((o as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0);
        let lo = (at as usize).min(input - 1);
        Sample { lo, hi: (lo + 1).min(input - 1), weight: (at - lo as f64) as f32 }
    };
    let nearest = |o: usize| Sample { lo: o * input / output, hi: o * input / output, weight: 0.0 };
    match mode {
        ResizeMode::Nearest => (0..output).map(nearest).collect(),
        ResizeMode::Linear => (0..output).map(linear).collect(),
    }
}

/// Resizes each of `planes` planes, in plain memory. in: x; out: y.
pub fn resize(
    isa: Isa,
    planes: usize,
    input: [usize; 2],
    output: [usize; 2],
    mode: ResizeMode,
) -> Box<dyn Kernel> {
    Box::new(Resize::new(isa, planes, [input, output], mode, false))
}

/// Gradient of [`resize`] from `input` to `output`. in: dy (of size `output`); out: dx (of size `input`).
pub fn resize_grad(
    isa: Isa,
    planes: usize,
    input: [usize; 2],
    output: [usize; 2],
    mode: ResizeMode,
) -> Box<dyn Kernel> {
    Box::new(Resize::new(isa, planes, [input, output], mode, true))
}

type Part = unsafe fn(&Resize, &[f32], *mut f32, &mut [f32], usize);

struct Resize {
    name: String,
    input: [usize; 2],
    output: [usize; 2],
    /// Elements of x and y.
    elements: [usize; 2],
    nearest: bool,
    rows: Vec<Sample>,
    columns: Vec<Sample>,
    gradient: bool,
    /// Rows of y, or planes of dx.
    items: usize,
    part: Part,
}

impl Resize {
    fn new(
        isa: Isa,
        planes: usize,
        [input, output]: [[usize; 2]; 2],
        mode: ResizeMode,
        gradient: bool,
    ) -> Resize {
        let nearest = mode == ResizeMode::Nearest;
        let kind = if nearest { "nearest" } else { "linear" };
        let what = if gradient { "resize gradient" } else { "resize" };
        Resize {
            name: format!("{what} {kind} {isa}"),
            input,
            output,
            elements: [input, output].map(|[h, w]| planes * h * w),
            nearest,
            rows: samples(mode, input[0], output[0]),
            columns: samples(mode, input[1], output[1]),
            gradient,
            items: if gradient { planes } else { planes * output[0] },
            part: if gradient { pick_gradient(isa) } else { pick_row(isa) },
        }
    }
}

impl Kernel for Resize {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        self.input[1]
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let (from, to) = (io.input::<f32>(0), io.output::<f32>(0));
        let mut lens = [from.len(), to.len()];
        if self.gradient {
            lens.reverse();
        }
        assert_eq!(lens, self.elements, "{}: elements", self.name);
        for item in worker.share(self.items) {
            // SAFETY: lengths were checked; items are disjoint.
            unsafe { (self.part)(self, from, to.as_mut_ptr(), &mut scratch[..self.input[1]], item) };
        }
    }
}

multiversion! { fn pick_row(k: &Resize, x: &[f32], y: *mut f32, scratch: &mut [f32], item: usize) = row }

/// One row of y: its two rows of x are joined in scratch, which is then sampled.
#[inline(always)]
unsafe fn row<V: Lanes>(k: &Resize, x: &[f32], y: *mut f32, scratch: &mut [f32], item: usize) {
    let ([h, w], [oh, ow]) = (k.input, k.output);
    let (plane, sample) = (item / oh * h, k.rows[item % oh]);
    let [lo, hi] = [sample.lo, sample.hi].map(|row| &x[(plane + row) * w..][..w]);
    // SAFETY: `run` checked the lengths; this worker alone writes this row.
    let y = unsafe { std::slice::from_raw_parts_mut(y.add(item * ow), ow) };
    if k.nearest {
        y.iter_mut().zip(&k.columns).for_each(|(y, column)| *y = lo[column.lo]);
        return;
    }
    // SAFETY: all rows have `w` elements.
    unsafe {
        let (rest, weight) = (V::splat(1.0 - sample.weight), V::splat(sample.weight));
        for i in (0..w).step_by(LANES) {
            let lo: V = load_up_to(lo.as_ptr().add(i), w - i, V::zero());
            let hi: V = load_up_to(hi.as_ptr().add(i), w - i, V::zero());
            store_up_to(lo.mul_add(rest, hi.mul(weight)), scratch.as_mut_ptr().add(i), w - i);
        }
    }
    for (y, column) in y.iter_mut().zip(&k.columns) {
        *y = (1.0 - column.weight) * scratch[column.lo] + column.weight * scratch[column.hi];
    }
}

multiversion! { fn pick_gradient(k: &Resize, dy: &[f32], dx: *mut f32, scratch: &mut [f32], plane: usize) = gradient }

/// One plane of dx: each row of dy is spread over scratch, which is then added to its two rows of dx.
#[inline(always)]
unsafe fn gradient<V: Lanes>(k: &Resize, dy: &[f32], dx: *mut f32, scratch: &mut [f32], plane: usize) {
    let ([h, w], [oh, ow]) = (k.input, k.output);
    // SAFETY: `run` checked the lengths; this worker alone writes this plane.
    let dx = unsafe { std::slice::from_raw_parts_mut(dx.add(plane * h * w), h * w) };
    dx.fill(0.0);
    for (row, sample) in k.rows.iter().enumerate() {
        scratch.fill(0.0);
        for (g, column) in dy[(plane * oh + row) * ow..].iter().zip(&k.columns) {
            scratch[column.lo] += (1.0 - column.weight) * g;
            if column.weight != 0.0 {
                scratch[column.hi] += column.weight * g;
            }
        }
        for (row, weight) in [(sample.lo, 1.0 - sample.weight), (sample.hi, sample.weight)] {
            if weight != 0.0 {
                // SAFETY: inside of a function made by `multiversion!`.
                unsafe { add_row::<V>(&mut dx[row * w..][..w], scratch, weight) };
            }
        }
    }
}

/// `to += weight * from`.
#[inline(always)]
unsafe fn add_row<V: Lanes>(to: &mut [f32], from: &[f32], weight: f32) {
    let (w, to, from) = (to.len().min(from.len()), to.as_mut_ptr(), from.as_ptr());
    for i in (0..w).step_by(LANES) {
        // SAFETY: both have `w` elements.
        unsafe {
            let sum: V = load_up_to(to.add(i), w - i, V::zero());
            let v: V = load_up_to(from.add(i), w - i, V::zero());
            store_up_to(v.mul_add(V::splat(weight), sum), to.add(i), w - i);
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let (from, mut to) = (inputs[0], RefTensor::zeros(&outputs[0]));
    match op {
        Op::Resize { mode, .. } => {
            let shapes = [from.shape.clone(), to.shape.clone()];
            for_each_product(*mode, &shapes[0], &shapes[1], |x, y, w| to.data[y] += w * from.data[x]);
        }
        Op::ResizeGrad { mode, .. } => {
            let shapes = [to.shape.clone(), from.shape.clone()];
            for_each_product(*mode, &shapes[0], &shapes[1], |x, y, w| to.data[x] += w * from.data[y]);
        }
        _ => unreachable!("{} is not of this family", op.name()),
    }
    vec![to]
}

/// Calls `f(x index, y index, weight)` for every pair of elements of which one is made from the other.
fn for_each_product(mode: ResizeMode, x: &[usize], y: &[usize], mut f: impl FnMut(usize, usize, f64)) {
    let [h, w, oh, ow] = [x[2], x[3], y[2], y[3]];
    for i in 0..y.iter().product() {
        let plane = i / (oh * ow);
        for (row, a) in sources(mode, h, oh, i / ow % oh) {
            for (column, b) in sources(mode, w, ow, i % ow) {
                f((plane * h + row) * w + column, i, a * b);
            }
        }
    }
}

/// The source positions along one axis of output position `o`, and their weights.
fn sources(mode: ResizeMode, input: usize, output: usize, o: usize) -> Vec<(usize, f64)> {
    let scale = input as f64 / output as f64;
    match mode {
        // The quotient of integers: a floating-point product can fall below a whole number.
        ResizeMode::Nearest => vec![(o * input / output, 1.0)],
        ResizeMode::Linear => {
            let at = ((o as f64 + 0.5) * scale - 0.5).clamp(0.0, (input - 1) as f64);
            let lo = at.floor() as usize;
            vec![(lo, 1.0 - at.fract()), ((lo + 1).min(input - 1), at.fract())]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, values};

    #[test]
    fn match_the_reference() {
        for (planes, input, output) in [
            (1, [1, 1], [3, 2]),
            (3, [4, 5], [8, 10]),
            (2, [7, 33], [7, 33]),
            (5, [9, 16], [4, 5]),
            (1, [3, 20], [13, 47]),
            (2, [40, 41], [1, 1]),
            (2, [6, 17], [6, 3]),
        ] {
            for mode in [ResizeMode::Nearest, ResizeMode::Linear] {
                Isa::available().into_iter().for_each(|isa| check(isa, planes, input, output, mode));
            }
        }
    }

    fn check(isa: Isa, planes: usize, input: [usize; 2], output: [usize; 2], mode: ResizeMode) {
        let forward = resize(isa, planes, input, output, mode);
        check_one(&*forward, &Op::Resize { mode, size: output }, planes, input, output);
        let gradient = resize_grad(isa, planes, input, output, mode);
        check_one(&*gradient, &Op::ResizeGrad { mode, input }, planes, output, input);
    }

    fn check_one(kernel: &dyn Kernel, op: &Op, planes: usize, from: [usize; 2], to: [usize; 2]) {
        let shape = |[h, w]: [usize; 2]| vec![1, planes, h, w];
        let x = values(1, planes * from[0] * from[1]);
        let got = run(kernel, &[Input::F32(&x)], &[Out::Len(planes * to[0] * to[1])]).remove(0);
        let tensor = RefTensor::new(&shape(from), x.iter().map(|&v| v.into()).collect());
        let want = reference(op, &[&tensor], &[shape(to)]).remove(0);
        assert_close(&format!("{} {from:?} to {to:?}", kernel.name()), &got, &want.data, 5e-6);
    }

    /// Values of PyTorch's `interpolate`.
    #[test]
    fn known_values() {
        for isa in Isa::available() {
            let x = [1.0, 2.0, 3.0, 4.0];
            let sized = |mode, size| {
                run(&*resize(isa, 1, [1, 4], size, mode), &[Input::F32(&x)], &[Out::Len(size[1])]).remove(0)
            };
            assert_eq!(sized(ResizeMode::Nearest, [1, 6]), [1.0, 1.0, 2.0, 3.0, 3.0, 4.0], "{isa}");
            let linear = [1.0, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.0];
            assert_eq!(sized(ResizeMode::Linear, [1, 8]), linear, "{isa}");
        }
    }

    #[test]
    fn nearest_copies_infinities() {
        let x = [f32::INFINITY, f32::NEG_INFINITY, 1.0];
        for isa in Isa::available() {
            let kernel = resize(isa, 1, [1, 3], [1, 3], ResizeMode::Nearest);
            assert_eq!(run(&*kernel, &[Input::F32(&x)], &[Out::Len(3)])[0], x, "{isa}");
        }
    }
}
