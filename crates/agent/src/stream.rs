//! A source that is being read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::Frame;
use crate::queue::{Item, Policy, Queue};
use crate::source::{Feed, Interrupter, Source, SourceError};
use crate::tally::Tally;

/// What a stream has to say.
#[derive(Debug)]
pub enum Event {
    /// The next frame.
    Frame(Frame),
    /// Something about the source that somebody should know, such as a lost connection; it goes on.
    Trouble(String),
    /// Nothing follows.
    Ended(Result<(), SourceError>),
    /// Nothing came within the time.
    Nothing,
}

/// Reads a source in a thread of its own. Dropping it ends that thread and what it started.
pub struct Stream {
    queue: Arc<Queue>,
    interrupter: Interrupter,
}

impl Stream {
    /// Begins to read. `rate` is the most frames a second, for what would come faster.
    pub fn open(source: Source, policy: Policy, rate: Option<f64>) -> Stream {
        let (queue, interrupter) = (Arc::new(Queue::new(policy)), Interrupter::default());
        let period = rate.map(|rate| Duration::from_secs_f64(1.0 / rate.clamp(1e-3, 1e6)));
        let mut feed = Feed::new(queue.clone(), interrupter.clone(), period);
        std::thread::spawn({
            let queue = queue.clone();
            move || {
                let read = catch_unwind(AssertUnwindSafe(|| source.read(&mut feed)));
                let failed = |_| Err(SourceError::Failed(format!("{source}: reading it panicked")));
                queue.end(read.unwrap_or_else(failed));
            }
        });
        Stream { queue, interrupter }
    }

    /// What is next; waits up to `patience`.
    pub fn next(&self, patience: Duration) -> Event {
        match self.queue.pop(patience) {
            Item::Frame(frame) => Event::Frame(frame),
            Item::Trouble(text) => Event::Trouble(text),
            Item::Ended(result) => Event::Ended(result),
            Item::Nothing => Event::Nothing,
        }
    }

    /// Takes no frame any more: those that wait are skipped.
    pub fn close(&self) {
        self.queue.close();
        self.interrupter.interrupt();
    }

    /// Brings the counts of the stream into a tally.
    pub fn count(&self, tally: &mut Tally) {
        (tally.seen, tally.skipped) = self.queue.counts();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}
