//! `espalier predict`: what a package says about files.

use std::path::PathBuf;

use espalier_tasks::{Answer, Limits, decode};
use serde_json::{Value, json};

use crate::{open, print};

/// Classify pictures.
#[derive(clap::Args)]
#[command(after_help = "\
Prints one line (with --json one JSON object) for each file; a file that cannot be read is named on stderr, the others
are still answered, and the exit status is 1.

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
    let mut failed = 0;
    for file in &args.files {
        let answer = std::fs::read(file)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(decode(&bytes, &Limits::default())?))
            .and_then(|image| Ok(model.answer(&image)?));
        match answer {
            Ok(answer) => {
                let value = line(&file.display().to_string(), &answer, model.task().labels());
                print::result(args.json, &value, || text(&value))?;
            }
            Err(error) => {
                failed += 1;
                eprintln!("espalier: {}: {error:#}", file.display());
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} files could not be read", args.files.len());
    Ok(())
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
