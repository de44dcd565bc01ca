//! Arithmetic of constants, broadcast as in NumPy. Sizes may hold the batch N; what would depend on its value is refused.

use super::{Call, Coordinates, Folded, broadcast, broadcast_strides, position};
use crate::import::constant::{Constant, Elements, Int};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::shapes;
use crate::proto::data;

pub(super) fn cast(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let to = match call.node.op.as_str() {
        "CastLike" => call.input(1)?.elements.take(std::iter::empty()),
        _ => of_type(call.node.int("to")?.ok_or_else(|| malformed("lacks its type"))?)?,
    };
    call.pay(&to, &c.shape)?;
    let elements = match (&c.elements, &to) {
        (Elements::Floats(v), Elements::Floats(_)) => Elements::Floats(v.clone()),
        (Elements::Floats(v), Elements::Ints(_)) => {
            Elements::Ints(v.iter().map(|&v| Int::Known(v as i64)).collect())
        }
        (Elements::Floats(v), Elements::Bools(_)) => Elements::Bools(v.iter().map(|&v| v != 0.0).collect()),
        (Elements::Ints(_), Elements::Floats(_)) => {
            Elements::Floats(c.known_ints()?.into_iter().map(|v| v as f32).collect())
        }
        (Elements::Ints(v), Elements::Ints(_)) => Elements::Ints(v.clone()),
        (Elements::Ints(_), Elements::Bools(_)) => {
            Elements::Bools(c.known_ints()?.into_iter().map(|v| v != 0).collect())
        }
        (Elements::Bools(v), Elements::Floats(_)) => {
            Elements::Floats(v.iter().map(|&v| f32::from(u8::from(v))).collect())
        }
        (Elements::Bools(v), Elements::Ints(_)) => {
            Elements::Ints(v.iter().map(|&v| Int::Known(v.into())).collect())
        }
        (Elements::Bools(v), Elements::Bools(_)) => Elements::Bools(v.clone()),
        (Elements::I8(_) | Elements::U8(_), _) | (_, Elements::I8(_) | Elements::U8(_)) => {
            unreachable!("`fold` widened the inputs, and no type is read as bytes")
        }
    };
    Ok(vec![Constant { elements, ..Constant::clone(c) }])
}

/// An empty list of what ONNX's type `code` is read as.
pub(crate) fn of_type(code: i64) -> Result<Elements, Fault> {
    let code = i32::try_from(code).map_err(|_| malformed(format!("has the element type {code}")))?;
    match code {
        data::FLOAT | data::FLOAT16 | data::BFLOAT16 | data::DOUBLE => Ok(Elements::Floats(Vec::new())),
        data::BOOL => Ok(Elements::Bools(Vec::new())),
        data::INT64 | data::INT32 | data::UINT32 | data::INT16 | data::UINT16 | data::INT8 | data::UINT8 => {
            Ok(Elements::Ints(Vec::new()))
        }
        other => Err(unsupported(format!("elements of {}", data::name(other)))),
    }
}

