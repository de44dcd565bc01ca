//! The same elements in other shapes, orders and types.

use std::rc::Rc;

use espalier_graph::{DType, Dim, Op, Shape, ValueId};

use crate::import::constant::{Constant, Elements};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::fold;
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;
use crate::import::tensor;

/// Dropout does nothing in prediction.
pub(super) fn identity(im: &mut Importer<'_>, node: &Node) -> Made {
    Ok(vec![im.input(node, 0)?])
}

pub(super) fn cast(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let code = node.int("to")?.ok_or_else(|| malformed("lacks its type"))?;
    let to = match fold::of_type(code)? {
        Elements::Floats(_) => DType::F32,
        Elements::Ints(_) => DType::I32,
        _ => return Err(unsupported("to truth values")),
    };
    let y = if im.ty(x).dtype == to { x } else { im.add("", Op::Cast { to }, &[x])? };
    Ok(vec![Value::Flowing(y)])
}

fn with_shape(im: &mut Importer<'_>, x: ValueId, shape: Vec<Dim>) -> Made {
    Ok(vec![Value::Flowing(im.reshaped("", x, Shape(shape))?)])
}

pub(super) fn reshape(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let wanted = im.constant(node, 1)?;
    let allow_zero = node.flag("allowzero", false)?;
    let shape = shapes::reshape(&im.dims(x), wanted.as_ints()?, allow_zero, im.generalised())?;
    with_shape(im, x, shape)
}

pub(super) fn flatten(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let shape = shapes::flatten(&im.dims(x), node.int_or("axis", 1)?)?;
    with_shape(im, x, shape)
}

pub(super) fn squeeze(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let list = im.list(node, "axes", 1)?;
    if list.is_none() && im.generalised() && im.dims(x).first() == Some(&Dim::N) {
        return Err(unsupported("without the axes that it removes, among them the batch's"));
    }
    let shape = shapes::squeeze(&im.dims(x), list.as_deref())?;
    with_shape(im, x, shape)
}

pub(super) fn unsqueeze(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let list = im.list(node, "axes", 1)?.ok_or_else(|| malformed("lacks its axes"))?;
    let shape = shapes::unsqueeze(&im.dims(x), &list)?;
    with_shape(im, x, shape)
}

pub(super) fn transpose(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    let perm = fold::permutation(node.ints("perm")?, dims.len())?;
    Ok(vec![Value::Flowing(permuted(im, "", x, perm)?)])
}

/// Moving axes of size 1 alone moves nothing: that is a reshape.
fn permuted(im: &mut Importer<'_>, part: &str, x: ValueId, perm: Vec<usize>) -> Result<ValueId, Fault> {
    let dims = im.dims(x);
    let real: Vec<usize> = perm.iter().copied().filter(|&p| dims[p] != Dim::from(1)).collect();
    if real.is_sorted() {
        return im.reshaped(part, x, Shape(perm.iter().map(|&p| dims[p]).collect()));
    }
    im.add(part, Op::Transpose { perm }, &[x])
}

/// Sizes without a hole.
fn sizes(wanted: &Constant) -> Result<Vec<Dim>, Fault> {
    let size = |v: &crate::import::constant::Int| {
        v.dim().ok_or_else(|| malformed(format!("asks for a size of {v:?}")))
    };
    wanted.as_ints()?.iter().map(size).collect()
}

/// A number for every element of a shape that holds N.
pub(super) fn filled(im: &mut Importer<'_>, node: &Node) -> Made {
    let shape = Shape(sizes(&*im.constant(node, 0)?)?);
    let value = match node.tensor("value")? {
        None => Some(0.0),
        Some(bytes) => {
            let one = tensor::constant(bytes, None).map_err(|e| unsupported(e.to_string()))?;
            one.as_floats()?.first().copied().filter(|v| v.is_finite())
        }
    };
    let value = value.ok_or_else(|| unsupported("of a value that is not finite"))?;
    Ok(vec![Value::Flowing(im.add("", Op::Fill { shape, value }, &[])?)])
}

pub(super) fn expand(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let wanted = im.constant(node, 1)?;
    let shape = Shape(super::linear::broadcast(&im.dims(x), &sizes(&wanted)?)?);
    let y = if im.ty(x).shape == shape { x } else { im.add("", Op::Expand { shape }, &[x])? };
    Ok(vec![Value::Flowing(y)])
}

/// Most copies that one Tile makes along an axis.
const MAX_COPIES: usize = 4096;

pub(super) fn tile(im: &mut Importer<'_>, node: &Node) -> Made {
    let mut x = im.float(node, 0)?;
    let times = im.constant(node, 1)?.known_ints()?;
    if times.len() != im.ty(x).shape.rank() {
        return Err(malformed("repeats another number of axes than there are"));
    }
    for (axis, &times) in times.iter().enumerate().filter(|(_, times)| **times != 1) {
        let times = shapes::size(times)?;
        if times == 0 || times > MAX_COPIES {
            return Err(unsupported(format!("{times} times")));
        }
        let dims = im.dims(x);
        x = if dims[axis] == Dim::from(1) {
            let mut shape = dims;
            shape[axis] = times.into();
            im.add(&format!("axis{axis}"), Op::Expand { shape: Shape(shape) }, &[x])?
        } else {
            im.add(&format!("axis{axis}"), Op::Concat { axis }, &vec![x; times])?
        };
    }
    Ok(vec![Value::Flowing(x)])
}

