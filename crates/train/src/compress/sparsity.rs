//! Pruning of connections: weights become zero in blocks that the sparse int8 kernels skip.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use espalier_graph::{Graph, Tensor, Weights};
use espalier_passes::sparsify::{Blocks, sparse_layers};
use espalier_runtime::Plan;

use super::Event;
use super::fine_tune::{Lesson, Tutor};
use super::variant::Sparsity;

/// Share of the lesson after which no more blocks become zero.
const RAMP: f64 = 0.6;
/// So often the blocks are chosen anew on the way.
const ROUNDS: f64 = 40.0;
/// Batches that gradients are measured on.
const GRADIENT_BATCHES: usize = 16;
/// A layer's share of zeros is at most this far from the share of all.
const BAND: f64 = 0.05;
/// How much of a block's weight in the choice is the time that it takes, from 0 to 1.
const TIME: f64 = 0.75;
/// The highest learning rate, in units of training's.
const RATE: f32 = 0.4;

/// A layer whose weights become zero in blocks.
struct Layer {
    name: String,
    blocks: Blocks,
    /// Share of its blocks that shall be zero.
    share: f64,
    /// Those that are, by now.
    zeros: Vec<u32>,
}

/// The weights of `network` with so many of those of its inner layers zero, fine-tuned by `tutor` while and after they become so (Zhu and Gupta 2017, "To prune, or not to prune": the share rises
/// as a cubic, the smallest blocks go first, and may not come back). `seconds` says how long each layer takes, by the name of
/// its weight.
///
/// Layers get different shares: blocks are compared over all layers by the squares of their weights times those of their
/// layer's gradients, which estimates what the loss rises by (LeCun et al. 1989, with the squared gradient for the
/// curvature), and by the time that they take.
///
/// # Errors
/// The network has no inner layer; as [`Tutor::teach`].
pub(super) fn sparse(
    (network, weights): (&Graph, &Weights),
    sparsity: Sparsity,
    seconds: &BTreeMap<String, f64>,
    tutor: &mut Tutor,
    (epochs, max_time): (f64, Option<Duration>),
    notify: &mut dyn FnMut(Event),
) -> anyhow::Result<Weights> {
    let mut layers = Layer::all(network, sparsity.block_outputs)?;
    let squares = mean_squares(&layers, network, weights, tutor)?;
    let shares = shares(&layers, weights, &squares, seconds, sparsity.share);
    layers.iter_mut().zip(shares).for_each(|(layer, share)| layer.share = share);
    let mut next = 0.0;
    let mut after_step = |done: f64, plan: &mut Plan| {
        let progress = (done / RAMP).min(1.0);
        let rise = 1.0 - (1.0 - progress).powi(3);
        let choose = progress >= next;
        if choose {
            next = if progress < 1.0 { (progress + 1.0 / ROUNDS).min(1.0) } else { f64::INFINITY };
        }
        for layer in &mut layers {
            let values = plan.state(&layer.name).expect("training changes every weight");
            if choose {
                layer.choose(values, rise);
            }
            layer.blocks.zero(values, &layer.zeros);
        }
    };
    let lesson = Lesson {
        what: "sparse",
        network,
        weights,
        epochs,
        rate: RATE,
        max_time,
        after_step: &mut after_step,
    };
    tutor.teach(lesson, notify)
}

/// The weights with the smallest blocks of every inner layer zero, not trained: as fast as the sparse ones.
///
/// # Errors
/// The network has no inner layer.
pub(super) fn draft((network, weights): (&Graph, &Weights), sparsity: Sparsity) -> anyhow::Result<Weights> {
    let mut sparse = weights.clone();
    for mut layer in Layer::all(network, sparsity.block_outputs)? {
        layer.share = sparsity.share;
        let tensor = sparse.get_mut(&layer.name).expect("a float network has its weights");
        let mut values = tensor.as_f32().expect("a float network").to_vec();
        layer.choose(&values, 1.0);
        layer.blocks.zero(&mut values, &layer.zeros);
        *tensor = Tensor::f32(&tensor.shape, values);
    }
    Ok(sparse)
}

impl Layer {
    fn all(network: &Graph, height: usize) -> anyhow::Result<Vec<Layer>> {
        let layer = |id| {
            let sizes: Vec<usize> = network.ty(id).shape.0.iter().map(|dim| dim.factor).collect();
            let name = network.value(id).name.clone();
            Layer { name, blocks: Blocks::new(&sizes, height), share: 0.0, zeros: Vec::new() }
        };
        let layers: Vec<Layer> = sparse_layers(network).into_iter().map(layer).collect();
        ensure!(
            !layers.is_empty(),
            "no layer of this network can have blocks of zeros: it should have a convolution without groups between its first \
             and its last layer"
        );
        Ok(layers)
    }

    /// The smallest blocks of `values`, `rise` of those that shall be zero in the end. Zeros are the smallest, so they stay.
    fn choose(&mut self, values: &[f32], rise: f64) {
        let squares = self.blocks.squares(values);
        let count = (squares.len() as f64 * self.share * rise).round() as usize;
        let mut order: Vec<u32> = (0..squares.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| squares[a as usize].total_cmp(&squares[b as usize]).then(a.cmp(&b)));
        order.truncate(count);
        self.zeros = order;
    }
}

/// For each layer the mean square of its gradient.
fn mean_squares(
    layers: &[Layer],
    network: &Graph,
    weights: &Weights,
    tutor: &mut Tutor,
) -> anyhow::Result<Vec<f64>> {
    let mut sums = vec![0.0; layers.len()];
    tutor.gradients(network, weights, GRADIENT_BATCHES, &mut |gradients| {
        for (sum, layer) in sums.iter_mut().zip(layers) {
            let values = &gradients[&layer.name];
            *sum += values.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>() / values.len() as f64;
        }
    })?;
    Ok(sums)
}

