//! Runs that are killed at any instant and resumed end in the same bits.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Said, espalier, fresh, pictures, run};
use espalier_graph::Package;
use espalier_graph::random::Random;
use espalier_train::Settings;
use espalier_train::checkpoint::{self, LAST, PREVIOUS};
use espalier_train::run_folder::RunFolder;

const ROUNDS: u64 = 10;

/// A checkpoint after every step, so that much of the time goes into writing them.
fn arguments<'a>(data: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["train", data, "--out", out, "--model", "lenet", "--epochs", "3", "--batch", "16"];
    let random = ["--augment", "strong", "--sampling", "balanced", "--ema", "0.9"];
    let tail = ["--threads", "2", "--checkpoint-every", "1ms", "--resume"];
    [&fixed[..], &random[..], &tail[..], more].concat()
}

fn train(data: &Path, out: &Path, more: &[&str]) -> Said {
    run(&arguments(data.to_str().unwrap(), out.to_str().unwrap(), more))
}

fn data(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    for (split, n) in [("train", 64), ("val", 12)] {
        ["left", "right", "low"].iter().for_each(|class| pictures(&data.join(split), class, n));
    }
    data
}

/// Starts a run and kills it after `delay`; whether it had not ended by itself.
fn killed(data: &Path, out: &Path, delay: Duration) -> bool {
    let args = arguments(data.to_str().unwrap(), out.to_str().unwrap(), &[]);
    let mut child = espalier(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    running
}

/// Whatever has its final name is whole.
fn check_whole(run: &Path, round: u64) {
    let alone = tempfile::tempdir().unwrap();
    for name in [LAST, PREVIOUS] {
        if fs::copy(run.join(name), alone.path().join(LAST)).is_ok() {
            let found = checkpoint::load(alone.path());
            assert!(matches!(found, Ok(Some(_))), "round {round}: {name}: {:?}", found.err());
        }
    }
    if run.join("best.espalier").exists() {
        Package::read(run.join("best.espalier")).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    RunFolder::open(run, true)
        .unwrap()
        .settings::<Settings>()
        .unwrap_or_else(|e| panic!("round {round}: {e}"));
    if let Ok(text) = fs::read_to_string(run.join("metrics.csv")) {
        let commas = |line: &str| line.matches(',').count();
        let first = text.lines().next().map(commas);
        assert!(text.ends_with('\n') && text.lines().all(|line| Some(commas(line)) == first), "{text}");
    }
}

#[test]
fn killed_runs_end_in_the_same_bits() {
    let folder = fresh("kill");
    let (data, whole) = (data(&folder), folder.join("whole"));
    let start = Instant::now();
    let said = train(&data, &whole, &[]);
    let length = start.elapsed();
    assert_eq!(said.status, Some(0), "{}", said.err);
    let read = |run: &Path, name: &str| fs::read(run.join(name)).unwrap();
    let mut random = Random::new(7, 0);
    for round in 0..ROUNDS {
        let out = folder.join(format!("round-{round}"));
        // Spread over the run, the very start included.
        let mut delay = length.mul_f32((round as f32 + random.uniform()) / ROUNDS as f32);
        while !killed(&data, &out, delay) {
            let _ = fs::remove_dir_all(&out);
            delay = delay.mul_f32(0.7);
        }
        if out.exists() {
            check_whole(&out, round);
        }
        if round % 2 == 1 && killed(&data, &out, length.mul_f32(random.uniform())) {
            check_whole(&out, round);
        }
        let said = train(&data, &out, &[]);
        assert_eq!(said.status, Some(0), "round {round}: {}", said.err);
        for name in ["best.espalier", "metrics.csv", "run.toml"] {
            assert!(read(&out, name) == read(&whole, name), "round {round}: {name} differs");
        }
        let mut names = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(!names.any(|name| name.ends_with(".tmp")), "round {round}: a temporary file stayed");
    }
}

#[test]
fn resume_knows_what_it_finds() {
    let folder = fresh("resume");
    let (data, out) = (data(&folder), folder.join("run"));
    // An empty folder is started.
    fs::create_dir(&out).unwrap();
    assert_eq!(train(&data, &out, &[]).status, Some(0));
    let best = fs::read(out.join("best.espalier")).unwrap();

    let changed = train(&data, &out, &["--lr", "0.01", "--seed", "5"]);
    assert_eq!(changed.status, Some(2));
    assert!(changed.err.contains("lr") && changed.err.contains("seed"), "{}", changed.err);
    assert!(!changed.err.contains("epochs"), "{}", changed.err);

    let (last, previous) = (out.join(LAST), out.join(PREVIOUS));
    let before = fs::metadata(&last).unwrap().modified().unwrap();
    let done = train(&data, &out, &[]);
    assert_eq!(done.status, Some(0));
    assert!(done.err.contains("nothing to do") && done.out.contains("all 3 epochs done"), "{}", done.err);
    assert_eq!(fs::metadata(&last).unwrap().modified().unwrap(), before);

    // The newest checkpoint is damaged: the one before serves, to the same bits.
    let cut = fs::read(&last).unwrap();
    fs::write(&last, &cut[..cut.len() / 2]).unwrap();
    fs::remove_file(out.join("result.json")).unwrap();
    let said = train(&data, &out, &[]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    assert!(said.err.contains("going on after epoch 2"), "{}", said.err);
    assert!(fs::read(out.join("best.espalier")).unwrap() == best);

    // Both are.
    fs::remove_file(out.join("result.json")).unwrap();
    [&last, &previous].iter().for_each(|path| fs::write(path, b"junk").unwrap());
    let said = train(&data, &out, &[]);
    assert_eq!(said.status, Some(1), "{}", said.err);
    assert!(said.err.contains("last.ckpt") && said.err.lines().count() == 1, "{}", said.err);
}
