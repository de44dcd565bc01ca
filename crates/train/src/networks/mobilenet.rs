//! MobileNetV2 (Sandler et al. 2018) and V3 (Howard et al. 2019), as torchvision has them.

use espalier_graph::{BinaryFn, Graph, Op, ReduceFn, UnaryFn, ValueId, Window};

use super::conv_norm::{DEFAULT_NORM, Norm, RELU6, channels, divisible, residual, same};
use super::{Made, NetworkOptions};

/// Layers with BatchNorm and activation, named as torchvision names them: `NAME.0`, `NAME.1` and `NAME.2`.
struct Layers<'a> {
    g: &'a mut Graph,
    norm: Norm,
}

impl Layers<'_> {
    fn conv(&mut self, name: &str, x: ValueId, out: usize, window: Window, f: UnaryFn) -> Made {
        let x = self.normalised(name, x, out, window, 1)?;
        self.g.unary(&format!("{name}.2"), f, x)
    }

    /// 1x1, without an activation.
    fn projection(&mut self, name: &str, x: ValueId, out: usize) -> Made {
        self.normalised(name, x, out, same(1, 1), 1)
    }

    fn depthwise(&mut self, name: &str, x: ValueId, window: Window, f: UnaryFn) -> Made {
        let all = channels(self.g, x);
        let x = self.normalised(name, x, all, window, all)?;
        self.g.unary(&format!("{name}.2"), f, x)
    }

    fn normalised(&mut self, name: &str, x: ValueId, out: usize, window: Window, groups: usize) -> Made {
        self.norm.conv(self.g, [&format!("{name}.0"), &format!("{name}.1")], x, out, window, groups)
    }

    /// Gates each channel by a function of all channels' means (Hu et al. 2018).
    fn squeeze_excite(&mut self, name: &str, x: ValueId, squeezed: usize) -> Made {
        let all = channels(self.g, x);
        let g = &mut *self.g;
        let mean = Op::Reduce { f: ReduceFn::Mean, axes: vec![2, 3], keep: true };
        let gate = g.add(&format!("{name}.avgpool"), mean, &[x])?;
        let gate = g.conv2d(&format!("{name}.fc1"), gate, squeezed, same(1, 1), 1, true)?;
        let gate = g.unary(&format!("{name}.activation"), UnaryFn::Relu, gate)?;
        let gate = g.conv2d(&format!("{name}.fc2"), gate, all, same(1, 1), 1, true)?;
        let sigmoid = UnaryFn::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
        let gate = g.unary(&format!("{name}.scale_activation"), sigmoid, gate)?;
        g.add(name, Op::Binary { f: BinaryFn::Mul }, &[x, gate])
    }
}

/// Expansion, channels, blocks and first stride of each stage: table 2 of the paper.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

pub(super) fn mobilenet_v2(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    let width = o.written_width();
    let layers = &mut Layers { g, norm: DEFAULT_NORM };
    let mut x = layers.conv("features.0", x, divisible(32.0 * width), same(3, o.stride(2, true)), RELU6)?;
    let mut index = 1;
    for (stage, (expansion, channels, blocks, stride)) in STAGES.into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("features.{index}");
            let (out, stride) = (divisible(channels as f64 * width), if block == 0 { stride } else { 1 });
            let y = inverted_residual(layers, &name, x, expansion, out, o.stride(stride, stage == 1))?;
            x = residual(layers.g, &name, x, y, stride)?;
            index += 1;
        }
    }
    let last = format!("features.{index}");
    x = layers.conv(&last, x, divisible(1280.0 * width.max(1.0)), same(1, 1), RELU6)?;
    let x = g.global_avg_pool("pool", x)?;
    let x = g.dropout("classifier.0", x, 0.2)?;
    g.linear("classifier.1", x, o.classes)
}

/// Expands by 1x1, filters each channel by 3x3, projects by 1x1.
fn inverted_residual(
    layers: &mut Layers<'_>,
    name: &str,
    input: ValueId,
    expansion: usize,
    out: usize,
    stride: usize,
) -> Made {
    let inside = channels(layers.g, input) * expansion;
    let (mut x, mut position) = (input, 0);
    if expansion != 1 {
        x = layers.conv(&format!("{name}.conv.0"), x, inside, same(1, 1), RELU6)?;
        position = 1;
    }
    let at = |k: usize| format!("{name}.conv.{}", position + k);
    x = layers.depthwise(&at(0), x, same(3, stride), RELU6)?;
    layers.norm.conv(layers.g, [&at(1), &at(2)], x, out, same(1, 1), 1)
}

