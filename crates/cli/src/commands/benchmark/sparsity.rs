//! `benchmark --random-sparsity`: the speed of a pruned network, before there is one.

use anyhow::bail;
use espalier_graph::random::Random;
use espalier_graph::{DType, Data, Graph, Op, ValueId, Weights};

use crate::exit::usage;

/// Output and input channels of a block.
const BLOCK: [usize; 2] = [2, 4];
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

/// Zeroes `share` of the blocks of each layer that [`layers`] names; which ones is random and the same in every run.
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
    let layers = layers(graph);
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
    let [outputs, inputs, taps] = [shape[0], shape[1], shape[2..].iter().product()];
    let quads = inputs.div_ceil(BLOCK[1]);
    let mut blocks: Vec<usize> = (0..outputs.div_ceil(BLOCK[0]) * quads * taps).collect();
    let count = (blocks.len() as f64 * f64::from(share)).round() as usize;
    random.shuffle(&mut blocks);
    for &block in &blocks[..count] {
        let [output, input, tap] =
            [block / taps / quads * BLOCK[0], block / taps % quads * BLOCK[1], block % taps];
        for o in output..outputs.min(output + BLOCK[0]) {
            for i in input..inputs.min(input + BLOCK[1]) {
                values[(o * inputs + i) * taps + tap] = 0;
            }
        }
    }
}

/// The weights that pruning takes: of every int8 convolution without groups that has layers with weights before and
/// behind it, which leaves out the stem and the head (or heads).
fn layers(graph: &Graph) -> Vec<ValueId> {
    let is_layer = |op: &Op| matches!(op, Op::QConv { .. } | Op::Conv { .. } | Op::MatMul { .. });
    let mut behind_a_layer = vec![false; graph.values().len()];
    for node in graph.nodes() {
        let reached = is_layer(&node.op) || node.inputs.iter().any(|id| behind_a_layer[id.index()]);
        node.outputs.iter().for_each(|id| behind_a_layer[id.index()] = reached);
    }
    let mut before_a_layer = vec![false; graph.values().len()];
    for node in graph.nodes().iter().rev() {
        let reaches = is_layer(&node.op) || node.outputs.iter().any(|id| before_a_layer[id.index()]);
        node.inputs.iter().for_each(|id| before_a_layer[id.index()] |= reaches);
    }
    let inner = graph.nodes().iter().filter(|node| {
        let dense = matches!(node.op, Op::QConv { groups: 1, .. });
        dense
            && behind_a_layer[node.inputs[0].index()]
            && node.outputs.iter().any(|id| before_a_layer[id.index()])
    });
    let mut weights: Vec<ValueId> = inner.map(|node| node.inputs[1]).collect();
    weights.retain(|&id| graph.is_state(id) && graph.ty(id).dtype == DType::S8);
    weights.sort_unstable();
    weights.dedup();
    weights
}
