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

/// What comes out of a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(Frame),
    Trouble(String),
    Ended(Result<(), SourceError>),
    /// Nothing within the time.
    Nothing,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    troubles: VecDeque<String>,
    seen: u64,
    skipped: u64,
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
            state.skipped += 1;
        }
        state.seen += 1;
        let number = state.seen;
        state.frames.push_back(Frame { number, time, captured, file, bytes });
        self.changed.notify_all();
        true
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

    /// What is next; waits up to `patience` for it. The end comes once.
    pub(crate) fn pop(&self, patience: Duration) -> Item {
        let idle = |state: &mut State| {
            state.frames.is_empty() && state.troubles.is_empty() && state.ended.is_none() && !state.closed
        };
        let waited = self.changed.wait_timeout_while(self.state(), patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let item = if let Some(text) = state.troubles.pop_front() {
            Item::Trouble(text)
        } else if let Some(frame) = state.frames.pop_front() {
            Item::Frame(frame)
        } else {
            state.ended.take().map_or(Item::Nothing, Item::Ended)
        };
        self.changed.notify_all();
        item
    }

    /// No frame is taken any more; those that wait are skipped.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.skipped += state.frames.len() as u64;
        state.frames.clear();
        self.changed.notify_all();
    }

    /// Waits up to `time`; `false` once the queue is closed.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let open = |state: &mut State| !state.closed;
        let waited = self.changed.wait_timeout_while(self.state(), time, open);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Frames that were put in, and of them those that nobody will look at.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.seen, state.skipped)
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
            Item::Frame(frame) => frame.number,
            other => panic!("{other:?} is no frame"),
        }
    }

    #[test]
    fn the_newest_wins() {
        let queue = Queue::new(Policy::Latest);
        (0..5).for_each(|_| assert!(queue.push(None, Ok(Vec::new()))));
        assert_eq!((number(&queue), queue.counts()), (5, (5, 4)));
        assert!(matches!(queue.pop(Duration::ZERO), Item::Nothing));
        queue.push(None, Ok(Vec::new()));
        queue.close();
        assert_eq!(queue.counts(), (6, 5), "what waited is skipped");
        assert!(!queue.push(None, Ok(Vec::new())), "nobody takes it");
        assert_eq!(queue.counts(), (6, 5), "it was never seen");
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
                assert!(queue.counts().0 <= expected + 3, "at most two wait");
            }
            assert!(matches!(queue.pop(Duration::from_secs(5)), Item::Ended(Ok(()))));
        });
        assert_eq!(queue.counts(), (100, 0));
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
        let (seen, skipped) = queue.counts();
        assert_eq!(seen, skipped + 1);
        assert!(!queue.sleep(Duration::from_secs(60)), "no sleep in a closed queue");
    }
}
