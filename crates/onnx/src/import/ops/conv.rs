//! Convolutions and transposed convolutions over one or two axes.

use std::rc::Rc;

use espalier_graph::{BinaryFn, Dim, Op, Role, Shape, ValueId, Window};

use crate::import::constant::Constant;
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;

pub(super) fn conv(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let rank = im.ty(x).shape.rank();
    let picture = as_picture(im, x, "in")?;
    let w = weight(im, node)?;
    let kernel = kernel(im, node, w)?;
    let input = spatial(im, picture)?;
    let window = window(node, rank - 2, kernel, input)?;
    let groups = shapes::size(node.int_or("group", 1)?)?;
    let mut inputs = vec![picture, w];
    if im.optional(node, 2).is_some() {
        inputs.push(im.parameter(node, 2, "bias")?);
    }
    let part = if rank == 3 { "picture" } else { "" };
    let y = im.add(part, Op::Conv { window, groups }, &inputs)?;
    from_picture(im, y, rank)
}

/// The gradient of a convolution for its input: the same taps, read the other way round.
pub(super) fn transposed(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let rank = im.ty(x).shape.rank();
    let picture = as_picture(im, x, "in")?;
    let w = weight(im, node)?;
    let kernel = kernel(im, node, w)?;
    let (window, input) = transposed_window(node, rank - 2, kernel, spatial(im, picture)?)?;
    let groups = shapes::size(node.int_or("group", 1)?)?;
    let op = Op::ConvInputGrad { window, groups, input };
    let biased = im.optional(node, 2).is_some();
    let part = if biased || rank == 3 { "product" } else { "" };
    let mut y = im.add(part, op, &[picture, w])?;
    if biased {
        let bias = im.parameter(node, 2, "bias")?;
        let channels = im.dims(y)[1];
        let one = Dim::from(1);
        let bias = im.reshaped("bias", bias, Shape(vec![one, channels, one, one]))?;
        let part = if rank == 3 { "sum" } else { "" };
        y = im.add(part, Op::Binary { f: BinaryFn::Add }, &[y, bias])?;
    }
    from_picture(im, y, rank)
}

/// A series `[N,C,L]` as a picture of height 1.
pub(super) fn as_picture(im: &mut Importer<'_>, x: ValueId, part: &str) -> Result<ValueId, Fault> {
    let dims = im.dims(x);
    match dims[..] {
        [_, _, _, _] => Ok(x),
        [n, c, l] => im.reshaped(part, x, Shape(vec![n, c, 1.into(), l])),
        _ if dims.len() > 4 => {
            Err(unsupported(format!("over {} axes; one and two are supported", dims.len() - 2)))
        }
        _ => Err(malformed(format!("of {}, which is no picture", im.ty(x)))),
    }
}

/// A picture of height 1 as a series again, if it was one.
pub(super) fn from_picture(im: &mut Importer<'_>, y: ValueId, rank: usize) -> Made {
    let dims = im.dims(y);
    let y = if rank == 3 { im.reshaped("", y, Shape(vec![dims[0], dims[1], dims[3]]))? } else { y };
    Ok(vec![Value::Flowing(y)])
}

/// The weight as `[.., .., height, width]`.
fn weight(im: &mut Importer<'_>, node: &Node) -> Result<ValueId, Fault> {
    let constant = match im.input(node, 1)? {
        Value::Constant(c) => c,
        _ => {
            let w = im.float(node, 1)?;
            return as_picture(im, w, "weight");
        }
    };
    match constant.shape[..] {
        [a, b, k] => {
            let wide = Rc::new(Constant { shape: vec![a, b, 1, k], ..Constant::clone(&constant) });
            im.bytes.reshaped(&constant, &wide);
            im.state(&wide, "weight", Role::Weight)
        }
        _ => im.parameter(node, 1, "weight"),
    }
}

/// Height and width of the kernel, which the weight's shape says.
fn kernel(im: &Importer<'_>, node: &Node, w: ValueId) -> Result<[usize; 2], Fault> {
    let kernel = [im.known_dim(w, 2)?, im.known_dim(w, 3)?];
    let said = node.ints("kernel_shape")?.map(|list| spread(list, list.len(), 1)).transpose()?;
    match said {
        Some(said) if said != kernel => {
            Err(malformed(format!("says its kernel is {said:?}, the weight's is {kernel:?}")))
        }
        _ => Ok(kernel),
    }
}

/// Height and width of a picture.
pub(super) fn spatial(im: &Importer<'_>, x: ValueId) -> Result<[usize; 2], Fault> {
    Ok([im.known_dim(x, 2)?, im.known_dim(x, 3)?])
}

/// A list for one or two axes, as one for height and width; `rest` for the height of a series.
pub(super) fn spread(list: &[i64], axes: usize, rest: usize) -> Result<[usize; 2], Fault> {
    let sizes = list.iter().map(|&v| shapes::size(v)).collect::<Result<Vec<_>, _>>()?;
    match (axes, &sizes[..]) {
        (1, &[k]) => Ok([rest, k]),
        (2, &[h, w]) => Ok([h, w]),
        _ => Err(malformed(format!("gives {list:?} for {axes} axes"))),
    }
}

