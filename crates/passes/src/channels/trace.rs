//! Which channel of one value is which channel of another.

use std::collections::BTreeMap;

use espalier_graph::{BinaryFn, Dim, Graph, Node, Op, Shape, ValueId};

/// A channel, by number; several may turn out to be one.
pub(super) type Label = u32;

/// The channels of all values.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    /// Another label for the same channel, or itself: a forest (Tarjan 1975).
    parents: Vec<Label>,
    /// For roots: why the channel stays; empty if it may go.
    reasons: Vec<String>,
    /// The channels along axis 1 of values that flow, where they have any.
    flows: Vec<Option<Vec<Label>>>,
    /// The channels along an axis of a state, and whether the state makes them or reads them.
    pub(super) axes: Vec<(ValueId, usize, bool, Vec<Label>)>,
    /// States that an op without a rule reads, and why their channels stay.
    fixed: BTreeMap<ValueId, String>,
}

impl Trace {
    pub(super) fn of(graph: &Graph) -> Trace {
        let flows = vec![None; graph.values().len()];
        let mut trace = Trace {
            parents: Vec::new(),
            reasons: Vec::new(),
            flows,
            axes: Vec::new(),
            fixed: BTreeMap::new(),
        };
        for &input in graph.inputs() {
            trace.start(graph, input);
            trace.fix(input, "it is an input");
        }
        for node in graph.nodes() {
            trace.node(graph, node);
        }
        for (_, output) in graph.outputs() {
            trace.fix(*output, "it is an output");
        }
        trace
    }

    /// The number of labels.
    pub(super) fn labels(&self) -> Label {
        self.parents.len() as Label
    }

    /// The one label for all that turned out to be the channel of `label`.
    pub(super) fn root(&mut self, label: Label) -> Label {
        let mut root = label;
        while self.parents[root as usize] != root {
            root = self.parents[root as usize];
        }
        let mut at = label;
        while at != root {
            at = std::mem::replace(&mut self.parents[at as usize], root);
        }
        root
    }

    pub(super) fn is_fixed(&self, root: Label) -> bool {
        !self.reasons[root as usize].is_empty()
    }

    /// Why the channels of a value stay.
    pub(super) fn reason(&self, value: ValueId) -> Option<&str> {
        let mut root = *self.flows[value.index()].as_ref()?.first()?;
        while self.parents[root as usize] != root {
            root = self.parents[root as usize];
        }
        Some(self.reasons[root as usize].as_str()).filter(|reason| !reason.is_empty())
    }

    /// The channels along axis 1 of `value`.
    pub(super) fn flow(&self, value: ValueId) -> Option<&[Label]> {
        self.flows[value.index()].as_deref()
    }

    /// New channels for `value`, where axis 1 is one of channels.
    fn start(&mut self, graph: &Graph, value: ValueId) {
        if let Some(count) = channels(&graph.ty(value).shape) {
            let first = self.parents.len() as Label;
            let labels: Vec<Label> = (first..first + count as Label).collect();
            self.parents.extend(&labels);
            self.reasons.resize(self.parents.len(), String::new());
            self.flows[value.index()] = Some(labels);
        }
    }

    fn fix(&mut self, value: ValueId, reason: &str) {
        let labels = self.flows[value.index()].clone().unwrap_or_default();
        self.fix_all(&labels, reason);
    }

    fn fix_all(&mut self, labels: &[Label], reason: &str) {
        for &label in labels {
            let root = self.root(label) as usize;
            if self.reasons[root].is_empty() {
                self.reasons[root] = reason.into();
            }
        }
    }

