//! Parts of tensors, and tensors with something around them.

use espalier_graph::{Op, Shape, ValueId};

use super::movement::picked;
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;

pub(super) fn slice(im: &mut Importer<'_>, node: &Node) -> Made {
    let mut x = im.float(node, 0)?;
    let lists = [("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4)];
    let [starts, ends, list, steps] = lists.map(|(name, at)| im.list(node, name, at));
    let (starts, ends) = (starts?.unwrap_or_default(), ends?.unwrap_or_default());
    let (list, steps) = (list?, steps?);
    let rank = im.ty(x).shape.rank();
    let size = |axis: usize| im.known_dim(x, axis);
    let cuts = shapes::cuts(rank, &starts, &ends, list.as_deref(), steps.as_deref(), size)?;
    for (number, cut) in cuts.iter().enumerate() {
        let positions: Vec<usize> = (0..cut.count).map(|i| cut.position(i)).collect();
        let part = if number + 1 == cuts.len() { String::new() } else { format!("axis{}", cut.axis) };
        x = picked(im, &part, x, cut.axis, &positions)?;
    }
    Ok(vec![Value::Flowing(x)])
}

pub(super) fn split(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let axis = shapes::axis(node.int_or("axis", 0)?, im.ty(x).shape.rank())?;
    let sizes = im.list(node, "split", 1)?;
    let parts = shapes::parts(node, sizes, im.known_dim(x, axis)?)?;
    let (mut start, mut made) = (0, Vec::new());
    for (number, (&part, name)) in parts.iter().zip(&node.outputs).enumerate() {
        let end = start + part;
        made.push(match name.is_empty() {
            true => Value::Unknown,
            false if part == 0 => return Err(unsupported("an empty part")),
            false => {
                let op = Op::Slice { axis, start, end };
                Value::Flowing(im.add(&format!("part{number}"), op, &[x])?)
            }
        });
        start = end;
    }
    Ok(made)
}

/// With known places: pieces, or a gather. With places that flow: rows of a table.
pub(super) fn gather(im: &mut Importer<'_>, node: &Node) -> Made {
    let rank_of = |im: &Importer<'_>, x: ValueId| im.ty(x).shape.rank();
    let Value::Constant(index) = im.input(node, 1)? else {
        let table = im.parameter(node, 0, "weight")?;
        let axis = shapes::axis(node.int_or("axis", 0)?, rank_of(im, table))?;
        let index = im.flowing(node, 1)?;
        return Ok(vec![Value::Flowing(im.add("", Op::Gather { axis }, &[table, index])?)]);
    };
    let x = im.float(node, 0)?;
    let axis = shapes::axis(node.int_or("axis", 0)?, rank_of(im, x))?;
    let size = im.known_dim(x, axis)?;
    let places =
        index.known_ints()?.into_iter().map(|i| shapes::axis(i, size)).collect::<Result<Vec<_>, _>>()?;
    let flat = index.shape.len() == 1;
    let y = picked(im, if flat { "" } else { "picked" }, x, axis, &places)?;
    let dims = im.dims(x);
    let index: Vec<_> = index.shape.iter().map(|&d| d.into()).collect();
    let shape = Shape([&dims[..axis], &index, &dims[axis + 1..]].concat());
    Ok(vec![Value::Flowing(im.reshaped("", y, shape)?)])
}

/// A number around (also a negative one, which cuts off), or the picture continued.
pub(super) fn pad(im: &mut Importer<'_>, node: &Node) -> Made {
    let mut x = im.float(node, 0)?;
    let rank = im.ty(x).shape.rank();
    let pads = im.list(node, "pads", 1)?.ok_or_else(|| malformed("lacks its pads"))?;
    let axes = match im.known(node, 3)? {
        Some(c) => {
            c.known_ints()?.into_iter().map(|a| shapes::axis(a, rank)).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(malformed(format!("pads {} axes by {} numbers", axes.len(), pads.len())));
    }
    let value = match im.known(node, 2)? {
        Some(c) => c.scalar().ok_or_else(|| malformed("pads by something that is no number"))?,
        None => node.float_or("value", 0.0)?,
    };
    let mode = node.text("mode")?.unwrap_or("constant");
    for (number, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[number], pads[axes.len() + number]);
        if (before, after) != (0, 0) {
            x = padded(im, x, axis, before, after, mode, value)?;
        }
    }
    Ok(vec![Value::Flowing(x)])
}

fn padded(
    im: &mut Importer<'_>,
    x: ValueId,
    axis: usize,
    before: i64,
    after: i64,
    mode: &str,
    value: f32,
) -> Result<ValueId, Fault> {
    let size = im.known_dim(x, axis)?;
    let part = format!("axis{axis}");
    let (cut_before, cut_after) =
        (shapes::size(before.min(0).saturating_neg())?, shapes::size(after.min(0).saturating_neg())?);
    let end = size.checked_sub(cut_after).filter(|&end| end > cut_before);
    let end = end.ok_or_else(|| malformed(format!("cuts all of axis {axis} off")))?;
    let x = picked(im, &format!("{part}.cut"), x, axis, &(cut_before..end).collect::<Vec<_>>())?;
    let (before, after) = (shapes::size(before.max(0))?, shapes::size(after.max(0))?);
    if (before, after) == (0, 0) {
        return Ok(x);
    }
    let size = end - cut_before;
    match mode {
        "constant" if !value.is_finite() => Err(unsupported(format!("by {value}"))),
        "constant" => im.add(&part, Op::Pad { axis, before, after, value }, &[x]),
        "reflect" | "edge" | "wrap" => {
            if before.max(after) > crate::import::MAX_INTS {
                return Err(malformed(format!("by {before} and {after}")));
            }
            let positions =
                (0..before + size + after).map(|i| continued(mode, i as i64 - before as i64, size as i64));
            let positions: Vec<usize> = positions.collect();
            picked(im, &part, x, axis, &positions)
        }
        other => Err(malformed(format!("pads by `{}`", other.chars().take(40).collect::<String>()))),
    }
}

/// Where the picture is continued from, at position `at` of an axis of `size`.
fn continued(mode: &str, at: i64, size: i64) -> usize {
    let place = match mode {
        "edge" => at.clamp(0, size - 1),
        "wrap" => at.rem_euclid(size),
        _ => {
            let period = (2 * (size - 1)).max(1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        }
    };
    (place as usize).min(size as usize - 1)
}
