//! Datasets in temporary folders: good ones, odd ones and broken ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_tasks::{ClassifyImage, Limits};
use tempfile::TempDir;

use super::split::{VAL_ONLY, WHOLE, by_name};
use super::*;

const THREADS: usize = 2;

/// A PNG of one grey value, 6 wide and 4 high.
fn grey_png(value: u8) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    let (color, format) = (image::ExtendedColorType::L8, image::ImageFormat::Png);
    image::write_buffer_with_format(&mut out, &[value; 24], 6, 4, color, format).unwrap();
    out.into_inner()
}

/// A folder with these files; a path ending in `/` is a folder.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, bytes) in files {
        write(&root.path().join(path), path, bytes);
    }
    root
}

fn write(to: &Path, path: &str, bytes: &[u8]) {
    fs::create_dir_all(if path.ends_with('/') { to } else { to.parent().unwrap() }).unwrap();
    if !path.ends_with('/') {
        fs::write(to, bytes).unwrap();
    }
}

/// `n` different images in each of these folders.
fn images(root: &Path, folders: &[&str], n: usize) {
    for (f, folder) in folders.iter().enumerate() {
        for i in 0..n {
            let name = format!("{folder}/{i}.png");
            write(&root.join(&name), &name, &grey_png((f * n + i) as u8));
        }
    }
}

fn open(root: &TempDir) -> Result<Dataset, DataError> {
    Dataset::open(root.path().to_str().unwrap())
}

fn survey(dataset: &mut Dataset) -> Result<Statistics, DataError> {
    dataset.survey(&Limits::default(), THREADS)
}

fn sizes(dataset: &Dataset) -> [usize; 3] {
    Split::ALL.map(|split| dataset.split(split).len())
}

fn files(dataset: &Dataset, split: Split) -> Vec<String> {
    let name = |sample: &Sample| name_of(Path::new(&sample.name()));
    dataset.split(split).iter().map(name).collect()
}

#[test]
fn what_is_no_dataset_says_what_is() {
    let check = |spec: &str, words: &str| {
        let error = Dataset::open(spec).unwrap_err();
        assert!(error.is_usage(), "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("builtin:mnist-5k"), "{text}");
    };
    let root =
        folder(&[("file.txt", b"x"), ("empty/", b""), ("no-images/a/b.txt", b"x"), ("deep/a/b/c.png", b"x")]);
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    check("/does/not/exist", "does not exist");
    check("builtin:mnist", "no such built-in");
    check(&path("file.txt"), "not a folder");
    check(&path("empty"), "no folders in it");
    check(&path("no-images"), "no image found");
    check(&path("deep"), "no image found");
}

#[test]
fn three_splits_as_they_are() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/b", "train/a", "val/a", "val/b", "test/b"], 3);
    let dataset = open(&root).unwrap();
    assert_eq!(dataset.classes, ["a", "b"]);
    assert_eq!(sizes(&dataset), [6, 6, 3]);
    assert_eq!(dataset.counts(Split::Train), [3, 3]);
    assert_eq!(dataset.split(Split::Test)[0].label, 1);
    assert_eq!(dataset.warnings, ["test has no image of [\"a\"]"]);
    assert_eq!(dataset.name, name_of(root.path()));
}

#[test]
fn val_is_split_off_train() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b", "test/a"], 50);
    let dataset = open(&root).unwrap();
    let [train, val, test] = sizes(&dataset);
    assert_eq!((train + val, test), (100, 50));
    assert!((2..=25).contains(&val), "{val}");
}

#[test]
fn class_folders_are_split_by_name_and_stay_so() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["x", "y"], 200);
    let before = open(&root).unwrap();
    let [train, val, test] = sizes(&before);
    assert_eq!(train + val + test, 400);
    assert!((280..=350).contains(&train) && val > 10 && test > 10, "{train} {val} {test}");
    for i in 200..260 {
        fs::write(root.path().join(format!("x/{i}.png")), grey_png(i as u8)).unwrap();
    }
    let after = open(&root).unwrap();
    for split in Split::ALL {
        let now = files(&after, split);
        assert!(files(&before, split).iter().all(|file| now.contains(file)), "{split} kept its files");
    }
}

