//! Sums and products of two tensors of bytes.

use super::conv::Operand;
use super::dots::Dots;
use super::finish::Finish;
use super::form::{Form, per_form};
use super::share::{Share, by_lines};
use super::sums::{Limits, Sums};
use crate::lanes::{LANES, Lanes};
use crate::{Io, Isa, Kernel, Rows, Worker};
use std::ops::Range;

/// Kernel `a, b -> y`, all of one shape: `y = clamp(round_ties_even(v), lo, hi)` with
/// `v = fma(a, scale_a, fma(b, scale_b, offset))` and `offset = zero - (scale_a * zero_a + scale_b * zero_b)`, every step
/// of it rounded to f32; that is ONNX Runtime's arithmetic to the bit (its QLinearAdd). Scales are in units of the output,
/// `zero` is its zero point. Panics where a scale or the offset is not finite.
pub fn add(isa: Isa, shape: Rows, operands: [Operand; 2], zero: u8, limits: [u8; 2]) -> Box<dyn Kernel> {
    add_with(Form::of(isa), shape, operands, zero, limits)
}

fn add_with(form: Form, shape: Rows, [a, b]: [Operand; 2], zero: u8, limits: [u8; 2]) -> Box<dyn Kernel> {
    let bound = 255.0 * (f64::from(a.scale.abs()) + f64::from(b.scale.abs())) + 255.0;
    let offset = f32::from(zero) - (a.scale * f32::from(a.zero) + b.scale * f32::from(b.zero));
    let parameters = Parameters::new([0, 0], [a.scale, b.scale], offset, 2.0 * bound, limits);
    Box::new(Pairs {
        name: format!("add int8 {form}"),
        body: pick_body::<SUM>(form),
        parameters,
        shape: pixels_by_lines(shape),
        gated: false,
    })
}

/// Kernel `x, gate -> y`: `x` and `y` are quads of this shape, `gate` is one for each plane, as in squeeze and excitation.
/// `y = clamp(round_ties_even((x - zero_x) * (gate - zero_gate) * scale + bias), lo, hi)`, where the first product is exact
/// and the next two steps are rounded to f32; that is ONNX Runtime's arithmetic to the bit (its QLinearMul).
/// Panics where scale or bias is not finite.
pub fn gate(
    isa: Isa,
    shape: Rows,
    zeros: [u8; 2],
    scale: f32,
    bias: f32,
    limits: [u8; 2],
) -> Box<dyn Kernel> {
    gate_with(Form::of(isa), shape, zeros, scale, bias, limits)
}

fn gate_with(
    form: Form,
    shape: Rows,
    zeros: [u8; 2],
    scale: f32,
    bias: f32,
    limits: [u8; 2],
) -> Box<dyn Kernel> {
    Box::new(Pairs {
        name: format!("gate int8 {form}"),
        body: pick_body::<GATE>(form),
        parameters: Parameters::of_product(zeros, scale, bias, limits),
        shape,
        gated: true,
    })
}

/// Kernel `a, b -> y`, all of one shape: as [`gate`], element by element.
pub fn multiply(
    isa: Isa,
    shape: Rows,
    zeros: [u8; 2],
    scale: f32,
    bias: f32,
    limits: [u8; 2],
) -> Box<dyn Kernel> {
    multiply_with(Form::of(isa), shape, zeros, scale, bias, limits)
}

fn multiply_with(
    form: Form,
    shape: Rows,
    zeros: [u8; 2],
    scale: f32,
    bias: f32,
    limits: [u8; 2],
) -> Box<dyn Kernel> {
    Box::new(Pairs {
        name: format!("multiply int8 {form}"),
        body: pick_body::<PRODUCT>(form),
        parameters: Parameters::of_product(zeros, scale, bias, limits),
        shape: pixels_by_lines(shape),
        gated: false,
    })
}

fn pixels_by_lines(shape: Rows) -> Rows {
    let [rows, bytes] = by_lines([shape.rows, shape.bytes]);
    Rows { rows, bytes, ..shape }
}

/// What [`body`] does: a sum, a product, or a product with the same four factors for every pixel.
const SUM: u8 = 0;
const PRODUCT: u8 = 1;
const GATE: u8 = 2;

struct Parameters {
    zeros: [i32; 2],
    scales: [f32; 2],
    bias: f32,
    finish: Finish,
}

impl Parameters {
    fn new(zeros: [u8; 2], scales: [f32; 2], bias: f32, bound: f64, [lo, hi]: [u8; 2]) -> Parameters {
        let finite = scales.iter().chain([&bias]).all(|v| v.is_finite());
        assert!(finite, "scales {scales:?} and bias {bias} must be finite");
        assert!(lo <= hi, "limits {lo} and {hi}");
        let wide = bound >= f64::from(1 << 30);
        let finish = Finish { residual: (0, 0.0), limits: Limits { zero: 0, lo, hi }, wide };
        Parameters { zeros: zeros.map(i32::from), scales, bias, finish }
    }