pub(super) fn choose(call: &mut Call<'_>) -> Folded {
    let (condition, a, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if std::mem::discriminant(&a.elements) != std::mem::discriminant(&b.elements) {
        return Err(malformed("chooses between tensors of two types"));
    }
    let shape = broadcast(&broadcast(&condition.shape, &a.shape)?, &b.shape)?;
    call.pay(&a.elements, &shape)?;
    let [along, along_a, along_b] = [condition, a, b].map(|c| broadcast_strides(&c.shape, shape.len()));
    let truths = condition.as_bools()?;
    // Both lists one after the other, so that a position says which.
    let mut both = a.elements.clone();
    match (&mut both, &b.elements) {
        (Elements::Floats(both), Elements::Floats(b)) => both.extend_from_slice(b),
        (Elements::Ints(both), Elements::Ints(b)) => both.extend_from_slice(b),
        (Elements::Bools(both), Elements::Bools(b)) => both.extend_from_slice(b),
        _ => unreachable!("the types were compared"),
    }
    let elements = both.take(Coordinates::new(&shape).map(|at| match truths[position(&at, &along)] {
        true => position(&at, &along_a),
        false => a.elements.len() + position(&at, &along_b),
    }));
    Ok(vec![Constant::new(shape, elements)])
}

pub(super) fn not(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    call.pay(&c.elements, &c.shape)?;
    let elements = Elements::Bools(c.as_bools()?.iter().map(|v| !v).collect());
    Ok(vec![Constant::new(c.shape.clone(), elements)])
}

pub(super) fn unary(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    call.pay(&c.elements, &c.shape)?;
    let op = call.node.op.as_str();
    let elements = match &c.elements {
        Elements::Floats(v) => {
            let f = float_function(op);
            Elements::Floats(v.iter().map(|&v| f(v)).collect())
        }
        Elements::Ints(_) => {
            let f: fn(i64) -> Option<i64> = match op {
                "Neg" => i64::checked_neg,
                "Abs" => i64::checked_abs,
                "Floor" | "Ceil" | "Round" => Some,
                "Relu" => |v| Some(v.max(0)),
                _ => return Err(malformed("takes no integers")),
            };
            let v = c.known_ints()?.into_iter().map(|v| f(v).map(Int::Known).ok_or_else(overflow));
            Elements::Ints(v.collect::<Result<_, _>>()?)
        }
        _ => return Err(malformed("takes no truth values")),
    };
    Ok(vec![Constant::new(c.shape.clone(), elements)])
}

fn float_function(op: &str) -> fn(f32) -> f32 {
    match op {
        "Neg" => |v| -v,
        "Abs" => f32::abs,
        "Floor" => f32::floor,
        "Ceil" => f32::ceil,
        "Round" => f32::round_ties_even,
        "Sqrt" => f32::sqrt,
        "Exp" => f32::exp,
        "Log" => f32::ln,
        "Sin" => f32::sin,
        "Cos" => f32::cos,
        "Tanh" => f32::tanh,
        "Sigmoid" => |v| 1.0 / (1.0 + (-v).exp()),
        "Relu" => |v| v.max(0.0),
        "Reciprocal" => |v| 1.0 / v,
        other => unreachable!("`fold` sends no {other} here"),
    }
}

fn overflow() -> Fault {
    malformed("computes an integer that is out of range")
}

fn undecided() -> Fault {
    unsupported("a number that depends on the batch size in another way than as a factor")
}

/// Max and Min take any number of inputs, the others two.
pub(super) fn binary(call: &mut Call<'_>) -> Folded {
    let mut result = call.input(0)?.as_ref().clone();
    for at in 1..call.inputs.len() {
        let other = call.input(at)?.clone();
        result = pairwise(call, &call.node.op, &result, &other)?;
    }
    Ok(vec![Constant::new(result.shape, result.elements)])
}

/// Limits stand in attributes before opset 11.
pub(super) fn clip(call: &mut Call<'_>) -> Folded {
    let mut result = call.input(0)?.as_ref().clone();
    for (op, limit, at) in [("Max", "min", 1), ("Min", "max", 2)] {
        let limit = match call.node.float(limit)? {
            Some(v) => Some(Constant::floats(vec![], vec![v])),
            None => call.optional(at).map(|c| c.as_ref().clone()),
        };
        if let Some(limit) = limit {
            result = pairwise(call, op, &result, &limit)?;
        }
    }
    Ok(vec![Constant::new(result.shape, result.elements)])
}

fn pairwise(call: &mut Call<'_>, op: &str, a: &Constant, b: &Constant) -> Result<Constant, Fault> {
    let shape = broadcast(&a.shape, &b.shape)?;
    call.pay(&a.elements, &shape)?;
    let [along_a, along_b] = [a, b].map(|c| broadcast_strides(&c.shape, shape.len()));
    let pairs = Coordinates::new(&shape).map(|at| (position(&at, &along_a), position(&at, &along_b)));
    let elements = match (&a.elements, &b.elements) {
        (Elements::Floats(a), Elements::Floats(b)) => {
            let whole = call.node.int_or("fmod", 0)? == 0;
            Elements::Floats(pairs.map(|(i, j)| float_result(op, a[i], b[j], whole)).collect())
        }
        (Elements::Ints(a), Elements::Ints(b)) => {
            let result = pairs.map(|(i, j)| int_result(op, a[i], b[j]));
            Elements::Ints(result.collect::<Result<_, _>>()?)
        }
        (Elements::Floats(a), Elements::Ints(_)) if op == "Pow" => {
            let b = b.known_ints()?;
            Elements::Floats(pairs.map(|(i, j)| a[i].powf(b[j] as f32)).collect())
        }
        _ => return Err(malformed("takes two tensors of one type, of floats or integers")),
    };
    Ok(Constant::new(shape, elements))
}

fn float_result(op: &str, a: f32, b: f32, python: bool) -> f32 {
    match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Pow" => a.powf(b),
        "Max" => a.max(b),
        "Min" => a.min(b),
        "Mod" if python => a - b * (a / b).floor(),
        "Mod" => a % b,
        other => unreachable!("`fold` sends no {other} here"),
    }
}