#[test]
fn small_classes_reach_every_split() {
    for n in 0..40 {
        let files: Vec<PathBuf> = (0..n).map(|i| PathBuf::from(format!("{i}.png"))).collect();
        let [train, val, test] = by_name(files.clone(), WHOLE).map(|split| split.len());
        assert_eq!(train + val + test, n);
        assert!(train > 0 || n == 0);
        assert_eq!(val > 0 && test > 0, n >= 3, "{n}");
        let [train, val, test] = by_name(files, VAL_ONLY).map(|split| split.len());
        assert!(test == 0 && train + val == n && (val > 0) == (n >= 3));
    }
}

#[test]
fn what_is_no_image_is_named() {
    let root = folder(&[
        ("train/a/notes.txt", b"hello"),
        ("train/a/.hidden.png", b"x"),
        ("train/a/sub/1.png", b"x"),
        ("train/stray.png", b"x"),
        ("valid/a/1.png", b"x"),
        (".cache/a", b"x"),
        ("train/a/no-extension", &grey_png(200)),
    ]);
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 5);
    let dataset = open(&root).unwrap();
    let skipped: BTreeMap<_, _> =
        dataset.skipped.iter().map(|s| (name_of(Path::new(&s.name)), s.reason.as_str())).collect();
    let expected = [
        ("notes.txt", "not an image"),
        ("stray.png", "not in a class folder"),
        ("sub", "a folder inside a class folder"),
        ("valid", "a folder beside train, val and test"),
    ];
    assert_eq!(skipped, expected.map(|(name, reason)| (name.to_owned(), reason)).into());
    assert_eq!(sizes(&dataset), [11, 10, 0]);
}

#[test]
fn a_bad_image_among_many_is_set_aside() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 50);
    fs::write(root.path().join("train/a/3.png"), &grey_png(3)[..50]).unwrap();
    let mut dataset = open(&root).unwrap();
    let statistics = survey(&mut dataset).unwrap();
    assert_eq!((statistics.images, statistics.unreadable), ([99, 100, 0], [1, 0, 0]));
    assert_eq!(sizes(&dataset), [99, 100, 0]);
    assert_eq!(dataset.skipped.len(), 1);
    assert!(dataset.skipped[0].name.ends_with("3.png") && dataset.skipped[0].reason.starts_with("PNG"));

    fs::write(root.path().join("train/b/4.png"), b"").unwrap();
    let error = survey(&mut open(&root).unwrap()).unwrap_err();
    assert!(matches!(error, DataError::Unreadable { split: Split::Train, bad: 2, n: 100, .. }), "{error}");
    assert!(error.to_string().contains("3.png") && error.to_string().contains("4.png"), "{error}");
}

#[test]
fn classes_that_do_not_match() {
    let empty = |root: &TempDir| match open(root).and_then(|mut dataset| survey(&mut dataset)) {
        Err(DataError::EmptyClass { class, split: Split::Train }) => class,
        other => panic!("{other:?}"),
    };
    let root = folder(&[("train/none/", b"")]);
    images(root.path(), &["train/a", "train/b"], 3);
    assert_eq!(empty(&root), "none");

    let root = folder(&[("none/", b"")]);
    images(root.path(), &["a", "b"], 3);
    assert_eq!(empty(&root), "none");

    let root = folder(&[("train/broken/1.png", b"x")]);
    images(root.path(), &["train/a", "val/a"], 99);
    assert_eq!(empty(&root), "broken");

    let root = folder(&[("val/b/", b"")]);
    images(root.path(), &["train/a", "train/b", "val/a"], 3);
    assert_eq!(open(&root).unwrap().warnings, ["val has no image of [\"b\"]"]);

    images(root.path(), &["val/c"], 1);
    let error = open(&root).unwrap_err().to_string();
    assert!(error.contains("class \"c\" of val is not among [\"a\", \"b\"]"), "{error}");
}

#[test]
fn labels_are_matched_by_name() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["val/dog", "val/car"], 2);
    let mut dataset = open(&root).unwrap();
    assert!(matches!(dataset.require(Split::Train), Err(DataError::NoSplit { split: Split::Train, .. })));
    let labels = ["bus", "dog", "car"].map(String::from);
    dataset.match_labels(&labels).unwrap();
    let found: Vec<usize> = dataset.require(Split::Val).unwrap().iter().map(|sample| sample.label).collect();
    assert_eq!(found, [2, 2, 1, 1]);
    assert!(
        matches!(dataset.match_labels(&labels[..2]), Err(DataError::UnknownClass { class, .. }) if class == "car")
    );
}

