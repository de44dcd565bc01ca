//! `espalier data` on sets with planted faults, on many files and on huge ones.

mod common;

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::Instant;

use common::{fresh, run};
use espalier_graph::random::Random;
use image::{ExtendedColorType, ImageFormat};
use serde_json::Value;

const SIDE: usize = 48;

/// A smooth random picture: waves of a few random directions, in colour.
fn scene(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed, 77);
    let waves: Vec<[f32; 4]> = (0..6)
        .map(|_| {
            [random.range(-0.5, 0.5), random.range(-0.5, 0.5), random.range(0.0, 6.3), random.range(0.0, 1.0)]
        })
        .collect();
    let value = |x: f32, y: f32, c: f32| {
        let sum: f32 = waves.iter().map(|w| (w[0] * x + w[1] * y + w[2] + c * w[3]).sin()).sum();
        (127.0 + 20.0 * sum) as u8
    };
    let places = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x as f32, y as f32)));
    places.flat_map(|(x, y)| [0.0, 1.0, 2.0].map(|c| value(x, y, c))).collect()
}

fn mirrored(pixels: &[u8]) -> Vec<u8> {
    let rows = pixels.chunks_exact(SIDE * 3);
    rows.flat_map(|row| row.chunks_exact(3).rev().flatten().copied().collect::<Vec<u8>>()).collect()
}

fn save(path: &Path, pixels: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let format = ImageFormat::from_path(path).unwrap();
    let mut out = Cursor::new(Vec::new());
    let side = SIDE as u32;
    image::write_buffer_with_format(&mut out, pixels, side, side, ExtendedColorType::Rgb8, format).unwrap();
    fs::write(path, out.into_inner()).unwrap();
}

fn data(folder: &Path, flags: &[&str]) -> common::Said {
    let said = run(&[&["data", folder.to_str().unwrap()], flags].concat());
    assert_eq!(said.status, Some(0), "{}", said.err);
    said
}

fn json(folder: &Path, flags: &[&str]) -> Value {
    let said = data(folder, &[flags, &["--json"]].concat());
    serde_json::from_str(said.out.lines().last().unwrap()).unwrap()
}

/// Twenty pictures for each of two classes, ten for val, and one of every fault.
fn faulty(name: &str) -> std::path::PathBuf {
    let root = fresh(name);
    for (i, class) in ["cat", "dog"].iter().enumerate() {
        (0..20).for_each(|n| save(&root.join(format!("train/{class}/{n}.png")), &scene(100 * i as u64 + n)));
        (0..5)
            .for_each(|n| save(&root.join(format!("val/{class}/{n}.png")), &scene(100 * i as u64 + 50 + n)));
    }
    save(&root.join("val/cat/leak.bmp"), &scene(3));
    fs::copy(root.join("train/dog/4.png"), root.join("val/dog/leak.png")).unwrap();
    fs::copy(root.join("train/dog/5.png"), root.join("train/cat/wrong.png")).unwrap();
    save(&root.join("train/cat/twin.bmp"), &scene(6));
    save(&root.join("train/dog/mirrored.png"), &mirrored(&scene(107)));
    fs::write(root.join("train/dog/<b>broken.jpg"), "no picture").unwrap();
    fs::write(root.join("train/dog/notes\n\x1b[31m.txt"), "no picture").unwrap();
    root
}

#[test]
fn planted_faults_are_found_and_nothing_else() {
    let root = faulty("data-faults");
    let value = json(&root, &[]);
    assert_eq!((&value["images"]["train"], &value["images"]["val"]), (&43.into(), &12.into()));
    assert_eq!((&value["leaks"]["val"], &value["leaks"]["test"]), (&2.into(), &0.into()), "{value}");
    assert_eq!((&value["width"]["min"], &value["grey_images"]), (&48.into(), &0.into()));
    assert!(value["unreadable"][0]["file"].as_str().unwrap().ends_with("<b>broken.jpg"));
    assert_eq!((&value["unreadable"][0]["split"], &value["suspicious"]), (&"train".into(), &Value::Null));
    assert!(value["ignored"][0]["file"].as_str().unwrap().ends_with("notes\n\u{1b}[31m.txt"));

    let groups = value["duplicates"].as_array().unwrap();
    let mut found: Vec<(String, bool, bool, Vec<&str>)> = groups
        .iter()
        .map(|group| {
            let files = group["files"].as_array().unwrap().iter();
            let names = files.map(|f| f["file"].as_str().unwrap().rsplit('/').next().unwrap());
            let flag = |key: &str| group[key].as_bool().unwrap();
            (group["likeness"].as_str().unwrap().to_string(), flag("leak"), flag("conflict"), names.collect())
        })
        .collect();
    found.sort();
    let expected = [
        ("exact", false, true, vec!["wrong.png", "5.png"]),
        ("exact", true, false, vec!["4.png", "leak.png"]),
        ("mirrored", false, false, vec!["7.png", "mirrored.png"]),
        ("near", false, false, vec!["6.png", "twin.bmp"]),
        ("near", true, false, vec!["3.png", "leak.bmp"]),
    ];
    let expected: Vec<_> = expected
        .map(|(likeness, leak, conflict, names)| (likeness.to_string(), leak, conflict, names))
        .into();
    assert_eq!(found, expected);
    let kinds: Vec<&Value> = value["findings"].as_array().unwrap().iter().map(|f| &f["kind"]).collect();
    assert_eq!(kinds, ["unreadable", "leaks", "conflicts", "duplicates", "mirrored", "ignored"]);
}