fn int_result(op: &str, a: Int, b: Int) -> Result<Int, Fault> {
    let symbolic = match op {
        "Add" => a.add(b),
        "Sub" => a.sub(b),
        "Mul" => a.mul(b),
        "Div" => a.div(b),
        "Max" | "Min" if a == b => Some(a),
        // A batch is at least 1.
        "Max" if matches!(b, Int::Known(v) if v <= 1) && a.known().is_none() => Some(a),
        "Max" if matches!(a, Int::Known(v) if v <= 1) && b.known().is_none() => Some(b),
        _ => None,
    };
    if let Some(result) = symbolic {
        return Ok(result);
    }
    let (Some(a), Some(b)) = (a.known(), b.known()) else { return Err(undecided()) };
    let result = match op {
        "Max" => Some(a.max(b)),
        "Min" => Some(a.min(b)),
        // The sign follows the divisor, as in Python.
        "Mod" => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        "Pow" => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        _ => None,
    };
    result.map(Int::Known).ok_or_else(overflow)
}

pub(super) fn compare(call: &mut Call<'_>) -> Folded {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let shape = broadcast(&a.shape, &b.shape)?;
    call.pay(&a.elements, &shape)?;
    let [along_a, along_b] = [a, b].map(|c| broadcast_strides(&c.shape, shape.len()));
    let op = call.node.op.as_str();
    let truth = |at: Vec<usize>| {
        let (i, j) = (position(&at, &along_a), position(&at, &along_b));
        match (&a.elements, &b.elements) {
            (Elements::Floats(a), Elements::Floats(b)) => Ok(holds(op, a[i].partial_cmp(&b[j]))),
            (Elements::Bools(a), Elements::Bools(b)) => Ok(holds(op, a[i].partial_cmp(&b[j]))),
            (Elements::Ints(a), Elements::Ints(b)) => {
                int_order(a[i], b[j]).map(|order| holds(op, Some(order)))
            }
            _ => Err(malformed("compares tensors of two types")),
        }
    };
    let truths = Coordinates::new(&shape).map(truth).collect::<Result<_, _>>()?;
    Ok(vec![Constant::new(shape, Elements::Bools(truths))])
}

/// Sizes with N are at least 1.
fn int_order(a: Int, b: Int) -> Result<std::cmp::Ordering, Fault> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match (a, b) {
        (Int::Known(a), Int::Known(b)) => Ok(a.cmp(&b)),
        (a, b) if a == b => Ok(Equal),
        (Int::Size(_), Int::Known(v)) if v < 1 => Ok(Greater),
        (Int::Known(v), Int::Size(_)) if v < 1 => Ok(Less),
        _ => Err(undecided()),
    }
}

