//! What a source's thread does with what it reads.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::SourceError;
use super::pictures::Splitter;
use crate::frame::Fault;
use crate::queue::Queue;

/// Pause before the first of several new attempts; each one after it waits twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts without a frame, after which a source is given up: 15 seconds and the time that the attempts take.
const ATTEMPTS: u32 = 5;

/// When a source that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never.
    Never,
    /// A few times, where it gave a frame before.
    Some,
    /// Always, after pauses that grow up to the longest.
    Always {
        /// The longest pause.
        longest: Duration,
    },
}

/// How long a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Whether it begins again where it is over.
    pub again: bool,
    /// What happens where it fails.
    pub retry: Retry,
}

/// How one reading of a source ended, where it did not fail.
pub(crate) enum End {
    /// It says that nothing follows, or nobody takes frames any more.
    Over,
    /// It broke off.
    Cut,
}

type Interrupt = Box<dyn FnOnce() + Send>;

/// Ends what a source's thread waits for, from another thread.
#[derive(Clone, Default)]
pub(crate) struct Interrupter(Arc<Mutex<Option<Interrupt>>>);

impl Interrupter {
    fn set(&self, interrupt: Interrupt) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt);
    }

    pub(crate) fn interrupt(&self) {
        let interrupt = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(interrupt) = interrupt {
            interrupt();
        }
    }
}

/// Takes the frames of one source.
pub(crate) struct Feed {
    queue: Arc<Queue>,
    interrupter: Interrupter,
    /// Time from one frame to the next, at least.
    period: Option<Duration>,
    due: Option<Instant>,
    /// Frames since the last attempt began.
    frames: u64,
}

impl Feed {
    pub(crate) fn new(queue: Arc<Queue>, interrupter: Interrupter, period: Option<Duration>) -> Feed {
        Feed { queue, interrupter, period, due: None, frames: 0 }
    }

    /// Puts in a frame; `false` where nobody takes any more.
    pub(super) fn frame(&mut self, file: Option<String>, bytes: Result<Vec<u8>, Fault>) -> bool {
        self.frames += 1;
        self.wait() && self.queue.push(file, bytes)
    }

    /// The source's own time from one frame to the next, where nobody wants another.
    pub(super) fn pace(&mut self, period: Duration) {
        self.period.get_or_insert(period);
    }

    /// Until the next frame is due.
    fn wait(&mut self) -> bool {
        let Some(period) = self.period else { return true };
        let (now, due) = (Instant::now(), self.due.unwrap_or_else(Instant::now));
        self.due = Some(due.max(now) + period);
        self.queue.sleep(due.saturating_duration_since(now))
    }

    /// Pictures one after another from `reader`; `after` names what ended where it breaks off.
    pub(super) fn pictures(&mut self, mut reader: impl Read) -> Result<End, SourceError> {
        let mut splitter = Splitter::new();
        let failed = self.chunks(&mut reader, |feed, bytes| {
            splitter.push(bytes);
            std::iter::from_fn(|| splitter.picture()).all(|picture| feed.frame(None, picture))
        })?;
        if let (End::Cut, Some(fault)) = (&failed, splitter.end()) {
            self.frame(None, Err(fault));
        }
        Ok(failed)
    }

