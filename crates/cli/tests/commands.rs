//! Every command through the real binary: wrong uses end with their status and one sentence, right ones print what the
//! command line promises.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{Said, fresh, picture, pictures, run};
use espalier_graph::package::Format;
use espalier_graph::{Bindings, DType, Data, Graph, Manifest, Package, Tensor, Weights};
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Limits, Task, decode};
use serde_json::Value;

/// A folder with data, one trained package, and files with faults; made once.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("commands");
        for (split, n) in [("train", 48), ("val", 8)] {
            ["left", "right", "low"]
                .iter()
                .for_each(|class| pictures(&folder.join("data").join(split), class, n));
        }
        faulty_data(&folder);
        // Left and right would be one class if pictures were mirrored.
        let flags = "--model lenet --epochs 4 --batch 16 --threads 2 --no-flip --json";
        let said = at(&folder, &format!("train {{}}/data --out {{}}/run {flags}"));
        assert_eq!(said.status, Some(0), "{}", said.err);
        fs::write(folder.join("train.json"), said.out).unwrap();
        faulty_packages(&folder);
        arrays(&folder);
        folder
    })
}

fn faulty_data(folder: &Path) {
    pictures(&folder.join("strangers/val"), "above", 3);
    pictures(&folder.join("gap/train"), "left", 4);
    pictures(&folder.join("single"), "left", 30);
    pictures(&folder.join("lonely/train"), "left", 1);
    pictures(&folder.join("lonely/val"), "left", 1);
    fs::create_dir_all(folder.join("gap/train/nobody")).unwrap();
    fs::create_dir_all(folder.join("formless")).unwrap();
    fs::write(folder.join("formless/notes.txt"), "nothing to learn").unwrap();
    fs::write(folder.join("bad.png"), "no picture").unwrap();
    fs::write(folder.join("large.bmp"), picture(40, "left", 1)).unwrap();
    fs::write(folder.join("unknown.toml"), "colour = \"blue\"\n").unwrap();
    fs::write(folder.join("broken.toml"), "epochs = \n").unwrap();
    fs::write(folder.join("list.toml"), "epochs = [1, 2]\n").unwrap();
}

fn faulty_packages(folder: &Path) {
    let bytes = fs::read(folder.join("run/best.espalier")).unwrap();
    fs::write(folder.join("cut.espalier"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(folder.join("text.espalier"), "{}").unwrap();
}

/// x.npy is what `large.bmp` becomes by the package's pre-processing.
fn arrays(folder: &Path) {
    let image = decode(&fs::read(folder.join("large.bmp")).unwrap(), &Limits::default()).unwrap();
    let task = task(folder);
    let mut x = vec![0.0f32; 3 * 16 * 16];
    task.input.preprocess(&image, &mut x).unwrap();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let save = |name: &str, descr: &str, fortran: &str, shape: &str, bytes: &[u8]| {
        fs::write(folder.join(name), npy(descr, fortran, shape, bytes)).unwrap();
    };
    save("x.npy", "<f4", "False", "1, 3, 16, 16", &bytes);
    save("shape.npy", "<f4", "False", "1, 3, 16, 8", &bytes[..bytes.len() / 2]);
    save("fortran.npy", "<f4", "True", "1, 3, 16, 16", &bytes);
    save("int64.npy", "<i8", "False", "1, 3, 16, 16", &[0; 3 * 16 * 16 * 8]);
    save("int32.npy", "<i4", "False", "1, 3, 16, 16", &bytes);
    save("short.npy", "<f4", "False", "1, 3, 16, 16", &bytes[..100]);
}

fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}");
    let padded = format!("{header:117}\n");
    let length = (padded.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], padded.as_bytes(), data].concat()
}

fn task(folder: &Path) -> ClassifyImage {
    let package = Package::read(folder.join("run/best.espalier")).unwrap();
    let task = serde_json::from_value(package.manifest.task.unwrap()).unwrap();
    let Task::ClassifyImage(task) = task else { panic!("{task:?} is no classifier") };
    task
}

