//! What a pipeline makes of its answers: events, counts, drift, hard samples, and how it is.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_tasks::{Reference, Task};
use espalier_wire::{Frames, Kind};

use super::Seen;
use crate::config::{Fault, PipelineConfig};
use crate::drift::Drift;
use crate::insight::{Aggregates, Rules};
use crate::moment::Moment;
use crate::samples::{SampleConfig, SampleError, Samples};
use crate::show::Health;

/// What depends on the package that answers.
pub(crate) struct Watch {
    task: Task,
    reference: Option<Reference>,
    rules: Rules,
    drift: Option<Drift>,
}

impl Watch {
    /// For a package with this task and these reference statistics.
    ///
    /// # Errors
    /// What the configuration asks for and the package does not have.
    pub(crate) fn new(
        config: &PipelineConfig,
        task: &Task,
        reference: Option<Reference>,
    ) -> Result<Watch, Fault> {
        let table = |path: &str, right: String| Fault::Table { path: path.into(), right };
        let rules = Rules::new(&config.smoothed_rules(), task.labels())
            .map_err(|error| table("rule", error.to_string()))?;
        let drift = config.drift.as_ref().map(|drift| Drift::new(drift, reference.as_ref(), task));
        let drift = drift.transpose().map_err(|error| table("drift", error.to_string()))?;
        Ok(Watch { task: task.clone(), reference, rules, drift })
    }
}

/// Makes insights of the answers of one pipeline.
pub(crate) struct Insights {
    watch: Watch,
    aggregates: Option<Aggregates>,
    samples: Option<(SampleConfig, Samples)>,
    health: HealthReports,
}

impl Insights {
    /// Nothing seen yet; `tell` hears of hard samples, in a thread of their own.
    ///
    /// # Errors
    /// A folder of hard samples that cannot be used.
    pub(crate) fn new(
        config: &PipelineConfig,
        watch: Watch,
        tell: impl FnMut(Moment, Result<Kind, SampleError>) + Send + 'static,
    ) -> Result<Insights, Fault> {
        let samples = config.samples.as_ref().map(|samples| {
            let opened = Samples::new(samples, &watch.task, watch.reference.as_ref(), tell);
            opened.map(|opened| (samples.clone(), opened))
        });
        let wrong = |error: SampleError| Fault::Table { path: "samples".into(), right: error.to_string() };
        Ok(Insights {
            samples: samples.transpose().map_err(wrong)?,
            aggregates: config.aggregate.as_ref().map(|aggregate| Aggregates::new(aggregate.span.0)),
            health: HealthReports::new(config.health.0),
            watch,
        })
    }

    /// Another package answers from now on; what ends with it.
    pub(crate) fn renew(&mut self, at: Moment, watch: Watch) -> Vec<Kind> {
        let mut before = std::mem::replace(&mut self.watch, watch);
        let mut ends: Vec<Kind> = before.drift.iter_mut().flat_map(Drift::stop).collect();
        if before.task.labels() == self.watch.task.labels() {
            self.watch.rules = before.rules;
        } else {
            ends.extend(before.rules.stop(at));
        }
        if let Some((config, samples)) = &mut self.samples {
            samples.renew(config, &self.watch.task, self.watch.reference.as_ref());
        }
        ends
    }

    /// What an answer gives rise to.
    pub(crate) fn frame(&mut self, at: Moment, seen: &Seen<'_>) -> Vec<Kind> {
        let size = seen.image.map_or([1, 1], |image| [image.height, image.width]);
        let mut kinds = self.watch.rules.frame(at, size, seen.answer);
        if let Some(aggregates) = &mut self.aggregates {
            aggregates.frame(seen.answer);
            let truth = seen.frame.truth().filter(|truth| seen.labels.iter().any(|label| label == truth));
            truth.into_iter().for_each(|truth| aggregates.compare(seen.answer, truth));
        }
        if let (Some(drift), Some(observation)) = (&mut self.watch.drift, seen.observation) {
            kinds.extend(drift.frame(observation));
        }
        kinds
    }

    /// Hands the frame over to be kept, if it is a hard sample.
    pub(crate) fn keep(&mut self, at: Moment, seen: &Seen<'_>) {
        if let Some((_, samples)) = &mut self.samples
            && let (Some(observation), Ok(bytes)) = (seen.observation, &seen.frame.bytes)
        {
            samples.frame(at, bytes, seen.answer, observation);
        }
    }

    /// Waits until all hard samples are kept.
    pub(crate) fn finish(&mut self) {
        if let Some((_, samples)) = &mut self.samples {
            samples.finish();
        }
    }

    /// What time alone gives rise to.
    pub(crate) fn tick(
        &mut self,
        at: Moment,
        frames: Frames,
        health: Health,
        counters: impl FnOnce() -> BTreeMap<String, f64>,
    ) -> Vec<Kind> {
        let mut kinds = self.watch.rules.tick(at);
        kinds.extend(self.aggregates.as_mut().and_then(|aggregates| aggregates.tick(at, frames)));
        kinds.extend(self.health.tick(at, health, counters));
        kinds
    }

    /// What ends with the pipeline.
    pub(crate) fn end(&mut self, at: Moment, frames: Frames) -> Vec<Kind> {
        let mut kinds = self.watch.rules.stop(at);
        kinds.extend(self.aggregates.as_mut().map(|aggregates| aggregates.close(at, frames)));
        kinds
    }

    /// Scenes that drift was looked for in, statistics that drift, and hard samples that found no budget or no room.
    pub(crate) fn figures(&self) -> [u64; 4] {
        let drift = self.watch.drift.as_ref();
        let scenes = drift.map_or(0, Drift::scenes);
        let drifting = drift.map_or(0, |drift| drift.readings().iter().filter(|one| one.drifts).count());
        let samples = self.samples.as_ref().map(|(_, samples)| (samples.refused(), samples.dropped()));
        let (refused, dropped) = samples.unwrap_or_default();
        [scenes, drifting as u64, refused, dropped]
    }
}

/// Says how a source is: at once when that changes, and again and again.
struct HealthReports {
    every: Duration,
    last: Option<(Duration, Health)>,
}

impl HealthReports {
    fn new(every: Duration) -> HealthReports {
        HealthReports { every, last: None }
    }

    fn tick(
        &mut self,
        at: Moment,
        health: Health,
        counters: impl FnOnce() -> BTreeMap<String, f64>,
    ) -> Option<Kind> {
        let now = at.since_start;
        let same =
            |(last, before): (Duration, Health)| before == health && now.saturating_sub(last) < self.every;
        if self.last.is_some_and(same) {
            return None;
        }
        self.last = Some((now, health));
        Some(Kind::Health { source: health.word().into(), counters: counters() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn health_is_told_when_it_changes_and_now_and_then() {
        let mut reports = HealthReports::new(Duration::from_secs(60));
        let mut told = Vec::new();
        for second in 0..200 {
            // The wall clock jumps; nothing follows from that.
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(if second < 50 { 0 } else { 1 << 40 });
            let health = if (70..75).contains(&second) { Health::Failing } else { Health::Live };
            let at = Moment { since_start: Duration::from_secs(second), wall };
            if let Some(Kind::Health { source, .. }) = reports.tick(at, health, BTreeMap::new) {
                told.push((second, source));
            }
        }
        let expected =
            [(0, "live"), (60, "live"), (70, "failing"), (75, "live"), (135, "live"), (195, "live")];
        assert_eq!(told, expected.map(|(second, word)| (second, word.to_owned())));
    }
}