#[test]
fn the_text_says_what_to_do() {
    let root = faulty("data-text");
    let said = data(&root, &[]);
    for words in [
        "55 images in 2 classes",
        "2 images kept for measuring are in train too: 2 of val.",
        "Remove them from train",
        "1 picture with more than one label.",
        "not an image",
        "notes\\n\\u{1b}[31m.txt",
        "--deep",
    ] {
        assert!(said.out.contains(words), "{words}\n{}", said.out);
    }
    assert!(!said.out.contains('\x1b'), "no name reaches the terminal raw");
    let plain = fresh("data-plain");
    for n in 0..6 {
        save(&plain.join(format!("train/a/{n}.png")), &scene(n));
        save(&plain.join(format!("train/b/{n}.png")), &scene(n + 10));
        save(&plain.join(format!("val/a/{n}.png")), &scene(n + 20));
        save(&plain.join(format!("val/b/{n}.png")), &scene(n + 30));
    }
    assert!(data(&plain, &[]).out.contains("Nothing is wrong with it"), "{}", data(&plain, &[]).out);
}

#[test]
fn the_page_shows_pictures_and_loads_nothing() {
    let root = faulty("data-page");
    let path = root.join("page.html");
    data(&root, &["--html", path.to_str().unwrap()]);
    let text = fs::read_to_string(path).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.matches("src=\"data:image/png").count() > 20);
    assert!(text.contains("&lt;b&gt;broken.jpg") && !text.contains("<b>broken"), "names are text");
    assert!(!text.contains("http://") && !text.contains("https://"), "nothing is loaded");
}

/// Six labels of 120 are exchanged; the first suspects are these.
#[test]
fn deep_finds_wrong_labels() {
    let root = fresh("data-deep");
    for i in 0..120u64 {
        let [class, other] = if i < 60 { ["left", "low"] } else { ["low", "left"] };
        let label = if i % 20 == 7 { other } else { class };
        let path = root.join(format!("train/{label}/{class}-{i}.bmp"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, common::picture(16, class, i)).unwrap();
    }
    let value = json(&root, &["--deep", "--threads", "1"]);
    let suspects = value["suspicious"].as_array().unwrap();
    let is_wrong = |suspect: &&Value| {
        let file = suspect["file"].as_str().unwrap().rsplit('/').next().unwrap();
        !file.starts_with(suspect["label"].as_str().unwrap())
    };
    let right = suspects.iter().take(6).filter(is_wrong).count();
    assert!(right >= 5, "{right} of the first 6: {suspects:?}");
    assert_eq!(json(&root, &["--deep", "--threads", "1"])["suspicious"], value["suspicious"], "repeatable");
}

/// A PNG of one grey value, `side` by `side`: some kilobytes for any size.
fn blank(side: usize) -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
    };
    let size = (side as u32).to_be_bytes();
    let header = [&size[..], &size, &[8, 2, 0, 0, 0]].concat();
    let mut rows = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let row = vec![0; 1 + 3 * side];
    (0..side).for_each(|_| rows.write_all(&row).unwrap());
    let rows = rows.finish().unwrap();
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &rows), chunk(b"IEND", b"")].concat();
    [b"\x89PNG\r\n\x1a\n", &chunks[..]].concat()
}

/// The figure that docs/data.md states: 256 MiB for each thread.
#[test]
fn huge_pictures_stay_within_the_stated_memory() {
    let root = fresh("data-huge");
    let (huge, bomb) = (blank(7_900), blank(20_000));
    for class in ["train/a", "train/b", "val/a"] {
        let folder = root.join(class);
        fs::create_dir_all(&folder).unwrap();
        (0..2).for_each(|n| fs::write(folder.join(format!("{n}.png")), &huge).unwrap());
        fs::write(folder.join("bomb.png"), &bomb).unwrap();
    }
    let value = json(&root, &["--threads", "2"]);
    assert_eq!((&value["images"]["train"], &value["width"]["max"]), (&4.into(), &7900.into()));
    assert!(
        value["unreadable"][0]["reason"].as_str().unwrap().contains("more than 64000000 pixels"),
        "{value}"
    );
    let peak = value["peak_rss_bytes"].as_u64().unwrap();
    println!("{} MiB at most for pictures of 62 megapixels on 2 threads", peak >> 20);
    assert!(peak < (2 * 256 + 64) << 20, "{} MiB", peak >> 20);
}

#[test]
fn a_hundred_thousand_files() {
    const FILES: u64 = 100_000;
    if !espalier_testing::heavy("100,000 files") {
        return;
    }
    let root = fresh("data-many");
    for class in 0..10 {
        fs::create_dir_all(root.join(format!("train/{class}"))).unwrap();
    }
    for i in 0..FILES {
        let path = root.join(format!("train/{}/a-rather-long-name-{i:08}.png", i % 10));
        fs::write(path, small(i)).unwrap();
    }
    let start = Instant::now();
    let value = json(&root, &["--threads", "2"]);
    let (seconds, peak) = (start.elapsed().as_secs_f64(), value["peak_rss_bytes"].as_u64().unwrap());
    println!("100,000 files: {seconds:.1} s, {} MiB at most", peak >> 20);
    let counts = ["train", "val"].map(|split| value["images"][split].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), FILES, "val is split off train: {counts:?}");
    let found = value["duplicates"].as_array().unwrap().len();
    assert_eq!(found, 0, "{}", value["duplicates"][0]);
    assert!(peak < (64 << 20) + FILES * 2048, "{} MiB", peak >> 20);
    fs::remove_dir_all(root).unwrap();
}

/// A picture of 16x16 that no other is like.
fn small(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed, 1);
    let pixels: Vec<u8> = (0..256).map(|_| (random.uniform() * 256.0) as u8).collect();
    let mut out = Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut out, &pixels, 16, 16, ExtendedColorType::L8, ImageFormat::Png)
        .unwrap();
    out.into_inner()
}