fn holds(op: &str, order: Option<std::cmp::Ordering>) -> bool {
    let Some(order) = order else { return false };
    match op {
        "Equal" => order.is_eq(),
        "Less" => order.is_lt(),
        "Greater" => order.is_gt(),
        "LessOrEqual" => order.is_le(),
        "GreaterOrEqual" => order.is_ge(),
        other => unreachable!("`fold` sends no {other} here"),
    }
}

pub(super) fn logic(call: &mut Call<'_>) -> Folded {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let shape = broadcast(&a.shape, &b.shape)?;
    call.pay(&a.elements, &shape)?;
    let [along_a, along_b] = [a, b].map(|c| broadcast_strides(&c.shape, shape.len()));
    let (a, b) = (a.as_bools()?, b.as_bools()?);
    let f: fn(bool, bool) -> bool = match call.node.op.as_str() {
        "And" => |a, b| a & b,
        "Or" => |a, b| a | b,
        _ => |a, b| a ^ b,
    };
    let truths = Coordinates::new(&shape).map(|at| f(a[position(&at, &along_a)], b[position(&at, &along_b)]));
    let elements = Elements::Bools(truths.collect());
    Ok(vec![Constant::new(shape, elements)])
}

pub(super) fn reduce(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let rank = c.shape.len();
    let list = call.list("axes", 1)?.unwrap_or_default();
    let keep = call.node.flag("keepdims", true)?;
    if list.is_empty() && call.node.flag("noop_with_empty_axes", false)? {
        return Ok(vec![Constant::clone(c)]);
    }
    let axes = if list.is_empty() { (0..rank).collect() } else { shapes::axes(&list, rank)? };
    let kept: Vec<usize> = (0..rank).map(|a| if axes.contains(&a) { 1 } else { c.shape[a] }).collect();
    call.pay(&c.elements, &kept)?;
    let along = broadcast_strides(&kept, rank);
    let count: usize = kept.iter().product();
    let op = call.node.op.as_str();
    let elements = match &c.elements {
        Elements::Floats(v) => {
            let mut sums = vec![float_start(op); count];
            for (at, &v) in Coordinates::new(&c.shape).zip(v) {
                let sum = &mut sums[position(&at, &along)];
                *sum = float_step(op, *sum, v.into());
            }
            let divisor = if op == "ReduceMean" { (v.len() / count.max(1)) as f64 } else { 1.0 };
            Elements::Floats(sums.into_iter().map(|sum| (sum / divisor) as f32).collect())
        }
        Elements::Ints(v) => {
            let mut sums: Vec<Option<Int>> = vec![None; count];
            for (at, &v) in Coordinates::new(&c.shape).zip(v) {
                let sum = &mut sums[position(&at, &along)];
                *sum = Some(sum.map_or(Ok(v), |sum| int_result(pairwise_name(op)?, sum, v))?);
            }
            let empty = Int::Known(i64::from(op == "ReduceProd"));
            Elements::Ints(sums.into_iter().map(|sum| sum.unwrap_or(empty)).collect())
        }
        _ => return Err(malformed("takes no truth values")),
    };
    let shape =
        if keep { kept } else { (0..rank).filter(|a| !axes.contains(a)).map(|a| c.shape[a]).collect() };
    Ok(vec![Constant::new(shape, elements)])
}

fn float_start(op: &str) -> f64 {
    match op {
        "ReduceProd" => 1.0,
        "ReduceMax" => f64::NEG_INFINITY,
        "ReduceMin" => f64::INFINITY,
        _ => 0.0,
    }
}

fn float_step(op: &str, sum: f64, v: f64) -> f64 {
    match op {
        "ReduceProd" => sum * v,
        "ReduceMax" => sum.max(v),
        "ReduceMin" => sum.min(v),
        _ => sum + v,
    }
}

fn pairwise_name(op: &str) -> Result<&'static str, Fault> {
    match op {
        "ReduceProd" => Ok("Mul"),
        "ReduceSum" => Ok("Add"),
        "ReduceMax" => Ok("Max"),
        "ReduceMin" => Ok("Min"),
        _ => Err(unsupported("the mean of integers")),
    }
}
