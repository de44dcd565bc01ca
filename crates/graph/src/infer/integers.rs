//! The ops of integers.

use super::{Inferred, convolved, count, floats, one, pool, same};
use crate::op::{Op, Window};
use crate::types::{DType, Dim, Quant, Shape, TensorType};

/// As [`infer`](super::infer), for the ops of integers.
pub(super) fn infer(op: &Op, inputs: &[&TensorType]) -> Inferred {
    match op {
        Op::Quantize { to } => one(TensorType::q8(*to, floats::<1>(inputs)?[0].shape.clone())),
        Op::Dequantize => one(TensorType::f32(quantized::<1>(inputs)?[0].shape.clone())),
        Op::QConv { window, groups, to, limits } => conv(window, *groups, *to, *limits, inputs),
        Op::QAdd { to, limits } => {
            let [a, b] = quantized(inputs)?;
            if a.shape != b.shape {
                return Err(format!("{} and {} are of different shapes", a.shape, b.shape));
            }
            limited(*to, *limits, a)
        }
        Op::QMul { to, limits } => {
            let [a, b] = quantized(inputs)?;
            if a.shape != b.shape && !is_gate(&b.shape, &a.shape) {
                let (a, b) = (&a.shape, &b.shape);
                return Err(format!("b is {b}, it should be {a} or have 1 pixel for each of its channels"));
            }
            limited(*to, *limits, a)
        }
        Op::QAvgPool { window, to, .. } => {
            let pooled = pool(window, quantized(inputs)?)?;
            Ok(pooled.into_iter().map(|y| TensorType::q8(*to, y.shape)).collect())
        }
        Op::Table { to } => {
            let [x, table] = count(inputs)?;
            quantized::<1>(&[x])?;
            same("the table", table, &TensorType { dtype: DType::U8, shape: Shape::known(&[256]) })?;
            one(TensorType::q8(*to, x.shape.clone()))
        }
        _ => unreachable!("{} is not of integers", op.name()),
    }
}

/// Inputs that are all bytes that stand for numbers.
fn quantized<'a, const K: usize>(inputs: &[&'a TensorType]) -> Result<[&'a TensorType; K], String> {
    let all = count::<K>(inputs)?;
    match all.iter().find(|ty| ty.dtype.quant().is_none()) {
        Some(ty) => Err(format!("takes q8 here, got {}", ty.dtype)),
        None => Ok(all),
    }
}

fn ordered([lo, hi]: [u8; 2]) -> Result<(), String> {
    if lo <= hi { Ok(()) } else { Err(format!("the limits are {lo} and {hi}")) }
}

/// Bytes of the shape of `x` within limits.
fn limited(to: Quant, limits: [u8; 2], x: &TensorType) -> Inferred {
    ordered(limits)?;
    one(TensorType::q8(to, x.shape.clone()))
}

/// Whether `gate` is `[N,C,1,1]` of the picture `x`.
fn is_gate(gate: &Shape, x: &Shape) -> bool {
    let one = Dim::from(1);
    x.rank() == 4 && matches!(gate.0[..], [n, c, h, w] if [n, c, h, w] == [x.0[0], x.0[1], one, one])
}

/// A sum of one product more could leave i32: each is up to 255 * 128.
const MAX_PRODUCTS: usize = i32::MAX as usize / (255 * 128);

fn conv(window: &Window, groups: usize, to: DType, limits: [u8; 2], inputs: &[&TensorType]) -> Inferred {
    let (&[x, w, scale, bias], residual) = inputs
        .split_first_chunk::<4>()
        .ok_or_else(|| format!("takes 4 or 5 inputs, got {}", inputs.len()))?;
    quantized::<1>(&[x])?;
    if w.dtype != DType::S8 {
        return Err(format!("the weight is {}, it should be s8", w.dtype));
    }
    let (y, per_channel) = convolved(window, groups, x, w)?;
    let sizes = w.shape.0[1..].iter().map(|dim| dim.factor);
    let products = sizes.fold(1, usize::saturating_mul);
    if products > MAX_PRODUCTS {
        return Err(format!("a sum of {products} products may leave i32, at most {MAX_PRODUCTS} are safe"));
    }
    same("the scale", scale, &per_channel)?;
    same("the bias", bias, &TensorType { dtype: DType::I32, ..per_channel })?;
    match (to, residual) {
        (DType::F32 | DType::Q8(_), []) => {}
        (DType::Q8(_), &[r]) => {
            quantized::<1>(&[r])?;
            let like = TensorType { dtype: r.dtype, ..y.clone() };
            same("the residual (its quantization apart)", r, &like)?;
        }
        (DType::F32, [_]) => return Err("a residual joins a quantized result only".into()),
        (DType::F32 | DType::Q8(_), _) => return Err(format!("takes 4 or 5 inputs, got {}", inputs.len())),
        _ => return Err(format!("gives q8 or f32, not {to}")),
    }
    ordered(limits)?;
    if to == DType::F32 && limits != [0, 255] {
        return Err(format!("limits {limits:?} of an f32 result"));
    }
    one(TensorType { dtype: to, ..y })
}
