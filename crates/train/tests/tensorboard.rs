//! TensorBoard's own reader finds every step once, also of runs that were broken off and resumed.

mod common;

use std::path::Path;
use std::process::Command;

use common::{broken_off, easy, request, train};
use espalier_train::{Overrides, Request};
use serde_json::Value;

const EPOCHS: usize = 4;
/// 64 images in batches of 16.
const BATCHES: usize = 4;

fn read(python: &str, run: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorboard_events.py");
    let output = Command::new(python).arg(script).arg(run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn steps(value: &Value, tag: &str) -> Vec<u64> {
    let points = value["scalars"][tag].as_array().unwrap_or_else(|| panic!("no {tag} in {value}"));
    points.iter().map(|point| point[0].as_u64().unwrap()).collect()
}

#[test]
fn tensorboard_reads_every_step_once() {
    let Some(python) = espalier_testing::python("tensorboard") else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 64, 16);
    let overrides = Overrides { epochs: Some(EPOCHS), patience: Some(EPOCHS), ..Overrides::default() };
    let request = request(&data, folder.path(), overrides);
    // In the second epoch, after a step that is logged but in no checkpoint; then at once again, then in the third.
    broken_off(&request, BATCHES + 2);
    let request = Request { resume: true, ..request };
    broken_off(&request, BATCHES + 1);
    broken_off(&request, 2 * BATCHES + 3);
    train(&request);

    let found = read(&python, &request.out);
    let all: Vec<u64> = (1..=(EPOCHS * BATCHES) as u64).collect();
    let ends: Vec<u64> = (1..=EPOCHS).map(|epoch| (epoch * BATCHES) as u64).collect();
    assert_eq!(steps(&found, "train/loss"), all);
    for tag in ["lr", "train/accuracy", "train/loss_epoch", "val/accuracy", "val/loss", "val/f1"] {
        assert_eq!(steps(&found, tag), ends, "{tag}");
    }
    let csv = std::fs::read_to_string(request.out.join("metrics.csv")).unwrap();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "val_loss").unwrap();
    let losses: Vec<f32> =
        csv.lines().skip(1).map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect();
    let points = found["scalars"]["val/loss"].as_array().unwrap();
    let read: Vec<f32> = points.iter().map(|point| point[1].as_f64().unwrap() as f32).collect();
    assert_eq!(read, losses);
    let settings = found["texts"]["settings/text_summary"].as_str().unwrap();
    assert!(
        settings.contains("| model | lenet |") && settings.contains("| augment.geometric.flip | false |"),
        "{settings}"
    );
    assert_eq!(found["plugins"]["settings/text_summary"], "text");
}
