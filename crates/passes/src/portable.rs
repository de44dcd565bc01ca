//! From the graph that is trained to the one that is shipped.

use espalier_graph::{Graph, GraphError, Node, Op, Stage, verify};

use crate::prune_unused::prune_unused;
use crate::rewrite::{Item, Rewrite, rewrite};

/// The graph a package holds: Dropout is the identity, BatchNorm uses its running statistics, and updates, optimizer
/// states, and whatever nothing reads any more (such as the input `rng`) are gone.
///
/// # Errors
/// An output still depends on an op that only training knows, such as a loss.
pub fn portable(graph: &Graph) -> Result<Graph, GraphError> {
    let constant = rewrite(graph, |r, item| match item {
        Item::Update(..) => Ok(()),
        item => r.copy(item),
    })?;
    // Backward nodes have to be gone before the batch statistics that they read.
    let inference = rewrite(&prune_unused(&constant)?, |r, item| match item {
        Item::Node(node) => infer_node(r, node),
        item => r.copy(item),
    })?;
    let portable = prune_unused(&inference)?;
    verify(&portable, Stage::Portable)?;
    Ok(portable)
}

fn infer_node(r: &mut Rewrite<'_>, node: &Node) -> Result<(), GraphError> {
    let inputs = r.all(&node.inputs)?;
    let y = match node.op {
        Op::Dropout { .. } => inputs[0],
        Op::BatchNormTraining { eps, momentum } => {
            let name = r.name(node.outputs[0]).to_string();
            r.new.add(&name, Op::BatchNorm { eps, momentum }, &inputs)?
        }
        _ => return r.copy(Item::Node(node)),
    };
    r.replace(node.outputs[0], y);
    Ok(())
}