fn listed(node: &Node, name: &str, axes: usize, default: usize) -> Result<[usize; 2], Fault> {
    node.ints(name)?.map_or(Ok([default; 2]), |list| spread(list, axes, default))
}

/// Kernel, strides, dilations and padding of a node over `axes` axes.
pub(super) fn window(
    node: &Node,
    axes: usize,
    kernel: [usize; 2],
    input: [usize; 2],
) -> Result<Window, Fault> {
    let (stride, dilation) = (listed(node, "strides", axes, 1)?, listed(node, "dilations", axes, 1)?);
    let mut window = Window { kernel, stride, pad: [0; 4], dilation };
    if kernel.contains(&0) || stride.contains(&0) || dilation.contains(&0) {
        return Err(malformed("has a kernel, stride or dilation of 0"));
    }
    match node.text("auto_pad")?.unwrap_or("NOTSET") {
        "NOTSET" | "" => window.pad = pads(node, axes)?,
        "VALID" => {}
        side @ ("SAME_UPPER" | "SAME_LOWER") => {
            for a in 0..2 {
                let output = input[a].div_ceil(stride[a]);
                let reach =
                    output.saturating_sub(1).saturating_mul(stride[a]).saturating_add(extent(&window, a));
                split_padding(&mut window, a, reach.saturating_sub(input[a]), side == "SAME_UPPER");
            }
        }
        other => return Err(malformed(format!("pads by `{}`", other.chars().take(40).collect::<String>()))),
    }
    Ok(window)
}

/// What one window spans along axis `a`.
pub(super) fn extent(window: &Window, a: usize) -> usize {
    (window.kernel[a] - 1).saturating_mul(window.dilation[a]).saturating_add(1)
}

/// Half of `total` before, half behind; the odd one where `upper` says.
fn split_padding(window: &mut Window, a: usize, total: usize, upper: bool) {
    let (small, large) = (total / 2, total - total / 2);
    (window.pad[a], window.pad[a + 2]) = if upper { (small, large) } else { (large, small) };
}

fn pads(node: &Node, axes: usize) -> Result<[usize; 4], Fault> {
    let Some(list) = node.ints("pads")? else { return Ok([0; 4]) };
    if list.iter().any(|&v| v < 0) {
        return Err(unsupported("negative padding"));
    }
    match (axes, list) {
        (1, &[before, after]) => Ok([0, shapes::size(before)?, 0, shapes::size(after)?]),
        (2, &[top, left, bottom, right]) => {
            Ok([shapes::size(top)?, shapes::size(left)?, shapes::size(bottom)?, shapes::size(right)?])
        }
        _ => Err(malformed(format!("pads {axes} axes by {list:?}"))),
    }
}

/// The window of the convolution whose gradient this is, and the size of the result.
fn transposed_window(
    node: &Node,
    axes: usize,
    kernel: [usize; 2],
    input: [usize; 2],
) -> Result<(Window, [usize; 2]), Fault> {
    let (stride, dilation) = (listed(node, "strides", axes, 1)?, listed(node, "dilations", axes, 1)?);
    let extra = listed(node, "output_padding", axes, 0)?;
    let mut window = Window { kernel, stride, pad: [0; 4], dilation };
    if kernel.contains(&0) || stride.contains(&0) || dilation.contains(&0) || input.contains(&0) {
        return Err(malformed("has a kernel, stride, dilation or input of 0"));
    }
    let auto = node.text("auto_pad")?.unwrap_or("NOTSET");
    let wanted = match node.ints("output_shape")? {
        Some(list) => Some(spread(&list[list.len().saturating_sub(axes)..], axes, 1)?),
        None if auto.starts_with("SAME") => Some([0, 1].map(|a| input[a].saturating_mul(stride[a]))),
        None => None,
    };
    let full = |a: usize| {
        let reach = (input[a] - 1).saturating_mul(stride[a]).saturating_add(extra[a]);
        reach.saturating_add((kernel[a] - 1).saturating_mul(dilation[a])).saturating_add(1)
    };
    let mut output = [0; 2];
    if wanted.is_none() && auto != "VALID" {
        window.pad = pads(node, axes)?;
    }
    for a in 0..2 {
        if let Some(wanted) = wanted {
            let total = full(a).checked_sub(wanted[a]);
            let total = total.ok_or_else(|| unsupported("an output larger than its windows reach"))?;
            split_padding(&mut window, a, total, auto == "SAME_UPPER");
        }
        let padding = window.pad[a].saturating_add(window.pad[a + 2]);
        output[a] =
            full(a).checked_sub(padding).filter(|&o| o > 0).ok_or_else(|| malformed("pads all away"))?;
    }
    Ok((window, output))
}
