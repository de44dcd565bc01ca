//! One axis of a correlation, split into phases whose outputs all use the same taps.

use crate::conv::ConvGeometry;

/// Outputs `first + step * t` for `t < count`; number t is the sum over taps `j < taps` of kernel element
/// `kernel + kernel_step * j` times input `start + stride * t + dilation * j`, where that lies in `0..input`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) first: usize,
    pub(super) step: usize,
    pub(super) count: usize,
    pub(super) start: isize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) taps: usize,
    pub(super) kernel: usize,
    pub(super) kernel_step: isize,
    pub(super) input: usize,
}

impl Phase {
    /// The convolution itself: a single phase.
    pub(super) fn forward(g: &ConvGeometry, axis: usize) -> Vec<Phase> {
        vec![Phase {
            first: 0,
            step: 1,
            count: g.output[axis],
            start: -(g.window.pad[axis] as isize),
            stride: g.window.stride[axis],
            dilation: g.window.dilation[axis],
            taps: g.window.kernel[axis],
            kernel: 0,
            kernel_step: 1,
            input: g.input[axis],
        }]
    }

    /// The gradient for the input: a phase for each residue of the position modulo the stride. Position i receives from
    /// output o by kernel element k where `o * stride + k * dilation - pad = i`; with k falling, o rises.
    pub(super) fn input_grad(g: &ConvGeometry, axis: usize) -> Vec<Phase> {
        (0..g.window.stride[axis]).map(|residue| Phase::of_residue(g, axis, residue)).collect()
    }

    fn of_residue(g: &ConvGeometry, axis: usize, residue: usize) -> Phase {
        let (w, stride) = (&g.window, g.window.stride[axis]);
        let at = |k: usize| (residue + w.pad[axis]) as isize - (k * w.dilation[axis]) as isize;
        let hits = |k: &usize| at(*k).rem_euclid(stride as isize) == 0;
        let elements: Vec<usize> = (0..w.kernel[axis]).rev().filter(hits).collect();
        let kernel = elements.first().copied().unwrap_or(0);
        let next = elements.get(1).copied().unwrap_or(kernel);
        Phase {
            first: residue,
            step: stride,
            count: g.input[axis].saturating_sub(residue).div_ceil(stride),
            start: at(kernel).div_euclid(stride as isize),
            stride: 1,
            dilation: ((kernel - next) * w.dilation[axis] / stride).max(1),
            taps: elements.len(),
            kernel,
            kernel_step: next as isize - kernel as isize,
            input: g.output[axis],
        }
    }

    /// The kernel element of tap `j`.
    pub(super) fn element(&self, j: usize) -> usize {
        self.kernel.wrapping_add_signed(self.kernel_step * j as isize)
    }

    /// The taps of output number `t` that lie on the input, and the input of the first of them.
    pub(super) fn inside(&self, t: usize) -> (std::ops::Range<usize>, usize) {
        let origin = self.start + (self.stride * t) as isize;
        let skipped = (-origin).max(0) as usize;
        let begin = skipped.div_ceil(self.dilation).min(self.taps);
        let first = origin + (begin * self.dilation) as isize;
        let left = (self.input as isize - first).max(0) as usize;
        let end = (begin + left.div_ceil(self.dilation)).min(self.taps);
        (begin..end, first.max(0) as usize)
    }
}
