//! Arithmetic of axes and shapes, the same for what is known and for what flows.

use espalier_graph::Dim;

use crate::import::constant::{Int, MAX_SIZE, quotient};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::node::Node;

/// An axis counted from the front, of a tensor with `rank` axes; negative ones count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let from_front = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = from_front.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    found.ok_or_else(|| malformed(format!("has axis {axis} of {rank} axes")))
}

/// Axes counted from the front, ascending.
pub(crate) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let mut found = list.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    match found.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(malformed(format!("names an axis twice in {list:?}"))),
        false => Ok(found),
    }
}

/// The product of sizes.
pub(crate) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |product, &d| product * d)
}

/// The shape that Reshape gives: 0 keeps an axis (unless `allow_zero`), one -1 takes what is left.
///
/// With `generalised`, N stands where the file says 1, so numbers may hold a 1 too few: where N is the first axis alone
/// and none of the wanted sizes holds it, it stays with the first axis, which keeps every sample by itself.
pub(crate) fn reshape(
    from: &[Dim],
    wanted: &[Int],
    allow_zero: bool,
    generalised: bool,
) -> Result<Vec<Dim>, Fault> {
    let (mut dims, mut open) = (Vec::with_capacity(wanted.len()), None);
    for (at, &size) in wanted.iter().enumerate() {
        dims.push(match size {
            Int::Known(0) if !allow_zero => {
                *from.get(at).ok_or_else(|| malformed(format!("keeps axis {at}, which is not there")))?
            }
            Int::Known(-1) if open.replace(at).is_some() => return Err(malformed("leaves two sizes open")),
            Int::Known(-1) => Dim::from(1),
            size => size.dim().ok_or_else(|| malformed(format!("asks for a size of {size:?}")))?,
        });
    }
    let batch_first = from.first().is_some_and(|d| d.batch == 1) && from[1..].iter().all(|d| d.batch == 0);
    let lost = generalised && batch_first && dims.iter().all(|d| d.batch == 0);
    if lost && open != Some(0) && !dims.is_empty() {
        dims[0] = dims[0] * Dim::N;
    }
    let (have, want) = (product(from), product(&dims));
    if let Some(at) = open {
        let rest = quotient(have, want);
        dims[at] =
            dims[at] * rest.ok_or_else(|| malformed(format!("cannot make {have} elements of {wanted:?}")))?;
    } else if have != want {
        return Err(malformed(format!("cannot make {want} elements of {have}")));
    }
    Ok(dims)
}

/// The shape without the given axes, which have size 1; without a list, without all of size 1.
pub(crate) fn squeeze(from: &[Dim], list: Option<&[i64]>) -> Result<Vec<Dim>, Fault> {
    let one = Dim::from(1);
    let gone = match list {
        Some(list) => axes(list, from.len())?,
        None => (0..from.len()).filter(|&a| from[a] == one).collect(),
    };
    if let Some(&bad) = gone.iter().find(|&&a| from[a] != one) {
        let fault = format!("removes axis {bad}, whose size is {}", from[bad]);
        return Err(if from[bad].batch > 0 { unsupported(fault) } else { malformed(fault) });
    }
    Ok(from.iter().enumerate().filter(|(a, _)| !gone.contains(a)).map(|(_, &d)| d).collect())
}

/// The shape with new axes of size 1 at the given places of the result.
pub(crate) fn unsqueeze(from: &[Dim], list: &[i64]) -> Result<Vec<Dim>, Fault> {
    let rank = from.len() + list.len();
    let new = axes(list, rank)?;
    let mut old = from.iter();
    let dims =
        (0..rank).map(|a| if new.contains(&a) { Dim::from(1) } else { *old.next().expect("one for each") });
    Ok(dims.collect())
}

/// Two axes: the product of those before `axis`, and of the others.
pub(crate) fn flatten(from: &[Dim], at: i64) -> Result<Vec<Dim>, Fault> {
    let at = if at == from.len() as i64 { from.len() } else { axis(at, from.len())? };
    Ok(vec![product(&from[..at]), product(&from[at..])])
}