pub(super) fn concat(im: &mut Importer<'_>, node: &Node) -> Made {
    let mut parts = Vec::new();
    for at in 0..node.inputs.len() {
        let empty = matches!(im.optional(node, at), Some(Value::Constant(c)) if c.elements.len() == 0);
        if !empty {
            parts.push(im.float(node, at)?);
        }
    }
    let first = *parts.first().ok_or_else(|| malformed("joins nothing"))?;
    let axis = node.int("axis")?.ok_or_else(|| malformed("lacks its axis"))?;
    let axis = shapes::axis(axis, im.ty(first).shape.rank())?;
    if im.generalised() && axis != 0 {
        every_sample(im, &mut parts)?;
    }
    let y = if parts.len() == 1 { first } else { im.add("", Op::Concat { axis }, &parts)? };
    Ok(vec![Value::Flowing(y)])
}

/// What stands once beside parts with N, such as a class token, is there for every sample.
fn every_sample(im: &mut Importer<'_>, parts: &mut [ValueId]) -> Result<(), Fault> {
    let shapes: Vec<Vec<Dim>> = parts.iter().map(|&x| im.dims(x)).collect();
    if !shapes.iter().any(|shape| shape.first() == Some(&Dim::N)) {
        return Ok(());
    }
    for (number, (part, mut shape)) in parts.iter_mut().zip(shapes).enumerate() {
        if shape.first() == Some(&Dim::from(1)) {
            shape[0] = Dim::N;
            *part = im.add(&format!("part{number}"), Op::Expand { shape: Shape(shape) }, &[*part])?;
        }
    }
    Ok(())
}

/// A picture with its sizes and the side of the blocks.
fn blocks(im: &mut Importer<'_>, node: &Node) -> Result<(ValueId, Dim, [usize; 3], usize), Fault> {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    let side = shapes::size(node.int("blocksize")?.ok_or_else(|| malformed("lacks its blocksize"))?)?;
    if dims.len() != 4 || side == 0 || side > 1 << 12 {
        return Err(malformed(format!("of {} with blocks of {side}", im.ty(x))));
    }
    let sizes = [im.known_dim(x, 1)?, im.known_dim(x, 2)?, im.known_dim(x, 3)?];
    Ok((x, dims[0], sizes, side))
}

/// Reshape to six axes, permute, and reshape back.
fn rearranged(im: &mut Importer<'_>, x: ValueId, six: [Dim; 6], perm: [usize; 6], to: [Dim; 4]) -> Made {
    let split = im.reshaped("blocks", x, Shape(six.to_vec()))?;
    let moved = permuted(im, "moved", split, perm.to_vec())?;
    with_shape(im, moved, to.to_vec())
}

pub(super) fn depth_to_space(im: &mut Importer<'_>, node: &Node) -> Made {
    let (x, n, [c, h, w], side) = blocks(im, node)?;
    if c % (side * side) != 0 {
        return Err(malformed(format!("splits {c} channels into blocks of {side}x{side}")));
    }
    let out = c / (side * side);
    let [b, o, h_, w_] = [side, out, h, w].map(Dim::from);
    let to = [n, o, (h * side).into(), (w * side).into()];
    match node.text("mode")?.unwrap_or("DCR") {
        "DCR" => rearranged(im, x, [n, b, b, o, h_, w_], [0, 3, 4, 1, 5, 2], to),
        "CRD" => rearranged(im, x, [n, o, b, b, h_, w_], [0, 1, 4, 2, 5, 3], to),
        other => Err(malformed(format!("has the mode `{}`", other.chars().take(40).collect::<String>()))),
    }
}

pub(super) fn space_to_depth(im: &mut Importer<'_>, node: &Node) -> Made {
    let (x, n, [c, h, w], side) = blocks(im, node)?;
    if h % side != 0 || w % side != 0 {
        return Err(malformed(format!("splits {h}x{w} pixels into blocks of {side}x{side}")));
    }
    let [b, c_, h_, w_] = [side, c, h / side, w / side].map(Dim::from);
    let to = [n, (c * side * side).into(), h_, w_];
    rearranged(im, x, [n, c_, h_, b, w_, b], [0, 3, 5, 1, 2, 4], to)
}

/// The slices of `x` along `axis` at `positions`: one piece of it where they are neighbours, else a gather.
pub(super) fn picked(
    im: &mut Importer<'_>,
    part: &str,
    x: ValueId,
    axis: usize,
    positions: &[usize],
) -> Result<ValueId, Fault> {
    let size = im.known_dim(x, axis)?;
    let Some(&start) = positions.first() else { return Err(unsupported("an empty result")) };
    let neighbours = positions.iter().enumerate().all(|(i, &p)| p == start + i);
    if neighbours && positions.len() == size {
        return Ok(x);
    }
    if neighbours {
        let end = start + positions.len();
        return im.add(part, Op::Slice { axis, start, end }, &[x]);
    }
    let index = positions.iter().map(|&p| crate::import::constant::Int::Known(p as i64)).collect();
    let index = Rc::new(Constant::new(vec![positions.len()], Elements::Ints(index)));
    let index = im.state(&index, &inner(part, "index"), espalier_graph::Role::Statistic)?;
    im.add(part, Op::Gather { axis }, &[x, index])
}

fn inner(part: &str, name: &str) -> String {
    if part.is_empty() { name.to_string() } else { format!("{part}.{name}") }
}
