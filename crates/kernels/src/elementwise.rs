//! Functions of single elements: unary and their derivatives, broadcast binary, dropout, constants and casts.

use crate::activation::Activation;
use crate::functions::{self, Function, Function2, Params, unary_derivative};
use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};
use crate::math::clip;
use crate::reference::RefTensor;
use crate::strided::{Axis, Rows, broadcast};
use crate::{Io, Isa, Kernel, Worker};
use espalier_graph::attr::Attr;
use espalier_graph::{BinaryFn, DType, Op, UnaryFn, random};

type ValueBody = unsafe fn(Params, *const f32, *mut f32, usize);
type GradBody = unsafe fn(Params, *const f32, *const f32, *mut f32, usize);

multiversion!(fn pick_value<F: Function>(p: Params, x: *const f32, y: *mut f32, len: usize) = value_body);

/// `y = f(x)` over `len` elements.
#[inline(always)]
unsafe fn value_body<V: Lanes, F: Function>(p: Params, x: *const f32, y: *mut f32, len: usize) {
    let whole = len / LANES * LANES;
    // SAFETY: the caller gives `len` elements at each pointer.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            F::value(p, V::load(x.add(i))).store(y.add(i));
        }
        let last = V::load_first(x.add(whole), len - whole, V::zero());
        F::value(p, last).store_first(y.add(whole), len - whole);
    }
}

multiversion!(fn pick_grad<F: Function>(p: Params, x: *const f32, dy: *const f32, dx: *mut f32, len: usize) = grad_body);

/// `dx = f'(x) dy` over `len` elements.
#[inline(always)]
unsafe fn grad_body<V: Lanes, F: Function>(
    p: Params,
    x: *const f32,
    dy: *const f32,
    dx: *mut f32,
    len: usize,
) {
    let whole = len / LANES * LANES;
    // SAFETY: the caller gives `len` elements at each pointer.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            F::derivative(p, V::load(x.add(i))).mul(V::load(dy.add(i))).store(dx.add(i));
        }
        let rest = len - whole;
        let slope = F::derivative(p, V::load_first(x.add(whole), rest, V::zero()));
        slope.mul(V::load_first(dy.add(whole), rest, V::zero())).store_first(dx.add(whole), rest);
    }
}

struct PickValue(Isa);
impl functions::Visitor<(ValueBody, Params)> for PickValue {
    fn visit<F: Function>(self, params: Params) -> (ValueBody, Params) {
        (pick_value::<F>(self.0), params)
    }
}

struct PickGrad(Isa);
impl functions::Visitor<(GradBody, Params)> for PickGrad {
    fn visit<F: Function>(self, params: Params) -> (GradBody, Params) {
        (pick_grad::<F>(self.0), params)
    }
}

struct Unary {
    name: String,
    body: ValueBody,
    params: Params,
    len: usize,
}

/// `x[len] -> f(x)[len]`.
pub fn unary(isa: Isa, f: UnaryFn, len: usize) -> Box<dyn Kernel> {
    let (body, params) = functions::visit(f, PickValue(isa));
    Box::new(Unary { name: format!("{} {isa}", f.write()), body, params, len })
}

impl Kernel for Unary {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        let x = &io.input::<f32>(0)[share.clone()];
        // SAFETY: shares are disjoint; both slices have the share's length.
        unsafe {
            let y = io.output::<f32>(0).slice_mut(share);
            (self.body)(self.params, x.as_ptr(), y.as_mut_ptr(), y.len());
        }
    }
}

struct UnaryGrad {
    name: String,
    body: GradBody,
    params: Params,
    len: usize,
}

/// `x[len], dy[len] -> f'(x) dy`.
pub fn unary_grad(isa: Isa, f: UnaryFn, len: usize) -> Box<dyn Kernel> {
    let (body, params) = functions::visit(f, PickGrad(isa));
    Box::new(UnaryGrad { name: format!("{} gradient {isa}", f.write()), body, params, len })
}

impl Kernel for UnaryGrad {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        let (x, dy) = (&io.input::<f32>(0)[share.clone()], &io.input::<f32>(1)[share.clone()]);
        // SAFETY: shares are disjoint; all slices have the share's length.
        unsafe {
            let dx = io.output::<f32>(0).slice_mut(share);
            (self.body)(self.params, x.as_ptr(), dy.as_ptr(), dx.as_mut_ptr(), dx.len());
        }
    }
}

