//! The mechanism that passes share: a graph is rebuilt item by item, and a closure says what becomes of each.

use espalier_graph::{Graph, GraphError, Node, Op, Source, State, ValueId};

/// One part of the graph that is being rebuilt, in the order of its text form.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// The input with this value.
    Input(ValueId),
    /// A state, without its update.
    State(&'a State),
    /// A node.
    Node(&'a Node),
    /// The state's value, and what it becomes at the end of a run.
    Update(ValueId, ValueId),
    /// An output's name and value.
    Output(&'a str, ValueId),
}

/// A graph under reconstruction.
pub struct Rewrite<'a> {
    /// What is being rebuilt.
    pub old: &'a Graph,
    /// What has been built of it.
    pub new: Graph,
    mapping: Vec<Option<ValueId>>,
}

/// Rebuilds `old`: `edit` is called for every input, state and node in the order of their making, then for every
/// update, then for every output, and calls [`Rewrite::copy`] for what it leaves as it is. What it ignores is gone.
///
/// # Errors
/// Those of `edit`; anything that reads a value that is gone.
pub fn rewrite(
    old: &Graph,
    mut edit: impl FnMut(&mut Rewrite<'_>, Item<'_>) -> Result<(), GraphError>,
) -> Result<Graph, GraphError> {
    let mut rewrite = Rewrite { old, new: Graph::new(), mapping: vec![None; old.values().len()] };
    for item in items(old) {
        edit(&mut rewrite, item)?;
    }
    Ok(rewrite.new)
}

fn items(graph: &Graph) -> impl Iterator<Item = Item<'_>> {
    let mut inputs = graph.inputs().iter();
    let made = graph.values().iter().filter_map(move |value| match value.source {
        Source::Input => inputs.next().map(|&id| Item::Input(id)),
        Source::State(state) => Some(Item::State(&graph.states()[state])),
        Source::Node { node, output: 0 } => Some(Item::Node(&graph.nodes()[node])),
        Source::Node { .. } => None,
    });
    let updates = graph.states().iter().filter_map(|s| Some(Item::Update(s.value, s.next?)));
    let outputs = graph.outputs().iter().map(|(name, id)| Item::Output(name, *id));
    made.chain(updates).chain(outputs)
}

impl Rewrite<'_> {
    /// What the old value `id` has become.
    ///
    /// # Errors
    /// It is gone.
    pub fn at(&self, id: ValueId) -> Result<ValueId, GraphError> {
        self.mapping[id.index()].ok_or_else(|| {
            let name = &self.old.value(id).name;
            GraphError::Invalid(format!("`{name}` was removed from the graph, but something still reads it"))
        })
    }

    /// What the old values `ids` have become.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn all(&self, ids: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        ids.iter().map(|&id| self.at(id)).collect()
    }

    /// From now on the old value `old` is the new value `new`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.mapping[old.index()] = Some(new);
    }

    /// The name of an old value.
    pub fn name(&self, old: ValueId) -> &str {
        &self.old.value(old).name
    }

    /// Carries `item` over as it is.
    ///
    /// # Errors
    /// It reads a value that is gone, or whose new type does not fit.
    pub fn copy(&mut self, item: Item<'_>) -> Result<(), GraphError> {
        match item {
            Item::Input(id) => {
                let value = self.old.value(id);
                let new = self.new.add_input(&value.name, value.ty.clone())?;
                self.replace(id, new);
            }
            Item::State(state) => {
                let value = self.old.value(state.value);
                let new = self.new.add_state(&value.name, state.role, value.ty.clone())?;
                self.replace(state.value, new);
            }
            Item::Node(node) => self.copy_as(node, node.op.clone())?,
            Item::Update(state, next) => self.new.set_next(self.at(state)?, self.at(next)?)?,
            Item::Output(name, id) => self.new.add_output(name, self.at(id)?)?,
        }
        Ok(())
    }

    /// Carries `node` over with another op that has as many outputs.
    ///
    /// # Errors
    /// As [`Rewrite::copy`].
    pub fn copy_as(&mut self, node: &Node, op: Op) -> Result<(), GraphError> {
        let names: Vec<String> = node.outputs.iter().map(|&id| self.name(id).to_string()).collect();
        let inputs = self.all(&node.inputs)?;
        let made = self.new.add_named(&names, op, &inputs)?;
        node.outputs.iter().zip(made).for_each(|(&old, new)| self.replace(old, new));
        Ok(())
    }
}
