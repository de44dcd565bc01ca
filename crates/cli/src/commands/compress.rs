//! `espalier compress`: a float package becomes a smaller and faster one that keeps a budget.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use espalier_graph::files::write_atomic;
use espalier_train::compress::{
    Budget, CALIBRATION_IMAGES, Candidate, Choice, DEFAULT_DROP, Event, Outcome, Request, Settings, Source,
    Sparsity, compress, page,
};
use espalier_train::data::{Examples, Split};
use espalier_train::run_folder::RunFolder;
use serde_json::{Value, json};

use crate::exit::{Ending, usage};
use crate::progress::Progress;
use crate::{open, print, quantity, signals};

/// Make a package smaller and faster, and prove on labelled data that it is still right.
#[derive(clap::Args)]
#[command(after_help = "\
First weights and activations become int8, which takes seconds. Where that does not keep the budget, layers that harm most stay \
float, the network is trained with its roundings, channels are pruned, and blocks of weights become zero, from cheap to dear. \
Where there is no budget of latency or energy, and no --int8, it goes on so for about a quarter of an hour while what keeps the \
budget is less than three times as fast as float; with --max-time it always goes on to what is faster still. Ctrl-C ends the \
search, and what it has found is written. docs/compress.md explains all of it. Every candidate is answered with the plan that a \
device runs, on val, and timed in turn with the float network on this machine; train is for calibration and fine-tuning. Where \
nothing keeps the budget, the exit status is 3 and no package is written.

Examples:
  espalier compress runs/train/best.espalier photos --out small.espalier
  espalier compress runs/train/best.espalier photos --int8 --max-drop 0.005 --max-size 200KB --out small.espalier
  espalier compress runs/train/best.espalier photos --sparsity 0.75 --int8 --out small.espalier
  espalier compress runs/train/best.espalier photos --max-latency 1ms --max-time 20m --out small.espalier --report runs/c
  espalier compress resnet18.espalier photos --max-latency 2ms --isa avx2 --threads 1 --out small.espalier --json")]
pub(crate) struct Args {
    /// The float package: one that was trained here, or imported with a task.
    package: PathBuf,
    /// The data: its train split calibrates and teaches, its val split decides.
    data: String,
    /// The package to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Take int8 only; without it the float network is the answer where int8 loses too much or is no faster.
    #[arg(long)]
    int8: bool,
    /// Remove this share of the multiply-adds with the channels that matter least, and train what is left: 0.5.
    #[arg(long, value_name = "SHARE", help_heading = "Fixed instead of searched")]
    prune: Option<f64>,
    /// Make this share of the weights zero, in blocks of 2 outputs by 4 inputs, in all layers but stem, depthwise and head, and
    /// train the rest: 0.75. Integer kernels skip the blocks, so it goes with --int8.
    #[arg(long, value_name = "SHARE", help_heading = "Fixed instead of searched")]
    sparsity: Option<f64>,
    /// Blocks of --sparsity: 2x4, or 1x4, which costs less accuracy and gains less time.
    #[arg(long, value_name = "BLOCK", default_value = "2x4", value_parser = block, requires = "sparsity", help_heading = "Fixed instead of searched")]
    block: usize,
    /// Train the network with the roundings of int8, instead of rounding it afterwards.
    #[arg(long, help_heading = "Fixed instead of searched")]
    qat: bool,
    /// Give all weights of a layer one scale, as some accelerators need it, instead of one for each output.
    #[arg(long)]
    per_tensor: bool,
    /// Go on with a search that was stopped: networks that --report DIR keeps, which is needed, are not trained again.
    #[arg(long, requires = "report")]
    resume: bool,
    /// How much worse the primary metric may be on val, absolutely.
    #[arg(long, value_name = "D", default_value_t = DEFAULT_DROP, allow_negative_numbers = true)]
    max_drop: f64,
    /// Largest file: 200KB, 4MB (KB = 1000 bytes).
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Longest median latency of one input: 2ms.
    #[arg(long, value_name = "TIME")]
    max_latency: Option<String>,
    /// Most energy of one input: 5mJ. It needs an energy meter, or --watts.
    #[arg(long, value_name = "ENERGY")]
    max_energy: Option<String>,
    /// What one busy core of this machine draws: an estimate of energy by CPU seconds is added, and decides where there is no
    /// meter.
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    watts: Option<f64>,
    /// Use this time to look for something faster, and stop then: 20m.
    #[arg(long, value_name = "TIME")]
    max_time: Option<String>,
    /// Folder of report.html and result.json; default runs/compress, runs/compress-2, ...
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Measure as a CPU with this instruction set would run: scalar; avx2, avx512 (x86-64); neon, neon-dotprod (64-bit Arm).
    #[arg(long)]
    isa: Option<String>,
    /// Worker threads to measure with; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Chooses the images of train that calibrate, and the order in which lessons see them.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What these words mean behind `espalier compress`.
    pub(crate) fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Args, clap::Error> {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("compress").no_binary_name(true));
        clap::FromArgMatches::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (value, outcome) = made(args, signals::stop()?)?;
    print::result(args.json, &value, || text(&value, &outcome))?;
    match outcome.chosen {
        Choice::Kept(_) => Ok(()),
        Choice::Missed { reason, .. } => {
            Err(Ending::Missed(format!("nothing keeps the budget; nearest is {reason}")).into())
        }
    }
}

