//! Softmax, its logarithm and the cross-entropy, all shifted by the maximum so that nothing overflows.
//!
//! Over the innermost axis a row lies in lanes; over another axis, sixteen neighbours are normalised at once.

use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};
use crate::math::{abs, exp, log, max_nan};
use crate::reduce::{Max, Sum, across, fold_run};
use crate::reference::RefTensor;
use crate::{Io, Isa, Kernel, Worker};
use espalier_graph::Op;

/// One or two inputs, the output, the length of the axis, the step along it, and the number of neighbours (up to 16).
type Body = unsafe fn([*const f32; 2], *mut f32, usize, usize, usize);

/// Loads `width` of 16 neighbours, `rest` in the other lanes.
#[inline(always)]
unsafe fn load<V: Lanes>(p: *const f32, width: usize, rest: f32) -> V {
    // SAFETY: the caller gives `width` elements.
    unsafe { if width == LANES { V::load(p) } else { V::load_first(p, width, V::splat(rest)) } }
}

#[inline(always)]
unsafe fn store<V: Lanes>(v: V, p: *mut f32, width: usize) {
    // SAFETY: the caller gives `width` elements.
    unsafe { if width == LANES { v.store(p) } else { v.store_first(p, width) } }
}

/// Elements of the vector that starts at `i` of a row.
#[inline(always)]
fn width(i: usize, len: usize) -> usize {
    (len - i).min(LANES)
}

/// `y = exp(x - max)`; returns the sum.
#[inline(always)]
unsafe fn exp_row<V: Lanes>(x: *const f32, y: *mut f32, len: usize, max: f32) -> f32 {
    // SAFETY: the caller gives `len` elements; `x` and `y` may be the same.
    unsafe {
        let mut sum = V::zero();
        for i in (0..len).step_by(LANES) {
            let e = exp(load::<V>(x.add(i), width(i, len), f32::NEG_INFINITY).sub(V::splat(max)));
            store(e, y.add(i), width(i, len));
            sum = sum.add(e);
        }
        across::<V, Sum>(sum)
    }
}

/// `(max, ln(sum(exp(x - max))))` of a row.
#[inline(always)]
unsafe fn log_sum_exp<V: Lanes>(x: *const f32, len: usize) -> (f32, f32) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let max = across::<V, Max>(fold_run::<V, Max, _>(x, len));
        let mut sum = V::zero();
        for i in (0..len).step_by(LANES) {
            let x = load::<V>(x.add(i), width(i, len), f32::NEG_INFINITY);
            sum = sum.add(exp(x.sub(V::splat(max))));
        }
        (max, log(V::splat(across::<V, Sum>(sum))).to_array()[0])
    }
}

multiversion!(fn pick_softmax_row(x: [*const f32; 2], y: *mut f32, len: usize, step: usize, neighbours: usize) = softmax_row);

#[inline(always)]
unsafe fn softmax_row<V: Lanes>(
    x: [*const f32; 2],
    y: *mut f32,
    len: usize,
    _step: usize,
    _neighbours: usize,
) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let max = across::<V, Max>(fold_run::<V, Max, _>(x[0], len));
        let scale = V::splat(1.0 / exp_row::<V>(x[0], y, len, max));
        for i in (0..len).step_by(LANES) {
            let e = load::<V>(y.add(i), width(i, len), 0.0);
            store(e.mul(scale), y.add(i), width(i, len));
        }
    }
}

multiversion!(fn pick_softmax_columns(x: [*const f32; 2], y: *mut f32, len: usize, step: usize, neighbours: usize) = softmax_columns);

