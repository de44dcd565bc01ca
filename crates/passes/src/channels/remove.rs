//! A network without some of its channels.

use std::collections::{BTreeMap, BTreeSet};

use espalier_graph::{
    Dim, Graph, GraphError, Node, Op, Shape, Stage, State, Tensor, TensorType, ValueId, Weights, verify,
};

use super::Channels;
use super::trace::Label;
use crate::rewrite::{Item, Rewrite, rewrite};

impl Channels {
    /// The graph that these are the channels of, without the units numbered in `gone`. Names stay.
    ///
    /// # Errors
    /// Nothing would be left along an axis.
    pub fn remove(&self, graph: &Graph, gone: &BTreeSet<usize>) -> Result<Graph, GraphError> {
        let kept = Kept::new(self, gone);
        let smaller = rewrite(graph, |r, item| match item {
            Item::State(state) => kept.state(r, state),
            Item::Node(node) => kept.node(r, node),
            item => r.copy(item),
        })?;
        verify(&smaller, Stage::Trainable)?;
        Ok(smaller)
    }

    /// The weights of the graph that [`Channels::remove`] gives.
    ///
    /// # Errors
    /// `weights` lack a state, or it has other sizes or no floats.
    pub fn remove_weights(
        &self,
        graph: &Graph,
        weights: &Weights,
        gone: &BTreeSet<usize>,
    ) -> Result<Weights, GraphError> {
        let kept = Kept::new(self, gone);
        let mut smaller = weights.clone();
        for (&state, axes) in &kept.states {
            let value = graph.value(state);
            let lacks =
                || GraphError::Invalid(format!("the weights lack the state `{}` {}", value.name, value.ty));
            let tensor = smaller.get_mut(&value.name).filter(|tensor| tensor.ty() == value.ty);
            let tensor = tensor.ok_or_else(lacks)?;
            for (&axis, places) in axes {
                let values = tensor.as_f32().ok_or_else(lacks)?;
                *tensor = gather(values, &tensor.shape, axis, places);
            }
        }
        Ok(smaller)
    }
}

/// The elements at `places` of an axis.
fn gather(values: &[f32], sizes: &[usize], axis: usize, places: &[usize]) -> Tensor {
    let inner: usize = sizes[axis + 1..].iter().product();
    let rows = values.chunks_exact((sizes[axis] * inner).max(1));
    let kept = rows.flat_map(|row| places.iter().flat_map(move |&at| &row[at * inner..(at + 1) * inner]));
    let mut shape = sizes.to_vec();
    shape[axis] = places.len();
    Tensor::f32(&shape, kept.copied().collect())
}

/// What stays of every value and state.
struct Kept<'c> {
    channels: &'c Channels,
    gone: BTreeSet<Label>,
    roots: Vec<Label>,
    /// By state and axis: the places that stay.
    states: BTreeMap<ValueId, BTreeMap<usize, Vec<usize>>>,
}

impl<'c> Kept<'c> {
    fn new(channels: &'c Channels, gone: &BTreeSet<usize>) -> Kept<'c> {
        let mut trace = channels.trace.clone();
        let roots = (0..trace.labels()).map(|label| trace.root(label)).collect();
        let gone = gone.iter().map(|&unit| channels.units[unit].root).collect();
        let mut kept = Kept { channels, gone, roots, states: BTreeMap::new() };
        for (state, axis, _, labels) in &channels.trace.axes {
            let places = (0..labels.len()).filter(|&at| kept.stays(labels[at])).collect();
            kept.states.entry(*state).or_default().insert(*axis, places);
        }
        kept
    }

    fn stays(&self, label: Label) -> bool {
        !self.gone.contains(&self.roots[label as usize])
    }

    fn count(&self, labels: &[Label]) -> usize {
        labels.iter().filter(|&&label| self.stays(label)).count()
    }

    /// The channels that stay of a value that flows.
    fn flowing(&self, value: ValueId) -> Option<usize> {
        self.channels.trace.flow(value).map(|labels| self.count(labels))
    }

    fn state(&self, r: &mut Rewrite<'_>, state: &State) -> Result<(), GraphError> {
        let TensorType { dtype, shape } = r.old.ty(state.value);
        let mut shape = shape.clone();
        for (&axis, places) in self.states.get(&state.value).into_iter().flatten() {
            if places.is_empty() {
                let name = r.name(state.value);
                return Err(GraphError::Invalid(format!(
                    "nothing would be left along axis {axis} of `{name}`"
                )));
            }
            shape.0[axis] = Dim::from(places.len());
        }
        let ty = TensorType { dtype: *dtype, shape };
        let name = r.name(state.value).to_string();
        let new = r.new.add_state(&name, state.role, ty)?;
        r.replace(state.value, new);
        Ok(())
    }

    /// Attributes that speak of numbers of channels follow.
    fn node(&self, r: &mut Rewrite<'_>, node: &Node) -> Result<(), GraphError> {
        let op = match (&node.op, self.flowing(node.outputs[0])) {
            (Op::Conv { window, groups }, Some(left))
                if *groups > 1 && self.is_depthwise(r.old, node, *groups) =>
            {
                Op::Conv { window: *window, groups: left }
            }
            (Op::Reshape { shape }, Some(left)) => {
                let mut shape: Shape = shape.clone();
                shape.0[1] = Dim::from(left);
                Op::Reshape { shape }
            }
            (Op::Slice { axis: 1, start, end }, Some(left)) => {
                let labels = self.channels.trace.flow(node.inputs[0]);
                let before = labels.and_then(|labels| labels.get(..*start));
                let start = before.map_or(*start, |labels| self.count(labels));
                let end = if before.is_some() { start + left } else { *end };
                Op::Slice { axis: 1, start, end }
            }
            (op, _) => op.clone(),
        };
        r.copy_as(node, op)
    }

    fn is_depthwise(&self, graph: &Graph, node: &Node, groups: usize) -> bool {
        graph.ty(node.inputs[1]).shape.0[0] == Dim::from(groups)
    }
}