/// Operands, result, rows and columns, steps from row to row of the operands, and the clamp.
type BinaryBody = unsafe fn(*const f32, *const f32, *mut f32, [usize; 2], [usize; 2], [f32; 2]);

multiversion!(fn pick_binary<F: Function2; const A: usize, const B: usize>(
    a: *const f32, b: *const f32, y: *mut f32, size: [usize; 2], steps: [usize; 2], clamp: [f32; 2]
) = binary_body);

/// `y = clip(f(a, b))` over rows that are contiguous in `y`, and in `a` and `b` contiguous (1) or one element (0).
#[inline(always)]
unsafe fn binary_body<V: Lanes, F: Function2, const A: usize, const B: usize>(
    mut a: *const f32,
    mut b: *const f32,
    mut y: *mut f32,
    [rows, columns]: [usize; 2],
    steps: [usize; 2],
    [lo, hi]: [f32; 2],
) {
    let whole = columns / LANES * LANES;
    let rest = columns - whole;
    // SAFETY: the caller's rows are valid where steps and sizes reach.
    unsafe {
        for _ in 0..rows {
            for i in (0..whole).step_by(LANES) {
                let value = F::value(operand::<V, A>(a, i), operand::<V, B>(b, i));
                clip(value, lo, hi).store(y.add(i));
            }
            if rest > 0 {
                let value = F::value(last::<V, A>(a, whole, rest), last::<V, B>(b, whole, rest));
                clip(value, lo, hi).store_first(y.add(whole), rest);
            }
            (a, b, y) = (a.wrapping_add(steps[0]), b.wrapping_add(steps[1]), y.wrapping_add(columns));
        }
    }
}

#[inline(always)]
unsafe fn operand<V: Lanes, const STRIDE: usize>(p: *const f32, i: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe { if STRIDE == 0 { V::splat(*p) } else { V::load(p.add(i)) } }
}

#[inline(always)]
unsafe fn last<V: Lanes, const STRIDE: usize>(p: *const f32, i: usize, n: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe { if STRIDE == 0 { V::splat(*p) } else { V::load_first(p.add(i), n, V::zero()) } }
}

fn pick_strides<F: Function2>(isa: Isa, strides: [usize; 2]) -> BinaryBody {
    match strides {
        [0, _] => pick_binary::<F, 0, 1>(isa),
        [_, 0] => pick_binary::<F, 1, 0>(isa),
        _ => pick_binary::<F, 1, 1>(isa),
    }
}

struct Binary {
    name: String,
    body: BinaryBody,
    rows: Rows<2>,
    clamp: [f32; 2],
}

/// `a, b -> activation(f(a, b))`, broadcast as in NumPy from the physical shapes `a` and `b` to `out`.
///
/// # Panics
/// Where the shapes do not broadcast to `out`, or the activation does more than clamp.
pub fn binary(
    isa: Isa,
    f: BinaryFn,
    a: &[usize],
    b: &[usize],
    out: &[usize],
    activation: Activation,
) -> Box<dyn Kernel> {
    let (from_a, from_b) = (broadcast(a, out), broadcast(b, out));
    let rows = Rows::new((0..out.len()).map(|i| Axis { size: out[i], strides: [from_a[i], from_b[i]] }));
    assert_ne!(rows.column.strides, [0, 0], "{a:?} and {b:?} together do not broadcast to {out:?}");
    let pick = match f {
        BinaryFn::Add => pick_strides::<functions::Add>,
        BinaryFn::Sub => pick_strides::<functions::Sub>,
        BinaryFn::Mul => pick_strides::<functions::Mul>,
        BinaryFn::Div => pick_strides::<functions::Div>,
        BinaryFn::Max => pick_strides::<functions::Max>,
        BinaryFn::Min => pick_strides::<functions::Min>,
        BinaryFn::Pow => pick_strides::<functions::Pow>,
        BinaryFn::Step => pick_strides::<functions::Step>,
    };
    let name = format!("{}{} {isa}", f.write(), activation.suffix());
    let clamp = activation.bounds().expect("elementwise kernels apply nothing but clamps");
    Box::new(Binary { name, body: pick(isa, rows.column.strides), rows, clamp })
}

