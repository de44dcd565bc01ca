//! Which values are rounded to bytes, and which of them share a quantization.

use std::collections::{BTreeSet, HashMap};

use espalier_graph::{BinaryFn, DType, Dim, Graph, Node, Op, ReduceFn, UnaryFn, ValueId};

use crate::integers::moves;
use crate::layer::{Layer, is_constant, layers};

/// What is known of every value of a graph, by its index.
pub(super) struct Points {
    /// Something reads it as bytes.
    bytes: Vec<bool>,
    /// A rounding behind the clamp that reads it is its own.
    absorbed: Vec<bool>,
    /// It is made of bytes by moving them, so it is rounded already.
    moved: Vec<bool>,
    /// Another value of its class, or itself.
    parent: Vec<ValueId>,
    ids: Vec<ValueId>,
}

impl Points {
    /// With all layers quantized.
    pub(super) fn all(graph: &Graph) -> Points {
        Points::of(graph, &BTreeSet::new())
    }

    /// With the layers called `float` as they are.
    pub(super) fn of(graph: &Graph, float: &BTreeSet<String>) -> Points {
        let ids: Vec<ValueId> =
            graph.values().iter().map(|value| graph.find(&value.name).expect("its own name")).collect();
        let none = vec![false; ids.len()];
        let mut points =
            Points { bytes: none.clone(), absorbed: none.clone(), moved: none, parent: ids.clone(), ids };
        let layers = layers(graph);
        let demand = Demand {
            graph,
            uses: graph.uses(),
            layers: layers
                .iter()
                .filter(|layer| !float.contains(&layer.name))
                .map(|layer| (layer.product, layer))
                .collect(),
            biases: layers
                .iter()
                .filter(|layer| layer.result != layer.product)
                .map(|layer| layer.result)
                .collect(),
        };
        // Readers come before what they read, so that their demands are known.
        graph.nodes().iter().rev().for_each(|node| demand.node(&mut points, node));
        points
    }

    /// The values that are bytes.
    pub(super) fn bytes(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.ids.iter().copied().filter(|id| self.bytes[id.index()])
    }

    /// Whether a rounding stands behind the value.
    pub(super) fn is_rounded(&self, id: ValueId) -> bool {
        self.bytes[id.index()] && !self.moved[id.index()]
    }

    /// One value for all that share a quantization.
    pub(super) fn class(&self, id: ValueId) -> ValueId {
        let mut at = id;
        while self.parent[at.index()] != at {
            at = self.parent[at.index()];
        }
        at
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.class(a), self.class(b));
        self.parent[a.index()] = b;
    }

    fn demand(&mut self, id: ValueId) {
        self.bytes[id.index()] = true;
    }

    /// Whether a result is rounded, here or behind its clamp.
    fn is_wanted(&self, id: ValueId) -> bool {
        self.bytes[id.index()] || self.absorbed[id.index()]
    }
}

struct Demand<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    /// Those that are quantized, by what they give before a bias.
    layers: HashMap<ValueId, &'a Layer>,
    /// Sums that are the bias of a matrix product.
    biases: BTreeSet<ValueId>,
}

impl Demand<'_> {
    /// Says which inputs of `node` have to be bytes; what reads its outputs has said so already.
    fn node(&self, points: &mut Points, node: &Node) {
        let y = node.outputs[0];
        if let Some(layer) = self.layers.get(&y) {
            return points.demand(layer.x);
        }
        if !points.is_wanted(y) || self.biases.contains(&y) || !is_byte_op(self.graph, node) {
            return;
        }
        let data = || node.inputs.iter().copied().filter(|&id| !is_constant(self.graph, id));
        match &node.op {
            Op::Unary { f } if is_clamp(*f) && self.uses[node.inputs[0].index()] == 1 => {
                points.absorbed[node.inputs[0].index()] = true;
            }
            Op::Binary { f: BinaryFn::Add } => {
                let unrounded = node.inputs.iter().copied().find(|&id| self.adds_before_rounding(id));
                data().filter(|&id| Some(id) != unrounded).for_each(|id| points.demand(id));
            }
            op if moves(op) => {
                points.moved[y.index()] = true;
                for id in data() {
                    points.demand(id);
                    points.join(id, y);
                }
            }
            _ => data().for_each(|id| points.demand(id)),
        }
    }

    /// Whether `id` is a convolution that nothing but one sum reads.
    fn adds_before_rounding(&self, id: ValueId) -> bool {
        self.uses[id.index()] == 1 && self.layers.get(&id).is_some_and(|layer| layer.conv.is_some())
    }
}

fn is_clamp(f: UnaryFn) -> bool {
    matches!(f, UnaryFn::Relu | UnaryFn::Clip { .. })
}

/// Whether there is an op of integers for `node`, layers apart.
pub(super) fn is_byte_op(graph: &Graph, node: &Node) -> bool {
    let floats = node.inputs.iter().chain(&node.outputs).all(|&id| graph.ty(id).dtype == DType::F32);
    let flows = |id: ValueId| !is_constant(graph, id) && !is_number(graph, id);
    let fits = match &node.op {
        Op::Unary { .. } | Op::AvgPool { .. } => flows(node.inputs[0]),
        Op::Reduce { f: ReduceFn::Mean, axes, .. } => {
            axes[..] == [2, 3] && graph.ty(node.inputs[0]).shape.rank() == 4
        }
        Op::Binary { f } => match (flows(node.inputs[0]), flows(node.inputs[1])) {
            (true, true) => joins(graph, *f, node.inputs[0], node.inputs[1]),
            // A function of one byte.
            (true, false) => is_number(graph, node.inputs[1]),
            (false, true) => is_number(graph, node.inputs[0]),
            (false, false) => false,
        },
        op => moves(op) && node.inputs.iter().all(|&id| flows(id)),
    };
    floats && fits
}

/// Whether bytes of these shapes are added or multiplied.
fn joins(graph: &Graph, f: BinaryFn, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (&graph.ty(a).shape, &graph.ty(b).shape);
    let is_gate = |gate: &[Dim], x: &[Dim]| {
        x.len() == 4 && gate.len() == 4 && gate[..2] == x[..2] && gate[2..] == [Dim::from(1); 2]
    };
    match f {
        BinaryFn::Add => a == b,
        BinaryFn::Mul => a == b || is_gate(&a.0, &b.0) || is_gate(&b.0, &a.0),
        _ => false,
    }
}

/// Whether `id` is one number, the same in every run.
fn is_number(graph: &Graph, id: ValueId) -> bool {
    let is_single = graph.ty(id).shape.elements() == Dim::from(1);
    let is_fill = graph.producer(id).is_some_and(|node| matches!(node.op, Op::Fill { .. }));
    is_single && (is_fill || is_constant(graph, id))
}
