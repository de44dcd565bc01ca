//! What a network costs.

use espalier_graph::{Bindings, Graph, Node, Op, Role, ValueId};

/// Size of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Learned numbers.
    pub parameters: usize,
    /// Multiply-adds of convolutions and matrix products for one sample.
    pub macs: usize,
}

/// Counts learned numbers, and multiply-adds at batch size 1 and length 1 in time.
pub fn cost(graph: &Graph) -> Cost {
    let weights = graph.states().iter().filter(|state| state.role == Role::Weight);
    Cost {
        parameters: weights.map(|state| elements(graph, state.value)).sum(),
        macs: graph.nodes().iter().map(|node| macs(graph, node)).sum(),
    }
}

fn elements(graph: &Graph, value: ValueId) -> usize {
    graph.ty(value).shape.elements().bind(Bindings::batch(1))
}

fn size(graph: &Graph, value: ValueId, axis: usize) -> usize {
    graph.ty(value).shape.0[axis].bind(Bindings::batch(1))
}

fn macs(graph: &Graph, node: &Node) -> usize {
    let y = node.outputs[0];
    match &node.op {
        Op::Conv { .. } | Op::QConv { .. } => {
            elements(graph, y) * elements(graph, node.inputs[1]) / size(graph, node.inputs[1], 0)
        }
        Op::ConvInputGrad { .. } => {
            let (dy, w) = (node.inputs[0], node.inputs[1]);
            elements(graph, dy) * elements(graph, w) / size(graph, w, 0)
        }
        Op::ConvWeightGrad { .. } => {
            let (dy, w) = (node.inputs[1], y);
            elements(graph, dy) * elements(graph, w) / size(graph, w, 0)
        }
        Op::MatMul { trans_a, .. } => {
            let rank = graph.ty(node.inputs[0]).shape.rank();
            elements(graph, y) * size(graph, node.inputs[0], rank - if *trans_a { 2 } else { 1 })
        }
        _ => 0,
    }
}
