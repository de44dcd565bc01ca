//! Detectors through the real binary: imported, asked, measured, drawn.

mod common;
#[path = "common/detector.rs"]
mod detector;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{Said, fresh, run};
use detector::detector;
use espalier_tasks::image::{Limits, decode, write_png};
use espalier_tasks::{Detect, Head, Image, Task};
use serde_json::{Value, json};

fn picture(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
    let image = Image::new(width, height, 3, colour.repeat(width * height)).unwrap();
    let mut bytes = Vec::new();
    write_png(&image, &mut bytes).unwrap();
    bytes
}

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const COCO: &str = r#"{"categories": [{"id": 5, "name": "green"}, {"id": 2, "name": "red"}, {"id": 9, "name": "never"}],
    "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 16}, {"id": 2, "file_name": "b.png", "width": 16, "height": 16}],
    "annotations": [{"image_id": 1, "category_id": 2, "bbox": [4, 4, 8, 8]}, {"image_id": 2, "category_id": 5, "bbox": [10, 2, 4, 4]}]}"#;

fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("detect");
        let save = |name: &str, bytes: &[u8]| {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        };
        let named = ("names", "{0: 'red', 1: 'green'}");
        let said = [("task", "detect"), named, ("imgsz", "[8, 8]"), ("stride", "8")];
        save("said.onnx", &detector(&[1, 3, 0, 0], &[6, 2], &said));
        save("nameless.onnx", &detector(&[1, 3, 8, 8], &[6, 2], &[("task", "detect")]));
        save("plain.onnx", &detector(&[1, 3, 8, 8], &[6, 2], &[]));
        save("either.onnx", &detector(&[1, 3, 8, 8], &[6, 7], &[]));
        save("yolov5.onnx", &detector(&[1, 3, 8, 8], &[2, 7], &[named, ("stride", "8")]));
        save("two.txt", b"red\ngreen\n");
        save("three.txt", b"red\ngreen\nblue\n");
        save("red.png", &picture(16, 16, RED));
        save("wide.png", &picture(16, 8, RED));
        save("other/red.png", &picture(16, 16, GREEN));
        save("black.png", &picture(9, 9, [0; 3]));
        for (set, labels) in [("data", "0 0.5 0.5 0.5 0.5\n"), ("torn", "0 0.5 0.5 0.5 0.5\n0 half\n")] {
            save(
                &format!("{set}/data.yaml"),
                b"train: images/train\nval: images/val\nnames: [red, green, never]\n",
            );
            save(&format!("{set}/images/val/a.png"), &picture(16, 16, RED));
            save(&format!("{set}/images/val/b.png"), &picture(16, 16, GREEN));
            save(&format!("{set}/labels/val/a.txt"), labels.as_bytes());
            save(&format!("{set}/labels/val/b.txt"), b"1 0.75 0.25 0.25 0.25\n");
            save(&format!("{set}/images/train/bare.png"), &picture(16, 16, RED));
        }
        let others = b"path: ../data\nval: images/val\nnames:\n  0: lorry\n  1: green\n";
        save("others/data.yaml", others);
        save("coco/annotations/instances_val2017.json", COCO.as_bytes());
        save("coco/val2017/a.png", &picture(16, 16, RED));
        save("coco/val2017/b.png", &picture(16, 16, GREEN));
        save("photos/val/red/a.png", &picture(16, 16, RED));
        import(&folder);
        folder
    })
}

fn import(folder: &Path) {
    let [from, to] = ["said.onnx", "said.espalier"].map(|name| folder.join(name).display().to_string());
    let said = run(&["import", &from, "--out", &to, "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let words = "detect: head yolov8, 2 classes; pictures letterboxed to 8x8, RGB, mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0]";
    assert!(said.err.contains(words), "{}", said.err);
    let value: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&value["task"], &value["golden"]), (&"detect".into(), &4.into()));
}

