//! The thread that keeps hard samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::Candidate;

/// Frames that wait to be kept, at most.
const WAITING: usize = 64;
/// Bytes of their pictures, at most; a larger one waits alone.
const WAITING_BYTES: usize = 32 << 20;

/// Between who sees frames and the thread that keeps some. What finds no room is dropped and counted; nobody waits for it.
#[derive(Debug)]
pub(super) struct Writer {
    sender: Option<SyncSender<Candidate>>,
    bytes: Arc<AtomicUsize>,
    dropped: u64,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// A thread that does `keep` with all that is pushed, one after another.
    pub(super) fn start(mut keep: impl FnMut(Candidate) + Send + 'static) -> Writer {
        let (sender, receiver) = sync_channel::<Candidate>(WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::Builder::new().name("samples".into()).spawn({
            let bytes = bytes.clone();
            move || {
                for candidate in receiver {
                    let size = candidate.picture.len();
                    keep(candidate);
                    bytes.fetch_sub(size, Ordering::Relaxed);
                }
            }
        });
        let thread = Some(thread.expect("the system has threads to give"));
        Writer { sender: Some(sender), bytes, dropped: 0, thread }
    }

    /// Hands a frame over; `false` where it was dropped.
    pub(super) fn push(&mut self, candidate: Candidate) -> bool {
        let size = candidate.picture.len();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let fits = before == 0 || before + size <= WAITING_BYTES;
        let taken = fits && self.sender.as_ref().is_some_and(|sender| sender.try_send(candidate).is_ok());
        if !taken {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.dropped += 1;
        }
        taken
    }

    /// Frames that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Waits until all is kept; nothing is taken afterwards.
    pub(super) fn finish(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, SystemTime};

    use super::super::Reason;
    use super::*;
    use crate::moment::Moment;

    fn candidate(size: usize) -> Candidate {
        let at = Moment { since_start: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        Candidate { at, reason: Reason::Random, picture: vec![0; size], answer: Default::default() }
    }

    /// A disk that does nothing until it is let go: who pushes goes on, and every frame is kept or counted.
    fn pushed(sizes: impl IntoIterator<Item = usize>) -> (usize, u64) {
        let (go, disk) = channel::<()>();
        let (kept, all) = channel();
        let mut writer = Writer::start(move |candidate| {
            let _ = disk.recv();
            kept.send(candidate.picture.len()).unwrap();
        });
        let taken = sizes.into_iter().filter(|&size| writer.push(candidate(size))).count();
        drop(go);
        writer.finish();
        assert_eq!(all.iter().count(), taken, "what was taken is kept before the end");
        assert!(!writer.push(candidate(1)), "after the end nothing is taken");
        (taken, writer.dropped() - 1)
    }

    #[test]
    fn a_slow_disk_costs_samples_and_no_time() {
        let (taken, dropped) = pushed([100; 1000]);
        // One may be in work.
        assert!((WAITING..=WAITING + 1).contains(&taken) && taken as u64 + dropped == 1000, "{taken}");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        assert_eq!(pushed([WAITING_BYTES / 2, WAITING_BYTES / 2, 1]), (2, 1));
        assert_eq!(pushed([WAITING_BYTES + 1, 1]), (1, 1), "a large one waits alone");
    }
}
