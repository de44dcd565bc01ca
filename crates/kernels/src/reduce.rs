//! Sums, means and maxima over axes, of a tensor or of the products of two.
//!
//! Every result has its own order of summation, whoever computes it: blocks of `BLOCK` terms are summed apart, so that
//! the rounding error grows with the root of long sums rather than with their length.

use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};
use crate::math::max_nan;
use crate::reference::RefTensor;
use crate::strided::{Axis, count, merge, offsets, row_major};
use crate::{Io, Isa, Kernel, Worker};
use espalier_graph::attr::Attr;
use espalier_graph::{Op, ReduceFn};

/// Terms that one accumulator takes before it is added to the total.
const BLOCK: usize = 256;
/// Vectors of columns that are reduced together.
const WIDE: usize = 4;

/// What is done with the terms: a monoid over lanes.
pub(crate) trait Fold {
    const START: f32;
    unsafe fn join<V: Lanes>(a: V, b: V) -> V;
}

pub(crate) struct Sum;
impl Fold for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    unsafe fn join<V: Lanes>(a: V, b: V) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { a.add(b) }
    }
}

pub(crate) struct Max;
impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    unsafe fn join<V: Lanes>(a: V, b: V) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { max_nan(a, b) }
    }
}

/// Where terms come from, from some element on.
pub(crate) trait Terms: Copy {
    /// The terms of a kernel with these buffers.
    fn of(io: &Io<'_>) -> Self;
    /// From `offset` elements further on.
    fn at(self, offset: usize) -> Self;
    unsafe fn load<V: Lanes>(self) -> V;
    /// The first `n < 16` terms; `rest` in the other lanes.
    unsafe fn load_first<V: Lanes>(self, n: usize, rest: V) -> V;
}

/// The elements of a tensor.
impl Terms for *const f32 {
    fn of(io: &Io<'_>) -> Self {
        io.input::<f32>(0).as_ptr()
    }
    #[inline(always)]
    fn at(self, offset: usize) -> Self {
        self.wrapping_add(offset)
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(self) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { V::load(self) }
    }
    #[inline(always)]
    unsafe fn load_first<V: Lanes>(self, n: usize, rest: V) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { V::load_first(self, n, rest) }
    }
}

/// The products of the elements of two tensors.
#[derive(Clone, Copy)]
struct Products([*const f32; 2]);

impl Terms for Products {
    fn of(io: &Io<'_>) -> Self {
        Products([0, 1].map(|i| io.input::<f32>(i).as_ptr()))
    }
    #[inline(always)]
    fn at(self, offset: usize) -> Self {
        Products(self.0.map(|p| p.wrapping_add(offset)))
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(self) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { V::load(self.0[0]).mul(V::load(self.0[1])) }
    }
    #[inline(always)]
    unsafe fn load_first<V: Lanes>(self, n: usize, rest: V) -> V {
        // SAFETY: the contract of `Lanes`.
        unsafe { V::load_first(self.0[0], n, rest).mul(V::load_first(self.0[1], n, V::splat(1.0))) }
    }
}

/// First term, result, the axis of results side by side, the reduced axes, and the factor of the result.
type Body<T> = unsafe fn(T, *mut f32, Axis<1>, &[Axis<1>], f32);

multiversion!(fn pick_columns<F: Fold, T: Terms>(x: T, y: *mut f32, results: Axis<1>, reduced: &[Axis<1>], scale: f32) = columns_body);

/// Reduces contiguous columns over the reduced axes, lane by lane.
#[inline(always)]
unsafe fn columns_body<V: Lanes, F: Fold, T: Terms>(
    x: T,
    y: *mut f32,
    results: Axis<1>,
    reduced: &[Axis<1>],
    scale: f32,
) {
    let columns = results.size;
    let mut i = 0;
    // SAFETY: the caller gives room for the results, and terms where the axes reach.
    unsafe {
        while i + WIDE * LANES <= columns {
            let sums: [V; WIDE] = fold_columns::<V, F, T, WIDE>(x.at(i), LANES, reduced);
            for k in 0..WIDE {
                sums[k].mul(V::splat(scale)).store(y.add(i + k * LANES));
            }
            i += WIDE * LANES;
        }
        while i < columns {
            let width = (columns - i).min(LANES);
            let [sum]: [V; 1] = fold_columns::<V, F, T, 1>(x.at(i), width, reduced);
            let result = sum.mul(V::splat(scale));
            if width == LANES {
                result.store(y.add(i))
            } else {
                result.store_first(y.add(i), width)
            }
            i += width;
        }
    }
}

