//! `espalier demo`: the whole cycle, with the agent as a real process.

mod common;

use std::path::Path;

use common::{fresh, pictures, run};
use espalier_testing::heavy;
use serde_json::Value;

const DIGITS: &str = "builtin:mnist-5k";

fn demo(data: &str, out: &Path, epochs: &str) -> Value {
    let said = run(&["demo", data, "--out", out.to_str().unwrap(), "--epochs", epochs, "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let value: Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    for key in ["accuracy", "bytes", "latency", "energy_mj", "scenes", "compress", "validation", "package"] {
        assert!(value.get(key).is_some(), "{key}: {value}");
    }
    value
}

/// What the agent left: as many hard samples as it told, and insights that can be read.
fn check_folder(out: &Path, value: &Value) {
    let device = out.join("device");
    let count = |name: &str| std::fs::read_dir(device.join(name)).unwrap().count() as u64;
    assert_eq!(count("samples"), 2 * value["hard_samples"].as_u64().unwrap(), "a picture and its answer");
    assert!(count("insights") > 0 && count("insights/samples") > 0);
    let (seen, sent) = (value["bytes"]["seen"].as_u64().unwrap(), value["bytes"]["sent"].as_u64().unwrap());
    assert!(sent > 1000 && seen > sent, "{sent} of {seen}");
    let latency = &value["latency"];
    let of = |key: &str| latency[key].as_f64().unwrap();
    assert!(of("p50_ms") > 0.0 && of("p99_ms") >= of("p50_ms"), "{latency}");
}

#[test]
fn a_folder_of_pictures_is_played_as_it_is() {
    let folder = fresh("demo-pictures");
    for class in ["left", "right", "low"] {
        pictures(&folder.join("data"), class, 60);
    }
    let out = folder.join("run");
    let value = demo(folder.join("data").to_str().unwrap(), &out, "6");
    let accuracy = &value["accuracy"];
    assert!(accuracy["during"].is_null() && accuracy["after"].is_null(), "{accuracy}");
    let validation = &value["validation"];
    assert_eq!(value["frames"], validation["n"], "every picture that no weight was fitted to, once");
    let difference = accuracy["before"].as_f64().unwrap() - validation["accuracy"].as_f64().unwrap();
    assert!(difference.abs() <= 0.1, "int8 answers as float does: {value}");
    let names = std::fs::read_dir(out.join("held-out")).unwrap();
    assert_eq!(names.count(), 3, "a folder for each class");
}

#[cfg(unix)]
#[test]
fn a_disturbed_camera_is_noticed() {
    if !heavy("training, and 25 seconds of a camera") {
        return;
    }
    let out = fresh("demo-digits").join("run");
    let value = demo(DIGITS, &out, "4");
    check_folder(&out, &value);
    let accuracy = &value["accuracy"];
    let (before, during) = (accuracy["before"].as_f64().unwrap(), accuracy["during"].as_f64().unwrap());
    assert!(before > 0.9 && during < before - 0.1 && accuracy["after"].is_null(), "{accuracy}");
    let scenes = value["scenes"].as_array().unwrap();
    assert_eq!((scenes.len(), &scenes[0]["drift"]), (5, &Value::Null), "{value}");
    for scene in scenes {
        assert!(scene["frames"].as_u64().unwrap() > 200, "{scene}");
    }
    for scene in &scenes[1..] {
        let frames = scene["drift_frames"].as_u64().unwrap_or(u64::MAX);
        assert!(frames < 500 && scene["drift"].is_string(), "{scene}");
    }
    let size = |when: &str| value["compress"][when]["size_bytes"].as_u64().unwrap();
    assert!(size("after") < size("before") / 2, "{value}");
}

/// The agent ends with the demo, however that ends.
#[cfg(unix)]
#[test]
fn no_agent_is_left_behind() {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    use std::process::{Command, Stdio};
    use std::time::Duration;
    if !heavy("training") {
        return;
    }
    let out = fresh("demo-interrupted").join("run");
    let mut demo = common::espalier(&["demo", "--epochs", "1", "--out", out.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map_while(Result::ok);
    let url =
        lines.by_ref().find_map(|line| Some(line.split_once("http://")?.1.trim_end_matches('/').to_owned()));
    let url = url.expect("it tells where the status page is");
    let address = url.replace("localhost", "127.0.0.1");
    assert!(TcpStream::connect(&address).is_ok(), "{address}");
    let signal = Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let last = lines.last().unwrap_or_default();
    assert_eq!((demo.wait().unwrap().code(), last.as_str()), (Some(1), "espalier: interrupted"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(TcpStream::connect(&address).is_err(), "the agent is gone");
}