#[inline(always)]
unsafe fn softmax_columns<V: Lanes>(
    x: [*const f32; 2],
    y: *mut f32,
    len: usize,
    step: usize,
    neighbours: usize,
) {
    // SAFETY: the caller gives `neighbours` elements at each of `len` steps.
    unsafe {
        let max = max_columns::<V>(x[0], len, step, neighbours);
        let mut sum = V::zero();
        for k in 0..len {
            let e = exp(load::<V>(x[0].add(k * step), neighbours, 0.0).sub(max));
            store(e, y.add(k * step), neighbours);
            sum = sum.add(e);
        }
        let scale = V::splat(1.0).div(sum);
        for k in 0..len {
            let e = load::<V>(y.add(k * step), neighbours, 0.0);
            store(e.mul(scale), y.add(k * step), neighbours);
        }
    }
}

#[inline(always)]
unsafe fn max_columns<V: Lanes>(x: *const f32, len: usize, step: usize, neighbours: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let mut max = V::splat(f32::NEG_INFINITY);
        for k in 0..len {
            max = max_nan(load::<V>(x.add(k * step), neighbours, 0.0), max);
        }
        max
    }
}

multiversion!(fn pick_log_row(x: [*const f32; 2], y: *mut f32, len: usize, step: usize, neighbours: usize) = log_row);

#[inline(always)]
unsafe fn log_row<V: Lanes>(x: [*const f32; 2], y: *mut f32, len: usize, _step: usize, _neighbours: usize) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let (max, log_sum) = log_sum_exp::<V>(x[0], len);
        for i in (0..len).step_by(LANES) {
            let shifted = load::<V>(x[0].add(i), width(i, len), 0.0).sub(V::splat(max));
            store(shifted.sub(V::splat(log_sum)), y.add(i), width(i, len));
        }
    }
}

multiversion!(fn pick_log_columns(x: [*const f32; 2], y: *mut f32, len: usize, step: usize, neighbours: usize) = log_columns);

#[inline(always)]
unsafe fn log_columns<V: Lanes>(x: [*const f32; 2], y: *mut f32, len: usize, step: usize, neighbours: usize) {
    // SAFETY: the caller gives `neighbours` elements at each of `len` steps.
    unsafe {
        let max = max_columns::<V>(x[0], len, step, neighbours);
        let mut sum = V::zero();
        for k in 0..len {
            sum = sum.add(exp(load::<V>(x[0].add(k * step), neighbours, 0.0).sub(max)));
        }
        let log_sum = log(sum);
        for k in 0..len {
            let shifted = load::<V>(x[0].add(k * step), neighbours, 0.0).sub(max);
            store(shifted.sub(log_sum), y.add(k * step), neighbours);
        }
    }
}

multiversion!(fn pick_grad_row(y_dy: [*const f32; 2], dx: *mut f32, len: usize, step: usize, neighbours: usize) = grad_row);

#[inline(always)]
unsafe fn grad_row<V: Lanes>(
    [y, dy]: [*const f32; 2],
    dx: *mut f32,
    len: usize,
    _step: usize,
    _neighbours: usize,
) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let mut products = V::zero();
        for i in (0..len).step_by(LANES) {
            let w = width(i, len);
            products = load::<V>(y.add(i), w, 0.0).mul_add(load(dy.add(i), w, 0.0), products);
        }
        let dot = V::splat(across::<V, Sum>(products));
        for i in (0..len).step_by(LANES) {
            let w = width(i, len);
            let difference = load::<V>(dy.add(i), w, 0.0).sub(dot);
            store(load::<V>(y.add(i), w, 0.0).mul(difference), dx.add(i), w);
        }
    }
}

multiversion!(fn pick_grad_columns(y_dy: [*const f32; 2], dx: *mut f32, len: usize, step: usize, neighbours: usize) = grad_columns);

#[inline(always)]
unsafe fn grad_columns<V: Lanes>(
    [y, dy]: [*const f32; 2],
    dx: *mut f32,
    len: usize,
    step: usize,
    neighbours: usize,
) {
    // SAFETY: the caller gives `neighbours` elements at each of `len` steps.
    unsafe {
        let mut dot = V::zero();
        for at in (0..len).map(|k| k * step) {
            dot = load::<V>(y.add(at), neighbours, 0.0).mul_add(load(dy.add(at), neighbours, 0.0), dot);
        }
        for at in (0..len).map(|k| k * step) {
            let difference = load::<V>(dy.add(at), neighbours, 0.0).sub(dot);
            store(load::<V>(y.add(at), neighbours, 0.0).mul(difference), dx.add(at), neighbours);
        }
    }
}

