//! What the agent is built of does not grow unnoticed.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates of the agent on Linux, ours included. Whoever changes this number says in ARCHITECTURE.md what for.
const CRATES: usize = 143;

#[test]
fn the_number_of_crates_is_known() {
    let text = tree("{p}");
    let crates: BTreeSet<&str> =
        text.lines().filter(|line| !line.is_empty()).map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(crates.len(), CRATES, "crates of espalier-agent: {crates:#?}");
}

/// Kernels of training are as large as all others together.
#[test]
fn it_has_no_kernels_of_training() {
    let text = tree("{p} features: {f}");
    let runtime = text.lines().find(|line| line.starts_with("espalier-runtime ")).unwrap();
    assert!(!runtime.contains("training"), "{runtime}");
}

/// What `espalier-agent` is built of on Linux, a line for each crate.
fn tree(format: &str) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "espalier-agent",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            format,
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
