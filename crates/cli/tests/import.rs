//! `espalier import` through the real binary: what it writes answers, wrong uses end with their status and one sentence.

#[path = "../../onnx/tests/common/build.rs"]
mod build;
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use build::{Message, int_attribute, message, model, node, tensor, value};
use common::{Said, fresh, picture, run};
use espalier_graph::Package;
use serde_json::Value;

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    tensor(name, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// The mean of each channel, three logits of them, and softmax.
fn classifier(input: &[i64], metadata: &[(&str, &str)]) -> Vec<u8> {
    let gemm = node("Gemm", &["m", "fc.weight", "fc.bias"], &["l"]).message(5, int_attribute("transB", 1));
    let nodes = [
        node("GlobalAveragePool", &["x"], &["p"]),
        node("Flatten", &["p"], &["m"]),
        gemm,
        node("Softmax", &["l"], &["y"]),
    ];
    let weight = floats("fc.weight", &[3, 3], &[9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0]);
    let bias = floats("fc.bias", &[3], &[0.0, 0.25, 0.5]);
    let graph = nodes.iter().fold(message(), |m, node| m.message(1, node.clone()));
    let graph = graph.message(5, weight).message(5, bias);
    let graph = graph.message(11, value("x", input)).message(12, value("y", &[1, 3]));
    metadata.iter().fold(Message(model(graph)), |m, (k, v)| m.message(14, message().text(1, k).text(2, v))).0
}

/// Bytes through hard sigmoid, which is a table, and their mean, which becomes bytes; softmax stays float.
fn quantized() -> Vec<u8> {
    let round = |x: &str, q: &str, y: &str| {
        [node("QuantizeLinear", &[x, "s"], &[q]), node("DequantizeLinear", &[q, "s"], &[y])]
    };
    let mut nodes = round("x", "q", "d").to_vec();
    nodes.push(node("HardSigmoid", &["d"], &["h"]));
    nodes.extend(round("h", "i", "e"));
    nodes.push(node("GlobalAveragePool", &["e"], &["p"]));
    nodes.extend(round("p", "j", "f"));
    nodes.push(node("Softmax", &["f"], &["y"]).message(5, int_attribute("axis", 1)));
    let graph = nodes.iter().fold(message(), |m, node| m.message(1, node.clone()));
    let graph = graph.message(5, floats("s", &[], &[0.01]));
    model(graph.message(11, value("x", &[1, 3, 4, 4])).message(12, value("y", &[1, 3, 1, 1])))
}

fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("import");
        let save = |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), bytes).unwrap();
        save("plain.onnx", classifier(&[1, 3, 8, 8], &[]));
        save("open.onnx", classifier(&[0, 3, 0, 0], &[]));
        let said = [
            ("task", "classify"),
            ("names", "{0: 'red', 1: 'green', 2: 'blue'}"),
            ("imgsz", "[8, 8]"),
            ("stride", "1"),
        ];
        save("said.onnx", classifier(&[1, 3, 8, 8], &said));
        save("quantized.onnx", quantized());
        save("segment.onnx", classifier(&[1, 3, 8, 8], &[("task", "segment")]));
        save("torn.onnx", classifier(&[1, 3, 8, 8], &[])[..80].to_vec());
        save("labels.txt", b"red\ngreen\nblue\n".to_vec());
        save("two.txt", b"red\ngreen\n".to_vec());
        save("hole.txt", b"red\n\nblue\n".to_vec());
        save("picture.bmp", picture(16, "left", 1));
        folder
    })
}

