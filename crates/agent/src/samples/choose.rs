//! Which frames are hard samples.

use std::time::Duration;

use espalier_graph::random::Random;
use espalier_tasks::{Answer, Observation, Reference, Task, reference};

use super::config::SampleConfig;

/// Why a frame is worth a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The model cannot tell two labels apart, or is barely sure of a box.
    Uncertain,
    /// Nothing like it was among the validation images.
    Novel,
    /// By chance, so that what is kept is not only what the model is wrong about in known ways.
    Random,
}

impl Reason {
    /// As insights name it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Uncertain => "uncertain",
            Reason::Novel => "novel",
            Reason::Random => "random",
        }
    }
}

/// Chooses frames, budgets apart.
#[derive(Debug)]
pub(super) struct Chooser {
    margin: f64,
    /// Of each statistic, its number and what the values of the reference span, widened.
    known: Vec<(usize, [f32; 2])>,
    /// Boxes of a detector from this confidence on are in its answers.
    least: f64,
    random: Random,
    /// Mean seconds from one random sample to the next, where there are any.
    pause: Option<f64>,
    next: Option<Duration>,
}

impl Chooser {
    pub(super) fn new(config: &SampleConfig, task: &Task, reference: Option<&Reference>) -> Chooser {
        let rate = config.random * f64::from(config.per_hour) / 3600.0;
        let names = reference::statistics(task).iter().enumerate();
        let span = |(at, name): (usize, &&str)| {
            let column = reference.filter(|_| config.novelty >= 0.0)?.columns.get(*name)?;
            let (low, high) = (*column.first()?, *column.last()?);
            let beyond = (high - low) * config.novelty as f32;
            Some((at, [low - beyond, high + beyond]))
        };
        Chooser {
            margin: config.margin,
            known: names.filter_map(span).collect(),
            least: match task {
                Task::Detect(task) => task.confidence.into(),
                Task::ClassifyImage(_) | Task::Anomaly(_) => 0.0,
            },
            random: Random::new(config.seed, 0),
            pause: (rate > 0.0).then_some(1.0 / rate),
            next: None,
        }
    }

    /// Why the frame should be kept, if it should.
    pub(super) fn choose(&mut self, at: Duration, answer: &Answer, seen: &Observation) -> Option<Reason> {
        if self.is_drawn(at) {
            Some(Reason::Random)
        } else if self.is_uncertain(answer) {
            Some(Reason::Uncertain)
        } else {
            let is_beyond = |&(at, [low, high]): &(usize, [f32; 2])| {
                seen.values.get(at).is_some_and(|value| *value < low || *value > high)
            };
            self.known.iter().any(is_beyond).then_some(Reason::Novel)
        }
    }

    /// Whether the time of the next random sample has come: times are drawn, not frames, so that neither the rate of the
    /// camera nor what is seen plays a part. Their distances are exponential.
    fn is_drawn(&mut self, at: Duration) -> bool {
        let Some(pause) = self.pause else { return false };
        let mut wait = || Duration::from_secs_f64(-pause * f64::from(1.0 - self.random.uniform()).ln());
        let next = *self.next.get_or_insert_with(|| at + wait());
        let is_due = at >= next;
        if is_due {
            self.next = Some(at + wait());
        }
        is_due
    }

    fn is_uncertain(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Label(said) => {
                let others = said.scores.iter().enumerate().filter(|(at, _)| *at != said.index);
                let second = others.map(|(_, &score)| score).fold(0.0, f32::max);
                f64::from(said.confidence - second) < self.margin
            }
            // Between the confidence that boxes need and certainty, the lowest part.
            Answer::Boxes(boxes) => boxes
                .iter()
                .any(|found| (f64::from(found.confidence) - self.least) < self.margin * (1.0 - self.least)),
            Answer::Reading(_) => false,
        }
    }
}