/// The share of zeros of each layer, such that all together have `share`: blocks with the least harm for the time that
/// they take go first, but no layer is far from the others.
fn shares(
    layers: &[Layer],
    weights: &Weights,
    squares: &[f64],
    seconds: &BTreeMap<String, f64>,
    share: f64,
) -> Vec<f64> {
    let counts: Vec<usize> = layers.iter().map(|layer| layer.blocks.count()).collect();
    let time = |at: usize| seconds.get(&layers[at].name).copied().unwrap_or(0.0) / counts[at].max(1) as f64;
    let mean_time = (0..layers.len()).map(time).sum::<f64>() / layers.len().max(1) as f64;
    let (low, high) = ((share - BAND).max(0.0), (share + BAND).min(1.0));
    let mut taken: Vec<usize> = counts.iter().map(|&n| (n as f64 * low).round() as usize).collect();
    // What may go beyond the least share of its layer: harm for time, and the layer.
    let mut free: Vec<(f64, usize)> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let values = weights[&layer.name].as_f32().expect("a float network");
        let mut harms: Vec<f64> =
            layer.blocks.squares(values).iter().map(|&square| f64::from(square) * squares[at]).collect();
        harms.sort_unstable_by(f64::total_cmp);
        let most = (counts[at] as f64 * high).round() as usize;
        let gain = (1.0 - TIME) + TIME * time(at) / mean_time.max(f64::MIN_POSITIVE);
        free.extend(harms[taken[at]..most].iter().map(|harm| (harm / gain, at)));
    }
    free.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let all: usize = counts.iter().sum();
    let missing = ((all as f64 * share).round() as usize).saturating_sub(taken.iter().sum());
    free.iter().take(missing).for_each(|&(_, at)| taken[at] += 1);
    taken.iter().zip(&counts).map(|(&taken, &count)| taken as f64 / count.max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::{NetworkOptions, build};

    /// Layers of `counts` blocks with these magnitudes, gradients and times.
    fn check(layers: &[(usize, f32, f64, f64)], share: f64, holds: impl Fn(&[f64]) -> bool) {
        let (mut all, mut weights, mut seconds) = (Vec::new(), Weights::new(), BTreeMap::new());
        for (at, &(count, magnitude, _, time)) in layers.iter().enumerate() {
            let sizes = [2, 4, count, 1];
            let values = (0..8 * count).map(|i| magnitude * (1.0 + (i % count) as f32 / count as f32));
            let name = format!("{at}");
            weights.insert(name.clone(), Tensor::f32(&sizes, values.collect()));
            seconds.insert(name.clone(), time);
            all.push(Layer { name, blocks: Blocks::new(&sizes, 2), share: 0.0, zeros: Vec::new() });
        }
        let squares: Vec<f64> = layers.iter().map(|&(.., gradient, _)| gradient).collect();
        let got = shares(&all, &weights, &squares, &seconds, share);
        let counts = layers.iter().map(|&(count, ..)| count as f64);
        let zeros: f64 = got.iter().zip(counts.clone()).map(|(share, count)| share * count).sum();
        let want = share * counts.sum::<f64>();
        assert!((zeros - want).abs() <= 1.5, "{zeros} of {want} blocks are zero: {got:?}");
        assert!(got.iter().all(|got| (got - share).abs() <= BAND + 0.01), "{got:?}");
        assert!(holds(&got), "{got:?}");
    }

    #[test]
    fn layers_share_what_is_to_be_zero() {
        let even = |got: &[f64]| (got[0] - got[1]).abs() < 0.02;
        check(&[(100, 1.0, 1.0, 1.0), (100, 1.0, 1.0, 1.0)], 0.75, even);
        // Small weights, flat losses and slow layers go first.
        let second = |got: &[f64]| got[1] > got[0] + 0.05;
        check(&[(100, 1.0, 1.0, 1.0), (100, 0.1, 1.0, 1.0)], 0.75, second);
        check(&[(100, 1.0, 1.0, 1.0), (100, 1.0, 0.1, 1.0)], 0.5, second);
        check(&[(100, 1.0, 1.0, 1.0), (100, 1.0, 1.0, 9.0)], 0.5, second);
        check(&[(10, 1.0, 1.0, 1.0), (1000, 2.0, 1.0, 0.0)], 0.95, |_| true);
        check(&[(100, 1.0, 1.0, 1.0)], 0.0, |got| got == [0.0]);
    }

    #[test]
    fn a_network_without_inner_layers_is_told() {
        let options = NetworkOptions { classes: 3, channels: 3, size: [32; 2], width: 0.25 };
        let inner = build("plain6", &options).unwrap();
        assert_eq!(Layer::all(&inner, 2).unwrap().len(), 5);
        let error = Layer::all(&Graph::new(), 2).err().unwrap().to_string();
        assert!(error.contains("no layer of this network"), "{error}");
    }

    #[test]
    fn the_smallest_blocks_go_and_stay() {
        let mut layer = Layer {
            name: String::new(),
            blocks: Blocks::new(&[2, 4, 1, 4], 2),
            share: 0.5,
            zeros: Vec::new(),
        };
        let mut values: Vec<f32> = (0..32).map(|i| [3.0, 1.0, 4.0, 2.0][i % 4]).collect();
        layer.choose(&values, 0.5);
        assert_eq!(layer.zeros, [1]);
        layer.blocks.zero(&mut values, &layer.zeros);
        layer.choose(&values, 1.0);
        assert_eq!(layer.zeros, [1, 3]);
    }
}