/// Applies a body to every row, or to every vector of neighbours.
struct AlongAxis {
    name: String,
    body: Body,
    inputs: usize,
    outer: usize,
    axis: usize,
    inner: usize,
}

impl Kernel for AlongAxis {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        if self.axis == 0 {
            return;
        }
        let len = self.outer * self.axis * self.inner;
        let [a, b] = [0, self.inputs - 1].map(|i| &io.input::<f32>(i)[..len]);
        let y = io.output::<f32>(0);
        assert_eq!(y.len(), len, "{}: output", self.name);
        let vectors = self.inner.div_ceil(LANES);
        for unit in worker.share(self.outer * vectors) {
            let column = unit % vectors * LANES;
            let start = unit / vectors * self.axis * self.inner + column;
            let neighbours = (self.inner - column).min(LANES);
            let inputs = [a, b].map(|x| x[start..].as_ptr());
            // SAFETY: a unit is `neighbours` elements at `axis` steps of `inner`, all within the checked length; units
            // are disjoint.
            unsafe { (self.body)(inputs, y.as_mut_ptr().add(start), self.axis, self.inner, neighbours) };
        }
    }
}

fn along_axis(
    name: &str,
    isa: Isa,
    pick: [fn(Isa) -> Body; 2],
    inputs: usize,
    [outer, axis, inner]: [usize; 3],
) -> Box<dyn Kernel> {
    let rows = inner == 1;
    let way = if rows { "along rows" } else { "over columns" };
    let body = pick[usize::from(!rows)](isa);
    Box::new(AlongAxis { name: format!("{name} {way} {isa}"), body, inputs, outer, axis, inner })
}

/// `x[outer, axis, inner] -> y`: exponentials normalised to sum 1 over `axis`.
pub fn softmax(isa: Isa, outer: usize, axis: usize, inner: usize) -> Box<dyn Kernel> {
    along_axis("softmax", isa, [pick_softmax_row, pick_softmax_columns], 1, [outer, axis, inner])
}

/// `y, dy -> dx`: gradient of [`softmax`] from its output.
pub fn softmax_grad(isa: Isa, outer: usize, axis: usize, inner: usize) -> Box<dyn Kernel> {
    along_axis("softmax gradient", isa, [pick_grad_row, pick_grad_columns], 2, [outer, axis, inner])
}

/// `x[outer, axis, inner] -> y = x - max - ln(sum(exp(x - max)))` over `axis`.
pub fn log_softmax(isa: Isa, outer: usize, axis: usize, inner: usize) -> Box<dyn Kernel> {
    along_axis("log softmax", isa, [pick_log_row, pick_log_columns], 1, [outer, axis, inner])
}

multiversion!(fn pick_entropy_row(x: *const f32, target: *const f32, len: usize, loss: &mut f64) = entropy_row);

/// Adds `-sum(target * log_softmax(x))` to the loss; a target of zero counts nothing, whatever the logit.
#[inline(always)]
unsafe fn entropy_row<V: Lanes>(x: *const f32, target: *const f32, len: usize, loss: &mut f64) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let (max, log_sum) = log_sum_exp::<V>(x, len);
        let mut sum = V::zero();
        for i in (0..len).step_by(LANES) {
            let t = load::<V>(target.add(i), width(i, len), 0.0);
            let shifted = load::<V>(x.add(i), width(i, len), 0.0).sub(V::splat(max));
            let term = t.mul(V::splat(log_sum).sub(shifted));
            sum = sum.add(t.nan_or(abs(t).select_gt(V::zero(), term, V::zero())));
        }
        *loss += f64::from(across::<V, Sum>(sum));
    }
}

