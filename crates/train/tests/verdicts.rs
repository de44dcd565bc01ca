//! Each verdict, provoked by a real run.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Drawn, easy, request, split, train};
use espalier_graph::random::Random;
use espalier_train::data::Level;
use espalier_train::diagnosis::Kind;
use espalier_train::schedule::Shape;
use espalier_train::{Event, OptimizerName, Outcome, Overrides, Stopped, Verdict};

fn constant(lr: f32, epochs: usize) -> Overrides {
    Overrides {
        lr: Some(lr),
        epochs: Some(epochs),
        patience: Some(epochs),
        schedule: Some(Shape::Constant),
        warmup: Some(0.0),
        optimizer: Some(OptimizerName::Adamw),
        ..Overrides::default()
    }
}

fn check(data: &Path, overrides: Overrides, kind: Kind, stopped: Stopped, words: &str) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, _) = train(&request(data, folder.path(), overrides));
    let history = std::fs::read_to_string(folder.path().join("run/metrics.csv")).unwrap();
    let verdict = outcome.verdict;
    assert_eq!((verdict.kind, outcome.stopped), (kind, stopped), "{}\n{history}", verdict.text);
    assert!(verdict.text.contains(words), "{:?} should say {words:?}\n{history}", verdict.text);
    let report = std::fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(report.contains(&verdict.text), "the report says the same");
    verdict
}

#[test]
fn target_reached() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 80);
    let overrides = Overrides { target: Some(0.9), ..constant(2e-3, 50) };
    check(&data, overrides, Kind::Target, Stopped::Target, "The target accuracy=0.9 was reached at epoch");
}

#[test]
fn a_missed_target_is_said_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 80);
    let overrides = Overrides { target: Some(1.0), ..constant(1e-7, 4) };
    check(&data, overrides, Kind::NothingLearned, Stopped::Epochs, "The target accuracy=1 was missed");
}

/// Half of the labels in train are wrong: what is right is learned first, then the wrong ones are learned by heart.
#[test]
fn overfitting_after_a_turn() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let half_wrong = |i: usize, random: &mut Random| {
        let label = if i % 8 < 4 { random.below(4) } else { i % 4 };
        Drawn { shows: i % 4, label }
    };
    split(&data, "train", 96, half_wrong);
    split(&data, "val", 200, |i, _| Drawn { shows: i % 4, label: i % 4 });
    let verdict =
        check(&data, still(constant(3e-3, 60)), Kind::Overfitting, Stopped::Epochs, "turned at epoch");
    assert!(verdict.advice[0].contains("more pictures"), "{:?}", verdict.advice);
}

/// Labels that have nothing to do with the pictures.
#[test]
fn learned_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let random_label = |i: usize, random: &mut Random| Drawn { shows: i % 4, label: random.below(4) };
    split(&data, "train", 64, random_label);
    split(&data, "val", 200, random_label);
    check(&data, still(constant(2e-3, 60)), Kind::Overfitting, Stopped::Epochs, "learned by heart");
}

/// The time is up after as many epochs on any machine: the run is held up until then.
#[test]
fn time_ran_out_too_early() {
    const EPOCHS: usize = 8;
    const LIMIT: Duration = Duration::from_secs(8);
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 400);
    let overrides = Overrides { max_time_s: Some(LIMIT.as_secs_f64()), ..constant(3e-5, 100_000) };
    // The run's clock starts before it says so, once the data are there.
    let mut start = Instant::now();
    let outcome =
        espalier_train::train(&request(&data, folder.path(), overrides), &mut |event| match event {
            Event::Started { .. } => start = Instant::now(),
            Event::Epoch { row, .. } if row.epoch == EPOCHS => {
                std::thread::sleep(LIMIT.saturating_sub(start.elapsed()) + Duration::from_millis(1));
            }
            _ => {}
        });
    let Outcome { verdict, stopped, epochs, .. } = outcome.unwrap();
    assert_eq!(
        (stopped, epochs),
        (Stopped::Time, EPOCHS + 1),
        "the machine makes {EPOCHS} epochs in {LIMIT:?}"
    );
    let curve = std::fs::read_to_string(folder.path().join("run/metrics.csv")).unwrap();
    assert_eq!(verdict.kind, Kind::StillImproving, "{}\n{curve}", verdict.text);
    assert_eq!(verdict.text, "Validation was still improving when time ran out at epoch 9.");
}

#[test]
fn plateau() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 320, 200);
    check(&data, constant(2e-3, 30), Kind::Plateau, Stopped::Epochs, "since epoch");
}

#[test]
fn nothing_learned() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 200);
    check(&data, constant(1e-8, 4), Kind::NothingLearned, Stopped::Epochs, "no better than always guessing");
}

/// Without augmentation, smoothing and weight decay.
fn still(overrides: Overrides) -> Overrides {
    let augment = Some(Level::None);
    Overrides { smoothing: Some(0.0), weight_decay: Some(0.0), augment, ..overrides }
}
