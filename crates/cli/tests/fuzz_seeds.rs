//! The fuzz targets over their seeds, whole, cut and damaged, so that they hold between the times that somebody fuzzes.

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a crate of its own for the fuzzer")]
mod targets;

use std::path::{Path, PathBuf};

use espalier_graph::random::Random;

/// Damaged versions of each seed.
const VERSIONS: u64 = 400;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The folders that fuzz/README.md names for a target.
fn folder(target: &str) -> PathBuf {
    let path = match target {
        "image" => "tests/golden/pictures".to_string(),
        "package" => "crates/graph/tests/data".to_string(),
        other => format!("fuzz/seeds/{other}"),
    };
    Path::new(ROOT).join(path)
}

fn damaged(seed: &[u8], version: u64) -> Vec<u8> {
    let mut random = Random::new(version, seed.len() as u64);
    let mut bytes = seed.to_vec();
    if version % 4 == 1 {
        bytes.truncate(random.below(seed.len().max(1)));
    }
    for _ in 0..1 + random.below(4) {
        if !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] = random.bits() as u8;
        }
    }
    bytes
}

#[test]
fn no_target_fails_on_its_seeds() {
    for (name, target) in targets::TARGETS {
        let files: Vec<_> =
            std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has seeds");
        for path in files {
            let seed = std::fs::read(&path).unwrap();
            target(&seed);
            (0..VERSIONS).for_each(|version| target(&damaged(&seed, version)));
        }
    }
}
