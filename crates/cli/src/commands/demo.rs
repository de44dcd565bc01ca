//! `espalier demo`: the cycle on this machine. For now: train, validate, predict, measure.

use std::path::PathBuf;

use espalier_tasks::{Limits, Truth};
use espalier_train::data::{Dataset, Examples, Split};
use espalier_train::evaluate::{Measured, measure};
use espalier_train::run_folder::RunFolder;
use espalier_train::{CHECKPOINT_EVERY, Overrides, Request};
use serde_json::json;

use crate::commands::{benchmark, predict, train};
use crate::{foreign, open, print};

/// Train, validate, predict and measure on the built-in handwritten digits, or on your folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  espalier demo
  espalier demo photos --out runs/photos")]
pub(crate) struct Args {
    /// The data.
    #[arg(default_value = "builtin:mnist-5k")]
    data: String,
    /// Folder of the run; default runs/demo, runs/demo-2, ...
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| RunFolder::fresh("demo"));
    let overrides = Overrides { seed: Some(args.seed), ..Overrides::default() };
    eprintln!("1. Training on {}", args.data);
    let (data, checkpoint_every) = (args.data.clone(), CHECKPOINT_EVERY);
    let mlflow = train::mlflow();
    let import = foreign::read;
    let request =
        Request { data, overrides, out, init: None, import, resume: false, checkpoint_every, mlflow };
    let (outcome, _) = train::train(&request)?;
    let best = outcome.out.join("best.espalier");

    let threads = open::threads(None)?;
    let mut model = open::model(&best, espalier_runtime::Isa::best(), threads)?;
    let tested = !Dataset::open(&args.data)?.split(Split::Test).is_empty();
    let split = if tested { Split::Test } else { Split::Val };
    let examples = Examples::open(&args.data, split, model.task()).map_err(open::data_error)?;
    let n = examples.list.len();
    eprintln!("2. Validating on {n} {split} images, which the weights were not fitted to");
    let Measured { metrics, skipped } = measure(&mut model, &examples, threads, &mut |_| {})?;
    print::skipped(&skipped);

    eprintln!("3. Predicting a few of them");
    for example in examples.list.iter().step_by(n.div_ceil(4)) {
        let Ok((content, truth)) = example.load(&Limits::default()) else { continue };
        let truly = match truth {
            Truth::Class(class) => format!(", truly {}", model.task().labels()[class]),
            Truth::Boxes(_) | Truth::Series { .. } => String::new(),
        };
        eprintln!("   {}{truly}", predict::text(&example.name(), &model.answer(content.input())?));
    }

    eprintln!("4. Measuring the latency of one answer");
    let package = open::package(&best)?;
    let latency =
        benchmark::latency(&package.graph, &package.weights, espalier_runtime::Isa::best(), threads, 50)?;
    let accuracy = metrics.metrics()["accuracy"];
    let value = json!({
        "accuracy": {"after": accuracy}, "split": split.name(), "n": metrics.n(),
        "latency": {"p50_ms": latency["p50_ms"], "p99_ms": latency["p99_ms"]}, "energy_mj": null,
        "epochs": outcome.epochs, "package": best.display().to_string(),
    });
    print::result(args.json, &value, || {
        let best = best.display();
        format!(
            "\n{split} accuracy {accuracy:.4} over {} images; one answer takes {} ms\n\nNext:\n  \
             espalier val {best} {data}\n  espalier inspect {best}\n  espalier benchmark {best} --per-layer\n  \
             espalier compress {best} {data} --out small.espalier\n  \
             espalier train YOUR/FOLDER        pictures in CLASS/ folders\n",
            metrics.n(),
            print::cell(&latency["p50_ms"]),
            data = args.data,
        )
    })
}
