//! EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and with ReLU6), as timm has it: padding is
//! symmetric, and neither stem nor head follow the width.

use espalier_graph::{Graph, ValueId};

use super::conv_norm::{DEFAULT_NORM, RELU6, channels, divisible, residual, same};
use super::{Made, NetworkOptions};

/// Kernel, expansion, channels, blocks and first stride of each stage: table 1 of the paper.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
];

pub(super) fn efficientnet_lite0(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    let mut x = activated(g, ["conv_stem", "bn1"], x, 32, [3, o.stride(2, true)], 1)?;
    for (stage, (kernel, expansion, channels, blocks, stride)) in STAGES.into_iter().enumerate() {
        let out = divisible(channels as f64 * o.written_width());
        for block in 0..blocks {
            let name = format!("blocks.{stage}.{block}");
            let stride = if block == 0 { stride } else { 1 };
            let y = inverted_residual(g, &name, x, expansion, out, [kernel, o.stride(stride, stage == 1)])?;
            x = residual(g, &name, x, y, stride)?;
        }
    }
    let x = activated(g, ["conv_head", "bn2"], x, 1280, [1, 1], 1)?;
    let x = g.global_avg_pool("global_pool", x)?;
    let x = g.dropout("dropout", x, 0.2)?;
    g.linear("classifier", x, o.classes)
}

fn activated(
    g: &mut Graph,
    [conv, norm]: [&str; 2],
    x: ValueId,
    out: usize,
    [kernel, stride]: [usize; 2],
    groups: usize,
) -> Made {
    let x = DEFAULT_NORM.conv(g, [conv, norm], x, out, same(kernel, stride), groups)?;
    g.unary(&format!("{norm}.act"), RELU6, x)
}

/// Expands by 1x1 (except where the expansion is 1), filters each channel, projects by 1x1. timm numbers the norms, and
/// calls the projection differently where nothing expands.
fn inverted_residual(
    g: &mut Graph,
    name: &str,
    input: ValueId,
    expansion: usize,
    out: usize,
    [kernel, stride]: [usize; 2],
) -> Made {
    let inside = channels(g, input) * expansion;
    let at = |part: &str| format!("{name}.{part}");
    let (mut x, mut norms) = (input, 1..);
    let mut norm = || at(&format!("bn{}", norms.next().expect("numbers never end")));
    if expansion != 1 {
        x = activated(g, [&at("conv_pw"), &norm()], x, inside, [1, 1], 1)?;
    }
    x = activated(g, [&at("conv_dw"), &norm()], x, inside, [kernel, stride], inside)?;
    let projection = at(if expansion == 1 { "conv_pw" } else { "conv_pwl" });
    DEFAULT_NORM.conv(g, [&projection, &norm()], x, out, same(1, 1), 1)
}
