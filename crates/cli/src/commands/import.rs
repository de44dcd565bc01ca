//! `espalier import`: an ONNX file becomes a package.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use espalier_graph::random::Random;
use espalier_graph::{
    Bindings, DType, Data, Format, Golden, Graph, Lineage, Manifest, Op, Package, Shape, Tensor, TensorType,
    Weights,
};
use espalier_onnx::{Batch, ImportError, Imported, Metadata, Options};
use espalier_passes::integers::{Remark, Remarks};
use espalier_passes::{fold_batch_norm, prune_unused};
use espalier_runtime::Isa;
use espalier_tasks::golden::Raw;
use espalier_tasks::{ClassifyImage, Fit, Image, Model, Task};
use espalier_train::networks;
use serde_json::{Value, json};

use crate::exit::usage;
use crate::{open, print};

/// Make a package of an ONNX file.
#[derive(clap::Args)]
#[command(after_help = "\
Without a task the package takes and gives raw tensors (`run --input`, `benchmark`, `inspect`). With --task \
classify-image it classifies pictures (`predict`, `val`); what the file's metadata say (class names, input size, mean, std; \
Ultralytics' too) need not be given. Batch normalisation is folded. docs/onnx.md lists what is read.

Examples:
  espalier import resnet18.onnx --out resnet18.espalier
  espalier import resnet18.onnx --out resnet18.espalier --task classify-image --labels imagenet.txt \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225")]