    fn unite(&mut self, a: &[Label], b: &[Label]) {
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (self.root(a), self.root(b));
            if a != b {
                let (low, high) = (a.min(b), a.max(b));
                self.parents[high as usize] = low;
                if self.reasons[low as usize].is_empty() {
                    self.reasons[low as usize] = std::mem::take(&mut self.reasons[high as usize]);
                }
            }
        }
    }

    /// Notes the channels along an axis of a state; those of a state that was met before are the same.
    fn state(&mut self, state: ValueId, axis: usize, makes: bool, labels: &[Label]) {
        let met = self.axes.iter().find(|(id, at, ..)| (*id, *at) == (state, axis));
        match met.map(|(.., labels)| labels.clone()) {
            Some(before) => self.unite(&before, labels),
            None => self.axes.push((state, axis, makes, labels.to_vec())),
        }
        if let Some(reason) = self.fixed.get(&state).cloned() {
            self.fix_all(labels, &reason);
        }
    }

    fn node(&mut self, graph: &Graph, node: &Node) {
        if self.follow(graph, node).is_none() {
            let reason = format!("`{}` ({}) reads or makes it", graph.node_name(node), node.op.name());
            for &id in node.inputs.iter().chain(&node.outputs) {
                match graph.is_state(id) {
                    true => self.fix_state(id, &reason),
                    false => {
                        if self.flow(id).is_none() {
                            self.start(graph, id);
                        }
                        self.fix(id, &reason);
                    }
                }
            }
        }
    }

    /// An op without a rule reads a state: what is known of its channels, and what will be, stays.
    fn fix_state(&mut self, state: ValueId, reason: &str) {
        let known = self.axes.iter().filter(|(id, ..)| *id == state).flat_map(|(.., labels)| labels.clone());
        let known: Vec<Label> = known.collect();
        self.fix_all(&known, reason);
        self.fixed.insert(state, reason.into());
    }

    /// The rule of each op; `None` where there is none for this case.
    fn follow(&mut self, graph: &Graph, node: &Node) -> Option<()> {
        let (x, y) = (*node.inputs.first()?, *node.outputs.first()?);
        match &node.op {
            Op::Conv { groups, .. } => self.conv(graph, node, *groups),
            Op::MatMul { trans_a: false, trans_b } => self.matmul(graph, node, *trans_b),
            Op::BatchNorm { .. } => {
                let labels = self.flow(x)?.to_vec();
                node.inputs[1..].iter().all(|&id| graph.is_state(id)).then_some(())?;
                node.inputs[1..].iter().for_each(|&state| self.state(state, 0, true, &labels));
                self.flows[y.index()] = Some(labels);
                Some(())
            }
            Op::Binary { f } => self.binary(graph, node, *f),
            Op::Unary { .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::Resize { .. }
            | Op::Dropout { .. } => self.same(x, y),
            Op::Pad { axis, .. } if *axis != 1 => self.same(x, y),
            Op::Reduce { axes, .. } if !axes.contains(&1) && !axes.contains(&0) => self.same(x, y),
            Op::Concat { axis: 1 } => {
                let parts: Vec<Vec<Label>> =
                    node.inputs.iter().map(|&id| self.flow(id).map(<[_]>::to_vec)).collect::<Option<_>>()?;
                self.flows[y.index()] = Some(parts.concat());
                Some(())
            }
            Op::Slice { axis: 1, start, end } => {
                self.flows[y.index()] = Some(self.flow(x)?.get(*start..*end)?.to_vec());
                Some(())
            }
            Op::Slice { axis, .. } if *axis > 1 => self.same(x, y),
            Op::Reshape { .. } => self.reshape(graph, x, y),
            _ => None,
        }
    }

    /// What comes out has the channels of what goes in.
    fn same(&mut self, x: ValueId, y: ValueId) -> Option<()> {
        self.flows[y.index()] = Some(self.flow(x)?.to_vec());
        Some(())
    }

    fn conv(&mut self, graph: &Graph, node: &Node, groups: usize) -> Option<()> {
        let (x, w, y) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        node.inputs[1..].iter().all(|&id| graph.is_state(id)).then_some(())?;
        let labels = self.flow(x)?.to_vec();
        let outputs = graph.ty(w).shape.0[0].known()?;
        if groups == 1 {
            self.state(w, 1, false, &labels);
            self.start(graph, y);
        } else if groups == labels.len() && groups == outputs {
            // Depthwise: a channel in, the same out.
            self.flows[y.index()] = Some(labels);
        } else {
            return None;
        }
        let made = self.flow(y)?.to_vec();
        node.inputs[1..].iter().for_each(|&state| self.state(state, 0, true, &made));
        Some(())
    }

    fn matmul(&mut self, graph: &Graph, node: &Node, trans_b: bool) -> Option<()> {
        let (x, w, y) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let rank = |id| graph.ty(id).shape.rank();
        (graph.is_state(w) && rank(x) == 2 && rank(w) == 2).then_some(())?;
        let labels = self.flow(x)?.to_vec();
        let [inputs, outputs] = if trans_b { [1, 0] } else { [0, 1] };
        self.state(w, inputs, false, &labels);
        self.start(graph, y);
        let made = self.flow(y)?.to_vec();
        self.state(w, outputs, true, &made);
        Some(())
    }

    /// Both arguments have the channels of the result, unless they are the same for all of them.
    fn binary(&mut self, graph: &Graph, node: &Node, f: BinaryFn) -> Option<()> {
        let y = node.outputs[0];
        let shape = &graph.ty(y).shape;
        let count = channels(shape)?;
        let mut made: Option<Vec<Label>> = None;
        let mut states = Vec::new();
        for &id in &node.inputs {
            let own = &graph.ty(id).shape;
            // Axes are counted from the last one.
            let Some(axis) = (1 + own.rank()).checked_sub(shape.rank()).filter(|&axis| axis < own.rank())
            else {
                continue;
            };
            if own.0[axis] == Dim::from(1) && count != 1 {
                continue;
            }
            if graph.is_state(id) {
                states.push((id, axis));
                continue;
            }
            let labels = self.flow(id)?.to_vec();
            if let Some(made) = &made {
                self.unite(made, &labels);
            }
            made = made.or(Some(labels));
        }
        let made = made?;
        // A factor or a term for each channel; what else a state does to channels that are zero is unknown.
        (states.is_empty() || matches!(f, BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Div))
            .then_some(())?;
        states.into_iter().for_each(|(state, axis)| self.state(state, axis, true, &made));
        self.flows[y.index()] = Some(made);
        Some(())
    }

    /// From maps to rows, where a channel becomes as many columns as it has pixels, and back where it is one.
    fn reshape(&mut self, graph: &Graph, x: ValueId, y: ValueId) -> Option<()> {
        let labels = self.flow(x)?.to_vec();
        let [from, to] = [x, y].map(|id| &graph.ty(id).shape);
        let (n, count) = (from.0[0], channels(to)?);
        (to.0[0] == n && count % labels.len() == 0).then_some(())?;
        // As many columns as pixels: all that follows the channels, or nothing of it.
        let pixels = |shape: &Shape| shape.0[2..].iter().map(|dim| dim.known()).product::<Option<usize>>();
        let (before, after, times) = (pixels(from)?, pixels(to)?, count / labels.len());
        (before == times * after && (times == 1 || after == 1)).then_some(())?;
        self.flows[y.index()] = Some(labels.iter().flat_map(|&l| std::iter::repeat_n(l, times)).collect());
        Some(())
    }
}

/// The number of channels, axis 1 behind the batch, of maps and rows.
fn channels(shape: &Shape) -> Option<usize> {
    match &shape.0[..] {
        [n, channels] | [n, channels, _, _] if *n == Dim::N => channels.known(),
        _ => None,
    }
}
