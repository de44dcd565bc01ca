//! The naive reference of the ops of integers. A quantized tensor holds its bytes, and says what they stand for.

use espalier_graph::{DType, Op, Quant, Window};

use crate::reference::RefTensor;

pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let shape = &outputs[0];
    let y = match op {
        Op::Quantize { to } => {
            RefTensor::from_fn(shape, |i| f64::from(to.quantize(inputs[0].data[i] as f32))).quantized(*to)
        }
        Op::Dequantize => {
            let quant = quant(inputs[0]);
            RefTensor::from_fn(shape, |i| f64::from(quant.dequantize(inputs[0].data[i] as u8)))
        }
        Op::QConv { window, groups, to, limits } => conv(window, *groups, *to, *limits, inputs, shape),
        Op::QAdd { to, limits } => {
            let [a, b] = [0, 1].map(|i| Step::new(inputs[i], *to));
            let offset = f32::from(to.zero()) - (a.scale * a.zero + b.scale * b.zero);
            let sum = |p: u8, q: u8| f32::from(p).mul_add(a.scale, f32::from(q).mul_add(b.scale, offset));
            pairs(inputs, shape, *to, *limits, sum)
        }
        Op::QMul { to, limits } => {
            let [a, b] = [0, 1].map(|i| quant(inputs[i]));
            let scale = to.steps(&[a.scale(), b.scale()]);
            let from = |q: u8, zero: u8| f32::from(q) - f32::from(zero);
            let product = |p: u8, q: u8| from(p, a.zero()) * from(q, b.zero());
            pairs(inputs, shape, *to, *limits, |p, q| product(p, q) * scale + f32::from(to.zero()))
        }
        Op::QAvgPool { window, count_pad, to } => avg_pool(window, *count_pad, *to, inputs[0], shape),
        Op::Table { to } => {
            let entry = |i: usize| inputs[1].data[inputs[0].data[i] as usize];
            RefTensor::from_fn(shape, entry).quantized(*to)
        }
        _ => unreachable!("{} is not of integers", op.name()),
    };
    vec![y]
}

fn quant(x: &RefTensor) -> Quant {
    x.quant.expect("inference checked that it is quantized")
}

fn limited(v: f32, [lo, hi]: [u8; 2]) -> f64 {
    f64::from(v.round_ties_even().clamp(f32::from(lo), f32::from(hi)))
}

/// What the bytes of a tensor are in units of another.
struct Step {
    zero: f32,
    scale: f32,
}

impl Step {
    fn new(x: &RefTensor, to: Quant) -> Step {
        Step { zero: f32::from(quant(x).zero()), scale: to.steps(&[quant(x).scale()]) }
    }

    /// `v` and what `q` stands for.
    fn add(&self, q: u8, v: f32) -> f32 {
        (f32::from(q) - self.zero).mul_add(self.scale, v)
    }
}

/// Element by element; a second operand with one pixel for each channel serves all of them.
fn pairs(
    inputs: &[&RefTensor],
    shape: &[usize],
    to: Quant,
    limits: [u8; 2],
    f: impl Fn(u8, u8) -> f32,
) -> RefTensor {
    let each = inputs[0].data.len() / inputs[1].data.len().max(1);
    let at = |i: usize| limited(f(inputs[0].data[i] as u8, inputs[1].data[i / each] as u8), limits);
    RefTensor::from_fn(shape, at).quantized(to)
}

fn conv(
    window: &Window,
    groups: usize,
    to: DType,
    limits: [u8; 2],
    inputs: &[&RefTensor],
    shape: &[usize],
) -> RefTensor {
    let [x, w, scale, bias] = [0, 1, 2, 3].map(|i| inputs[i]);
    // The sums, but for their bias, are those of a convolution of whole numbers, which f64 holds exactly.
    let centred = RefTensor::from_fn(&x.shape, |i| x.data[i] - f64::from(quant(x).zero()));
    let op = Op::Conv { window: *window, groups };
    let sums = crate::conv::reference(&op, &[&centred, w], &[shape.to_vec()]).remove(0);
    let residual = inputs.get(4).map(|r| (r, Step::new(r, to.quant().expect("a residual joins bytes"))));
    let (channels, pixels) = (shape[1], shape[2..].iter().product::<usize>());
    let value = |i: usize| {
        let o = i / pixels % channels;
        let unit = scale.data[o] as f32 * quant(x).scale();
        let sum = (sums.data[i] + bias.data[o]) as i64 as i32;
        let v = sum as f32 * to.quant().map_or(unit, |to| unit / to.scale());
        residual.as_ref().map_or(v, |(r, step)| step.add(r.data[i] as u8, v))
    };
    match to.quant() {
        Some(q) => {
            let byte = |i| limited(value(i).round_ties_even() + f32::from(q.zero()), limits);
            RefTensor::from_fn(shape, byte).quantized(q)
        }
        None => RefTensor::from_fn(shape, |i| f64::from(value(i))),
    }
}

fn avg_pool(window: &Window, count_pad: bool, to: Quant, x: &RefTensor, shape: &[usize]) -> RefTensor {
    let (zero, whole) = (f64::from(quant(x).zero()), window.kernel[0] * window.kernel[1]);
    let centred = RefTensor::from_fn(&x.shape, |i| x.data[i] - zero);
    let mean = |x: &RefTensor| {
        let op = Op::AvgPool { window: *window, count_pad: true };
        crate::pool::reference(&op, &[x], &[shape.to_vec()]).remove(0)
    };
    // With padding counted, the mean of ones is the share of the window that lies on the picture.
    let (sums, share) = (mean(&centred), mean(&RefTensor::from_fn(&x.shape, |_| 1.0)));
    let scale = to.steps(&[quant(x).scale()]);
    let value = |i: usize| {
        let whole = whole as f64;
        let count = if count_pad { whole } else { (share.data[i] * whole).round().max(1.0) };
        let sum = (sums.data[i] * whole).round() as f32;
        limited(sum.mul_add(scale / count as f32, f32::from(to.zero())), [0, 255])
    };
    RefTensor::from_fn(shape, value).quantized(to)
}