pub(crate) struct Args {
    /// The ONNX file (float or QDQ int8, opset 7 to 21).
    file: PathBuf,
    /// The package to write.
    #[arg(long)]
    out: PathBuf,
    /// What the network is for: classify-image.
    #[arg(long)]
    task: Option<String>,
    /// Class names, one on each line, in the order of the outputs.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// What is subtracted from each channel, of values scaled to 0..1.
    #[arg(long, value_name = "M,M,M")]
    mean: Option<String>,
    /// What each channel is divided by, of values scaled to 0..1.
    #[arg(long, value_name = "S,S,S")]
    std: Option<String>,
    /// Height and width of the input where the file leaves them open: 224 or 192x256.
    #[arg(long, value_name = "N|HxW")]
    imgsz: Option<String>,
    /// The input's channels are blue, green, red; mean and std are in that order.
    #[arg(long)]
    bgr: bool,
    /// How pictures of another shape are brought to the input's.
    #[arg(long, value_enum)]
    fit: Option<FitArg>,
    /// Kind of a detector's head; detection is not built yet.
    #[arg(long)]
    head: Option<String>,
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FitArg {
    Letterbox,
    Stretch,
    Crop,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    let kind = kind(args)?;
    let size = args.imgsz.as_deref().map(parse_size).transpose()?;
    if !args.file.exists() {
        return Err(usage(format!("{} does not exist; import takes an ONNX file", args.file.display())));
    }
    let mut imported = espalier_onnx::from_file(&args.file, Options { size }).map_err(or_usage)?;
    let metadata = Metadata::read(&imported.metadata);
    let mut notes = notes(&imported, &metadata, kind);
    let task = match kind.or(inferred(&metadata)) {
        Some(Kind::ClassifyImage) => Some(classifier(args, &metadata, &mut imported.graph)?),
        None => None,
    };
    let Imported { graph, mut weights, integers, .. } = imported;
    let graph = fold_batch_norm(&graph, &mut weights)?;
    weights.retain(|name, _| graph.find(name).is_some());
    let mut package = Package {
        manifest: Manifest {
            name: args.file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            task: task.as_ref().map(serde_json::to_value).transpose()?,
            lineage: Lineage { parent: Some(imported.digest), ..Lineage::default() },
            format: Format::of(&graph),
            version: 1,
            ..Manifest::default()
        },
        graph,
        weights,
        golden: Vec::new(),
    };
    package.golden = golden(&package.graph, &package.weights, task, threads)?;
    if let Some(Remarks { integers, floats }) = &integers {
        notes.push(computes(*integers, floats));
    }
    if package.golden.is_empty() {
        notes.push(
            "there is no golden sample: on random input the network gives values that are not finite".into(),
        );
    }
    package.write(&args.out)?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let bytes = std::fs::metadata(&args.out).with_context(|| format!("{}", args.out.display()))?.len();
    let mut value = report(args, &package, imported.opset, imported.nodes, bytes, &notes);
    if let Some(integers) = integers.as_ref().filter(|_| args.json) {
        add_integers(&mut value, integers);
    }
    print::result(args.json, &value, || print::table(&value, &["name", "type"]))
}

fn or_usage(error: ImportError) -> anyhow::Error {
    let is_usage = match &error {
        ImportError::At { fault, .. } => matches!(**fault, ImportError::Size(_)),
        _ => false,
    };
    if is_usage { usage(error) } else { error.into() }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    ClassifyImage,
}

fn kind(args: &Args) -> anyhow::Result<Option<Kind>> {
    if args.head.is_some() || args.task.as_deref() == Some("detect") {
        return Err(usage(
            "--task detect and --head are not built yet; without them a detector is imported as raw tensors",
        ));
    }
    let kind = match args.task.as_deref() {
        None => None,
        Some("classify-image") => Some(Kind::ClassifyImage),
        Some(other) => return Err(usage(format!("--task {other}: it should be classify-image"))),
    };
    let flags = [
        ("--labels", args.labels.is_some()),
        ("--mean", args.mean.is_some()),
        ("--std", args.std.is_some()),
        ("--bgr", args.bgr),
        ("--fit", args.fit.is_some()),
    ];
    match flags.iter().find(|(_, given)| *given && kind.is_none()) {
        Some((flag, _)) => Err(usage(format!("{flag} belongs to a task: add --task classify-image"))),
        None => Ok(kind),
    }
}

/// The task that the file's metadata say, where they say all that it needs.
fn inferred(metadata: &Metadata) -> Option<Kind> {
    let complete = metadata.labels.is_some() && metadata.mean.is_some() && metadata.std.is_some();
    let says = metadata.task.as_deref().is_some_and(|task| ["classify", "classify-image"].contains(&task));
    (says && complete).then_some(Kind::ClassifyImage)
}

/// How a quantized network computes, in words.
fn computes(integers: usize, floats: &[Remark]) -> String {
    if floats.is_empty() {
        return format!("all {integers} operators compute with integers");
    }
    let told = floats.iter().take(MAX_TOLD).map(|f| format!("\n  {} ({}): {}", f.node, f.op, f.reason));
    let more = match floats.len().saturating_sub(MAX_TOLD) {
        0 => String::new(),
        more => format!("\n  and {more} more (--json lists all)"),
    };
    let told: String = told.collect();
    format!("{integers} operators compute with integers, {} with floats:{told}{more}", floats.len())
}

/// Most operators that stay float that are told.
const MAX_TOLD: usize = 10;

fn add_integers(report: &mut Value, Remarks { integers, floats }: &Remarks) {
    let float = |f: &Remark| json!({"name": f.node, "op": f.op, "reason": f.reason});
    report["integer_operators"] = (*integers).into();
    report["float_operators"] = floats.iter().map(float).collect();
}

/// What the user should know beside the result.
fn notes(imported: &Imported, metadata: &Metadata, kind: Option<Kind>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Batch::Fixed(reason) = &imported.batch {
        notes.push(format!("the package takes one batch size only: {reason}"));
    }
    for (from, to) in &imported.renamed {
        notes.push(format!("the output {from:?} is called {to}"));
    }
    match metadata.task.as_deref() {
        Some(task) if kind.is_none() && inferred(metadata).is_none() => {
            notes
                .push(format!("the file says its task is {task:?}; the package takes and gives raw tensors"));
        }
        _ => {}
    }
    notes
}

fn parse_size(text: &str) -> anyhow::Result<[usize; 2]> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=4096).contains(side));
    let sides = match text.split_once('x') {
        Some((height, width)) => side(height).zip(side(width)).map(|(height, width)| [height, width]),
        None => side(text).map(|side| [side; 2]),
    };
    sides.ok_or_else(|| {
        usage(format!("--imgsz {text}: it should be like 224 or 192x256, each side 1 to 4096"))
    })
}

