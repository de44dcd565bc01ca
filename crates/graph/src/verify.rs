//! The executable specification of the stages of a graph.

use crate::graph::{Graph, GraphError, Node, Role};
use crate::infer::infer;
use crate::op::Op;

/// How far a graph is on its way. A plan, the last stage, is no graph and is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Forward nodes in float; may hold Dropout.
    Trainable,
    /// A whole training step: loss, gradients, updates. Admits every op: passes that work at any stage end in it.
    Step,
    /// What a package holds and a device runs: no training ops, no changing states.
    Portable,
}

/// Checks the rules of `stage`. Every pass is followed by it.
///
/// # Errors
/// The first rule broken, with the node's name.
pub fn verify(graph: &Graph, stage: Stage) -> Result<(), GraphError> {
    if graph.outputs().is_empty() {
        return Err(GraphError::Invalid("the graph has no output".into()));
    }
    for (position, node) in graph.nodes().iter().enumerate() {
        let name = graph.node_name(node);
        order(graph, node, position).map_err(|reason| invalid(name, node, &reason))?;
        types(graph, node).map_err(|reason| invalid(name, node, &reason))?;
        if !allowed(&node.op, stage) {
            return Err(invalid(name, node, &format!("the op does not belong into a {stage:?} graph")));
        }
    }
    let plain = |id| graph.ty(id).dtype.quant().is_none();
    let ends = graph.inputs().iter().copied().chain(graph.states().iter().map(|s| s.value));
    if let Some(id) = ends.chain(graph.outputs().iter().map(|(_, id)| *id)).find(|&id| !plain(id)) {
        let name = &graph.value(id).name;
        let reason = "inputs, states and outputs are not quantized: Quantize and Dequantize stand between";
        return Err(GraphError::Invalid(format!("`{name}` is {}: {reason}", graph.ty(id))));
    }
    if stage == Stage::Portable && graph.states().iter().any(|s| s.next.is_some()) {
        return Err(GraphError::Invalid("a portable graph updates no state".into()));
    }
    if stage == Stage::Portable && graph.states().iter().any(|s| s.role == Role::Optimizer) {
        return Err(GraphError::Invalid("a portable graph has no optimizer states".into()));
    }
    Ok(())
}

fn invalid(name: &str, node: &Node, reason: &str) -> GraphError {
    GraphError::Invalid(format!("node `{name}` ({}): {reason}", node.op.name()))
}

fn order(graph: &Graph, node: &Node, position: usize) -> Result<(), String> {
    use crate::graph::Source;
    for &input in &node.inputs {
        if let Source::Node { node: producer, .. } = graph.value(input).source
            && producer >= position
        {
            return Err(format!("reads `{}` before it is made", graph.value(input).name));
        }
    }
    Ok(())
}

fn types(graph: &Graph, node: &Node) -> Result<(), String> {
    let inputs: Vec<_> = node.inputs.iter().map(|&id| graph.ty(id)).collect();
    let inferred = infer(&node.op, &inputs)?;
    for (&id, want) in node.outputs.iter().zip(&inferred) {
        if graph.ty(id) != want {
            return Err(format!(
                "output `{}` is {}, inference says {want}",
                graph.value(id).name,
                graph.ty(id)
            ));
        }
    }
    Ok(())
}

/// Whether `op` may stand in a graph of `stage`.
fn allowed(op: &Op, stage: Stage) -> bool {
    match op {
        Op::Dropout { .. } | Op::BatchNormTraining { .. } | Op::CrossEntropy => stage != Stage::Portable,
        Op::ConvWeightGrad { .. }
        | Op::MaxPoolGrad { .. }
        | Op::AvgPoolGrad { .. }
        | Op::ResizeGrad { .. }
        | Op::BatchNormGrad
        | Op::LayerNormGrad { .. }
        | Op::UnaryGrad { .. }
        | Op::SoftmaxGrad { .. }
        | Op::CrossEntropyGrad
        | Op::GatherGrad { .. }
        | Op::GlobalNorm
        | Op::Sgd { .. }
        | Op::AdamW { .. }
        | Op::Ema => stage == Stage::Step,
        Op::Quantize { .. }
        | Op::Dequantize
        | Op::QConv { .. }
        | Op::QAdd { .. }
        | Op::QMul { .. }
        | Op::QAvgPool { .. }
        | Op::Table { .. } => stage != Stage::Trainable,
        // The input gradient of a convolution is also the transposed convolution of decoders.
        Op::ConvInputGrad { .. }
        | Op::Conv { .. }
        | Op::MatMul { .. }
        | Op::MaxPool { .. }
        | Op::AvgPool { .. }
        | Op::Resize { .. }
        | Op::BatchNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Fill { .. }
        | Op::Cast { .. }
        | Op::Reduce { .. }
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Gather { .. } => true,
    }
}
