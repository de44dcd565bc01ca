//! From data to a package: train, validate, predict a few, compress.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use espalier_runtime::Isa;
use espalier_tasks::{Limits, Truth};
use espalier_train::compress::{Choice, Figures, Outcome};
use espalier_train::data::{Dataset, Examples, Split};
use espalier_train::evaluate::{Measured, measure};
use espalier_train::{CHECKPOINT_EVERY, Overrides, Request};
use serde_json::{Value, json};

use super::Args;
use super::device::DIGITS;
use crate::commands::{compress, predict, train};
use crate::{foreign, open, print};

/// Enough for the digits, where nobody wants to wait.
const EPOCHS: usize = 12;

/// What came of a training.
pub(super) struct Trained {
    /// The folder of the run.
    pub(super) out: PathBuf,
    /// The float package.
    pub(super) package: PathBuf,
    /// Epochs that it took.
    pub(super) epochs: usize,
}

pub(super) fn train(args: &Args, out: PathBuf) -> anyhow::Result<Trained> {
    let epochs = args.epochs.or((args.data == DIGITS).then_some(EPOCHS));
    let overrides = Overrides { seed: Some(args.seed), epochs, ..Overrides::default() };
    let (data, checkpoint_every) = (args.data.clone(), CHECKPOINT_EVERY);
    let (mlflow, import) = (train::mlflow(), foreign::read);
    let request =
        Request { data, overrides, out, init: None, import, resume: false, checkpoint_every, mlflow };
    let (outcome, _) = train::train(&request)?;
    Ok(Trained { package: outcome.out.join("best.espalier"), epochs: outcome.epochs, out: outcome.out })
}

/// The split that no weight was fitted to: test, else val.
pub(super) fn held_out(data: &Dataset) -> Split {
    if data.split(Split::Test).is_empty() { Split::Val } else { Split::Test }
}

/// Measures the package on a split, and shows answers to a few of its pictures.
pub(super) fn validate(args: &Args, package: &Path, split: Split) -> anyhow::Result<Value> {
    let threads = open::threads(None)?;
    let mut model = open::model(package, Isa::best(), threads)?;
    let examples = Examples::open(&args.data, split, model.task()).map_err(open::data_error)?;
    let Measured { metrics, skipped } = measure(&mut model, &examples, threads, &mut |_| {})?;
    print::skipped(&skipped);
    for example in examples.list.iter().step_by(examples.list.len().div_ceil(4)) {
        let Ok((content, Truth::Class(class))) = example.load(&Limits::default()) else { continue };
        let truth = print::line(&model.task().labels()[class]);
        let said = predict::text(&example.name(), &model.answer(content.input())?);
        eprintln!("   {said}, truly {truth}");
    }
    let accuracy = metrics.metrics().get("accuracy").copied().context("the network tells no accuracy")?;
    eprintln!("   accuracy {accuracy:.4} on {} {split} images, which no weight was fitted to", metrics.n());
    Ok(json!({"split": split.name(), "n": metrics.n(), "accuracy": accuracy}))
}

/// What came of a compression.
pub(super) struct Compressed {
    /// The package that goes to the device: the float one where nothing smaller is good enough.
    pub(super) package: PathBuf,
    /// Before and after, as JSON.
    pub(super) value: Value,
    /// Of an answer, where a meter tells it.
    pub(super) energy_mj: Option<f64>,
}

pub(super) fn compress(args: &Args, trained: &Trained) -> anyhow::Result<Compressed> {
    let path = |path: PathBuf| path.display().to_string();
    let (out, report) = (trained.out.join("int8.espalier"), path(trained.out.join("compress")));
    let (float, int8) = (path(trained.package.clone()), path(out.clone()));
    let words = [&float, &args.data, "--int8", "--out", &int8];
    eprintln!("   espalier compress {}", words.join(" "));
    let (_, outcome) =
        compress::made(&compress::Args::of(words.into_iter().chain(["--report", &report]))?, Arc::default())?;
    eprint!("{}", compared(&outcome));
    let package = match &outcome.chosen {
        Choice::Kept(_) => out,
        Choice::Missed { reason, .. } => {
            eprintln!("   int8 is not good enough here ({reason}): the float package goes on");
            trained.package.clone()
        }
    };
    let after = &outcome.candidate().figures;
    let value = json!({"before": outcome.before, "after": after});
    Ok(Compressed { package, value, energy_mj: after.energy_mj })
}

/// Float against what was made of it.
fn compared(outcome: &Outcome) -> String {
    let line = |name: &str, figures: &Figures| {
        let time = figures.p50_ms.map_or("-".into(), |ms| format!("{ms:.4}"));
        let accuracy = figures.metrics.get(outcome.metric).copied().unwrap_or(f64::NAN);
        vec![format!("   {name}"), format!("{accuracy:.4}"), figures.size_bytes.to_string(), time]
    };
    let head = ["", "accuracy", "bytes", "ms an answer"].map(String::from).to_vec();
    print::numbers(&[
        head,
        line("float", &outcome.before),
        line(&outcome.candidate().name, &outcome.candidate().figures),
    ])
}