    fn of_product(zeros: [u8; 2], scale: f32, bias: f32, limits: [u8; 2]) -> Parameters {
        let bound = 255.0 * 255.0 * f64::from(scale.abs()) + f64::from(bias.abs());
        Parameters::new(zeros, [scale, 0.0], bias, bound, limits)
    }
}

type Body = unsafe fn(&Parameters, *const u8, *const u8, *mut u8, usize);

struct Pairs {
    name: String,
    body: Body,
    parameters: Parameters,
    shape: Rows,
    /// Whether b has four bytes for each plane.
    gated: bool,
}

impl Pairs {
    fn share(&self) -> Share {
        let Rows { images, planes, rows, bytes } = self.shape;
        Share { rows: images * rows, row: bytes, planes, planes_weigh: false, plane_by_plane: self.gated }
    }

    /// A stretch of bytes in a plane, or in several that follow each other.
    fn compute(&self, io: &Io<'_>, plane: usize, range: Range<usize>) {
        let (a, b, y) = (io.input_rows(0), io.input_rows(1), io.output::<u8>(0));
        let factors = if self.gated { 4 * plane..4 * plane + 4 } else { range.clone() };
        // SAFETY: this worker's rows or planes; a gate is complete. The body was picked for this CPU, and reads and writes
        // as many bytes as the range has, but four factors of a gate.
        unsafe {
            let (a, b, y) = (a.slice(range.clone()), b.slice(factors), y.slice_mut(range));
            (self.body)(&self.parameters, a.as_ptr(), b.as_ptr(), y.as_mut_ptr(), y.len());
        }
    }
}

impl Kernel for Pairs {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        self.share().written(self.shape.images, workers)
    }

    fn reads_rows(&self, index: usize, workers: usize) -> Option<Rows> {
        self.writes_rows(workers).filter(|_| index == 0 || !self.gated)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let Rows { images, planes, rows, bytes } = self.shape;
        let (len, plane) = (self.shape.len(), rows * bytes);
        let lens = [len, if self.gated { 4 * images * planes } else { len }, len];
        let given = [io.input_rows(0).len(), io.input_rows(1).len(), io.output::<u8>(0).len()];
        assert_eq!(given, lens, "{}: bytes", self.name);
        let (units, own) = self.share().of(worker);
        for image in 0..images {
            let [start, end] =
                [units.start, units.end].map(|unit| unit.saturating_sub(image * rows).min(rows));
            let first = image * planes;
            if end - start == rows && !self.gated {
                self.compute(io, first, (first + own.start) * plane..(first + own.end) * plane);
                continue;
            }
            for plane_at in own.clone().map(|p| first + p) {
                let at = plane_at * plane;
                self.compute(io, plane_at, at + start * bytes..at + end * bytes);
            }
        }
    }
}

per_form!(fn pick_body<; const WHAT: u8>(p: &Parameters, a: *const u8, b: *const u8, y: *mut u8, len: usize) = body);

/// Bytes of four vectors of sums.
const BLOCK: usize = 4 * LANES;

#[inline(always)]
unsafe fn body<D: Dots, const WHAT: u8>(p: &Parameters, a: *const u8, b: *const u8, y: *mut u8, len: usize) {
    // SAFETY: the caller gives `len` bytes, and 4 of a gate.
    unsafe {
        let mut factors = [0u8; BLOCK];
        if WHAT == GATE {
            for i in 0..BLOCK {
                factors[i] = *b.add(i % 4);
            }
        }
        let second = |at: usize| if WHAT == GATE { factors.as_ptr() } else { b.add(at) };
        if len < BLOCK {
            let (mut a_rest, mut b_rest, mut y_rest) = ([0u8; BLOCK], [0u8; BLOCK], [0u8; BLOCK]);
            std::ptr::copy_nonoverlapping(a, a_rest.as_mut_ptr(), len);
            std::ptr::copy_nonoverlapping(second(0), b_rest.as_mut_ptr(), len);
            block::<D::Sums, WHAT>(p, a_rest.as_ptr(), b_rest.as_ptr(), y_rest.as_mut_ptr());
            std::ptr::copy_nonoverlapping(y_rest.as_ptr(), y, len);
            return;
        }
        for at in (0..len - BLOCK).step_by(BLOCK) {
            block::<D::Sums, WHAT>(p, a.add(at), second(at), y.add(at));
        }
        // The last one is whole too: some bytes come out a second time.
        let at = len - BLOCK;
        block::<D::Sums, WHAT>(p, a.add(at), second(at), y.add(at));
    }
}

/// As quads, which are taken apart and put together in fewer instructions than sixteen bytes at a time.
#[inline(always)]
unsafe fn block<S: Sums, const WHAT: u8>(p: &Parameters, a: *const u8, b: *const u8, y: *mut u8) {
    // SAFETY: the caller gives 64 bytes each.
    unsafe {
        let (a, b) = (S::load_channels(a), S::load_channels(b));
        let results = [
            sixteen::<S, WHAT>(p, a[0], b[0]),
            sixteen::<S, WHAT>(p, a[1], b[1]),
            sixteen::<S, WHAT>(p, a[2], b[2]),
            sixteen::<S, WHAT>(p, a[3], b[3]),
        ];
        S::store_channels(results, p.finish.limits, y);
    }
}