/// Compresses, and writes the package, where the budget is kept, and the report; what came of it, also as JSON. What sets
/// `stop` ends the search.
pub(crate) fn made(args: &Args, stop: Arc<AtomicBool>) -> anyhow::Result<(Value, Outcome)> {
    let report = args.report.clone().unwrap_or_else(|| RunFolder::fresh("compress"));
    let request = request(args, &report, stop)?;
    let named = || format!("package {}", args.package.display());
    print::skipped(&request.val.skipped);
    let mut shown = Shown(None);
    let outcome = compress(request, &mut |event| shown.tell(event)).with_context(named)?;
    print::skipped(&outcome.skipped);
    if let Some(package) = &outcome.package {
        package.write(&args.out)?;
    }
    let value = result(args, &outcome, &report);
    write(&report, "report.html", page(&outcome).as_bytes())?;
    write(&report, "result.json", format!("{value:#}\n").as_bytes())?;
    Ok((value, outcome))
}

fn request(args: &Args, report: &Path, stop: Arc<AtomicBool>) -> anyhow::Result<Request> {
    let (isa, threads) = (open::isa(args.isa.as_deref())?, open::threads(args.threads)?);
    if !(0.0..=1e6).contains(&args.max_drop) {
        return Err(usage(format!("--max-drop {}: it should be 0 or more, like 0.01", args.max_drop)));
    }
    for (flag, share) in [("--prune", args.prune), ("--sparsity", args.sparsity)] {
        if let Some(share) = share.filter(|share| !(0.01..=0.95).contains(share)) {
            return Err(usage(format!("{flag} {share}: it should be a share from 0.01 to 0.95")));
        }
    }
    if args.sparsity.is_some() && !args.int8 {
        return Err(usage("--sparsity: only int8 layers skip blocks of zeros, so it goes with --int8"));
    }
    let latency = args.max_latency.as_deref().map(|text| quantity::seconds("--max-latency", text));
    let budget = Budget {
        max_drop: args.max_drop,
        max_size_bytes: args
            .max_size
            .as_deref()
            .map(|text| quantity::bytes("--max-size", text))
            .transpose()?,
        max_latency_ms: latency.transpose()?.map(|seconds| seconds * 1e3),
        max_energy_mj: max_energy_mj(args)?,
    };
    let time = args.max_time.as_deref().map(|text| quantity::seconds("--max-time", text)).transpose()?;
    check_out(args)?;
    let source = open::existing(&args.package).and_then(|path| Ok(Source::read(path)?))?;
    let named = || format!("package {}", args.package.display());
    let task = open::task(&source.package).with_context(named)?;
    let examples = |split| Examples::open(&args.data, split, &task).map_err(open::data_error);
    let (train, val) = (examples(Split::Train)?, examples(Split::Val)?);
    let settings = Settings {
        int8: args.int8,
        prune: args.prune,
        sparsity: args.sparsity.map(|share| Sparsity { share, block_outputs: args.block }),
        qat: args.qat,
        per_tensor: args.per_tensor,
        budget,
        calibration_images: CALIBRATION_IMAGES,
        seed: args.seed,
    };
    let max_time = time.map(Duration::from_secs_f64);
    let data = args.data.clone();
    let (folder, resume) = (report.to_owned(), args.resume);
    let watts = args.watts;
    Ok(Request {
        source,
        task,
        data,
        train,
        val,
        settings,
        isa,
        threads,
        watts,
        folder,
        resume,
        max_time,
        stop,
    })
}

