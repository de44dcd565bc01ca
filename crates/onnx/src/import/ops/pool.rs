//! Pooling over windows and over whole pictures.

use espalier_graph::{Op, ReduceFn, ValueId, Window};

use super::conv::{as_picture, extent, from_picture, spatial, spread, window};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;

pub(super) fn max(im: &mut Importer<'_>, node: &Node) -> Made {
    if node.outputs.get(1).is_some_and(|name| !name.is_empty()) {
        return Err(unsupported("places of the maxima"));
    }
    let Pooling { x, rank, mut window, beyond } = Pooling::read(im, node)?;
    for a in 0..2 {
        window.pad[a + 2] += beyond[a];
    }
    let y = im.add(part(rank), Op::MaxPool { window }, &[x])?;
    from_picture(im, y, rank)
}

pub(super) fn average(im: &mut Importer<'_>, node: &Node) -> Made {
    let count_pad = node.flag("count_include_pad", false)?;
    let Pooling { mut x, rank, mut window, beyond } = Pooling::read(im, node)?;
    // What lies beyond the padding, where the size is rounded up, never counts: padding that does is made of zeros then.
    let apart = count_pad && beyond != [0; 2];
    if apart {
        for a in 0..2 {
            let (before, after) = (window.pad[a], window.pad[a + 2]);
            if before + after > 0 {
                x = im.add("padded", Op::Pad { axis: a + 2, before, after, value: 0.0 }, &[x])?;
                (window.pad[a], window.pad[a + 2]) = (0, 0);
            }
        }
    }
    for a in 0..2 {
        window.pad[a + 2] += beyond[a];
    }
    let count_pad = count_pad && !apart && window.pad != [0; 4];
    let y = im.add(part(rank), Op::AvgPool { window, count_pad }, &[x])?;
    from_picture(im, y, rank)
}

fn part(rank: usize) -> &'static str {
    if rank == 3 { "picture" } else { "" }
}

/// A pooling over windows, as the node has it.
struct Pooling {
    x: ValueId,
    rank: usize,
    window: Window,
    /// How far the last windows reach beyond the padding, where the size is rounded up.
    beyond: [usize; 2],
}

impl Pooling {
    fn read(im: &mut Importer<'_>, node: &Node) -> Result<Pooling, Fault> {
        let x = im.float(node, 0)?;
        let rank = im.ty(x).shape.rank();
        let x = as_picture(im, x, "in")?;
        let kernel = node.ints("kernel_shape")?.ok_or_else(|| malformed("lacks its kernel_shape"))?;
        let input = spatial(im, x)?;
        let window = window(node, rank - 2, spread(kernel, rank - 2, 1)?, input)?;
        if window.dilation != [1, 1] {
            return Err(unsupported("with dilations"));
        }
        let beyond = match node.flag("ceil_mode", false)? {
            true => [0, 1].map(|a| beyond(&window, a, input[a])),
            false => [0; 2],
        };
        Ok(Pooling { x, rank, window, beyond })
    }
}

/// Windows that begin beyond input and padding before it are dropped, as PyTorch does.
fn beyond(window: &Window, a: usize, input: usize) -> usize {
    let stride = window.stride[a];
    let padded = input.saturating_add(window.pad[a]).saturating_add(window.pad[a + 2]);
    let Some(room) = padded.checked_sub(extent(window, a)) else { return 0 };
    let mut last = room.div_ceil(stride).saturating_mul(stride);
    if last >= input.saturating_add(window.pad[a]) {
        last = last.saturating_sub(stride);
    }
    last.saturating_add(extent(window, a)).saturating_sub(padded)
}

pub(super) fn global_average(im: &mut Importer<'_>, node: &Node) -> Made {
    global(im, node, ReduceFn::Mean)
}

pub(super) fn global_max(im: &mut Importer<'_>, node: &Node) -> Made {
    global(im, node, ReduceFn::Max)
}

fn global(im: &mut Importer<'_>, node: &Node, f: ReduceFn) -> Made {
    let x = im.float(node, 0)?;
    let axes: Vec<usize> = (2..im.ty(x).shape.rank()).collect();
    if axes.is_empty() {
        return Err(malformed(format!("of {}, which is no picture", im.ty(x))));
    }
    let y = im.add("", Op::Reduce { f, axes, keep: true }, &[x])?;
    Ok(vec![Value::Flowing(y)])
}
