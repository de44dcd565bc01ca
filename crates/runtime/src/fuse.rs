//! Which nodes run as one step: bias, residual, activation and bias go into the epilogue of what makes their input, and
//! batch normalisation takes its activation along, forward and backward. The graph itself stays plain.

use std::collections::HashMap;

use espalier_graph::{BinaryFn, Graph, Node, Op, ReduceFn, UnaryFn, ValueId};
use espalier_kernels::Activation;
use espalier_kernels::int8::Pick;

use crate::channels::{Movers, picks};

/// One step's work.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The op alone. The activation is that of its first output (normalisation; elementwise ops only clamp).
    Op(Op, Activation),
    /// `x, w, [bias], [residual] -> y` of a Conv.
    Conv {
        /// The Conv.
        op: Op,
        /// A bias is added.
        bias: bool,
        /// A tensor of the output's shape is added.
        residual: bool,
        /// The function of the sum.
        activation: Activation,
    },
    /// `a, b, bias -> y` of a MatMul whose result gets a vector over the last axis added.
    MatMulBias(Op),
    /// `a, b -> y`: the Reduce of their products.
    ReduceProducts(Op),
    /// A QConv whose result goes through a table.
    Tabled(Op, ValueId),
    /// Channels of bytes that change their place.
    Channels {
        /// What the graph says, the last of it.
        op: Op,
        /// The table of each input.
        tables: Vec<Option<ValueId>>,
        /// Input and channel there of each channel of the result.
        picks: Vec<Pick>,
    },
}

/// A group of nodes that run as one step.
#[derive(Clone, Debug)]
pub struct Group {
    /// What to do.
    pub work: Work,
    /// Values read.
    pub inputs: Vec<ValueId>,
    /// Values made.
    pub outputs: Vec<ValueId>,
}

/// Groups the nodes of `graph`, in an order in which each group's inputs come first.
pub fn fuse(graph: &Graph) -> Vec<Group> {
    Fuser::new(graph).run()
}

struct Fuser<'a> {
    graph: &'a Graph,
    /// Readers of each value, as node numbers; outputs and updates count as readers beyond the last node.
    readers: Vec<Vec<usize>>,
    /// For a node that runs inside of a group that is placed later: nothing is emitted at its own position.
    absorbed: Vec<bool>,
    /// For the result of an Expand that never runs: its input, which the reader broadcasts itself.
    expanded: HashMap<ValueId, ValueId>,
    /// For the result of a Table that its reader applies: the Table's input and entries.
    tabled: HashMap<ValueId, [ValueId; 2]>,
    movers: Movers,
    groups: Vec<Option<Group>>,
}

/// Which activations a kernel can apply.
type Applies = fn(Activation) -> bool;

const ANY: Applies = |_| true;
const CLAMPS: Applies = |activation| activation.bounds().is_some();

