//! What the gradient rules are written with: one node of the forward pass, the gradient of its result, and short
//! functions that append nodes.

use espalier_graph::{
    BinaryFn, Dim, Graph, GraphError, Node, Op, ReduceFn, Shape, TensorType, UnaryFn, ValueId,
};

/// The value that a function has appended.
pub(crate) type Made = Result<ValueId, GraphError>;

/// The gradients for each of a node's inputs, where there is one and it is wanted.
pub(crate) type Gradients = Result<Vec<Option<ValueId>>, GraphError>;

/// The backward pass of one node.
pub(crate) struct Backward<'a> {
    /// The graph being appended to.
    pub(crate) graph: &'a mut Graph,
    /// The forward node.
    pub(crate) node: &'a Node,
    /// The gradient of its first output.
    pub(crate) dy: ValueId,
    /// Whether each input's gradient is wanted.
    pub(crate) wants: &'a [bool],
    /// What new nodes are called, until the name is taken.
    name: String,
}

impl<'a> Backward<'a> {
    pub(crate) fn new(graph: &'a mut Graph, node: &'a Node, dy: ValueId, wants: &'a [bool]) -> Self {
        let name = format!("{}.grad", graph.node_name(node));
        Backward { graph, node, dy, wants, name }
    }

    /// Applies `rule` to those of the first `count` inputs that want a gradient; the others are constants.
    pub(crate) fn each(&mut self, count: usize, rule: impl Fn(&mut Self, usize) -> Made) -> Gradients {
        let node = self.node;
        let gradient = |(i, &x): (usize, &ValueId)| {
            if i >= count || !self.wants[i] {
                return Ok(None);
            }
            self.name = format!("{}.grad", self.graph.value(x).name);
            rule(self, i).map(Some)
        };
        node.inputs.iter().enumerate().map(gradient).collect()
    }

    /// As [`Backward::each`], where one node with the output `i` for input `i` makes all gradients.
    pub(crate) fn together(&mut self, op: Op, inputs: &[ValueId]) -> Gradients {
        self.name = format!("{}.grad", self.graph.value(self.x(0)).name);
        let made = self.graph.add_all(&self.graph.fresh(&self.name), op, inputs)?;
        Ok(self.wants.iter().enumerate().map(|(i, &want)| made.get(i).copied().filter(|_| want)).collect())
    }

    /// Input `i` of the forward node.
    pub(crate) fn x(&self, i: usize) -> ValueId {
        self.node.inputs[i]
    }

    /// The first output of the forward node.
    pub(crate) fn y(&self) -> ValueId {
        self.node.outputs[0]
    }

    pub(crate) fn shape(&self, value: ValueId) -> Shape {
        self.graph.ty(value).shape.clone()
    }

    /// Height and width of the picture tensor `value`.
    pub(crate) fn picture_size(&self, value: ValueId) -> [usize; 2] {
        let dims = &self.graph.ty(value).shape.0;
        [dims[2].factor, dims[3].factor]
    }

    pub(crate) fn add(&mut self, op: Op, inputs: &[ValueId]) -> Made {
        self.graph.add(&self.graph.fresh(&self.name), op, inputs)
    }

    pub(crate) fn unary(&mut self, f: UnaryFn, x: ValueId) -> Made {
        self.add(Op::Unary { f }, &[x])
    }

    pub(crate) fn affine(&mut self, x: ValueId, scale: f32, offset: f32) -> Made {
        self.unary(UnaryFn::Affine { scale, offset }, x)
    }

    pub(crate) fn binary(&mut self, f: BinaryFn, a: ValueId, b: ValueId) -> Made {
        self.add(Op::Binary { f }, &[a, b])
    }

    pub(crate) fn mul(&mut self, a: ValueId, b: ValueId) -> Made {
        self.binary(BinaryFn::Mul, a, b)
    }

    pub(crate) fn div(&mut self, a: ValueId, b: ValueId) -> Made {
        self.binary(BinaryFn::Div, a, b)
    }