/// The files that an examination set aside, by name, with the reason.
fn set_aside(root: &Path) -> BTreeMap<String, String> {
    let mut dataset = Dataset::open(root.to_str().unwrap()).unwrap();
    dataset.examine(&SurveyOptions {
        limits: Limits::default(),
        threads: THREADS,
        fingerprints: true,
        progress: &|_| {},
    });
    let name = |path: &str| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
    dataset.skipped.iter().map(|s| (name(&s.name), s.reason.clone())).collect()
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_back() {
    use std::os::unix::fs::symlink;
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 3);
    let link = |to: &str, name: &str| symlink(to, root.path().join(name)).unwrap();
    symlink(root.path(), root.path().join("train/a/loop")).unwrap();
    symlink(root.path().join("train"), root.path().join("train/b/below")).unwrap();
    link("round.png", "train/a/round.png");
    link("nowhere.png", "train/a/dangling.png");
    link("nowhere", "train/a/dangling");
    link("/dev/zero", "train/a/endless.png");
    link("0.png", "train/b/link.png");
    let check = |name: &str, words: &str| {
        let aside = set_aside(root.path());
        let reason = aside.get(name).unwrap_or_else(|| panic!("{name} is not in {aside:?}"));
        assert!(reason.contains(words), "{name}: {reason}");
    };
    check("loop", "a folder inside a class folder");
    check("below", "a folder inside a class folder");
    check("round.png", "symbolic links");
    check("dangling.png", "No such file");
    check("dangling", "No such file");
    check("endless.png", "not a regular file");
    assert_eq!(set_aside(root.path()).len(), 6);
    // What is called like an image and cannot be read counts as an unreadable image.
    let error = survey(&mut open(&root).unwrap()).unwrap_err();
    assert!(matches!(error, DataError::Unreadable { split: Split::Train, bad: 2, n: 9, .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn odd_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 3);
    let file = |class: &str, name: &[u8], value| {
        let folder = root.path().join(class);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), grey_png(value)).unwrap();
    };
    file("train/a", b"\xff\xfe.png", 99);
    file("train/a", b"two\nlines.png", 98);
    file("train/a", b"-rf.PNG", 97);
    let mut dataset = open(&root).unwrap();
    assert_eq!(survey(&mut dataset).unwrap().images, [9, 6, 0]);
    assert!(files(&dataset, Split::Train).contains(&"two\nlines.png".to_owned()));
    // Labels are text, so two names that are none cannot fall together.
    fs::create_dir(root.path().join("train").join(OsStr::from_bytes(b"caf\xe9"))).unwrap();
    let error = open(&root).unwrap_err().to_string();
    assert!(error.contains("caf\u{fffd}: a label is text: rename this folder in UTF-8"), "{error}");
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 3);
    let secret = root.path().join("train/a/0.png");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&secret).is_ok() {
        return espalier_testing::skip("this user may read everything");
    }
    assert!(set_aside(root.path())["0.png"].contains("ermission denied"));
    fs::set_permissions(root.path().join("train/b"), fs::Permissions::from_mode(0o000)).unwrap();
    let error = open(&root).unwrap_err().to_string();
    assert!(error.contains("train/b") && error.contains("ermission denied"), "{error}");
    fs::set_permissions(root.path().join("train/b"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn classes_that_differ_in_case_only() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/Dog", "train/dog", "train/cat", "val/cat"], 3);
    if fs::read_dir(root.path().join("train")).unwrap().count() < 3 {
        return espalier_testing::skip("this file system knows no case");
    }
    let warnings = open(&root).unwrap().warnings;
    assert!(warnings[0].contains("[\"Dog\", \"dog\"] differ in nothing but case"), "{warnings:?}");
}

#[test]
fn copies_under_two_labels_are_a_warning() {
    let root = folder(&[("train/a/x.png", &grey_png(200)), ("train/b/y.png", &grey_png(200))]);
    images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 3);
    let mut dataset = open(&root).unwrap();
    survey(&mut dataset).unwrap();
    let warning =
        dataset.warnings.iter().find(|w| w.contains("1 images have several labels")).expect("a warning");
    assert!(warning.contains("x.png (a) = ") && warning.ends_with("y.png (b)"), "{warning}");
}

