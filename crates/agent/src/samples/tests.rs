//! Hard samples, by example and by property.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use espalier_graph::random::Random;
use espalier_tasks::reference::Look;
use espalier_tasks::{Answer, ClassifyImage, Image, Observation, Prediction, Recorder, Reference, Task};
use espalier_wire::Kind;
use proptest::prelude::*;

use super::budget::Budget;
use super::*;

fn task() -> Task {
    let labels = ["cat", "dog"].map(String::from).to_vec();
    Task::ClassifyImage(ClassifyImage::new([4, 4], vec![0.5], vec![0.5], labels))
}

fn at(seconds: f64) -> Moment {
    Moment { since_start: Duration::from_secs_f64(seconds), wall: SystemTime::UNIX_EPOCH }
}

/// A frame of one brightness, and an answer of one confidence.
fn frame(brightness: u8, confidence: f32) -> (Answer, Observation) {
    let scores = vec![confidence, 1.0 - confidence];
    let answer = Answer::Label(Prediction { label: "cat".into(), index: 0, confidence, scores });
    let image = Image::new(4, 4, 1, vec![brightness; 16]).unwrap();
    let seen = Observation::new(Look::of(&image), &answer, &[&[4.0, 0.0]]);
    (answer, seen)
}

fn reference() -> Reference {
    let mut recorder = Recorder::new(&task());
    (100..150).for_each(|v| recorder.add(frame(v, 0.99).1));
    recorder.finish().unwrap()
}

/// Who chooses and who keeps, without a thread between them.
struct Both {
    chooser: Chooser,
    keeper: Keeper,
    purse: Arc<Mutex<Purse>>,
}

impl Both {
    fn frame(
        &mut self,
        at: Moment,
        picture: &[u8],
        answer: &Answer,
        seen: &Observation,
    ) -> Result<Option<Kind>, SampleError> {
        let Some(reason) = self.chooser.choose(at.since_start, answer, seen) else { return Ok(None) };
        let (picture, answer) = (picture.to_vec(), answer.fields(task().labels()));
        self.keeper.keep(Candidate { at, reason, picture, answer })
    }
}

fn config(folder: &Path, change: impl FnOnce(&mut SampleConfig)) -> SampleConfig {
    let mut config = SampleConfig { random: 0.0, ..SampleConfig::new(folder) };
    change(&mut config);
    config
}

fn samples(folder: &Path, change: impl FnOnce(&mut SampleConfig)) -> Both {
    let config = config(folder, change);
    let (keeper, purse) = Keeper::open(&config).unwrap();
    Both { chooser: Chooser::new(&config, &task(), Some(&reference())), keeper, purse }
}

fn reason(kept: Option<Kind>) -> Option<String> {
    kept.map(|kind| match kind {
        Kind::HardSample { reason, .. } => reason,
        other => panic!("{other:?}"),
    })
}

#[test]
fn what_is_uncertain_or_novel_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = samples(folder.path(), |_| {});
    let mut check = |picture: &[u8], (brightness, confidence), expected: Option<&str>| {
        let (answer, seen) = frame(brightness, confidence);
        let kept = samples.frame(at(0.0), picture, &answer, &seen).unwrap();
        assert_eq!(reason(kept).as_deref(), expected, "{brightness} {confidence}");
    };
    check(b"\xff\xd8a", (120, 0.99), None);
    check(b"\xff\xd8b", (120, 0.55), Some("uncertain"));
    check(b"\xff\xd8b", (120, 0.55), None);
    // The reference knows 100 to 149, and a tenth of that more.
    check(b"\x89PNGc", (153, 0.99), None);
    check(b"\x89PNGc", (155, 0.99), Some("novel"));
    check(b"d", (20, 0.99), Some("novel"));
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name[64..].to_owned())
        .collect();
    names.sort();
    assert_eq!(names, [".bin", ".jpg", ".json", ".json", ".json", ".png"]);
}