/// A block of MobileNetV3: a row of tables 1 and 2 of the paper.
struct Block {
    kernel: usize,
    inside: usize,
    out: usize,
    squeezes: bool,
    activation: UnaryFn,
    stride: usize,
}

const fn block(
    kernel: usize,
    inside: usize,
    out: usize,
    squeezes: bool,
    activation: UnaryFn,
    stride: usize,
) -> Block {
    Block { kernel, inside, out, squeezes, activation, stride }
}

const RE: UnaryFn = UnaryFn::Relu;
const HS: UnaryFn = UnaryFn::HardSwish;

const LARGE: [Block; 15] = [
    block(3, 16, 16, false, RE, 1),
    block(3, 64, 24, false, RE, 2),
    block(3, 72, 24, false, RE, 1),
    block(5, 72, 40, true, RE, 2),
    block(5, 120, 40, true, RE, 1),
    block(5, 120, 40, true, RE, 1),
    block(3, 240, 80, false, HS, 2),
    block(3, 200, 80, false, HS, 1),
    block(3, 184, 80, false, HS, 1),
    block(3, 184, 80, false, HS, 1),
    block(3, 480, 112, true, HS, 1),
    block(3, 672, 112, true, HS, 1),
    block(5, 672, 160, true, HS, 2),
    block(5, 960, 160, true, HS, 1),
    block(5, 960, 160, true, HS, 1),
];

const SMALL: [Block; 11] = [
    block(3, 16, 16, true, RE, 2),
    block(3, 72, 24, false, RE, 2),
    block(3, 88, 24, false, RE, 1),
    block(5, 96, 40, true, HS, 2),
    block(5, 240, 40, true, HS, 1),
    block(5, 240, 40, true, HS, 1),
    block(5, 120, 48, true, HS, 1),
    block(5, 144, 48, true, HS, 1),
    block(5, 288, 96, true, HS, 2),
    block(5, 576, 96, true, HS, 1),
    block(5, 576, 96, true, HS, 1),
];

pub(super) fn mobilenet_v3_large(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    mobilenet_v3(g, x, o, &LARGE, 1280)
}

pub(super) fn mobilenet_v3_small(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    mobilenet_v3(g, x, o, &SMALL, 1024)
}

fn mobilenet_v3(g: &mut Graph, x: ValueId, o: &NetworkOptions, blocks: &[Block], hidden: usize) -> Made {
    let width = o.written_width();
    let scaled = |channels: usize| divisible(channels as f64 * width);
    let layers = &mut Layers { g, norm: Norm { eps: 1e-3, momentum: 0.01 } };
    let mut x = layers.conv("features.0", x, scaled(16), same(3, o.stride(2, true)), HS)?;
    let first_strided = blocks.iter().position(|block| block.stride > 1);
    for (i, block) in blocks.iter().enumerate() {
        let name = format!("features.{}", i + 1);
        let stride = o.stride(block.stride, first_strided == Some(i));
        let y = bottleneck(layers, &name, x, block, [block.inside, block.out].map(scaled), stride)?;
        x = residual(layers.g, &name, x, y, block.stride)?;
    }
    let last = format!("features.{}", blocks.len() + 1);
    x = layers.conv(&last, x, 6 * channels(layers.g, x), same(1, 1), HS)?;
    let x = g.global_avg_pool("avgpool", x)?;
    let x = g.linear("classifier.0", x, scaled(hidden))?;
    let x = g.unary("classifier.1", HS, x)?;
    let x = g.dropout("classifier.2", x, 0.2)?;
    g.linear("classifier.3", x, o.classes)
}

/// As [`inverted_residual`], with the kernel and activation of `block`, and gated where it squeezes.
fn bottleneck(
    layers: &mut Layers<'_>,
    name: &str,
    input: ValueId,
    block: &Block,
    [inside, out]: [usize; 2],
    stride: usize,
) -> Made {
    let mut names = (0..).map(|i| format!("{name}.block.{i}"));
    let mut next = || names.next().expect("names never end");
    let mut x = input;
    if inside != channels(layers.g, input) {
        x = layers.conv(&next(), x, inside, same(1, 1), block.activation)?;
    }
    x = layers.depthwise(&next(), x, same(block.kernel, stride), block.activation)?;
    if block.squeezes {
        x = layers.squeeze_excite(&next(), x, divisible((inside / 4) as f64))?;
    }
    layers.projection(&next(), x, out)
}