/// Output channels of a block.
fn block(text: &str) -> Result<usize, String> {
    let outputs = Sparsity::BLOCKS.into_iter().find(|outputs| format!("{outputs}x4") == text);
    outputs.ok_or_else(|| "it should be 2x4 or 1x4".into())
}

/// A budget of energy, where something tells energy.
fn max_energy_mj(args: &Args) -> anyhow::Result<Option<f64>> {
    let energy = open::energy(args.watts)?;
    let Some(text) = &args.max_energy else { return Ok(None) };
    let millijoules = quantity::millijoules("--max-energy", text)?;
    match (energy.meter(), energy.watts()) {
        (Err(why), None) => Err(usage(format!(
            "--max-energy: this machine has no energy meter: {why}; with --watts W, which one busy core draws, an estimate decides"
        ))),
        _ => Ok(Some(millijoules)),
    }
}

/// What would only fail at the end fails now.
fn check_out(args: &Args) -> anyhow::Result<()> {
    let out = args.out.display();
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) || args.out.is_dir() {
        return Err(usage(format!("--out {out}: it should be a file in a folder that exists")));
    }
    let same = args.out.canonicalize().is_ok_and(|out| args.package.canonicalize().is_ok_and(|p| p == out));
    if same {
        return Err(usage(format!("--out {out}: that is the package itself, which would be lost")));
    }
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("--report {}", folder.display()))?;
    Ok(write_atomic(folder.join(name), |file| file.write_all(bytes))?)
}

fn figures(candidate: &Candidate) -> Value {
    let mut value = json!(candidate.figures);
    value["name"] = candidate.name.clone().into();
    value["agreement"] = candidate.agreement.into();
    value
}

fn result(args: &Args, outcome: &Outcome, report: &Path) -> Value {
    let candidate = |candidate: &Candidate| {
        let mut value = figures(candidate);
        value["recipe"] = json!(candidate.recipe);
        value["refused"] = candidate.refused.clone().into();
        value
    };
    let mut value = json!({
        "package": args.package.display().to_string(), "metric": outcome.metric, "n": outcome.images,
        "isa": outcome.isa, "threads": outcome.threads, "before": outcome.before,
        "candidates": outcome.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "energy_meter": outcome.energy_meter, "energy": outcome.energy,
        "layers": outcome.layers, "steps": outcome.steps, "budget": outcome.settings.budget,
        "report": report.display().to_string(),
    });
    match &outcome.chosen {
        Choice::Kept(_) => {
            value["after"] = figures(outcome.candidate());
            value["out"] = args.out.display().to_string().into();
        }
        Choice::Missed { reason, .. } => {
            value["nearest"] = figures(outcome.candidate());
            value["reason"] = reason.clone().into();
        }
    }
    value
}

fn text(value: &Value, outcome: &Outcome) -> String {
    let metric = outcome.metric;
    let energy = match outcome.before.energy() {
        Some((_, true)) => "energy_mj_estimate",
        _ => "energy_mj",
    };
    let row = |candidate: &Candidate| {
        json!({
            "candidate": candidate.name, metric: candidate.figures.metrics[metric],
            "bytes": candidate.figures.size_bytes, "p50_ms": candidate.figures.p50_ms,
            energy: candidate.figures.energy().map(|(mj, _)| mj),
            "same answers": candidate.agreement, "why not": candidate.refused,
        })
    };
    let rows: Vec<Value> = outcome.candidates.iter().map(row).collect();
    let table =
        print::columns(&rows, &["candidate", metric, "bytes", "p50_ms", energy, "same answers", "why not"]);
    let floats = outcome.layers.iter().filter(|layer| layer.kind == "f32");
    let floats: String = floats
        .map(|layer| format!("  {} stays float: {}\n", layer.name, layer.reason.as_deref().unwrap_or("")))
        .collect();
    let end = match &value["out"] {
        Value::String(out) => format!("{out}: {}\n", outcome.candidate().name),
        _ => String::new(),
    };
    format!("{table}\n{floats}energy: {}\n{end}report: {}\n", outcome.energy, print::cell(&value["report"]))
}

/// What is on the screen.
struct Shown(Option<Progress>);

impl Shown {
    fn tell(&mut self, event: Event) {
        match event {
            Event::Began { what, unit, length } => {
                self.0 = Some(Progress::new(&what, unit, length as u64, 0));
            }
            Event::Done(done) => self.0.iter_mut().for_each(|bar| bar.set(done as u64, "")),
            Event::Ended(line) => {
                self.0.take().iter().for_each(Progress::finish);
                eprintln!("{}", print::line(&line));
            }
        }
    }
}
