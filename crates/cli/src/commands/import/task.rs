//! Which task an imported network is for, by flags or by what its file says; and what its tasks share.

use std::path::Path;

use clap::ValueEnum;
use espalier_graph::{Bindings, Graph};
use espalier_onnx::Metadata;
use espalier_passes::rewrite::{Item, rewrite};
use espalier_tasks::{Fit, Task};

use super::{Args, FitArg, classifier, detector};
use crate::exit::usage;

/// What a network is for.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Kind {
    ClassifyImage,
    Detect,
    Raw,
}

/// The task, with the graph brought to its form; what was decided without being asked is noted.
pub(super) fn of(
    args: &Args,
    metadata: &Metadata,
    graph: &mut Graph,
    notes: &mut Vec<String>,
) -> anyhow::Result<Option<Task>> {
    let kind = kind(args, metadata, graph);
    check_flags(args, kind)?;
    let task = match kind {
        Kind::ClassifyImage => classifier::task(args, metadata, graph)?,
        Kind::Detect => detector::task(args, metadata, graph, notes)?,
        Kind::Raw => {
            if let (None, Some(task)) = (args.task, &metadata.task) {
                let raw = "the package takes and gives raw tensors";
                notes.push(format!("the file says its task is {task:?}; {raw}"));
            }
            return Ok(None);
        }
    };
    task.validate().map_err(usage)?;
    Ok(Some(task))
}

/// Flags decide, then what the metadata say: that it detects, or that it classifies and all that this needs. YOLOv5's own
/// exporter leaves out the task, but not the form of the outputs.
fn kind(args: &Args, metadata: &Metadata, graph: &Graph) -> Kind {
    let says = |words: &[&str]| metadata.task.as_deref().is_some_and(|task| words.contains(&task));
    let named = metadata.labels.is_some();
    match args.task {
        Some(kind) => kind,
        None if args.head.is_some() || says(&["detect"]) => Kind::Detect,
        None if named && metadata.task.is_none() && detector::is_yolov5(metadata, graph) => Kind::Detect,
        None if says(&["classify", "classify-image"])
            && named
            && metadata.mean.is_some()
            && metadata.std.is_some() =>
        {
            Kind::ClassifyImage
        }
        None => Kind::Raw,
    }
}

fn check_flags(args: &Args, kind: Kind) -> anyhow::Result<()> {
    let detect = [
        ("--head", args.head.is_some()),
        ("--confidence", args.confidence.is_some()),
        ("--iou", args.iou.is_some()),
    ];
    let any = [
        ("--labels", args.labels.is_some()),
        ("--mean", args.mean.is_some()),
        ("--std", args.std.is_some()),
        ("--bgr", args.bgr),
        ("--fit", args.fit.is_some()),
        ("--data", args.data.is_some()),
    ];
    let given =
        |flags: &[(&'static str, bool)]| flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
    match (kind, given(&detect), given(&any)) {
        (Kind::ClassifyImage | Kind::Raw, Some(flag), _) => {
            Err(usage(format!("{flag} belongs to detectors: add --task detect")))
        }
        (Kind::Raw, None, Some(flag)) => {
            Err(usage(format!("{flag} belongs to a task: add --task classify-image or --task detect")))
        }
        _ => Ok(()),
    }
}

/// Channels, height and width of the one picture that the network takes.
pub(super) fn picture(graph: &Graph, task: &str) -> anyhow::Result<(usize, [usize; 2])> {
    let dims = |id| graph.ty(id).shape.bind(Bindings::batch(1));
    if let &[x] = graph.inputs()
        && let [1, channels @ (1 | 3), height, width] = dims(x)[..]
    {
        return Ok((channels, [height, width]));
    }
    let types: Vec<String> = graph.inputs().iter().map(|&id| graph.ty(id).to_string()).collect();
    let types = types.join(", ");
    anyhow::bail!("{task} takes one picture f32[N,1 or 3,height,width], the network's input is {types}")
}

/// The class names: those of --labels, or else of the file.
pub(super) fn labels(args: &Args, metadata: &Metadata) -> anyhow::Result<Option<Vec<String>>> {
    match &args.labels {
        Some(file) => read_labels(file).map(Some),
        None => Ok(metadata.labels.clone()),
    }
}

fn read_labels(file: &Path) -> anyhow::Result<Vec<String>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| usage(format!("--labels {shown}: {e}")))?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    match labels.iter().position(String::is_empty) {
        Some(at) => Err(usage(format!("--labels {shown}: line {} is empty", at + 1))),
        None => Ok(labels),
    }
}

/// A number for each channel: that of the flag, or else of the file.
pub(super) fn per_channel(
    flag: &str,
    given: Option<&str>,
    stored: &Option<Vec<f32>>,
    channels: usize,
) -> anyhow::Result<Option<Vec<f32>>> {
    let values = match (given, stored) {
        (Some(text), _) => text.split(',').map(|v| v.trim().parse().ok()).collect::<Option<Vec<f32>>>(),
        (None, Some(stored)) => Some(stored.clone()),
        (None, None) => return Ok(None),
    };
    match values.as_deref() {
        Some(&[value]) => Ok(Some(vec![value; channels])),
        Some(values) if values.len() == channels => Ok(Some(values.to_vec())),
        _ => Err(usage(format!("{flag}: it should be one number or {channels} with commas"))),
    }
}

/// How pictures are brought to the input's shape: as the flag says, or else the file.
pub(super) fn fit(args: &Args, metadata: &Metadata) -> Option<Fit> {
    let stored = || metadata.fit.as_deref().and_then(|name| FitArg::from_str(name, false).ok());
    args.fit.or_else(stored).map(Into::into)
}

/// The outputs with their types, for messages.
pub(super) fn outputs(graph: &Graph) -> String {
    let outputs = graph.outputs().iter().map(|(name, id)| format!("{name} {}", graph.ty(*id)));
    outputs.collect::<Vec<_>>().join(", ")
}

pub(super) fn without_outputs(graph: &Graph) -> anyhow::Result<Graph> {
    Ok(rewrite(graph, |r, item| match item {
        Item::Output(..) => Ok(()),
        item => r.copy(item),
    })?)
}
