//! `espalier benchmark`: latency of a package, or speed of training a network.

mod foreign;
mod layers;
mod sparsity;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use espalier_graph::{Bindings, Weights};
use espalier_passes::Optimizer;
use espalier_runtime::{Options, Plan, Pool, Repeat, lower};
use espalier_train::networks::{self, NetworkOptions};
use espalier_train::step::{StepOptions, training_step};
use serde_json::{Value, json};

use crate::compute::Compute;
use crate::exit::usage;
use crate::{memory, open, print};

/// Time a package, or a training step of a network.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  espalier benchmark runs/train/best.espalier
  espalier benchmark runs/train/best.espalier --per-layer --threads 1
  espalier benchmark resnet18.int8.espalier --random-sparsity 0.75
  espalier benchmark resnet18.int8.espalier --engine onnxruntime --provider openvino:device_type=NPU
  espalier benchmark --train resnet18 --batch 32 --imgsz 32 --classes 10")]
pub(crate) struct Args {
    /// The package to time, batch 1.
    #[arg(required_unless_present = "train")]
    package: Option<PathBuf>,
    /// Time training steps of this network instead (forward, loss, backward, SGD with momentum, data in memory).
    #[arg(long, value_name = "NETWORK", conflicts_with = "package")]
    train: Option<String>,
    #[command(flatten)]
    compute: Compute,
    /// Timed runs, after at least 5 untimed ones.
    #[arg(long, default_value_t = 50, conflicts_with = "train")]
    runs: usize,
    /// Add a row for each step: kernel, time, multiply-accumulates and their rate, the time that this machine's measured
    /// limits allow, and the share of it that was reached; and say where int8 does not pay or did not apply.
    #[arg(long)]
    per_layer: bool,
    /// First zero this share of the weights of an int8 package, in random blocks of 2 outputs x 4 inputs: the speed that
    /// pruning would give. Taken are the layers that pruning takes: all convolutions but the first layer, depthwise and
    /// grouped ones, and the last layer (of a detector, those of every head).
    #[arg(long, value_name = "SHARE", conflicts_with = "train")]
    random_sparsity: Option<f32>,
    /// What one busy core of this machine draws, for an estimate of energy by CPU seconds, beside what a meter measures.
    #[arg(long, value_name = "W", allow_negative_numbers = true, conflicts_with = "train")]
    watts: Option<f64>,
    /// With --train: images in a step.
    #[arg(long, default_value_t = 32, conflicts_with = "package")]
    batch: usize,
    /// With --train: height and width of the input.
    #[arg(long, default_value_t = 32, conflicts_with = "package")]
    imgsz: usize,
    /// With --train: number of classes.
    #[arg(long, default_value_t = 10, conflicts_with = "package")]
    classes: usize,
    /// With --train: scale of the channels.
    #[arg(long, default_value_t = 1.0, conflicts_with = "package")]
    width: f32,
    /// With --train: arithmetic; auto means f32, bf16 is not built yet.
    #[arg(long, default_value = "auto", conflicts_with = "package")]
    precision: String,
    /// With --train: timed steps, after 3 untimed ones.
    #[arg(long, default_value_t = 20, conflicts_with = "package")]
    steps: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let result = match (&args.train, &args.package) {
        (Some(network), _) => train(args, network)?,
        (None, Some(path)) => package(args, path)?,
        (None, None) => unreachable!("the parser wants one of them"),
    };
    print::result(args.json, &result, || text(&result))
}

/// Figures, then the table of the steps, then what is to be said about them.
fn text(result: &Value) -> String {
    let mut figures = result.clone();
    let mut taken = |key| figures.as_object_mut().and_then(|map| map.remove(key)).unwrap_or_default();
    let (remarks, warnings) = (taken("remarks"), taken("engine_warnings"));
    // The engine's name tells them too.
    taken("engine_placements");
    let sentences = [&remarks, &warnings].into_iter().filter_map(Value::as_array).flatten();
    let sentences = sentences.map(|sentence| format!("\n{}\n", print::cell(sentence)));
    print::table(&figures, &layers::COLUMNS) + &sentences.collect::<String>()
}

