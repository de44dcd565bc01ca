//! Elementwise arithmetic. A number among the operands goes into the function itself, so that nothing is broadcast.

use std::rc::Rc;

use espalier_graph::{BinaryFn, DType, Dim, Op, Shape, UnaryFn, ValueId};

use super::activation::clamp;
use crate::import::constant::{Constant, Elements};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;

fn function(op: &str) -> BinaryFn {
    match op {
        "Add" | "Sum" | "Mean" => BinaryFn::Add,
        "Sub" => BinaryFn::Sub,
        "Mul" => BinaryFn::Mul,
        "Div" => BinaryFn::Div,
        "Max" => BinaryFn::Max,
        "Min" => BinaryFn::Min,
        other => unreachable!("the table sends no {other} here"),
    }
}

pub(super) fn binary(im: &mut Importer<'_>, node: &Node) -> Made {
    let (a, b) = (im.input(node, 0)?, im.input(node, 1)?);
    let y = join(im, "", function(&node.op), a, b)?;
    Ok(vec![Value::Flowing(y)])
}

/// Any number of operands, one after the other.
pub(super) fn variadic(im: &mut Importer<'_>, node: &Node) -> Made {
    let count = node.inputs.len();
    let mut sum = im.input(node, 0)?;
    for at in 1..count {
        let last = at + 1 == count && node.op != "Mean";
        let part = if last { String::new() } else { format!("part{at}") };
        let next = im.input(node, at)?;
        sum = Value::Flowing(join(im, &part, function(&node.op), sum, next)?);
    }
    if node.op == "Mean" && count > 1 {
        let x = flowing(im, &sum)?;
        let scale = 1.0 / count as f32;
        sum = Value::Flowing(im.add("", Op::Unary { f: UnaryFn::Affine { scale, offset: 0.0 } }, &[x])?);
    }
    Ok(vec![sum])
}

/// Small whole powers are products, which are exact and faster.
pub(super) fn pow(im: &mut Importer<'_>, node: &Node) -> Made {
    let (a, b) = (im.input(node, 0)?, im.input(node, 1)?);
    let Some(exponent) = number(&b).filter(|exponent| exponent.is_finite()) else {
        let y = join(im, "", BinaryFn::Pow, a, b)?;
        return Ok(vec![Value::Flowing(y)]);
    };
    let x = flowing(im, &a)?;
    let unary = |im: &mut Importer<'_>, f| im.add("", Op::Unary { f }, &[x]);
    let y = if exponent == 1.0 {
        x
    } else if exponent == 2.0 {
        im.add("", Op::Binary { f: BinaryFn::Mul }, &[x, x])?
    } else if exponent == 3.0 {
        let square = im.add("square", Op::Binary { f: BinaryFn::Mul }, &[x, x])?;
        im.add("", Op::Binary { f: BinaryFn::Mul }, &[square, x])?
    } else if exponent == 0.5 {
        unary(im, UnaryFn::Sqrt)?
    } else if exponent == -1.0 {
        unary(im, UnaryFn::Reciprocal)?
    } else {
        let shape = Shape(vec![Dim::from(1); im.ty(x).shape.rank()]);
        let exponent = im.add("exponent", Op::Fill { shape, value: exponent }, &[])?;
        im.add("", Op::Binary { f: BinaryFn::Pow }, &[x, exponent])?
    };
    Ok(vec![Value::Flowing(y)])
}

/// `f(a, b)`.
fn join(im: &mut Importer<'_>, part: &str, f: BinaryFn, a: Value, b: Value) -> Result<ValueId, Fault> {
    if let (Value::Flowing(x), Some(number)) = (&a, number_beside(im, &a, &b))
        && let Some(f) = with_number_right(f, number)?
    {
        return unary(im, part, f, *x);
    }
    if let (Value::Flowing(x), Some(number)) = (&b, number_beside(im, &b, &a)) {
        if f == BinaryFn::Div {
            let inverse = unary(im, &inner(part, "inverse"), UnaryFn::Reciprocal, *x)?;
            return unary(im, part, UnaryFn::Affine { scale: finite(number)?, offset: 0.0 }, inverse);
        }
        if let Some(f) = with_number_left(f, number)? {
            return unary(im, part, f, *x);
        }
    }
    // A product runs in any layout, a quotient does not.
    let (f, b) = match (f, &b) {
        (BinaryFn::Div, Value::Constant(c)) => match inverse(c) {
            Some(inverse) => (BinaryFn::Mul, Value::Constant(Rc::new(inverse))),
            None => (f, b),
        },
        _ => (f, b),
    };
    let (a, b) = (flowing(im, &a)?, flowing(im, &b)?);
    let rank = im.ty(a).shape.rank().max(im.ty(b).shape.rank());
    let a = of_rank(im, a, &inner(part, "a"), rank)?;
    let b = of_rank(im, b, &inner(part, "b"), rank)?;
    im.add(part, Op::Binary { f }, &[a, b])
}

