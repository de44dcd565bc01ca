//! The same elements in another order or shape.

use espalier_graph::Dim;

use super::{Call, Folded, broadcast, broadcast_strides, position, strides};
use crate::import::constant::{Constant, Elements};
use crate::import::fault::{Fault, malformed};
use crate::import::shapes;

/// A tensor under another name, as exporters write equal weights only once.
pub(super) fn identity(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    call.pay(&c.elements, &c.shape)?;
    let name = call.node.outputs.first().cloned().unwrap_or_default();
    Ok(vec![Constant { name, ..Constant::clone(c) }])
}

fn dims(c: &Constant) -> Vec<Dim> {
    c.shape.iter().map(|&d| d.into()).collect()
}

/// The same elements in another shape.
fn with_shape(call: &mut Call<'_>, shape: &[Dim]) -> Folded {
    let c = call.input(0)?;
    let known: Option<Vec<usize>> = shape.iter().map(|d| d.known()).collect();
    let shape = known.ok_or_else(|| malformed("gives a constant a shape with N"))?;
    call.pay(&c.elements, &shape)?;
    Ok(vec![Constant::new(shape, c.elements.clone())])
}

pub(super) fn reshape(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let wanted = call.input(1)?;
    let allow_zero = call.node.flag("allowzero", false)?;
    let shape = shapes::reshape(&dims(c), wanted.as_ints()?, allow_zero, false)?;
    with_shape(call, &shape)
}

pub(super) fn flatten(call: &mut Call<'_>) -> Folded {
    let shape = shapes::flatten(&dims(call.input(0)?), call.node.int_or("axis", 1)?)?;
    with_shape(call, &shape)
}

pub(super) fn squeeze(call: &mut Call<'_>) -> Folded {
    let list = call.list("axes", 1)?;
    let shape = shapes::squeeze(&dims(call.input(0)?), list.as_deref())?;
    with_shape(call, &shape)
}

pub(super) fn unsqueeze(call: &mut Call<'_>) -> Folded {
    let list = call.list("axes", 1)?.ok_or_else(|| malformed("lacks its axes"))?;
    let shape = shapes::unsqueeze(&dims(call.input(0)?), &list)?;
    with_shape(call, &shape)
}

pub(super) fn transpose(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let perm = permutation(call.node.ints("perm")?, c.shape.len())?;
    let shape = perm.iter().map(|&p| c.shape[p]).collect();
    let from = strides(&c.shape);
    let along: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    Ok(vec![call.moved(c, shape, |at| position(at, &along))?])
}

