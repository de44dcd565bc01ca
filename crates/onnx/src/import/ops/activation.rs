//! Functions of one argument, and softmax.

use espalier_graph::{BinaryFn, Op, Shape, UnaryFn, ValueId};

use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;

fn unary(im: &mut Importer<'_>, node: &Node, f: UnaryFn) -> Made {
    let x = im.float(node, 0)?;
    Ok(vec![Value::Flowing(im.add("", Op::Unary { f }, &[x])?)])
}

fn step(im: &mut Importer<'_>, part: &str, f: UnaryFn, x: ValueId) -> Result<ValueId, Fault> {
    im.add(part, Op::Unary { f }, &[x])
}

fn join(im: &mut Importer<'_>, part: &str, f: BinaryFn, a: ValueId, b: ValueId) -> Result<ValueId, Fault> {
    im.add(part, Op::Binary { f }, &[a, b])
}

/// The functions whose name and meaning are ours too.
pub(super) fn plain(im: &mut Importer<'_>, node: &Node) -> Made {
    let f = match node.op.as_str() {
        "Sigmoid" => UnaryFn::Sigmoid,
        "Tanh" => UnaryFn::Tanh,
        "Exp" => UnaryFn::Exp,
        "Log" => UnaryFn::Log,
        "Sqrt" => UnaryFn::Sqrt,
        "Abs" => UnaryFn::Abs,
        "Neg" => UnaryFn::Neg,
        "Reciprocal" => UnaryFn::Reciprocal,
        "Erf" => UnaryFn::Erf,
        "Round" => UnaryFn::Round,
        other => unreachable!("the table sends no {other} here"),
    };
    unary(im, node, f)
}

pub(super) fn relu(im: &mut Importer<'_>, node: &Node) -> Made {
    unary(im, node, UnaryFn::Relu)
}

/// Bounds are attributes up to opset 10, then inputs.
pub(super) fn clip(im: &mut Importer<'_>, node: &Node) -> Made {
    let bound = |im: &Importer<'_>, name: &str, at: usize| match node.float(name)? {
        Some(v) => Ok(Some(v)),
        None => match im.known(node, at)? {
            Some(c) => c.scalar().map(Some).ok_or_else(|| malformed("has a bound that is no number")),
            None => Ok(None),
        },
    };
    let (lo, hi) = (bound(im, "min", 1)?, bound(im, "max", 2)?);
    let (lo, hi) = (lo.unwrap_or(f32::NEG_INFINITY), hi.unwrap_or(f32::INFINITY));
    // Exporters write the largest float where there is no bound.
    let lo = if lo == f32::MIN { f32::NEG_INFINITY } else { lo };
    let hi = if hi == f32::MAX { f32::INFINITY } else { hi };
    if lo.is_nan() || hi.is_nan() {
        return Err(malformed("has a bound that is NaN"));
    }
    if (lo, hi) == (f32::NEG_INFINITY, f32::INFINITY) {
        return Ok(vec![Value::Flowing(im.float(node, 0)?)]);
    }
    // As NumPy has it: the upper bound wins.
    unary(im, node, clamp(lo.min(hi), hi))
}

/// `min(max(x, lo), hi)`, by its own name where it has one.
pub(super) fn clamp(lo: f32, hi: f32) -> UnaryFn {
    if (lo, hi) == (0.0, f32::INFINITY) { UnaryFn::Relu } else { UnaryFn::Clip { lo, hi } }
}

pub(super) fn leaky_relu(im: &mut Importer<'_>, node: &Node) -> Made {
    let slope = node.float_or("alpha", 0.01)?;
    unary(im, node, UnaryFn::LeakyRelu { slope })
}

/// `relu(x) - slope relu(-x)`; one slope for all is a leaky ReLU.
pub(super) fn prelu(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    if let Some(Value::Constant(c)) = im.optional(node, 1)
        && let Some(slope) = c.scalar().filter(|slope| !slope.is_nan())
    {
        return Ok(vec![Value::Flowing(step(im, "", UnaryFn::LeakyRelu { slope }, x)?)]);
    }
    let slope = im.parameter(node, 1, "weight")?;
    let slope = super::arithmetic::of_rank(im, slope, "slope", im.ty(x).shape.rank())?;
    let positive = step(im, "positive", UnaryFn::Relu, x)?;
    let negated = step(im, "negated", UnaryFn::Neg, x)?;
    let negative = step(im, "negative", UnaryFn::Relu, negated)?;
    let sloped = join(im, "sloped", BinaryFn::Mul, negative, slope)?;
    Ok(vec![Value::Flowing(join(im, "", BinaryFn::Sub, positive, sloped)?)])
}

