//! Near copies planted in real data: how many are found, and how many pairs are told that nobody planted.
//! `ESPALIER_HEAVY=1` takes all of Fashion-MNIST too.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use espalier_graph::random::Random;
use espalier_tasks::resize::resize;
use espalier_tasks::{Image, Limits, decode};
use espalier_train::data::duplicates::{Group, Likeness};
use espalier_train::data::{Dataset, Split, SurveyOptions};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat};
use tempfile::TempDir;

/// Planted copies of each kind.
const PLANTED: usize = 100;

type Change = fn(&Image) -> Image;

const CHANGES: [(&str, Change); 8] = [
    ("jpeg90", |image| encoded(image, 90)),
    ("jpeg75", |image| encoded(image, 75)),
    ("jpeg50", |image| encoded(image, 50)),
    ("brighter", |image| brightness(image, 1.1)),
    ("darker", |image| brightness(image, 0.9)),
    ("smaller", |image| {
        resize(image, [image.height, image.width].map(|n| (n as f64 * 0.8).round() as usize))
    }),
    ("moved", moved),
    ("mirrored", mirrored),
];

fn color(image: &Image) -> ExtendedColorType {
    if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 }
}

fn encoded(image: &Image, quality: u8) -> Image {
    let (mut out, width, height) = (Vec::new(), image.width as u32, image.height as u32);
    JpegEncoder::new_with_quality(&mut out, quality)
        .encode(&image.pixels, width, height, color(image))
        .unwrap();
    decode(&out, &Limits::default()).unwrap()
}

fn brightness(image: &Image, factor: f32) -> Image {
    let pixels = image.pixels.iter().map(|&v| (f32::from(v) * factor).min(255.0) as u8).collect();
    Image { pixels, ..*image }
}

/// The pixel that stands at each place.
fn rearranged(image: &Image, source: impl Fn(usize, usize) -> (usize, usize)) -> Image {
    let places = (0..image.height).flat_map(|y| (0..image.width).map(move |x| (x, y)));
    let pixel = |(x, y): (usize, usize)| {
        let at = (y * image.width + x) * image.channels;
        image.pixels[at..at + image.channels].to_vec()
    };
    Image { pixels: places.flat_map(|(x, y)| pixel(source(x, y))).collect(), ..*image }
}

/// One pixel to the left; the last column stands twice.
fn moved(image: &Image) -> Image {
    rearranged(image, |x, y| ((x + 1).min(image.width - 1), y))
}

fn mirrored(image: &Image) -> Image {
    rearranged(image, |x, y| (image.width - 1 - x, y))
}

fn save(path: &Path, image: &Image) {
    let mut out = Cursor::new(Vec::new());
    let (width, height) = (image.width as u32, image.height as u32);
    image::write_buffer_with_format(&mut out, &image.pixels, width, height, color(image), ImageFormat::Bmp)
        .unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, out.into_inner()).unwrap();
}

/// What was found among `count` pictures of train with copies planted in val: for each change the number found, and the
/// number of groups that hold no planted copy with its original.
fn search(name: &str, set: &Path, count: usize) -> ([usize; 8], usize, usize) {
    let original = Dataset::open(set.to_str().unwrap()).unwrap();
    let samples: Vec<_> = original.split(Split::Train).iter().take(count).collect();
    let root = TempDir::new().unwrap();
    let images: Vec<Image> = samples.iter().map(|s| s.image(&Limits::default()).unwrap()).collect();
    for (i, image) in images.iter().enumerate() {
        save(&root.path().join(format!("train/x/{i}.bmp")), image);
    }
    let mut random = Random::new(1, 0);
    for (kind, (_, change)) in CHANGES.iter().enumerate() {
        for n in 0..PLANTED {
            let i = random.below(images.len());
            let path = format!("val/x/{kind}-{n}-{i}.bmp");
            save(&root.path().join(path), &change(&images[i]));
        }
    }
    let mut dataset = Dataset::open(root.path().to_str().unwrap()).unwrap();
    let survey = dataset.examine(&SurveyOptions {
        limits: Limits::default(),
        threads: 2,
        fingerprints: true,
        progress: &|_| {},
    });
    let start = Instant::now();
    let groups = survey.duplicates(2);
    println!("{name}: {} pictures searched in {:.1?}", samples.len(), start.elapsed());
    tally(&dataset, &groups)
}

fn tally(dataset: &Dataset, groups: &[Group]) -> ([usize; 8], usize, usize) {
    let mut found = std::collections::BTreeSet::new();
    let (mut false_pairs, mut other) = (0, 0);
    for group in groups {
        let names: Vec<String> = group
            .members
            .iter()
            .map(|m| Path::new(&dataset.sample(*m).name()).file_stem().unwrap().to_str().unwrap().to_string())
            .collect();
        let original = |name: &str| name.rsplit('-').next().unwrap().to_string();
        let originals: std::collections::BTreeSet<String> = names.iter().map(|name| original(name)).collect();
        for name in names.iter().filter(|name| name.contains('-')) {
            if names.contains(&original(name)) {
                found.insert(name.clone());
            }
        }
        // Every further original is a picture that nobody planted.
        false_pairs += originals.len() - 1;
        other += usize::from(group.likeness == Likeness::Mirrored && originals.len() > 1);
    }
    let count = |kind: usize| found.iter().filter(|name| name.starts_with(&format!("{kind}-"))).count();
    (std::array::from_fn(count), false_pairs, other)
}

fn check(name: &str, count: usize, recall: f64, unplanted: usize) {
    let Some(set) = espalier_testing::data(name) else { return };
    let (found, more, of_those_mirrored) = search(name, &set, count);
    let all: usize = found.iter().sum();
    for ((change, _), found) in CHANGES.iter().zip(found) {
        println!("{name}: {change}: {found} of {PLANTED}");
    }
    println!("{name}: {more} pairs that nobody planted ({of_those_mirrored} groups of them mirrored)");
    assert!(all as f64 >= recall * (8 * PLANTED) as f64, "{name}: {all} found");
    assert!(more <= unplanted, "{name}: {more} unplanted");
}

#[test]
fn photographs() {
    check("dogs-cars-bicycles", usize::MAX, 0.95, 5);
    check("street-objects-6", usize::MAX, 0.95, 5);
}

#[test]
fn small_grey_pictures() {
    check("fashion-mnist", 5_000, 0.85, 20);
    if espalier_testing::heavy("near copies among all of Fashion-MNIST") {
        check("fashion-mnist", usize::MAX, 0.8, 400);
    }
}
