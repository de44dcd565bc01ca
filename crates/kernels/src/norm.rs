//! Normalisation: over the batch per channel (Ioffe and Szegedy 2015), over the last axis (Ba et al. 2016).

mod batch;
mod layer;
mod moments;

use crate::reference::RefTensor;
use espalier_graph::Op;

pub use batch::{NormGeometry, batch_norm, batch_norm_grad, batch_norm_training};
pub use layer::{layer_norm, layer_norm_grad};

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], _outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    match (op, inputs) {
        (Op::BatchNorm { eps, .. }, [x, gamma, beta, mean, var]) => {
            vec![normalise(x, gamma, beta, &mean.data, &rstd(&var.data, *eps))]
        }
        (Op::BatchNormTraining { eps, momentum }, [x, gamma, beta, mean, var]) => {
            training(x, gamma, beta, [mean, var], *eps, f64::from(*momentum))
        }
        (Op::BatchNormGrad, [x, dy, gamma, mean, rstd]) => batch_grad(x, dy, gamma, &mean.data, &rstd.data),
        (Op::LayerNorm { eps }, [x, gamma, beta]) => layer(x, gamma, beta, *eps),
        (Op::LayerNormGrad { eps }, [x, dy, gamma]) => layer_grad(x, dy, gamma, *eps),
        _ => unreachable!("{} is not of this family", op.name()),
    }
}

fn rstd(var: &[f64], eps: f32) -> Vec<f64> {
    var.iter().map(|v| 1.0 / (v + f64::from(eps)).sqrt()).collect()
}

/// Channel of each element of `x[N,C,..]`.
fn channels(x: &RefTensor) -> impl Iterator<Item = usize> {
    let (c, spatial) = (x.shape[1], x.shape[2..].iter().product::<usize>());
    (0..x.data.len()).map(move |i| i / spatial % c)
}

/// Sum per channel of `values`, which has the shape of `x`.
fn channel_sums(x: &RefTensor, values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sums = vec![0.0; x.shape[1]];
    channels(x).zip(values).for_each(|(c, v)| sums[c] += v);
    sums
}

fn normalise(x: &RefTensor, gamma: &RefTensor, beta: &RefTensor, mean: &[f64], rstd: &[f64]) -> RefTensor {
    let value = |(&x, c): (&f64, usize)| (x - mean[c]) * rstd[c] * gamma.data[c] + beta.data[c];
    RefTensor::new(&x.shape, x.data.iter().zip(channels(x)).map(value).collect())
}

fn training(
    x: &RefTensor,
    gamma: &RefTensor,
    beta: &RefTensor,
    running: [&RefTensor; 2],
    eps: f32,
    momentum: f64,
) -> Vec<RefTensor> {
    let n = (x.data.len() / x.shape[1]) as f64;
    let mean: Vec<f64> = channel_sums(x, x.data.iter().copied()).iter().map(|s| s / n).collect();
    let squares = channels(x).zip(&x.data).map(|(c, v)| (v - mean[c]).powi(2));
    let var: Vec<f64> = channel_sums(x, squares).iter().map(|s| s / n).collect();
    let unbiased = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
    let step = |old: &RefTensor, new: &[f64], factor: f64| {
        RefTensor::from_fn(&old.shape, |c| (1.0 - momentum) * old.data[c] + momentum * factor * new[c])
    };
    let rstd = rstd(&var, eps);
    vec![
        normalise(x, gamma, beta, &mean, &rstd),
        step(running[0], &mean, 1.0),
        step(running[1], &var, unbiased),
        RefTensor::new(&[mean.len()], mean.clone()),
        RefTensor::new(&[mean.len()], rstd),
    ]
}

fn batch_grad(
    x: &RefTensor,
    dy: &RefTensor,
    gamma: &RefTensor,
    mean: &[f64],
    rstd: &[f64],
) -> Vec<RefTensor> {
    let n = (x.data.len() / x.shape[1]) as f64;
    let hat: Vec<f64> = x.data.iter().zip(channels(x)).map(|(x, c)| (x - mean[c]) * rstd[c]).collect();
    let dbeta = channel_sums(x, dy.data.iter().copied());
    let dgamma = channel_sums(x, dy.data.iter().zip(&hat).map(|(g, h)| g * h));
    let dx = channels(x)
        .enumerate()
        .map(|(i, c)| gamma.data[c] * rstd[c] * (dy.data[i] - dbeta[c] / n - hat[i] * dgamma[c] / n));
    vec![
        RefTensor::new(&x.shape, dx.collect()),
        RefTensor::new(&gamma.shape, dgamma),
        RefTensor::new(&gamma.shape, dbeta),
    ]
}

/// Mean and 1 / standard deviation of a row.
fn row_statistics(row: &[f64], eps: f32) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + f64::from(eps)).sqrt())
}

fn layer(x: &RefTensor, gamma: &RefTensor, beta: &RefTensor, eps: f32) -> Vec<RefTensor> {
    let mut y = x.clone();
    for row in y.data.chunks_mut(gamma.data.len()) {
        let (mean, rstd) = row_statistics(row, eps);
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) * rstd * gamma.data[i] + beta.data[i];
        }
    }
    vec![y]
}

fn layer_grad(x: &RefTensor, dy: &RefTensor, gamma: &RefTensor, eps: f32) -> Vec<RefTensor> {
    let dim = gamma.data.len();
    let (mut dx, mut dgamma, mut dbeta) = (x.clone(), vec![0.0; dim], vec![0.0; dim]);
    for (row, dy) in dx.data.chunks_mut(dim).zip(dy.data.chunks(dim)) {
        let (mean, rstd) = row_statistics(row, eps);
        let hat: Vec<f64> = row.iter().map(|v| (v - mean) * rstd).collect();
        let dhat: Vec<f64> = dy.iter().zip(&gamma.data).map(|(g, w)| g * w).collect();
        let sum = dhat.iter().sum::<f64>() / dim as f64;
        let dot = dhat.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / dim as f64;
        for i in 0..dim {
            row[i] = rstd * (dhat[i] - sum - hat[i] * dot);
            dgamma[i] += dy[i] * hat[i];
            dbeta[i] += dy[i];
        }
    }
    vec![dx, RefTensor::new(&gamma.shape, dgamma), RefTensor::new(&gamma.shape, dbeta)]
}