#[test]
fn statistics_by_hand() {
    let root = folder(&[("train/a/1.png", &grey_png(0)), ("train/b/1.png", &grey_png(255))]);
    images(root.path(), &["val/a"], 1);
    let mut dataset = open(&root).unwrap();
    let statistics = survey(&mut dataset).unwrap();
    assert_eq!(statistics.width, Range { min: 6, median: 6, max: 6 });
    assert_eq!((statistics.image_size(), statistics.channels()), (4, 1));
    assert_eq!((statistics.mean, statistics.std), (vec![0.5], vec![0.5]));
    assert_eq!(statistics.leaked, 1, "the image of val is black like that of train");
    assert!(
        dataset.warnings.iter().any(|warning| warning.contains("in train as well")),
        "{:?}",
        dataset.warnings
    );
}

#[test]
fn recommended_sizes() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b"], 3);
    let mut statistics = survey(&mut open(&root).unwrap()).unwrap();
    for (median, size) in [(28, 28), (32, 32), (64, 64), (65, 64), (100, 96), (200, 192), (480, 224)] {
        statistics.width.median = median;
        statistics.height.median = median + 3;
        assert_eq!(statistics.image_size(), size);
    }
}

#[test]
fn the_digest_is_of_the_content() {
    let digest = |edit: &dyn Fn(&Path)| {
        let root = TempDir::new().unwrap();
        images(root.path(), &["train/a", "train/b", "val/a", "val/b"], 4);
        edit(root.path());
        survey(&mut open(&root).unwrap()).unwrap().digest
    };
    let original = digest(&|_| ());
    assert_eq!(original.len(), 64);
    assert_eq!(
        original,
        digest(&|root| fs::rename(root.join("train/a/0.png"), root.join("train/a/z.png")).unwrap())
    );
    assert_ne!(
        original,
        digest(&|root| fs::rename(root.join("train/a/0.png"), root.join("train/b/z.png")).unwrap())
    );
    assert_ne!(
        original,
        digest(&|root| fs::rename(root.join("train/a/0.png"), root.join("val/a/z.png")).unwrap())
    );
    assert_ne!(original, digest(&|root| fs::write(root.join("train/a/0.png"), grey_png(77)).unwrap()));
}

/// An IDX file: the header says `shape`, the body is `values`.
fn idx_file(shape: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, shape.len() as u8];
    shape.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(values);
    bytes
}

