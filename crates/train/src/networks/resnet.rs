//! Residual networks (He et al. 2016), with the stride of a bottleneck in its 3x3 convolution, as torchvision has it.

use espalier_graph::{Graph, GraphError, Op, UnaryFn, ValueId, Window};

use super::conv_norm::{DEFAULT_NORM, same};
use super::{Made, NetworkOptions};

/// A block appended to the graph: its name, input, channels inside and stride.
type Block = fn(&mut Graph, &str, ValueId, usize, usize) -> Made;

pub(super) fn resnet18(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    resnet(g, x, o, basic, 1, [2, 2, 2, 2])
}

pub(super) fn resnet34(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    resnet(g, x, o, basic, 1, [3, 4, 6, 3])
}

pub(super) fn resnet50(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    resnet(g, x, o, bottleneck, 4, [3, 4, 6, 3])
}

fn resnet(
    g: &mut Graph,
    x: ValueId,
    o: &NetworkOptions,
    block: Block,
    expansion: usize,
    blocks: [usize; 4],
) -> Made {
    let mut x = stem(g, x, o)?;
    let mut channels = o.scale(64);
    for (stage, count) in blocks.into_iter().enumerate() {
        let inside = o.scale(64 << stage);
        for index in 0..count {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            let shortcut = if stride != 1 || channels != inside * expansion {
                let names = [&format!("{name}.downsample.0"), &format!("{name}.downsample.1")];
                DEFAULT_NORM.conv(g, names.map(String::as_str), x, inside * expansion, same(1, stride), 1)?
            } else {
                x
            };
            let y = block(g, &name, x, inside, stride)?;
            let sum = g.sum(&format!("{name}.add"), y, shortcut)?;
            x = g.unary(&format!("{name}.relu"), UnaryFn::Relu, sum)?;
            channels = inside * expansion;
        }
    }
    let x = g.global_avg_pool("avgpool", x)?;
    g.linear("fc", x, o.classes)
}

fn stem(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    let (kernel, stride) = if o.is_small() { (3, 1) } else { (7, 2) };
    let x = DEFAULT_NORM.conv(g, ["conv1", "bn1"], x, o.scale(64), same(kernel, stride), 1)?;
    let x = g.unary("relu", UnaryFn::Relu, x)?;
    if o.is_small() { Ok(x) } else { g.add("maxpool", Op::MaxPool { window: Window::square(3, 2, 1) }, &[x]) }
}

/// Convolution `number` of a block with its BatchNorm.
fn numbered(
    g: &mut Graph,
    block: &str,
    number: usize,
    x: ValueId,
    out: usize,
    kernel: usize,
    stride: usize,
) -> Made {
    let names = [&format!("{block}.conv{number}"), &format!("{block}.bn{number}")];
    DEFAULT_NORM.conv(g, names.map(String::as_str), x, out, same(kernel, stride), 1)
}

fn relu(g: &mut Graph, block: &str, number: usize, x: ValueId) -> Result<ValueId, GraphError> {
    g.unary(&format!("{block}.relu{number}"), UnaryFn::Relu, x)
}

fn basic(g: &mut Graph, name: &str, x: ValueId, inside: usize, stride: usize) -> Made {
    let x = numbered(g, name, 1, x, inside, 3, stride)?;
    let x = relu(g, name, 1, x)?;
    numbered(g, name, 2, x, inside, 3, 1)
}

fn bottleneck(g: &mut Graph, name: &str, x: ValueId, inside: usize, stride: usize) -> Made {
    let x = numbered(g, name, 1, x, inside, 1, 1)?;
    let x = relu(g, name, 1, x)?;
    let x = numbered(g, name, 2, x, inside, 3, stride)?;
    let x = relu(g, name, 2, x)?;
    numbered(g, name, 3, x, inside * 4, 1, 1)
}