#[test]
fn the_answer_stands_beside_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (answer, seen) = frame(120, 0.5);
    let kept = samples(folder.path(), |_| {}).frame(at(1.0), b"picture", &answer, &seen).unwrap().unwrap();
    let Kind::HardSample { file, bytes, .. } = kept else { panic!("{kept:?}") };
    assert_eq!((std::fs::read(folder.path().join(&file)).unwrap(), bytes), (b"picture".to_vec(), 7));
    let text = std::fs::read(folder.path().join(format!("{}.json", &file[..64]))).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&value["label"], &value["reason"]), (&"cat".into(), &"uncertain".into()));
}

#[test]
fn what_a_killed_process_left_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let digest = "ab".repeat(32);
    let (alone, unfinished, other) =
        (format!("{digest}.json"), format!(".{digest}.jpg.77-0.tmp"), "notes.json".to_owned());
    for name in [&alone, &unfinished, &other] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    samples(folder.path(), |_| {});
    let is_there = [alone, unfinished, other].map(|name| folder.path().join(name).exists());
    assert_eq!(is_there, [false, false, true]);
}

#[test]
fn a_full_folder_takes_no_more_until_somebody_empties_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = samples(folder.path(), |config| config.folder_bytes = 1000);
    let (answer, seen) = frame(120, 0.5);
    let mut keep = |picture: &[u8]| samples.frame(at(0.0), picture, &answer, &seen).unwrap().is_some();
    assert!(keep(&[1; 500]) && !keep(&[2; 500]));
    std::fs::read_dir(folder.path())
        .unwrap()
        .for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
    assert!(keep(&[3; 500]));
    assert_eq!(lock(&samples.purse).refused(), 1);
}

/// Every hard sample is told as kept, or counted as refused, by the end; whoever hands them over waits for none.
#[test]
fn what_is_handed_over_is_kept_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let config = config(folder.path(), |config| config.per_hour = 40);
    let tell = move |_, kept: Result<Kind, SampleError>| told.send(kept.unwrap()).unwrap();
    let mut samples = Samples::new(&config, &task(), Some(&reference()), tell).unwrap();
    let (answer, seen) = frame(120, 0.5);
    let handed = (0..30u8).filter(|&number| samples.frame(at(0.0), &[number; 500], &answer, &seen)).count();
    samples.finish();
    let kept = heard.iter().count();
    assert_eq!((kept, kept as u64 + samples.refused() + samples.dropped()), (10, 30));
    assert!((kept..=30).contains(&handed), "{handed}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2 * kept);
}

/// What `ffmpeg` decoded becomes a JPEG, and is worth its bytes then.
#[test]
fn what_is_not_compressed_is_kept_as_a_jpeg() {
    let folder = tempfile::tempdir().unwrap();
    let mut bmp = b"BM".to_vec();
    [54 + 12 * 4, 0, 54, 40, 4, 4].iter().for_each(|v: &u32| bmp.extend(v.to_le_bytes()));
    bmp.extend([1, 0, 24, 0]);
    (0..6).for_each(|_| bmp.extend(0u32.to_le_bytes()));
    bmp.extend([128; 12 * 4]);
    let (answer, seen) = frame(120, 0.5);
    let kept = samples(folder.path(), |_| {}).frame(at(0.0), &bmp, &answer, &seen).unwrap();
    let Some(Kind::HardSample { file, bytes, .. }) = kept else { panic!("{kept:?}") };
    let written = std::fs::read(folder.path().join(&file)).unwrap();
    assert!(file.ends_with(".jpg") && written.starts_with(&[0xff, 0xd8]) && written.len() as u64 == bytes);
}

#[test]
fn random_samples_come_at_their_rate_whatever_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = samples(folder.path(), |config| (config.random, config.per_hour) = (0.5, 20));
    let (sure, seen) = frame(120, 0.99);
    let hours = 20u32;
    let mut kept = 0;
    for second in 0..hours * 3600 {
        let kind = samples.frame(at(f64::from(second)), &second.to_le_bytes(), &sure, &seen).unwrap();
        kept += usize::from(reason(kind).inspect(|reason| assert_eq!(reason, "random")).is_some());
    }
    // 10 an hour on average: 200, with a deviation of 14.
    assert!((150..250).contains(&kept), "{kept} in {hours} hours");
}

