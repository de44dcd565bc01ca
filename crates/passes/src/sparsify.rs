//! Weights that are zero in blocks: which layers have them, and where a block lies.

use espalier_graph::{Graph, Op, ValueId};

/// Input channels of a block.
const INPUTS: usize = 4;

/// The weights that pruning in blocks takes: of every convolution without groups that has layers with weights before and
/// behind it, which leaves out the stem and the head (or heads). Floats or s8.
pub fn sparse_layers(graph: &Graph) -> Vec<ValueId> {
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
        let dense = matches!(node.op, Op::QConv { groups: 1, .. } | Op::Conv { groups: 1, .. });
        dense
            && behind_a_layer[node.inputs[0].index()]
            && node.outputs.iter().any(|id| before_a_layer[id.index()])
    });
    let mut weights: Vec<ValueId> = inner.map(|node| node.inputs[1]).collect();
    weights.retain(|&id| graph.is_state(id));
    weights.sort_unstable();
    weights.dedup();
    weights
}

/// The blocks of a filter in OIHW order: for one tap of the kernel four input channels, by one output channel or two. At
/// the ends of odd numbers of channels they are smaller. They count by output, then input, then tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    outputs: usize,
    inputs: usize,
    taps: usize,
    /// Output channels of a block.
    height: usize,
}

impl Blocks {
    /// Of a filter with these sizes, for `height` output channels.
    pub fn new(sizes: &[usize], height: usize) -> Blocks {
        Blocks { outputs: sizes[0], inputs: sizes[1], taps: sizes[2..].iter().product(), height }
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(self.height) * self.inputs.div_ceil(INPUTS) * self.taps
    }

    /// Where the elements of block number `block` lie.
    pub fn elements(self, block: usize) -> impl Iterator<Item = usize> {
        let quads = self.inputs.div_ceil(INPUTS);
        let [output, input, tap] =
            [block / self.taps / quads * self.height, block / self.taps % quads * INPUTS, block % self.taps];
        let outputs = output..self.outputs.min(output + self.height);
        outputs.flat_map(move |o| {
            let inputs = input..self.inputs.min(input + INPUTS);
            inputs.map(move |i| (o * self.inputs + i) * self.taps + tap)
        })
    }

    /// The sum of squares of each block.
    pub fn squares(self, values: &[f32]) -> Vec<f32> {
        (0..self.count()).map(|block| self.elements(block).map(|at| values[at].powi(2)).sum()).collect()
    }

    /// Makes `blocks` zero.
    pub fn zero<T: Default + Copy>(self, values: &mut [T], blocks: &[u32]) {
        for &block in blocks {
            self.elements(block as usize).for_each(|at| values[at] = T::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_a_partition() {
        for (sizes, height) in [([5, 7, 3, 3], 2), ([4, 8, 1, 1], 1), ([1, 1, 1, 2], 2), ([6, 3, 2, 1], 1)] {
            let blocks = Blocks::new(&sizes, height);
            let mut all: Vec<usize> = (0..blocks.count()).flat_map(|b| blocks.elements(b)).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..sizes.iter().product()), "{sizes:?} {height}");
        }
    }

    #[test]
    fn a_block_is_two_outputs_by_four_inputs_of_a_tap() {
        let blocks = Blocks::new(&[4, 8, 1, 2], 2);
        let mut values: Vec<f32> = (0..64).map(|v| v as f32).collect();
        // Outputs 2 and 3, inputs 4 to 7, tap 1.
        let want = [41, 43, 45, 47, 57, 59, 61, 63];
        assert!(blocks.elements(7).eq(want));
        let square: f32 = want.iter().map(|&v| (v * v) as f32).sum();
        assert_eq!(blocks.squares(&values)[7], square);
        blocks.zero(&mut values, &[7]);
        let zeros: Vec<usize> = (1..64).filter(|&at| values[at] == 0.0).collect();
        assert_eq!(zeros, want);
    }
}