#[test]
fn idx_headers_that_lie() {
    let good = idx_file(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let read = |images: &[u8], labels: &[u8]| idx::samples("set", images, labels);
    let labels = idx_file(&[2], &[0, 1]);
    let samples = read(&good, &labels).unwrap();
    assert_eq!(samples[1].image(&Limits::default()).unwrap().pixels, [4, 5, 6]);
    let check = |images: &[u8], words: &str| {
        let error = read(images, &labels).unwrap_err();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    };
    check(&idx_file(&[2, 1, 4], &[0; 6]), "only 6 values follow");
    check(&idx_file(&[2, 1, 2], &[0; 6]), "more values follow");
    check(&idx_file(&[1 << 30, 1, 1], &[0; 6]), "only 6 values follow");
    check(&idx_file(&[u32::MAX, u32::MAX, u32::MAX], &[0; 6]), "too many");
    check(&idx_file(&[3, 1, 2], &[0; 6]), "3 images but 2 labels");
    check(&idx_file(&[2, 0, 9], &[]), "none");
    check(&good[..9], "cut off");
    check(&[], "cut off");
    check(&labels, "IDX bytes of 3 dimensions");
    check(b"\x1f\x8bgarbage", "begins with");
    check(&idx_file(&[5 << 20, 1, 1], &vec![0; 5 << 20]), "more than 4194304");
    check(&idx_file(&[1 << 20, 1 << 5, 1 << 6], &[0; 6]), "too many");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn idx_folders() {
    let labels: Vec<u8> = (0..40).map(|i| i % 2).collect();
    let (images, labels) = (idx_file(&[40, 1, 1], &[5; 40]), idx_file(&[40], &labels));
    let (packed, packed_labels) = (gzip(&images), gzip(&labels));
    let train: [(&str, &[u8]); 2] =
        [("train-images-idx3-ubyte.gz", &packed), ("train-labels-idx1-ubyte.gz", &packed_labels)];
    let root = folder(
        &[&train[..], &[("t10k-images.idx3-ubyte", &images), ("t10k-labels.idx1-ubyte", &labels)]].concat(),
    );
    let dataset = open(&root).unwrap();
    assert_eq!((sizes(&dataset), dataset.classes), ([36, 4, 40], vec!["0".to_owned(), "1".to_owned()]));

    let root = folder(&[("set-images-idx3-ubyte", &images), ("set-labels-idx1-ubyte", &labels)]);
    assert_eq!(sizes(&open(&root).unwrap()), [32, 4, 4]);

    let check = |files: &[(&str, &[u8])], words: &str| {
        let error = open(&folder(files)).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    };
    check(&train[..1], "labels file is missing");
    check(&[train[0], (train[1].0, &packed_labels[..20])], "labels:");
    check(
        &[&train[..], &[("x-images-idx3-ubyte", &images), ("x-labels-idx1-ubyte", &labels)]].concat(),
        "\"x\" is not",
    );
    let gap = idx_file(&[40], &[2; 40]);
    check(&[train[0], ("train-labels-idx1-ubyte", &gap)], "class \"0\" has no image in train");
}

#[test]
fn the_builtin_set_is_stratified() {
    let mut dataset = Dataset::open("builtin:mnist-5k").unwrap();
    for (split, n) in Split::ALL.into_iter().zip([400, 50, 50]) {
        assert_eq!(dataset.counts(split), [n; 10], "{split}");
    }
    assert_eq!(dataset.classes.join(""), "0123456789");
    let statistics = survey(&mut dataset).unwrap();
    assert_eq!((statistics.image_size(), statistics.channels(), statistics.leaked), (28, 1, 0));
    assert!((statistics.mean[0] - 0.1307).abs() < 0.005 && (statistics.std[0] - 0.3081).abs() < 0.005);
}

#[test]
fn real_sets() {
    let check = |set: &str, expected: [usize; 3], size: usize, channels: usize| {
        let Some(path) = espalier_testing::data(set) else { return };
        let mut dataset = Dataset::open(path.to_str().unwrap()).unwrap();
        assert_eq!(sizes(&dataset), expected, "{set}");
        let start = std::time::Instant::now();
        let statistics = survey(&mut dataset).unwrap();
        println!("{set}: {statistics:?} {:?} in {:?}", dataset.warnings, start.elapsed());
        assert_eq!((statistics.image_size(), statistics.channels()), (size, channels));
        assert_eq!(dataset.skipped, []);
    };
    check("dogs-cars-bicycles", [1260, 210, 0], 32, 3);
    check("street-objects-6", [2400, 420, 0], 32, 3);
    check("fashion-mnist", [54_000, 6_000, 10_000], 28, 1);
}

/// The built-in train split at its own size.
fn digits(budget_bytes: u64) -> Arc<Images> {
    let dataset = Dataset::open("builtin:mnist-5k").unwrap();
    let task = ClassifyImage::new([28, 28], vec![0.13], vec![0.31], dataset.classes.clone());
    let samples = dataset.split(Split::Train);
    Arc::new(Images::load(samples, &task, &Limits::default(), budget_bytes, THREADS).unwrap())
}

fn options(threads: usize) -> Options {
    let geometric = Geometric { pad: 2, rotate_degrees: 10.0, ..Geometric::default() };
    let augment = Augment { geometric, mixup: 0.3, erase: 0.2, ..Augment::default() };
    Options {
        batch: 300,
        size: [28, 28],
        seed: 5,
        sampling: Sampling::Uniform,
        augment,
        smoothing: 0.1,
        threads,
    }
}

fn collect(mut batches: Batches) -> Vec<Batch> {
    let mut all = Vec::new();
    while let Some(batch) = batches.next_batch() {
        all.push(batch.unwrap().clone());
    }
    all
}

#[test]
fn batches_do_not_depend_on_threads_cache_or_history() {
    let loader = Loader::new(digits(CACHE_BYTES), options(1));
    let all = collect(loader.epoch(3, 0));
    assert_eq!((all.len(), loader.batches_per_epoch()), (13, 13));
    for threads in [2, 5, 40] {
        assert!(
            collect(Loader::new(digits(CACHE_BYTES), options(threads)).epoch(3, 0)) == all,
            "{threads} threads"
        );
    }
    let uncached = digits(0);
    assert!(!uncached.is_cached());
    assert!(
        collect(Loader::new(uncached, options(2)).epoch(3, 9)) == all[9..],
        "resumed, and decoded each time"
    );
    assert!(collect(loader.epoch(3, 13)).is_empty());
    let other = collect(loader.epoch(4, 0));
    assert_ne!(other[0].indices, all[0].indices);
}

#[test]
fn an_epoch_sees_each_image_at_most_once_and_val_each_once() {
    let images = digits(CACHE_BYTES);
    let indices =
        |batches| -> Vec<usize> { collect(batches).into_iter().flat_map(|batch| batch.indices).collect() };
    let mut seen = indices(Loader::new(images.clone(), options(2)).epoch(0, 0));
    assert_eq!(seen.len(), 3900, "the rest of 100 is left out");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3900);
    assert_eq!(indices(Batches::eval(images.clone(), 300, 3)), (0..4000).collect::<Vec<_>>());
    let one = Loader::new(images, Options { batch: 5000, ..options(2) });
    assert_eq!(indices(one.epoch(0, 0)).len(), 4000, "less than one batch is one batch");
}

#[test]
fn batches_hold_what_the_task_says() {
    let images = digits(CACHE_BYTES);
    let task = images.task().clone();
    let batches = collect(Batches::eval(images.clone(), 7, 2));
    let (batch, mut expected) = (&batches[100], vec![0.0; 784]);
    for (i, &index) in batch.indices.iter().enumerate() {
        let sample = &images.samples()[index];
        task.input.preprocess(&sample.image(&Limits::default()).unwrap(), &mut expected).unwrap();
        assert_eq!(batch.images[i * 784..(i + 1) * 784], expected);
        assert_eq!(batch.labels[i], sample.label);
        let target: Vec<f32> = (0..10).map(|class| f32::from(class == sample.label)).collect();
        assert_eq!(batch.targets[i * 10..(i + 1) * 10], target);
    }
    assert_eq!(batches.last().unwrap().labels.len(), 4000 % 7);
}

#[test]
fn balanced_epochs_draw_classes_equally_often() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/few", "val/few"], 10);
    images(root.path(), &["train/many"], 90);
    images(root.path(), &["val/few", "val/many"], 1);
    let dataset = open(&root).unwrap();
    let task = ClassifyImage::new([4, 6], vec![0.5; 1], vec![0.5; 1], dataset.classes.clone());
    let samples = dataset.split(Split::Train);
    let images = Arc::new(Images::load(samples, &task, &Limits::default(), CACHE_BYTES, THREADS).unwrap());
    let options = Options { batch: 100, size: task.input.size, sampling: Sampling::Balanced, ..options(1) };
    let loader = Loader::new(images, options);
    let epochs: Vec<Batch> = (0..20).flat_map(|epoch| collect(loader.epoch(epoch, 0))).collect();
    let (mut few, mut once) = (0, vec![0; 100]);
    for batch in &epochs {
        assert_eq!(batch.indices.len(), 100);
        few += batch.labels.iter().filter(|&&label| label == 0).count();
        batch.indices.iter().for_each(|&index| once[index] += 1);
    }
    assert!((900..1100).contains(&few), "{few} of 2000 are of the small class");
    assert!(once.iter().all(|&n| n > 0), "every image has its turn: {once:?}");
    assert_eq!(collect(loader.epoch(3, 0))[0], epochs[3]);
    assert_ne!(epochs[3].indices, epochs[4].indices);
}

