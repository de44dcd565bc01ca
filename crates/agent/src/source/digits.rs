//! The built-in digits played as a camera: the test split, drawn at random, disturbed as somebody wants it. For demos and
//! tests, which know what is truly in each picture: the frame's file name says so.

use std::fmt;
use std::time::Duration;

use espalier_digits::{Digit, SIDE};
use espalier_graph::random::Random;
use espalier_tasks::Image;
use espalier_tasks::image::write_png;

use super::disturb::Disturbance;
use super::{Feed, SourceError};

/// What stands before the options.
const URI: &str = "builtin:mnist-5k";

/// Frames a second where nothing else is said.
const RATE: f64 = 20.0;

/// Most stages of a schedule.
const STAGES_MAX: usize = 100;

/// The streams of random numbers: which digit, and its noise.
const WHICH: u64 = 0;
const NOISE: u64 = 1 << 32;

/// A camera that sees handwritten digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// Frames a second.
    pub rate: f64,
    /// What is drawn is a function of it.
    pub seed: u64,
    /// Frames after which it ends; never by default.
    pub frames: Option<u64>,
    /// How it is disturbed, by the seconds from which on, in order of time; the first from 0 on.
    pub stages: Vec<(f64, Disturbance)>,
}

/// No number of it is NaN: all were validated.
impl Eq for Digits {}

impl Default for Digits {
    fn default() -> Self {
        Digits { rate: RATE, seed: 0, frames: None, stages: vec![(0.0, Disturbance::default())] }
    }
}

impl Digits {
    /// Whether `text` names it, rightly or not.
    pub(super) fn is_meant(text: &str) -> bool {
        text.starts_with("builtin:")
    }

    /// Of `builtin:mnist-5k?rate=20&seed=7&from=60&darkness=0.6&from=120&blur=2`: each `from` (seconds since the first frame)
    /// begins a stage, whose `blur`, `darkness`, `rotation` and `noise` follow and replace those before.
    ///
    /// # Errors
    /// [`SourceError::Wrong`] names what is wrong and what would be right.
    pub fn new(text: &str) -> Result<Digits, SourceError> {
        Digits::parse(text).map_err(|reason| SourceError::Wrong(format!("{}: {reason}", shown(text))))
    }

    fn parse(text: &str) -> Result<Digits, String> {
        let (name, options) = text.split_once('?').unwrap_or((text, ""));
        if name != URI {
            return Err(format!("there is no such built-in source; {URI} is one"));
        }
        let mut digits = Digits::default();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (key, value) =
                option.split_once('=').ok_or_else(|| format!("{option:?} is not KEY=VALUE"))?;
            digits.set(key, value)?;
        }
        for (from, disturbance) in &digits.stages {
            disturbance.validate().map_err(|reason| format!("from {from} s on, {reason}"))?;
        }
        Ok(digits)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let stages = self.stages.len();
        let last = self.stages.last_mut().expect("there is a first stage");
        match key {
            "rate" => self.rate = number(key, value, 0.001..=1000.0)?,
            "seed" => self.seed = whole(key, value)?,
            "frames" => self.frames = Some(whole(key, value)?),
            "from" => {
                let from = number(key, value, 0.0..=1e9)?;
                if from < last.0 {
                    return Err(format!("from={value}: the stages before begin at {} s", last.0));
                }
                match stages {
                    // What a stage says replaces what was said before it from the same time on.
                    _ if from == last.0 => last.1 = Disturbance::default(),
                    STAGES_MAX => return Err(format!("more than {STAGES_MAX} stages")),
                    _ => self.stages.push((from, Disturbance::default())),
                }
            }
            _ => match last.1.key(key) {
                Some(place) => *place = number(key, value, -1e6..=1e6)? as f32,
                None => {
                    let known = Disturbance::KEYS.join(", ");
                    return Err(format!("there is no {key:?}; rate, seed, frames, from, {known} are known"));
                }
            },
        }
        Ok(())
    }

    /// How it is disturbed when frame `number`, counted from 0, is taken.
    fn disturbance(&self, number: u64) -> Disturbance {
        let seconds = number as f64 / self.rate;
        let reached = self.stages.iter().rev().find(|(from, _)| *from <= seconds);
        reached.map_or_else(Disturbance::default, |(_, disturbance)| *disturbance)
    }

    /// Gives frame after frame, by the numbers that the camera itself counts: a pause changes no picture.
    pub(super) fn play(&self, feed: &mut Feed) -> Result<(), SourceError> {
        feed.pace(Duration::from_secs_f64(1.0 / self.rate));
        let digits = espalier_digits::test();
        for number in 0..self.frames.unwrap_or(u64::MAX) {
            let (digit, image) = self.picture(&digits, number);
            let mut bytes = Vec::new();
            write_png(&image, &mut bytes).map_err(SourceError::failed)?;
            if !feed.frame(Some(format!("{URI}/{}/{}", digit.label, digit.number)), Ok(bytes)) {
                break;
            }
        }
        Ok(())
    }

    fn picture<'a>(&self, digits: &'a [Digit], number: u64) -> (&'a Digit, Image) {
        let digit = &digits[Random::new(self.seed, WHICH + 2 * number).below(digits.len())];
        let image = Image { width: SIDE, height: SIDE, channels: 1, pixels: digit.pixels.clone() };
        (digit, self.disturbance(number).apply(&image, self.seed, NOISE + 2 * number + 1))
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(URI)
    }
}

fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

fn number(key: &str, value: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let parsed = value.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        format!("{key}={value}: it should be a number from {} to {}", range.start(), range.end())
    })
}

fn whole(key: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{key}={value}: it should be a whole number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_and_what_they_mean() {
        assert_eq!(Digits::new("builtin:mnist-5k"), Ok(Digits::default()));
        let text = "builtin:mnist-5k?rate=10&seed=7&frames=9&noise=0.1&from=60&darkness=0.6&from=120";
        let digits = Digits::new(text).unwrap();
        let none = Disturbance::default();
        let stages = [
            (0.0, Disturbance { noise: 0.1, ..none }),
            (60.0, Disturbance { darkness: 0.6, ..none }),
            (120.0, none),
        ];
        assert_eq!(digits, Digits { rate: 10.0, seed: 7, frames: Some(9), stages: stages.to_vec() });
        for (number, stage) in [(0, 0), (599, 0), (600, 1), (1199, 1), (1200, 2), (u64::MAX, 2)] {
            assert_eq!(digits.disturbance(number), stages[stage].1, "frame {number}");
        }
        assert_eq!(digits.to_string(), "builtin:mnist-5k");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, words: &str| {
            let error = Digits::new(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        check("builtin:mnist", "builtin:mnist: there is no such built-in source; builtin:mnist-5k is one");
        check("builtin:mnist-5k?rate=0", "rate=0: it should be a number from 0.001 to 1000");
        check("builtin:mnist-5k?rate", "\"rate\" is not KEY=VALUE");
        check("builtin:mnist-5k?seed=-1", "seed=-1: it should be a whole number");
        check("builtin:mnist-5k?haze=1", "there is no \"haze\"; rate, seed, frames, from, blur");
        check("builtin:mnist-5k?blur=nan", "blur=nan");
        check("builtin:mnist-5k?from=9&darkness=2", "from 9 s on, darkness is 2, it should be 0 to 1");
        check("builtin:mnist-5k?from=9&from=3", "from=3: the stages before begin at 9 s");
        check(
            &format!("builtin:mnist-5k?{}", (1..=100).map(|i| format!("from={i}&")).collect::<String>()),
            "more than 100",
        );
    }

    proptest! {
        /// Whatever stands there is taken, and then it can be played, or refused.
        #[test]
        fn any_text_is_an_answer(
            options in prop::collection::vec(("(rate|seed|frames|from|blur|darkness|noise|rotation|x)", "=?", "-?[0-9a-z.]{0,9}"), 0..6),
            number in any::<u64>(),
        ) {
            let options: Vec<String> = options.into_iter().map(|(key, is, value)| key + &is + &value).collect();
            if let Ok(digits) = Digits::new(&format!("{URI}?{}", options.join("&"))) {
                prop_assert!(digits.disturbance(number).validate().is_ok());
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_pictures() {
        let test = espalier_digits::test();
        let camera = Digits::new("builtin:mnist-5k?noise=0.05").unwrap();
        let other = Digits { seed: 1, ..camera.clone() };
        let numbers =
            |camera: &Digits| (0..200).map(|i| camera.picture(&test, i).0.number).collect::<Vec<_>>();
        assert_eq!(camera.picture(&test, 5), camera.picture(&test, 5));
        assert_ne!(numbers(&camera), numbers(&other));
        let mut drawn = numbers(&camera);
        drawn.sort_unstable();
        drawn.dedup();
        assert!(drawn.len() > 140, "drawn from all of them: {}", drawn.len());
    }
}