impl Kernel for Binary {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (a, b) = (io.input::<f32>(0), io.input::<f32>(1));
        let share = worker.share(self.rows.count());
        let mut position = share.start;
        while position < share.end {
            let piece = self.rows.piece(position, share.end);
            let (a, b) = (a[piece.at[0]..].as_ptr(), b[piece.at[1]..].as_ptr());
            let next = position + piece.rows * piece.columns;
            // SAFETY: the strides were derived from the shapes of the inputs; pieces of the output are disjoint.
            unsafe {
                let y = io.output::<f32>(0).slice_mut(position..next).as_mut_ptr();
                (self.body)(a, b, y, [piece.rows, piece.columns], self.rows.row.strides, self.clamp);
            }
            position = next;
        }
    }
}

struct Dropout {
    name: String,
    body: DropoutBody,
    p: f32,
    stream: usize,
    len: usize,
}

/// The random seed of a dropout from its `rng` input.
fn dropout_seed(seed: i32, step: i32) -> u64 {
    (u64::from(seed as u32) << 32) | u64::from(step as u32)
}

/// Seed, stream and index of the first element, probability, and the elements.
type DropoutBody = unsafe fn(u64, u64, usize, f32, &[f32], &mut [f32]);

multiversion!(fn pick_dropout(seed: u64, stream: u64, first: usize, p: f32, x: &[f32], y: &mut [f32]) = dropout_body);

/// Plain code, which the compiler vectorises as far as the instruction set multiplies 64-bit integers.
#[inline(always)]
unsafe fn dropout_body<V: Lanes>(seed: u64, stream: u64, first: usize, p: f32, x: &[f32], y: &mut [f32]) {
    let scale = 1.0 / (1.0 - p);
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let keep = random::uniform(seed, stream, (first + i) as u64) >= p;
        *y = if keep { x * scale } else { 0.0 };
    }
}

/// `x[len], rng i32[2] -> y[len]`: element `i` is zero where `random::uniform(rng, stream, i) < p`, else `x / (1 - p)`.
pub fn dropout(isa: Isa, p: f32, stream: usize, len: usize) -> Box<dyn Kernel> {
    Box::new(Dropout { name: format!("dropout {isa}"), body: pick_dropout(isa), p, stream, len })
}

impl Kernel for Dropout {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let rng = io.input::<i32>(1);
        let seed = dropout_seed(rng[0], rng[1]);
        let share = worker.share(self.len);
        let x = &io.input::<f32>(0)[share.clone()];
        // SAFETY: shares are disjoint; the body asks for nothing but its instruction set.
        unsafe {
            let y = io.output::<f32>(0).slice_mut(share.clone());
            (self.body)(seed, self.stream as u64, share.start, self.p, x, y);
        }
    }
}

struct Fill {
    value: f32,
    len: usize,
}

/// `-> y[len]`, all `value`.
pub fn fill(_isa: Isa, value: f32, len: usize) -> Box<dyn Kernel> {
    Box::new(Fill { value, len })
}

impl Kernel for Fill {
    fn name(&self) -> String {
        "fill".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        // SAFETY: shares are disjoint.
        unsafe { io.output::<f32>(0).slice_mut(worker.share(self.len)) }.fill(self.value);
    }
}

struct FloatToInt {
    len: usize,
}

/// `x f32[len] -> y i32[len]`: toward zero, saturating; NaN becomes 0.
pub fn cast_f32_to_i32(_isa: Isa, len: usize) -> Box<dyn Kernel> {
    Box::new(FloatToInt { len })
}

impl Kernel for FloatToInt {
    fn name(&self) -> String {
        "cast f32 to i32".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        // SAFETY: shares are disjoint.
        let y = unsafe { io.output::<i32>(0).slice_mut(share.clone()) };
        y.iter_mut().zip(&io.input::<f32>(0)[share]).for_each(|(y, x)| *y = *x as i32);
    }
}

struct IntToFloat {
    len: usize,
}

/// `x i32[len] -> y f32[len]`, to the nearest.
pub fn cast_i32_to_f32(_isa: Isa, len: usize) -> Box<dyn Kernel> {
    Box::new(IntToFloat { len })
}