fn inner(part: &str, name: &str) -> String {
    if part.is_empty() { name.to_string() } else { format!("{part}.{name}") }
}

fn unary(im: &mut Importer<'_>, part: &str, f: UnaryFn, x: ValueId) -> Result<ValueId, Fault> {
    match im.ty(x).dtype {
        DType::F32 => im.add(part, Op::Unary { f }, &[x]),
        other => Err(unsupported(format!("of {other}"))),
    }
}

fn flowing(im: &mut Importer<'_>, value: &Value) -> Result<ValueId, Fault> {
    let id = match value {
        Value::Flowing(id) => *id,
        Value::Constant(c) => im.operand(c)?,
        Value::Unknown => return Err(malformed("reads what was never made")),
    };
    match im.ty(id).dtype {
        DType::F32 => Ok(id),
        other => Err(unsupported(format!("of {other}"))),
    }
}

/// `x` with axes of size 1 in front, as broadcasting reads it: channels then stand where pictures have theirs.
pub(super) fn of_rank(im: &mut Importer<'_>, x: ValueId, part: &str, rank: usize) -> Result<ValueId, Fault> {
    let dims = im.dims(x);
    if dims.len() >= rank {
        return Ok(x);
    }
    let shape = Shape([vec![Dim::from(1); rank - dims.len()], dims].concat());
    im.reshaped(part, x, shape)
}

/// The only element of a constant of floats.
fn number(value: &Value) -> Option<f32> {
    match value {
        Value::Constant(c) => c.scalar(),
        _ => None,
    }
}

/// The number `other`, if the result has the shape of `x`.
fn number_beside(im: &Importer<'_>, x: &Value, other: &Value) -> Option<f32> {
    let (Value::Flowing(x), Value::Constant(c)) = (x, other) else { return None };
    if c.shape.len() > im.ty(*x).shape.rank() || !matches!(c.elements, Elements::Floats(_)) {
        return None;
    }
    c.scalar()
}

fn finite(number: f32) -> Result<f32, Fault> {
    if number.is_finite() { Ok(number) } else { Err(unsupported(format!("with the number {number}"))) }
}

/// `f(x, number)` as a function of `x`.
fn with_number_right(f: BinaryFn, number: f32) -> Result<Option<UnaryFn>, Fault> {
    let affine = |scale: f32, offset: f32| {
        Ok(Some(UnaryFn::Affine { scale: finite(scale)?, offset: finite(offset)? }))
    };
    match f {
        BinaryFn::Add => affine(1.0, number),
        BinaryFn::Sub => affine(1.0, -number),
        BinaryFn::Mul => affine(number, 0.0),
        BinaryFn::Div => affine(1.0 / number, 0.0),
        BinaryFn::Max if !number.is_nan() => Ok(Some(clamp(number, f32::INFINITY))),
        BinaryFn::Min if !number.is_nan() => Ok(Some(clamp(f32::NEG_INFINITY, number))),
        _ => Ok(None),
    }
}

/// `f(number, x)` as a function of `x`.
fn with_number_left(f: BinaryFn, number: f32) -> Result<Option<UnaryFn>, Fault> {
    match f {
        BinaryFn::Sub => Ok(Some(UnaryFn::Affine { scale: -1.0, offset: finite(number)? })),
        BinaryFn::Div | BinaryFn::Pow => Ok(None),
        f => with_number_right(f, number),
    }
}

/// `1 / c` for each element, where that is finite.
fn inverse(c: &Constant) -> Option<Constant> {
    let inverted: Vec<f32> = c.as_floats().ok()?.iter().map(|v| 1.0 / v).collect();
    let good = inverted.iter().all(|v| v.is_finite());
    good.then(|| Constant { elements: Elements::Floats(inverted), ..c.clone() })
}
