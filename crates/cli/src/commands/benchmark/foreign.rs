//! `espalier benchmark --engine onnxruntime`: latency of a package on another engine.

use std::path::Path;
use std::time::Instant;

use espalier_engines::{EngineConfig, OnnxRuntime};
use espalier_graph::Bindings;
use espalier_tasks::Engine;
use espalier_train::networks;
use serde_json::{Value, json};

use super::{Args, fill, latencies, ms, time_runs};
use crate::commands::inspect::engine_report;
use crate::compute::refused;
use crate::exit::usage;
use crate::{memory, open};

pub(super) fn package(args: &Args, path: &Path, config: &EngineConfig) -> anyhow::Result<Value> {
    let own = [
        (args.per_layer, "--per-layer"),
        (args.random_sparsity.is_some(), "--random-sparsity"),
        (args.watts.is_some(), "--watts"),
    ];
    if let Some((_, flag)) = own.iter().find(|(is_given, _)| *is_given) {
        return Err(usage(format!("{flag} is for --engine espalier")));
    }
    let threads = args.compute.threads()?;
    let start = Instant::now();
    let package = open::package(path)?;
    let mut engine = OnnxRuntime::open(config, &package.graph, &package.weights, threads).map_err(refused)?;
    let load = start.elapsed();
    let sizes = package.graph.inputs().iter().map(|&id| package.graph.ty(id).shape.bind(Bindings::batch(1)));
    let mut inputs: Vec<Vec<f32>> = sizes.map(|shape| vec![0.0; shape.iter().product()]).collect();
    inputs.iter_mut().for_each(|input| fill(input));
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs = vec![Vec::new(); package.graph.outputs().len()];
    let mut failure = None;
    let mut run = || {
        outputs.iter_mut().for_each(Vec::clear);
        let start = Instant::now();
        if let Err(error) = engine.run(&inputs, &mut outputs) {
            failure.get_or_insert(error);
        }
        start.elapsed()
    };
    let first = run();
    let mut times = time_runs(args.runs, &mut run);
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let mut result = json!({
        "package": path.display().to_string(), "engine": "onnxruntime", "threads": threads, "runs": times.len(),
        "load_ms": ms(load), "first_ms": ms(first),
    });
    latencies(&mut times, &mut result);
    result["macs"] = networks::cost(&package.graph).macs.into();
    // The library keeps its memory to itself.
    result["arena_bytes"] = Value::Null;
    result["peak_rss_bytes"] = memory::peak_rss_bytes().into();
    result["energy_mj"] = Value::Null;
    result["energy"] = "not measured: that is for --engine espalier".into();
    for (key, value) in engine_report(&engine).as_object().into_iter().flatten() {
        result[format!("engine_{key}")] = value.clone();
    }
    Ok(result)
}