#[inline(always)]
unsafe fn sixteen<S: Sums, const WHAT: u8>(p: &Parameters, a: S, b: S) -> S {
    // SAFETY: the caller has the instructions.
    unsafe {
        let (scale, bias) = (S::Floats::splat(p.scales[0]), S::Floats::splat(p.bias));
        let v = if WHAT == SUM {
            let v = S::fused(b.floats(), S::Floats::splat(p.scales[1]), bias);
            S::fused(a.floats(), scale, v)
        } else {
            // The product of two numbers of nine bits is exact, and so is what is left of it without a's zero point; of a gate
            // all but one step is the same for every pixel.
            let b = b.sub(S::splat(p.zeros[1])).floats();
            let zeros = b.mul(S::splat(-p.zeros[0]).floats());
            S::fused(a.floats(), b, zeros).mul(scale).add(bias)
        };
        p.finish.round::<S>(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::quads;
    use crate::int8::testing::{bytes, from_quads, run, to_quads};

    fn limited(v: f32, [lo, hi]: [u8; 2]) -> u8 {
        v.round_ties_even().clamp(f32::from(lo), f32::from(hi)) as u8
    }

    fn minus(x: u8, zero: u8) -> i32 {
        i32::from(x) - i32::from(zero)
    }

    #[test]
    fn sums_have_the_bits_of_the_definition() {
        let operand = |zero, scale| Operand { zero, scale };
        for (sizes, a, b, zero, limits) in [
            (&[1, 0][..], operand(0, 1.0), operand(0, 1.0), 0, [0, 255]),
            (&[5], operand(0, 0.5), operand(255, 0.5), 128, [0, 255]),
            (&[2, 5, 10, 25], operand(7, 0.31), operand(200, -1.7), 100, [3, 250]),
            (&[1, 3, 4, 14, 4], operand(7, 0.31), operand(200, -1.7), 100, [3, 250]),
            (&[3, 2, 1, 64], operand(0, 1e30), operand(0, -1e30), 10, [0, 255]),
            (&[16, 65], operand(255, 1e36), operand(0, f32::MAX), 10, [1, 254]),
        ] {
            let shape = Rows::of(sizes);
            let len = shape.len();
            let (x, z) = (bytes(1, len), bytes(2, len));
            let zeros = a.scale * f32::from(a.zero) + b.scale * f32::from(b.zero);
            let value = |i: usize| {
                let v = f32::from(z[i]).mul_add(b.scale, f32::from(zero) - zeros);
                f32::from(x[i]).mul_add(a.scale, v)
            };
            let want: Vec<u8> = (0..len).map(|i| limited(value(i), limits)).collect();
            for form in Form::available() {
                let kernel = add_with(form, shape, [a, b], zero, limits);
                assert_eq!(run(&*kernel, &[&x, &z], len), want, "{} {sizes:?} {a:?} {b:?}", kernel.name());
            }
        }
    }

    #[test]
    fn products_have_the_bits_of_the_definition() {
        for (zeros, scale, bias, limits) in [
            ([0, 0], 0.004, 0.0, [0, 255]),
            ([128, 255], 0.01, 128.0, [2, 240]),
            ([255, 0], -0.5, 12.5, [0, 255]),
            ([0, 128], 1e35, 0.0, [0, 255]),
        ] {
            let value = |x: u8, g: u8| {
                limited((minus(x, zeros[0]) * minus(g, zeros[1])) as f32 * scale + bias, limits)
            };
            for (n, c, height, width) in
                [(1, 1, 1, 1), (2, 5, 3, 1), (1, 17, 16, 16), (2, 4, 4, 75), (3, 9, 5, 33), (1, 3, 0, 1)]
            {
                let spatial = height * width;
                let shape = Rows { images: n, planes: quads(c), rows: height, bytes: 4 * width };
                let (x, g) = (bytes(1, n * c * spatial), bytes(2, n * c));
                let want: Vec<u8> = (0..x.len()).map(|i| value(x[i], g[i / spatial])).collect();
                let (xq, gq) = (to_quads(&x, c, spatial), to_quads(&g, c, 1));
                let other = bytes(3, xq.len());
                let products: Vec<u8> = xq.iter().zip(&other).map(|(&x, &g)| value(x, g)).collect();
                for form in Form::available() {
                    let kernel = gate_with(form, shape, zeros, scale, bias, limits);
                    let y = run(&*kernel, &[&xq, &gq], xq.len());
                    let what = format!("{} {n} {c} {spatial} {zeros:?}", kernel.name());
                    assert_eq!(from_quads(&y, n, c, spatial), want, "{what}");
                    let kernel = multiply_with(form, shape, zeros, scale, bias, limits);
                    assert_eq!(run(&*kernel, &[&xq, &other], xq.len()), products, "{}", kernel.name());
                }
            }
        }
    }
}
