//! `espalier export`: what it writes is the same network and task again, and what disagrees is not written.

mod common;
#[path = "common/detector.rs"]
mod detector;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{espalier, fresh, run};
use espalier_graph::random::Random;
use espalier_graph::{Bindings, Format, Graph, Manifest, Package, Tensor, Weights};
use espalier_onnx::About;
use espalier_passes::quantize::{Ranges, Settings, observed, quantize};
use espalier_passes::{fold_batch_norm, integers, portable};
use espalier_runtime::{Isa, Options, lower};
use espalier_tasks::golden::Raw;
use espalier_tasks::{ClassifyImage, Fit, Image, Model, Task};
use espalier_train::networks::{NAMES, NetworkOptions, build, initial_weights};
use serde_json::Value;

const SIDE: usize = 32;

fn options() -> Options {
    Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(1) }
}

fn network(name: &str) -> (Graph, Weights) {
    let options = NetworkOptions { classes: 7, channels: 3, size: [SIDE; 2], width: 0.25 };
    let graph = build(name, &options).unwrap();
    let weights = initial_weights(&graph, 5);
    (portable(&graph).unwrap(), weights)
}

fn noise(seed: u64) -> Tensor {
    let mut random = Random::new(seed, 0);
    Tensor::f32(&[1, 3, SIDE, SIDE], (0..3 * SIDE * SIDE).map(|_| random.range(-2.0, 2.0)).collect())
}

/// The graph in integers, with the ranges that noise shows.
fn quantized(graph: &Graph, weights: &Weights) -> (Graph, Weights) {
    let mut looking = graph.clone();
    let names = observed(graph);
    for (at, name) in names.iter().enumerate() {
        looking.add_output(&format!("seen{at}"), graph.find(name).unwrap()).unwrap();
    }
    let sample = Raw::new(&looking, weights, options()).unwrap().golden(vec![noise(1)]).unwrap();
    let seen = &sample.outputs[graph.outputs().len()..];
    let range = |tensor: &Tensor| {
        tensor.as_f32().unwrap().iter().fold([0.0f32; 2], |[lo, hi], &v| [lo.min(v), hi.max(v)])
    };
    let ranges: Ranges = names.into_iter().zip(seen.iter().map(range)).collect();
    let quantized = quantize(graph, weights, &ranges, &Settings::default()).unwrap();
    let mut weights = quantized.weights;
    let graph = integers(&quantized.graph, &mut weights, &quantized.bytes).unwrap();
    (graph, weights)
}

fn logits(graph: &Graph, weights: &Weights) -> Vec<f32> {
    let sample = Raw::new(graph, weights, options()).unwrap().golden(vec![noise(2)]).unwrap();
    sample.outputs[0].as_f32().unwrap().to_vec()
}

/// Out and in again: the bits stay. How many nodes come back.
fn check(what: &str, graph: &Graph, weights: &Weights) -> usize {
    let exported = espalier_onnx::export(graph, weights, &About::default()).unwrap();
    let back = espalier_onnx::from_bytes(exported.bytes, espalier_onnx::Options::default()).unwrap();
    assert_eq!(logits(graph, weights), logits(&back.graph, &back.weights), "{what}");
    lower(&back.graph, &back.weights, Options { bindings: Bindings::batch(3), ..options() }).unwrap();
    back.graph.nodes().len()
}

#[test]
fn all_networks_come_back_to_the_bit() {
    for name in NAMES {
        let (graph, mut weights) = network(name);
        check(name, &graph, &weights);
        let folded = fold_batch_norm(&graph, &mut weights).unwrap();
        weights.retain(|name, _| folded.find(name).is_some());
        check(&format!("{name}, folded"), &folded, &weights);
        let (bytes, weights) = quantized(&folded, &weights);
        let nodes = check(&format!("{name}, int8"), &bytes, &weights);
        assert_eq!(nodes, bytes.nodes().len(), "{name}: {bytes}");
    }
}

