//! Detectors of anomalies through the real binary: trained, measured, asked, compressed, run on streams.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use common::{Said, espalier, fresh, run};
use espalier_graph::random::Random;
use serde_json::Value;

/// Rows of the series, of which the last tenth is test.
const ROWS: usize = 2000;
/// Rows with a level that never was before; they lie in test. Their label lasts as long as windows that hold them.
const ODD: std::ops::Range<usize> = 1900..1915;

/// A wave with noise, a row a minute.
fn csv(rows: usize, odd: std::ops::Range<usize>) -> String {
    let mut random = Random::new(3, 0);
    let mut text = String::from("timestamp,load,note\n");
    for i in 0..rows {
        let wave = (i as f32 * std::f32::consts::TAU / 60.0).sin();
        let value = 10.0 + 3.0 * wave + 0.3 * random.normal() + if odd.contains(&i) { 6.0 } else { 0.0 };
        let (day, hour, minute) = (1 + i / 1440, i / 60 % 24, i % 60);
        writeln!(text, "2026-11-{day:02} {hour:02}:{minute:02}:00,{value:.3},x").unwrap();
    }
    text
}

struct Fixture {
    folder: PathBuf,
    said: Said,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("anomaly");
        fs::write(folder.join("pump.csv"), csv(ROWS, ODD)).unwrap();
        fs::write(folder.join("plain.csv"), csv(ROWS, 0..0)).unwrap();
        let labels = r#"{"pump.csv": [["2026-11-02 07:35:00", "2026-11-02 09:05:00"]]}"#;
        fs::write(folder.join("labels.json"), labels).unwrap();
        let said = train(&folder, "run", &[]);
        Fixture { folder, said }
    })
}

