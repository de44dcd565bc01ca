//! The agent as a program, from the digit camera to where insights go.

#![cfg(unix)]

mod broker;
mod common;
mod digits;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::{Broker, eventually, hub_options, mosquitto};
use common::Agent;
use espalier_hub::{Ingest, Ledger};
use espalier_wire::{Insight, Kind, State};

/// Frames a second, and seconds until it becomes dark.
const CAMERA: &str = "builtin:mnist-5k?rate=400&from=3&darkness=0.8";

fn pipeline(camera: &str, more: &str) -> String {
    format!(
        "[[pipeline]]\nname = \"a\"\nhealth = \"1s\"\nsource = {{ uri = \"{camera}\" }}\nmodel = {{ path = \"digits.espalier\" }}\n{more}"
    )
}

const WATCHED: &str = r#"
[pipeline.aggregate]
span = "1s"

[pipeline.drift]
window = 250

[pipeline.samples]
folder = "samples"
per_hour = 100

[[pipeline.rule]]
name = "seven"
labels = ["7"]
"#;

const SINKS: &str = r#"
[[sink]]
type = "stdout"

[[sink]]
type = "folder"
path = "kept"
samples = ["samples"]
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    digits::package(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
        .write(folder.path().join("digits.espalier"))
        .unwrap();
    folder
}

/// The insights in the lines of a file.
fn insights(path: &Path) -> Vec<Insight> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn drifts(insights: &[Insight]) -> Vec<&str> {
    let begins = insights.iter().filter_map(|insight| match &insight.kind {
        Kind::Drift { state: State::Begins, statistic, .. } => Some(statistic.as_str()),
        _ => None,
    });
    begins.collect()
}

#[test]
fn darkness_is_named_and_counters_add_up() {
    let folder = folder();
    let printed = folder.path().join("printed");
    let config = pipeline(CAMERA, WATCHED) + SINKS;
    let out = std::fs::File::create(&printed).unwrap();
    let mut agent = Agent::start_with(folder.path(), &config, |command| command.stdout(out));
    eventually("drift", Duration::from_secs(40), || drifts(&insights(&printed)).contains(&"brightness"));
    let metrics = agent.metrics();
    assert!(agent.metric("drifting") > 0.0 && agent.metric("drift_scenes_total") > 250.0);
    assert!(metrics["sink_up{sink=\"stdout\"}"] == 1.0 && metrics["sink_up{sink=\"folder\"}"] == 1.0);
    assert!(agent.metric("seen_bytes_total") > agent.metric("insight_bytes_total"));
    let (status, took) = agent.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
    let told = insights(&printed);
    let count = |is: fn(&Kind) -> bool| told.iter().filter(|insight| is(&insight.kind)).count();
    let turns = |wanted: State| {
        let is = |insight: &&Insight| {
            matches!(&insight.kind, Kind::Event { rule, state, label, .. }
                if rule == "seven" && *state == wanted && label.as_deref() == Some("7"))
        };
        told.iter().filter(is).count()
    };
    assert!(turns(State::Begins) > 5 && turns(State::Begins) == turns(State::Ends), "what begins ends");
    assert!(count(|kind| matches!(kind, Kind::HardSample { .. })) > 3);
    assert!(count(|kind| matches!(kind, Kind::Health { .. })) > 2);
    let (mut seen, mut labels, mut processed, mut right, mut known) = (0, 0, 0, 0, 0);
    for insight in &told {
        if let Kind::Aggregate { frames, labels: all, truth, .. } = &insight.kind {
            let truth = truth.unwrap_or_default();
            (right, known) = (right + truth.right, known + truth.known);
            assert_eq!(frames.seen, frames.processed + frames.skipped + frames.broken, "{frames:?}");
            (seen, processed) = (seen + frames.seen, processed + frames.processed);
            labels += all.values().sum::<u64>();
        }
    }
    let last = agent.said().into_iter().find(|line| line.contains(" frames seen = ")).unwrap();
    assert!(last.contains(&format!(" {seen} frames seen = {processed} processed ")), "{seen}: {last}");
    assert_eq!(labels, processed, "a label for each frame");
    assert_eq!(known, processed, "the camera knows what is in each");
    assert!(right > known / 3 && right < known, "{right} of {known} are right");
    let named = told.iter().find_map(|insight| match insight.kind {
        Kind::Drift { frames, .. } => Some(frames),
        _ => None,
    });
    assert!(named.is_some_and(|frames| frames > 3 * 400 && frames < processed), "{named:?}");
    let files = |name: &str| std::fs::read_dir(folder.path().join(name)).unwrap().count();
    let samples = count(|kind| matches!(kind, Kind::HardSample { .. }));
    assert_eq!(files("samples"), 2 * samples, "a picture and its answer");
    assert!(files("kept/samples") > 0, "copies of them are beside the insights");
}