/// A folder with packages: of floats, and of integers, with a task that says all that can be said.
fn packages(name: &str) -> (PathBuf, Task) {
    let folder = fresh(name);
    let labels = ["it's", "a, b", "{c}", "\"d\"", "e\\", "f: g", "h"].map(String::from).to_vec();
    let mut task = ClassifyImage::new([SIDE; 2], vec![0.1, 0.2, 1.0 / 3.0], vec![0.25, 0.5, 0.229], labels);
    (task.input.bgr, task.input.fit) = (true, Fit::Stretch);
    let task = Task::ClassifyImage(task);
    let (graph, mut weights) = network("resnet18");
    let graph = fold_batch_norm(&graph, &mut weights).unwrap();
    weights.retain(|name, _| graph.find(name).is_some());
    write(&folder.join("float.espalier"), graph.clone(), weights.clone(), &task);
    let (graph, weights) = quantized(&graph, &weights);
    write(&folder.join("int8.espalier"), graph, weights, &task);
    (folder, task)
}

fn write(path: &Path, graph: Graph, weights: Weights, task: &Task) {
    let mut model = Model::new(graph.clone(), weights.clone(), task.clone(), Isa::best(), 1).unwrap();
    let mut random = Random::new(9, 9);
    let pixels = (0..20 * 24 * 3).map(|_| random.below(256) as u8).collect();
    let golden = vec![model.golden(&Image::new(24, 20, 3, pixels).unwrap()).unwrap()];
    let manifest = Manifest {
        name: "a network".into(),
        task: Some(serde_json::to_value(task).unwrap()),
        format: Format::of(&graph),
        version: 1,
        ..Manifest::default()
    };
    Package { manifest, graph, weights, golden, reference: Weights::new() }.write(path).unwrap();
}

/// Runs `export` in `folder`, with `python` in the place of a Python.
fn export(folder: &Path, package: &str, python: Option<&Path>) -> Output {
    let [package, out] = [package, "out.onnx"].map(|name| folder.join(name).to_str().unwrap().to_string());
    let mut command = espalier(&["export", &package, "--format", "onnx", "--out", &out, "--json"]);
    match python {
        Some(python) => command.env("ESPALIER_PYTHON", python),
        None => command.env_remove("ESPALIER_PYTHON").env("PATH", folder),
    };
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    serde_json::from_str(out.lines().last().unwrap()).unwrap()
}

#[test]
fn the_same_network_and_task_come_back_without_flags() {
    let (folder, task) = packages("export");
    for name in ["float", "int8"] {
        let output = export(&folder, &format!("{name}.espalier"), None);
        let said = report(&output);
        let [ours, theirs] = [0, 1].map(|at| said["checks"][at].clone());
        assert_eq!((&ours["engine"], &ours["agree"]), (&"espalier".into(), &true.into()), "{said}");
        assert_eq!(ours["samples"], 5, "{said}");
        assert_eq!((&theirs["engine"], &theirs["agree"]), (&"onnxruntime".into(), &Value::Null), "{said}");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains("not checked by onnxruntime: there is no python3"), "{err}");
        assert_eq!(said["bytes"], fs::metadata(folder.join("out.onnx")).unwrap().len());
        let [onnx, again] =
            ["out.onnx", "again.espalier"].map(|n| folder.join(n).to_str().unwrap().to_string());
        let imported = run(&["import", &onnx, "--out", &again]);
        assert_eq!(imported.status, Some(0), "{}", imported.err);
        let [before, after] = [format!("{name}.espalier"), "again.espalier".into()]
            .map(|n| Package::read(folder.join(n)).unwrap());
        assert_eq!(after.manifest.task, before.manifest.task);
        assert_eq!(serde_json::from_value::<Task>(after.manifest.task.clone().unwrap()).unwrap(), task);
        assert_eq!(logits(&after.graph, &after.weights), logits(&before.graph, &before.weights), "{name}");
        fs::remove_file(folder.join("out.onnx")).unwrap();
    }
}

