//! Constants from nothing or from shapes.

use espalier_graph::Dim;

use super::{Call, Folded};
use crate::import::constant::{Constant, Elements, Int};
use crate::import::fault::{malformed, unsupported};
use crate::import::{shapes, tensor};

/// A constant stands in an attribute, whose name says its type.
pub(super) fn constant(call: &mut Call<'_>) -> Folded {
    let node = call.node;
    let made = if let Some(bytes) = node.tensor("value")? {
        // External data has no place in an attribute.
        let c = tensor::constant(bytes, None).map_err(|e| unsupported(e.to_string()))?;
        call.pay(&c.elements, &c.shape)?;
        Constant { name: String::new(), stored: false, ..c }
    } else if let Some(v) = node.float("value_float")? {
        Constant::floats(vec![], vec![v])
    } else if let Some(v) = node.floats("value_floats")? {
        Constant::floats(vec![v.len()], v.to_vec())
    } else if let Some(v) = node.int("value_int")? {
        Constant::new(vec![], Elements::Ints(vec![Int::Known(v)]))
    } else if let Some(v) = node.ints("value_ints")? {
        Constant::ints(v.iter().map(|&v| Int::Known(v)).collect())
    } else {
        return Err(unsupported("a constant that is neither a tensor nor numbers"));
    };
    Ok(vec![made])
}

pub(super) fn of_shape(call: &mut Call<'_>) -> Folded {
    let shape = call.input(0)?.known_ints()?.into_iter().map(shapes::size).collect::<Result<Vec<_>, _>>()?;
    let one = match call.node.tensor("value")? {
        Some(bytes) => tensor::constant(bytes, None).map_err(|e| unsupported(e.to_string()))?,
        None => Constant::floats(vec![1], vec![0.0]),
    };
    if one.elements.len() != 1 {
        return Err(malformed("has a `value` of other than one element"));
    }
    Ok(vec![call.moved(&one, shape, |_| 0)?])
}

pub(super) fn range(call: &mut Call<'_>) -> Folded {
    let [start, limit, delta] = [call.input(0)?, call.input(1)?, call.input(2)?];
    if matches!(start.elements, Elements::Floats(_)) {
        let scalar = |c: &Constant| c.scalar().ok_or_else(|| malformed("takes scalars"));
        let (start, limit, delta) = (scalar(start)?, scalar(limit)?, scalar(delta)?);
        let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil().max(0.0);
        if !count.is_finite() {
            return Err(malformed("is endless"));
        }
        call.pay(&Elements::Floats(Vec::new()), &[count as usize])?;
        let values = (0..count as usize).map(|i| start + i as f32 * delta).collect();
        return Ok(vec![Constant::floats(vec![count as usize], values)]);
    }
    let number = |c: &Constant| match c.known_ints()?[..] {
        [v] => Ok(i128::from(v)),
        _ => Err(malformed("takes scalars")),
    };
    let (start, limit, delta) = (number(start)?, number(limit)?, number(delta)?);
    if delta == 0 {
        return Err(malformed("has a step of 0"));
    }
    let distance = if delta > 0 { limit - start } else { start - limit };
    let count = (distance.max(0) as u128).div_ceil(delta.unsigned_abs());
    let count = usize::try_from(count).map_err(|_| malformed("is endless"))?;
    call.pay(&Elements::Ints(Vec::new()), &[count])?;
    let values = (0..count).map(|i| Int::Known((start + i as i128 * delta) as i64)).collect();
    Ok(vec![Constant::ints(values)])
}

/// Of something known; shapes of what flows are the rule of [`ops`](crate::import::ops).
pub(super) fn shape(call: &mut Call<'_>) -> Folded {
    let dims: Vec<Dim> = call.input(0)?.shape.iter().map(|&d| d.into()).collect();
    Ok(vec![part_of_shape(call.node, &dims)?])
}

pub(super) fn size(call: &mut Call<'_>) -> Folded {
    let count = call.input(0)?.elements.len() as i64;
    Ok(vec![Constant::new(vec![], Elements::Ints(vec![Int::Known(count)]))])
}

/// The sizes `start..end` of a shape.
pub(crate) fn part_of_shape(
    node: &crate::import::node::Node,
    dims: &[Dim],
) -> Result<Constant, crate::import::fault::Fault> {
    let rank = dims.len() as i64;
    let place = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (place(node.int_or("start", 0)?), place(node.int_or("end", rank)?));
    let part = dims.get(start..end.max(start)).unwrap_or(&[]);
    Ok(Constant::ints(part.iter().map(|&d| Int::from(d)).collect()))
}