/// The order of axes; without a list it is reversed.
pub(crate) fn permutation(list: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, Fault> {
    let Some(list) = list else { return Ok((0..rank).rev().collect()) };
    let perm = list.iter().map(|&a| shapes::axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    match shapes::axes(list, rank)?.len() == rank {
        true => Ok(perm),
        false => Err(malformed(format!("permutes {rank} axes by {list:?}"))),
    }
}

pub(super) fn concat(call: &mut Call<'_>) -> Folded {
    let parts = (0..call.inputs.len()).map(|i| call.input(i)).collect::<Result<Vec<_>, _>>()?;
    let first = *parts.first().ok_or_else(|| malformed("joins nothing"))?;
    let rank = first.shape.len();
    let axis = shapes::axis(call.node.int_or("axis", if call.opset < 4 { 1 } else { 0 })?, rank)?;
    let fits = |c: &Constant| {
        let others = c.shape.len() == rank && (0..rank).all(|a| a == axis || c.shape[a] == first.shape[a]);
        others && std::mem::discriminant(&c.elements) == std::mem::discriminant(&first.elements)
    };
    if !parts.iter().all(|c| fits(c)) {
        return Err(malformed("joins tensors whose types or other axes differ"));
    }
    let mut shape = first.shape.clone();
    shape[axis] = parts.iter().try_fold(0usize, |n, c| n.checked_add(c.shape[axis])).unwrap_or(usize::MAX);
    call.pay(&first.elements, &shape)?;
    // Of nothing there may be any number of rows.
    let outer = if shape.contains(&0) { 0 } else { shape[..axis].iter().product::<usize>() };
    let rows = |c: &Constant| c.shape[axis..].iter().product::<usize>();
    let joined = |pick: &dyn Fn(&Constant, std::ops::Range<usize>, &mut Elements)| {
        let mut made = first.elements.take(std::iter::empty());
        for row in 0..outer {
            parts.iter().for_each(|c| pick(c, row * rows(c)..(row + 1) * rows(c), &mut made));
        }
        made
    };
    let elements = joined(&|c, range, made| match (made, &c.elements) {
        (Elements::Floats(made), Elements::Floats(v)) => made.extend_from_slice(&v[range]),
        (Elements::Ints(made), Elements::Ints(v)) => made.extend_from_slice(&v[range]),
        (Elements::Bools(made), Elements::Bools(v)) => made.extend_from_slice(&v[range]),
        _ => unreachable!("the types were compared"),
    });
    Ok(vec![Constant::new(shape, elements)])
}

pub(super) fn slice(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let lists = [("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4)];
    let [starts, ends, list, steps] = lists.map(|(name, at)| call.list(name, at));
    let (starts, ends) = (starts?.unwrap_or_default(), ends?.unwrap_or_default());
    let (list, steps) = (list?, steps?);
    let size = |axis: usize| Ok(c.shape[axis]);
    let cuts = shapes::cuts(c.shape.len(), &starts, &ends, list.as_deref(), steps.as_deref(), size)?;
    let mut shape = c.shape.clone();
    cuts.iter().for_each(|cut| shape[cut.axis] = cut.count);
    let along = strides(&c.shape);
    let source = |at: &[usize]| {
        let place = |axis: usize| {
            let cut = cuts.iter().rev().find(|cut| cut.axis == axis);
            cut.map_or(at[axis], |cut| cut.position(at[axis]))
        };
        (0..at.len()).map(|axis| place(axis) * along[axis]).sum()
    };
    Ok(vec![call.moved(c, shape, source)?])
}

pub(super) fn split(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let axis = shapes::axis(call.node.int_or("axis", 0)?, c.shape.len())?;
    let parts = shapes::parts(call.node, call.list("split", 1)?, c.shape[axis])?;
    let along = strides(&c.shape);
    let (mut start, mut made) = (0, Vec::new());
    for &part in parts.iter().take(call.node.outputs.len()) {
        let mut shape = c.shape.clone();
        shape[axis] = part;
        made.push(call.moved(c, shape, |at| position(at, &along) + start * along[axis])?);
        start += part;
    }
    Ok(made)
}

pub(super) fn gather(call: &mut Call<'_>) -> Folded {
    let (c, index) = (call.input(0)?, call.input(1)?);
    let axis = shapes::axis(call.node.int_or("axis", 0)?, c.shape.len())?;
    let size = c.shape[axis];
    let places = index.known_ints()?.into_iter().map(|i| shapes::axis(i, size));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let shape = [&c.shape[..axis], &index.shape, &c.shape[axis + 1..]].concat();
    let (from, to) = (strides(&c.shape), strides(&index.shape));
    let rank = index.shape.len();
    let source = |at: &[usize]| {
        let place = places[position(&at[axis..axis + rank], &to)];
        position(&at[..axis], &from) + place * from[axis] + position(&at[axis + rank..], &from[axis + 1..])
    };
    Ok(vec![call.moved(c, shape, source)?])
}

pub(super) fn expand(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let wanted = call.input(1)?.known_ints()?.into_iter().map(shapes::size).collect::<Result<Vec<_>, _>>()?;
    let shape = broadcast(&c.shape, &wanted)?;
    let along = broadcast_strides(&c.shape, shape.len());
    Ok(vec![call.moved(c, shape, |at| position(at, &along))?])
}

pub(super) fn tile(call: &mut Call<'_>) -> Folded {
    let c = call.input(0)?;
    let times = call.input(1)?.known_ints()?.into_iter().map(shapes::size).collect::<Result<Vec<_>, _>>()?;
    if times.len() != c.shape.len() {
        return Err(malformed("repeats another number of axes than there are"));
    }
    let shape = c.shape.iter().zip(&times).map(|(d, t)| d.saturating_mul(*t)).collect();
    let along = strides(&c.shape);
    let source = |at: &[usize]| (0..at.len()).map(|axis| at[axis] % c.shape[axis] * along[axis]).sum();
    Ok(vec![call.moved(c, shape, source)?])
}