fn at(line: &str) -> Said {
    let folder = fixture().to_str().unwrap();
    let words: Vec<String> = line.split_whitespace().map(|word| word.replace("{}", folder)).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn json(line: &str) -> (Value, String) {
    let said = at(line);
    assert_eq!(said.status, Some(0), "{line}: {}", said.err);
    (serde_json::from_str(said.out.lines().last().expect("an answer")).expect("JSON"), said.err)
}

fn package(name: &str) -> Package {
    Package::read(fixture().join(name)).unwrap()
}

#[test]
fn raw_tensors_go_in_and_out() {
    let (value, err) = json("import {}/plain.onnx --out {}/raw.espalier --json");
    assert!(err.is_empty(), "{err}");
    assert_eq!((&value["opset"], &value["nodes"], &value["golden"]), (&13.into(), &4.into(), &1.into()));
    assert_eq!(value["inputs"][0]["type"], "f32[N,3,8,8]");
    assert_eq!(value["outputs"][0], serde_json::json!({"name": "y", "type": "f32[N,3]"}));
    assert_eq!(value["parameters"], 12);
    let raw = package("raw.espalier");
    assert!(raw.manifest.task.is_none() && raw.manifest.lineage.parent.is_some());
    json("benchmark {}/raw.espalier --runs 1 --json");
    json("inspect {}/raw.espalier --json");

    let x = npyz_bytes(&[1, 3, 8, 8], &vec![0.5; 3 * 64]);
    fs::write(fixture().join("x.npy"), x).unwrap();
    json("run {}/raw.espalier --input x={}/x.npy --out {}/answers --json");
    let bytes = fs::read(fixture().join("answers/y.npy")).unwrap();
    let y = npyz::NpyFile::new(&bytes[..]).unwrap().into_vec::<f32>().unwrap();
    let exp: Vec<f32> = [0.0f32, 0.25, 0.5].iter().map(|v| v.exp()).collect();
    for (got, want) in y.iter().zip(&exp) {
        assert!((got - want / exp.iter().sum::<f32>()).abs() < 1e-6, "{y:?}");
    }

    // The same file gives the same bytes.
    json("import {}/plain.onnx --out {}/again.espalier --json");
    let read = |name: &str| fs::read(fixture().join(name)).unwrap();
    assert_eq!(read("raw.espalier"), read("again.espalier"));
}

#[test]
fn a_quantized_network_says_what_stays_float() {
    let (value, err) = json("import {}/quantized.onnx --out {}/quantized.espalier --json");
    assert_eq!(value["integer_operators"], 2);
    let reason = "there is no op of integers for it";
    let float = serde_json::json!([{"name": "y", "op": "Softmax", "reason": reason}]);
    assert_eq!(value["float_operators"], float);
    assert!(
        err.contains("2 operators compute with integers, 1 with floats:\n  y (Softmax): there is no op"),
        "{err}"
    );
    assert_eq!(package("quantized.espalier").manifest.format.requires, ["int8"]);

    fs::write(fixture().join("q.npy"), npyz_bytes(&[1, 3, 4, 4], &[0.5; 3 * 16])).unwrap();
    json("run {}/quantized.espalier --input x={}/q.npy --out {}/bytes --json");
    json("inspect {}/quantized.espalier --json");
    json("benchmark {}/quantized.espalier --runs 1 --json");
    let y = fs::read(fixture().join("bytes/y.npy")).unwrap();
    let y = npyz::NpyFile::new(&y[..]).unwrap();
    let third = |y: f32| (y - 1.0 / 3.0).abs() < 1e-6;
    assert!(y.into_vec::<f32>().unwrap().into_iter().all(third));
}

fn npyz_bytes(shape: &[u64], data: &[f32]) -> Vec<u8> {
    use npyz::WriterBuilder;
    let mut bytes = Vec::new();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(data.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A machine that answers differently refuses the package.
#[test]
fn a_raw_package_is_tried_before_it_runs() {
    json("import {}/plain.onnx --out {}/other.espalier --json");
    let mut other = package("other.espalier");
    if let espalier_graph::Data::F32(v) = &mut other.golden[0].outputs[0].data {
        v[1] += 0.1;
    }
    other.write(fixture().join("other.espalier")).unwrap();
    fs::write(fixture().join("other.npy"), npyz_bytes(&[1, 3, 8, 8], &[0.5; 3 * 64])).unwrap();
    let said = at("run {}/other.espalier --input x={}/other.npy --out {}/no-answers");
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("golden sample 0: element 1 of output 0"), "{}", said.err);
}

#[test]
fn a_classifier_answers() {
    let flags = "--task classify-image --labels {}/labels.txt --mean 0 --std 1 --fit stretch";
    let (value, _) =
        json(&format!("import {{}}/open.onnx --out {{}}/open.espalier --imgsz 8x10 {flags} --json"));
    assert_eq!((&value["task"], &value["golden"]), (&"classify-image".into(), &4.into()));
    assert_eq!(value["inputs"][0]["type"], "f32[N,3,8,10]");
    // Softmax is the answer's business.
    assert!(!package("open.espalier").graph.to_string().contains("Softmax"));
    let (answer, _) = json("predict {}/open.espalier {}/picture.bmp --json");
    let blue_first =
        format!("import {{}}/open.onnx --out {{}}/bgr.espalier --imgsz 8x10 --bgr {flags} --json");
    json(&blue_first);
    let (other, _) = json("predict {}/bgr.espalier {}/picture.bmp --json");
    assert_ne!(answer["scores"], other["scores"]);

    let (value, err) = json("import {}/said.onnx --out {}/said.espalier --json");
    let no_statistics = "there are no reference statistics, so devices cannot tell drift: --data DATA takes them of the val split\n";
    assert_eq!((&value["task"], err.as_str()), (&"classify-image".into(), no_statistics));
    let (answer, _) = json("predict {}/said.espalier {}/picture.bmp --json");
    let names: Vec<&String> = answer["scores"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["blue", "green", "red"]);
    let (value, err) = json("import {}/segment.onnx --out {}/segment.espalier --json");
    assert!(value["task"].is_null() && err.contains("its task is \"segment\""), "{err}");
}

#[test]
fn wrong_uses_are_refused() {
    let task = "--task classify-image --labels {}/labels.txt --mean 0 --std 1";
    let plain = "import {}/plain.onnx --out {}/new.espalier";
    let table = [
        ("import {}/none.onnx --out {}/new.espalier", 2, "does not exist"),
        ("import {}/plain.onnx", 2, "--out"),
        ("import {}/torn.onnx --out {}/new.espalier", 1, "torn.onnx: not a valid ONNX model"),
        ("import {}/labels.txt --out {}/new.espalier", 1, "not a valid ONNX model"),
        ("import {}/open.onnx --out {}/new.espalier", 2, "give height and width with --imgsz"),
        (&format!("{plain} --imgsz 9"), 2, "is 8x8, --imgsz says 9x9"),
        (&format!("{plain} --imgsz 0"), 2, "it should be like 224"),
        (&format!("{plain} --task sing"), 2, "[possible values: classify-image, detect, raw]"),
        (&format!("{plain} --mean 0"), 2, "--mean belongs to a task"),
        (&format!("{plain} --bgr"), 2, "--bgr belongs to a task"),
        (&format!("{plain} --task classify-image"), 2, "--labels FILE is needed"),
        (&format!("{plain} --task classify-image --labels {{}}/labels.txt"), 2, "--mean is needed"),
        (&format!("{plain} {task} --set mean=dark"), 2, "--mean: it should be one number or 3"),
        (&format!("{plain} {task} --set std=1,2"), 2, "--std: it should be one number or 3"),
        (&format!("{plain} {task} --set std=0"), 2, "must be above 0"),
        (&format!("{plain} {task} --set labels={{}}/two.txt"), 1, "2 labels need one output of 2 numbers"),
        (&format!("{plain} {task} --set labels={{}}/hole.txt"), 2, "line 2 is empty"),
        (&format!("{plain} {task} --set labels={{}}/none.txt"), 2, "none.txt"),
        ("import {}/plain.onnx --out {}/none/new.espalier", 1, "none/new.espalier"),
    ];
    for (line, status, words) in table {
        let said = at(line);
        assert_eq!(said.status, Some(status), "{line}: {}", said.err);
        assert!(said.err.contains(words), "{line}: {:?} should say {words:?}", said.err);
        assert!(!said.err.contains("panicked") && said.out.is_empty(), "{line}: {}{}", said.err, said.out);
        assert!(!fixture().join("new.espalier").exists(), "{line} left a file");
    }
}
