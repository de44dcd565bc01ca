//! Networks whose outputs hold boxes: which head they have, and what their authors feed them.

use anyhow::Context;
use clap::ValueEnum;
use espalier_graph::{Bindings, Graph, Op, UnaryFn, ValueId};
use espalier_onnx::Metadata;
use espalier_passes::prune_unused;
use espalier_tasks::detect::Priors;
use espalier_tasks::{Detect, Fit, Head, Task};

use super::Args;
use super::task::{fit, labels, outputs, per_channel, picture, without_outputs};
use crate::exit::usage;

/// The heads by name.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum HeadArg {
    Yolov5,
    Yolov8,
    Fastestdet,
    Ultraface,
}

impl HeadArg {
    fn head(self) -> Head {
        match self {
            HeadArg::Yolov5 => Head::Yolov5,
            HeadArg::Yolov8 => Head::Yolov8,
            HeadArg::Fastestdet => Head::Fastestdet,
            HeadArg::Ultraface => Head::Ultraface { priors: None },
        }
    }

    fn name(self) -> &'static str {
        self.head().name()
    }
}

/// What UltraFace finds, where nobody says otherwise.
const FACE: &str = "face";

/// The task, and the graph with the outputs that its head reads, in the head's order.
pub(super) fn task(
    args: &Args,
    metadata: &Metadata,
    graph: &mut Graph,
    notes: &mut Vec<String>,
) -> anyhow::Result<Task> {
    let (channels, size) = picture(graph, "detect")?;
    let (labels, given) = match labels(args, metadata)? {
        Some(labels) => (labels, true),
        None => (vec![FACE.to_owned()], false),
    };
    let stored = || metadata.head.as_deref().and_then(|name| HeadArg::from_str(name, false).ok());
    let (arg, read) = head(args.head.or_else(stored), graph, size, labels.len(), given)?;
    let head = match arg {
        HeadArg::Ultraface => with_priors(graph, read[1], size)?,
        other => other.head(),
    };
    *graph = with_outputs(graph, &head, &read)?;
    let mut task = Detect::new(head, size, labels);
    let input = &mut task.input;
    let normalisation = [("--mean", &args.mean, &metadata.mean), ("--std", &args.std, &metadata.std)];
    let [mean, std] =
        normalisation.map(|(flag, given, stored)| per_channel(flag, given.as_deref(), stored, channels));
    let first = |usual: &[f32]| usual[..channels].to_vec();
    (input.mean, input.std) = (mean?.unwrap_or(first(&input.mean)), std?.unwrap_or(first(&input.std)));
    input.bgr = channels == 3 && (args.bgr || metadata.bgr.unwrap_or(input.bgr));
    input.channels = channels;
    input.fit = fit(args, metadata).unwrap_or(input.fit);
    task.confidence = args.confidence.or(metadata.confidence).unwrap_or(task.confidence);
    task.iou = args.iou.or(metadata.iou).unwrap_or(task.iou);
    task.boxes_max = metadata.boxes_max.unwrap_or(task.boxes_max);
    notes.push(said(&task));
    Ok(Task::Detect(task))
}

/// What was decided, in one sentence.
fn said(task: &Detect) -> String {
    let Detect { input, labels, head, confidence, iou, .. } = task;
    let [height, width] = input.size;
    let fit = match input.fit {
        Fit::Letterbox => "letterboxed",
        Fit::Stretch => "stretched",
        Fit::Crop => "cropped",
    };
    let order = match (input.channels, input.bgr) {
        (1, _) => "grey",
        (_, true) => "BGR",
        (_, false) => "RGB",
    };
    let boxes = match head {
        Head::Ultraface { priors: Some(_) } => ", boxes from UltraFace's priors",
        _ => "",
    };
    let (n, name, mean, std) = (labels.len(), head.name(), &input.mean, &input.std);
    format!(
        "detect: head {name}{boxes}, {n} classes; pictures {fit} to {width}x{height}, {order}, mean {mean:?}, std {std:?}; \
         boxes from confidence {confidence} on, overlapping by at most {iou}"
    )
}