multiversion!(fn pick_entropy_grad_row(x: *const f32, target: *const f32, dx: *mut f32, len: usize, scale: f32) = entropy_grad_row);

/// `dx = scale * (softmax(x) * sum(target) - target)`.
#[inline(always)]
unsafe fn entropy_grad_row<V: Lanes>(
    x: *const f32,
    target: *const f32,
    dx: *mut f32,
    len: usize,
    scale: f32,
) {
    // SAFETY: the caller gives `len` elements.
    unsafe {
        let max = across::<V, Max>(fold_run::<V, Max, _>(x, len));
        let total = across::<V, Sum>(fold_run::<V, Sum, _>(target, len));
        let factor = V::splat(total / exp_row::<V>(x, dx, len, max));
        for i in (0..len).step_by(LANES) {
            let w = width(i, len);
            let t = load::<V>(target.add(i), w, 0.0);
            let difference = load::<V>(dx.add(i), w, 0.0).mul(factor).sub(t);
            store(difference.mul(V::splat(scale)), dx.add(i), w);
        }
    }
}

struct CrossEntropy {
    isa: Isa,
    rows: usize,
    classes: usize,
}

/// `logits[rows, classes], target[rows, classes] -> loss[1]`: mean over the rows of the cross-entropy with target
/// probabilities. One worker computes it, summing the rows in f64.
pub fn cross_entropy(isa: Isa, rows: usize, classes: usize) -> Box<dyn Kernel> {
    Box::new(CrossEntropy { isa, rows, classes })
}

impl Kernel for CrossEntropy {
    fn name(&self) -> String {
        format!("cross-entropy {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        if worker.index != 0 {
            return;
        }
        let len = self.rows * self.classes;
        let (logits, target) = (&io.input::<f32>(0)[..len], &io.input::<f32>(1)[..len]);
        let row_body = pick_entropy_row(self.isa);
        let mut loss = 0.0;
        for start in (0..self.rows).map(|row| row * self.classes) {
            let (x, t) = (logits[start..].as_ptr(), target[start..].as_ptr());
            // SAFETY: a row of `classes` elements starts at `start` in both.
            unsafe { row_body(x, t, self.classes, &mut loss) };
        }
        // SAFETY: only this worker writes.
        let out = unsafe { io.output::<f32>(0).slice_mut(0..1) };
        out[0] = (loss / self.rows as f64) as f32;
    }
}

struct CrossEntropyGrad {
    isa: Isa,
    rows: usize,
    classes: usize,
}

/// `logits, target, dloss[1] -> dlogits`: gradient of [`cross_entropy`].
pub fn cross_entropy_grad(isa: Isa, rows: usize, classes: usize) -> Box<dyn Kernel> {
    Box::new(CrossEntropyGrad { isa, rows, classes })
}