/// `relu(x) + alpha (exp(min(x, 0)) - 1)`.
pub(super) fn elu(im: &mut Importer<'_>, node: &Node) -> Made {
    let alpha = node.float_or("alpha", 1.0)?;
    let x = im.float(node, 0)?;
    let positive = step(im, "positive", UnaryFn::Relu, x)?;
    let negative = step(im, "negative", UnaryFn::Clip { lo: f32::NEG_INFINITY, hi: 0.0 }, x)?;
    let exponential = step(im, "exponential", UnaryFn::Exp, negative)?;
    let scaled = step(im, "scaled", UnaryFn::Affine { scale: alpha, offset: -alpha }, exponential)?;
    Ok(vec![Value::Flowing(join(im, "", BinaryFn::Add, positive, scaled)?)])
}

pub(super) fn hard_swish(im: &mut Importer<'_>, node: &Node) -> Made {
    unary(im, node, UnaryFn::HardSwish)
}

pub(super) fn hard_sigmoid(im: &mut Importer<'_>, node: &Node) -> Made {
    let (alpha, beta) = (node.float_or("alpha", 0.2)?, node.float_or("beta", 0.5)?);
    unary(im, node, UnaryFn::HardSigmoid { alpha, beta })
}

/// The exact form, or `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`, which is the one with tanh.
pub(super) fn gelu(im: &mut Importer<'_>, node: &Node) -> Made {
    match node.text("approximate")?.unwrap_or("none") {
        "none" => return unary(im, node, UnaryFn::Gelu),
        "tanh" => {}
        other => {
            return Err(malformed(format!(
                "approximates by `{}`",
                other.chars().take(40).collect::<String>()
            )));
        }
    }
    let x = im.float(node, 0)?;
    let scale = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
    let square = join(im, "square", BinaryFn::Mul, x, x)?;
    let factor = UnaryFn::Affine { scale: 0.044_715 * scale, offset: scale };
    let factor = step(im, "factor", factor, square)?;
    let inner = join(im, "inner", BinaryFn::Mul, x, factor)?;
    let gate = step(im, "gate", UnaryFn::Sigmoid, inner)?;
    Ok(vec![Value::Flowing(join(im, "", BinaryFn::Mul, x, gate)?)])
}

/// `max(x, 0) + ln(1 + exp(-|x|))`, which does not overflow.
fn soft_plus(im: &mut Importer<'_>, part: &str, x: ValueId) -> Result<ValueId, Fault> {
    let positive = step(im, "positive", UnaryFn::Relu, x)?;
    let magnitude = step(im, "magnitude", UnaryFn::Abs, x)?;
    let negated = step(im, "negated", UnaryFn::Neg, magnitude)?;
    let exponential = step(im, "exponential", UnaryFn::Exp, negated)?;
    let above = step(im, "above", UnaryFn::Affine { scale: 1.0, offset: 1.0 }, exponential)?;
    let rest = step(im, "rest", UnaryFn::Log, above)?;
    join(im, part, BinaryFn::Add, positive, rest)
}

pub(super) fn softplus(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    Ok(vec![Value::Flowing(soft_plus(im, "", x)?)])
}

/// `x tanh(softplus(x))`.
pub(super) fn mish(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let soft = soft_plus(im, "softplus", x)?;
    let gate = step(im, "gate", UnaryFn::Tanh, soft)?;
    Ok(vec![Value::Flowing(join(im, "", BinaryFn::Mul, x, gate)?)])
}

pub(super) fn softmax(im: &mut Importer<'_>, node: &Node) -> Made {
    over_axis(im, node, |axis| Op::Softmax { axis })
}

pub(super) fn log_softmax(im: &mut Importer<'_>, node: &Node) -> Made {
    over_axis(im, node, |axis| Op::LogSoftmax { axis })
}

/// Over one axis since opset 13; before, over all axes from the given one on together.
fn over_axis(im: &mut Importer<'_>, node: &Node, op: impl Fn(usize) -> Op) -> Made {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    let modern = im.opset() >= 13;
    let axis = shapes::axis(node.int_or("axis", if modern { -1 } else { 1 })?, dims.len())?;
    if im.generalised() && dims[axis].batch > 0 {
        return Err(unsupported("over the axis of the batch"));
    }
    if modern || shapes::product(&dims[axis + 1..]).known() == Some(1) {
        return Ok(vec![Value::Flowing(im.add("", op(axis), &[x])?)]);
    }
    let rows = shapes::flatten(&dims, axis as i64)?;
    let flat = im.reshaped("rows", x, Shape(rows))?;
    let y = im.add("normal", op(1), &[flat])?;
    Ok(vec![Value::Flowing(im.reshaped("", y, Shape(dims))?)])
}
