//! `espalier val`: metrics of a package over a split.

use std::path::PathBuf;

use clap::ValueEnum;
use espalier_tasks::{Metrics, Task};
use espalier_train::data::{Examples, Split};
use espalier_train::evaluate::measure;
use serde_json::{Map, Value, json};

use crate::compute::Compute;
use crate::progress::Progress;
use crate::{open, print};

/// Measure a package on labelled data.
#[derive(clap::Args)]
#[command(after_help = "\
Classes are matched to the package's labels by name. Detectors are measured by COCO's rules on boxes: a folder with \
data.yaml (YOLO), or COCO's JSON (docs/detection.md). Detectors of anomalies are measured on series; where a labels file
lies beside them, by F1 over the labelled windows (docs/anomaly.md).

Examples:
  espalier val runs/train/best.espalier photos
  espalier val runs/train/best.espalier builtin:mnist-5k --split test --json
  espalier val runs/train/best.espalier pump.csv --split test")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// The data.
    data: String,
    /// Which part of the data.
    #[arg(long, value_enum, default_value = "val")]
    split: SplitArg,
    #[command(flatten)]
    compute: Compute,
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
    let threads = args.compute.threads()?;
    let mut model = args.compute.model(&args.package)?;
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Val => Split::Val,
        SplitArg::Test => Split::Test,
    };
    let examples = Examples::open(&args.data, split, model.task()).map_err(open::data_error)?;
    print::skipped(&examples.skipped);
    let mut progress = Progress::new("validating", "images", examples.list.len() as u64, 0);
    let measured = measure(&mut model, &examples, threads, &mut |done| progress.set(done as u64, ""))?;
    progress.finish();
    print::skipped(&measured.skipped);
    let value = report(model.task(), &measured.metrics);
    print::result(args.json, &value, || text(&value, &measured.metrics, model.task().labels()))
}

/// The metrics as `val --json` has them.
pub(crate) fn report(task: &Task, metrics: &Metrics) -> Value {
    let classes = metrics.per_class().into_iter().map(|class| {
        let scores = class.scores.iter().map(|&(name, score)| (name.to_owned(), score.into()));
        let row = [("label".to_owned(), class.label.into()), ("n".to_owned(), class.n.into())];
        row.into_iter().chain(scores).collect::<Map<String, Value>>()
    });
    let primary = task.primary_metric().name;
    // Series without labels have no F1.
    let metric = if metrics.metrics().contains_key(primary) { primary } else { "loss" };
    let mut value = json!({
        "n": metrics.n(), "metric": metric, "metrics": metrics.metrics(),
        "per_class": classes.collect::<Vec<_>>(),
    });
    if let Some(confusion) = metrics.confusion() {
        value["confusion"] = json!(confusion);
    }
    value
}

fn text(value: &Value, metrics: &Metrics, labels: &[String]) -> String {
    let all: Vec<String> =
        metrics.metrics().iter().map(|(name, v)| format!("{name} {}", print::significant(*v))).collect();
    let classes = metrics.per_class();
    let names = classes.iter().take(1).flat_map(|class| class.scores.iter().map(|(name, _)| *name));
    let columns: Vec<&str> = ["label", "n"].into_iter().chain(names).collect();
    let rows = value["per_class"].as_array().filter(|rows| !rows.is_empty());
    let rows = rows.map(|rows| print::columns(rows, &columns)).unwrap_or_default();
    let confusion = value.get("confusion").map(|value| format!("\n{}", confusion(value, labels)));
    let what = if matches!(metrics, Metrics::Anomaly(_)) { "windows" } else { "images" };
    format!("{} {what}: {}\n\n{rows}{}", value["n"], all.join(", "), confusion.unwrap_or_default())
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