impl Kernel for IntToFloat {
    fn name(&self) -> String {
        "cast i32 to f32".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        // SAFETY: shares are disjoint.
        let y = unsafe { io.output::<f32>(0).slice_mut(share.clone()) };
        y.iter_mut().zip(&io.input::<i32>(0)[share]).for_each(|(y, x)| *y = *x as f32);
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let x = |i: usize| inputs[0].data[i];
    let y: Box<dyn Fn(usize) -> f64> = match op {
        Op::Unary { f } => Box::new(|i| f.value(x(i))),
        Op::UnaryGrad { f } => Box::new(|i| unary_derivative(*f, x(i)) * inputs[1].data[i]),
        Op::Binary { f } => Box::new(|i| binary_reference(*f, inputs, &outputs[0], i)),
        Op::Dropout { p, stream } => {
            let seed = dropout_seed(inputs[1].data[0] as i32, inputs[1].data[1] as i32);
            let keep = move |i| random::uniform(seed, *stream as u64, i as u64) >= *p;
            Box::new(move |i| if keep(i) { x(i) / (1.0 - f64::from(*p)) } else { 0.0 })
        }
        Op::Fill { value, .. } => Box::new(|_| f64::from(*value)),
        Op::Cast { to: DType::I32 } => Box::new(|i| f64::from(x(i) as i32)),
        Op::Cast { .. } => Box::new(x),
        _ => unreachable!("{} is not of this family", op.name()),
    };
    vec![RefTensor::from_fn(&outputs[0], y)]
}

fn binary_reference(f: BinaryFn, inputs: &[&RefTensor], out: &[usize], index: usize) -> f64 {
    let [a, b] = [0, 1].map(|k| {
        let strides = broadcast(&inputs[k].shape, out);
        let axes: Vec<Axis<1>> =
            out.iter().zip(strides).map(|(&size, stride)| Axis { size, strides: [stride] }).collect();
        inputs[k].data[crate::strided::offsets(&axes, index)[0]]
    });
    f.value(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::tests::exact;
    use crate::functions::tests::FUNCTIONS;
    use crate::testing::{Input, Out, assert_close, run, values};
    use espalier_graph::Shape;

    const EXTREMES: [f32; 20] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        3.0,
        -3.0,
        6.0,
        88.0,
        -88.0,
        104.0,
        -104.0,
        1e30,
        -1e30,
        1e-30,
        1e-40,
        -1e-40,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];

    fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
        RefTensor::new(shape, data.iter().map(|&v| f64::from(v)).collect())
    }

    /// The reference's values in f32's range, where a kernel gives infinity too.
    fn one(op: &Op, inputs: &[&RefTensor], out: &[usize]) -> Vec<f64> {
        let y = reference(op, inputs, &[out.to_vec()]).remove(0);
        y.data.iter().map(|&v| if v.abs() > f64::from(f32::MAX) { f64::from(v as f32) } else { v }).collect()
    }

