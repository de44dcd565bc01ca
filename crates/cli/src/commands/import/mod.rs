//! `espalier import`: an ONNX file becomes a package.

mod classifier;
mod detector;
mod samples;
mod task;

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use espalier_graph::{Format, Lineage, Manifest, Package, Weights};
use espalier_onnx::{Batch, Imported, Metadata, Options};
use espalier_passes::fold_batch_norm;
use espalier_passes::integers::{Remark, Remarks};
use espalier_runtime::Isa;
use espalier_tasks::{Fit, Model, Task};
use espalier_train::networks;
use serde_json::{Value, json};

use crate::exit::usage;
use crate::foreign::or_usage;
use crate::{open, print};

/// Make a package of an ONNX file.
#[derive(clap::Args)]
#[command(after_help = "\
Without a task the package takes and gives raw tensors (`run --input`, `benchmark`, `inspect`). With --task \
classify-image it classifies pictures, with --task detect it finds boxes (`predict`, `val`); what the file's metadata say \
(class names, input size, mean, std; Ultralytics' too) need not be given. Batch normalisation is folded. docs/onnx.md lists \
what is read, docs/detection.md the heads of detectors.

Examples:
  espalier import resnet18.onnx --out resnet18.espalier
  espalier import resnet18.onnx --out resnet18.espalier --task classify-image --labels imagenet.txt \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  espalier import yolov8n.onnx --out yolov8n.espalier
  espalier import FastestDet.onnx --out fastestdet.espalier --task detect --labels coco.names")]
pub(crate) struct Args {
    /// The ONNX file (float or QDQ int8, opset 7 to 21).
    file: PathBuf,
    /// The package to write.
    #[arg(long)]
    out: PathBuf,
    /// What the network is for; raw: tensors in and out, whatever the file says.
    #[arg(long, value_enum)]
    task: Option<task::Kind>,
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
    /// What a detector's outputs are, where their shapes leave it open.
    #[arg(long, value_enum)]
    head: Option<detector::HeadArg>,
    /// A detector's answers hold boxes from this confidence on, 0 to 1; default: the head's usual.
    #[arg(long, value_name = "X")]
    confidence: Option<f32>,
    /// Of a detector's boxes of one class that overlap more (intersection over union), the surest stays; default: the
    /// head's usual.
    #[arg(long, value_name = "X")]
    iou: Option<f32>,
    /// Labelled pictures whose val split gives the reference statistics, by which devices tell drift.
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
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

impl From<FitArg> for Fit {
    fn from(fit: FitArg) -> Fit {
        match fit {
            FitArg::Letterbox => Fit::Letterbox,
            FitArg::Stretch => Fit::Stretch,
            FitArg::Crop => Fit::Crop,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    let size = args.imgsz.as_deref().map(parse_size).transpose()?;
    if !args.file.exists() {
        return Err(usage(format!("{} does not exist; import takes an ONNX file", args.file.display())));
    }
    let mut imported = espalier_onnx::from_file(&args.file, Options { size }).map_err(or_usage)?;
    let metadata = Metadata::read(&imported.metadata);
    let mut notes = notes(&imported);
    let task = task::of(args, &metadata, &mut imported.graph, &mut notes)?;
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
        reference: Weights::new(),
    };
    package.golden = samples::golden(&package.graph, &package.weights, task.clone(), threads)?;
    match (task, &args.data) {
        (Some(task), Some(data)) => add_reference(&mut package, task, data, threads)?,
        (Some(_), None) => notes.push(
            "there are no reference statistics, so devices cannot tell drift: --data DATA takes them of the val split".into(),
        ),
        (None, _) => {}
    }
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
    print::result(args.json, &value, || {
        // Notes are on stderr.
        let mut shown = value.clone();
        shown.as_object_mut().and_then(|shown| shown.remove("notes"));
        print::table(&shown, &["name", "type"])
    })
}

/// Takes the reference statistics of the val split of `data`.
fn add_reference(package: &mut Package, task: Task, data: &str, threads: usize) -> anyhow::Result<()> {
    let (graph, weights) = (package.graph.clone(), package.weights.clone());
    let mut model = Model::new(graph, weights, task, Isa::best(), threads)?;
    package.reference = espalier_train::reference::statistics(&mut model, data)?;
    package.manifest.format = Format::of(&package.graph).with_reference();
    Ok(())
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
fn notes(imported: &Imported) -> Vec<String> {
    let mut notes = Vec::new();
    if let Batch::Fixed(reason) = &imported.batch {
        notes.push(format!("the package takes one batch size only: {reason}"));
    }
    for (from, to) in &imported.renamed {
        notes.push(format!("the output {from:?} is called {to}"));
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
