//! Which nodes run as one step: bias, residual, activation and bias go into the epilogue of what makes their input, and
//! batch normalisation takes its activation along, forward and backward. The graph itself stays plain.

use espalier_graph::{BinaryFn, Graph, Node, Op, UnaryFn, ValueId};

/// Bounds of a fused activation: `[0, inf]` for ReLU.
pub(crate) type Clamp = Option<[f32; 2]>;

/// One step's work.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The op alone. A clamp is applied to its first output (elementwise and normalisation ops only).
    Op(Op, Clamp),
    /// `x, w, [bias], [residual] -> y` of a Conv.
    Conv {
        /// The Conv.
        op: Op,
        /// A bias is added.
        bias: bool,
        /// A tensor of the output's shape is added.
        residual: bool,
        /// Bounds of the result.
        clamp: Clamp,
    },
    /// `a, b, bias -> y` of a MatMul whose result gets a vector over the last axis added.
    MatMulBias(Op),
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
    groups: Vec<Option<Group>>,
}

/// Bounds of an activation that is a clamp.
fn clamp_of(f: UnaryFn) -> Clamp {
    match f {
        UnaryFn::Relu => Some([0.0, f32::INFINITY]),
        UnaryFn::Clip { lo, hi } => Some([lo, hi]),
        _ => None,
    }
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut fuser = Fuser {
            graph,
            readers: vec![Vec::new(); graph.values().len()],
            absorbed: vec![false; graph.nodes().len()],
            groups: vec![None; graph.nodes().len()],
        };
        fuser.count_readers();
        fuser
    }

    fn count_readers(&mut self) {
        let beyond = self.graph.nodes().len();
        for n in 0..beyond {
            for id in &self.graph.nodes()[n].inputs {
                self.readers[id.index()].push(n);
            }
        }
        let results = self.graph.outputs().iter().map(|(_, id)| *id);
        for id in results.chain(self.graph.states().iter().filter_map(|s| s.next)) {
            self.readers[id.index()].push(beyond);
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
            op @ (Op::BatchNorm { .. } | Op::BatchNormTraining { .. } | Op::Binary { .. }) => {
                self.clamped(n, op)
            }
            Op::UnaryGrad { f } => self.norm_grad(n, f),
            op => (self.alone(n, op), n),
        }
    }

    fn alone(&self, n: usize, op: Op) -> Group {
        Group {
            work: Work::Op(op, None),
            inputs: self.graph.nodes()[n].inputs.clone(),
            outputs: self.graph.nodes()[n].outputs.clone(),
        }
    }

    /// Absorbs the clamp that alone reads `y`; returns the clamped value, its bounds and its node.
    fn absorb_clamp(&mut self, y: ValueId) -> Option<(ValueId, [f32; 2], usize)> {
        let reader = self.only_reader(y)?;
        let Op::Unary { f } = *self.op(reader) else { return None };
        let clamp = clamp_of(f)?;
        self.absorbed[reader] = true;
        Some((self.graph.nodes()[reader].outputs[0], clamp, reader))
    }

    /// The clamp that alone reads the result joins.
    fn clamped(&mut self, n: usize, op: Op) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        match self.absorb_clamp(group.outputs[0]) {
            Some((y, clamp, last)) => {
                group.work = Work::Op(op, Some(clamp));
                group.outputs[0] = y;
                (group, last)
            }
            None => (group, n),
        }
    }

    fn conv(&mut self, n: usize, op: Op) -> (Group, usize) {
        let mut group = self.alone(n, op.clone());
        let bias = group.inputs.len() == 3;
        let (mut y, mut last, mut residual, mut clamp) = (group.outputs[0], n, false, None);
        if let Some(reader) = self.only_reader(y)
            && let Some(other) = self.residual(reader, y)
        {
            self.absorbed[reader] = true;
            group.inputs.push(other);
            (y, last, residual) = (self.graph.nodes()[reader].outputs[0], reader, true);
        }
        if let Some((clamped, bounds, reader)) = self.absorb_clamp(y) {
            (y, last, clamp) = (clamped, reader, Some(bounds));
        }
        group.outputs = vec![y];
        group.work = Work::Conv { op, bias, residual, clamp };
        (group, last)
    }

    /// The other operand where `reader` adds a tensor of the same shape to `y`.
    fn residual(&self, reader: usize, y: ValueId) -> Option<ValueId> {
        let node = &self.graph.nodes()[reader];
        let Op::Binary { f: BinaryFn::Add } = node.op else { return None };
        let other = if node.inputs[0] == y { node.inputs[1] } else { node.inputs[0] };
        (other != y && self.graph.ty(other) == self.graph.ty(y)).then_some(other)
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

    /// Where node `r` is the gradient of a clamp of a normalised value, and only the gradient of that normalisation
    /// reads it: the normalisation. The clamp's gradient may be written with the clamp's input or with its output.
    fn norm_of_grad(&self, r: usize) -> Option<&'a Node> {
        let node = self.graph.nodes().get(r)?;
        let Op::UnaryGrad { f } = node.op else { return None };
        clamp_of(f)?;
        let x = match self.graph.producer(node.inputs[0]) {
            Some(act) if act.op == (Op::Unary { f }) => act.inputs[0],
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

    /// Backward: the gradient of the activation joins that of the normalisation, which recomputes the mask from
    /// `x, gamma, beta`.
    fn norm_grad(&mut self, n: usize, f: UnaryFn) -> (Group, usize) {
        let alone = self.alone(n, Op::UnaryGrad { f });
        let Some(norm) = self.norm_of_grad(n) else { return (alone, n) };
        let last = self.readers[alone.outputs[0].index()][0];
        let grad = &self.graph.nodes()[last];
        let (x, gamma, beta) = (norm.inputs[0], norm.inputs[1], norm.inputs[2]);
        let inputs = vec![x, alone.inputs[1], gamma, beta, grad.inputs[3], grad.inputs[4]];
        self.absorbed[last] = true;
        let work = Work::Op(Op::BatchNormGrad, clamp_of(f));
        (Group { work, inputs, outputs: grad.outputs.clone() }, last)
    }
}
