//! Networks that give a row of logits.

use anyhow::Context;
use espalier_graph::{Bindings, Graph, Op, Shape, ValueId};
use espalier_onnx::Metadata;
use espalier_passes::prune_unused;
use espalier_tasks::{ClassifyImage, Task};

use super::Args;
use super::task::{fit, labels, outputs, per_channel, picture, without_outputs};
use crate::exit::usage;

/// The task, and the graph brought to its form: one output, a row of logits.
pub(super) fn task(args: &Args, metadata: &Metadata, graph: &mut Graph) -> anyhow::Result<Task> {
    let (channels, size) = picture(graph, "classify-image")?;
    let labels = labels(args, metadata)?
        .ok_or_else(|| usage("--labels FILE is needed: the file holds no class names"))?;
    let needed = |flag| {
        move || {
            usage(format!(
                "{flag} is needed: the file does not say how its input is normalised; for networks trained on ImageNet it \
                 is usually --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, without normalisation --mean 0 --std 1"
            ))
        }
    };
    let mean = per_channel("--mean", args.mean.as_deref(), &metadata.mean, channels)?;
    let std = per_channel("--std", args.std.as_deref(), &metadata.std, channels)?;
    let (mean, std) = (mean.ok_or_else(needed("--mean"))?, std.ok_or_else(needed("--std"))?);
    *graph = logits(graph, labels.len())?;
    let mut task = ClassifyImage::new(size, mean, std, labels);
    task.input.bgr = args.bgr || (channels == 3 && metadata.bgr == Some(true));
    task.input.fit = fit(args, metadata).unwrap_or(task.input.fit);
    Ok(Task::ClassifyImage(task))
}

/// The graph with the one output that is a row of `classes`, before any softmax: answers apply it themselves.
fn logits(graph: &Graph, classes: usize) -> anyhow::Result<Graph> {
    let fits = |id| {
        let dims = graph.ty(id).shape.bind(Bindings::batch(1));
        dims.len() >= 2 && dims[..2] == [1, classes] && dims[2..].iter().all(|&d| d == 1)
    };
    let found: Vec<_> = graph.outputs().iter().filter(|(_, id)| fits(*id)).collect();
    let [(name, id)] = found[..] else {
        let outputs = outputs(graph);
        anyhow::bail!("{classes} labels need one output of {classes} numbers, the network has {outputs}");
    };
    let mut id = *id;
    while let Some(node) = graph.producer(id)
        && (matches!(node.op, Op::Softmax { axis: 1 })
            || is_flattening(graph, &node.op, node.inputs.first().copied()))
        && fits(node.inputs[0])
    {
        id = node.inputs[0];
    }
    let mut kept = without_outputs(graph)?;
    let mut id = kept.find(&graph.value(id).name).context("an output vanished")?;
    if kept.ty(id).shape.rank() > 2 {
        let shape = Shape(kept.ty(id).shape.0[..2].to_vec());
        id = kept.reshape(&kept.fresh("logits"), id, shape)?;
    }
    kept.add_output(name, id)?;
    Ok(prune_unused(&kept)?)
}

fn is_flattening(graph: &Graph, op: &Op, x: Option<ValueId>) -> bool {
    matches!(op, Op::Reshape { .. }) && x.is_some_and(|x| graph.ty(x).shape.rank() >= 2)
}
