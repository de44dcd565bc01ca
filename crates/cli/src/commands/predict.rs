//! `espalier predict`: what a package says about files.

use std::path::{Path, PathBuf};

use espalier_tasks::{Answer, Limits, Model, decode};
use serde_json::{Value, json};

use crate::exit::{Ending, sentence, usage};
use crate::{open, print};

/// Classify pictures.
#[derive(clap::Args)]
#[command(after_help = "\
Prints one line (with --json one JSON object) for each file; a file that cannot be read is named on stderr, the others \
are still answered, and the exit status is 1 (2 where files are missing and nothing else is wrong).

Example:
  espalier predict runs/train/best.espalier *.jpg")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// The pictures.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Force an instruction set: scalar, avx2, avx512.
    #[arg(long)]
    isa: Option<String>,
    /// Print one JSON object for each file.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    let mut model = open::model(&args.package, open::isa(args.isa.as_deref())?, threads)?;
    let mut faults = Vec::new();
    for file in &args.files {
        match answer(&mut model, file) {
            Ok(value) => print::result(args.json, &value, || text(&value))?,
            Err(error) => faults.push(error.context(file.display().to_string())),
        }
    }
    ending(faults, args.files.len())
}

fn answer(model: &mut Model, file: &Path) -> anyhow::Result<Value> {
    if !file.exists() {
        return Err(usage("there is no such file"));
    }
    let image = decode(&std::fs::read(file)?, &Limits::default())?;
    Ok(line(&file.display().to_string(), &model.answer(&image)?, model.task().labels()))
}

/// Names every fault on stderr; where files were only missing, the command was called wrongly.
fn ending(mut faults: Vec<anyhow::Error>, files: usize) -> anyhow::Result<()> {
    if files == 1 {
        return faults.pop().map_or(Ok(()), Err);
    }
    faults.iter().for_each(|fault| eprintln!("espalier: {}", sentence(fault)));
    let text = format!("{} of {files} files have no answer", faults.len());
    match faults.as_slice() {
        [] => Ok(()),
        faults if faults.iter().all(|fault| fault.is::<Ending>()) => Err(usage(text)),
        _ => Err(anyhow::anyhow!(text)),
    }
}

/// One answer as `predict --json` has it.
pub(crate) fn line(file: &str, answer: &Answer, labels: &[String]) -> Value {
    let Answer::Label(prediction) = answer;
    let scores: serde_json::Map<String, Value> =
        labels.iter().cloned().zip(prediction.scores.iter().map(|&s| s.into())).collect();
    json!({"file": file, "label": prediction.label, "confidence": prediction.confidence, "scores": scores})
}

fn text(value: &Value) -> String {
    let (file, label) = (print::cell(&value["file"]), print::cell(&value["label"]));
    format!("{file}  {label}  {:.1} %\n", value["confidence"].as_f64().unwrap_or(0.0) * 100.0)
}
