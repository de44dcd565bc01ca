//! MobileNetV2 (Sandler et al. 2018), as torchvision has it.

use espalier_graph::{Graph, UnaryFn, ValueId, Window};

use super::{Made, NetworkOptions};

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
    let width = f64::from(o.width);
    let strides = if o.is_small() { [1, 1] } else { [2, 2] };
    let stem = Window::square(3, strides[0], 1);
    let mut x = activated(g, "features.0", x, divisible(32.0 * width), stem, 1)?;
    let mut index = 1;
    for (stage, (expansion, channels, blocks, stride)) in STAGES.into_iter().enumerate() {
        let stride = if stage == 1 { strides[1] } else { stride };
        for block in 0..blocks {
            let name = format!("features.{index}");
            let out = divisible(channels as f64 * width);
            x = inverted_residual(g, &name, x, expansion, out, if block == 0 { stride } else { 1 })?;
            index += 1;
        }
    }
    let last = divisible(1280.0 * width.max(1.0));
    let x = activated(g, &format!("features.{index}"), x, last, Window::square(1, 1, 0), 1)?;
    let x = g.global_avg_pool("pool", x)?;
    let x = g.dropout("classifier.0", x, 0.2)?;
    g.linear("classifier.1", x, o.classes)
}

/// The nearest multiple of 8, at least 8 and not more than a tenth below `channels`.
fn divisible(channels: f64) -> usize {
    let nearest = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}

/// Convolution without bias, BatchNorm and ReLU6.
fn activated(g: &mut Graph, name: &str, x: ValueId, out: usize, window: Window, groups: usize) -> Made {
    let x = g.conv2d(&format!("{name}.0"), x, out, window, groups, false)?;
    let x = g.batch_norm(&format!("{name}.1"), x, 1e-5, 0.1)?;
    g.unary(&format!("{name}.2"), UnaryFn::Clip { lo: 0.0, hi: 6.0 }, x)
}

/// Expands by 1x1, filters each channel by 3x3, projects by 1x1; adds its input where shapes allow.
fn inverted_residual(
    g: &mut Graph,
    name: &str,
    input: ValueId,
    expansion: usize,
    out: usize,
    stride: usize,
) -> Made {
    let channels = |g: &Graph, x: ValueId| g.ty(x).shape.0[1].factor;
    let inside = channels(g, input) * expansion;
    let mut x = input;
    let mut position = 0;
    if expansion != 1 {
        x = activated(g, &format!("{name}.conv.0"), x, inside, Window::square(1, 1, 0), 1)?;
        position = 1;
    }
    let depthwise = Window::square(3, stride, 1);
    x = activated(g, &format!("{name}.conv.{position}"), x, inside, depthwise, inside)?;
    let projection = format!("{name}.conv.{}", position + 1);
    x = g.conv2d(&projection, x, out, Window::square(1, 1, 0), 1, false)?;
    x = g.batch_norm(&format!("{name}.conv.{}", position + 2), x, 1e-5, 0.1)?;
    if stride == 1 && channels(g, input) == out { g.sum(&format!("{name}.add"), input, x) } else { Ok(x) }
}
