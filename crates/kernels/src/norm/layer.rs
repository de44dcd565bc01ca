//! Layer normalisation over rows of plain memory.

use super::moments::{Sums, Terms, add_moments, add_terms};
use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{load_up_to, store_up_to};

/// Vectors of a strip of columns: their two cache lines are fetched as a pair.
const STRIP: usize = 2;
/// Rows whose column sums stay in f32.
const ROWS: usize = 64;

#[derive(Clone, Copy)]
struct Rows {
    isa: Isa,
    rows: usize,
    dim: usize,
    eps: f64,
}

/// What a normalised row is: `hat = (x - mean) * rstd + offset`, where the offset makes up for the mean's rounding.
#[derive(Clone, Copy)]
struct Hat {
    mean: f32,
    rstd: f32,
    offset: f32,
}

impl Hat {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: *const f32, dim: usize, eps: f64) -> Hat {
        let mut sums = Sums::default();
        // SAFETY: the caller's row has `dim` elements.
        unsafe { add_moments::<V>(x, dim, &mut sums) };
        let [mean, square] = sums.map(|s| s.iter().sum::<f64>() / dim as f64);
        let spread = square - mean * mean;
        let rstd = 1.0 / (if spread < 0.0 { 0.0 } else { spread } + eps).sqrt();
        Hat { mean: mean as f32, rstd: rstd as f32, offset: ((f64::from(mean as f32) - mean) * rstd) as f32 }
    }

    #[inline(always)]
    unsafe fn at<V: Lanes>(&self, x: V) -> V {
        // SAFETY: inside of a function made by `multiversion!`.
        unsafe { x.sub(V::splat(self.mean)).mul_add(V::splat(self.rstd), V::splat(self.offset)) }
    }
}

/// Offsets and lengths of the vectors of a row.
fn vectors(dim: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dim).step_by(LANES).map(move |i| (i, LANES.min(dim - i)))
}

/// Normalises each of `rows` rows of `dim` elements. in: x, gamma, beta; out: y.
pub fn layer_norm(isa: Isa, rows: usize, dim: usize, eps: f32) -> Box<dyn Kernel> {
    Box::new(LayerNorm(Rows { isa, rows, dim, eps: eps.into() }, pick_forward(isa)))
}

