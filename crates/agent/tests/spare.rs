//! What runs after a start with a package that is refused.

#![cfg(unix)]

mod common;

use std::path::Path;

use common::{Agent, RED, jpeg, lying, package, pipeline};

fn config(keys: &str) -> String {
    pipeline("uri = \"a.mjpeg\", rate = 50, loop = true", &format!("path = \"a.espalier\"{keys}"))
}

/// Runs an agent whose first package is good, until a copy of that is kept.
fn begun(folder: &Path) -> Agent {
    package(0, 1).write(folder.join("a.espalier")).unwrap();
    std::fs::write(folder.join("a.mjpeg"), jpeg(160, 120, RED)).unwrap();
    let agent = Agent::start(folder, &config(""));
    agent.until("a copy", || copy(folder).exists().then_some(()));
    agent
}

fn copy(folder: &Path) -> std::path::PathBuf {
    folder.join("data/packages/a.espalier")
}

/// An agent that was started with what is now in the folder runs the good package and says why.
fn falls_back(folder: &Path, config: &str, good: &str, words: &str) -> Agent {
    let agent = Agent::start(folder, config);
    agent.wait_for(&format!("{good}, the last good one, answers instead"));
    agent.until("answers", || (agent.figures(0)["label"] == "red").then_some(()));
    let figures = agent.figures(0);
    assert_eq!(figures["package"], format!("{good}, the last good one"));
    let refused = figures["refused"].as_str().unwrap();
    assert!(refused.contains(words), "{refused:?} should say {words:?}");
    assert_eq!(agent.metric("model_refusals_total"), 1.0);
    agent
}

#[test]
fn the_last_good_package_runs_where_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (path, first) = (folder.join("a.espalier"), "a.espalier (version 1)");
    assert!(begun(folder).stop().0.success());
    lying(2).write(&path).unwrap();
    assert!(falls_back(folder, &config(""), first, "golden sample 1: ").stop().0.success());
    // Written to in place.
    std::fs::write(&path, b"no package").unwrap();
    assert!(falls_back(folder, &config(""), first, "the header takes ").stop().0.success());
    std::fs::remove_file(&path).unwrap();
    assert!(falls_back(folder, &config(""), first, "it cannot be read").stop().0.success());
    package(40, 3).write(&path).unwrap();
    let mut agent = falls_back(folder, &config(", max_latency = \"10ms\""), first, "10ms are allowed");
    // One that is good takes its place, and is the last good one from then on.
    package(0, 4).write(&path).unwrap();
    agent.until("version 4", || (agent.figures(0)["package"] == "a.espalier (version 4)").then_some(()));
    assert!(agent.figures(0)["refused"].is_null(), "the refusal is over");
    let bytes = std::fs::read(&path).unwrap();
    agent.until("its copy", || (std::fs::read(copy(folder)).unwrap() == bytes).then_some(()));
    assert!(agent.stop().0.success());
    lying(5).write(&path).unwrap();
    falls_back(folder, &config(""), "a.espalier (version 4)", "golden sample 1: ");
}

/// While it runs, a wrong package changes nothing of the copy either.
#[test]
fn what_is_refused_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = begun(folder.path());
    let good = std::fs::read(copy(folder.path())).unwrap();
    lying(2).write(folder.path().join("a.espalier")).unwrap();
    agent.until("a refusal", || (agent.metric("model_refusals_total") == 1.0).then_some(()));
    assert!(agent.stop().0.success());
    assert_eq!(std::fs::read(copy(folder.path())).unwrap(), good);
    falls_back(folder.path(), &config(""), "a.espalier (version 1)", "golden sample 1: ");
}