    fn check_unary(f: UnaryFn, x: &[f32], tolerance: f64) {
        let dy = values(2, x.len());
        let shape = [x.len()];
        let (rx, rdy) = (tensor(&shape, x), tensor(&shape, &dy));
        let want = one(&Op::Unary { f }, &[&rx], &shape);
        let want_dx = one(&Op::UnaryGrad { f }, &[&rx, &rdy], &shape);
        for isa in Isa::available() {
            let kernel = unary(isa, f, x.len());
            let y = run(&*kernel, &[Input::F32(x)], &[Out::Len(x.len())]);
            assert_close(&kernel.name(), &y[0], &want, tolerance);
            let kernel = unary_grad(isa, f, x.len());
            let dx = run(&*kernel, &[Input::F32(x), Input::F32(&dy)], &[Out::Len(x.len())]);
            for (i, x) in x.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
                assert_close(&format!("{} at {x}", kernel.name()), &dx[0][i..=i], &want_dx[i..=i], tolerance);
            }
        }
    }

    #[test]
    fn unary_matches_reference() {
        for f in FUNCTIONS {
            check_unary(f, &EXTREMES, 1e-6);
            for len in [0, 1, 15, 16, 17, 333] {
                let x: Vec<f32> = values(1, len).iter().map(|v| v * 9.0).collect();
                check_unary(f, &x, 1e-6);
            }
        }
    }

    const BINARY: [BinaryFn; 8] = [
        BinaryFn::Add,
        BinaryFn::Sub,
        BinaryFn::Mul,
        BinaryFn::Div,
        BinaryFn::Max,
        BinaryFn::Min,
        BinaryFn::Pow,
        BinaryFn::Step,
    ];

    fn check_binary(f: BinaryFn, shapes: [&[usize]; 3], data: [&[f32]; 2], activation: Activation) {
        let [a, b, out] = shapes;
        let (ra, rb) = (tensor(a, data[0]), tensor(b, data[1]));
        let want = one(&Op::Binary { f }, &[&ra, &rb], out);
        let want: Vec<f64> = want.iter().map(|&v| exact(activation, v)).collect();
        for isa in Isa::available() {
            let kernel = binary(isa, f, a, b, out, activation);
            let len = out.iter().product();
            let y = run(&*kernel, &[Input::F32(data[0]), Input::F32(data[1])], &[Out::Len(len)]);
            assert_close(&format!("{} {a:?} {b:?}", kernel.name()), &y[0], &want, 1e-6);
        }
    }

    #[test]
    fn binary_matches_reference() {
        let cases: [[&[usize]; 3]; 13] = [
            [&[37], &[37], &[37]],
            [&[2, 3, 5, 7], &[2, 3, 5, 7], &[2, 3, 5, 7]],
            [&[2, 3, 5, 7], &[3, 1, 1], &[2, 3, 5, 7]],
            [&[2, 3, 5, 7], &[2, 3, 1, 1], &[2, 3, 5, 7]],
            [&[2, 3, 5, 7], &[7], &[2, 3, 5, 7]],
            [&[40], &[6, 40], &[6, 40]],
            [&[6, 40], &[6, 1], &[6, 40]],
            [&[2, 2, 3, 3, 16], &[2, 2, 1, 1, 16], &[2, 2, 3, 3, 16]],
            [&[2, 1, 1, 16], &[2, 2, 3, 3, 16], &[2, 2, 3, 3, 16]],
            [&[5, 1], &[1, 4], &[5, 4]],
            [&[], &[3, 33], &[3, 33]],
            [&[], &[], &[]],
            [&[0, 4], &[4], &[0, 4]],
        ];
        for [a, b, out] in cases {
            let (va, vb) = (values(1, a.iter().product()), values(2, b.iter().product()));
            for f in BINARY {
                let va: Vec<f32> = va.iter().map(|v| if f == BinaryFn::Pow { v.abs() } else { *v }).collect();
                check_binary(f, [a, b, out], [&va, &vb], Activation::Identity);
                check_binary(f, [a, b, out], [&va, &vb], Activation::Clip([-0.25, 0.5]));
            }
        }
    }

    #[test]
    fn binary_extremes() {
        let pairs: Vec<(f32, f32)> = EXTREMES.iter().flat_map(|&a| EXTREMES.map(|b| (a, b))).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let shape: &[usize] = &[a.len()];
        for f in BINARY {
            check_binary(f, [shape; 3], [&a, &b], Activation::Identity);
        }
    }

    #[test]
    fn dropout_matches_reference() {
        for (p, len, rng) in
            [(0.0, 33, [1, 2]), (0.3, 5000, [7, 1000]), (0.5, 17, [-1, 3]), (1.0, 20, [0, 0])]
        {
            let x = values(1, len);
            let op = Op::Dropout { p, stream: 4 };
            let want = one(&op, &[&tensor(&[len], &x), &tensor(&[2], &rng.map(|v| v as f32))], &[len]);
            for isa in Isa::available() {
                let kernel = dropout(isa, p, 4, len);
                let y = run(&*kernel, &[Input::F32(&x), Input::I32(&rng)], &[Out::Len(len)]);
                assert_close(&kernel.name(), &y[0], &want, 1e-6);
            }
            let dropped = want.iter().filter(|v| **v == 0.0).count() as f32;
            assert!(len < 100 || (dropped / len as f32 - p).abs() < 0.03, "{dropped} of {len} dropped");
        }
    }

    #[test]
    fn fill_and_casts() {
        let floats = [0.0, -0.9, 1.5, -2.5, 1e10, -1e10, f32::NAN, 16_777_216.0];
        let ints = [0, -1, 7, i32::MAX, i32::MIN, 16_777_217];
        let to_int = one(&Op::Cast { to: DType::I32 }, &[&tensor(&[8], &floats)], &[8]);
        for isa in Isa::available() {
            let y = run(&*fill(isa, 1.25, 19), &[], &[Out::Len(19)]);
            let op = Op::Fill { shape: Shape::known(&[19]), value: 1.25 };
            assert_close("fill", &y[0], &one(&op, &[], &[19]), 0.0);
            let y = run(&*cast_f32_to_i32(isa, 8), &[Input::F32(&floats)], &[Out::Len(8)]);
            let got: Vec<f64> = y[0].iter().map(|v| f64::from(v.to_bits() as i32)).collect();
            assert_eq!(got, to_int);
            let y = run(&*cast_i32_to_f32(isa, 6), &[Input::I32(&ints)], &[Out::Len(6)]);
            assert_eq!(y[0], ints.map(|v| v as f32));
        }
    }
}
