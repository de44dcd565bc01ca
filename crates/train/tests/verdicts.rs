//! Each verdict, provoked by a real run.

mod common;

use std::path::Path;

use common::{Drawn, easy, request, split, train};
use espalier_graph::random::Random;
use espalier_train::diagnosis::Kind;
use espalier_train::schedule::Shape;
use espalier_train::{OptimizerName, Overrides, Stopped, Verdict};

fn constant(lr: f32, epochs: usize) -> Overrides {
    Overrides {
        lr: Some(lr),
        epochs: Some(epochs),
        patience: Some(epochs),
        schedule: Some(Shape::Constant),
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

/// A third of the labels in train are wrong: what is learned first is right, then the wrong labels are learned by heart.
#[test]
fn overfitting_after_a_turn() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let third_wrong = |i: usize, random: &mut Random| {
        let label = if i.is_multiple_of(3) { random.below(4) } else { i % 4 };
        Drawn { shows: i % 4, label }
    };
    split(&data, "train", 96, third_wrong);
    split(&data, "val", 200, |i, _| Drawn { shows: i % 4, label: i % 4 });
    let verdict =
        check(&data, still(constant(2e-3, 60)), Kind::Overfitting, Stopped::Epochs, "turned at epoch");
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

#[test]
fn time_ran_out_too_early() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 400);
    let overrides = Overrides { max_time_s: Some(1.0), ..constant(3e-5, 100_000) };
    check(&data, overrides, Kind::StillImproving, Stopped::Time, "still improving when time ran out");
}

#[test]
fn plateau() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 320, 200);
    check(&data, constant(2e-3, 30), Kind::Plateau, Stopped::Epochs, "");
}

#[test]
fn nothing_learned() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 160, 200);
    check(&data, constant(1e-8, 4), Kind::NothingLearned, Stopped::Epochs, "no better than always guessing");
}

/// Without augmentation, smoothing and weight decay.
fn still(overrides: Overrides) -> Overrides {
    Overrides { smoothing: Some(0.0), weight_decay: Some(0.0), flip: Some(false), ..overrides }
}