/// The head that the outputs have, or that was `named`, and its outputs. `given` says whether the number of classes is sure.
fn head(
    named: Option<HeadArg>,
    graph: &Graph,
    size: [usize; 2],
    classes: usize,
    given: bool,
) -> anyhow::Result<(HeadArg, Vec<ValueId>)> {
    let possible: &[HeadArg] = match &named {
        Some(head) => std::slice::from_ref(head),
        None => HeadArg::value_variants(),
    };
    let sure = |head: &&HeadArg| given || **head == HeadArg::Ultraface;
    let found: Vec<_> = possible
        .iter()
        .filter(sure)
        .filter_map(|&head| Some((head, reads(&head.head(), graph, size, classes)?)))
        .collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] if !given => Err(usage(
            "--labels FILE is needed: the file says that it detects, or you do, but not which classes (--task raw: raw tensors)",
        )),
        [] => {
            let wants = |head: &HeadArg| format!("{} {}", head.name(), head.head().wants(size, classes));
            let wants = possible.iter().map(wants).collect::<Vec<_>>().join("; ");
            Err(usage(format!(
                "the outputs are {}; with {classes} classes these would fit: {wants}. --labels and --head should be the \
                 network's (--task raw: raw tensors)",
                outputs(graph)
            )))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(head, _)| head.name()).collect();
            Err(usage(format!(
                "the outputs are {}; that may be {}: add --head",
                outputs(graph),
                names.join(" or ")
            )))
        }
    }
}

/// The outputs that a head could read, in its order: the first that fit.
fn reads(head: &Head, graph: &Graph, size: [usize; 2], classes: usize) -> Option<Vec<ValueId>> {
    let ids: Vec<ValueId> = graph.outputs().iter().map(|(_, id)| *id).collect();
    let fits = |read: &Vec<ValueId>| {
        let shapes: Vec<Vec<usize>> =
            read.iter().map(|&id| graph.ty(id).shape.bind(Bindings::batch(1))).collect();
        head.fits(size, classes, &shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let one = ids.iter().map(|&id| vec![id]);
    let pairs = ids.iter().flat_map(|&a| ids.iter().filter(move |&&b| a != b).map(move |&b| vec![a, b]));
    one.chain(pairs).find(fits)
}

/// YOLOv5's exporter writes stride and names, and the whole decoded head as the first output.
pub(super) fn is_yolov5(metadata: &Metadata, graph: &Graph) -> bool {
    let classes = metadata.labels.as_ref().map_or(0, Vec::len);
    let first = graph.outputs().first().map(|(_, id)| graph.ty(*id).shape.bind(Bindings::batch(1)));
    metadata.stride.is_some() && first.is_some_and(|shape| Head::Yolov5.fits([0; 2], classes, &[&shape]))
}

/// UltraFace with its priors, where the graph gives offsets: sizes of decoded boxes come from an Exp.
fn with_priors(graph: &Graph, boxes: ValueId, size: [usize; 2]) -> anyhow::Result<Head> {
    if depends_on(graph, boxes, |op| matches!(op, Op::Unary { f: UnaryFn::Exp })) {
        return Ok(Head::Ultraface { priors: None });
    }
    let (priors, shape) = (Priors::ultraface(), graph.ty(boxes).shape.bind(Bindings::batch(1)));
    if priors.count(size) != shape[1] {
        return Err(usage(format!(
            "the boxes are offsets from {} priors; UltraFace has {} for {}x{} pixels",
            shape[1],
            priors.count(size),
            size[1],
            size[0]
        )));
    }
    Ok(Head::Ultraface { priors: Some(priors) })
}

fn depends_on(graph: &Graph, value: ValueId, is: impl Fn(&Op) -> bool) -> bool {
    let (mut open, mut seen) = (vec![value], std::collections::HashSet::new());
    while let Some(id) = open.pop() {
        if let Some(node) = graph.producer(id)
            && seen.insert(id)
        {
            if is(&node.op) {
                return true;
            }
            open.extend(&node.inputs);
        }
    }
    false
}

/// The graph with these outputs alone. UltraFace's scores are shares: where the graph gives logits, a softmax follows.
fn with_outputs(graph: &Graph, head: &Head, read: &[ValueId]) -> anyhow::Result<Graph> {
    let mut kept = without_outputs(graph)?;
    for &id in read {
        let (name, _) =
            graph.outputs().iter().find(|(_, output)| *output == id).context("an output vanished")?;
        let mut value = kept.find(&graph.value(id).name).context("an output vanished")?;
        let softmax = |op: &Op| matches!(op, Op::Softmax { .. });
        let scores = matches!(head, Head::Ultraface { .. }) && id == read[0];
        if scores && !depends_on(graph, id, softmax) {
            value = kept.add(&kept.fresh("scores"), Op::Softmax { axis: 2 }, &[value])?;
        }
        kept.add_output(name, value)?;
    }
    Ok(prune_unused(&kept)?)
}
