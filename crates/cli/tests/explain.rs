//! `espalier explain` through the binary, on a network that tells standing stripes from lying ones, wherever they are.

mod common;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{Said, fresh, run};
use espalier_graph::random::Random;
use espalier_graph::{Format, Package};
use espalier_passes::{fold_batch_norm, integers, quantize};
use espalier_runtime::Isa;
use espalier_tasks::{Image, Limits, Task, decode, image};
use espalier_train::compress::Source;
use espalier_train::explain::{Explanation, Question, explain};
use serde_json::Value;

const SIDE: usize = 32;
const BLOCK: usize = 12;

/// Grey noise with a striped block in one of four quarters; the stripes stand or lie.
fn picture(stands: bool, quarter: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed, quarter as u64);
    let inner = SIDE / 2 - BLOCK;
    let (top, left) =
        (quarter / 2 * SIDE / 2 + random.below(inner), quarter % 2 * SIDE / 2 + random.below(inner));
    let shade = |at: usize, noise: f32| {
        let (y, x) = (at / SIDE, at % SIDE);
        let is_inside = (top..top + BLOCK).contains(&y) && (left..left + BLOCK).contains(&x);
        let is_bright = if stands { x } else { y } / 2 % 2 == 0;
        let stripe = if is_bright { 80.0 } else { -80.0 };
        (128.0 + if is_inside { stripe } else { 0.0 } + 60.0 * (noise - 0.5)) as u8
    };
    let pixels = (0..SIDE * SIDE).map(|at| shade(at, random.uniform())).collect();
    let mut png = Cursor::new(Vec::new());
    image::write_png(&Image::new(SIDE, SIDE, 1, pixels).unwrap(), &mut png).unwrap();
    png.into_inner()
}

/// A folder with data and a trained package; made once.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("explain");
        for (split, n) in [("train", 160), ("val", 40)] {
            for (class, stands) in [("lying", false), ("standing", true)] {
                let to = folder.join("data").join(split).join(class);
                fs::create_dir_all(&to).unwrap();
                for i in 0..n {
                    let seed = (split.len() * 1000 + i) as u64;
                    fs::write(to.join(format!("{i}.png")), picture(stands, i % 4, seed)).unwrap();
                }
            }
        }
        let flags = "--model plain6 --width 0.25 --imgsz 32 --epochs 6 --augment none --threads 2 --json";
        let said = at(&folder, &format!("train {{}}/data --out {{}}/run {flags}"));
        assert_eq!(said.status, Some(0), "{}", said.err);
        let accuracy = last_line(&said.out)["metrics"]["accuracy"].clone();
        assert!(accuracy.as_f64().unwrap() >= 0.95, "it learned: {accuracy}");
        fs::write(folder.join("standing.png"), picture(true, 1, 77)).unwrap();
        folder
    })
}