struct LayerNorm(Rows, unsafe fn(&Rows, &Io<'_>, usize));

impl Kernel for LayerNorm {
    fn name(&self) -> String {
        format!("layer norm {}", self.0.isa)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let Rows { rows, dim, .. } = self.0;
        assert_eq!([0, 1, 2].map(|i| io.input::<f32>(i).len()), [rows * dim, dim, dim], "elements");
        assert_eq!(io.output::<f32>(0).len(), rows * dim, "elements");
        for row in worker.share(rows) {
            // SAFETY: lengths were checked; rows are disjoint.
            unsafe { (self.1)(&self.0, io, row) };
        }
    }
}

multiversion! { fn pick_forward(k: &Rows, io: &Io<'_>, row: usize) = forward }

#[inline(always)]
unsafe fn forward<V: Lanes>(k: &Rows, io: &Io<'_>, row: usize) {
    let [x, gamma, beta] = [0, 1, 2].map(|i| io.input::<f32>(i).as_ptr());
    // SAFETY: `run` checked the lengths; this worker alone writes this row.
    unsafe {
        let (x, y) = (x.add(row * k.dim), io.output::<f32>(0).as_mut_ptr().add(row * k.dim));
        let hat = Hat::of::<V>(x, k.dim, k.eps);
        for (i, len) in vectors(k.dim) {
            let x: V = load_up_to(x.add(i), len, V::zero());
            let gamma: V = load_up_to(gamma.add(i), len, V::zero());
            let beta: V = load_up_to(beta.add(i), len, V::zero());
            store_up_to(hat.at(x).mul_add(gamma, beta), y.add(i), len);
        }
    }
}

/// Gradient of [`layer_norm`]. in: x, dy, gamma; out: dx, dgamma, dbeta.
///
/// dgamma and dbeta are sums over rows, which workers must not split: each takes a share of the columns, and computes
/// the statistics of all rows for itself.
pub fn layer_norm_grad(isa: Isa, rows: usize, dim: usize, eps: f32) -> Box<dyn Kernel> {
    let k = Rows { isa, rows, dim, eps: eps.into() };
    Box::new(LayerNormGrad {
        k,
        statistics: pick_statistics(isa),
        row: pick_row(isa),
        strip: pick_strip(isa),
    })
}

type Part = unsafe fn(&Rows, &Io<'_>, &mut [f32], usize);

struct LayerNormGrad {
    k: Rows,
    statistics: Part,
    row: Part,
    strip: Part,
}

impl Kernel for LayerNormGrad {
    fn name(&self) -> String {
        format!("layer norm gradient {}", self.k.isa)
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        3 * self.k.rows
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let Rows { rows, dim, .. } = self.k;
        assert_eq!([0, 1, 2].map(|i| io.input::<f32>(i).len()), [rows * dim, rows * dim, dim], "elements");
        assert_eq!([0, 1, 2].map(|i| io.output::<f32>(i).len()), [rows * dim, dim, dim], "elements");
        // SAFETY: lengths were checked; rows of dx and strips of dgamma and dbeta are disjoint.
        unsafe {
            (0..rows).for_each(|row| (self.statistics)(&self.k, io, scratch, row));
            worker.share(rows).for_each(|row| (self.row)(&self.k, io, scratch, row));
            let strips = dim.div_ceil(STRIP * LANES);
            worker.share(strips).for_each(|strip| (self.strip)(&self.k, io, scratch, strip));
        }
    }
}

multiversion! { fn pick_statistics(k: &Rows, io: &Io<'_>, scratch: &mut [f32], row: usize) = statistics }
multiversion! { fn pick_row(k: &Rows, io: &Io<'_>, scratch: &mut [f32], row: usize) = row_gradient }
multiversion! { fn pick_strip(k: &Rows, io: &Io<'_>, scratch: &mut [f32], strip: usize) = strip_gradient }

#[inline(always)]
unsafe fn statistics<V: Lanes>(k: &Rows, io: &Io<'_>, scratch: &mut [f32], row: usize) {
    // SAFETY: `run` checked the lengths.
    let hat = unsafe { Hat::of::<V>(io.input::<f32>(0).as_ptr().add(row * k.dim), k.dim, k.eps) };
    scratch[3 * row..][..3].copy_from_slice(&[hat.mean, hat.rstd, hat.offset]);
}

#[inline(always)]
fn stored(scratch: &[f32], row: usize) -> Hat {
    Hat { mean: scratch[3 * row], rstd: scratch[3 * row + 1], offset: scratch[3 * row + 2] }
}

/// One row's x, dy and gamma.
struct Row {
    hat: Hat,
    x: *const f32,
    dy: *const f32,
    gamma: *const f32,
}

impl Row {
    /// `[dhat, hat]` of the up to 16 elements at offset `i`, where `dhat = dy * gamma`; dhat is 0 past `len`.
    #[inline(always)]
    unsafe fn load<V: Lanes>(&self, i: usize, len: usize) -> [V; 2] {
        // SAFETY: the caller's offset and length.
        unsafe {
            let x: V = load_up_to(self.x.add(i), len, V::zero());
            let dy: V = load_up_to(self.dy.add(i), len, V::zero());
            let gamma: V = load_up_to(self.gamma.add(i), len, V::zero());
            [dy.mul(gamma), self.hat.at(x)]
        }
    }
}

impl<V: Lanes> Terms<V> for Row {
    /// `[dhat, dhat * hat]`.
    #[inline(always)]
    unsafe fn at(&self, i: usize, len: usize) -> [V; 2] {
        // SAFETY: the caller's offset and length.
        unsafe {
            let [dhat, hat] = self.load::<V>(i, len);
            [dhat, dhat.mul(hat)]
        }
    }
}

/// `dx = rstd * (dhat - mean(dhat) - hat * mean(dhat * hat))`.
#[inline(always)]
unsafe fn row_gradient<V: Lanes>(k: &Rows, io: &Io<'_>, scratch: &mut [f32], row: usize) {
    let [x, dy, gamma] = [0, 1, 2].map(|i| io.input::<f32>(i).as_ptr());
    // SAFETY: `run` checked the lengths; this worker alone writes this row.
    unsafe {
        let start = row * k.dim;
        let terms = Row { hat: stored(scratch, row), x: x.add(start), dy: dy.add(start), gamma };
        let mut sums = Sums::default();
        add_terms::<V>(&terms, k.dim, &mut sums);
        let [sum, dot] = sums.map(|s| V::splat((-s.iter().sum::<f64>() / k.dim as f64) as f32));
        let dx = io.output::<f32>(0).as_mut_ptr().add(start);
        for (i, len) in vectors(k.dim) {
            let [dhat, hat] = terms.load::<V>(i, len);
            let v = hat.mul_add(dot, dhat.add(sum)).mul(V::splat(terms.hat.rstd));
            store_up_to(v, dx.add(i), len);
        }
    }
}

/// dgamma and dbeta of a strip of columns.
#[inline(always)]
unsafe fn strip_gradient<V: Lanes>(k: &Rows, io: &Io<'_>, scratch: &mut [f32], strip: usize) {
    for i in (strip * STRIP..(strip + 1) * STRIP).map(|v| v * LANES).filter(|&i| i < k.dim) {
        let len = LANES.min(k.dim - i);
        let mut sums = Sums::default();
        // SAFETY: `run` checked the lengths; this worker alone writes this strip.
        unsafe {
            for first in (0..k.rows).step_by(ROWS) {
                let rows = first..k.rows.min(first + ROWS);
                let chunk = column_sums::<V>(k, io, scratch, rows, i, len).map(|v| v.to_array());
                for (sum, chunk) in sums.iter_mut().zip(chunk) {
                    sum.iter_mut().zip(chunk).for_each(|(s, v)| *s += f64::from(v));
                }
            }
            for (output, sum) in [(1, sums[0]), (2, sums[1])] {
                let v = V::from_array(sum.map(|v| v as f32));
                store_up_to(v, io.output::<f32>(output).as_mut_ptr().add(i), len);
            }
        }
    }
}

/// Sums of `dy * hat` and `dy` over some rows of up to 16 columns.
#[inline(always)]
unsafe fn column_sums<V: Lanes>(
    k: &Rows,
    io: &Io<'_>,
    scratch: &[f32],
    rows: std::ops::Range<usize>,
    i: usize,
    len: usize,
) -> [V; 2] {
    // SAFETY: the caller's rows and columns exist.
    unsafe {
        let mut sums = [V::zero(); 2];
        for row in rows {
            let [x, dy] = [0, 1].map(|input| {
                load_up_to(io.input::<f32>(input).as_ptr().add(row * k.dim + i), len, V::zero())
            });
            sums = [dy.mul_add(stored(scratch, row).at(x), sums[0]), sums[1].add(dy)];
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use crate::reference::RefTensor;
    use crate::testing::{Input, Out, assert_close, run, values};
    use espalier_graph::Op;

    const EPS: f32 = 1e-5;

    #[test]
    fn matches_the_reference() {
        for (rows, dim) in [(1, 1), (3, 5), (7, 16), (2, 17), (130, 40), (5, 192), (2, 5000)] {
            for (mean, scale, tolerance) in [(0.0, 1.0, 5e-6), (1000.0, 0.01, 1e-4)] {
                for isa in Isa::available() {
                    let x: Vec<f32> = values(1, rows * dim).iter().map(|v| mean + scale * v).collect();
                    check(isa, rows, dim, &x, tolerance);
                }
            }
        }
    }

    fn check(isa: Isa, rows: usize, dim: usize, x: &[f32], tolerance: f64) {
        let (gamma, beta, dy) = (values(2, dim), values(3, dim), values(4, rows * dim));
        let tensor =
            |shape: &[usize], v: &[f32]| RefTensor::new(shape, v.iter().map(|&v| v.into()).collect());
        let (tx, tdy) = (tensor(&[rows, dim], x), tensor(&[rows, dim], &dy));
        let (tgamma, tbeta) = (tensor(&[dim], &gamma), tensor(&[dim], &beta));
        let what = format!("{isa} {rows}x{dim}");

        let kernel = layer_norm(isa, rows, dim, EPS);
        let inputs = [x, &gamma, &beta].map(Input::F32);
        let y = run(&*kernel, &inputs, &[Out::Len(rows * dim)]).remove(0);
        let want = reference(&Op::LayerNorm { eps: EPS }, &[&tx, &tgamma, &tbeta], &[]);
        assert_close(&what, &y, &want[0].data, tolerance);

        let kernel = layer_norm_grad(isa, rows, dim, EPS);
        let inputs = [x, &dy, &gamma].map(Input::F32);
        let got = run(&*kernel, &inputs, &[Out::Len(rows * dim), Out::Len(dim), Out::Len(dim)]);
        let want = reference(&Op::LayerNormGrad { eps: EPS }, &[&tx, &tdy, &tgamma], &[]);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_close(&format!("{what} gradient {i}"), got, &want.data, tolerance);
        }
    }
}
