//! To standard output, a line of JSON for each insight.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use espalier_wire::{Counts, Priority};

use crate::outbox::{Handover, Slot};

/// Insights, and bytes of their JSON, that wait for a reader at most.
const WAITING: (usize, usize) = (1024, 1 << 20);

/// Lines on their way to a reader who may be slow. What he does not take in time is dropped and counted: nothing is kept in
/// a file.
pub(super) struct Lines {
    handover: Mutex<Handover>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    printed: AtomicU64,
    dropped: Mutex<Counts>,
    trouble: Mutex<String>,
}

impl Lines {
    pub(super) fn new(stop: Arc<AtomicBool>) -> Arc<Lines> {
        Arc::new(Lines {
            handover: Mutex::new(Handover::new(WAITING.0, WAITING.1)),
            changed: Condvar::new(),
            stop,
            printed: AtomicU64::new(0),
            dropped: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    pub(super) fn push(&self, priority: Priority, json: Arc<str>) {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner).push(priority, json);
        self.changed.notify_all();
    }

    /// Takes what waited elsewhere.
    pub(super) fn put(&self, slot: Slot) {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner).put(slot);
        self.changed.notify_all();
    }

    /// Waiting, printed, dropped, and what is wrong.
    pub(super) fn figures(&self) -> (u64, u64, Counts, String) {
        let (waiting, dropped) = self.handover.lock().unwrap_or_else(PoisonError::into_inner).counts();
        let before = *self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (waiting, self.printed.load(Ordering::Relaxed), before + dropped, trouble)
    }

    pub(super) fn start(
        self: &Arc<Lines>,
        name: &str,
        mut out: Box<dyn Write + Send>,
    ) -> std::io::Result<JoinHandle<()>> {
        let lines = self.clone();
        let thread = std::thread::Builder::new().name(format!("print {name}"));
        thread.spawn(move || while lines.print(out.as_mut()) {})
    }

    pub(super) fn wake(&self) {
        let _held = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// Prints what waits; `false` at the end.
    fn print(&self, out: &mut dyn Write) -> bool {
        let idle = |handover: &mut Handover| handover.is_empty() && !self.stop.load(Ordering::Relaxed);
        let handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        let mut handover = self.changed.wait_while(handover, idle).unwrap_or_else(PoisonError::into_inner);
        let group = handover.take(usize::MAX);
        drop(handover);
        for slot in &group {
            match slot {
                Slot::Insight(priority, json) => match writeln!(out, "{json}") {
                    Ok(()) => drop(self.printed.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => self.lose(Counts::one(*priority), &error.to_string()),
                },
                Slot::Dropped(counts) => self.lose(*counts, "the reader is too slow"),
            }
        }
        if let Err(error) = out.flush() {
            self.lose(Counts::default(), &error.to_string());
        }
        !(group.is_empty() && self.stop.load(Ordering::Relaxed))
    }

    fn lose(&self, counts: Counts, reason: &str) {
        *self.dropped.lock().unwrap_or_else(PoisonError::into_inner) += counts;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A reader who takes a line when he is told to.
    struct Slow {
        go: Receiver<()>,
        lines: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if bytes != b"\n" {
                self.go.recv().map_err(|_| std::io::Error::other("gone"))?;
                self.lines.send(String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_loses_lines_and_they_are_counted() {
        let (go, wait) = channel();
        let (sender, lines) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let all = Lines::new(stop.clone());
        let thread = all.start("test", Box::new(Slow { go: wait, lines: sender })).unwrap();
        (0..3000).for_each(|number| all.push(Priority::Normal, number.to_string().into()));
        (0..3000).for_each(|_| go.send(()).unwrap());
        drop(go);
        stop.store(true, Ordering::Relaxed);
        all.wake();
        thread.join().unwrap();
        let printed: Vec<u64> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let (waiting, count, dropped, trouble) = all.figures();
        assert!(printed.is_sorted() && printed.last() == Some(&2999));
        assert_eq!((waiting, count, count + dropped.total()), (0, printed.len() as u64, 3000));
        assert!(dropped.normal >= 900 && trouble == "the reader is too slow", "{dropped:?}, {trouble}");
    }
}
