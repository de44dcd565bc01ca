//! Small data and short runs for tests.
#![allow(dead_code, reason = "each test file uses its part of this one")]

pub(crate) mod hash;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_graph::random::Random;
use espalier_train::{Event, Outcome, Overrides, Request};

/// Height and width of the pictures.
const SIDE: usize = 16;

/// What a picture shows, and what its label says.
pub(crate) struct Drawn {
    pub(crate) shows: usize,
    pub(crate) label: usize,
}

/// Writes `n` grey pictures with labels as a split of an IDX folder: noise, brighter in one of four quarters by what it
/// shows.
pub(crate) fn split(folder: &Path, name: &str, n: usize, draw: impl Fn(usize, &mut Random) -> Drawn) {
    fs::create_dir_all(folder).unwrap();
    let mut random = Random::new(name.len() as u64, n as u64);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..n {
        let Drawn { shows, label } = draw(i, &mut random);
        for at in 0..SIDE * SIDE {
            let quarter = (at / SIDE / (SIDE / 2)) * 2 + at % SIDE / (SIDE / 2);
            let bright = if quarter == shows { 90 } else { 0 };
            pixels.push((random.uniform() * 160.0) as u8 + bright);
        }
        labels.push(label as u8);
    }
    let number = |v: usize| (v as u32).to_be_bytes();
    let images = [&[0, 0, 8, 3][..], &number(n), &number(SIDE), &number(SIDE), &pixels].concat();
    fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
    fs::write(
        folder.join(format!("{name}-labels-idx1-ubyte")),
        [&[0, 0, 8, 1][..], &number(n), &labels].concat(),
    )
    .unwrap();
}

/// Four classes that are told apart at a glance.
pub(crate) fn easy(folder: &Path, train: usize, val: usize) -> PathBuf {
    let data = folder.join("data");
    let honest = |i: usize, _: &mut Random| Drawn { shows: i % 4, label: i % 4 };
    split(&data, "train", train, honest);
    split(&data, "val", val, honest);
    data
}

/// A short run of LeNet on `data` into `folder/run`.
pub(crate) fn request(data: &Path, folder: &Path, overrides: Overrides) -> Request {
    let overrides = Overrides {
        model: overrides.model.or(Some("lenet".into())),
        batch: overrides.batch.or(Some(16)),
        threads: overrides.threads.or(Some(2)),
        ..overrides
    };
    Request {
        data: data.to_str().unwrap().into(),
        overrides,
        out: folder.join("run"),
        init: None,
        import: |_, _| unreachable!("there is nothing to import"),
        resume: false,
        checkpoint_every: Duration::from_secs(30),
        mlflow: None,
    }
}

/// Trains to the end; with the warnings that were given.
pub(crate) fn train(request: &Request) -> (Outcome, Vec<String>) {
    let mut warnings = Vec::new();
    let outcome = espalier_train::train(request, &mut |event| {
        if let Event::Warning { text } = event {
            warnings.push(text.to_string());
        }
    });
    (outcome.unwrap(), warnings)
}

/// Trains, and breaks off after `step` steps as a killed process does, without its last words.
pub(crate) fn broken_off(request: &Request, step: usize) {
    let result = std::panic::catch_unwind(|| {
        espalier_train::train(request, &mut |event| {
            if let Event::Step { step: done, .. } = event
                && done == step
            {
                std::panic::resume_unwind(Box::new("broken off"));
            }
        })
    });
    assert!(result.is_err(), "the run was to be broken off");
}