/// The nodes that read each value; outputs and updates count as readers beyond the last node.
fn readers(graph: &Graph) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); graph.values().len()];
    let beyond = graph.nodes().len();
    for (n, node) in graph.nodes().iter().enumerate() {
        node.inputs.iter().for_each(|id| readers[id.index()].push(n));
    }
    let results = graph.outputs().iter().map(|(_, id)| *id);
    for id in results.chain(graph.states().iter().filter_map(|s| s.next)) {
        readers[id.index()].push(beyond);
    }
    readers
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph) -> Self {
        let readers = readers(graph);
        let mut fuser = Fuser {
            graph,
            movers: Movers::new(graph, &readers),
            readers,
            absorbed: vec![false; graph.nodes().len()],
            expanded: HashMap::new(),
            tabled: HashMap::new(),
            groups: vec![None; graph.nodes().len()],
        };
        fuser.forget_recomputed();
        (0..graph.nodes().len()).for_each(|n| fuser.broadcast_in_reader(n));
        let unwritten: Vec<usize> = (0..graph.nodes().len()).filter(|&n| fuser.is_passed_on(n)).collect();
        (0..graph.nodes().len()).for_each(|n| fuser.look_up_in_reader(n));
        unwritten.into_iter().for_each(|n| fuser.pass_on(n));
        fuser
    }

    /// A gradient that joins that of its normalisation computes the normalised value again and does not read it.
    fn forget_recomputed(&mut self) {
        for n in 0..self.graph.nodes().len() {
            if let Some(norm) = self.norm_of_grad(n) {
                self.readers[norm.outputs[0].index()].retain(|&reader| reader != n);
            }
        }
    }

    /// An Expand whose only reader is elementwise with another operand of the full shape.
    fn broadcast_in_reader(&mut self, n: usize) {
        let node = &self.graph.nodes()[n];
        let Op::Expand { .. } = node.op else { return };
        let (x, y) = (node.inputs[0], node.outputs[0]);
        let Some(reader) = self.only_reader(y) else { return };
        let Op::Binary { .. } = self.op(reader) else { return };
        let whole = |&id: &ValueId| id != y && self.graph.ty(id) == self.graph.ty(y);
        let others = &self.graph.nodes()[reader].inputs;
        if others.iter().any(|id| whole(id) && !self.expanded.contains_key(id)) {
            self.absorbed[n] = true;
            self.expanded.insert(y, x);
            self.readers[x.index()].retain(|&r| r != n);
            self.readers[x.index()].push(reader);
        }
    }

    /// Whether node `n` moves channels that nothing reads but what moves them on.
    fn is_passed_on(&self, n: usize) -> bool {
        let readers = &self.readers[self.graph.nodes()[n].outputs[0].index()];
        self.movers.moves(n) && !readers.is_empty() && readers.iter().all(|&r| self.movers.moves(r))
    }

    fn pass_on(&mut self, n: usize) {
        self.absorbed[n] = true;
        if self.movers.ends(n) {
            let view = self.movers.view(self.graph, n, &self.tabled);
            self.movers.pass_on(self.graph.nodes()[n].outputs[0], view);
        }
    }

    /// A Table whose readers only move channels; behind a convolution it joins that.
    fn look_up_in_reader(&mut self, n: usize) {
        let node = &self.graph.nodes()[n];
        let (Op::Table { .. }, [x, table]) = (&node.op, &node.inputs[..]) else { return };
        let after_conv = self.graph.producer(*x).is_some_and(|p| matches!(p.op, Op::QConv { .. }));
        if after_conv && self.only_reader(*x) == Some(n) {
            return;
        }
        let readers = self.readers[node.outputs[0].index()].clone();
        if !readers.is_empty() && readers.iter().all(|&r| self.movers.moves(r)) {
            self.absorbed[n] = true;
            self.tabled.insert(node.outputs[0], [*x, *table]);
            self.readers[x.index()].retain(|&r| r != n);
            self.readers[x.index()].extend(readers);
        }
    }

    /// The only node that reads `id`.
    fn only_reader(&self, id: ValueId) -> Option<usize> {
        match self.readers[id.index()][..] {
            [n] if n < self.graph.nodes().len() && !self.absorbed[n] => Some(n),
            _ => None,
        }
    }

    fn op(&self, n: usize) -> &Op {
        &self.graph.nodes()[n].op
    }

    fn run(mut self) -> Vec<Group> {
        for n in 0..self.graph.nodes().len() {
            if self.absorbed[n] {
                continue;
            }
            let (group, last) = self.group(n);
            self.groups[last] = Some(group);
        }
        self.groups.into_iter().flatten().collect()
    }

    /// The group that begins at node `n`, and the node at whose position it runs.
    fn group(&mut self, n: usize) -> (Group, usize) {
        match self.op(n).clone() {
            op @ Op::Conv { .. } => self.conv(n, op),
            op @ Op::MatMul { .. } => self.matmul(n, op),
            op @ (Op::BatchNorm { .. } | Op::BatchNormTraining { .. }) => self.activated(n, op, ANY),
            Op::Binary { f } => self.binary(n, f),
            Op::UnaryGrad { f } => self.norm_grad(n, f),
            op @ Op::QConv { .. } => self.looked_up(n, op),
            op if self.movers.ends(n) => (self.channels(n, op), n),
            op => (self.alone(n, op), n),
        }
    }

    fn alone(&self, n: usize, op: Op) -> Group {
        let inputs = &self.graph.nodes()[n].inputs;
        Group {
            work: Work::Op(op, Activation::Identity),
            inputs: inputs.iter().map(|id| *self.expanded.get(id).unwrap_or(id)).collect(),
            outputs: self.graph.nodes()[n].outputs.clone(),
        }
    }

    /// Absorbs the activation that alone reads `y`; returns the activated value, the function and its node.
    fn absorb_activation(&mut self, y: ValueId, applies: Applies) -> Option<(ValueId, Activation, usize)> {
        let reader = self.only_reader(y)?;
        let Op::Unary { f } = *self.op(reader) else { return None };
        let activation = Activation::of(f).filter(|&activation| applies(activation))?;
        self.absorbed[reader] = true;
        Some((self.graph.nodes()[reader].outputs[0], activation, reader))
    }

    /// The table that alone reads the result joins.
    fn looked_up(&mut self, n: usize, op: Op) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        let Some(reader) = self.only_reader(group.outputs[0]) else { return (group, n) };
        let node = &self.graph.nodes()[reader];
        let Op::Table { .. } = node.op else { return (group, n) };
        self.absorbed[reader] = true;
        group.work = Work::Tabled(op, node.inputs[1]);
        group.outputs = node.outputs.clone();
        (group, reader)
    }

    fn channels(&self, n: usize, op: Op) -> Group {
        let (origins, picks) = picks(&self.movers.view(self.graph, n, &self.tabled));
        let (inputs, tables) = origins.into_iter().unzip();
        let outputs = self.graph.nodes()[n].outputs.clone();
        Group { work: Work::Channels { op, tables, picks }, inputs, outputs }
    }

    /// The activation that alone reads the result joins.
    fn activated(&mut self, n: usize, op: Op, applies: Applies) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        match self.absorb_activation(group.outputs[0], applies) {
            Some((y, activation, last)) => {
                group.work = Work::Op(op, activation);
                group.outputs[0] = y;
                (group, last)
            }
            None => (group, n),
        }
    }

    fn binary(&mut self, n: usize, f: BinaryFn) -> (Group, usize) {
        self.reduced_product(n, f).unwrap_or_else(|| self.activated(n, Op::Binary { f }, CLAMPS))
    }

    /// The sum or mean that alone reads the product of two values of the same shape.
    fn reduced_product(&mut self, n: usize, f: BinaryFn) -> Option<(Group, usize)> {
        let mut group = self.alone(n, Op::Binary { f });
        let y = group.outputs[0];
        let reader = self.only_reader(y)?;
        let op = self.op(reader).clone();
        let is_sum = matches!(op, Op::Reduce { f: ReduceFn::Sum | ReduceFn::Mean, .. });
        let whole = group.inputs.iter().all(|&id| self.graph.ty(id) == self.graph.ty(y));
        if f != BinaryFn::Mul || !is_sum || !whole {
            return None;
        }
        self.absorbed[reader] = true;
        group.outputs = self.graph.nodes()[reader].outputs.clone();
        group.work = Work::ReduceProducts(op);
        Some((group, reader))
    }

    fn conv(&mut self, n: usize, op: Op) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        let bias = group.inputs.len() == 3;
        let (mut y, mut last, mut residual) = (group.outputs[0], n, false);
        let mut activation = Activation::Identity;
        if let Some(reader) = self.only_reader(y)
            && let Some(other) = self.residual(reader, y)
        {
            self.absorbed[reader] = true;
            group.inputs.push(other);
            (y, last, residual) = (self.graph.nodes()[reader].outputs[0], reader, true);
        }
        if let Some((activated, function, reader)) = self.absorb_activation(y, ANY) {
            (y, last, activation) = (activated, reader, function);
        }
        group.outputs = vec![y];
        group.work = Work::Conv { op, bias, residual, activation };
        (group, last)
    }

    /// The other operand where `reader` adds a tensor of the same shape to `y`.
    fn residual(&self, reader: usize, y: ValueId) -> Option<ValueId> {
        let node = &self.graph.nodes()[reader];
        let Op::Binary { f: BinaryFn::Add } = node.op else { return None };
        let other = if node.inputs[0] == y { node.inputs[1] } else { node.inputs[0] };
        let whole = self.graph.ty(other) == self.graph.ty(y) && !self.expanded.contains_key(&other);
        (other != y && whole).then_some(other)
    }

    fn matmul(&mut self, n: usize, op: Op) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        let y = group.outputs[0];
        let Some(reader) = self.only_reader(y) else { return (group, n) };
        let node = &self.graph.nodes()[reader];
        let columns = self.graph.ty(y).shape.0.last();
        let bias = node.inputs.iter().copied().find(|&id| id != y);
        match (&node.op, bias) {
            (Op::Binary { f: BinaryFn::Add }, Some(b))
                if self.graph.ty(b).shape.rank() == 1 && self.graph.ty(b).shape.0.last() == columns =>
            {
                self.absorbed[reader] = true;
                group.inputs.push(b);
                group.outputs = node.outputs.clone();
                group.work = Work::MatMulBias(op);
                (group, reader)
            }
            _ => (group, n),
        }
    }

    /// Where node `r` is the gradient of an activation of a normalised value, and only the gradient of that normalisation
    /// reads it: the normalisation. The gradient of a clamp may be written with the clamp's input or with its output.
    fn norm_of_grad(&self, r: usize) -> Option<&'a Node> {
        let node = self.graph.nodes().get(r)?;
        let Op::UnaryGrad { f } = node.op else { return None };
        let is_clamp = CLAMPS(Activation::of(f)?);
        let x = match self.graph.producer(node.inputs[0]) {
            Some(act) if is_clamp && act.op == (Op::Unary { f }) => act.inputs[0],
            _ => node.inputs[0],
        };
        let norm = self.graph.producer(x).filter(|p| matches!(p.op, Op::BatchNormTraining { .. }))?;
        let grad = match self.readers[node.outputs[0].index()][..] {
            [g] => self.graph.nodes().get(g)?,
            _ => return None,
        };
        let fits = grad.op == Op::BatchNormGrad
            && grad.inputs[1] == node.outputs[0]
            && grad.inputs[0] == norm.inputs[0]
            && grad.inputs[3..] == norm.outputs[3..];
        fits.then_some(norm)
    }

    /// Backward: the gradient of the activation joins that of the normalisation, which recomputes the slope from
    /// `x, gamma, beta`.
    fn norm_grad(&mut self, n: usize, f: UnaryFn) -> (Group, usize) {
        let alone = self.alone(n, Op::UnaryGrad { f });
        let (Some(activation), Some(norm)) = (Activation::of(f), self.norm_of_grad(n)) else {
            return (alone, n);
        };
        let last = self.readers[alone.outputs[0].index()][0];
        let grad = &self.graph.nodes()[last];
        let (x, gamma, beta) = (norm.inputs[0], norm.inputs[1], norm.inputs[2]);
        let inputs = vec![x, alone.inputs[1], gamma, beta, grad.inputs[3], grad.inputs[4]];
        self.absorbed[last] = true;
        let work = Work::Op(Op::BatchNormGrad, activation);
        (Group { work, inputs, outputs: grad.outputs.clone() }, last)
    }
}
