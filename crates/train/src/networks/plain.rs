//! A plain convolutional network, for benchmarks: six convolutions with BatchNorm and ReLU, then the mean.

use espalier_graph::{Graph, UnaryFn, ValueId};

use super::conv_norm::{DEFAULT_NORM, same};
use super::{Made, NetworkOptions};

const LAYERS: [(usize, usize); 6] = [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)];

/// States are named as in a PyTorch `Sequential`, by their layer's position.
pub(super) fn plain6(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    let mut x = x;
    for (i, (out, stride)) in LAYERS.into_iter().enumerate() {
        let at = |k: usize| (3 * i + k).to_string();
        x = DEFAULT_NORM.conv(g, [&at(0), &at(1)], x, o.scale(out), same(3, stride), 1)?;
        x = g.unary(&at(2), UnaryFn::Relu, x)?;
    }
    let x = g.global_avg_pool("18", x)?;
    g.linear("20", x, o.classes)
}