fn package(args: &Args, path: &std::path::Path) -> anyhow::Result<Value> {
    if let Some(config) = args.compute.foreign()? {
        return foreign::package(args, path, &config);
    }
    let mut energy = open::energy(args.watts)?;
    let (isa, threads) = args.compute.own("benchmark")?;
    let mut pool = Pool::new(threads);
    let start = Instant::now();
    let package = open::package(path)?;
    let (graph, mut weights) = open::folded(&package)?;
    let mut load = start.elapsed();
    let share = args.random_sparsity;
    let zeroed = share.map(|share| sparsity::zero_blocks(&graph, &mut weights, share)).transpose()?;
    let options = Options { isa, threads, bindings: Bindings::batch(1) };
    let start = Instant::now();
    let mut plan = lower(&graph, &weights, options)?;
    load += start.elapsed();
    for &id in graph.inputs() {
        if graph.ty(id).dtype == espalier_graph::DType::F32 {
            fill(plan.input(&graph.value(id).name));
        }
    }
    let mut plan = Repeat::new(&mut plan);
    let first = plan.run(&mut pool);
    let mut times = time_runs(args.runs, || plan.run(&mut pool));
    let mut result = json!({
        "package": path.display().to_string(), "engine": "espalier", "isa": isa.to_string(), "threads": threads, "runs": times.len(),
        "load_ms": ms(load), "first_ms": ms(first),
    });
    latencies(&mut times, &mut result);
    // Of layers whose zeros are skipped, what is left of them.
    result["macs"] = plan.steps().map(|step| step.macs).sum::<usize>().into();
    if let Some(zeroed) = zeroed {
        result["sparsity"] = zeroed.share().into();
        result["pruned_layers"] = zeroed.layers.into();
    }
    result["arena_bytes"] = plan.sizes().arena_bytes.into();
    result["peak_rss_bytes"] = memory::peak_rss_bytes().into();
    let [spent] = energy.per_run([&mut plan], &mut pool);
    result["energy_mj"] = spent.measured_mj.into();
    if energy.watts().is_some() {
        result["energy_mj_estimate"] = spent.estimate_mj.into();
    }
    result["energy_meter"] = energy.meter().ok().into();
    result["energy"] = energy.to_string().into();
    if args.per_layer {
        layers::add(&mut result, &mut plan, &mut pool, isa, args.runs.max(1));
    }
    Ok(result)
}

/// At least 5 untimed runs, then `runs` timed ones, at least one.
fn time_runs(runs: usize, mut run: impl FnMut() -> Duration) -> Vec<Duration> {
    for _ in 0..5 {
        run();
    }
    (0..runs.max(1)).map(|_| run()).collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn latencies(times: &mut [Duration], result: &mut Value) {
    times.sort_unstable();
    let at = |share: f64| ms(times[((times.len() - 1) as f64 * share).round() as usize]);
    for (key, share) in [("min_ms", 0.0), ("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)] {
        result[key] = at(share).into();
    }
    result["throughput"] = (1e3 / at(0.5)).into();
}

/// Values in 0..1, the same in every run.
fn fill(values: &mut [f32]) {
    let mut random = espalier_graph::random::Random::new(0, 1);
    values.iter_mut().for_each(|v| *v = random.uniform());
}

fn train(args: &Args, network: &str) -> anyhow::Result<Value> {
    refuse_precision(&args.precision)?;
    let (isa, threads) = args.compute.own("--train")?;
    if !(1..=4096).contains(&args.batch) {
        return Err(usage(format!("--batch: {} is not in 1..=4096", args.batch)));
    }
    let options =
        NetworkOptions { classes: args.classes, channels: 3, size: [args.imgsz; 2], width: args.width };
    let graph = networks::build(network, &options).map_err(usage)?;
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false };
    let step = training_step(
        &graph,
        &StepOptions { optimizer, weight_decay: 0.0, clip_norm: None, ema: false },
        &|_| false,
    )?;
    let weights: Weights = networks::initial_weights(&step, 0);
    let bindings = Bindings::batch(args.batch);
    let mut plan = lower(&step, &weights, Options { isa, threads, bindings })?;
    let mut pool = Pool::new(threads);
    let steps = args.steps.max(1);
    fill_batch(&mut plan, args.classes);
    let mut plan = Repeat::new(&mut plan);
    for _ in 0..3 {
        plan.run(&mut pool);
    }
    let before = memory::rss_bytes();
    let mut times: Vec<Duration> = (0..steps).map(|_| plan.run(&mut pool)).collect();
    let growth = memory::rss_bytes().zip(before).map(|(now, before)| now.saturating_sub(before));
    times.sort_unstable();
    let p50 = times[times.len() / 2];
    let mut result = json!({
        "train": network, "batch": args.batch, "imgsz": args.imgsz, "precision": "f32", "isa": isa.to_string(),
        "threads": threads, "steps": steps, "step_ms_p50": ms(p50),
        "images_per_second": args.batch as f64 / p50.as_secs_f64(), "rss_growth_bytes": growth,
        "arena_bytes": plan.sizes().arena_bytes,
    });
    if args.per_layer {
        layers::add(&mut result, &mut plan, &mut pool, isa, steps.min(10));
    }
    Ok(result)
}

fn fill_batch(plan: &mut Plan, classes: usize) {
    fill(plan.input("x"));
    let target = plan.input("target");
    target.fill(0.0);
    target.chunks_mut(classes).enumerate().for_each(|(i, row)| row[i % classes] = 1.0);
    plan.input("lr").fill(0.01);
    if plan.has_input("rng") {
        plan.input_i32("rng").copy_from_slice(&[0, 1]);
    }
}

/// bf16 is a later step; `auto` means f32 until then.
pub(crate) fn refuse_precision(precision: &str) -> anyhow::Result<()> {
    match precision {
        "f32" | "auto" => Ok(()),
        "bf16" => Err(usage("--precision bf16 is not built yet; use f32 or auto")),
        other => Err(usage(format!("--precision {other}: it should be f32, bf16 or auto"))),
    }
}