/// What a Slice takes of one axis: `count` elements from `start` on, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) axis: usize,
    pub(crate) start: usize,
    pub(crate) count: usize,
    pub(crate) step: i64,
}

impl Cut {
    /// Positions along the axis.
    pub(crate) fn position(&self, at: usize) -> usize {
        (self.start as i64 + at as i64 * self.step) as usize
    }

    /// One axis of a Slice of `size` elements, by the rules of ONNX: negative places count from the end, and both are
    /// brought into the axis.
    pub(crate) fn new(axis: usize, size: usize, start: i64, end: i64, step: i64) -> Result<Cut, Fault> {
        if step == 0 {
            return Err(malformed("has a step of 0"));
        }
        let n = size as i64;
        let from_front = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (low, high) = if step > 0 { (0, n) } else { (0, n - 1) };
        let start = from_front(start).clamp(low, high.max(low));
        let end = from_front(end).clamp(if step > 0 { 0 } else { -1 }, n);
        let distance = if step > 0 { end - start } else { start - end };
        let count = if distance <= 0 { 0 } else { (distance as u64).div_ceil(step.unsigned_abs()) as usize };
        Ok(Cut { axis, start: start as usize, count, step })
    }
}

/// The cuts of a Slice whose lists are given; `size` tells how long an axis is.
pub(crate) fn cuts(
    rank: usize,
    starts: &[i64],
    ends: &[i64],
    list: Option<&[i64]>,
    steps: Option<&[i64]>,
    size: impl Fn(usize) -> Result<usize, Fault>,
) -> Result<Vec<Cut>, Fault> {
    let all: Vec<i64> = (0..starts.len() as i64).collect();
    let ones = vec![1; starts.len()];
    let (list, steps) = (list.unwrap_or(&all), steps.unwrap_or(&ones));
    if [ends.len(), list.len(), steps.len()] != [starts.len(); 3] {
        return Err(malformed("has starts, ends, axes and steps of different numbers"));
    }
    let mut found = Vec::new();
    for i in 0..starts.len() {
        let at = axis(list[i], rank)?;
        // The whole axis needs no size: N may stay N.
        if starts[i] == 0 && ends[i] >= i32::MAX.into() && steps[i] == 1 {
            continue;
        }
        found.push(Cut::new(at, size(at)?, starts[i], ends[i], steps[i])?);
    }
    Ok(found)
}

/// The sizes of the parts of a Split along an axis of `size`.
pub(crate) fn parts(node: &Node, sizes: Option<Vec<i64>>, size: usize) -> Result<Vec<usize>, Fault> {
    let parts: Vec<usize> = match sizes {
        Some(sizes) => {
            let sizes: Option<Vec<usize>> = sizes.iter().map(|&s| usize::try_from(s).ok()).collect();
            sizes.ok_or_else(|| malformed("has a part of negative size"))?
        }
        None => {
            let count = node.int_or("num_outputs", node.outputs.len() as i64)?;
            let count = usize::try_from(count).ok().filter(|&c| (1..=size.max(1)).contains(&c));
            let count = count.ok_or_else(|| malformed("is split into an impossible number of parts"))?;
            let each = size.div_ceil(count);
            (0..count).map(|i| each.min(size.saturating_sub(i * each))).collect()
        }
    };
    let total = parts.iter().try_fold(0usize, |sum, &p| sum.checked_add(p));
    match total == Some(size) && parts.len() >= node.outputs.len() {
        true => Ok(parts),
        false => Err(malformed(format!("is split into {parts:?} along an axis of {size}"))),
    }
}

/// A size from a file.
pub(crate) fn size(v: i64) -> Result<usize, Fault> {
    let size = usize::try_from(v).ok().filter(|&v| v <= MAX_SIZE);
    size.ok_or_else(|| malformed(format!("has a size of {v}")))
}