impl Kernel for CrossEntropyGrad {
    fn name(&self) -> String {
        format!("cross-entropy gradient {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let len = self.rows * self.classes;
        let (logits, target) = (&io.input::<f32>(0)[..len], &io.input::<f32>(1)[..len]);
        let scale = io.input::<f32>(2)[0] / self.rows as f32;
        let row_body = pick_entropy_grad_row(self.isa);
        for start in worker.share(self.rows).map(|row| row * self.classes) {
            let (x, t) = (logits[start..].as_ptr(), target[start..].as_ptr());
            // SAFETY: a row of `classes` elements starts at `start` in all; rows are disjoint.
            unsafe {
                let dx = io.output::<f32>(0).slice_mut(start..start + self.classes);
                row_body(x, t, dx.as_mut_ptr(), self.classes, scale);
            }
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let x = inputs[0];
    let y = match op {
        Op::Softmax { axis } => {
            map_axis(&[x], *axis, |row| log_softmax_f64(row[0]).into_iter().map(f64::exp).collect())
        }
        Op::LogSoftmax { axis } => map_axis(&[x], *axis, |row| log_softmax_f64(row[0])),
        Op::SoftmaxGrad { axis } => map_axis(&[x, inputs[1]], *axis, |rows| {
            let dot: f64 = rows[0].iter().zip(rows[1]).map(|(y, dy)| y * dy).sum();
            rows[0].iter().zip(rows[1]).map(move |(y, dy)| y * (dy - dot)).collect()
        }),
        Op::CrossEntropy => {
            let losses = map_axis(&[x, inputs[1]], 1, |rows| {
                let term = |(log_p, t): (f64, &f64)| if *t == 0.0 { 0.0 } else { -t * log_p };
                log_softmax_f64(rows[0]).into_iter().zip(rows[1]).map(term).collect()
            });
            RefTensor::new(&outputs[0], vec![losses.data.iter().sum::<f64>() / x.shape[0] as f64])
        }
        Op::CrossEntropyGrad => {
            let scale = inputs[2].data[0] / x.shape[0] as f64;
            map_axis(&[x, inputs[1]], 1, |rows| {
                let total: f64 = rows[1].iter().sum();
                let term = |(log_p, t): (f64, &f64)| scale * (log_p.exp() * total - t);
                log_softmax_f64(rows[0]).into_iter().zip(rows[1]).map(term).collect()
            })
        }
        _ => unreachable!("{} is not of this family", op.name()),
    };
    vec![y]
}

fn log_softmax_f64(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
    x.iter().map(|v| v - max - sum.ln()).collect()
}

/// Replaces each line along `axis` by what `f` makes of the inputs' lines.
fn map_axis(inputs: &[&RefTensor], axis: usize, f: impl Fn(&[&[f64]]) -> Vec<f64>) -> RefTensor {
    let shape = &inputs[0].shape;
    let (len, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut y = RefTensor::zeros(shape);
    for line in 0..y.data.len() / len.max(1) {
        let at = |k: usize| (line / inner * len + k) * inner + line % inner;
        let lines: Vec<Vec<f64>> = inputs.iter().map(|x| (0..len).map(|k| x.data[at(k)]).collect()).collect();
        let lines: Vec<&[f64]> = lines.iter().map(Vec::as_slice).collect();
        f(&lines).into_iter().enumerate().for_each(|(k, v)| y.data[at(k)] = v);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, values};

    fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
        RefTensor::new(shape, data.iter().map(|&v| f64::from(v)).collect())
    }

    fn check_axis(shape: [usize; 3], x: &[f32]) {
        let [outer, axis, inner] = shape;
        let (x_ref, out) = (tensor(&shape, x), [shape.to_vec()]);
        let dy = values(5, x.len());
        let probabilities = reference(&Op::Softmax { axis: 1 }, &[&x_ref], &out).remove(0);
        let y: Vec<f32> = probabilities.data.iter().map(|&v| v as f32).collect();
        let logs = reference(&Op::LogSoftmax { axis: 1 }, &[&x_ref], &out).remove(0);
        let op = Op::SoftmaxGrad { axis: 1 };
        let grad = reference(&op, &[&tensor(&shape, &y), &tensor(&shape, &dy)], &out).remove(0);
        for isa in Isa::available() {
            let check = |kernel: Box<dyn Kernel>, inputs: &[Input<'_>], want: &RefTensor| {
                let got = run(&*kernel, inputs, &[Out::Len(x.len())]);
                assert_close(&format!("{} {shape:?}", kernel.name()), &got[0], &want.data, 1e-6);
            };
            check(softmax(isa, outer, axis, inner), &[Input::F32(x)], &probabilities);
            check(log_softmax(isa, outer, axis, inner), &[Input::F32(x)], &logs);
            check(softmax_grad(isa, outer, axis, inner), &[Input::F32(&y), Input::F32(&dy)], &grad);
        }
    }

    #[test]
    fn axes_match_reference() {
        let shapes = [
            [1, 1, 1],
            [3, 10, 1],
            [5, 1000, 1],
            [2, 17, 1],
            [2, 21, 7],
            [1, 5, 16],
            [2, 3, 40],
            [2, 4, 0],
            [0, 3, 1],
        ];
        for shape in shapes {
            let x: Vec<f32> = values(1, shape.iter().product()).iter().map(|v| v * 8.0).collect();
            check_axis(shape, &x);
        }
    }

    #[test]
    fn axes_at_extremes() {
        let inf = f32::INFINITY;
        for row in [
            [0.0; 3],
            [1e30, -1e30, 0.0],
            [-inf, 0.0, 1.0],
            [-inf; 3],
            [f32::NAN, 0.0, 1.0],
            [300.0, 299.0, 0.0],
        ] {
            check_axis([1, 3, 1], &row);
            let columns: Vec<f32> = row.iter().flat_map(|&v| [v; 18]).collect();
            check_axis([1, 3, 18], &columns);
        }
    }

    fn check_loss(rows: usize, classes: usize, x: &[f32], target: &[f32]) {
        let shape = [rows, classes];
        let (x_ref, t_ref, dloss) = (tensor(&shape, x), tensor(&shape, target), tensor(&[], &[-1.5]));
        let loss = reference(&Op::CrossEntropy, &[&x_ref, &t_ref], &[vec![]]).remove(0);
        let op = Op::CrossEntropyGrad;
        let grad = reference(&op, &[&x_ref, &t_ref, &dloss], &[shape.to_vec()]).remove(0);
        for isa in Isa::available() {
            let kernel = cross_entropy(isa, rows, classes);
            let y = run(&*kernel, &[Input::F32(x), Input::F32(target)], &[Out::Len(1)]);
            assert_close(&format!("{} {shape:?}", kernel.name()), &y[0], &loss.data, 1e-6);
            let kernel = cross_entropy_grad(isa, rows, classes);
            let inputs = [Input::F32(x), Input::F32(target), Input::F32(&[-1.5])];
            let dx = run(&*kernel, &inputs, &[Out::Len(x.len())]);
            assert_close(&format!("{} {shape:?}", kernel.name()), &dx[0], &grad.data, 1e-6);
        }
    }

    #[test]
    fn losses_match_reference() {
        for (rows, classes) in [(1, 1), (4, 10), (16, 1000), (7, 17), (100, 2)] {
            let x: Vec<f32> = values(1, rows * classes).iter().map(|v| v * 10.0).collect();
            let hot: Vec<f32> =
                (0..rows * classes).map(|i| f32::from(i % classes == i / classes % classes)).collect();
            let soft: Vec<f32> = values(2, rows * classes).iter().map(|v| v.abs() / classes as f32).collect();
            check_loss(rows, classes, &x, &hot);
            check_loss(rows, classes, &x, &soft);
        }
        check_loss(1, 3, &[f32::NEG_INFINITY, 2.0, 1e4], &[0.0, 0.25, 0.75]);
        check_loss(1, 2, &[1e30, -1e30], &[1.0, 0.0]);
    }

    #[test]
    fn reference_gradient_is_that_of_the_loss() {
        let shape = [2, 5];
        let (x, t) = (tensor(&shape, &values(1, 10)), tensor(&shape, &values(2, 10)));
        let loss = |x: &RefTensor| reference(&Op::CrossEntropy, &[x, &t], &[vec![]])[0].data[0];
        let one = RefTensor::new(&[], vec![1.0]);
        let grad = reference(&Op::CrossEntropyGrad, &[&x, &t, &one], &[shape.to_vec()]).remove(0);
        for i in 0..10 {
            let moved = |h: f64| {
                let mut x = x.clone();
                x.data[i] += h;
                loss(&x)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - grad.data[i]).abs() < 1e-8, "{i}: {difference}, {}", grad.data[i]);
        }
    }
}
