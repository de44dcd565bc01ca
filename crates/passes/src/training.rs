//! From the graph that infers to the one that is trained.

use espalier_graph::{Graph, GraphError, Node, Op, Stage, verify};

use crate::rewrite::{Item, Rewrite, rewrite};

/// The forward graph of training: BatchNorm takes the batch's statistics and updates the running ones, except where
/// its gamma is `frozen` (by state name). Loss, gradients and updates are appended later.
///
/// # Errors
/// Two BatchNorms share running statistics.
pub fn training(graph: &Graph, frozen: &dyn Fn(&str) -> bool) -> Result<Graph, GraphError> {
    let trainable = rewrite(graph, |r, item| match item {
        Item::Node(node) => match node.op {
            Op::BatchNorm { eps, momentum } if !frozen(r.name(node.inputs[1])) => {
                with_batch_statistics(r, node, Op::BatchNormTraining { eps, momentum })
            }
            _ => r.copy(item),
        },
        item => r.copy(item),
    })?;
    verify(&trainable, Stage::Trainable)?;
    Ok(trainable)
}

fn with_batch_statistics(r: &mut Rewrite<'_>, node: &Node, op: Op) -> Result<(), GraphError> {
    let inputs = r.all(&node.inputs)?;
    let name = r.name(node.outputs[0]).to_string();
    let outputs = r.new.add_all(&name, op, &inputs)?;
    r.replace(node.outputs[0], outputs[0]);
    for (&statistic, &next) in inputs[3..].iter().zip(&outputs[1..]) {
        if r.new.is_state(statistic) {
            r.new.set_next(statistic, next)?;
        }
    }
    Ok(())
}