    pub(crate) fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Made {
        self.add(Op::Reduce { f: ReduceFn::Sum, axes: axes.to_vec(), keep }, &[x])
    }

    /// Reshape, or `x` itself where that has the shape.
    pub(crate) fn reshape(&mut self, x: ValueId, shape: Shape) -> Made {
        if self.shape(x) == shape { Ok(x) } else { self.add(Op::Reshape { shape }, &[x]) }
    }

    /// Broadcast, or `x` itself where that has the shape.
    pub(crate) fn expand(&mut self, x: ValueId, shape: Shape) -> Made {
        if self.shape(x) == shape { Ok(x) } else { self.add(Op::Expand { shape }, &[x]) }
    }

    pub(crate) fn matmul(&mut self, a: ValueId, trans_a: bool, b: ValueId, trans_b: bool) -> Made {
        self.add(Op::MatMul { trans_a, trans_b }, &[a, b])
    }

    /// `x` with its last two axes swapped.
    pub(crate) fn swap_last_axes(&mut self, x: ValueId) -> Made {
        let rank = self.shape(x).rank();
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        self.add(Op::Transpose { perm }, &[x])
    }

    /// `x[.., R, C]` as one matrix `[.. * R, C]`.
    pub(crate) fn as_matrix(&mut self, x: ValueId) -> Made {
        let shape = self.shape(x);
        let (columns, rows) = shape.0.split_last().expect("a matrix has axes");
        let rows = rows.iter().fold(Dim::from(1), |product, &dim| product * dim);
        self.reshape(x, Shape(vec![rows, *columns]))
    }

    /// A per-channel vector `[C]` as `[C, 1, ..]`, so that it broadcasts over axis 1 of the forward node's `x[N,C,..]`.
    pub(crate) fn per_channel(&mut self, vector: ValueId) -> Made {
        let mut shape = self.shape(vector);
        shape.0.resize(self.shape(self.x(0)).rank() - 1, Dim::from(1));
        self.reshape(vector, shape)
    }

    /// `x[N,C,..]` summed to `[C]`.
    pub(crate) fn sum_per_channel(&mut self, x: ValueId) -> Made {
        let axes: Vec<usize> = (0..self.shape(x).rank()).filter(|&axis| axis != 1).collect();
        self.sum(x, &axes, false)
    }

    /// The adjoint of broadcasting `shape` to that of `x`: sums over the broadcast axes.
    pub(crate) fn sum_to(&mut self, x: ValueId, shape: Shape) -> Made {
        let have = self.shape(x);
        let lead = have.rank() - shape.rank();
        let is_broadcast = |axis: &usize| *axis < lead || shape.0[axis - lead] != have.0[*axis];
        let axes: Vec<usize> = (0..have.rank()).filter(is_broadcast).collect();
        let sum = if axes.is_empty() { x } else { self.sum(x, &axes, false)? };
        self.reshape(sum, shape)
    }

    /// `x / count`, where a count that depends on N or T is summed up from ones at run time.
    pub(crate) fn divide_by(&mut self, x: ValueId, count: Dim) -> Made {
        let known = self.affine(x, 1.0 / count.factor as f32, 0.0)?;
        if count.known().is_some() {
            return Ok(known);
        }
        let shape = Shape(vec![Dim { factor: 1, ..count }]);
        let ones = self.add(Op::Fill { shape, value: 1.0 }, &[])?;
        let symbols = self.sum(ones, &[0], false)?;
        self.div(known, symbols)
    }

    /// The error for an op without gradient.
    pub(crate) fn no_gradient(&self) -> GraphError {
        let inputs: Vec<&TensorType> = self.node.inputs.iter().map(|&id| self.graph.ty(id)).collect();
        let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        GraphError::Node {
            node: self.graph.node_name(self.node).into(),
            op: self.node.op.name(),
            inputs: inputs.join(", "),
            reason: "the op has no gradient: it belongs to a backward pass or an update itself".into(),
        }
    }
}
