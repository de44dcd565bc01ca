//! A durable sink: a queue in a file, a thread that writes it, and one that sends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use espalier_wire::{Counts, Priority};

use super::exchange::{Exchange, Next};
use super::receiver::Receiver;
use crate::outbox::{Handover, Outbox, Slot, Sqlite, StorageError, counts};

/// Insights in memory that no disk has yet, and bytes of their JSON, at most.
const HANDOVER: (usize, usize) = (1024, 1 << 20);
/// Insights of one step of the storage, and the time between two: what comes within it costs one fsync.
const GROUP: usize = 256;
const GROUP_APART: Duration = Duration::from_millis(50);
/// After a storage could not be written.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);
/// How long a receiver is left to hear signs of life before the queue is looked at again.
const IDLE: Duration = Duration::from_millis(50);
/// What a storage's errors are looked at for.
type Result<T> = std::result::Result<T, StorageError>;

/// What is wrong with a sink, in words; empty where nothing is.
#[derive(Debug, Default)]
struct Troubles {
    storage: String,
    receiver: String,
}

/// What both threads and those who push share.
pub(super) struct Queue {
    name: String,
    handover: Mutex<Handover>,
    changed: Condvar,
    outbox: Mutex<Outbox<Sqlite>>,
    stop: Arc<AtomicBool>,
    troubles: Mutex<Troubles>,
    /// Copied from the outbox after each step, so that nobody who only looks waits for a disk.
    stored: Mutex<Stored>,
    sent_bytes: AtomicU64,
    delivered: AtomicU64,
    rejected: AtomicU64,
    failures: AtomicU64,
}

/// What an outbox holds and has lost, and what is on its way there: insights, and those that were dropped before.
#[derive(Default)]
struct Stored {
    waiting: u64,
    bytes: u64,
    dropped: Counts,
    renewals: u64,
    writing: (u64, Counts),
}

/// Figures of a sink with a queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) waiting: u64,
    pub(super) waiting_bytes: u64,
    pub(super) dropped: Counts,
    pub(super) renewals: u64,
    pub(super) sent_bytes: u64,
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) failures: u64,
    pub(super) trouble: String,
}