/// Folds `N` vectors of columns over all reduced axes; only `width` lanes of the last are valid.
#[inline(always)]
unsafe fn fold_columns<V: Lanes, F: Fold, T: Terms, const N: usize>(
    x: T,
    width: usize,
    reduced: &[Axis<1>],
) -> [V; N] {
    let (outer, inner) = reduced.split_at(reduced.len() - 1);
    let (size, stride) = (inner[0].size, inner[0].strides[0]);
    // SAFETY: the caller's contract.
    unsafe {
        let mut total = [V::splat(F::START); N];
        for index in 0..count(outer) {
            let start = x.at(offsets(outer, index)[0]);
            for block in (0..size).step_by(BLOCK) {
                let mut partial = [V::splat(F::START); N];
                for row in block..size.min(block + BLOCK) {
                    let p = start.at(row * stride);
                    for k in 0..N {
                        let term = if width == LANES {
                            p.at(k * LANES).load()
                        } else {
                            p.load_first(width, V::zero())
                        };
                        partial[k] = F::join(partial[k], term);
                    }
                }
                for k in 0..N {
                    total[k] = F::join(total[k], partial[k]);
                }
            }
        }
        total
    }
}

multiversion!(fn pick_run<F: Fold, T: Terms>(x: T, y: *mut f32, results: Axis<1>, reduced: &[Axis<1>], scale: f32) = run_body);

/// Reduces to each of the results, where the innermost reduced axis is contiguous.
#[inline(always)]
unsafe fn run_body<V: Lanes, F: Fold, T: Terms>(
    x: T,
    y: *mut f32,
    results: Axis<1>,
    reduced: &[Axis<1>],
    scale: f32,
) {
    let (outer, inner) = reduced.split_at(reduced.len() - 1);
    let len = inner[0].size;
    for i in 0..results.size {
        // SAFETY: the caller's contract, as for columns.
        unsafe {
            let x = x.at(i * results.strides[0]);
            let mut total = V::splat(F::START);
            for index in 0..count(outer) {
                let start = x.at(offsets(outer, index)[0]);
                for block in (0..len).step_by(BLOCK * LANES) {
                    let sum = fold_run::<V, F, T>(start.at(block), (len - block).min(BLOCK * LANES));
                    total = F::join(total, sum);
                }
            }
            *y.add(i) = across::<V, F>(total) * scale;
        }
    }
}

/// Folds `len` contiguous terms into lanes.
#[inline(always)]
pub(crate) unsafe fn fold_run<V: Lanes, F: Fold, T: Terms>(x: T, len: usize) -> V {
    let whole = len / LANES * LANES;
    // SAFETY: the caller gives `len` terms.
    unsafe {
        let mut parts = [V::splat(F::START); WIDE];
        let mut i = 0;
        while i + WIDE * LANES <= whole {
            for k in 0..WIDE {
                parts[k] = F::join(parts[k], x.at(i + k * LANES).load());
            }
            i += WIDE * LANES;
        }
        while i < whole {
            parts[0] = F::join(parts[0], x.at(i).load());
            i += LANES;
        }
        let last = x.at(whole).load_first(len - whole, V::splat(F::START));
        F::join(F::join(F::join(parts[0], parts[1]), F::join(parts[2], parts[3])), last)
    }
}

/// Folds the lanes, pairwise in a fixed order.
#[inline(always)]
pub(crate) unsafe fn across<V: Lanes, F: Fold>(v: V) -> f32 {
    // SAFETY: the contract of `Lanes`.
    unsafe {
        let v = F::join(v, v.swap::<8>());
        let v = F::join(v, v.swap::<4>());
        let v = F::join(v, v.swap::<2>());
        F::join(v, v.swap::<1>()).to_array()[0]
    }
}

struct Reduce<T> {
    name: String,
    body: Body<T>,
    /// Kept axes but the innermost.
    kept: Vec<Axis<1>>,
    /// The innermost kept axis.
    results: Axis<1>,
    /// How many results are shared out together.
    grain: usize,
    reduced: Vec<Axis<1>>,
    scale: f32,
}