/// Runs `line`, in which {} is the fixture's folder.
fn at(folder: &Path, line: &str) -> Said {
    let words: Vec<String> =
        line.split_whitespace().map(|word| word.replace("{}", folder.to_str().unwrap())).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs `line`, which must succeed, and gives the last line of stdout.
fn json(line: &str) -> Value {
    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{line}: {}", said.err);
    last_line(&said.out)
}

fn last_line(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON on the last line")
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn check_keys(value: &Value, wanted: &str) {
    let lacking: Vec<&str> = wanted.split(' ').filter(|key| !keys(value).contains(key)).collect();
    assert!(lacking.is_empty(), "{lacking:?} are not in {value}");
}

/// `line` ends with `status`, and one sentence that says `words`.
fn check_wrong(line: &str, status: i32, words: &str) {
    let said = at(fixture(), line);
    let err = &said.err;
    assert_eq!(said.status, Some(status), "{line}: {err}");
    assert!(err.contains(words), "{line}: {err:?} should say {words:?}");
    assert!(!err.contains("panicked") && !err.contains("backtrace"), "{line}: {err}");
    // The parser of the command line adds usage to its sentence; `demo` says first what it is about to do.
    let sentence = err.lines().last().unwrap_or_default();
    let one = sentence.starts_with("espalier: ") && (err.lines().count() == 1 || line.starts_with("demo"));
    assert!(one || err.starts_with("error: "), "{line}: {err}");
    let [front, back] = [&err[..err.len() / 2], &err[err.len() / 2..]];
    assert!(!back.trim().ends_with(front.trim()), "{line}: told twice: {err}");
    assert!(said.out.is_empty(), "{line}: {}", said.out);
    assert!(!fixture().join("new").exists(), "{line} left a folder");
}

#[test]
fn wrong_training_is_refused() {
    let table = [
        ("--model resnet99", 2, "there is no network `resnet99`; there are: auto, lenet"),
        ("--precision bf16", 2, "bf16 is not built yet"),
        ("--precision f8", 2, "it should be f32, bf16 or auto"),
        ("--device tpu", 2, "only cpu"),
        ("--lr -1", 2, "--lr: -1 is not in"),
        ("--lr nan", 2, "--lr: NaN is not in"),
        ("--lr fast", 2, "'fast'"),
        ("--target accuracy=1.5", 2, "between 0 and 1"),
        ("--target accuracy", 2, "accuracy=0.95"),
        ("--target mAP=0.5", 2, "accuracy=0.95"),
        ("--max-time soon", 2, "--max-time soon"),
        ("--max-time 0s", 2, "--max-time 0s"),
        ("--checkpoint-every never", 2, "--checkpoint-every never"),
        ("--threads 0", 2, "--threads: 0"),
        ("--epochs 0", 2, "--epochs: 0"),
        ("--batch 1", 2, "--batch"),
        ("--imgsz 4", 2, "--imgsz: 4"),
        ("--width 0", 2, "--width: 0"),
        ("--smoothing 2", 2, "--smoothing: 2"),
        ("--ema 1", 2, "--ema: 1 is not in"),
        ("--augment wild", 2, "'wild'"),
        ("--sampling fair", 2, "'fair'"),
        ("--seed 9999999999999999999", 2, "--seed"),
        ("--colour blue", 2, "--colour"),
        ("--config {}/unknown.toml", 2, "--colour"),
        ("--config {}/broken.toml", 2, "broken.toml: line 1: "),
        ("--config {}/list.toml", 2, "`epochs`"),
        ("--config {}/none.toml", 2, "none.toml"),
        ("--set lr", 2, "key=value"),
        ("--set lr=-2", 2, "--lr: -2"),
        ("--out {}/run", 2, "is not empty"),
        ("--out {}/bad.png/below", 1, "Not a directory"),
        ("--out /proc/below", 1, "/proc/below"),
    ];
    for (flags, status, words) in table {
        let folder = if flags.contains("--out") { "" } else { "--out {}/new" };
        check_wrong(&format!("train {{}}/data {folder} {flags}"), status, words);
    }
    check_wrong("train {}/data --resume", 2, "--out");
}

#[test]
fn wrong_files_are_refused() {
    const PKG: &str = "{}/run/best.espalier";
    let table = [
        ("train {}/none --out {}/new", 2, "does not exist"),
        ("train builtin:none --out {}/new", 2, "builtin:mnist-5k"),
        ("train {}/formless --out {}/new", 2, "data is a folder with"),
        ("train {}/bad.png --out {}/new", 2, "data is a folder with"),
        ("train {}/gap --out {}/new", 1, "\"nobody\" has no image"),
        ("train {}/single --out {}/new", 1, "at least 2 are needed"),
        ("train {}/lonely --out {}/new", 1, "lonely has one picture in train"),
        ("train {}/data --model lenet --imgsz 8 --epochs 1 --out {}/new", 1, "pictures of 8x8"),
        ("val {}/none.espalier {}/data", 2, "does not exist"),
        ("val {}/cut.espalier {}/data", 1, "cut.espalier"),
        ("val {}/text.espalier {}/data", 1, "text.espalier"),
        ("val {}/run/last.ckpt {}/data", 1, "plain weights"),
        ("val {}/data {}/data", 1, "not a regular file"),
        ("val PKG {}/data --split test", 2, "has no test split"),
        ("val PKG {}/data --split all", 2, "'all'"),
        ("val PKG {}/strangers", 1, "\"above\""),
        ("val PKG {}/none", 2, "does not exist"),
        ("data {}/none", 2, "does not exist"),
        ("data {}/formless", 2, "data is a folder with"),
        ("data {}/gap", 1, "\"nobody\" has no image"),
        ("data {}/data --threads 0", 2, "--threads"),
        ("data {}/data --html {}/none/page.html", 2, "there is no folder"),
        ("data {}/data --html {}/data", 2, "is a folder"),
        ("predict PKG", 2, "<FILES>"),
        ("predict PKG {}/none.png", 2, "there is no such file"),
        ("predict PKG {}/bad.png", 1, "not an image"),
        ("predict PKG {}/large.bmp --threads 0", 2, "--threads"),
        ("predict PKG {}/large.bmp --isa neon", 2, "cannot run `neon`"),
        ("run PKG --input x={}/x.npy", 2, "--out"),
        ("run PKG --input {}/x.npy --out {}/new", 2, "NAME=FILE.npy"),
        ("run PKG --input y={}/x.npy --out {}/new", 2, "inputs are x, given are y"),
        ("run PKG --input x={}/none.npy --out {}/new", 2, "there is no such file"),
        ("run PKG --input x={}/shape.npy --out {}/new", 1, "f32[1, 3, 16, 8]"),
        ("run PKG --input x={}/fortran.npy --out {}/new", 1, "Fortran"),
        ("run PKG --input x={}/int64.npy --out {}/new", 1, "float32 or int32"),
        ("run PKG --input x={}/int32.npy --out {}/new", 1, "i32[1, 3, 16, 16]"),
        ("run PKG --input x={}/short.npy --out {}/new", 1, "more elements than the file holds"),
        ("run PKG --input x={}/bad.png --out {}/new", 1, "no .npy file"),
        ("run PKG --input x={}/x.npy --out {}/bad.png", 1, "bad.png"),
        ("benchmark", 2, "<PACKAGE>"),
        ("benchmark PKG --isa sse9", 2, "unknown instruction set `sse9`"),
        ("benchmark PKG --threads 0", 2, "--threads"),
        ("benchmark PKG --random-sparsity 75", 2, "--random-sparsity: 75 is not in 0..=1"),
        ("benchmark PKG --random-sparsity 0.75", 2, "the package computes in f32"),
        ("benchmark --train lenet --random-sparsity 0.75", 2, "cannot be used with"),
        ("benchmark PKG --train lenet", 2, "cannot be used with"),
        ("benchmark PKG --batch 2", 2, "cannot be used with"),
        ("benchmark --train resnet99", 2, "resnet99"),
        ("benchmark --train lenet --batch 0", 2, "--batch: 0"),
        ("benchmark --train lenet --classes 0", 2, "0 classes"),
        ("inspect {}/none.espalier", 2, "does not exist"),
        ("inspect {}/cut.espalier", 1, "cut.espalier"),
        ("demo {}/none --out {}/new", 2, "does not exist"),
        ("prune PKG", 2, "unrecognized subcommand"),
    ];
    for (line, status, words) in table {
        check_wrong(&line.replace("PKG", PKG), status, words);
    }
}

#[test]
fn train_writes_what_it_promises() {
    let folder = fixture();
    let value = last_line(&fs::read_to_string(folder.join("train.json")).unwrap());
    check_keys(&value, "model epochs stopped metric metrics images_per_second class_counts out");
    assert_eq!(value["class_counts"], serde_json::json!({"left": 48, "low": 48, "right": 48}));
    assert_eq!(
        (&value["model"], &value["stopped"], &value["metric"]),
        (&"lenet".into(), &"epochs".into(), &"accuracy".into())
    );
    assert!(value["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{value}");
    assert!(value["metrics"]["loss"].is_f64() && value["images_per_second"].as_f64().unwrap() > 0.0);

    let metrics = fs::read_to_string(folder.join("run/metrics.csv")).unwrap();
    let first = |line: &str| line.split(',').next().unwrap().to_string();
    assert_eq!(
        metrics.lines().next(),
        Some("epoch,lr,train_loss,train_accuracy,val_accuracy,val_f1,val_loss")
    );
    assert_eq!(metrics.lines().map(first).collect::<Vec<_>>(), ["epoch", "1", "2", "3", "4"]);
    assert!(fs::read_to_string(folder.join("run/report.html")).unwrap().contains("</html>"));
    let names =
        fs::read_dir(folder.join("run")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("events.out.tfevents.")).count(), 1);
    let settings: toml::Table = fs::read_to_string(folder.join("run/run.toml")).unwrap().parse().unwrap();
    assert_eq!((settings["epochs"].as_integer(), settings["batch"].as_integer()), (Some(4), Some(16)));
}

#[test]
fn training_stops_where_it_is_told() {
    let common = "--model lenet --batch 16 --threads 2 --json";
    let train = |name: &str, flags: &str| {
        let said = at(fixture(), &format!("train {{}}/data --out {{}}/{name} {common} {flags}"));
        (said.status, last_line(&said.out), said.err)
    };
    let (status, value, err) = train("missed", "--epochs 1 --lr 1e-6 --target accuracy=0.99");
    assert_eq!((status, &value["stopped"]), (Some(3), &"epochs".into()));
    assert!(err.contains("target accuracy=0.99 was missed"), "{err}");
    check_keys(&value["verdict"], "kind text try");
    assert!(value["verdict"]["text"].as_str().unwrap().contains("accuracy=0.99 was missed"), "{value}");
    // On a run that has ended there is nothing to do, and nothing to miss.
    let (status, again, err) = train("missed", "--epochs 1 --lr 1e-6 --target accuracy=0.99 --resume");
    assert_eq!((status, &again), (Some(0), &value), "{err}");
    assert!(err.contains("nothing to do"), "{err}");
    let (status, value, _) = train("reached", "--epochs 50 --target accuracy=0.6");
    assert_eq!((status, &value["stopped"]), (Some(0), &"target".into()));
    assert!(value["epochs"].as_u64().unwrap() < 50, "{value}");
    let (status, value, _) = train("patient", "--epochs 50 --lr 1e-8 --patience 1");
    assert_eq!((status, &value["stopped"]), (Some(0), &"patience".into()));
    let (status, value, _) = train("timed", "--epochs 10000 --max-time 2s");
    assert_eq!((status, &value["stopped"]), (Some(0), &"time".into()));
    assert_eq!(json("val {}/timed/best.espalier {}/data --json")["n"], 24);
    // What is written is the rate that the clock gave, which has fallen by the end.
    let metrics = fs::read_to_string(fixture().join("timed/metrics.csv")).unwrap();
    let rates: Vec<f64> =
        metrics.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    assert!(rates.last().unwrap() < &(0.05 * highest), "{rates:?}");

    // For people, it says why.
    let said = at(
        fixture(),
        "train {}/data --out {}/told --model lenet --batch 16 --epochs 50 --target accuracy=0.6",
    );
    assert!(said.out.contains("target accuracy=0.6 was reached at epoch"), "{}", said.out);
}

#[test]
fn val_counts_every_image() {
    let value = json("val {}/run/best.espalier {}/data --json");
    check_keys(&value, "n metric metrics per_class confusion");
    let rows: Vec<Vec<u64>> = serde_json::from_value(value["confusion"].clone()).unwrap();
    assert_eq!(rows.iter().map(|row| row.iter().sum()).collect::<Vec<u64>>(), [8, 8, 8]);
    let right = (0..3).map(|i| rows[i][i]).sum::<u64>() as f64;
    assert_eq!(value["metrics"][value["metric"].as_str().unwrap()], right / 24.0);
    let training = last_line(&fs::read_to_string(fixture().join("train.json")).unwrap());
    assert_eq!(value["metrics"]["accuracy"], training["metrics"]["accuracy"]);
    assert_eq!(json("val {}/run/best.espalier {}/data --split train --json")["n"], 144);
}

#[test]
fn predict_answers_the_good_files() {
    let said =
        at(fixture(), "predict {}/run/best.espalier {}/data/val/low/0.bmp {}/bad.png {}/large.bmp --json");
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("bad.png: not an image") && said.err.contains("1 of 3"), "{}", said.err);
    let answers: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let labels: Vec<&Value> = answers.iter().map(|answer| &answer["label"]).collect();
    assert_eq!(labels, ["low", "left"]);
    for answer in &answers {
        check_keys(answer, "file label confidence scores");
        let sum: f64 = answer["scores"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{answer}");
        assert_eq!(answer["scores"][answer["label"].as_str().unwrap()], answer["confidence"]);
    }
    let said = at(fixture(), "predict {}/run/best.espalier {}/none.png {}/large.bmp");
    assert_eq!((said.status, said.out.lines().count()), (Some(2), 1), "{}", said.err);
}

#[test]
fn run_gives_the_logits_that_predict_reads() {
    let folder = fixture();
    let answer = json("predict {}/run/best.espalier {}/large.bmp --json");
    for isa in Isa::available().iter().map(Isa::to_string) {
        let value = json(&format!(
            "run {{}}/run/best.espalier --input x={{}}/x.npy --out {{}}/{isa} --isa {isa} --json"
        ));
        assert_eq!(
            (&value["isa"], &value["outputs"][0]["shape"]),
            (&isa.as_str().into(), &serde_json::json!([1, 3]))
        );
        let bytes = fs::read(folder.join(&isa).join("logits.npy")).unwrap();
        let logits = npyz::NpyFile::new(&bytes[..]).unwrap().into_vec::<f32>().unwrap();
        let prediction = task(folder).postprocess(&logits).unwrap();
        for (label, score) in ["left", "low", "right"].iter().zip(prediction.scores) {
            let wanted = answer["scores"][*label].as_f64().unwrap();
            assert!((f64::from(score) - wanted).abs() < 1e-4, "{isa} {label}: {score} {wanted}");
        }
    }
}

#[test]
fn inspect_and_benchmark_have_their_keys() {
    let value = json("inspect {}/run/best.espalier --json");
    check_keys(&value, "file manifest parameters macs golden graph plan");
    check_keys(&value["plan"]["steps"][0], "name op kernel offset");
    let value = json("benchmark {}/run/best.espalier --runs 3 --per-layer --threads 1 --json");
    check_keys(
        &value,
        "p50_ms p90_ms p99_ms min_ms throughput load_ms first_ms peak_rss_bytes arena_bytes energy_mj",
    );
    check_keys(&value["layers"][0], "name op kernel ms gmacs gmacs_per_s roofline_ms of_roofline");
    assert!(
        value["min_ms"].as_f64() <= value["p50_ms"].as_f64()
            && value["p50_ms"].as_f64() <= value["p99_ms"].as_f64()
    );
    let value =
        json("benchmark --train lenet --batch 8 --imgsz 16 --classes 3 --steps 2 --precision f32 --json");
    check_keys(&value, "images_per_second step_ms_p50 rss_growth_bytes");
    let rate = 8.0 / (value["step_ms_p50"].as_f64().unwrap() / 1e3);
    assert!((value["images_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
}

/// Three int8 convolutions, of which pruning takes the middle one.
const INT8: &str = "\
input x: f32[N,3,28,28]
weight w0: s8[16,3,3,3]
weight w1: s8[32,16,3,3]
weight w2: s8[5,32,1,1]
weight s0: f32[16]
weight s1: f32[32]
weight s2: f32[5]
weight b0: i32[16]
weight b1: i32[32]
weight b2: i32[5]
q: q8(0.1,3)[N,3,28,28] = Quantize(x) to=q8(0.1,3)
a: q8(0.1,3)[N,16,28,28] = QConv(q, w0, s0, b0) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.1,3) limits=[3,255]
b: q8(0.1,3)[N,32,28,28] = QConv(a, w1, s1, b1) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.1,3) limits=[3,255]
y: f32[N,5,28,28] = QConv(b, w2, s2, b2) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1 to=f32 limits=[0,255]
output y = y
";

#[test]
fn random_sparsity_takes_what_pruning_takes() {
    let graph: Graph = INT8.parse().unwrap();
    let states = graph.states().iter().map(|state| graph.value(state.value));
    let weights = states.map(|value| {
        let shape = value.ty.shape.bind(Bindings::batch(1));
        let len = shape.iter().product();
        let data = match value.ty.dtype {
            DType::S8 => Data::S8(vec![-7; len].into()),
            DType::I32 => Data::I32(vec![9; len].into()),
            _ => Data::F32(vec![0.5; len].into()),
        };
        (value.name.clone(), Tensor::new(&shape, data))
    });
    let manifest = Manifest { format: Format::of(&graph), name: "int8".into(), ..Manifest::default() };
    let package = Package {
        manifest,
        weights: weights.collect(),
        graph,
        golden: Vec::new(),
        reference: Weights::new(),
    };
    package.write(fixture().join("int8.espalier")).unwrap();
    let kernels = |value: &Value| {
        let layers = value["layers"].as_array().unwrap().clone();
        let convs = layers.into_iter().filter(|layer| layer["op"] == "QConv");
        convs.map(|layer| layer["kernel"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let [stem, middle, head] = [16 * 27, 32 * 16 * 9, 5 * 32].map(|terms| 28 * 28 * terms);
    let flags = "--runs 1 --threads 1 --per-layer --json";
    let dense = json(&format!("benchmark {{}}/int8.espalier {flags}"));
    assert_eq!(dense["macs"], stem + middle + head);
    assert_eq!(dense["sparsity"], Value::Null);
    let sparse = json(&format!("benchmark {{}}/int8.espalier {flags} --random-sparsity 0.875"));
    assert_eq!(sparse["macs"], stem + middle / 8 + head);
    assert_eq!((sparse["sparsity"].as_f64(), sparse["pruned_layers"].as_i64()), (Some(0.875), Some(1)));
    let (dense, sparse) = (kernels(&dense), kernels(&sparse));
    assert!(dense.iter().all(|name| !name.contains("sparse")), "{dense:?}");
    assert!(sparse[1].starts_with("conv 3x3 int8 sparse 2x4 12 %"), "{sparse:?}");
    assert_eq!([&sparse[0], &sparse[2]], [&dense[0], &dense[2]]);
}

#[test]
fn configs_and_sets_are_flags() {
    let folder = fixture();
    fs::write(
        folder.join("good.toml"),
        "model = \"lenet\"\nepochs = 7\nbatch = 16\nflip = false\njson = true\n",
    )
    .unwrap();
    let said =
        at(folder, "train {}/data --config {}/good.toml --out {}/configured --set epochs=1 --set json=false");
    assert_eq!(said.status, Some(0), "{}", said.err);
    assert!(said.out.contains("all 1 epochs done") && !said.out.contains('{'), "{}", said.out);
}

#[test]
fn an_mlflow_that_cannot_be_used_is_one_warning() {
    let folder = fixture();
    let check = |uri: &str, out: &str, words: &str| {
        let args =
            ["train", "builtin:mnist-5k", "--model", "lenet", "--epochs", "1", "--threads", "2", "--out"];
        let out = folder.join(out);
        let mut command = common::espalier(&args);
        let output = command.arg(&out).env("MLFLOW_TRACKING_URI", uri).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && err.contains(words) && !err.contains("secret"), "{err}");
    };
    check(
        "sqlite:///secret.db",
        "mlflow-scheme",
        "warning: MLFLOW_TRACKING_URI: a server is http://HOST:PORT",
    );
    check(
        "http://me:secret@127.0.0.1:1",
        "mlflow-away",
        "warning: MLflow: not delivered: the metrics of epochs 1 to 1",
    );
}