    /// Gives what `reader` has to `take`, in pieces, until that says `false` or nothing follows.
    pub(super) fn chunks(
        &mut self,
        reader: &mut impl Read,
        mut take: impl FnMut(&mut Feed, &[u8]) -> bool,
    ) -> Result<End, SourceError> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(End::Cut),
                Ok(size) if take(self, &chunk[..size]) => {}
                Ok(_) => return Ok(End::Over),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::failed(error)),
            }
        }
    }

    /// Called from another thread when the stream is closed: it has to end what the source waits for.
    pub(super) fn on_close(&self, interrupt: impl FnOnce() + Send + 'static) {
        self.interrupter.set(Box::new(interrupt));
        if !self.is_open() {
            self.interrupter.interrupt();
        }
    }

    /// Waits; `false` once nobody takes frames any more.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        self.queue.sleep(time)
    }

    pub(super) fn is_open(&self) -> bool {
        self.queue.sleep(Duration::ZERO)
    }

    /// Reads a source again and again, with pauses where it fails, until it says itself that it is over, or is given up.
    pub(crate) fn keep_on(
        &mut self,
        persistence: Persistence,
        mut read: impl FnMut(&mut Feed) -> Result<End, SourceError>,
    ) -> Result<(), SourceError> {
        let (mut ever, mut attempts) = (false, 0);
        loop {
            self.frames = 0;
            self.queue.begin();
            let result = read(self);
            if !self.is_open() {
                return Ok(());
            }
            let reason = match result {
                Ok(End::Over) if persistence.again && self.frames > 0 => continue,
                Ok(End::Over) if persistence.again => SourceError::failed("the source gave no frame"),
                Ok(End::Over) => return Ok(()),
                Ok(End::Cut) => SourceError::failed("the stream broke off"),
                Err(error) => error,
            };
            ever |= self.frames > 0;
            attempts = if self.frames > 0 { 0 } else { attempts + 1 };
            let longest = match persistence.retry {
                Retry::Never => return Err(reason),
                Retry::Some if !ever || attempts == ATTEMPTS => return Err(reason),
                Retry::Some => Duration::MAX,
                Retry::Always { longest } => longest,
            };
            let pause = (PAUSE * 2u32.pow(attempts.min(16))).min(longest);
            self.queue.trouble(format!("{reason}; next attempt in {:.1} s", pause.as_secs_f64()));
            if !self.queue.sleep(pause) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Item, Outcome, Policy};

    const SOME: Persistence = Persistence { again: false, retry: Retry::Some };

    /// The items that come of a source, which is read by `read`.
    fn items(
        persistence: Persistence,
        read: impl FnMut(&mut Feed) -> Result<End, SourceError> + Send,
    ) -> (Vec<String>, Result<(), SourceError>) {
        let queue = Arc::new(Queue::new(Policy::Every));
        let mut feed = Feed::new(queue.clone(), Interrupter::default(), None);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let result = feed.keep_on(persistence, read);
                feed.queue.end(result);
            });
            let (mut items, begun) = (Vec::new(), Instant::now());
            loop {
                match queue.pop(Duration::from_secs(10)) {
                    Item::Frame(frame) => {
                        queue.settle(Outcome::Processed);
                        items.push(frame.number.to_string());
                    }
                    Item::Trouble(text) => items.push(text),
                    Item::Ended(result) => return (items, result),
                    // A closed queue has nothing until its source has ended.
                    Item::Nothing => assert!(begun.elapsed() < Duration::from_secs(20), "it goes on"),
                }
            }
        })
    }

    #[test]
    fn what_is_cut_is_read_again() {
        let mut attempt = 0;
        let (items, result) = items(SOME, |feed| {
            attempt += 1;
            match attempt {
                1 => feed.frame(None, Ok(Vec::new())),
                2 => return Err(SourceError::failed("no route")),
                _ => {
                    feed.frame(None, Ok(Vec::new()));
                    return Ok(End::Over);
                }
            };
            Ok(End::Cut)
        });
        let mut items = items;
        items.sort();
        let expected =
            ["1", "2", "no route; next attempt in 1.0 s", "the stream broke off; next attempt in 0.5 s"];
        assert_eq!((items, result), (expected.map(String::from).to_vec(), Ok(())));
    }

    #[test]
    fn what_never_worked_fails_at_once() {
        let (items, result) = items(SOME, |_| Err(SourceError::failed("no route")));
        assert_eq!((items, result), (vec![], Err(SourceError::failed("no route"))));
    }

    #[test]
    fn what_is_to_go_on_for_ever_does() {
        let (longest, mut attempt) = (Duration::from_millis(10), 0);
        let (items, result) = items(Persistence { again: true, retry: Retry::Always { longest } }, |feed| {
            attempt += 1;
            match attempt {
                1..=9 => Err(SourceError::failed("no route")),
                10 => Ok(End::Over),
                11 | 12 => {
                    feed.frame(None, Ok(Vec::new()));
                    Ok(End::Over)
                }
                _ => {
                    while feed.queue.counts().waiting > 0 {
                        std::thread::yield_now();
                    }
                    feed.queue.close();
                    Ok(End::Over)
                }
            }
        });
        assert_eq!(
            items.iter().filter(|item| *item == "no route; next attempt in 0.0 s").count(),
            9,
            "{items:?}"
        );
        assert!(items.contains(&"the source gave no frame; next attempt in 0.0 s".to_owned()), "{items:?}");
        assert_eq!((items.len(), result), (12, Ok(())), "two frames");
    }
}