/// `x[input] -> y`: `f` over `axes`, which vanish from the (plain) result. The sum of nothing is 0, its maximum -inf, its
/// mean NaN.
///
/// # Panics
/// Where an axis is out of range.
pub fn reduce(isa: Isa, f: ReduceFn, input: &[usize], axes: &[usize]) -> Box<dyn Kernel> {
    make::<*const f32>(isa, f, "", input, axes)
}

/// `a[input], b[input] -> y`: as [`reduce`], of the products of `a` and `b`.
///
/// # Panics
/// Where an axis is out of range.
pub fn reduce_products(isa: Isa, f: ReduceFn, input: &[usize], axes: &[usize]) -> Box<dyn Kernel> {
    make::<Products>(isa, f, " of products", input, axes)
}

fn make<T: Terms + 'static>(
    isa: Isa,
    f: ReduceFn,
    what: &str,
    input: &[usize],
    axes: &[usize],
) -> Box<dyn Kernel> {
    assert!(axes.iter().all(|&axis| axis < input.len()), "axes {axes:?} of {input:?}");
    let strides = row_major(input);
    let axis = |i: usize| Axis { size: input[i], strides: [strides[i]] };
    let (gone, stay): (Vec<usize>, Vec<usize>) = (0..input.len()).partition(|i| axes.contains(i));
    let mut kept = merge(stay.into_iter().map(axis));
    let mut reduced = merge(gone.into_iter().map(axis));
    let terms = count(&reduced);
    if reduced.is_empty() {
        reduced.push(Axis { size: 1, strides: [0] });
    }
    let results = kept.pop().unwrap_or(Axis { size: 1, strides: [1] });
    let run = reduced.last().is_some_and(|last| last.strides == [1]);
    let body = match (f, run) {
        (ReduceFn::Max, true) => pick_run::<Max, T>(isa),
        (ReduceFn::Max, false) => pick_columns::<Max, T>(isa),
        (_, true) => pick_run::<Sum, T>(isa),
        (_, false) => pick_columns::<Sum, T>(isa),
    };
    let scale = if f == ReduceFn::Mean { 1.0 / terms as f32 } else { 1.0 };
    let (way, grain) = if run { ("along rows", 1) } else { ("over columns", LANES) };
    let name = format!("{}{what} {way} {isa}", f.write());
    Box::new(Reduce { name, body, kept, results, grain, reduced, scale })
}

impl<T: Terms> Kernel for Reduce<T> {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (T::of(io), io.output::<f32>(0));
        // Grains are counted row after row of kept positions.
        let Axis { size, strides: [stride] } = self.results;
        let grains = size.div_ceil(self.grain);
        let share = worker.share(count(&self.kept) * grains);
        let mut unit = share.start;
        while unit < share.end {
            let (row, first) = (unit / grains, unit % grains);
            let last = (first + share.end - unit).min(grains);
            let (from, to) = (first * self.grain, size.min(last * self.grain));
            let terms = x.at(offsets(&self.kept, row)[0] + from * stride);
            let results = Axis { size: to - from, strides: [stride] };
            // SAFETY: the axes were derived from the input's shape; results of different units are disjoint.
            unsafe {
                let y = y.slice_mut(row * size + from..row * size + to).as_mut_ptr();
                (self.body)(terms, y, results, &self.reduced, self.scale);
            }
            unit += last - first;
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let Op::Reduce { f, axes, .. } = op else { unreachable!("{} is not of this family", op.name()) };
    let x = inputs[0];
    let kept: Vec<usize> = (0..x.shape.len()).filter(|axis| !axes.contains(axis)).collect();
    let (from, to) = (row_major(&x.shape), row_major(&kept.iter().map(|&k| x.shape[k]).collect::<Vec<_>>()));
    let start = if *f == ReduceFn::Max { f64::NEG_INFINITY } else { 0.0 };
    let mut y = RefTensor::from_fn(&outputs[0], |_| start);
    for (i, &term) in x.data.iter().enumerate() {
        let at: usize = kept.iter().zip(&to).map(|(&k, stride)| i / from[k] % x.shape[k] * stride).sum();
        let result = &mut y.data[at];
        match f {
            ReduceFn::Max if result.is_nan() || term.is_nan() => *result = f64::NAN,
            ReduceFn::Max => *result = result.max(term),
            ReduceFn::Sum | ReduceFn::Mean => *result += term,
        }
    }
    if *f == ReduceFn::Mean {
        let terms: usize = axes.iter().map(|&axis| x.shape[axis]).product();
        y.data.iter_mut().for_each(|v| *v /= terms as f64);
    }
    vec![y]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, values};