fn train(folder: &Path, out: &str, more: &[&str]) -> Said {
    let (data, out) = (folder.join("pump.csv"), folder.join(out));
    let fixed = ["train", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--epochs", "12", "--json"];
    run(&[&fixed[..], more].concat())
}

fn path(name: &str) -> String {
    fixture().folder.join(name).to_str().unwrap().to_owned()
}

fn package() -> String {
    path("run/best.espalier")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn it_learns_without_labels() {
    let Fixture { folder, said } = fixture();
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value = &lines(&said.out)[0];
    assert_eq!((&value["model"], &value["metric"]), (&"autoencoder".into(), &"loss".into()));
    assert!(value["metrics"]["loss"].as_f64().unwrap() < 0.2, "{value}");
    let metrics = fs::read_to_string(folder.join("run/metrics.csv")).unwrap();
    assert!(metrics.starts_with("epoch,lr,train_loss,val_"), "{metrics}");
    let toml = fs::read_to_string(folder.join("run/run.toml")).unwrap();
    assert!(toml.contains("columns = [\"load\"]") && toml.contains("false_alarms = \"1/month\""), "{toml}");
    let page = fs::read_to_string(folder.join("run/report.html")).unwrap();
    assert!(
        page.contains("Alarms") && page.contains("plain") || page.contains("pump.csv"),
        "the page draws the series"
    );
}

#[test]
fn the_same_bits_whether_killed_or_not() {
    let folder = &fixture().folder;
    let bytes = |name: &str| fs::read(folder.join(name).join("best.espalier")).unwrap();
    let again = train(folder, "again", &[]);
    assert_eq!((again.status, bytes("again") == bytes("run")), (Some(0), true), "{}", again.err);
    // A run of fewer epochs has another schedule, so the rest is done from a checkpoint of the same run.
    let data = folder.join("pump.csv");
    let out = folder.join("killed");
    let args = [
        "train",
        data.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--epochs",
        "12",
        "--checkpoint-every",
        "1ms",
    ];
    let mut child = espalier(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !out.join("last.ckpt").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let resumed = train(folder, "killed", &["--resume"]);
    assert_eq!((resumed.status, bytes("killed") == bytes("run")), (Some(0), true), "{}", resumed.err);
    let changed = train(folder, "killed", &["--resume", "--window", "16"]);
    assert_eq!(changed.status, Some(2), "{}", changed.err);
    assert!(changed.err.contains("window"), "{}", changed.err);
}

#[test]
fn labels_measure_it() {
    let said = run(&["val", &package(), &path("pump.csv"), "--split", "test", "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value = &lines(&said.out)[0];
    assert_eq!((&value["metric"], &value["metrics"]["f1"]), (&"f1".into(), &1.0.into()), "{value}");
    let said = run(&["val", &package(), &path("plain.csv"), "--split", "test", "--json"]);
    let value = &lines(&said.out)[0];
    assert_eq!((&value["metric"], &value["metrics"]["alarms"]), (&"loss".into(), &0.0.into()), "{value}");
    assert!(run(&["val", &package(), &path("pump.csv")]).out.contains("windows: "));
}

#[test]
fn every_row_has_an_answer() {
    let said = run(&["predict", &package(), &path("pump.csv"), "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let answers = lines(&said.out);
    assert_eq!(answers.len(), ROWS);
    assert!(answers[30]["score"].is_null() && answers[31]["score"].is_f64(), "a window is 32 rows");
    let alarms: Vec<usize> = (0..ROWS).filter(|&at| answers[at]["alarm"] == true).collect();
    assert!(alarms.iter().any(|at| ODD.contains(at)), "{alarms:?}");
    assert!(alarms.iter().all(|at| (ODD.start..ODD.end + 64).contains(at)), "{alarms:?}");
    assert_eq!((&answers[0]["row"], &answers[0]["column"]), (&1.into(), &Value::Null));
    assert!(answers[1905]["values"]["load"].as_f64().unwrap() > 10.0);

    let streamed = run(&["run", &package(), "--source", &path("pump.csv"), "--json"]);
    assert_eq!(streamed.status, Some(0), "{}", streamed.err);
    for (answer, streamed) in answers.iter().zip(lines(&streamed.out)) {
        assert_eq!(
            ["score", "alarm", "at"].map(|key| &answer[key]),
            ["score", "alarm", "at"].map(|key| &streamed[key])
        );
    }
    assert!(
        streamed.err.contains("2000 frames seen = 2000 processed + 0 skipped + 0 broken"),
        "{}",
        streamed.err
    );
}

/// Broken rows are named and counted, and the stream goes on.
#[test]
fn garbage_in_a_stream_is_survived() {
    let good = csv(200, 0..0);
    let mut rows: Vec<String> = good.lines().map(String::from).collect();
    rows[50] = "2026-11-01 00:49:00,NaN,x".into();
    rows[60] = "2026-11-01 00:59:00".into();
    rows[70] = "\u{fffd}\0garbage".into();
    rows[80] = "2036-11-01 00:00:00,10,x".into();
    let json = rows[1..].iter().enumerate().map(|(at, row)| {
        let fields: Vec<&str> = row.split(',').collect();
        match &fields[..] {
            _ if at == 120 => "{\"load\": ".to_owned(),
            [time, load, _] => format!("{{\"timestamp\": \"{time}\", \"load\": \"{load}\"}}"),
            _ => "{}".to_owned(),
        }
    });
    let json: Vec<String> = json.collect();
    for (text, broken) in [(rows.join("\n"), 3), (json.join("\n"), 4)] {
        let mut child = espalier(&["run", &package(), "--source", "-", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let said = Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert_eq!(said.status, Some(0), "{}", said.err);
        let counts = format!("200 frames seen = {} processed + 0 skipped + {broken} broken", 200 - broken);
        assert!(said.err.contains(&counts), "{}", said.err);
        assert!(
            said.err.contains("frame 50 is broken: column `load` is \"NaN\", a number is needed"),
            "{}",
            said.err
        );
        let answers = lines(&said.out);
        // The clock jumps by ten years and back: both times a new window begins.
        assert!(answers.iter().filter(|answer| answer["score"].is_null()).count() > 60);
        assert!(answers.last().unwrap()["score"].is_f64());
    }
}

#[test]
fn it_is_compressed_inspected_and_timed() {
    let small = path("small.espalier");
    let report = path("compressed");
    let said =
        run(&["compress", &package(), &path("pump.csv"), "--out", &small, "--report", &report, "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value = &lines(&said.out)[0];
    assert_eq!(value["metric"], "f1");
    let candidates = value["candidates"].as_array().unwrap();
    let int8 = candidates.iter().find(|candidate| candidate["recipe"].is_object()).unwrap();
    assert!(int8["agreement"].as_f64().unwrap() > 0.95, "{int8}");
    let said = run(&["inspect", &package()]);
    assert!(said.status == Some(0) && said.out.contains("\"kind\": \"anomaly\""), "{}", said.out);
    let said = run(&["benchmark", &package(), "--runs", "5", "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let said = run(&["export", &package(), "--format", "onnx", "--out", &path("pump.onnx")]);
    assert_eq!(said.status, Some(0), "{}", said.err);
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = &fixture().folder;
    let other = folder.join("other.csv");
    fs::write(&other, "timestamp,weight\n2026-11-01 00:00:00,1\n").unwrap();
    let check = |args: &[&str], status: i32, words: &str| {
        let said = run(args);
        assert_eq!(said.status, Some(status), "{args:?}: {}", said.err);
        assert!(said.err.contains(words), "{args:?}: {}", said.err);
    };
    let (package, pump, out) = (package(), path("pump.csv"), path("none"));
    let pictures = folder.join("digits.png");
    fs::write(&pictures, b"\x89PNG").unwrap();
    check(&["run", &package, "--source", pictures.to_str().unwrap()], 2, "looks at series");
    check(
        &["predict", &package, other.to_str().unwrap()],
        1,
        "its header has no column `load`; it has timestamp, weight",
    );
    check(&["predict", &package, &pump, "--draw", &out], 2, "no picture to draw into");
    check(&["train", &pump, "--out", &out, "--imgsz", "32"], 2, "--imgsz: that is for pictures");
    check(&["train", &pump, "--out", &out, "--false-alarms", "often"], 2, "often: it should be like 1/week");
    check(
        &["train", &pump, "--out", &out, "--columns", "weight"],
        1,
        "no column `weight`; there are timestamp, load, note",
    );
    check(&["train", &pump, "--out", &out, "--window", "1000"], 1, "no window of 1000");
    check(&["train", "builtin:mnist-5k", "--out", &out, "--window", "8"], 2, "--window: that is for series");
    check(&["data", &pump], 2, "holds series of numbers");
    check(&["explain", &package, &pump], 1, "explain supports classifiers of pictures");
}
