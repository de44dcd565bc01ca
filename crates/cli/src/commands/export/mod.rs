//! `espalier export`: a package becomes a file that other runtimes read.

mod check;
mod onnxruntime;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use espalier_graph::{Bindings, Package, files};
use espalier_onnx::{About, Metadata};
use espalier_runtime::{Isa, Options};
use espalier_tasks::{Fit, PictureInput, Task};
use serde_json::{Value, json};

use crate::exit::usage;
use crate::{open, print};
use check::{Check, Reference};

/// Make a file for other runtimes of a package, and check that they answer alike.
#[derive(clap::Args)]
#[command(after_help = "\
The file holds the network with batch normalisation folded, its weights, and what importers look for in its metadata (class \
names, input size, mean, std); the batch stays open. Networks of bytes are written in the QDQ form (QuantizeLinear and \
DequantizeLinear around float operators), which ONNX Runtime and OpenVINO compute with integers.

Nothing is written that was not compared first: the file is read back and run on the package's golden samples and on made-up \
ones, by espalier and, where $ESPALIER_PYTHON or python3 has the package onnxruntime, by ONNX Runtime. Where the outputs differ \
from the package's, the export fails. docs/onnx.md says by how much they may.

Examples:
  espalier export best.espalier --format onnx --out best.onnx
  ESPALIER_PYTHON=venv/bin/python espalier export best.int8.espalier --out best.int8.onnx --json
  espalier import best.onnx --out again.espalier     # the same network and task, no flags needed")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// The form of the file.
    #[arg(long, value_enum, default_value_t = FormatArg::Onnx)]
    format: FormatArg,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// Worker threads of the checks; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Onnx,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    let package = open::package(&args.package)?;
    if is_same(&args.package, &args.out) {
        return Err(usage(format!("--out {}: that is the package itself", args.out.display())));
    }
    let task = package.manifest.task.as_ref().map(|_| open::task(&package)).transpose()?;
    let (graph, weights) = open::folded(&package)?;
    let FormatArg::Onnx = args.format;
    let about = about(&package, task.as_ref());
    let exported = espalier_onnx::export(&graph, &weights, &about)
        .with_context(|| format!("package {}", args.package.display()))?;
    let options = Options { isa: Isa::best(), threads, bindings: Bindings::batch(1) };
    let reference = Reference::new(&package, graph, weights, task, options)?;
    let checks =
        [reference.by_import(&exported.bytes, options)?, onnxruntime::check(&reference, &exported, threads)?];
    if let Some(reason) = checks.iter().find_map(Check::complaint) {
        anyhow::bail!("{reason}; {} is not written", args.out.display());
    }
    files::write_atomic(&args.out, |file| file.write_all(&exported.bytes))?;
    checks.iter().filter_map(Check::note).for_each(|note| eprintln!("{note}"));
    let checks: Vec<Value> = checks.iter().map(Check::report).collect();
    let value = json!({
        "out": args.out.display().to_string(), "bytes": exported.bytes.len(), "opset": espalier_onnx::OPSET,
        "nodes": exported.nodes, "checks": checks,
    });
    print::result(args.json, &value, || print::table(&value, &["engine", "samples", "max_error", "agree"]))
}

/// Whether both paths lead to one file.
fn is_same(package: &Path, out: &Path) -> bool {
    match (package.canonicalize(), out.canonicalize()) {
        (Ok(package), Ok(out)) => package == out,
        _ => false,
    }
}

fn about(package: &Package, task: Option<&Task>) -> About {
    let name = match package.manifest.name.as_str() {
        "" => "espalier".to_string(),
        name => name.to_string(),
    };
    let doc = match task {
        Some(task) => format!("{name}, a network for {}, exported by espalier from a package.", task.kind()),
        None => format!("{name}, exported by espalier from a package."),
    };
    About { name, doc, metadata: task.map(metadata).unwrap_or_default().write() }
}

/// What `import` needs to make the same task again.
fn metadata(task: &Task) -> Metadata {
    let (kind, input) = match task {
        Task::ClassifyImage(task) => ("classify", &task.input),
        Task::Detect(task) => ("detect", &task.input),
        // Other tools have no word for it, and `import` makes no such package.
        Task::Anomaly(_) => return Metadata::default(),
    };
    let PictureInput { size, mean, std, bgr, fit, .. } = input.clone();
    let fit = match fit {
        Fit::Letterbox => "letterbox",
        Fit::Stretch => "stretch",
        Fit::Crop => "crop",
    };
    let common = Metadata {
        task: Some(kind.into()),
        labels: Some(task.labels().to_vec()),
        size: Some(size),
        mean: Some(mean),
        std: Some(std),
        bgr: Some(bgr),
        fit: Some(fit.into()),
        ..Metadata::default()
    };
    match task {
        Task::ClassifyImage(_) | Task::Anomaly(_) => common,
        Task::Detect(task) => Metadata {
            head: Some(task.head.name().into()),
            confidence: Some(task.confidence),
            iou: Some(task.iou),
            boxes_max: Some(task.boxes_max),
            ..common
        },
    }
}
