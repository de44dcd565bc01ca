//! Drift over made-up frames; `crates/cli/tests/drift.rs` measures it on real ones.

use espalier_graph::random::Random;
use espalier_tasks::reference::Look;
use espalier_tasks::{Answer, ClassifyImage, Image, Prediction, Recorder};
use proptest::prelude::*;

use super::*;

fn task() -> Task {
    let labels = ["cat", "dog"].map(String::from).to_vec();
    Task::ClassifyImage(ClassifyImage::new([8, 8], vec![0.5], vec![0.5], labels))
}

/// A frame of noise around a brightness; the seed tells its scene.
fn frame(seed: u64, brightness: f32, dogs: f32) -> Observation {
    let mut random = Random::new(seed, 3);
    let level = brightness + 60.0 * (random.uniform() - 0.5);
    let pixels = (0..64).map(|_| (level + 40.0 * (random.uniform() - 0.5)) as u8).collect();
    let image = Image::new(8, 8, 1, pixels).unwrap();
    let index = usize::from(random.uniform() < dogs);
    let confidence = 0.7 + 0.3 * random.uniform();
    let mut scores = vec![1.0 - confidence; 2];
    scores[index] = confidence;
    let label = ["cat", "dog"][index].to_owned();
    let answer = Answer::Label(Prediction { label, index, confidence, scores });
    Observation::new(Look::of(&image), &answer, &[&[confidence, 0.0]])
}

fn reference() -> Reference {
    let mut recorder = Recorder::new(&task());
    (0..400).for_each(|seed| recorder.add(frame(1 << 40 | seed, 120.0, 0.5)));
    recorder.finish().unwrap()
}

fn drift() -> Drift {
    Drift::new(&DriftConfig::default(), Some(&reference()), &task()).unwrap()
}

/// Statistics that begin (+) and end (-).
fn told(kinds: Vec<Kind>) -> Vec<String> {
    let one = |kind| match kind {
        Kind::Drift { state, statistic, value, threshold, frames } => {
            assert!(frames >= LEAST as u64, "{frames}");
            assert_eq!(value >= threshold, state == State::Begins, "{statistic}: {value} of {threshold}");
            format!("{}{statistic}", if state == State::Begins { '+' } else { '-' })
        }
        other => panic!("{other:?}"),
    };
    kinds.into_iter().map(one).collect()
}

/// What frames bring that are made by their number.
fn play(drift: &mut Drift, numbers: std::ops::Range<u64>, frame: impl Fn(u64) -> Observation) -> Vec<String> {
    numbers.flat_map(|number| told(drift.frame(&frame(number)))).collect()
}

#[test]
fn what_stays_as_it_was_is_no_drift() {
    let mut drift = drift();
    assert_eq!(play(&mut drift, 0..20_000, |seed| frame(seed, 120.0, 0.5)), [""; 0]);
    assert_eq!(drift.scenes(), 20_000);
    assert!(drift.readings().iter().all(|reading| reading.value < reading.threshold && !reading.drifts));
}

#[test]
fn darkness_begins_and_ends() {
    let mut drift = drift();
    play(&mut drift, 0..500, |seed| frame(seed, 120.0, 0.5));
    assert_eq!(play(&mut drift, 500..700, |seed| frame(seed, 70.0, 0.5)), ["+brightness"]);
    assert!(drift.readings()[0].drifts);
    assert_eq!(play(&mut drift, 700..1600, |seed| frame(seed, 120.0, 0.5)), ["-brightness"]);
}

#[test]
fn another_mix_of_classes_is_drift() {
    let mut drift = drift();
    play(&mut drift, 0..500, |seed| frame(seed, 120.0, 0.5));
    assert_eq!(play(&mut drift, 500..1000, |seed| frame(seed, 120.0, 0.95)), ["+class-mix"]);
}

#[test]
fn a_scene_that_stays_counts_once() {
    let mut drift = drift();
    assert_eq!(play(&mut drift, 0..5000, |number| frame(number / 1000, 20.0, 1.0)), [""; 0]);
    assert_eq!(drift.scenes(), 5);
    let every = DriftConfig { same_scene: 2.0, ..DriftConfig::default() };
    let mut drift = Drift::new(&every, Some(&reference()), &task()).unwrap();
    let told = play(&mut drift, 0..5000, |number| frame(number / 1000, 20.0, 1.0));
    assert!(drift.scenes() == 5000 && told.contains(&"+brightness".to_owned()), "{told:?}");
}

#[test]
fn a_covered_lens_is_drift() {
    let mut drift = drift();
    play(&mut drift, 0..500, |seed| frame(seed, 120.0, 0.5));
    let image = Image::new(8, 8, 1, vec![0; 64]).unwrap();
    let black = Observation { thumbnail: Look::of(&image).thumbnail, ..frame(0, 20.0, 0.5) };
    assert!(play(&mut drift, 500..700, |_| black.clone()).contains(&"+brightness".to_owned()));
}

#[test]
fn what_cannot_be_watched_is_named() {
    let config = DriftConfig::default();
    let error = Drift::new(&config, None, &task()).unwrap_err().to_string();
    assert!(error.contains("espalier train") && error.contains("import --data DATA"), "{error}");
    let check = |config: DriftConfig, words: &str| {
        let error = Drift::new(&config, Some(&reference()), &task()).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    };
    check(DriftConfig { window: 3, ..config.clone() }, "drift: window is 3, it should be 30 to 10000 scenes");
    check(DriftConfig { false_alarms: 0.0, ..config.clone() }, "false_alarms is 0");
    check(DriftConfig { same_scene: f32::NAN, ..config }, "same_scene is NaN");
    let unknown = toml::from_str::<DriftConfig>("windows = 1").unwrap_err().to_string();
    assert!(unknown.contains("windows"), "{unknown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever comes, each statistic begins and ends in turns, and the window forgets what left it.
    #[test]
    fn turns(levels in prop::collection::vec((20f32..220.0, 0f32..1.0, 1u64..300), 1..12)) {
        let mut drift = drift();
        let (mut number, mut all) = (0, Vec::new());
        for (brightness, dogs, frames) in levels {
            all.extend(play(&mut drift, number..number + frames, |seed| frame(seed, brightness, dogs)));
            number += frames;
        }
        for reading in drift.readings() {
            let own = all.iter().filter(|told| told[1..] == reading.statistic);
            for (i, told) in own.enumerate() {
                prop_assert_eq!(told.starts_with('+'), i % 2 == 0, "{:?}", &all);
            }
        }
        let inside: usize = drift.classes.iter().sum();
        prop_assert_eq!(inside, drift.window.len());
    }
}