/// The same package by ONNX Runtime; where its library is not, the agent says so and does not start.
#[test]
fn another_engine_answers() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let folder = folder();
    let engine = |library: &Path| {
        let keys = format!("\"digits.espalier\", engine = \"onnxruntime\", library = {library:?}");
        pipeline("builtin:mnist-5k?rate=100", WATCHED).replace("\"digits.espalier\"", &keys)
    };
    let mut agent = Agent::start(folder.path(), &engine(&library));
    agent.until("answers", || (agent.metric("frames_processed_total") > 20.0).then_some(()));
    let (status, _) = agent.stop();
    assert!(status.success(), "{status}");
    std::fs::write(&agent.config, format!("[device]\nname = \"d\"\n{}", engine(&folder.path().join("none"))))
        .unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_espalier-agent"));
    let said = command.arg("--config").arg(&agent.config).arg("--check").output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && text.contains("none") && text.contains("ONNX Runtime"), "{text}");
}

#[test]
fn a_reload_changes_sinks_and_rules() {
    let folder = folder();
    let printed = folder.path().join("printed");
    let camera = "builtin:mnist-5k?rate=100";
    let out = std::fs::File::create(&printed).unwrap();
    let agent = Agent::start_with(folder.path(), &pipeline(camera, WATCHED), |command| command.stdout(out));
    agent.until("frames", || (agent.metric("frames_processed_total") > 20.0).then_some(()));
    assert!(insights(&printed).is_empty() && !agent.text("/metrics").contains("sink_up"));
    agent.reload(&(pipeline(camera, WATCHED) + SINKS));
    agent.wait_for("1 pipelines go on, 0 get another package, 0 begin");
    eventually("insights", Duration::from_secs(20), || insights(&printed).len() > 5);
    assert!(agent.metrics()["sink_up{sink=\"folder\"}"] == 1.0);
    let other = WATCHED.replace("\"7\"", "\"seven\"");
    agent.reload(&(pipeline(camera, &other) + SINKS));
    let said = agent.wait_for("the configuration is refused, the one before stays: ");
    assert!(
        said.contains("pipeline[0].rule: rule \"seven\": labels: the model knows no \"seven\""),
        "{said}"
    );
    let other = WATCHED.replace("\"seven\"", "\"lucky\"");
    agent.reload(&(pipeline(camera, &other) + "[[sink]]\ntype = \"stdout\"\n"));
    agent.wait_for("0 pipelines go on, 0 get another package, 1 begin");
    assert!(!agent.text("/metrics").contains("sink_up{sink=\"folder\"}"));
    let is_other = |insight: &Insight| matches!(&insight.kind, Kind::Event { rule, .. } if rule == "lucky");
    eventually("the other rule", Duration::from_secs(20), || insights(&printed).iter().any(is_other));
}

#[test]
fn a_package_without_the_labels_of_a_rule_is_refused() {
    let folder = folder();
    let agent = Agent::start(folder.path(), &pipeline("builtin:mnist-5k?rate=100", WATCHED));
    agent.until("frames", || (agent.metric("frames_processed_total") > 5.0).then_some(()));
    let put = |package: espalier_graph::Package| {
        package.write(folder.path().join("new")).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("digits.espalier")).unwrap();
    };
    put(digits::package(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]));
    let said = agent.wait_for("is refused, ");
    assert!(said.contains("the model knows no \"7\""), "{said}");
    assert_eq!(agent.metric("model_refusals_total"), 1.0);
    put(digits::package(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "nine"]));
    agent.until("the swap", || (agent.metric("model_swaps_total") == 1.0).then_some(()));
    agent.until("drift is watched anew", || (agent.metric("drift_scenes_total") > 0.0).then_some(()));
}

#[test]
fn insights_arrive_at_the_hub() {
    let Some(program) = mosquitto("insights of an agent at the hub") else { return };
    let folder = folder();
    let broker = Broker::start(&program, folder.path(), "");
    let options = hub_options(broker.port);
    let database = folder.path().join("hub.db");
    let (stop, path) = (Arc::<AtomicBool>::default(), database.clone());
    let hub = std::thread::spawn({
        let stop = stop.clone();
        move || Ingest::new(Ledger::open(&path).unwrap()).serve(&options, &stop, &mut |_| {})
    });
    let sink = format!("[[sink]]\ntype = \"hub\"\nbroker = \"mqtt://127.0.0.1:{}\"\n", broker.port);
    let mut agent = Agent::start(folder.path(), &(pipeline("builtin:mnist-5k?rate=100", WATCHED) + &sink));
    agent.until("deliveries", || {
        let delivered = agent.metrics()["sink_delivered_total{sink=\"hub\"}"];
        (delivered > 20.0 && agent.metric("frames_processed_total") > 250.0).then_some(())
    });
    assert!(agent.metrics()["sent_bytes_total{sink=\"hub\"}"] > 1000.0);
    assert!(agent.stop().0.success());
    stop.store(true, Ordering::Relaxed);
    hub.join().unwrap();
    let ledger = Ledger::open(&database).unwrap();
    let (device, epoch) = ledger.queues().unwrap().pop().expect("a queue");
    let account = ledger.account(&device, epoch).unwrap();
    assert_eq!((account.missing, account.dropped.total()), (0, 0), "{account:?}");
    assert!(account.received > 20 && device.to_string() == "device");
    let stored = ledger.insights(&device, epoch).unwrap();
    let all: Vec<Insight> = stored.iter().map(|(_, json)| serde_json::from_str(json).unwrap()).collect();
    assert!(all.iter().any(|insight| matches!(insight.kind, Kind::Event { .. })));
    assert!(all.iter().any(|insight| matches!(insight.kind, Kind::Aggregate { .. })));
}
