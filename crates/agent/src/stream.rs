//! A source that is being read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::Frame;
use crate::queue::{Counts, Item, Next, Outcome, Policy, Queue};
use crate::source::{Feed, Interrupter, Persistence, Source, SourceError};

/// What a stream has to say.
#[derive(Debug)]
pub enum Event {
    /// The next frame, which has to be settled.
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

/// How a source is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// What happens to frames that come faster than they are looked at.
    pub policy: Policy,
    /// The most frames a second that are read, for what would come faster.
    pub rate: Option<f64>,
    /// How long it is read.
    pub persistence: Persistence,
}

impl Reading {
    /// How `source` is read where nobody says otherwise.
    pub fn usual(source: &Source) -> Reading {
        Reading { policy: source.policy(), rate: None, persistence: source.persistence() }
    }
}

impl Stream {
    /// Begins to read what `resolve` gives; it is asked before every attempt.
    pub fn open(
        mut resolve: impl FnMut() -> Result<Source, SourceError> + Send + 'static,
        reading: Reading,
    ) -> Stream {
        let (queue, interrupter) = (Arc::new(Queue::new(reading.policy)), Interrupter::default());
        let period = reading.rate.map(|rate| Duration::from_secs_f64(1.0 / rate.clamp(1e-3, 1e6)));
        let mut feed = Feed::new(queue.clone(), interrupter.clone(), period);
        std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut attempt = |feed: &mut Feed| {
                    let source = resolve()?;
                    let failed = |_| Err(SourceError::Failed(format!("{source}: reading it panicked")));
                    catch_unwind(AssertUnwindSafe(|| source.read(feed))).unwrap_or_else(failed)
                };
                queue.end(feed.keep_on(reading.persistence, &mut attempt));
            }
        });
        Stream { queue, interrupter }
    }

    /// Waits up to `patience` for what is next, and leaves it there.
    pub(crate) fn wait(&self, patience: Duration) -> Next {
        self.queue.wait(patience)
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

    /// Says what became of a frame; every frame that was taken has to be settled.
    pub fn settle(&self, outcome: Outcome) {
        self.queue.settle(outcome);
    }

    /// What became of the frames.
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}
