//! New packages while a pipeline runs.

#![cfg(unix)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Agent, RED, jpeg, labelled, lying, package, pipeline};
use espalier_graph::Package;

/// Frames a second: a delay of more than a frame shows as one that is skipped.
const RATE: f64 = 10.0;
/// Answers of the slow package take many times this.
const BUDGET: &str = "max_latency = \"40ms\", max_memory = \"20MB\"";

fn start(folder: &Path) -> Agent {
    package(1, 1).write(folder.join("a.espalier")).unwrap();
    std::fs::write(folder.join("a.mjpeg"), jpeg(160, 120, RED)).unwrap();
    let source = format!("uri = \"a.mjpeg\", rate = {RATE}, loop = true, policy = \"latest\"");
    let agent = Agent::start(folder, &pipeline(&source, &format!("path = \"a.espalier\", {BUDGET}")));
    agent.until("frames", || (agent.metric("frames_processed_total") > 3.0).then_some(()));
    agent
}

/// Puts a package in the place of the one that runs, and waits until it is taken over.
fn swap(agent: &Agent, folder: &Path, package: &Package) {
    package.write(folder.join("a.espalier")).unwrap();
    let name = format!("a.espalier (version {})", package.manifest.version);
    agent.until(&name, || (agent.figures(0)["package"] == name.as_str()).then_some(()));
}

#[test]
fn a_package_is_swapped_many_times_without_a_frame_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(folder.path());
    let swaps = 12;
    for version in 2..2 + swaps {
        swap(&agent, folder.path(), &package(version as usize % 3, version));
        assert_eq!(agent.figures(0)["label"], "red");
    }
    let metrics = agent.metrics();
    let of = |name: &str| metrics[&format!("{name}{{pipeline=\"a\"}}")];
    assert_eq!((of("model_swaps_total"), of("model_refusals_total")), (swaps as f64, 0.0));
    assert_eq!(of("frames_broken_total"), 0.0, "no inference failed");
    assert!(
        of("frames_skipped_total") <= swaps as f64,
        "at most one frame of delay each: {}",
        of("frames_skipped_total")
    );
    assert!(agent.stop().0.success());
}

#[test]
fn what_is_not_good_enough_is_refused_and_the_old_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(folder.path());
    let path = folder.path().join("a.espalier");
    let mut refusals = 0.0;
    let mut refused = |write: &dyn Fn(), words: &str| {
        let before = agent.metric("frames_processed_total");
        write();
        refusals += 1.0;
        agent.until(words, || (agent.metric("model_refusals_total") == refusals).then_some(()));
        let figures = agent.figures(0);
        let said = figures["refused"].as_str().unwrap();
        assert!(said.contains(words) && said.contains("a.espalier (version 1) goes on"), "{said}");
        assert_eq!(figures["package"], "a.espalier (version 1)");
        agent.until("frames", || (agent.metric("frames_processed_total") > before + 3.0).then_some(()));
    };
    refused(&|| lying(2).write(&path).unwrap(), "golden sample 1: element 0");
    refused(&|| package(60, 3).write(&path).unwrap(), "40ms are allowed (max_latency)");
    refused(&|| std::fs::write(&path, b"no package").unwrap(), "the header takes ");
    refused(&|| std::fs::remove_file(&path).unwrap(), "cannot be read");
    assert_eq!(agent.metric("frames_broken_total"), 0.0);
    // A good one after all that, with other labels.
    swap(&agent, folder.path(), &labelled(0, 9, ["rouge", "vert"]));
    agent.until("its labels", || (agent.figures(0)["label"] == "rouge").then_some(()));
    assert!(agent.figures(0)["refused"].is_null(), "the refusal is over");
    // Written in place, piece by piece.
    let bytes = package(2, 10).to_bytes().unwrap();
    for end in (0..=8).map(|eighth| bytes.len() * eighth / 8) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.until("version 10", || (agent.figures(0)["package"] == "a.espalier (version 10)").then_some(()));
    assert!(agent.stop().0.success());
}

/// A check of a slow package holds nobody up when the end is wanted.
#[test]
fn the_end_does_not_wait_for_a_package() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(folder.path());
    package(40, 2).write(folder.path().join("a.espalier")).unwrap();
    std::thread::sleep(Duration::from_millis(800));
    let begun = Instant::now();
    let (status, took) = agent.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {:?}", begun.elapsed());
}
