//! The rules of the house that no compiler checks: which crate may know which, and what ARCHITECTURE.md says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::Table;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Longest source file, in lines.
const MAX_LINES: usize = 700;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn manifest(path: &str) -> Table {
    read(path).parse().unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    list.map(|entry| entry.unwrap().path()).collect()
}

/// Folder names under `crates`.
fn crates() -> Vec<String> {
    let all = entries(&Path::new(ROOT).join("crates"));
    all.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect()
}

/// The crates of ours that a crate is built with, on any platform; its tests may use others.
fn house_dependencies(name: &str) -> BTreeSet<String> {
    let manifest = manifest(&format!("crates/{name}/Cargo.toml"));
    let targets = manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(Table::values);
    let tables = targets.filter_map(|t| t.as_table()).chain([&manifest]);
    let sections = tables.flat_map(|t| ["dependencies", "build-dependencies"].map(|section| t.get(section)));
    let names = sections.flatten().flat_map(|s| s.as_table().expect("a table of dependencies").keys());
    names.filter_map(|name| name.strip_prefix("espalier-")).map(String::from).collect()
}

fn check_dependencies(name: &str, allowed: &[&str]) {
    let found = house_dependencies(name);
    let forbidden: Vec<_> = found.iter().filter(|d| !allowed.contains(&d.as_str())).collect();
    assert!(forbidden.is_empty(), "`{name}` may depend on {allowed:?} of ours, not on {forbidden:?}");
}

#[test]
fn dependencies_go_one_way() {
    check_dependencies("graph", &[]);
    check_dependencies("kernels", &["graph"]);
    check_dependencies("passes", &["graph"]);
    check_dependencies("runtime", &["graph", "kernels"]);
    check_dependencies("onnx", &["graph", "passes"]);
    check_dependencies("tasks", &["graph", "kernels", "runtime"]);
    check_dependencies("pages", &[]);
    check_dependencies("wire", &[]);
    check_dependencies("digits", &[]);
    check_dependencies("hub", &["wire"]);
    check_dependencies("engines", &["graph", "onnx", "runtime", "tasks"]);
    check_dependencies(
        "agent",
        &["digits", "engines", "graph", "kernels", "pages", "runtime", "tasks", "wire"],
    );
    check_dependencies("train", &["digits", "graph", "kernels", "pages", "passes", "runtime", "tasks"]);
    assert!(house_dependencies("runtime").contains("kernels"), "the reader of manifests reads");
}

/// What cargo links into a crate of ours, with the features that it is built with alone.
fn linked(name: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p", name]);
    let output = cargo.current_dir(ROOT).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    text.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect()
}

/// Through other crates, too: ONNX is written without what reads it.
#[test]
fn devices_carry_no_training_and_no_passes() {
    for name in ["espalier-engines", "espalier-agent"] {
        let linked = linked(name);
        for absent in ["espalier-passes", "espalier-train", "espalier-hub", "espalier"] {
            assert!(!linked.contains(absent), "{name} links {absent}");
        }
        assert!(linked.contains("espalier-tasks"), "{name}: the reader of trees reads {linked:?}");
    }
    assert!(linked("espalier-onnx").contains("espalier-passes"), "the way in needs passes");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for name in crates() {
        let manifest = manifest(&format!("crates/{name}/Cargo.toml"));
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            lints.and_then(|v| v.as_bool()),
            Some(true),
            "crates/{name}/Cargo.toml: [lints] workspace"
        );
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a_file_is_read_in_one_sitting() {
    let mut files = Vec::new();
    crates()
        .iter()
        .for_each(|name| rust_files(&Path::new(ROOT).join("crates").join(name).join("src"), &mut files));
    assert!(files.len() > 50, "the walk walks");
    for path in files {
        let lines = read(&path).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, {MAX_LINES} are the limit", path.display());
    }
}

/// The crates in ARCHITECTURE.md's table are exactly those of the workspace.
#[test]
fn every_dependency_has_its_reason() {
    let text = read("ARCHITECTURE.md");
    let (_, table) = text.split_once("| crate | for |").expect("a table of dependencies");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let explained: BTreeSet<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split(',')).map(str::trim).collect();
    let manifest = manifest("Cargo.toml");
    let used = manifest["workspace"]["dependencies"].as_table().unwrap();
    let used: BTreeSet<&str> =
        used.keys().map(String::as_str).filter(|name| !name.starts_with("espalier-")).collect();
    assert_eq!(explained, used, "ARCHITECTURE.md's table and [workspace.dependencies]");
}

/// Every path in backquotes is there, from the root or from `crates`.
#[test]
fn the_paths_in_architecture_exist() {
    let text = read("ARCHITECTURE.md");
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        word.contains('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c))
    };
    let paths: Vec<&str> = quoted.filter(is_path).collect();
    assert!(paths.len() >= 10, "the reader reads: {paths:?}");
    let exists =
        |path: &str| ["", "crates"].iter().any(|base| Path::new(ROOT).join(base).join(path).exists());
    let missing: Vec<&str> = paths.into_iter().filter(|path| !exists(path)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}, which are not there");
}
