//! Dead-code removal.

use espalier_graph::{Graph, GraphError, Stage, ValueId, verify};

use crate::rewrite::{Item, rewrite};

/// The graph without the nodes, states and inputs that no output and no update needs.
///
/// # Errors
/// The graph is not valid.
pub fn prune_unused(graph: &Graph) -> Result<Graph, GraphError> {
    let needed = needed(graph);
    let is_needed = |id: ValueId| needed[id.index()];
    let pruned = rewrite(graph, |r, item| match item {
        Item::Input(id) if !is_needed(id) => Ok(()),
        Item::State(state) if !is_needed(state.value) => Ok(()),
        Item::Node(node) if !node.outputs.iter().any(|&id| is_needed(id)) => Ok(()),
        item => r.copy(item),
    })?;
    verify(&pruned, Stage::Step)?;
    Ok(pruned)
}

/// For every value, whether an output or an update depends on it. A state that is updated counts as needed.
fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.values().len()];
    let updated = graph.states().iter().filter_map(|s| Some([s.value, s.next?])).flatten();
    updated.chain(graph.outputs().iter().map(|(_, id)| *id)).for_each(|id| needed[id.index()] = true);
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|id| needed[id.index()]) {
            node.inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    needed
}
