//! The real command, and small data for it. Each test file takes its part.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use espalier_graph::random::Random;

/// How a command ended and what it said.
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The command with `args`, on two threads or fewer, ready to start.
pub(crate) fn espalier(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(args).env("RUST_BACKTRACE", "1");
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Said {
    let output = espalier(args).output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("the command speaks UTF-8");
    Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// An empty folder of this name for one test; what an earlier run left there is gone.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the folder for tests can be written");
    path
}

/// `n` pictures of 16 by 16 pixels in `folder/CLASS`: noise, and a bright half that tells the class.
pub(crate) fn pictures(folder: &Path, class: &str, n: usize) {
    let folder = folder.join(class);
    fs::create_dir_all(&folder).unwrap();
    for i in 0..n {
        fs::write(folder.join(format!("{i}.bmp")), picture(16, class, i as u64)).unwrap();
    }
}

/// A BMP of `side` by `side` pixels.
pub(crate) fn picture(side: usize, class: &str, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed, class.len() as u64);
    let bright = |x: usize, y: usize| match class {
        "left" => x < side / 2,
        "right" => x >= side / 2,
        _ => y >= side / 2,
    };
    let mut pixel =
        |x, y| [(); 3].map(|()| (random.uniform() * 128.0) as u8 + if bright(x, y) { 100 } else { 0 });
    let pixels: Vec<u8> = (0..side * side).flat_map(|i| pixel(i % side, i / side)).collect();
    bmp(side, &pixels)
}

/// The 24-bit BMP of a square; `side * 3` must be a multiple of 4.
fn bmp(side: usize, pixels: &[u8]) -> Vec<u8> {
    let number = |v: usize| (v as u32).to_le_bytes();
    let mut bytes = b"BM".to_vec();
    for v in [54 + pixels.len(), 0, 54, 40, side, side] {
        bytes.extend(number(v));
    }
    bytes.extend([1, 0, 24, 0]);
    for v in [0, pixels.len(), 0, 0, 0, 0] {
        bytes.extend(number(v));
    }
    bytes.extend(pixels);
    bytes
}
