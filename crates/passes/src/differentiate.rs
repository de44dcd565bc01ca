//! Reverse-mode differentiation: walks the graph backwards and appends to it what the table of rules says.

use espalier_graph::{BinaryFn, DType, Graph, GraphError, Op, Stage, ValueId, verify};

use crate::rules::gradients;

/// Appends to `graph` the nodes that compute the gradients for `wrt` of a loss, of which the gradients for some values
/// are given: `seeds` pairs a value with its gradient of the same type (for a scalar loss, a Fill of 1). Several seeds,
/// and several uses of a value, add up. The result holds, for each of `wrt`, its gradient, or `None` where the
/// seeded values do not depend on it differentiably. Nodes are named after the value whose gradient they make: `v.grad`.
///
/// Only nodes between `wrt` and the seeds get backward nodes, and these come after all others.
///
/// # Errors
/// A seed of another type than its value; an op on the way that has no gradient, such as another op's gradient.
pub fn differentiate(
    graph: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GraphError> {
    let wanted = dependents(graph, wrt);
    let forward = graph.nodes().to_vec();
    let mut gradient = vec![None; wanted.len()];
    for &(value, seed) in seeds {
        check_seed(graph, value, seed)?;
        accumulate(graph, &mut gradient, value, seed)?;
    }
    for node in forward.iter().rev() {
        let dy: Vec<_> = node.outputs.iter().map(|id| gradient[id.index()]).collect();
        let wants: Vec<_> = node.inputs.iter().map(|id| wanted[id.index()]).collect();
        if dy.iter().any(Option::is_some) && wants.contains(&true) {
            let parts = gradients(graph, node, &dy, &wants)?;
            for (&input, part) in node.inputs.iter().zip(parts) {
                part.map_or(Ok(()), |part| accumulate(graph, &mut gradient, input, part))?;
            }
        }
    }
    verify(graph, Stage::Step)?;
    Ok(wrt.iter().map(|id| gradient[id.index()]).collect())
}

/// For every value, whether it is one of `wrt` or depends on one through floats.
fn dependents(graph: &Graph, wrt: &[ValueId]) -> Vec<bool> {
    let mut depends = vec![false; graph.values().len()];
    wrt.iter().for_each(|id| depends[id.index()] = graph.ty(*id).dtype == DType::F32);
    for node in graph.nodes() {
        if node.inputs.iter().any(|id| depends[id.index()]) {
            node.outputs.iter().for_each(|id| depends[id.index()] = graph.ty(*id).dtype == DType::F32);
        }
    }
    depends
}

fn check_seed(graph: &Graph, value: ValueId, seed: ValueId) -> Result<(), GraphError> {
    let (want, have) = (graph.ty(value), graph.ty(seed));
    if want == have && want.dtype == DType::F32 {
        return Ok(());
    }
    let (value, seed) = (&graph.value(value).name, &graph.value(seed).name);
    Err(GraphError::Invalid(format!(
        "the gradient `{seed}` of `{value}` is {have}, it should be f32 and {want}"
    )))
}

fn accumulate(
    graph: &mut Graph,
    gradient: &mut [Option<ValueId>],
    value: ValueId,
    part: ValueId,
) -> Result<(), GraphError> {
    let slot = &mut gradient[value.index()];
    *slot = Some(match *slot {
        None => part,
        Some(sum) => {
            let name = graph.fresh(&format!("{}.grad", graph.value(value).name));
            graph.add(&name, Op::Binary { f: BinaryFn::Add }, &[sum, part])?
        }
    });
    Ok(())
}
