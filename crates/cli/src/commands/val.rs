//! `espalier val`: metrics of a package over a split.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use espalier_tasks::classification::Metrics;
use espalier_tasks::{Limits, Task};
use espalier_train::data::{CACHE_BYTES, Images, Split};
use espalier_train::evaluate::evaluate;
use serde_json::{Value, json};

use crate::progress::Progress;
use crate::{open, print};

/// Measure a package on labelled data.
#[derive(clap::Args)]
#[command(after_help = "\
Classes are matched to the package's labels by name.

Examples:
  espalier val runs/train/best.espalier photos
  espalier val runs/train/best.espalier builtin:mnist-5k --split test --json")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// The data.
    data: String,
    /// Which part of the data.
    #[arg(long, value_enum, default_value = "val")]
    split: SplitArg,
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Force an instruction set: scalar, avx2, avx512.
    #[arg(long)]
    isa: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Val,
    Test,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    let mut model = open::model(&args.package, open::isa(args.isa.as_deref())?, threads)?;
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Val => Split::Val,
        SplitArg::Test => Split::Test,
    };
    let Task::ClassifyImage(task) = model.task().clone();
    let images = images(&args.data, split, &task, threads)?;
    let mut progress = Progress::new("validating", "images", images.len() as u64, 0);
    let metrics = evaluate(&mut model, &images, &mut |done| progress.set(done as u64, ""))?;
    progress.finish();
    let value = report(&metrics);
    print::result(args.json, &value, || text(&value, &task.labels))
}

/// The readable images of `split`, their classes numbered as the package's labels.
pub(crate) fn images(
    data: &str,
    split: Split,
    task: &espalier_tasks::ClassifyImage,
    threads: usize,
) -> anyhow::Result<Arc<Images>> {
    let mut dataset = open::dataset(data)?;
    dataset.require(split).map_err(open::data_error)?;
    dataset.survey(&Limits::default(), threads)?;
    dataset.match_labels(&task.labels)?;
    print::skipped(&dataset.skipped);
    Ok(Arc::new(Images::load(dataset.split(split), task, &Limits::default(), CACHE_BYTES, threads)?))
}

/// The metrics as `val --json` has them.
pub(crate) fn report(metrics: &Metrics) -> Value {
    json!({
        "n": metrics.n(), "metric": "accuracy", "metrics": metrics.metrics(),
        "per_class": metrics.per_class(), "confusion": metrics.confusion(),
    })
}

const COLUMNS: [&str; 5] = ["label", "n", "precision", "recall", "f1"];

fn text(value: &Value, labels: &[String]) -> String {
    let metrics = value["metrics"].as_object().into_iter().flatten();
    let metrics: Vec<String> = metrics.map(|(k, v)| format!("{k} {}", print::cell(v))).collect();
    let classes =
        value["per_class"].as_array().map(|rows| print::columns(rows, &COLUMNS)).unwrap_or_default();
    format!(
        "{} images: {}\n\n{classes}\n{}",
        value["n"],
        metrics.join(", "),
        confusion(&value["confusion"], labels)
    )
}

/// Rows are true classes, columns guesses.
fn confusion(value: &Value, labels: &[String]) -> String {
    const MOST: usize = 20;
    if labels.len() > MOST {
        return format!("confusion: {} classes; see --json\n", labels.len());
    }
    let head = std::iter::once("true \\ guess".to_string()).chain(labels.iter().cloned()).collect();
    let rows = value.as_array().into_iter().flatten().zip(labels).map(|(row, label)| {
        let cells = row.as_array().into_iter().flatten().map(print::cell);
        std::iter::once(label.clone()).chain(cells).collect()
    });
    print::grid(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}
