//! Rules and aggregates, by example and by property.

use std::time::{Duration, SystemTime};

use espalier_tasks::{Answer, Detection, Prediction};
use espalier_wire::{Frames, Kind, Right, State};
use proptest::prelude::*;

use super::*;
use crate::moment::Moment;

fn labels() -> Vec<String> {
    ["cat", "dog", "car"].map(String::from).to_vec()
}

fn at(ms: u64) -> Moment {
    Moment { since_start: Duration::from_millis(ms), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(ms) }
}

fn label(index: usize, confidence: f32) -> Answer {
    let mut scores = vec![(1.0 - confidence) / 2.0; 3];
    scores[index] = confidence;
    Answer::Label(Prediction { label: labels()[index].clone(), index, confidence, scores })
}

/// Boxes 20 pixels wide and high in a picture of 100 x 200, by label, confidence, left and top.
fn boxes(list: &[(usize, f32, f32, f32)]) -> Answer {
    let one = |&(class, confidence, left, top): &(usize, f32, f32, f32)| Detection {
        label: labels()[class].clone(),
        confidence,
        bounds: [left, top, left + 20.0, top + 20.0],
        class,
    };
    Answer::Boxes(list.iter().map(one).collect())
}

fn config(text: &str) -> RuleConfig {
    toml::from_str(&format!("name = \"r\"\n{text}")).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// `+2 cat 3` for a beginning after 2 ms with a count of 3, `-` for an end.
fn told(kinds: Vec<Kind>) -> Vec<String> {
    let one = |kind| match kind {
        Kind::Event { state, label, count, duration_ms, .. } => {
            let sign = if state == State::Begins { '+' } else { '-' };
            let count = count.map_or(String::new(), |count| format!(" {count}"));
            format!("{sign}{duration_ms} {}{count}", label.unwrap_or_default())
        }
        other => panic!("{other:?} is no event"),
    };
    kinds.into_iter().map(one).collect()
}

/// Frames 100 ms apart, and what each brings.
fn check(rule: &str, frames: &[Answer], expected: &[&str]) {
    let mut rules = Rules::new(&[config(rule)], &labels()).unwrap();
    let frames = frames.iter().zip(0..);
    let found: Vec<String> =
        frames.map(|(answer, i)| told(rules.frame(at(100 * i), [200, 100], answer)).join(", ")).collect();
    assert_eq!(found, expected, "{rule}");
}

#[test]
fn labels_and_confidence() {
    let frames = [label(1, 0.9), label(1, 0.5), label(1, 0.8), label(0, 0.9), label(1, 0.7)];
    check("labels = ['dog']\nconfidence = 0.6", &frames, &["+0 dog", "-0 dog", "+0 dog", "-0 dog", "+0 dog"]);
    check("labels = ['dog']\nrelease_s = 0.2", &frames, &["+0 dog", "", "", "", ""]);
    check("labels = ['dog', 'cat']", &frames, &["+0 dog", "", "", "", ""]);
    check("labels = ['car']", &frames, &[""; 5]);
}

#[test]
fn holding_releasing_and_cooling_down() {
    let seen =
        |pattern: &str| pattern.chars().map(|c| label(if c == 'x' { 1 } else { 0 }, 0.9)).collect::<Vec<_>>();
    check("labels = ['dog']\nhold_s = 0.2", &seen("xx.xxx."), &["", "", "", "", "", "+200 dog", "-200 dog"]);
    check("labels = ['dog']\nrelease_s = 0.2", &seen("xx.x..."), &["+0 dog", "", "", "", "", "-300 dog", ""]);
    check(
        "labels = ['dog']\ncooldown_s = 0.3",
        &seen("x.x.xxx"),
        &["+0 dog", "-0 dog", "", "", "+0 dog", "", ""],
    );
}

#[test]
fn counts_in_a_zone() {
    let zone = "zone = { rectangle = { left = 0.5, top = 0.0, right = 1.0, bottom = 0.5 } }\n";
    let frames = [
        boxes(&[(1, 0.9, 60.0, 50.0)]),
        boxes(&[(1, 0.9, 60.0, 50.0), (1, 0.8, 60.0, 60.0)]),
        // One stands below the zone, though its middle is in it; one is no dog.
        boxes(&[(1, 0.9, 60.0, 85.0), (1, 0.8, 60.0, 60.0), (2, 0.9, 60.0, 50.0)]),
        boxes(&[]),
    ];
    check(&format!("labels = ['dog']\n{zone}count = 2"), &frames, &["", "+0 dog 2", "-0 dog 2", ""]);
    let center = format!("labels = ['dog']\nanchor = 'center'\n{zone}count = 2");
    check(&center, &frames, &["", "+0 dog 2", "", "-100 dog 2"]);
    let polygon = "zone = { polygon = [[0.0, 0.0], [0.4, 0.0], [0.0, 0.4]] }";
    check(polygon, &frames, &[""; 4]);
}

#[test]
fn counts_within_a_time() {
    let seen =
        |pattern: &str| pattern.chars().map(|c| label(if c == 'x' { 1 } else { 0 }, 0.9)).collect::<Vec<_>>();
    let rule = "labels = ['dog']\ncount = 2\nwithin_s = 0.4";
    // Appearances at 0, 200 and 700 ms: two are within 400 ms until the first is too old.
    check(rule, &seen("x.x....x."), &["", "", "+0 dog 2", "", "-100 dog 2", "", "", "", ""]);
}

#[test]
fn changes_of_the_label() {
    let frames: Vec<Answer> = [0, 0, 1, 1, 2, 0].map(|i| label(i, 0.9)).into();
    check(
        "change = true",
        &frames,
        &["+0 cat", "", "-100 cat, +0 dog", "", "-100 dog, +0 car", "-0 car, +0 cat"],
    );
    check("change = true\nhold_s = 0.1", &frames, &["", "+100 cat", "-100 cat", "+100 dog", "-100 dog", ""]);
    check("change = true\nlabels = ['dog']", &frames, &["", "", "+0 dog", "", "-100 dog", ""]);
    let smooth = "change = true\nsmooth = { method = 'majority', frames = 3 }";
    check(smooth, &[0, 0, 1, 0, 0, 0].map(|i| label(i, 0.9)), &["+0 cat", "", "", "", "", ""]);
}

#[test]
fn boxes_that_flicker_are_smoothed() {
    let dog = [(1, 0.9, 60.0, 50.0)];
    let frames = [&dog[..], &dog, &[], &dog, &[], &[]].map(boxes);
    check("smooth = { method = 'majority', frames = 3 }", &frames, &["+0 dog", "", "", "", "-300 dog", ""]);
}

#[test]
fn time_alone_ends_what_nobody_sees() {
    let mut rules = Rules::new(&[config("labels = ['dog']")], &labels()).unwrap();
    assert_eq!(told(rules.frame(at(0), [1, 1], &label(1, 0.9))), ["+0 dog"]);
    assert_eq!(told(rules.tick(at(4_999))), [""; 0]);
    assert_eq!(told(rules.tick(at(5_000))), ["-0 dog"]);
    assert_eq!(told(rules.tick(at(9_000))), [""; 0]);
    rules.frame(at(10_000), [1, 1], &label(1, 0.9));
    assert_eq!(told(rules.stop(at(10_100))), ["-0 dog"]);
}

#[test]
fn rules_that_cannot_be_kept_are_named() {
    let check = |rule: &str, words: &str| {
        let error = Rules::new(&[config(rule)], &labels()).unwrap_err().to_string();
        assert!(error.starts_with("rule \"r\": ") && error.contains(words), "{error:?} should say {words:?}");
    };
    check("labels = ['cow']", "the model knows no \"cow\"; it knows cat, dog, car");
    check("count = 0", "count is 0, it should be 1 to 100000");
    check("hold_s = -1.0", "hold_s is -1, it should be 0 to 604800 seconds");
    check("within_s = 0.0", "within_s is 0");
    check("confidence = nan", "confidence is NaN");
    check("change = true\ncount = 2", "change is about the label of a frame");
    check("zone = { polygon = [] }", "3 to 100 corners");
    check("smooth = { method = 'majority' }", "frames or span_s");
    check("smooth = { method = 'majority', frames = 0 }", "frames is 0");
    let twice = [RuleConfig::new("a"), RuleConfig::new("a")];
    assert!(Rules::new(&twice, &labels()).unwrap_err().reason.contains("another rule"));
    let unknown = toml::from_str::<RuleConfig>("name = 'r'\nfor_s = 1").unwrap_err().to_string();
    assert!(unknown.contains("for_s"), "{unknown}");
}

#[test]
fn aggregates_count_each_span() {
    let mut aggregates = Aggregates::new(Duration::from_secs(60));
    let frames = |seen| Frames { seen, processed: seen - 1, skipped: 1, broken: 0 };
    assert_eq!(aggregates.tick(at(1_000), Frames::default()), None);
    aggregates.frame(&label(1, 0.5));
    aggregates.frame(&boxes(&[(1, 1.0, 0.0, 0.0), (2, 0.75, 0.0, 0.0)]));
    ["car", "dog", "car"].into_iter().for_each(|truth| aggregates.compare(&label(1, 0.5), truth));
    assert_eq!(aggregates.tick(at(60_999), frames(3)), None);
    let expected = Kind::Aggregate {
        span_ms: 60_001,
        frames: frames(3),
        labels: [("car".into(), 1), ("dog".into(), 2)].into(),
        confidence: Some(0.75),
        truth: Some(Right { known: 3, right: 1 }),
    };
    assert_eq!(aggregates.tick(at(61_001), frames(3)), Some(expected));
    let empty = Kind::Aggregate {
        span_ms: 60_000,
        frames: Frames { seen: 2, processed: 2, ..Frames::default() },
        labels: [].into(),
        confidence: None,
        truth: None,
    };
    assert_eq!(aggregates.tick(at(121_001), frames(5)), Some(empty));
}

/// A step of a stream: time that passes, and a frame or none.
type Step = (u64, Option<(usize, f32)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frame = prop::option::weighted(0.9, (0usize..3, 0.4f32..1.0));
    prop::collection::vec((0u64..2500, frame), 0..120)
}

fn any_rule() -> impl Strategy<Value = RuleConfig> {
    let times = (0u8..3, 0u8..3, 0u8..5).prop_map(|(a, b, c)| (f64::from(a), f64::from(b), f64::from(c)));
    let kind = prop_oneof![
        Just(("labels = ['dog']", false)),
        Just(("confidence = 0.7", false)),
        Just(("change = true", true)),
        Just(("labels = ['dog']\ncount = 2\nwithin_s = 4.0", false)),
        Just(("labels = ['dog']\nsmooth = { method = 'exponential', frames = 3 }", false)),
        Just(("change = true\nsmooth = { method = 'majority', span_s = 2.0 }", true)),
    ];
    (kind, times).prop_map(|((text, _), (hold_s, release_s, cooldown_s))| RuleConfig {
        hold_s,
        release_s,
        cooldown_s,
        ..config(text)
    })
}

/// All events of a stream with their times; `wall` says how the wall clock goes.
fn play(rule: &RuleConfig, steps: &[Step], wall: impl Fn(u64) -> SystemTime) -> Vec<(u64, State, u64)> {
    let mut rules = Rules::new(std::slice::from_ref(rule), &labels()).unwrap();
    let (mut ms, mut events) = (0, Vec::new());
    for (pause, frame) in steps {
        ms += pause;
        let now = Moment { wall: wall(ms), ..at(ms) };
        let kinds = match frame {
            Some((index, confidence)) => rules.frame(now, [1, 1], &label(*index, *confidence)),
            None => rules.tick(now),
        };
        events.extend(kinds.into_iter().map(|kind| match kind {
            Kind::Event { state, duration_ms, .. } => (ms, state, duration_ms),
            other => panic!("{other:?}"),
        }));
    }
    events
}

proptest! {
    #[test]
    fn beginnings_and_ends_take_turns(rule in any_rule(), steps in steps()) {
        let events = play(&rule, &steps, |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        let seconds = |s: f64| (1000.0 * s) as u64;
        for (i, &(ms, state, duration)) in events.iter().enumerate() {
            let expected = if i % 2 == 0 { State::Begins } else { State::Ends };
            prop_assert_eq!(state, expected, "event {} of {:?}", i, &events);
            if state == State::Begins {
                prop_assert!(duration >= seconds(rule.hold_s), "it held for {} ms", duration);
                if i > 0 {
                    prop_assert!(ms - events[i - 1].0 >= seconds(rule.cooldown_s), "cool-down: {:?}", &events);
                }
            } else {
                let begun = events[i - 1];
                prop_assert!(duration >= begun.2 && duration <= ms - begun.0 + begun.2, "{:?}", &events);
            }
        }
    }

    /// A wall clock that jumps by ten years, to and fro, changes no event.
    #[test]
    fn the_wall_clock_does_not_matter(rule in any_rule(), steps in steps()) {
        let years = Duration::from_secs(10 * 365 * 86_400);
        let steady = play(&rule, &steps, |ms| SystemTime::UNIX_EPOCH + years + Duration::from_millis(ms));
        let jumping = play(&rule, &steps, |ms| match ms % 3 {
            0 => SystemTime::UNIX_EPOCH,
            1 => SystemTime::UNIX_EPOCH + years,
            _ => SystemTime::UNIX_EPOCH + 2 * years,
        });
        prop_assert_eq!(steady, jumping);
    }

    /// Appearances within a time, counted the plain way.
    #[test]
    fn appearances_are_counted_right(pattern in prop::collection::vec(any::<bool>(), 1..60)) {
        let mut rules = Rules::new(&[config("labels = ['dog']\ncount = 3\nwithin_s = 1.0")], &labels()).unwrap();
        let mut holds = false;
        for now in 0..pattern.len() {
            let answer = label(usize::from(pattern[now]), 0.9);
            for kind in rules.frame(at(100 * now as u64), [1, 1], &answer) {
                if let Kind::Event { state, .. } = kind { holds = state == State::Begins; }
            }
            let appears = |&i: &usize| pattern[i] && (i == 0 || !pattern[i - 1]);
            let expected = (0..=now).filter(appears).filter(|i| now - i < 10).count() >= 3;
            prop_assert_eq!(holds, expected, "frame {}", now);
        }
    }

    /// Every answer is in exactly one span, and so is every frame.
    #[test]
    fn aggregates_lose_nothing(steps in steps()) {
        let mut aggregates = Aggregates::new(Duration::from_secs(5));
        let (mut ms, mut frames, mut counted) = (0, Frames::default(), (0, 0));
        let mut add = |kind: Kind| if let Kind::Aggregate { frames, labels, .. } = kind {
            counted = (counted.0 + frames.processed, counted.1 + labels.values().sum::<u64>());
        };
        for (pause, frame) in &steps {
            ms += pause;
            if let Some((index, confidence)) = frame {
                aggregates.frame(&label(*index, *confidence));
                frames = Frames { seen: frames.seen + 1, processed: frames.processed + 1, ..frames };
            }
            if let Some(kind) = aggregates.tick(at(ms), frames) { add(kind) }
        }
        add(aggregates.close(at(ms), frames));
        prop_assert_eq!(counted, (frames.processed, frames.processed));
    }
}
