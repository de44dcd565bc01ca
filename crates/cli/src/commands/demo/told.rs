//! What pipelines say of themselves, in insights.

use std::collections::BTreeMap;

use espalier_wire::{Insight, Kind, State};
use serde_json::{Value, json};

/// What one pipeline has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Frames of the source, and those with an answer.
    pub(super) seen: u64,
    pub(super) frames: u64,
    /// Of those whose truth is known, all and those that were answered rightly.
    known: u64,
    right: u64,
    /// The statistic that told drift first, and after how many frames.
    pub(super) drift: Option<(String, u64)>,
    pub(super) samples: u64,
    /// Bytes that left the device: of insights and of hard samples.
    pub(super) sent_bytes: u64,
    /// What it last said of its health, if it did.
    pub(super) seen_bytes: Option<u64>,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// What all pipelines have said, by their names.
pub(super) type All = BTreeMap<String, Told>;

impl Told {
    /// Takes a line of the agent; the pipeline that it is about.
    ///
    /// # Errors
    /// It is no insight.
    pub(super) fn hear(all: &mut All, line: &str) -> anyhow::Result<String> {
        let Insight { pipeline, kind, .. } = serde_json::from_str(line)?;
        let told = all.entry(pipeline.clone()).or_default();
        told.sent_bytes += line.len() as u64;
        told.take(kind);
        Ok(pipeline)
    }

    fn take(&mut self, kind: Kind) {
        match kind {
            Kind::Aggregate { frames, truth, .. } => {
                let truth = truth.unwrap_or_default();
                (self.seen, self.frames) = (self.seen + frames.seen, self.frames + frames.processed);
                (self.known, self.right) = (self.known + truth.known, self.right + truth.right);
            }
            Kind::Drift { state: State::Begins, statistic, frames, .. } => {
                self.drift.get_or_insert((statistic, frames));
            }
            Kind::HardSample { bytes, .. } => {
                self.samples += 1;
                self.sent_bytes += bytes;
            }
            Kind::Health { counters, .. } => {
                let of = |name: &str| counters.get(name).copied();
                self.seen_bytes = of("seen_bytes_total").map(|bytes| bytes as u64);
                (self.p50_ms, self.p99_ms) = (of("latency_ms_p50"), of("latency_ms_p99"));
            }
            Kind::Drift { .. } | Kind::Event { .. } => {}
        }
    }

    /// The share of right answers, where the truth is known.
    pub(super) fn accuracy(&self) -> Option<f64> {
        (self.known > 0).then(|| self.right as f64 / self.known as f64)
    }

    /// As JSON.
    pub(super) fn value(&self, name: &str) -> Value {
        let drift = self.drift.as_ref();
        json!({
            "name": name, "frames": self.frames, "accuracy": self.accuracy(),
            "drift": drift.map(|(statistic, _)| statistic), "drift_frames": drift.map(|(_, frames)| frames),
            "hard_samples": self.samples,
        })
    }

    /// Cells of a table.
    pub(super) fn cells(&self, name: &str) -> Vec<String> {
        let accuracy = self.accuracy().map_or("-".into(), |accuracy| format!("{accuracy:.4}"));
        let (frames, samples) = (self.frames.to_string(), self.samples.to_string());
        let drift = self.drift.as_ref();
        let drift = drift.map_or("-".into(), |(statistic, frames)| format!("{statistic}, frame {frames}"));
        vec![name.into(), frames, accuracy, drift, samples]
    }

    /// Several of them in one; of latencies the worst. What one of them did not tell is not known of all.
    pub(super) fn sum(all: &[Told]) -> Told {
        let total = |of: fn(&Told) -> u64| all.iter().map(of).sum();
        let worst = |of: fn(&Told) -> Option<f64>| {
            let told: Option<Vec<f64>> = all.iter().map(of).collect();
            told.and_then(|told| told.into_iter().reduce(f64::max))
        };
        Told {
            seen: total(|one| one.seen),
            frames: total(|one| one.frames),
            known: total(|one| one.known),
            right: total(|one| one.right),
            drift: all.iter().find_map(|one| one.drift.clone()),
            samples: total(|one| one.samples),
            sent_bytes: total(|one| one.sent_bytes),
            seen_bytes: all.iter().map(|one| one.seen_bytes).sum(),
            p50_ms: worst(|one| one.p50_ms),
            p99_ms: worst(|one| one.p99_ms),
        }
    }
}
