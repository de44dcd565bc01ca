//! What decoding and augmentation cost a training step, with `ESPALIER_HEAVY=1`: an epoch over JPEG files against steps
//! on resident data.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use espalier_graph::Bindings;
use espalier_passes::Optimizer;
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_tasks::{ClassifyImage, Image, Limits, decode, resize};
use espalier_train::data::{self, Augment, Dataset, Images, Level, Loader, Sampling, Split, Statistics};
use espalier_train::networks::{NetworkOptions, build, initial_weights};
use espalier_train::step::{StepOptions, training_step};

const SIDE: usize = 128;
const BATCH: usize = 32;
const CLASSES: [&str; 4] = ["sign", "car", "pedestrian", "bicyclist"];
/// Pictures of each class at most.
const PICTURES: usize = 80;
const ROUNDS: usize = 5;
const THREADS: usize = 2;

/// The street scenes, if this machine has them.
fn street() -> Option<PathBuf> {
    let root = std::env::var_os("ESPALIER_DATA").map(PathBuf::from).or_else(|| {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        above.map(|folder| folder.join("../shared/data")).find(|folder| folder.is_dir())
    });
    root.map(|root| root.join("camvid-street")).filter(|set| set.is_dir())
}

/// Squares around the boxes of the scenes, as JPEG files in class folders.
fn crops(street: &Path, to: &Path) {
    let mut counts = [0; CLASSES.len()];
    CLASSES.iter().for_each(|class| fs::create_dir_all(to.join("train").join(class)).unwrap());
    let mut scenes: Vec<PathBuf> =
        fs::read_dir(street.join("images/train")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scenes.sort();
    for scene in scenes {
        let image = decode(&fs::read(&scene).unwrap(), &Limits::default()).unwrap();
        let labels = street.join("labels/train").join(scene.with_extension("txt").file_name().unwrap());
        for line in fs::read_to_string(labels).unwrap().lines() {
            let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let class = numbers[0] as usize;
            if counts[class] < PICTURES {
                let file = to.join("train").join(CLASSES[class]).join(format!("{}.jpg", counts[class]));
                fs::write(file, jpeg(&square(&image, &numbers[1..]))).unwrap();
                counts[class] += 1;
            }
        }
    }
}

/// The square around a box given by the shares of its centre and size, with at least 32 pixels a side.
fn square(scene: &Image, box_: &[f64]) -> Image {
    let (width, height) = (scene.width as f64, scene.height as f64);
    let side = (box_[2] * width).max(box_[3] * height).clamp(32.0, height) as usize;
    let start = |centre: f64, size: usize| {
        ((centre * size as f64) as usize).saturating_sub(side / 2).min(size - side)
    };
    let (left, top) = (start(box_[0], scene.width), start(box_[1], scene.height));
    let row = |y: usize| &scene.pixels[((top + y) * scene.width + left) * 3..][..side * 3];
    let pixels = (0..side).flat_map(|y| row(y).iter().copied()).collect();
    resize::resize(&Image::new(side, side, 3, pixels).unwrap(), [SIDE, SIDE])
}

fn jpeg(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    encoder.encode(&image.pixels, SIDE as u32, SIDE as u32, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn plan() -> Plan {
    let size = NetworkOptions { classes: CLASSES.len(), channels: 3, size: [SIDE; 2], width: 1.0 };
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let options = StepOptions { optimizer, weight_decay: 1e-3, clip_norm: None, ema: false };
    let step = training_step(&build("mobilenet_v2", &size).unwrap(), &options, &|_| false).unwrap();
    let options = Options { isa: Isa::best(), threads: THREADS, bindings: Bindings::batch(BATCH) };
    lower(&step, &initial_weights(&step, 0), options).unwrap()
}

/// A step on `batch`.
fn step(plan: &mut Plan, pool: &mut Pool, images: &[f32], targets: &[f32]) {
    plan.input("x").copy_from_slice(images);
    plan.input("target").copy_from_slice(targets);
    plan.input("lr").fill(0.01);
    plan.input_i32("rng").copy_from_slice(&[0, 1]);
    plan.run(pool);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
fn an_epoch_over_files_is_nearly_as_fast_as_resident_data() {
    if !std::env::var("ESPALIER_HEAVY").is_ok_and(|v| v == "1") {
        println!("skipped: five epochs of mobilenet_v2 (ESPALIER_HEAVY=1 runs them)");
        return;
    }
    let Some(street) = street() else {
        println!("skipped: camvid-street is neither in ESPALIER_DATA nor in ../shared/data");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    crops(&street, folder.path());
    let mut dataset = Dataset::open(folder.path().to_str().unwrap()).unwrap();
    let statistics: Statistics = dataset.survey(&Limits::default(), THREADS).unwrap();
    let task = ClassifyImage::new(
        [SIDE; 2],
        statistics.mean.clone(),
        statistics.std.clone(),
        dataset.classes.clone(),
    );
    let (mut plan, mut pool) = (plan(), Pool::new(THREADS));
    for level in [Level::Light, Level::Strong] {
        let augment = Augment::for_data(level, &statistics, SIDE);
        let side = augment.stored_side(SIDE, &statistics);
        let stored = task.with_size([side; 2]);
        // No budget: every picture is decoded in every epoch.
        let images = Images::load(dataset.split(Split::Train), &stored, &Limits::default(), 0, THREADS);
        let options = data::Options {
            batch: BATCH,
            size: [SIDE; 2],
            seed: 0,
            sampling: Sampling::Uniform,
            augment,
            smoothing: 0.1,
            threads: 1,
        };
        let loader = Loader::new(Arc::new(images.unwrap()), options);
        let batch = loader.epoch(0, 0).next_batch().unwrap().unwrap().clone();
        let steps = loader.batches_per_epoch();
        assert!(steps >= 8, "{steps} steps are too few to time");
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|round| {
                let files = timed(|| {
                    let mut batches = loader.epoch(round as u64, 0);
                    while let Some(batch) = batches.next_batch() {
                        let batch = batch.unwrap();
                        step(&mut plan, &mut pool, &batch.images, &batch.targets);
                    }
                });
                let resident = timed(|| {
                    (0..steps).for_each(|_| step(&mut plan, &mut pool, &batch.images, &batch.targets));
                });
                let rate = |time: Duration| (steps * BATCH) as f64 / time.as_secs_f64();
                println!(
                    "{level:?}: {:.0} images/s from files, {:.0} resident: {:.3}",
                    rate(files),
                    rate(resident),
                    resident.as_secs_f64() / files.as_secs_f64()
                );
                resident.as_secs_f64() / files.as_secs_f64()
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ROUNDS / 2];
        assert!(median >= 0.85, "{level:?}: {median:.3} of the speed on resident data");
    }
}