#[test]
fn unequal_classes_are_reported() {
    let check = |counts: &[(&str, usize)], expected: Option<&str>| {
        let root = TempDir::new().unwrap();
        counts.iter().for_each(|&(class, n)| images(root.path(), &[&format!("train/{class}")], n));
        images(root.path(), &["val/a", "val/b"], 1);
        let mut dataset = open(&root).unwrap();
        let statistics = survey(&mut dataset).unwrap();
        assert_eq!(statistics.per_class, counts.iter().map(|&(_, n)| n).collect::<Vec<_>>());
        let warning = dataset.warnings.iter().find(|warning| warning.contains("differ in size"));
        assert_eq!(warning.map(String::as_str), expected);
    };
    check(&[("a", 4), ("b", 6)], None);
    let said = "classes of train differ in size: b 7, a 4; --sampling balanced draws them equally often";
    check(&[("a", 4), ("b", 7)], Some(said));
    let many: Vec<(String, usize)> =
        (0..15).map(|i| (format!("{}", (b'a' + i) as char), 2 + i as usize)).collect();
    let many: Vec<(&str, usize)> = many.iter().map(|(class, n)| (class.as_str(), *n)).collect();
    let said = "classes of train differ in size: o 16, n 15, m 14, l 13, k 12, j 11, i 10, h 9, g 8, .. a 2; \
        --sampling balanced draws them equally often";
    check(&many, Some(said));
}

