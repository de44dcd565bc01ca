//! `benchmark --random-sparsity`: the speed of a pruned network, before there is one.

use anyhow::bail;
use espalier_graph::random::Random;
use espalier_graph::{DType, Data, Graph, Op, Weights};
use espalier_passes::sparsify::{Blocks, sparse_layers};

use crate::exit::usage;

/// Output channels of a block.
const BLOCK_OUTPUTS: usize = 2;
/// Stream of the random numbers that choose blocks; the layer's place is added.
const STREAM: u64 = 100;

/// What became zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Zeroed {
    /// Layers that were taken.
    pub(super) layers: usize,
    /// Their weights, and how many of these are zero now.
    pub(super) weights: usize,
    pub(super) zeros: usize,
}

impl Zeroed {
    /// Share of zeros in these layers.
    pub(super) fn share(&self) -> f64 {
        self.zeros as f64 / self.weights as f64
    }
}

/// Zeroes `share` of the blocks of each layer that [`sparse_layers`] names; which ones is random and the same in every run.
///
/// # Errors
/// No integer layer at all, or none that pruning would take.
pub(super) fn zero_blocks(graph: &Graph, weights: &mut Weights, share: f32) -> anyhow::Result<Zeroed> {
    if !(0.0..=1.0).contains(&share) {
        return Err(usage(format!("--random-sparsity: {share} is not in 0..=1")));
    }
    if !graph.nodes().iter().any(|node| matches!(node.op, Op::QConv { .. })) {
        return Err(usage(
            "--random-sparsity: the package computes in f32, and only int8 layers skip blocks of zeros; it should be \
             quantized, like a package that `espalier import` makes of a QDQ int8 ONNX file",
        ));
    }
    let mut layers = sparse_layers(graph);
    layers.retain(|&id| graph.ty(id).dtype == DType::S8);
    if layers.is_empty() {
        return Err(usage(
            "--random-sparsity: pruning takes no layer of this package: it should have int8 convolutions without groups \
             between its first and its last layer",
        ));
    }
    let mut zeroed = Zeroed { layers: layers.len(), ..Zeroed::default() };
    for (place, &id) in layers.iter().enumerate() {
        let name = &graph.value(id).name;
        let Some(tensor) = weights.get_mut(name) else { bail!("the package has no weights `{name}`") };
        let Data::S8(values) = &mut tensor.data else { bail!("the weights `{name}` are no s8") };
        let mut random = Random::new(0, STREAM + place as u64);
        zero_some(values, &tensor.shape, share, &mut random);
        zeroed.weights += values.len();
        zeroed.zeros += values.iter().filter(|&&w| w == 0).count();
    }
    Ok(zeroed)
}

/// Zeroes exactly `share` of the blocks, rounded, of weights in OIHW order.
fn zero_some(values: &mut [i8], shape: &[usize], share: f32, random: &mut Random) {
    let blocks = Blocks::new(shape, BLOCK_OUTPUTS);
    let mut chosen: Vec<u32> = (0..blocks.count() as u32).collect();
    let count = (chosen.len() as f64 * f64::from(share)).round() as usize;
    random.shuffle(&mut chosen);
    blocks.zero(values, &chosen[..count]);
}