/// Runs `line`, in which {} is `folder`.
fn at(folder: &Path, line: &str) -> Said {
    let words: Vec<String> =
        line.split_whitespace().map(|word| word.replace("{}", folder.to_str().unwrap())).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn last_line(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON on the last line")
}

fn explained(stands: bool, quarter: usize, layer: Option<&str>) -> Explanation {
    let package = Package::read(fixture().join("run/best.espalier")).unwrap();
    let Task::ClassifyImage(task) = serde_json::from_value(package.manifest.task.clone().unwrap()).unwrap()
    else {
        panic!("a classifier")
    };
    let image = decode(&picture(stands, quarter, 500 + quarter as u64), &Limits::default()).unwrap();
    let class = usize::from(stands);
    let (isa, threads) = (Isa::best(), 2);
    explain(&Question { package: &package, task: &task, image: &image, class, layer, isa, threads }).unwrap()
}

/// The share of the heat in each quarter.
fn shares(explanation: &Explanation) -> [f32; 4] {
    let mut sums = [0.0; 4];
    for at in 0..SIDE * SIDE {
        let point = [at % SIDE, at / SIDE].map(|v| (v as f64 + 0.5) / SIDE as f64);
        let quarter = usize::from(point[1] > 0.5) * 2 + usize::from(point[0] > 0.5);
        sums[quarter] += explanation.heat.at(point);
    }
    sums.map(|sum| sum / sums.iter().sum::<f32>())
}

/// The quarter with the block has the most heat, on average twice its share of the picture.
#[test]
fn the_heat_is_where_the_thing_is() {
    let mut mean = 0.0;
    for (stands, quarter) in [true, false].into_iter().flat_map(|stands| (0..4).map(move |q| (stands, q))) {
        let explanation = explained(stands, quarter, None);
        assert_eq!(explanation.heat.size, [4, 4]);
        let shares = shares(&explanation);
        let hottest = (0..4).max_by(|&a, &b| shares[a].total_cmp(&shares[b]));
        assert_eq!(hottest, Some(quarter), "standing: {stands}, in quarter {quarter}: {shares:?}");
        mean += shares[quarter] / 8.0;
    }
    assert!(mean > 0.5, "{mean} of the heat is where the block is");
}

#[test]
fn filters_and_channels_are_those_of_the_network() {
    let explanation = explained(true, 0, None);
    let filters = explanation.filters.unwrap();
    assert_eq!((filters.pictures.len(), filters.pictures[0].channels), (filters.count, 1));
    for picture in &filters.pictures {
        let extreme = picture.pixels.iter().map(|&v| (f32::from(v) - 127.5).abs()).fold(0.0, f32::max);
        assert!(extreme > 127.0, "each filter is scaled by its largest weight: {extreme}");
    }
    assert_eq!(explanation.layers.len(), 4);
    for layer in &explanation.layers {
        let means: Vec<f32> = layer.channels.iter().map(|channel| channel.mean).collect();
        assert!(means.is_sorted_by(|a, b| a >= b) && means[0] > 0.0, "{}: {means:?}", layer.name);
    }
    let areas: Vec<usize> = explanation.layers.iter().map(|layer| layer.size[0] * layer.size[1]).collect();
    assert!(areas.is_sorted_by(|a, b| a >= b) && areas[0] > areas[3], "from early to late: {areas:?}");
    let first = explanation.layers[0].name.clone();
    assert_eq!(explained(true, 0, Some(&first)).heat.size, explanation.layers[0].size);
}

#[test]
fn everything_is_written_and_nothing_written_over() {
    let line = "explain {}/run/best.espalier {}/standing.png --out {}/why --json";
    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value = last_line(&said.out);
    let predicted = last_line(&at(fixture(), "predict {}/run/best.espalier {}/standing.png --json").out);
    for key in ["label", "confidence"] {
        assert_eq!(value[key], predicted[key], "{value}");
    }
    assert_eq!(
        (&value["class"], &value["found"], &value["parent"]),
        (&"standing".into(), &true.into(), &Value::Null)
    );
    let activations = value["activations"].as_array().unwrap();
    assert_eq!(activations.len(), 4);
    let files = activations.iter().map(|layer| &layer["file"]).chain([&value["heatmap"], &value["filters"]]);
    for file in files {
        let bytes = fs::read(file.as_str().unwrap()).unwrap();
        decode(&bytes, &Limits::default()).unwrap();
    }
    let page = fs::read_to_string(value["page"].as_str().unwrap()).unwrap();
    for words in ["Why standing?", "Grad-CAM", "channel ", "data:image/png"] {
        assert!(page.contains(words), "the page says {words:?}");
    }
    assert!(!page.contains("src=\"http"), "the page loads nothing");
    let again = at(fixture(), line);
    assert_eq!(again.status, Some(2), "{}", again.out);
    assert!(again.err.contains("exists and is not empty"), "{}", again.err);
    let other =
        at(fixture(), "explain {}/run/best.espalier {}/standing.png --class lying --out {}/why-lying");
    assert_eq!(other.status, Some(0), "{}", other.err);
    assert!(other.out.contains("evidence for lying"), "{}", other.out);
    let page = fs::read_to_string(fixture().join("why-lying/explanation.html")).unwrap();
    assert!(page.contains("Not the predicted class."));
}

/// The package in int8, as `compress` writes it, whether that is faster or not.
fn quantized(path: &Path) -> Package {
    let Source { mut package, digest, .. } = Source::read(path).unwrap();
    let mut weights = package.weights.clone();
    let graph = fold_batch_norm(&package.graph, &mut weights).unwrap();
    let ranges = quantize::observed(&graph).into_iter().map(|name| (name, [-4.0, 4.0])).collect();
    let made = quantize::quantize(&graph, &weights, &ranges, &Default::default()).unwrap();
    package.weights = made.weights;
    package.graph = integers(&made.graph, &mut package.weights, &made.bytes).unwrap();
    package.weights.retain(|name, _| package.graph.find(name).is_some());
    package.manifest.format = Format::of(&package.graph);
    package.manifest.network = None;
    package.manifest.lineage.parent = Some(digest);
    package.golden.clear();
    package.reference.clear();
    package
}

#[test]
fn integers_are_seen_through_their_parent() {
    fs::create_dir_all(fixture().join("apart")).unwrap();
    quantized(&fixture().join("run/best.espalier")).write(fixture().join("apart/small.espalier")).unwrap();
    let explain = |flags: &str| {
        at(fixture(), &format!("explain {{}}/apart/small.espalier {{}}/standing.png --json {flags}"))
    };
    let alone = explain("--out {}/int8-alone");
    assert_eq!(alone.status, Some(2), "{}", alone.out);
    assert!(alone.err.contains("SHA-256") && alone.err.contains("--parent FILE"), "{}", alone.err);
    assert!(!fixture().join("int8-alone").exists());
    let given = explain("--out {}/int8-given --parent {}/run/best.espalier");
    assert_eq!(given.status, Some(0), "{}", given.err);
    let value = last_line(&given.out);
    assert!(value["parent"]["file"].as_str().unwrap().ends_with("run/best.espalier"), "{value}");
    let page = fs::read_to_string(fixture().join("int8-given/explanation.html")).unwrap();
    assert!(page.contains("Seen through the float parent."));
    let wrong = explain("--out {}/int8-wrong --parent {}/apart/small.espalier");
    assert_eq!(wrong.status, Some(2), "{}", wrong.out);
    assert!(wrong.err.contains("was not made of it"), "{}", wrong.err);
    fs::copy(fixture().join("run/best.espalier"), fixture().join("apart/any-name.espalier")).unwrap();
    let found = explain("--out {}/int8-found");
    assert_eq!(found.status, Some(0), "{}", found.err);
    assert!(last_line(&found.out)["parent"]["file"].as_str().unwrap().ends_with("any-name.espalier"));
}

fn check_refused(line: &str, status: i32, want: &str) {
    let said = at(fixture(), &format!("explain {line} --out {{}}/refused"));
    assert_eq!(said.status, Some(status), "{line}: {}", said.err);
    assert!(said.err.contains(want), "{line}: {:?} should say {want:?}", said.err);
    assert!(!fixture().join("refused").exists(), "{line} wrote something");
}

#[test]
fn wrong_uses_are_refused() {
    let folder = fixture();
    fs::write(folder.join("text.png"), "no picture").unwrap();
    let mut detector = Package::read(folder.join("run/best.espalier")).unwrap();
    let detect =
        espalier_tasks::Detect::new(espalier_tasks::Head::Yolov8, [SIDE, SIDE], vec!["thing".into()]);
    detector.manifest.task = Some(serde_json::to_value(Task::Detect(detect)).unwrap());
    detector.golden.clear();
    detector.write(folder.join("detector.espalier")).unwrap();
    let float = "{}/run/best.espalier";
    for (line, status, want) in [
        ("FLOAT {}/text.png", 1, "text.png: not an image"),
        ("FLOAT {}/none.png", 2, "none.png: there is no such file"),
        ("{}/none.espalier {}/standing.png", 2, "does not exist"),
        ("{}/detector.espalier {}/standing.png", 1, "its task is detect; explain supports classifiers"),
        ("FLOAT {}/standing.png --class grey", 2, "--class grey: the classes are lying, standing"),
        (
            "FLOAT {}/standing.png --layer attic",
            2,
            "layer `attic`: there is no such layer; layers with maps are",
        ),
        ("FLOAT {}/standing.png --parent {}/run/best.espalier", 2, "computes with floats itself"),
        ("FLOAT", 2, "<FILE>"),
    ] {
        check_refused(&line.replace("FLOAT", float), status, want);
    }
}
