//! Normalisations.

use std::rc::Rc;

use espalier_graph::{BinaryFn, Dim, Op, Role, Shape, ValueId};

use crate::import::constant::Constant;
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;

/// With running statistics; each node gets states of its own, which training moves.
pub(super) fn batch(im: &mut Importer<'_>, node: &Node) -> Made {
    if node.flag("training_mode", false)? || !node.flag("spatial", true)? {
        return Err(unsupported("in another mode than prediction over channels"));
    }
    let eps = node.float_or("epsilon", 1e-5)?;
    // ONNX weighs what was, we the batch.
    let momentum = 1.0 - node.float_or("momentum", 0.9)?;
    let x = im.float(node, 0)?;
    let mut inputs = vec![x];
    let parts = ["weight", "bias", "running_mean", "running_var"];
    for (at, part) in (1..).zip(parts) {
        let role = if at < 3 { Role::Weight } else { Role::Statistic };
        let input = match im.input(node, at)? {
            Value::Constant(c) => im.own_state(c, part, role)?,
            _ => im.float(node, at)?,
        };
        inputs.push(input);
    }
    Ok(vec![Value::Flowing(im.add("", Op::BatchNorm { eps, momentum }, &inputs)?)])
}

/// Over the last axes, which become one.
pub(super) fn layer(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    let axis = shapes::axis(node.int_or("axis", -1)?, dims.len())?;
    let eps = node.float_or("epsilon", 1e-5)?;
    let inner = shapes::product(&dims[axis..]);
    let inner = inner.known().ok_or_else(|| unsupported("over axes that depend on the batch size"))?;
    let gamma = flat(im, node, 1, "weight", inner)?;
    let beta = match im.optional(node, 2) {
        Some(_) => flat(im, node, 2, "bias", inner)?,
        None => im.state(&Rc::new(Constant::floats(vec![inner], vec![0.0; inner])), "bias", Role::Weight)?,
    };
    let rows = Shape([&dims[..axis], &[inner.into()]].concat());
    let whole = rows.0 == dims;
    let x = im.reshaped("rows", x, rows)?;
    let y = im.add(if whole { "" } else { "normalised" }, Op::LayerNorm { eps }, &[x, gamma, beta])?;
    Ok(vec![Value::Flowing(im.reshaped("", y, Shape(dims))?)])
}

/// A learned vector, in whatever shape it is stored.
fn flat(im: &mut Importer<'_>, node: &Node, at: usize, part: &str, len: usize) -> Result<ValueId, Fault> {
    match im.input(node, at)? {
        Value::Constant(c) if c.elements.len() == len && c.as_floats().is_ok() && c.shape.len() != 1 => {
            let vector = Constant { shape: vec![len], ..Constant::clone(&c) };
            im.state(&Rc::new(vector), part, Role::Weight)
        }
        _ => im.parameter(node, at, part),
    }
}

/// Each channel of each sample by itself: a layer normalisation over its pixels, then scale and offset.
pub(super) fn instance(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    if dims.len() < 3 {
        return Err(malformed(format!("of {}, which is no picture", im.ty(x))));
    }
    let eps = node.float_or("epsilon", 1e-5)?;
    let inner = shapes::product(&dims[2..]);
    let inner = inner.known().ok_or_else(|| unsupported("over axes that depend on the batch size"))?;
    let fixed = |im: &mut Importer<'_>, part: &str, value: f32| {
        im.state(&Rc::new(Constant::floats(vec![inner], vec![value; inner])), part, Role::Statistic)
    };
    let (ones, zeros) = (fixed(im, "ones", 1.0)?, fixed(im, "zeros", 0.0)?);
    let rows = im.reshaped("rows", x, Shape(vec![dims[0], dims[1], inner.into()]))?;
    let normal = im.add("normal", Op::LayerNorm { eps }, &[rows, ones, zeros])?;
    let normal = im.reshaped("normalised", normal, Shape(dims.clone()))?;
    let channel = Shape((0..dims.len()).map(|a| if a == 1 { dims[1] } else { Dim::from(1) }).collect());
    let gamma = im.parameter(node, 1, "weight")?;
    let gamma = im.reshaped("weight", gamma, channel.clone())?;
    let beta = im.parameter(node, 2, "bias")?;
    let beta = im.reshaped("bias", beta, channel)?;
    let scaled = im.add("scaled", Op::Binary { f: BinaryFn::Mul }, &[normal, gamma])?;
    Ok(vec![Value::Flowing(im.add("", Op::Binary { f: BinaryFn::Add }, &[scaled, beta])?)])
}