impl Queue {
    pub(super) fn new(name: &str, outbox: Outbox<Sqlite>, stop: Arc<AtomicBool>) -> Arc<Queue> {
        let queue = Queue {
            name: name.to_owned(),
            handover: Mutex::new(Handover::new(HANDOVER.0, HANDOVER.1)),
            changed: Condvar::new(),
            outbox: Mutex::new(outbox),
            stop,
            troubles: Mutex::default(),
            stored: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        queue.copy_figures(&lock(&queue.outbox));
        Arc::new(queue)
    }

    /// Hands an insight over; nothing here waits for a disk or a network.
    pub(super) fn push(&self, priority: Priority, json: Arc<str>) {
        lock(&self.handover).push(priority, json);
        self.changed.notify_all();
    }

    /// Takes what waited elsewhere.
    pub(super) fn put(&self, slot: Slot) {
        lock(&self.handover).put(slot);
        self.changed.notify_all();
    }

    pub(super) fn figures(&self) -> Figures {
        // Both at once: what leaves one of them is in the other.
        let (handover, stored) = (lock(&self.handover), lock(&self.stored));
        let ((in_memory, dropped_in_memory), (writing, dropped_writing)) =
            (handover.counts(), stored.writing);
        let Stored { waiting, bytes: waiting_bytes, dropped, renewals, .. } = *stored;
        drop((handover, stored));
        let troubles = lock(&self.troubles);
        let said = [&troubles.storage, &troubles.receiver].into_iter().filter(|text| !text.is_empty());
        Figures {
            waiting: waiting + writing + in_memory,
            waiting_bytes,
            dropped: dropped + dropped_writing + dropped_in_memory,
            renewals,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            trouble: said.cloned().collect::<Vec<_>>().join("; "),
        }
    }

    /// Both threads; they end soon after `stop` is true.
    pub(super) fn start(
        self: &Arc<Queue>,
        receiver: Box<dyn Receiver>,
    ) -> std::io::Result<[JoinHandle<()>; 2]> {
        let (writer, sender) = (self.clone(), self.clone());
        let named = |what: &str| std::thread::Builder::new().name(format!("{what} {}", self.name));
        Ok([
            named("write").spawn(move || writer.write_until_stopped())?,
            named("send").spawn(move || sender.send_until_stopped(receiver))?,
        ])
    }

    /// Wakes threads that wait for something.
    pub(super) fn wake(&self) {
        let _held = lock(&self.handover);
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn copy_figures(&self, outbox: &Outbox<Sqlite>) {
        let (weight, mut stored) = (outbox.weight(), lock(&self.stored));
        (stored.waiting, stored.bytes) = (weight.count, weight.bytes);
        (stored.dropped, stored.renewals) = (outbox.dropped(), outbox.renewals().len() as u64);
    }

    fn write_until_stopped(&self) {
        let mut most = GROUP;
        loop {
            let idle = |handover: &mut Handover| handover.is_empty() && !self.stopped();
            let handover = lock(&self.handover);
            drop(self.changed.wait_while(handover, idle).unwrap_or_else(PoisonError::into_inner));
            let (written, size) = self.write_group(most);
            // What does not fit on a disk that is nearly full may fit in parts.
            most = if written { (2 * most).min(GROUP) } else { (size / 2).max(1) };
            if self.stopped() && (!written || lock(&self.handover).is_empty()) {
                return;
            }
            self.pause(if written { GROUP_APART } else { STORAGE_PAUSE });
        }
    }

    /// Writes what is there, up to so much; whether the storage takes it, and how much it was.
    fn write_group(&self, most: usize) -> (bool, usize) {
        let mut handover = lock(&self.handover);
        let group = handover.take(most);
        lock(&self.stored).writing = counts(&group);
        drop(handover);
        let (size, mut outbox) = (group.len(), lock(&self.outbox));
        let result = outbox.commit(&group);
        let mut handover = lock(&self.handover);
        if result.is_err() {
            handover.put_back(group);
        }
        self.copy_figures(&outbox);
        lock(&self.stored).writing = Default::default();
        drop((handover, outbox));
        self.changed.notify_all();
        (self.written(result), size)
    }

    /// Lets the storage forget what is acknowledged; `false` where it does not.
    fn settle(&self) -> bool {
        let mut outbox = lock(&self.outbox);
        let result = outbox.commit(&[]);
        self.copy_figures(&outbox);
        drop(outbox);
        self.written(result)
    }

    /// Remembers what a storage says to a commit; `false` where it is not written.
    fn written(&self, result: Result<()>) -> bool {
        let written = self.storage(result).is_some();
        if written {
            lock(&self.troubles).storage.clear();
        }
        written
    }

    /// Remembers what a storage complains of; a failed fsync ends the process, because nobody knows what the file holds then.
    fn storage<T>(&self, result: Result<T>) -> Option<T> {
        if let Err(error) = &result {
            if let StorageError::Fsync(reason) = error {
                eprintln!("sink {}: {reason}: it cannot be made durable, so this process ends", self.name);
                std::process::exit(1);
            }
            lock(&self.troubles).storage = error.to_string();
        }
        result.ok()
    }

    fn send_until_stopped(&self, mut receiver: Box<dyn Receiver>) {
        let (begun, mut exchange) = (Instant::now(), Exchange::default());
        while !self.stopped() {
            // A receiver is a library's code, and foreign bytes reach it.
            let step =
                catch_unwind(AssertUnwindSafe(|| self.send_step(begun, &mut exchange, receiver.as_mut())));
            if step.is_err() {
                self.failed(&mut exchange, begun, "sending panicked".into());
            }
            self.sent_bytes.store(receiver.bytes_sent(), Ordering::Relaxed);
        }
        receiver.close();
        self.sent_bytes.store(receiver.bytes_sent(), Ordering::Relaxed);
    }

    fn send_step(&self, begun: Instant, exchange: &mut Exchange, receiver: &mut dyn Receiver) {
        let next = exchange.next(begun.elapsed(), &mut lock(&self.outbox));
        match self.storage(next) {
            Some(Next::Send(batch)) => match receiver.deliver(&batch) {
                Ok(outcome) => {
                    self.rejected.fetch_add(outcome.rejected, Ordering::Relaxed);
                    match outcome.ack.refused.clone() {
                        Some(reason) => {
                            self.failures.fetch_add(1, Ordering::Relaxed);
                            lock(&self.troubles).receiver = format!("refused: {reason}");
                        }
                        None => lock(&self.troubles).receiver.clear(),
                    }
                    let new =
                        exchange.answered(begun.elapsed(), random(), &outcome.ack, &mut lock(&self.outbox));
                    if new {
                        self.delivered.fetch_add(batch.entries.len() as u64, Ordering::Relaxed);
                        self.settle();
                    }
                }
                Err(reason) => self.failed(exchange, begun, reason),
            },
            Some(Next::Pause(time)) => self.pause(time),
            Some(Next::Nothing) if !lock(&self.outbox).is_settled() => {
                if !self.settle() {
                    self.pause(STORAGE_PAUSE);
                }
            }
            Some(Next::Nothing) => {
                if let Err(reason) = receiver.idle(IDLE) {
                    self.failed(exchange, begun, reason);
                }
            }
            None => self.pause(STORAGE_PAUSE),
        }
    }

    fn failed(&self, exchange: &mut Exchange, begun: Instant, reason: String) {
        if !self.stopped() {
            self.failures.fetch_add(1, Ordering::Relaxed);
            lock(&self.troubles).receiver = reason;
        }
        exchange.failed(begun.elapsed(), random());
    }

    /// Waits, unless it is to stop.
    fn pause(&self, time: Duration) {
        let going = |_: &mut Handover| !self.stopped();
        let waited = self.changed.wait_timeout_while(lock(&self.handover), time, going);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A number from 0 to below 1, seeded by the operating system.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// A thread that panicked leaves counts that are right as far as they go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
