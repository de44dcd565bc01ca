//! The naive reference of pooling.

use crate::reference::RefTensor;
use espalier_graph::{Op, Window};

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let mut out = RefTensor::zeros(&outputs[0]);
    match (op, inputs) {
        (Op::MaxPool { window }, [x]) => {
            for_windows(window, &x.shape, &outputs[0], |y, taps| {
                out.data[y] = taps.iter().fold(f64::NEG_INFINITY, |m, &i| larger(m, x.data[i]));
            });
        }
        (Op::MaxPoolGrad { window }, [x, dy]) => for_windows(window, &x.shape, &dy.shape, |y, taps| {
            let max = taps.iter().fold(f64::NEG_INFINITY, |m, &i| larger(m, x.data[i]));
            let first = taps.iter().find(|&&i| x.data[i] == max || max.is_nan());
            first.into_iter().for_each(|&i| out.data[i] += dy.data[y]);
        }),
        (Op::AvgPool { window, count_pad }, [x]) => {
            for_windows(window, &x.shape, &outputs[0], |y, taps| {
                let sum: f64 = taps.iter().map(|&i| x.data[i]).sum();
                out.data[y] = sum / divisor(window, *count_pad, taps);
            });
        }
        (Op::AvgPoolGrad { window, count_pad, .. }, [dy]) => {
            for_windows(window, &outputs[0], &dy.shape, |y, taps| {
                taps.iter().for_each(|&i| out.data[i] += dy.data[y] / divisor(window, *count_pad, taps));
            });
        }
        _ => unreachable!("{} is not of this family", op.name()),
    }
    vec![out]
}

fn larger(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

fn divisor(window: &Window, count_pad: bool, taps: &[usize]) -> f64 {
    if count_pad { (window.kernel[0] * window.kernel[1]) as f64 } else { taps.len().max(1) as f64 }
}

/// Calls `f` with the index of every output element and the indices of the input elements in its window.
fn for_windows(window: &Window, input: &[usize], output: &[usize], mut f: impl FnMut(usize, &[usize])) {
    let [h, w, oh, ow] = [input[2], input[3], output[2], output[3]];
    for y in 0..output.iter().product() {
        let (plane, at) = (y / (oh * ow), [y / ow % oh, y % ow]);
        let position = |axis: usize, k: usize| {
            (at[axis] * window.stride[axis] + k * window.dilation[axis]).checked_sub(window.pad[axis])
        };
        let mut taps = Vec::new();
        for (ky, kx) in (0..window.kernel[0]).flat_map(|ky| (0..window.kernel[1]).map(move |kx| (ky, kx))) {
            if let (Some(iy), Some(ix)) = (position(0, ky), position(1, kx))
                && iy < h
                && ix < w
            {
                taps.push((plane * h + iy) * w + ix);
            }
        }
        f(y, &taps);
    }
}
