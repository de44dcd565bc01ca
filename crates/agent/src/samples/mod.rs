//! Hard samples: the few raw frames that are worth a label, where a configuration asks for them. docs/insights.md tells how
//! they are chosen.

mod budget;
mod choose;
mod config;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use espalier_tasks::{Answer, Observation, Reference, Task};
use espalier_wire::Kind;
use serde_json::{Map, Value};

use crate::moment::Moment;
use budget::Budget;
use choose::Chooser;
pub use choose::Reason;
pub use config::{SampleConfig, SampleError};
use store::Store;

/// Keeps hard samples, under budgets.
#[derive(Debug)]
pub struct Samples {
    chooser: Chooser,
    count: Budget,
    /// The part of the count that is not left to random ones.
    chosen: Budget,
    bytes: Budget,
    store: Store,
    labels: Vec<String>,
    refused: u64,
}

impl Samples {
    /// Keeps samples of a pipeline with this task; `reference` is that of its package.
    ///
    /// # Errors
    /// Settings that cannot be kept; a task that looks at no pictures; a folder that cannot be made or read.
    pub fn new(
        config: &SampleConfig,
        task: &Task,
        reference: Option<&Reference>,
    ) -> Result<Samples, SampleError> {
        config.validate()?;
        task.picture_input().ok_or(SampleError::Series)?;
        let hourly = f64::from(config.per_hour);
        Ok(Samples {
            chooser: Chooser::new(config, task, reference),
            count: Budget::new(hourly),
            chosen: Budget::new(hourly * (1.0 - config.random)),
            bytes: Budget::new(config.bytes_per_hour as f64),
            store: Store::open(&config.folder, config.folder_bytes)?,
            labels: task.labels().to_vec(),
            refused: 0,
        })
    }

    /// Another package answers from now on; what was spent stays spent.
    pub fn renew(&mut self, config: &SampleConfig, task: &Task, reference: Option<&Reference>) {
        self.chooser = Chooser::new(config, task, reference);
        self.labels = task.labels().to_vec();
    }

    /// Keeps the frame if it is a hard sample and the budgets allow it. `picture` are its bytes as they came from the source.
    ///
    /// # Errors
    /// It could not be written; nothing of it is there then, and it is not counted against a budget.
    pub fn frame(
        &mut self,
        at: Moment,
        picture: &[u8],
        answer: &Answer,
        seen: &Observation,
    ) -> Result<Option<Kind>, SampleError> {
        match self.wanted(at, answer, seen) {
            Some(reason) => self.keep(at, reason, picture, answer),
            None => Ok(None),
        }
    }

    /// Why the frame is a hard sample, if it is one; budgets apart.
    pub fn wanted(&mut self, at: Moment, answer: &Answer, seen: &Observation) -> Option<Reason> {
        self.chooser.choose(at.since_start, answer, seen)
    }

    /// Keeps a hard sample if the budgets allow it.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    pub fn keep(
        &mut self,
        at: Moment,
        reason: Reason,
        picture: &[u8],
        answer: &Answer,
    ) -> Result<Option<Kind>, SampleError> {
        let now = at.since_start;
        let answer = answer.fields(&self.labels);
        let beside = beside(at, reason, &answer);
        let cost = (picture.len() + beside.len()) as u64;
        if !self.affords(now, reason, cost) || !self.store.has_room(cost) {
            self.refused += 1;
            return Ok(None);
        }
        let Some(file) = self.store.keep(picture, &beside)? else { return Ok(None) };
        self.count.spend(1.0);
        self.bytes.spend(cost as f64);
        if reason != Reason::Random {
            self.chosen.spend(1.0);
        }
        Ok(Some(Kind::HardSample { reason: reason.name().into(), file, bytes: picture.len() as u64, answer }))
    }

    /// Frames that were hard samples, and that the budgets did not allow.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn affords(&mut self, now: Duration, reason: Reason, cost: u64) -> bool {
        let is_left = reason == Reason::Random || self.chosen.affords(now, 1.0);
        is_left && self.count.affords(now, 1.0) && self.bytes.affords(now, cost as f64)
    }
}

/// What stands in the file beside a sample.
fn beside(at: Moment, reason: Reason, answer: &Map<String, Value>) -> Vec<u8> {
    let mut fields = answer.clone();
    fields.insert("reason".into(), reason.name().into());
    fields.insert("time_ms".into(), at.unix_ms().into());
    Value::Object(fields).to_string().into_bytes()
}