#[test]
fn detectors_come_back_without_flags() {
    let folder = fresh("export-detector");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let said = [("task", "detect"), ("names", "{0: 'red', 1: 'green'}")];
    let [file, first, onnx, second] = ["d.onnx", "first.espalier", "out.onnx", "second.espalier"].map(at);
    fs::write(&file, detector::detector(&[1, 3, 8, 8], &[6, 2], &said)).unwrap();
    let flags = "--confidence 0.375 --iou 0.125 --fit stretch --bgr --head yolov8 --mean 0.5 --std 2";
    let import = [&["import", &file, "--out", &first][..], &flags.split(' ').collect::<Vec<_>>()].concat();
    assert_eq!(run(&import).status, Some(0));
    report(&export(&folder, "first.espalier", None));
    assert_eq!(run(&["import", &onnx, "--out", &second]).status, Some(0));
    let [first, second] = [first, second].map(|path| Package::read(path).unwrap());
    assert_eq!(second.manifest.task, first.manifest.task);
}

/// A program that takes the place of a Python. A shell writes it: a file that another test's child still holds open for writing
/// does not start.
fn pretender(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod +x "$0""#;
    let status = Command::new("sh").args(["-c", write]).arg(&path).arg(script).status().unwrap();
    assert!(status.success());
    path
}

#[test]
fn what_disagrees_is_not_written() {
    let (folder, _) = packages("export-refused");
    let refused = |package: &str, python: Option<&Path>, words: &str| {
        let output = export(&folder, package, python);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(words), "{err} should say {words}");
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("onnx")), "{left:?}");
    };
    let zeros = pretender(&folder, "zeros", "cat > /dev/null; head -c 140 /dev/zero");
    let words = "output `logits` of sample 0 in onnxruntime is off by 1.00e0 of its norm, 1e-4 is allowed";
    refused("float.espalier", Some(&zeros), words);
    refused("int8.espalier", Some(&zeros), "of its norm, 5e-2 is allowed");
    let few = pretender(&folder, "few", "cat > /dev/null; head -c 100 /dev/zero");
    refused("float.espalier", Some(&few), "gives fewer numbers");
    let broken = pretender(&folder, "broken", "echo one >&2; echo the last word >&2; exit 1");
    refused("float.espalier", Some(&broken), "does not run the exported file: the last word");
    refused("float.espalier", Some(&folder.join("nowhere")), "cannot start");

    let mut package = Package::read(folder.join("float.espalier")).unwrap();
    let output = &mut package.golden[0].outputs[0];
    *output = Tensor::f32(&output.shape, output.as_f32().unwrap().iter().map(|v| v * 1.5).collect());
    package.write(folder.join("altered.espalier")).unwrap();
    refused("altered.espalier", None, "golden sample 0");

    let lacking = pretender(&folder, "lacking", "exit 3");
    let output = export(&folder, "float.espalier", Some(&lacking));
    assert_eq!(report(&output)["checks"][1]["agree"], Value::Null);
    assert!(String::from_utf8_lossy(&output.stderr).contains("lacks the package onnxruntime"));
}

#[test]
fn wrong_usage_is_said() {
    let (folder, _) = packages("export-usage");
    let package = folder.join("float.espalier").to_str().unwrap().to_string();
    let before = fs::read(&package).unwrap();
    let wrong = |args: &[&str], words: &str| {
        let said = run(args);
        assert_eq!(said.status, Some(2), "{}", said.err);
        assert!(said.err.contains(words), "{} should say {words}", said.err);
    };
    wrong(&["export", &package, "--out", &package], "that is the package itself");
    wrong(&["export", "nothing.espalier", "--out", "x.onnx"], "nothing.espalier does not exist");
    wrong(&["export", &package, "--format", "tflite", "--out", "x.onnx"], "possible values: onnx");
    wrong(&["export", &package], "--out");
    assert_eq!(fs::read(&package).unwrap(), before);
}

/// ONNX Runtime itself, where it is.
#[test]
fn onnx_runtime_agrees() {
    let Some(python) = espalier_testing::python("onnxruntime") else { return };
    let (folder, _) = packages("export-onnxruntime");
    for (name, most) in [("float", 1e-5), ("int8", 0.01)] {
        let said = report(&export(&folder, &format!("{name}.espalier"), Some(Path::new(&python))));
        let check = &said["checks"][1];
        assert_eq!((&check["samples"], &check["agree"]), (&5.into(), &true.into()), "{said}");
        assert!(check["max_error"].as_f64().unwrap() < most, "{said}");
    }
}
