//! What the convolutional networks share: a convolution with its BatchNorm, and PyTorch's rounding of channels.

use espalier_graph::{Graph, UnaryFn, ValueId, Window};

use super::Made;

/// ReLU6.
pub(super) const RELU6: UnaryFn = UnaryFn::Clip { lo: 0.0, hi: 6.0 };

/// What the BatchNorms of one network have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) eps: f32,
    pub(super) momentum: f32,
}

/// PyTorch's defaults.
pub(super) const DEFAULT_NORM: Norm = Norm { eps: 1e-5, momentum: 0.1 };

impl Norm {
    /// Convolution without bias, then BatchNorm; `names` are theirs.
    pub(super) fn conv(
        self,
        g: &mut Graph,
        [conv, norm]: [&str; 2],
        x: ValueId,
        out: usize,
        window: Window,
        groups: usize,
    ) -> Made {
        let x = g.conv2d(conv, x, out, window, groups, false)?;
        g.batch_norm(norm, x, self.eps, self.momentum)
    }
}

/// A window of odd size, padded so that a stride of 1 keeps the size of the picture.
pub(super) fn same(kernel: usize, stride: usize) -> Window {
    Window::square(kernel, stride, kernel / 2)
}

/// Channels of the picture tensor `x`.
pub(super) fn channels(g: &Graph, x: ValueId) -> usize {
    g.ty(x).shape.0[1].factor
}

/// The block `name` from `x` to `y`, with `x` added where channels and `stride` allow. That is the published stride: a
/// block whose stride is left out on small pictures adds no input either, so that weights keep their meaning.
pub(super) fn residual(g: &mut Graph, name: &str, x: ValueId, y: ValueId, stride: usize) -> Made {
    let adds = stride == 1 && channels(g, x) == channels(g, y);
    if adds { g.sum(&format!("{name}.add"), x, y) } else { Ok(y) }
}

/// The nearest multiple of 8, at least 8 and not more than a tenth below `channels`.
pub(super) fn divisible(channels: f64) -> usize {
    let nearest = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}
