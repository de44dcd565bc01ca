//! Pictures in every corner of their formats, against Pillow: palettes, few bits and many, interlacing, CMYK,
//! subsampling, animations. The files and their pixels come from bench/golden/pictures.py.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use espalier_tasks::{Limits, decode};
use serde::Deserialize;

/// What Pillow read.
#[derive(Deserialize)]
struct Expected {
    width: usize,
    height: usize,
    channels: usize,
    /// How far a value may be off.
    tolerance: u8,
    /// In hexadecimal, row by row.
    pixels: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pictures")
}

fn hexadecimal(text: &str) -> Vec<u8> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty());
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn check(name: &str, expected: &Expected) {
    let bytes = std::fs::read(folder().join(name)).unwrap();
    let image = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let shape = (image.width, image.height, image.channels);
    assert_eq!(shape, (expected.width, expected.height, expected.channels), "{name}");
    let pixels = hexadecimal(&expected.pixels);
    assert_eq!(pixels.len(), image.pixels.len(), "{name}");
    let off = |(i, (a, b)): (usize, (&u8, &u8))| (a.abs_diff(*b), i);
    let (worst, at) = image.pixels.iter().zip(&pixels).enumerate().map(off).max().unwrap();
    assert!(worst <= expected.tolerance, "{name}: value {at} is off by {worst}");
}

#[test]
fn every_picture_is_as_pillow_reads_it() {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let all: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    assert!(all.len() >= 30, "{} pictures", all.len());
    all.iter().for_each(|(name, expected)| check(name, expected));
    let files = std::fs::read_dir(folder()).unwrap();
    assert_eq!(files.count(), all.len() + 1, "every file there is has its answer");
}

/// No prefix of a file is a picture, but for what may follow the pixels: the rest of an animation, or a trailer.
#[test]
fn a_file_that_ends_early_is_refused() {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let all: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    for name in all.keys().filter(|name| !name.starts_with("animated")) {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let tail = if name.ends_with("png") { 16 } else { 1 };
        for end in 0..bytes.len() - tail {
            assert!(decode(&bytes[..end], &Limits::default()).is_err(), "{name} cut at {end}");
        }
    }
}
