//! Hard samples: the few raw frames that are worth a label, where a configuration asks for them. docs/insights.md tells how
//! they are chosen.

mod budget;
mod choose;
mod config;
mod keep;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use espalier_tasks::{Answer, Observation, Reference, Task};
use espalier_wire::Kind;
use serde_json::{Map, Value};

use crate::moment::Moment;
use choose::Chooser;
pub use choose::Reason;
pub use config::{SampleConfig, SampleError};
use keep::{Keeper, Purse};
use writer::Writer;

/// Chooses hard samples, and hands them to a thread that keeps them: who sees frames never waits for a disk.
#[derive(Debug)]
pub struct Samples {
    chooser: Chooser,
    labels: Vec<String>,
    purse: Arc<Mutex<Purse>>,
    writer: Writer,
}

/// A frame that is to be kept.
#[derive(Debug)]
struct Candidate {
    at: Moment,
    reason: Reason,
    /// As it came from the source.
    picture: Vec<u8>,
    /// As `espalier predict --json` has it.
    answer: Map<String, Value>,
}

impl Samples {
    /// Keeps samples of a pipeline with this task; `reference` is that of its package. `tell` hears of each that is kept or
    /// could not be written, in the thread that does it.
    ///
    /// # Errors
    /// Settings that cannot be kept; a task that looks at no pictures; a folder that cannot be made or read.
    pub fn new(
        config: &SampleConfig,
        task: &Task,
        reference: Option<&Reference>,
        mut tell: impl FnMut(Moment, Result<Kind, SampleError>) + Send + 'static,
    ) -> Result<Samples, SampleError> {
        config.validate()?;
        task.picture_input().ok_or(SampleError::Series)?;
        let (mut keeper, purse) = Keeper::open(config)?;
        let writer = Writer::start(move |candidate| {
            let at = candidate.at;
            if let Some(kept) = keeper.keep(candidate).transpose() {
                tell(at, kept);
            }
        });
        let (chooser, labels) = (Chooser::new(config, task, reference), task.labels().to_vec());
        Ok(Samples { chooser, labels, purse, writer })
    }

    /// Another package answers from now on; what was spent stays spent.
    pub fn renew(&mut self, config: &SampleConfig, task: &Task, reference: Option<&Reference>) {
        self.chooser = Chooser::new(config, task, reference);
        self.labels = task.labels().to_vec();
    }

    /// Hands the frame over if it is a hard sample that the budgets may allow. `picture` are its bytes as they came from the
    /// source. Whether it was handed over.
    pub fn frame(&mut self, at: Moment, picture: &[u8], answer: &Answer, seen: &Observation) -> bool {
        let Some(reason) = self.chooser.choose(at.since_start, answer, seen) else { return false };
        if !lock(&self.purse).may_afford(at.since_start, reason, picture) {
            return false;
        }
        let (picture, answer) = (picture.to_vec(), answer.fields(&self.labels));
        self.writer.push(Candidate { at, reason, picture, answer })
    }

    /// Frames that were hard samples, and that the budgets did not allow.
    pub fn refused(&self) -> u64 {
        lock(&self.purse).refused()
    }

    /// Frames that were hard samples, and that nobody kept because too many waited for the disk.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Waits until everything that was handed over is kept.
    pub fn finish(&mut self) {
        self.writer.finish();
    }
}

/// What a thread that panicked leaves are counts.
fn lock(purse: &Mutex<Purse>) -> MutexGuard<'_, Purse> {
    purse.lock().unwrap_or_else(PoisonError::into_inner)
}
