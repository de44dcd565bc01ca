//! Series as sources of the agent.

#![cfg(unix)]

mod common;

use std::process::Command;

use common::{Agent, package, pipeline};
use espalier_graph::{BinaryFn, Format, Graph, Manifest, Op, Package, Shape, TensorType, Weights};
use espalier_runtime::Isa;
use espalier_tasks::anomaly::Calibration;
use espalier_tasks::series::Follows;
use espalier_tasks::{Anomaly, Answer, Model, Reading, Row, Task, Window};

/// Rows of a window, and of the series.
const WINDOW: usize = 4;
const ROWS: usize = 12;

/// The network says nothing again, so the error of a window is the root of its mean square: 1 is usual.
fn task() -> Task {
    Task::Anomaly(Anomaly {
        columns: vec!["flow".into()],
        time: None,
        interval_s: None,
        window: WINDOW,
        stride: 1,
        mean: vec![0.0],
        std: vec![1.0],
        memory: 64,
        hold: 1,
        false_alarms: 1e-3,
        calibration: Calibration { mean: 1.0, std: 0.1, threshold: 5.0 },
    })
}

fn graph() -> Graph {
    let mut graph = Graph::new();
    let x = graph.add_input("x", TensorType::f32(Shape::batched(&[WINDOW]))).unwrap();
    let nothing = graph.add("nothing", Op::Binary { f: BinaryFn::Sub }, &[x, x]).unwrap();
    graph.add_output("reconstruction", nothing).unwrap();
    graph
}

fn model() -> Model {
    Model::new(graph(), Weights::new(), task(), Isa::best(), 1).unwrap()
}

fn series_package(version: u64) -> Package {
    let window = Window { values: vec![1.0; WINDOW], follows: Follows::Nothing };
    let golden = vec![model().golden(&window).unwrap()];
    let (graph, task) = (graph(), serde_json::to_value(task()).ok());
    let manifest =
        Manifest { format: Format::of(&graph), name: "pump".into(), task, version, ..Manifest::default() };
    Package { manifest, graph, weights: Weights::new(), golden, reference: Weights::new() }
}

/// A folder with a package and a series, whose last row is odd.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    series_package(1).write(folder.path().join("pump.espalier")).unwrap();
    let rows: String = (1..ROWS).map(|at| if at % 2 == 0 { "1\n" } else { "-1\n" }).collect();
    std::fs::write(folder.path().join("pump.csv"), format!("flow\n{rows}9\n")).unwrap();
    folder
}

const MODEL: &str = "path = \"pump.espalier\"";

#[test]
fn a_series_begins_anew_where_its_source_does() {
    let folder = folder();
    let agent = Agent::start(folder.path(), &pipeline("uri = \"pump.csv\", rate = 40, loop = true", MODEL));
    let number = |figures: &serde_json::Value| figures["frame"].as_u64().unwrap_or_default();
    // Whether there is a score, and an alarm, is a function of the row, in every pass.
    let mut rows = std::collections::BTreeSet::new();
    agent.until("all rows of a second pass", || {
        let figures = agent.figures(0);
        let (number, score) = (number(&figures), &figures["score"]);
        if number > ROWS as u64 {
            let row = (number as usize - 1) % ROWS + 1;
            assert_eq!(score.is_null(), row < WINDOW, "{figures}");
            assert_eq!(figures["alarm"], row == ROWS, "{figures}");
            assert!(figures["values"]["flow"].is_number(), "{figures}");
            rows.insert(row);
        }
        (rows.contains(&1) && rows.contains(&WINDOW) && rows.contains(&ROWS)).then_some(())
    });
    assert_eq!(agent.metric("frames_broken_total"), 0.0);
    assert!(agent.get("/a/picture.jpg").0.starts_with("HTTP/1.1 404"));
}

#[test]
fn packages_for_pictures_do_not_take_its_place() {
    let folder = folder();
    let mut agent =
        Agent::start(folder.path(), &pipeline("uri = \"pump.csv\", rate = 40, loop = true", MODEL));
    agent.until("answers", || (agent.metric("frames_processed_total") > 2.0).then_some(()));
    package(0, 2).write(folder.path().join("pump.espalier")).unwrap();
    agent.wait_for("its task is classify-image, and the source gives rows of a series");
    series_package(3).write(folder.path().join("pump.espalier")).unwrap();
    agent.wait_for("pump.espalier (version 3) answers from now on");
    let metrics = agent.metrics();
    assert_eq!(metrics["model_refusals_total{pipeline=\"a\"}"], 1.0);
    assert_eq!(metrics["frames_broken_total{pipeline=\"a\"}"], 0.0);
    assert!(agent.stop().0.success());
}

#[test]
fn what_does_not_fit_is_refused_at_the_start() {
    let folder = folder();
    package(0, 1).write(folder.path().join("a.espalier")).unwrap();
    std::fs::write(folder.path().join("a.mjpeg"), b"").unwrap();
    let check = |uri: &str, model: &str, words: &str| {
        let path = folder.path().join("agent.toml");
        let text =
            format!("[device]\nname = \"device\"\n[status]\nenabled = false\n{}", pipeline(uri, model));
        std::fs::write(&path, text).unwrap();
        for flags in [&["--check"][..], &[]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-agent"));
            let output = command.arg("--config").arg(&path).args(flags).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{uri} {flags:?}: {err}");
            assert!(err.contains("pipeline[0].source.uri: ") && err.contains(words), "{err}");
        }
    };
    check("uri = \"pump.csv\"", "path = \"a.espalier\"", "it gives rows of a series");
    check("uri = \"a.mjpeg\"", MODEL, "it gives pictures");
}

#[test]
fn a_model_that_takes_over_goes_on_with_the_rows() {
    let reading = |model: &mut Model, value: f32| -> Reading {
        match model.answer(&Row { time: None, values: vec![value] }).unwrap() {
            Answer::Reading(reading) => reading,
            other => panic!("{other:?}"),
        }
    };
    let (mut old, mut new) = (model(), model());
    let scores: Vec<bool> = (0..WINDOW).map(|_| reading(&mut old, 1.0).score.is_some()).collect();
    assert_eq!(scores, [false, false, false, true]);
    new.follow(&old);
    assert!(reading(&mut new, 1.0).score.is_some());
    new.forget();
    assert!(reading(&mut new, 1.0).score.is_none());
}
