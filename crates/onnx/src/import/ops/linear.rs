//! Matrix products.

use std::rc::Rc;

use espalier_graph::{BinaryFn, Dim, Op, Role, Shape, UnaryFn, ValueId};

use crate::import::constant::Constant;
use crate::import::fault::{Fault, malformed};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;

/// `alpha A B + beta C`, with A and B transposed on demand.
pub(super) fn gemm(im: &mut Importer<'_>, node: &Node) -> Made {
    let (alpha, beta) = (node.float_or("alpha", 1.0)?, node.float_or("beta", 1.0)?);
    let (trans_a, trans_b) = (node.flag("transA", false)?, node.flag("transB", false)?);
    let a = im.float(node, 0)?;
    let b = scaled_parameter(im, node, 1, alpha, "weight")?;
    let product = Op::MatMul { trans_a, trans_b };
    let Some(c) = im.optional(node, 2) else {
        return Ok(vec![Value::Flowing(im.add("", product, &[a, b])?)]);
    };
    let y = im.add("product", product, &[a, b])?;
    let columns = *im.dims(y).last().expect("a matrix");
    let bias = match c {
        // A row of biases, in whatever shape, is a vector: that is what runs as one step with the product.
        Value::Constant(c) if c.as_floats().is_ok() && is_row(&c, columns) => {
            let row = Constant { shape: vec![c.shape.iter().product()], ..Constant::clone(&c) };
            let row = if row.shape == c.shape && beta == 1.0 { c } else { Rc::new(scaled(row, beta)) };
            im.state(&row, "bias", Role::Weight)?
        }
        _ => scaled_parameter(im, node, 2, beta, "bias")?,
    };
    Ok(vec![Value::Flowing(im.add("", Op::Binary { f: BinaryFn::Add }, &[y, bias])?)])
}

fn is_row(c: &Constant, columns: Dim) -> bool {
    let last = c.shape.last().copied();
    last.map(Dim::from) == Some(columns) && c.shape.iter().product::<usize>() == last.unwrap_or(0)
}

/// Input `at` times `factor`: constants are multiplied now, what flows in the graph.
fn scaled_parameter(
    im: &mut Importer<'_>,
    node: &Node,
    at: usize,
    factor: f32,
    part: &str,
) -> Result<ValueId, Fault> {
    match im.input(node, at)? {
        Value::Constant(c) if factor != 1.0 && c.as_floats().is_ok() => {
            im.state(&Rc::new(scaled(Constant::clone(&c), factor)), part, Role::Weight)
        }
        _ if factor == 1.0 => im.parameter(node, at, part),
        _ => {
            let x = im.float(node, at)?;
            im.add(part, Op::Unary { f: UnaryFn::Affine { scale: factor, offset: 0.0 } }, &[x])
        }
    }
}

fn scaled(c: Constant, factor: f32) -> Constant {
    use crate::import::constant::Elements;
    let elements = match c.elements {
        Elements::Floats(v) => Elements::Floats(v.into_iter().map(|v| v * factor).collect()),
        other => other,
    };
    Constant { elements, ..c }
}

/// As NumPy multiplies matrices: vectors get an axis, leading axes are broadcast.
pub(super) fn matmul(im: &mut Importer<'_>, node: &Node) -> Made {
    let (a, b) = (im.parameter(node, 0, "weight")?, im.parameter(node, 1, "weight")?);
    let (mut from, mut to) = (im.dims(a), im.dims(b));
    if from.is_empty() || to.is_empty() {
        return Err(malformed("multiplies a scalar as a matrix"));
    }
    let one = Dim::from(1);
    let (row, column) = (from.len() == 1, to.len() == 1);
    if row {
        from.insert(0, one);
    }
    if column {
        to.push(one);
    }
    let mut lead = broadcast(&from[..from.len() - 2], &to[..to.len() - 2])?;
    // A matrix on the right may serve all on the left; everything else needs equal leading axes.
    if to.len() > 2 {
        to = [&lead[..], &to[to.len() - 2..]].concat();
    }
    from = [&lead[..], &from[from.len() - 2..]].concat();
    let a = grown(im, a, "a", &from)?;
    let b = grown(im, b, "b", &to)?;
    let part = if row || column { "product" } else { "" };
    let y = im.add(part, Op::MatMul { trans_a: false, trans_b: false }, &[a, b])?;
    if !row {
        lead.push(from[from.len() - 2]);
    }
    if !column {
        lead.push(to[to.len() - 1]);
    }
    Ok(vec![Value::Flowing(im.reshaped("", y, Shape(lead))?)])
}

/// `x` with axes of size 1 in front (or, for a vector, wherever `dims` has them), broadcast to `dims`.
fn grown(im: &mut Importer<'_>, x: ValueId, part: &str, dims: &[Dim]) -> Result<ValueId, Fault> {
    let have = im.dims(x);
    let matrix = &dims[dims.len() - 2..];
    let base = if have.len() == 1 { matrix.to_vec() } else { have };
    let x = im.reshaped(&format!("{part}.matrix"), x, Shape(base.clone()))?;
    if base == dims {
        return Ok(x);
    }
    im.add(&format!("{part}.expanded"), Op::Expand { shape: Shape(dims.to_vec()) }, &[x])
}

/// NumPy's broadcasting of leading axes.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Fault> {
    let (rank, one) = (a.len().max(b.len()), Dim::from(1));
    let at = |s: &[Dim], axis: usize| (axis + s.len()).checked_sub(rank).map_or(one, |i| s[i]);
    let dims = (0..rank).map(|axis| match (at(a, axis), at(b, axis)) {
        (x, y) if x == y || y == one => Ok(x),
        (x, y) if x == one => Ok(y),
        (x, y) => Err(malformed(format!("joins axes of {x} and {y}, which do not broadcast"))),
    });
    dims.collect()
}
