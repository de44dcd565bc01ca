//! Layers with a constant weight, found on the graph: what quantization, equalisation and bias correction speak of.

use std::collections::HashMap;

use espalier_graph::{BinaryFn, Graph, GraphError, Node, Op, Source, ValueId, Weights, Window};

/// A convolution or a matrix product with a constant weight, and its bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Name of the node with the weight, which is that of its result.
    pub name: String,
    /// What flows in.
    pub x: ValueId,
    /// The state of the weight.
    pub weight: ValueId,
    /// The weight's axis of outputs.
    pub axis: usize,
    /// The state `[O]` of the bias.
    pub bias: Option<ValueId>,
    /// What the node with the weight gives.
    pub product: ValueId,
    /// What the layer gives, its bias included; a convolution's `product`.
    pub result: ValueId,
    /// Window and groups of a convolution.
    pub conv: Option<(Window, usize)>,
}

/// The layers of `graph`, in its order.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let uses = graph.uses();
    let sums: HashMap<ValueId, &Node> = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::Binary { f: BinaryFn::Add }))
        .flat_map(|node| node.inputs.iter().map(move |&id| (id, node)))
        .filter(|(id, _)| uses[id.index()] == 1)
        .collect();
    graph.nodes().iter().filter_map(|node| Layer::of(graph, node, &sums)).collect()
}

impl Layer {
    fn of(graph: &Graph, node: &Node, sums: &HashMap<ValueId, &Node>) -> Option<Layer> {
        let product = node.outputs[0];
        let made = |axis, bias, result, conv| Layer {
            name: graph.node_name(node).into(),
            x: node.inputs[0],
            weight: node.inputs[1],
            axis,
            bias,
            product,
            result,
            conv,
        };
        let is_layer = |rank| {
            is_constant(graph, node.inputs[1])
                && !graph.is_state(node.inputs[0])
                && graph.ty(node.inputs[1]).shape.rank() == rank
        };
        match node.op {
            Op::Conv { window, groups } if is_layer(4) => {
                let bias = node.inputs.get(2).copied();
                let conv = Some((window, groups));
                bias.is_none_or(|bias| is_constant(graph, bias)).then(|| made(0, bias, product, conv))
            }
            Op::MatMul { trans_a: false, trans_b } if is_layer(2) => {
                let axis = usize::from(!trans_b);
                let biased = sums.get(&product).and_then(|sum| {
                    let bias = *sum.inputs.iter().find(|&&id| id != product)?;
                    let is_vector = is_constant(graph, bias) && graph.ty(bias).shape.rank() == 1;
                    is_vector.then(|| made(axis, Some(bias), sum.outputs[0], None))
                });
                Some(biased.unwrap_or_else(|| made(axis, None, product, None)))
            }
            _ => None,
        }
    }

    /// The sizes of the weight.
    pub fn sizes(&self, graph: &Graph) -> Vec<usize> {
        graph.ty(self.weight).shape.0.iter().map(|dim| dim.factor).collect()
    }

    /// Number of outputs.
    pub fn outputs(&self, graph: &Graph) -> usize {
        self.sizes(graph)[self.axis]
    }

    /// Number of inputs (channels, or elements of a row).
    pub fn inputs(&self, graph: &Graph) -> usize {
        let sizes = self.sizes(graph);
        match self.conv {
            Some((_, groups)) => sizes[1] * groups,
            None => sizes[1 - self.axis],
        }
    }

    /// For every element of the weight, in its order: which output it is for, and which input it multiplies.
    pub fn ends(&self, graph: &Graph) -> impl Iterator<Item = [usize; 2]> + use<> {
        let (sizes, conv, axis) = (self.sizes(graph), self.conv, self.axis);
        let inner: usize = sizes[2..].iter().product();
        (0..sizes.iter().product()).map(move |at| {
            let (row, column) = (at / inner / sizes[1], at / inner % sizes[1]);
            match conv {
                Some((_, groups)) => [row, row / (sizes[0] / groups).max(1) * sizes[1] + column],
                None if axis == 0 => [row, column],
                None => [column, row],
            }
        })
    }
}

/// Whether `id` is a state that no run changes.
pub(crate) fn is_constant(graph: &Graph, id: ValueId) -> bool {
    match graph.value(id).source {
        Source::State(state) => graph.states()[state].next.is_none(),
        Source::Input | Source::Node { .. } => false,
    }
}

/// The floats of the state `id`.
///
/// # Errors
/// `weights` lacks them, or holds something else.
pub(crate) fn floats<'a>(graph: &Graph, weights: &'a Weights, id: ValueId) -> Result<&'a [f32], GraphError> {
    let value = graph.value(id);
    let tensor = weights.get(&value.name).filter(|tensor| tensor.ty() == value.ty);
    tensor.and_then(|tensor| tensor.as_f32()).ok_or_else(|| {
        GraphError::Invalid(format!("the weights lack the state `{}` {}", value.name, value.ty))
    })
}
