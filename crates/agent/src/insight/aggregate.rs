//! What was seen within each span of time.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_tasks::Answer;
use espalier_wire::{Frames, Kind, Right};

use super::things::things;
use crate::moment::Moment;

/// Counts answers, and says every `span` what it counted.
#[derive(Debug)]
pub struct Aggregates {
    span: Duration,
    since: Option<Duration>,
    /// Frames of the stream when the span began.
    before: Frames,
    labels: BTreeMap<String, u64>,
    confidence: f64,
    answers: u64,
    truth: Option<Right>,
}

impl Aggregates {
    /// Says what was seen every `span`, a minute usually.
    pub fn new(span: Duration) -> Aggregates {
        let (before, labels) = (Frames::default(), BTreeMap::new());
        Aggregates { span, since: None, before, labels, confidence: 0.0, answers: 0, truth: None }
    }

    /// Counts an answer.
    pub fn frame(&mut self, answer: &Answer) {
        for thing in things(answer, [1, 1]) {
            *self.labels.entry(thing.label.to_owned()).or_default() += 1;
            self.confidence += thing.confidence;
            self.answers += 1;
        }
    }

    /// Counts whether an answer was right.
    pub fn compare(&mut self, answer: &Answer, truth: &str) {
        if let Answer::Label(said) = answer {
            let counts = self.truth.get_or_insert_default();
            counts.known += 1;
            counts.right += u64::from(said.label == truth);
        }
    }

    /// What was seen, where a span is over; `frames` are those of the stream since it was opened. To be called about once a
    /// second.
    pub fn tick(&mut self, at: Moment, frames: Frames) -> Option<Kind> {
        let since = *self.since.get_or_insert(at.since_start);
        (at.since_start.saturating_sub(since) >= self.span).then(|| self.close(at, frames))
    }

    /// What was seen until now, however short the span is.
    pub fn close(&mut self, at: Moment, frames: Frames) -> Kind {
        let since = self.since.replace(at.since_start).unwrap_or(at.since_start);
        let before = std::mem::replace(&mut self.before, frames);
        let (answers, sum) = (std::mem::take(&mut self.answers), std::mem::take(&mut self.confidence));
        Kind::Aggregate {
            span_ms: at.since_start.saturating_sub(since).as_millis() as u64,
            frames: Frames {
                seen: frames.seen.saturating_sub(before.seen),
                processed: frames.processed.saturating_sub(before.processed),
                skipped: frames.skipped.saturating_sub(before.skipped),
                broken: frames.broken.saturating_sub(before.broken),
            },
            labels: std::mem::take(&mut self.labels),
            confidence: (answers > 0).then(|| sum / answers as f64),
            truth: self.truth.take(),
        }
    }
}
