//! Between the thread that reads a source and whoever looks at its frames.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::frame::{Fault, Frame};
use crate::source::SourceError;

/// What happens to frames that come faster than they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The newest wins: older ones are skipped and counted. For what is live.
    Latest,
    /// Every frame is looked at: the source waits. For what is stored.
    Every,
}

impl Policy {
    /// Frames that wait at most.
    fn room(self) -> usize {
        match self {
            Policy::Latest => 1,
            Policy::Every => 2,
        }
    }
}

/// What is next in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A frame.
    Frame,
    /// Trouble, or the end.
    Word,
    /// Nothing within the time.
    Nothing,
}

/// What comes out of a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(Frame),
    Trouble(String),
    Ended(Result<(), SourceError>),
    /// Nothing within the time.
    Nothing,
}

/// What became of a frame that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has an answer.
    Processed,
    /// It was too old to be looked at.
    Skipped,
    /// It is no picture or row.
    Broken,
}

/// Frames by what became of them, and those of which nothing became yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames with an answer.
    pub processed: u64,
    /// Frames that nobody looked at: newer ones were there, they were too old, or the stream was closed.
    pub skipped: u64,
    /// Frames without a picture or row.
    pub broken: u64,
    /// Frames that wait, or are being looked at.
    pub waiting: u64,
    /// Bytes of all frames, as the source gave them.
    pub bytes: u64,
}

impl Counts {
    /// Frames whose fate is known: always processed + skipped + broken.
    pub fn seen(&self) -> u64 {
        self.processed + self.skipped + self.broken
    }
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    troubles: VecDeque<String>,
    /// The number of the last frame.
    number: u64,
    /// How often the source was begun.
    reading: u64,
    /// Frames that were taken and are not settled.
    taken: u64,
    counts: Counts,
    ended: Option<Result<(), SourceError>>,
    closed: bool,
}