#[test]
fn a_preview_is_what_the_network_sees_first() {
    let images = digits(CACHE_BYTES);
    let loader = Loader::new(images.clone(), options(2));
    let preview = loader.preview(310).unwrap();
    let batches = collect(loader.epoch(0, 0));
    let seen = batches[..2].iter().flat_map(|batch| batch.images.chunks(784));
    for (picture, input) in preview.iter().zip(seen) {
        assert_eq!((picture.width, picture.height, picture.channels), (28, 28, 1));
        for (&pixel, v) in picture.pixels.iter().zip(input) {
            assert!((f32::from(pixel) / 255.0 - (v * 0.31 + 0.13)).abs() < 0.5001 / 255.0);
        }
    }
    assert_eq!((preview.len(), loader.preview(5).unwrap()), (310, preview[..5].to_vec()));
    assert_eq!(loader.preview(100_000).unwrap().len(), 3900, "an epoch has no more");
}

#[test]
fn larger_pictures_are_cropped_to_the_input_size() {
    let dataset = Dataset::open("builtin:mnist-5k").unwrap();
    let task = ClassifyImage::new([35, 35], vec![0.13], vec![0.31], dataset.classes.clone());
    let samples = &dataset.split(Split::Train)[..50];
    let images = Arc::new(Images::load(samples, &task, &Limits::default(), CACHE_BYTES, THREADS).unwrap());
    let augment =
        Augment { geometric: Geometric { crop: 0.5, ..Geometric::default() }, ..Augment::default() };
    let batch =
        collect(Loader::new(images, Options { batch: 50, augment, ..options(1) }).epoch(0, 0)).remove(0);
    assert_eq!(batch.images.len(), 50 * 28 * 28);
    assert!(
        batch.images.chunks(784).all(|image| image.iter().any(|&v| v > 1.0)),
        "every digit is in its crop"
    );
}

#[test]
fn dropping_early_ends_the_threads() {
    let images = digits(CACHE_BYTES);
    for taken in [0, 1, 3] {
        let mut batches = Loader::new(images.clone(), options(3)).epoch(0, 0);
        (0..taken).for_each(|_| assert!(batches.next_batch().unwrap().is_ok()));
        drop(batches);
        assert_eq!(Arc::strong_count(&images), 1, "no thread holds the images any more");
    }
}

#[test]
fn an_image_that_vanishes_is_named() {
    let root = TempDir::new().unwrap();
    images(root.path(), &["train/a", "train/b"], 10);
    let dataset = open(&root).unwrap();
    let task = ClassifyImage::new([4, 4], vec![0.5; 3], vec![0.5; 3], dataset.classes.clone());
    let load = |budget| Images::load(dataset.split(Split::Train), &task, &Limits::default(), budget, THREADS);
    let images = Arc::new(load(0).unwrap());
    let lost = dataset.split(Split::Train)[3].name();
    fs::remove_file(&lost).unwrap();
    let check = |error: DataError| assert!(error.to_string().starts_with(&lost), "{error}");
    check(load(CACHE_BYTES).unwrap_err());
    let mut batches = Batches::eval(images, 2, 2);
    assert!(batches.next_batch().unwrap().is_ok());
    check(batches.next_batch().unwrap().unwrap_err());
    assert!(batches.next_batch().is_none(), "nothing follows an error");
}