fn at(line: &str) -> Said {
    let folder = fixture().to_str().unwrap();
    let words: Vec<String> = line.split_whitespace().map(|word| word.replace("{}", folder)).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn jsons(line: &str) -> Vec<Value> {
    let said = at(line);
    assert_eq!(said.status, Some(0), "{line}: {}", said.err);
    said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn boxes_are_in_pixels_of_the_picture() {
    let answers = jsons("predict {}/said.espalier {}/red.png {}/wide.png {}/black.png --json");
    let sure = json!([{"label": "red", "confidence": 1.0, "box": [4.0, 4.0, 12.0, 12.0]}]);
    assert_eq!(answers[0]["boxes"], sure);
    // Half of the input is the margin's grey, which is red as well, but not enough green.
    assert_eq!(answers[1]["boxes"][0]["box"], json!([4.0, 0.0, 12.0, 8.0]));
    assert_eq!(answers[1]["boxes"].as_array().unwrap().len(), 1);
    assert_eq!(answers[2]["boxes"], json!([]));
    let said = at("predict {}/said.espalier {}/red.png {}/black.png");
    assert!(said.out.contains("red.png  red 100.0 % at 4,4 to 12,12\n"), "{}", said.out);
    assert!(said.out.contains("black.png  nothing found\n"), "{}", said.out);
}

#[test]
fn answers_are_drawn() {
    jsons("predict {}/said.espalier {}/red.png {}/other/red.png --draw {}/drawn --json");
    let [red, green] = ["drawn/red.png", "drawn/red-2.png"]
        .map(|name| decode(&fs::read(fixture().join(name)).unwrap(), &Limits::default()).unwrap());
    let pixel = |image: &Image, x: usize, y: usize| image.pixels[(y * 16 + x) * 3..][..3].to_vec();
    assert_eq!((red.width, red.height, pixel(&red, 0, 0)), (16, 16, RED.to_vec()));
    assert_ne!(pixel(&red, 11, 11), RED, "the corner of the box");
    assert_eq!(pixel(&green, 5, 0), GREEN);
    let said = at("predict {}/said.espalier {}/red.png --draw {}");
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("would write over it"), "{}", said.err);
}

#[test]
fn both_kinds_of_labels_give_the_same_metrics() {
    for data in ["data", "data/data.yaml", "coco", "coco/annotations/instances_val2017.json"] {
        let value = jsons(&format!("val {{}}/said.espalier {{}}/{data} --json")).remove(0);
        assert_eq!((&value["n"], &value["metric"]), (&2.into(), &"mAP50-95".into()), "{data}");
        assert_eq!(value["metrics"], json!({"mAP50": 1.0, "mAP50-95": 1.0}), "{data}");
        let row = |label: &str| json!({"label": label, "n": 1, "AP50": 1.0, "AP50-95": 1.0});
        assert_eq!(value["per_class"], json!([row("red"), row("green")]), "{data}");
        assert!(value.get("confusion").is_none());
    }
    let said = at("val {}/said.espalier {}/data");
    assert!(said.out.starts_with("2 images: mAP50 1.000, mAP50-95 1.000\n\nlabel"), "{}", said.out);
}

#[test]
fn heads_are_told_by_their_outputs() {
    let task = |line: &str| {
        let said = at(&format!("{line} --out {{}}/made.espalier"));
        assert_eq!(said.status, Some(0), "{line}: {}", said.err);
        let package = espalier_graph::Package::read(fixture().join("made.espalier")).unwrap();
        package.manifest.task.map(|task| serde_json::from_value::<Task>(task).unwrap())
    };
    let detect = |line: &str| match task(line) {
        Some(Task::Detect(task)) => task,
        other => panic!("{line}: {other:?}"),
    };
    let labels = ["red", "green"].map(String::from).to_vec();
    let usual = Detect::new(Head::Yolov8, [8, 8], labels.clone());
    assert_eq!(detect("import {}/plain.onnx --task detect --labels {}/two.txt"), usual);
    assert_eq!(detect("import {}/either.onnx --head yolov8 --labels {}/two.txt"), usual);
    assert_eq!(detect("import {}/yolov5.onnx"), Detect::new(Head::Yolov5, [8, 8], labels));
    let flags = "--confidence 0.5 --iou 0.6 --bgr --fit stretch --mean 0.5 --std 0.25";
    let other = detect(&format!("import {{}}/said.onnx {flags}"));
    assert_eq!((other.confidence, other.iou, other.input.bgr), (0.5, 0.6, true));
    assert_eq!((other.input.mean, other.input.std), (vec![0.5; 3], vec![0.25; 3]));
    assert_eq!(task("import {}/said.onnx --task raw"), None);
    assert_eq!(task("import {}/plain.onnx"), None);
}

#[test]
fn wrong_uses_are_refused() {
    let new = "--out {}/new.espalier";
    let table = [
        (format!("import {{}}/nameless.onnx {new}"), 2, "--labels FILE is needed"),
        (format!("import {{}}/plain.onnx --task detect {new}"), 2, "--labels FILE is needed"),
        (
            format!("import {{}}/plain.onnx --task detect --labels {{}}/three.txt {new}"),
            2,
            "yolov8 one of shape [1, 7, A]",
        ),
        (
            format!("import {{}}/plain.onnx --head fastestdet --labels {{}}/two.txt {new}"),
            2,
            "one of shape [1, 7, 0, 0]",
        ),
        (
            format!("import {{}}/either.onnx --task detect --labels {{}}/two.txt {new}"),
            2,
            "yolov5 or yolov8: add --head",
        ),
        (format!("import {{}}/plain.onnx --head rcnn {new}"), 2, "'rcnn'"),
        (format!("import {{}}/plain.onnx --iou 0.5 {new}"), 2, "--iou belongs to detectors"),
        (format!("import {{}}/said.onnx --iou 2 {new}"), 2, "iou is 2, must be 0 to 1"),
        ("val {}/said.espalier {}/torn".into(), 1, "torn/labels/val/a.txt: line 2: \"half\" is no number"),
        ("val {}/said.espalier {}/data --split train".into(), 1, "would be"),
        ("val {}/said.espalier {}/data --split test".into(), 2, "has no test split"),
        ("val {}/said.espalier {}/others".into(), 1, "\"lorry\""),
        ("val {}/said.espalier {}/photos".into(), 2, "holds no boxes"),
        ("val {}/said.espalier {}/none".into(), 2, "does not exist"),
        ("train {}/data --out {}/new".into(), 2, "holds boxes (YOLO labels)"),
        ("train {}/coco --out {}/new".into(), 2, "holds boxes (COCO labels)"),
        ("data {}/data".into(), 2, "holds boxes"),
        (
            "train builtin:mnist-5k --init {}/said.espalier --out {}/new".into(),
            1,
            "the package's task is detect",
        ),
    ];
    for (line, status, words) in table {
        let said = at(&line);
        assert_eq!(said.status, Some(status), "{line}: {}", said.err);
        assert!(said.err.contains(words), "{line}: {:?} should say {words:?}", said.err);
        assert!(!said.err.contains("panicked") && said.out.is_empty(), "{line}: {}{}", said.err, said.out);
        assert!(
            !fixture().join("new.espalier").exists() && !fixture().join("new").exists(),
            "{line} left a file"
        );
    }
}

/// What its authors report for these pictures is 0.338 (onnx-models/README.md).
#[test]
fn fastestdet_is_as_good_as_its_authors_say() {
    let Some((models, coco)) = espalier_testing::data("onnx-models").zip(espalier_testing::data("coco128"))
    else {
        return;
    };
    let folder = fresh("fastestdet");
    let [models, coco, folder] = [models, coco, folder].map(|path| path.display().to_string());
    let (onnx, package) =
        (format!("{models}/fastestdet/FastestDet.onnx"), format!("{folder}/fastestdet.espalier"));
    let names = format!("{models}/fastestdet/coco.names");
    let said = run(&["import", &onnx, "--out", &package, "--task", "detect", "--labels", &names]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let said = run(&["val", &package, &coco, "--split", "val", "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["n"], 128);
    assert!(value["metrics"]["mAP50"].as_f64().unwrap() >= 0.335, "{}", value["metrics"]);
}