    fn check(f: ReduceFn, shape: &[usize], axes: &[usize], x: &[f32]) {
        let op = Op::Reduce { f, axes: axes.to_vec(), keep: false };
        let out: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
        let tensor = RefTensor::new(shape, x.iter().map(|&v| f64::from(v)).collect());
        let want = reference(&op, &[&tensor], std::slice::from_ref(&out)).remove(0);
        for isa in Isa::available() {
            let kernel = reduce(isa, f, shape, axes);
            let y = run(&*kernel, &[Input::F32(x)], &[Out::Len(out.iter().product())]);
            assert_close(&format!("{} {shape:?} {axes:?}", kernel.name()), &y[0], &want.data, 1e-5);
        }
        check_products(f, shape, axes, x, &out);
    }

    /// The same of the products of `x` with other numbers.
    fn check_products(f: ReduceFn, shape: &[usize], axes: &[usize], x: &[f32], out: &[usize]) {
        let other = values(9, x.len());
        let products = x.iter().zip(&other).map(|(&a, &b)| f64::from(a) * f64::from(b)).collect();
        let op = Op::Reduce { f, axes: axes.to_vec(), keep: false };
        let want = reference(&op, &[&RefTensor::new(shape, products)], &[out.to_vec()]).remove(0);
        for isa in Isa::available() {
            let kernel = reduce_products(isa, f, shape, axes);
            let inputs = [Input::F32(x), Input::F32(&other)];
            let y = run(&*kernel, &inputs, &[Out::Len(out.iter().product())]);
            assert_close(&format!("{} {shape:?} {axes:?}", kernel.name()), &y[0], &want.data, 1e-5);
        }
    }

    const FOLDS: [ReduceFn; 3] = [ReduceFn::Sum, ReduceFn::Mean, ReduceFn::Max];

    #[test]
    fn matches_reference() {
        let cases: [(&[usize], &[usize]); 20] = [
            (&[1], &[0]),
            (&[37], &[0]),
            (&[5, 37], &[0]),
            (&[5, 37], &[1]),
            (&[5, 37], &[0, 1]),
            (&[5, 37], &[]),
            (&[3, 130], &[0]),
            (&[700, 10], &[0]),
            (&[2, 3, 5, 7], &[2, 3]),
            (&[2, 3, 5, 7], &[0, 2, 3]),
            (&[2, 3, 5, 7], &[1]),
            (&[2, 3, 5, 7], &[0, 2]),
            (&[2, 3, 5, 7], &[1, 3]),
            (&[2, 2, 7, 5, 16], &[2, 3]),
            (&[3, 2, 7, 5, 16], &[0, 2, 3]),
            (&[3, 2, 7, 5, 16], &[0, 2, 3, 4]),
            (&[4, 1, 6], &[1]),
            (&[2, 0, 3], &[1]),
            (&[0, 3], &[1]),
            (&[2, 40, 9], &[1]),
        ];
        for (shape, axes) in cases {
            for f in FOLDS {
                check(f, shape, axes, &values(1, shape.iter().product()));
            }
        }
    }

    #[test]
    fn long_sums_stay_exact() {
        let x: Vec<f32> = values(1, 300_000).iter().map(|v| 1.0 + 0.1 * v).collect();
        for f in FOLDS {
            check(f, &[300_000], &[0], &x);
            check(f, &[100_000, 3], &[0], &x);
            check(f, &[2, 150_000], &[1], &x);
        }
    }

    #[test]
    fn extremes() {
        let mut x = values(1, 3 * 40);
        (x[3], x[45], x[100]) = (f32::INFINITY, f32::NAN, f32::NEG_INFINITY);
        for f in FOLDS {
            check(f, &[3, 40], &[1], &x);
            check(f, &[3, 40], &[0], &x);
            check(f, &[20], &[0], &[f32::NEG_INFINITY; 20]);
            check(f, &[17], &[0], &[1e30; 17]);
        }
    }
}