/// A bounded queue of frames, from one thread to another.
pub(crate) struct Queue {
    policy: Policy,
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(crate) fn new(policy: Policy) -> Queue {
        Queue { policy, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Numbers a frame and puts it in; waits for room under [`Policy::Every`]. `false` where nobody takes frames any more:
    /// the frame was then never seen.
    pub(crate) fn push(&self, file: Option<String>, bytes: Result<Vec<u8>, Fault>) -> bool {
        let (time, captured) = (SystemTime::now(), Instant::now());
        let mut state = self.state();
        while self.policy == Policy::Every && !state.closed && state.frames.len() >= self.policy.room() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        while state.frames.len() >= self.policy.room() {
            state.frames.pop_front();
            state.counts.skipped += 1;
        }
        state.number += 1;
        state.counts.bytes += bytes.as_ref().map_or(0, Vec::len) as u64;
        let (number, reading) = (state.number, state.reading);
        state.frames.push_back(Frame { number, time, captured, file, reading, bytes });
        self.changed.notify_all();
        true
    }

    /// The source begins, once more or for the first time.
    pub(crate) fn begin(&self) {
        self.state().reading += 1;
    }

    /// Puts in a sentence about the source.
    pub(crate) fn trouble(&self, text: String) {
        self.state().troubles.push_back(text);
        self.changed.notify_all();
    }

    /// Nothing follows.
    pub(crate) fn end(&self, result: Result<(), SourceError>) {
        self.state().ended = Some(result);
        self.changed.notify_all();
    }

    /// Waits up to `patience` for what is next, and leaves it there.
    pub(crate) fn wait(&self, patience: Duration) -> Next {
        let state = self.wait_for_something(patience);
        if !state.troubles.is_empty() {
            Next::Word
        } else if !state.frames.is_empty() {
            Next::Frame
        } else if state.ended.is_some() {
            Next::Word
        } else {
            Next::Nothing
        }
    }

    fn wait_for_something(&self, patience: Duration) -> MutexGuard<'_, State> {
        let idle = |state: &mut State| {
            state.frames.is_empty() && state.troubles.is_empty() && state.ended.is_none() && !state.closed
        };
        let waited = self.changed.wait_timeout_while(self.state(), patience, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What is next; waits up to `patience` for it. A frame has to be settled. The end comes once.
    pub(crate) fn pop(&self, patience: Duration) -> Item {
        let mut state = self.wait_for_something(patience);
        let item = if let Some(text) = state.troubles.pop_front() {
            Item::Trouble(text)
        } else if let Some(frame) = state.frames.pop_front() {
            state.taken += 1;
            Item::Frame(frame)
        } else {
            state.ended.take().map_or(Item::Nothing, Item::Ended)
        };
        self.changed.notify_all();
        item
    }

    /// Says what became of a frame that was taken.
    pub(crate) fn settle(&self, outcome: Outcome) {
        let mut state = self.state();
        state.taken -= 1;
        let counts = &mut state.counts;
        match outcome {
            Outcome::Processed => counts.processed += 1,
            Outcome::Skipped => counts.skipped += 1,
            Outcome::Broken => counts.broken += 1,
        }
    }

    /// No frame is taken any more; those that wait are skipped.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.counts.skipped += state.frames.len() as u64;
        state.frames.clear();
        self.changed.notify_all();
    }

    /// Waits up to `time`; `false` once the queue is closed.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let open = |state: &mut State| !state.closed;
        let waited = self.changed.wait_timeout_while(self.state(), time, open);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// What became of the frames that were put in.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let counts = Counts { waiting: state.taken + state.frames.len() as u64, ..state.counts };
        assert_eq!(counts.seen() + counts.waiting, state.number, "each frame is counted once");
        counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(queue: &Queue) -> u64 {
        match queue.pop(Duration::from_secs(5)) {
            Item::Frame(frame) => {
                queue.settle(Outcome::Processed);
                frame.number
            }
            other => panic!("{other:?} is no frame"),
        }
    }

    /// Frames seen, processed, skipped and waiting.
    fn counts(queue: &Queue) -> [u64; 4] {
        let counts = queue.counts();
        [counts.seen(), counts.processed, counts.skipped, counts.waiting]
    }

    #[test]
    fn the_newest_wins() {
        let queue = Queue::new(Policy::Latest);
        (0..5).for_each(|_| assert!(queue.push(None, Ok(Vec::new()))));
        assert_eq!((number(&queue), counts(&queue)), (5, [5, 1, 4, 0]));
        assert!(matches!(queue.pop(Duration::ZERO), Item::Nothing));
        queue.push(None, Ok(Vec::new()));
        queue.close();
        assert_eq!(counts(&queue), [6, 1, 5, 0], "what waited is skipped");
        assert!(!queue.push(None, Ok(Vec::new())), "nobody takes it");
        assert_eq!(counts(&queue), [6, 1, 5, 0], "it was never seen");
    }

    #[test]
    fn every_frame_comes_in_order_and_the_source_waits() {
        let queue = Queue::new(Policy::Every);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..100).for_each(|_| assert!(queue.push(None, Ok(Vec::new()))));
                queue.end(Ok(()));
            });
            for expected in 1..=100 {
                assert_eq!(number(&queue), expected);
                assert!(queue.counts().waiting <= 2, "at most two wait");
            }
            assert!(matches!(queue.pop(Duration::from_secs(5)), Item::Ended(Ok(()))));
        });
        assert_eq!(counts(&queue), [100, 100, 0, 0]);
    }

    #[test]
    fn closing_frees_a_source_that_waits() {
        let queue = Queue::new(Policy::Every);
        std::thread::scope(|scope| {
            let source = scope.spawn(|| (0..10).take_while(|_| queue.push(None, Ok(Vec::new()))).count());
            number(&queue);
            queue.close();
            assert!(source.join().unwrap() < 10);
        });
        let counts = queue.counts();
        assert_eq!((counts.seen(), counts.waiting), (counts.skipped + 1, 0));
        assert!(!queue.sleep(Duration::from_secs(60)), "no sleep in a closed queue");
    }

    #[test]
    fn every_frame_is_counted_once_at_every_moment() {
        let queue = Queue::new(Policy::Latest);
        (0..3).for_each(|_| assert!(queue.push(None, Ok(vec![0; 10]))));
        assert_eq!(counts(&queue), [2, 0, 2, 1]);
        assert_eq!(queue.wait(Duration::ZERO), Next::Frame);
        for outcome in [Outcome::Broken, Outcome::Skipped, Outcome::Processed] {
            queue.push(None, Ok(vec![0; 10]));
            assert!(matches!(queue.pop(Duration::ZERO), Item::Frame(_)));
            assert_eq!(queue.counts().waiting, 1, "it is being looked at");
            queue.settle(outcome);
        }
        assert_eq!(queue.counts(), Counts { processed: 1, skipped: 4, broken: 1, waiting: 0, bytes: 60 });
    }
}
