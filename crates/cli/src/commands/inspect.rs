//! `espalier inspect`: what is in a package, and how this machine would run it.

use std::path::PathBuf;

use espalier_graph::Bindings;
use espalier_runtime::{Options, lower};
use espalier_train::networks;
use serde_json::{Value, json};

use crate::{open, print};

/// Show a package: manifest, graph, and the plan with kernels and memory.
#[derive(clap::Args)]
#[command(after_help = "\
The plan is the one for batch 1 on this machine: batch normalisation is folded, each step names its kernel and where in \
the plan's memory it writes.

Example:
  espalier inspect runs/train/best.espalier")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// Worker threads of the plan; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Instruction set of the plan: scalar; avx2, avx512 (x86-64); neon, neon-dotprod (64-bit Arm).
    #[arg(long)]
    isa: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (isa, threads) = (open::isa(args.isa.as_deref())?, open::threads(args.threads)?);
    let package = open::package(&args.package)?;
    let (graph, weights) = open::folded(&package)?;
    let plan = lower(&graph, &weights, Options { isa, threads, bindings: Bindings::batch(1) })?;
    let cost = networks::cost(&package.graph);
    let (sizes, manifest) = (plan.sizes(), serde_json::to_value(&package.manifest)?);
    let steps = plan.steps().map(|step| {
        json!({
            "name": step.node, "op": step.op, "kernel": step.kernel, "gmacs": step.macs as f64 / 1e9,
            "offset": step.offsets.first(), "bytes": step.bytes,
        })
    });
    let value = json!({
        "file": args.package.display().to_string(), "manifest": manifest, "parameters": cost.parameters,
        "macs": cost.macs, "golden": package.golden.len(), "graph": package.graph.to_string(),
        "plan": {
            "isa": isa.to_string(), "threads": threads, "arena_bytes": sizes.arena_bytes,
            "weight_bytes": sizes.weight_bytes, "scratch_bytes": sizes.scratch_bytes,
            "steps": steps.collect::<Vec<Value>>(),
        },
    });
    print::result(args.json, &value, || text(&value))
}

const COLUMNS: [&str; 6] = ["name", "op", "kernel", "gmacs", "offset", "bytes"];

fn text(value: &Value) -> String {
    let plan = &value["plan"];
    let manifest = serde_json::to_string_pretty(&value["manifest"]).unwrap_or_default();
    let steps = plan["steps"].as_array().map(|rows| print::columns(rows, &COLUMNS)).unwrap_or_default();
    format!(
        "{}: {} parameters, {} multiply-accumulates, {} golden samples\n\n{manifest}\n\n{}\nplan for {} with {} threads: \
         arena {} bytes, weights {}, scratch {} a thread\n{steps}",
        print::cell(&value["file"]),
        value["parameters"],
        value["macs"],
        value["golden"],
        value["graph"].as_str().unwrap_or_default(),
        print::cell(&plan["isa"]),
        plan["threads"],
        plan["arena_bytes"],
        plan["weight_bytes"],
        plan["scratch_bytes"],
    )
}
