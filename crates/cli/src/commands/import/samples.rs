//! What a network gives for made-up input, stored so that other machines can be held to it.

use espalier_graph::{Bindings, Golden, Graph, Tensor, Weights};
use espalier_runtime::Isa;
use espalier_tasks::golden::Raw;
use espalier_tasks::{Model, Task};

use crate::made_up;

/// Golden samples of a task. Fewer where their outputs would take more than so many elements.
const PICTURES: usize = 4;
const ELEMENTS_MAX: usize = 1 << 18;

/// What the network gives for made-up input: pictures for a task, else one sample of random tensors. None where a value
/// is not finite.
pub(super) fn golden(
    graph: &Graph,
    weights: &Weights,
    task: Option<Task>,
    threads: usize,
) -> anyhow::Result<Vec<Golden>> {
    let isa = Isa::best();
    let golden = match task {
        Some(task) => {
            let mut model = Model::new(graph.clone(), weights.clone(), task, isa, threads)?;
            let elements = |(_, id): &(String, _)| {
                graph.ty(*id).shape.bind(Bindings::batch(1)).iter().product::<usize>()
            };
            let elements: usize = graph.outputs().iter().map(elements).sum();
            let pictures = (ELEMENTS_MAX / elements.max(1)).clamp(1, PICTURES);
            (0..pictures).map(|i| model.golden(&made_up::picture(i as u64))).collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let options = espalier_runtime::Options { isa, threads, bindings: Bindings::batch(1) };
            let inputs = graph
                .inputs()
                .iter()
                .zip(0..)
                .map(|(&id, stream)| made_up::tensor(graph.ty(id), stream))
                .collect();
            vec![Raw::new(graph, weights, options)?.golden(inputs)?]
        }
    };
    let finite = |t: &Tensor| t.as_f32().is_none_or(|v| v.iter().all(|v| v.is_finite()));
    Ok(if golden.iter().all(|sample| sample.outputs.iter().all(finite)) { golden } else { Vec::new() })
}
