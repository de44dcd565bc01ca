//! What the agent is built of does not grow unnoticed.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates of the agent on Linux, ours included. Whoever changes this number says in ARCHITECTURE.md what for.
const CRATES: usize = 143;

#[test]
fn the_number_of_crates_is_known() {
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
            "{p}",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> =
        text.lines().filter(|line| !line.is_empty()).map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(crates.len(), CRATES, "crates of espalier-agent: {crates:#?}");
}