#[test]
fn settings_that_cannot_be_kept_are_named() {
    type Edit = fn(&mut SampleConfig);
    let check = |edit: Edit, words: &str| {
        let mut config = SampleConfig::new("nowhere");
        edit(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    };
    check(|c| c.per_hour = 0, "per_hour is 0, it should be 1 to 3600");
    check(|c| c.bytes_per_hour = 1, "bytes_per_hour is 1");
    check(|c| c.margin = f64::NAN, "margin is NaN, it should be 0 to 1");
    check(|c| c.random = 1.5, "random is 1.5");
    let unknown = toml::from_str::<SampleConfig>("folder = 'x'\nrate = 1").unwrap_err().to_string();
    assert!(unknown.contains("rate"), "{unknown}");
}

/// The most that is spent within an hour, wherever it begins.
fn hourly(spent: &[(f64, f64)]) -> f64 {
    let from = |i: usize| {
        let within = spent[i..].iter().take_while(|(time, _)| *time < spent[i].0 + 3600.0);
        within.map(|(_, cost)| cost).sum::<f64>()
    };
    (0..spent.len()).map(from).fold(0.0, f64::max)
}

proptest! {
    /// No hour takes more than the budget; a long time uses at least a third of it.
    #[test]
    fn a_budget_is_never_exceeded_and_used(
        seed in any::<u64>(),
        budget in 1u32..200,
        cost_max in prop::sample::select(vec![1.0, 3.0, 30.0]),
        pause in 1f64..600.0,
    ) {
        // What is not counted in whole things is bytes, of which budgets are large.
        let budget = if cost_max == 1.0 { budget } else { budget + 4 };
        let mut purse = Budget::new(budget.into());
        let mut draw = Random::new(seed, 1);
        let (mut seconds, mut spent) = (0.0, Vec::new());
        for _ in 0..2000 {
            seconds += pause * f64::from(draw.uniform()) * 2.0;
            let cost = if cost_max == 1.0 { 1.0 } else { f64::from(draw.uniform()) * cost_max };
            if purse.affords(Duration::from_secs_f64(seconds), cost) {
                purse.spend(cost);
                spent.push((seconds, cost));
            }
        }
        prop_assert!(hourly(&spent) <= f64::from(budget) + 1e-6, "{} of {}", hourly(&spent), budget);
        let wanted = (2000.0 * cost_max / 2.0).min(seconds / 3600.0 * f64::from(budget));
        let total: f64 = spent.iter().map(|(_, cost)| cost).sum();
        prop_assert!(cost_max > f64::from(budget) / 4.0 || total >= wanted / 3.0 - 1.0, "{} of {}", total, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// The same of what lies in the folder, for both budgets at once.
    #[test]
    fn never_more_files_and_bytes_than_the_budgets(
        seed in any::<u64>(),
        per_hour in 1u32..40,
        bytes_per_hour in 1000u64..100_000,
        random in 0u8..=10,
        pause in 1u32..600,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut samples = samples(folder.path(), |config| {
            (config.per_hour, config.bytes_per_hour) = (per_hour, bytes_per_hour);
            (config.random, config.seed) = (f64::from(random) / 10.0, seed);
        });
        let mut draw = Random::new(seed, 1);
        let (mut seconds, mut before) = (0.0, 0);
        let (mut files, mut bytes) = (Vec::new(), Vec::new());
        for number in 0..150u32 {
            seconds += f64::from(pause) * f64::from(draw.uniform()) * 2.0;
            let mut picture = vec![0u8; 4 + draw.below(2000)];
            picture[..4].copy_from_slice(&number.to_le_bytes());
            let (answer, seen) = frame(120, 0.5 + 0.5 * draw.uniform());
            if samples.frame(at(seconds), &picture, &answer, &seen).unwrap().is_some() {
                let all = std::fs::read_dir(folder.path()).unwrap();
                let size: u64 = all.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
                files.push((seconds, 1.0));
                bytes.push((seconds, (size - before) as f64));
                before = size;
            }
        }
        prop_assert!(hourly(&files) <= f64::from(per_hour), "{} files", hourly(&files));
        prop_assert!(hourly(&bytes) <= bytes_per_hour as f64 + 1e-6, "{} bytes", hourly(&bytes));
        prop_assert!(random == 10 || bytes_per_hour < 12_000 || !files.is_empty());
    }
}