/// The task, and the graph brought to its form: one output, a row of logits.
fn classifier(args: &Args, metadata: &Metadata, graph: &mut Graph) -> anyhow::Result<Task> {
    let (channels, size) = match graph.inputs() {
        &[x] => picture(graph.ty(x)),
        _ => None,
    }
    .ok_or_else(|| {
        let types: Vec<String> = graph.inputs().iter().map(|&id| graph.ty(id).to_string()).collect();
        anyhow::anyhow!(
            "classify-image takes one picture f32[N,1 or 3,height,width], the network's input is {}",
            types.join(", ")
        )
    })?;
    let labels = match (&args.labels, &metadata.labels) {
        (Some(file), _) => read_labels(file)?,
        (None, Some(labels)) => labels.clone(),
        (None, None) => return Err(usage("--labels FILE is needed: the file holds no class names")),
    };
    let mean = per_channel("--mean", args.mean.as_deref(), &metadata.mean, channels)?;
    let std = per_channel("--std", args.std.as_deref(), &metadata.std, channels)?;
    *graph = logits(graph, labels.len())?;
    let mut task = ClassifyImage::new(size, mean, std, labels);
    task.bgr = args.bgr;
    task.fit = match args.fit {
        Some(FitArg::Letterbox) => Fit::Letterbox,
        Some(FitArg::Stretch) => Fit::Stretch,
        Some(FitArg::Crop) => Fit::Crop,
        None => task.fit,
    };
    let task = Task::ClassifyImage(task);
    task.validate().map_err(usage)?;
    Ok(task)
}

/// Channels, height and width of a picture tensor.
fn picture(ty: &TensorType) -> Option<(usize, [usize; 2])> {
    let dims = ty.shape.bind(Bindings::batch(1));
    match dims[..] {
        [1, channels @ (1 | 3), height, width] => Some((channels, [height, width])),
        _ => None,
    }
}

fn read_labels(file: &Path) -> anyhow::Result<Vec<String>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| usage(format!("--labels {shown}: {e}")))?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    match labels.iter().position(String::is_empty) {
        Some(at) => Err(usage(format!("--labels {shown}: line {} is empty", at + 1))),
        None => Ok(labels),
    }
}

fn per_channel(
    flag: &str,
    given: Option<&str>,
    stored: &Option<Vec<f32>>,
    channels: usize,
) -> anyhow::Result<Vec<f32>> {
    let values = match (given, stored) {
        (Some(text), _) => text.split(',').map(|v| v.trim().parse().ok()).collect::<Option<Vec<f32>>>(),
        (None, Some(stored)) => Some(stored.clone()),
        (None, None) => {
            return Err(usage(format!(
                "{flag} is needed: the file does not say how its input is normalised; for networks trained on ImageNet it \
                 is usually --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, without normalisation --mean 0 --std 1"
            )));
        }
    };
    match values.as_deref() {
        Some(&[value]) => Ok(vec![value; channels]),
        Some(values) if values.len() == channels => Ok(values.to_vec()),
        _ => Err(usage(format!("{flag}: it should be one number or {channels} with commas"))),
    }
}

