//! `espalier inspect`: what is in a package, and how this machine would run it.

use std::path::PathBuf;

use espalier_engines::OnnxRuntime;
use espalier_graph::{Bindings, Package};
use espalier_runtime::{Options, lower};
use espalier_tasks::Engine;
use espalier_train::networks;
use serde_json::{Value, json};

use crate::compute::{Compute, refused};
use crate::{open, print};

/// Show a package: manifest, graph, and the plan with kernels and memory.
#[derive(clap::Args)]
#[command(after_help = "\
The plan is the one for batch 1 on this machine: batch normalisation is folded, each step names its kernel and where in \
the plan's memory it writes. With --engine onnxruntime, which provider computes how many nodes takes its place.

Examples:
  espalier inspect runs/train/best.espalier
  espalier inspect runs/train/best.espalier --engine onnxruntime --provider openvino,cpu")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let package = open::package(&args.package)?;
    let (key, computed) = match args.compute.foreign()? {
        None => ("plan", plan(&args.compute, &package)?),
        Some(config) => {
            let threads = args.compute.threads()?;
            let engine = OnnxRuntime::open(&config, &package.graph, &package.weights, threads);
            ("engine", engine_report(&engine.map_err(refused)?))
        }
    };
    let cost = networks::cost(&package.graph);
    let manifest = serde_json::to_value(&package.manifest)?;
    let mut value = json!({
        "file": args.package.display().to_string(), "manifest": manifest, "parameters": cost.parameters,
        "macs": cost.macs, "golden": package.golden.len(), "graph": package.graph.to_string(),
    });
    value[key] = computed;
    print::result(args.json, &value, || text(&value))
}

fn plan(compute: &Compute, package: &Package) -> anyhow::Result<Value> {
    let (isa, threads) = compute.own("the plan")?;
    let (graph, weights) = open::folded(package)?;
    let plan = lower(&graph, &weights, Options { isa, threads, bindings: Bindings::batch(1) })?;
    let sizes = plan.sizes();
    let steps = plan.steps().map(|step| {
        json!({
            "name": step.node, "op": step.op, "kernel": step.kernel, "gmacs": step.macs as f64 / 1e9,
            "offset": step.offsets.first(), "bytes": step.bytes,
        })
    });
    Ok(json!({
        "isa": isa.to_string(), "threads": threads, "arena_bytes": sizes.arena_bytes,
        "weight_bytes": sizes.weight_bytes, "scratch_bytes": sizes.scratch_bytes,
        "steps": steps.collect::<Vec<Value>>(),
    }))
}

/// What another engine makes of a package; `benchmark` has it too.
pub(crate) fn engine_report(engine: &OnnxRuntime) -> Value {
    let placements = engine
        .placements()
        .iter()
        .map(|placement| json!({"provider": placement.provider, "nodes": placement.nodes}));
    json!({
        "name": engine.name(), "library": engine.library(), "placements": placements.collect::<Vec<Value>>(),
        // Of the share as it is written, not of the float next to it.
        "tolerance": engine.tolerance().to_string().parse::<f64>().ok(), "warnings": engine.warnings(),
    })
}

const COLUMNS: [&str; 6] = ["name", "op", "kernel", "gmacs", "offset", "bytes"];

fn text(value: &Value) -> String {
    let manifest = serde_json::to_string_pretty(&value["manifest"]).unwrap_or_default();
    format!(
        "{}: {} parameters, {} multiply-accumulates, {} golden samples\n\n{manifest}\n\n{}\n{}",
        print::cell(&value["file"]),
        value["parameters"],
        value["macs"],
        value["golden"],
        value["graph"].as_str().unwrap_or_default(),
        value.get("plan").map_or_else(|| engine_text(&value["engine"]), plan_text),
    )
}

fn plan_text(plan: &Value) -> String {
    let steps = plan["steps"].as_array().map(|rows| print::columns(rows, &COLUMNS)).unwrap_or_default();
    format!(
        "plan for {} with {} threads: arena {} bytes, weights {}, scratch {} a thread\n{steps}",
        print::cell(&plan["isa"]),
        plan["threads"],
        plan["arena_bytes"],
        plan["weight_bytes"],
        plan["scratch_bytes"],
    )
}

fn engine_text(engine: &Value) -> String {
    let warnings = engine["warnings"].as_array().into_iter().flatten();
    let warnings: String = warnings.map(|text| format!("it warns: {}\n", print::cell(text))).collect();
    format!(
        "computed by {}\nlibrary: {}\nanswers may differ by {} of their range\n{warnings}",
        print::cell(&engine["name"]),
        print::cell(&engine["library"]),
        engine["tolerance"],
    )
}
