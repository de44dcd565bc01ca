//! `--engine onnxruntime` through the real binary: the answers of our own runtime, and errors that say what to do.

mod common;
#[path = "common/detector.rs"]
mod detector;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{Said, espalier, fresh, pictures, run};
use detector::detector;
use espalier_tasks::Image;
use espalier_tasks::image::write_png;
use serde_json::Value;

/// A folder with a detector, a classifier and pictures for both.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("engines");
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let names = ("names", "{0: 'red', 1: 'green'}");
        let said = [("task", "detect"), names, ("imgsz", "[8, 8]"), ("stride", "8")];
        std::fs::write(at("detector.onnx"), detector(&[1, 3, 0, 0], &[6, 2], &said)).unwrap();
        done(&run(&["import", &at("detector.onnx"), "--out", &at("detector.espalier")]));
        let mut red = Vec::new();
        write_png(&Image::new(16, 12, 3, [250, 3, 0].repeat(16 * 12)).unwrap(), &mut red).unwrap();
        std::fs::write(at("red.png"), red).unwrap();
        for class in ["left", "right"] {
            pictures(&folder.join("data/train"), class, 24);
            pictures(&folder.join("data/val"), class, 6);
        }
        let train = ["--model", "lenet", "--epochs", "1", "--batch", "16", "--threads", "1", "--out"];
        done(&run(&[&["train", &at("data")], &train[..], &[&at("run")]].concat()));
        folder
    })
}

fn done(said: &Said) -> &Said {
    assert_eq!(said.status, Some(0), "{}{}", said.out, said.err);
    said
}

fn at(name: &str) -> String {
    fixture().join(name).to_str().unwrap().to_owned()
}

/// What a command says with our own runtime and with ONNX Runtime, as JSON.
fn both(library: &Path, args: &[&str]) -> [Value; 2] {
    let library = library.to_str().unwrap();
    let engine = ["--json", "--engine", "onnxruntime", "--provider", "cpu", "--engine-library", library];
    [&["--json"][..], &engine].map(|flags| {
        let said = run(&[args, flags].concat());
        serde_json::from_str(done(&said).out.lines().last().unwrap()).unwrap()
    })
}

/// Numbers that are near, the rest alike.
fn assert_near(own: &Value, other: &Value, within: f64) {
    match (own, other) {
        (Value::Number(a), Value::Number(b)) => {
            let [a, b] = [a, b].map(|v| v.as_f64().unwrap());
            assert!((a - b).abs() <= within, "{a} and {b}");
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| assert_near(a, b, within));
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().for_each(|(key, a)| assert_near(a, &b[key], within));
        }
        (a, b) => assert_eq!(a, b),
    }
}

#[test]
fn classifiers_and_detectors_answer_alike() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (classifier, detector) = (at("run/best.espalier"), at("detector.espalier"));
    let [own, other] = both(&library, &["predict", &detector, &at("red.png")]);
    assert_eq!(own["boxes"][0]["label"], "red", "{own}");
    assert_near(&own, &other, 0.02);
    let [own, other] = both(&library, &["predict", &classifier, &at("data/val/left/0.bmp")]);
    assert_near(&own, &other, 1e-3);
    let [own, other] = both(&library, &["val", &classifier, &at("data")]);
    assert_eq!(own["confusion"], other["confusion"]);
    assert_near(&own["metrics"], &other["metrics"], 1e-3);
}

#[test]
fn a_stream_says_what_computes_it() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (package, source) = (at("run/best.espalier"), at("data/val/left"));
    let library = library.to_str().unwrap();
    let args = [
        "run",
        &package,
        "--source",
        &source,
        "--json",
        "--engine",
        "onnxruntime",
        "--engine-library",
        library,
    ];
    let said = run(&args);
    assert_eq!(done(&said).out.lines().count(), 6, "{}", said.out);
    assert!(said.err.contains("computed by onnxruntime 1.") && said.err.contains("(cpu "), "{}", said.err);
}

#[test]
fn benchmark_and_inspect_name_engine_and_providers() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let package = at("run/best.espalier");
    let [own, other] = both(&library, &["benchmark", &package, "--runs", "3"]);
    assert_eq!((&own["engine"], &other["engine"]), (&"espalier".into(), &"onnxruntime".into()));
    assert_eq!(other["engine_placements"][0]["provider"], "cpu", "{other}");
    assert!(other["p50_ms"].as_f64().unwrap() > 0.0 && other["energy_mj"].is_null(), "{other}");
    let [own, other] = both(&library, &["inspect", &package]);
    assert!(own["plan"].is_object() && own["engine"].is_null(), "{own}");
    assert!(other["engine"]["library"].as_str().unwrap().contains("libonnxruntime"), "{other}");
    assert!(other["engine"]["placements"][0]["nodes"].as_u64().unwrap() > 3, "{other}");
}

/// Without a library, on every machine: flags and paths are named.
#[test]
fn what_is_wrong_is_said() {
    let check = |args: &[&str], variable: &str, status: i32, wants: &[&str]| {
        let package = at("run/best.espalier");
        let picture = at("data/val/left/0.bmp");
        let mut command = espalier(&[&["predict", &package, &picture][..], args].concat());
        let output = command.env("ORT_DYLIB_PATH", variable).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        wants.iter().for_each(|want| assert!(text.contains(want), "{args:?}: {text} lacks {want}"));
    };
    let onnxruntime = ["--engine", "onnxruntime"];
    let with = |more: &[&'static str]| [&onnxruntime[..], more].concat();
    let missing =
        &["tried /nowhere/lib.so", "No such file", "install ONNX Runtime 1.17 or newer", "pip install"];
    check(&onnxruntime, "/nowhere/lib.so", 1, missing);
    check(&with(&["--engine-library", "/nowhere/lib.so"]), "/elsewhere", 1, missing);
    check(&with(&["--engine-library", file!()]), "", 1, &["tried"]);
    check(&["--provider", "cpu"], "", 2, &["--provider and --engine-library are for --engine onnxruntime"]);
    check(&with(&["--isa", "scalar"]), "", 2, &["--isa is for --engine espalier"]);
    check(
        &with(&["--provider", "npu"]),
        "",
        2,
        &["one of cpu, openvino, cuda, tensorrt, qnn, coreml, xnnpack"],
    );
    check(&with(&["--provider", "cpu,cuda"]), "", 2, &["name `cpu` last"]);
    let [package, out] = [at("run/best.espalier"), at("out")];
    let said = run(&["run", &package, "--input", "x=x.npy", "--out", &out, "--engine", "onnxruntime"]);
    assert_eq!(
        (said.status, said.err.contains("--input is for --engine espalier")),
        (Some(2), true),
        "{}",
        said.err
    );
}
