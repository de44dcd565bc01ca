//! Ceilings are kept, by the counters of the system.

#![cfg(target_os = "linux")]

mod common;

use std::time::{Duration, Instant};

use common::{Agent, GREEN, RED, jpeg, package, pipeline};

/// Two pipelines that would take all there is, under `[power]`; the agent and what `value` gains a second.
fn measure(power: &str, value: impl Fn(&Agent) -> f64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    package(2, 1).write(folder.path().join("a.espalier")).unwrap();
    std::fs::write(folder.path().join("a.mjpeg"), [jpeg(320, 240, RED), jpeg(320, 240, GREEN)].concat())
        .unwrap();
    let one = pipeline("uri = \"a.mjpeg\", loop = true", "path = \"a.espalier\"");
    let two = one.replace("\"a\"", "\"b\"");
    let agent = Agent::start(folder.path(), &format!("[power]\n{power}\n{one}{two}"));
    std::thread::sleep(Duration::from_secs(1));
    let (before, begun) = (value(&agent), Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    (value(&agent) - before) / begun.elapsed().as_secs_f64()
}

/// CPU seconds as the system counts them, of user and kernel (proc(5), /proc/PID/stat).
fn cpu_seconds(agent: &Agent) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", agent.child.id())).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In ticks of a hundredth of a second, which is what Linux has on every machine.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
fn the_ceiling_on_cpu_time_is_kept() {
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    let share = measure("cpu = 0.1", cpu_seconds) / cores;
    assert!((0.09..=0.11).contains(&share), "a share of {share}, 0.1 is the ceiling");
}

#[test]
fn the_ceiling_on_the_rate_is_kept() {
    let processed = |agent: &Agent| {
        let metrics = agent.metrics();
        ["a", "b"]
            .iter()
            .map(|name| metrics[&format!("frames_processed_total{{pipeline=\"{name}\"}}")])
            .sum::<f64>()
    };
    let rate = measure("rate = 20", processed);
    assert!((18.0..=22.0).contains(&rate), "{rate} frames a second, 20 are the ceiling");
}
