//! What stays float where bytes flow, and why.

use std::collections::HashSet;

use espalier_graph::{BinaryFn, Graph, Node, Op, ReduceFn, ResizeMode, ValueId};

/// A node that computes with floats in a graph of integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Name of the node.
    pub node: String,
    /// Name of its op.
    pub op: &'static str,
    /// Why it does not compute with bytes.
    pub reason: &'static str,
}

/// How a graph of integers computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// How many nodes compute with bytes.
    pub integers: usize,
    /// Those that do not.
    pub floats: Vec<Remark>,
}

/// Which nodes of `graph` compute with bytes and which do not, or `None` where no value is quantized. Rounding itself,
/// and what only names elements anew, are neither.
pub fn remarks(graph: &Graph) -> Option<Remarks> {
    let is_bytes = |id: ValueId| graph.ty(id).dtype.quant().is_some();
    let roundings = graph.nodes().iter().filter(|node| matches!(node.op, Op::Quantize { .. }));
    let rounded: HashSet<ValueId> = roundings.map(|node| node.inputs[0]).collect();
    let mut remarks = Remarks::default();
    for node in graph.nodes() {
        match &node.op {
            Op::Quantize { .. } | Op::Dequantize | Op::Reshape { .. } | Op::Fill { .. } => {}
            _ if node.inputs.iter().chain(&node.outputs).any(|&id| is_bytes(id)) => remarks.integers += 1,
            op => remarks.floats.push(Remark {
                node: graph.node_name(node).into(),
                op: op.name(),
                reason: reason(graph, node, rounded.contains(&node.outputs[0])),
            }),
        }
    }
    graph.values().iter().any(|value| value.ty.dtype.quant().is_some()).then_some(remarks)
}

fn reason(graph: &Graph, node: &Node, is_rounded: bool) -> &'static str {
    let is_made_of_bytes = |&id: &ValueId| graph.producer(id).is_some_and(|p| p.op == Op::Dequantize);
    let mut flowing = node.inputs.iter().filter(|&&id| !graph.is_state(id));
    match form(&node.op) {
        Form::None => "there is no op of integers for it",
        _ if !flowing.all(is_made_of_bytes) => "not all that it reads is quantized",
        Form::Product => {
            "its weight is not int8 or not quantized around 0 for each output, or its bias is beyond 32 bits"
        }
        Form::Any if !is_rounded => "its result is not quantized",
        Form::Any => "there is no op of integers for operands of these shapes",
    }
}

enum Form {
    None,
    /// Its result may stay float.
    Product,
    Any,
}

/// Whether there is an op of integers that computes the same.
fn form(op: &Op) -> Form {
    match op {
        Op::Conv { .. } | Op::MatMul { .. } => Form::Product,
        Op::Binary { f: BinaryFn::Add | BinaryFn::Mul }
        | Op::Unary { .. }
        | Op::MaxPool { .. }
        | Op::AvgPool { .. }
        | Op::Reduce { f: ReduceFn::Mean, .. }
        | Op::Resize { mode: ResizeMode::Nearest, .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Transpose { .. } => Form::Any,
        _ => Form::None,
    }
}
