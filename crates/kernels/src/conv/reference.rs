//! The naive convolution and its gradients, in f64.

use crate::reference::RefTensor;
use espalier_graph::{Op, Window};

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let mut out = RefTensor::zeros(&outputs[0]);
    match op {
        Op::Conv { window, groups } => {
            let (x, w) = (inputs[0], inputs[1]);
            if let Some(bias) = inputs.get(2) {
                let plane = out.shape[2] * out.shape[3];
                let channels = out.shape[1];
                out.data.iter_mut().enumerate().for_each(|(i, y)| *y = bias.data[i / plane % channels]);
            }
            let (y_shape, x_shape, w_shape) = (out.shape.clone(), x.shape.clone(), w.shape.clone());
            for_each_product(window, *groups, &x_shape, &w_shape, &y_shape, |i, k, o| {
                out.data[o] += x.data[i] * w.data[k];
            });
        }
        Op::ConvInputGrad { window, groups, .. } => {
            let (dy, w) = (inputs[0], inputs[1]);
            let x_shape = out.shape.clone();
            for_each_product(window, *groups, &x_shape, &w.shape, &dy.shape, |i, k, o| {
                out.data[i] += dy.data[o] * w.data[k];
            });
        }
        Op::ConvWeightGrad { window, groups } => {
            let (x, dy) = (inputs[0], inputs[1]);
            let w_shape = out.shape.clone();
            for_each_product(window, *groups, &x.shape, &w_shape, &dy.shape, |i, k, o| {
                out.data[k] += x.data[i] * dy.data[o];
            });
        }
        other => unreachable!("{} is not of this family", other.name()),
    }
    vec![out]
}

/// Calls `f(x index, w index, y index)` for every product that a convolution sums up.
fn for_each_product(
    window: &Window,
    groups: usize,
    x: &[usize],
    w: &[usize],
    y: &[usize],
    mut f: impl FnMut(usize, usize, usize),
) {
    let inside = |out: usize, k: usize, axis: usize| {
        let at = (out * window.stride[axis] + k * window.dilation[axis]).checked_sub(window.pad[axis])?;
        (at < x[2 + axis]).then_some(at)
    };
    for n in 0..y[0] {
        for o in 0..y[1] {
            for c in 0..w[1] {
                let channel = o / (y[1] / groups) * w[1] + c;
                for tap in 0..w[2] * w[3] {
                    for pixel in 0..y[2] * y[3] {
                        let row = inside(pixel / y[3], tap / w[3], 0);
                        let column = inside(pixel % y[3], tap % w[3], 1);
                        if let (Some(row), Some(column)) = (row, column) {
                            let i = ((n * x[1] + channel) * x[2] + row) * x[3] + column;
                            let k = (o * w[1] + c) * w[2] * w[3] + tap;
                            f(i, k, (n * y[1] + o) * y[2] * y[3] + pixel);
                        }
                    }
                }
            }
        }
    }
}