/// The graph with the one output that is a row of `classes`, before any softmax: answers apply it themselves.
fn logits(graph: &Graph, classes: usize) -> anyhow::Result<Graph> {
    let fits = |id| {
        let dims = graph.ty(id).shape.bind(Bindings::batch(1));
        dims.len() >= 2 && dims[..2] == [1, classes] && dims[2..].iter().all(|&d| d == 1)
    };
    let found: Vec<_> = graph.outputs().iter().filter(|(_, id)| fits(*id)).collect();
    let [(name, id)] = found[..] else {
        let outputs = graph.outputs().iter().map(|(name, id)| format!("{name} {}", graph.ty(*id)));
        let outputs = outputs.collect::<Vec<_>>().join(", ");
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

fn is_flattening(graph: &Graph, op: &Op, x: Option<espalier_graph::ValueId>) -> bool {
    matches!(op, Op::Reshape { .. }) && x.is_some_and(|x| graph.ty(x).shape.rank() >= 2)
}

fn without_outputs(graph: &Graph) -> anyhow::Result<Graph> {
    use espalier_passes::rewrite::{Item, rewrite};
    Ok(rewrite(graph, |r, item| match item {
        Item::Output(..) => Ok(()),
        item => r.copy(item),
    })?)
}

/// Golden samples of a task, and their height and width.
const PICTURES: usize = 4;
const SIDE: usize = 64;

/// What the network gives for made-up input: pictures for a task, else one sample of random tensors. None where a value
/// is not finite.
fn golden(
    graph: &Graph,
    weights: &Weights,
    task: Option<Task>,
    threads: usize,
) -> anyhow::Result<Vec<Golden>> {
    let isa = Isa::best();
    let golden = match task {
        Some(task) => {
            let mut model = Model::new(graph.clone(), weights.clone(), task, isa, threads)?;
            (0..PICTURES).map(|i| model.golden(&blobs(i as u64))).collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let options = espalier_runtime::Options { isa, threads, bindings: Bindings::batch(1) };
            let inputs =
                graph.inputs().iter().zip(0..).map(|(&id, stream)| random(graph.ty(id), stream)).collect();
            vec![Raw::new(graph, weights, options)?.golden(inputs)?]
        }
    };
    let finite = |t: &Tensor| t.as_f32().is_none_or(|v| v.iter().all(|v| v.is_finite()));
    Ok(if golden.iter().all(|sample| sample.outputs.iter().all(finite)) { golden } else { Vec::new() })
}

/// Floats in 0..1; integers, which are indices, are 0.
fn random(ty: &TensorType, stream: u64) -> Tensor {
    let shape = ty.shape.bind(Bindings::batch(1));
    let count = shape.iter().product();
    let mut random = Random::new(0, stream);
    let data = match ty.dtype {
        DType::F32 => Data::F32((0..count).map(|_| random.uniform()).collect()),
        DType::I32 => Data::I32(vec![0; count]),
        DType::U8 | DType::Q8(_) => Data::U8(vec![0; count]),
        DType::S8 => Data::S8(vec![0; count]),
    };
    Tensor::new(&shape, data)
}

/// A picture of coloured blobs: smooth as photographs are.
fn blobs(number: u64) -> Image {
    let mut random = Random::new(1, number);
    let blobs: Vec<[f32; 6]> = (0..6).map(|_| [(); 6].map(|()| random.uniform())).collect();
    let pixel = |x: usize, y: usize| {
        [0, 1, 2].map(|channel| {
            let value = blobs.iter().map(|b| {
                let (dx, dy) = (x as f32 / SIDE as f32 - b[0], y as f32 / SIDE as f32 - b[1]);
                b[2 + channel] / (1.0 + (dx * dx + dy * dy) * 40.0 * (0.5 + b[5]))
            });
            (value.sum::<f32>() * 160.0).min(255.0) as u8
        })
    };
    let pixels = (0..SIDE * SIDE).flat_map(|i| pixel(i % SIDE, i / SIDE)).collect();
    Image { width: SIDE, height: SIDE, channels: 3, pixels }
}

fn report(args: &Args, package: &Package, opset: i64, nodes: usize, bytes: u64, notes: &[String]) -> Value {
    let graph = &package.graph;
    let cost = networks::cost(graph);
    let typed = |name: &str, id| json!({"name": name, "type": graph.ty(id).to_string()});
    let inputs: Vec<Value> = graph.inputs().iter().map(|&id| typed(&graph.value(id).name, id)).collect();
    let outputs: Vec<Value> = graph.outputs().iter().map(|(name, id)| typed(name, *id)).collect();
    json!({
        "file": args.file.display().to_string(), "out": args.out.display().to_string(), "opset": opset, "nodes": nodes,
        "task": package.manifest.task.as_ref().map(|task| task["kind"].clone()),
        "parameters": cost.parameters, "macs": cost.macs, "size_bytes": bytes, "golden": package.golden.len(),
        "inputs": inputs, "outputs": outputs, "notes": notes,
    })
}
