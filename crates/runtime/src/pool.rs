//! The spin pool: workers with fixed shares that stay awake through a run.
//!
//! A run wakes every worker once; between steps they meet at a barrier that costs well under a microsecond. Idle workers
//! spin for a few tens of microseconds, so that runs in quick succession find them awake, then park.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use espalier_kernels::Worker;

const SPIN_BEFORE_PARK: Duration = Duration::from_micros(50);
/// A worker that waits this long yields its core: whoever it waits for may need it.
const SPIN_BEFORE_YIELD: Duration = Duration::from_micros(100);

/// Keeps a counter on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

/// Where the workers of a run wait for one another.
pub struct Barrier {
    count: usize,
    arrived: Padded<AtomicUsize>,
    round: Padded<AtomicUsize>,
}

impl Barrier {
    fn new(count: usize) -> Self {
        Barrier { count, arrived: Padded::default(), round: Padded::default() }
    }

    /// Returns when all workers have called it.
    pub fn wait(&self) {
        if self.count == 1 {
            return;
        }
        let round = self.round.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.round.0.store(round.wrapping_add(1), Ordering::Release);
        } else {
            spin_until(|| self.round.0.load(Ordering::Acquire) != round);
        }
    }
}

fn spin_until(done: impl Fn() -> bool) {
    let mut spins = 0u32;
    let mut since = None;
    while !done() {
        spins += 1;
        if spins.is_multiple_of(256) {
            let start = *since.get_or_insert_with(Instant::now);
            if start.elapsed() > SPIN_BEFORE_YIELD {
                thread::yield_now();
            }
        }
        std::hint::spin_loop();
    }
}

type Job<'a> = dyn Fn(Worker, &Barrier) + Sync + 'a;

struct Shared {
    barrier: Barrier,
    /// Counts runs; a change is the signal to begin.
    run: Padded<AtomicUsize>,
    /// Workers that have ended the current run.
    ended: Padded<AtomicUsize>,
    job: UnsafeCell<Option<&'static Job<'static>>>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is written only by `Pool::run` while no worker is in a run (all have `ended`), and read by workers only
// after they have seen `run` change, which orders it after the write.
unsafe impl Sync for Shared {}
// SAFETY: as above; the reference it holds is to a `Sync` closure.
unsafe impl Send for Shared {}

/// A fixed number of workers, the calling thread among them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<(JoinHandle<()>, Thread, Arc<Padded<AtomicBool>>)>,
}

impl Pool {
    /// A pool of `count` workers (at least 1): the caller and `count - 1` threads.
    pub fn new(count: usize) -> Self {
        let count = count.max(1);
        let shared = Arc::new(Shared {
            barrier: Barrier::new(count),
            run: Padded::default(),
            ended: Padded::default(),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let threads = (1..count).map(|index| spawn(Arc::clone(&shared), Worker { index, count })).collect();
        Pool { shared, threads }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `job` on every worker at once and returns when all have ended. Panics if one panicked.
    pub fn run(&mut self, job: &Job<'_>) {
        let shared = &self.shared;
        shared.ended.0.store(0, Ordering::Relaxed);
        // SAFETY: no worker is in a run now. The lifetime is stretched, but every worker drops its copy before it counts
        // itself as ended, and this function waits for that.
        unsafe { *shared.job.get() = Some(std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job)) };
        shared.run.0.fetch_add(1, Ordering::SeqCst);
        for (_, thread, parked) in &self.threads {
            if parked.0.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let wait = WaitForWorkers { shared, others: self.threads.len() };
        job(Worker { index: 0, count: self.threads.len() + 1 }, &shared.barrier);
        drop(wait);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a worker panicked");
    }
}

/// Waits also while the caller's own share unwinds, since the others still use the job.
struct WaitForWorkers<'a> {
    shared: &'a Shared,
    others: usize,
}

impl Drop for WaitForWorkers<'_> {
    fn drop(&mut self) {
        if thread::panicking() && self.others > 0 {
            // The others may wait at a barrier for this worker forever: nothing sound is left to do.
            std::process::abort();
        }
        spin_until(|| self.shared.ended.0.load(Ordering::Acquire) == self.others);
    }
}

fn spawn(shared: Arc<Shared>, worker: Worker) -> (JoinHandle<()>, Thread, Arc<Padded<AtomicBool>>) {
    let parked = Arc::new(Padded(AtomicBool::new(false)));
    let mine = Arc::clone(&parked);
    let handle = thread::Builder::new()
        .name(format!("espalier-{}", worker.index))
        .spawn(move || work(&shared, worker, &mine.0))
        .expect("the system has threads to give");
    let thread = handle.thread().clone();
    (handle, thread, parked)
}

fn work(shared: &Shared, worker: Worker, parked: &AtomicBool) {
    let mut seen = 0;
    loop {
        wait_for_run(shared, seen, parked);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        seen += 1;
        // SAFETY: `run` changed, so `Pool::run` has written the job and waits for this worker before it goes on.
        let job = unsafe { (*shared.job.get()).expect("a run has a job") };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(worker, &shared.barrier)));
        if result.is_err() {
            // The other workers may wait for this one at a barrier; the message is out already.
            shared.panicked.store(true, Ordering::Relaxed);
            std::process::abort();
        }
        shared.ended.0.fetch_add(1, Ordering::AcqRel);
    }
}

fn wait_for_run(shared: &Shared, seen: usize, parked: &AtomicBool) {
    let began = || shared.run.0.load(Ordering::SeqCst) != seen;
    let start = Instant::now();
    while start.elapsed() < SPIN_BEFORE_PARK {
        for _ in 0..64 {
            if began() {
                return;
            }
            std::hint::spin_loop();
        }
    }
    // The flag is raised before the last look, and `Pool::run` looks at it after the change: one of them sees the other.
    parked.store(true, Ordering::SeqCst);
    while !began() {
        thread::park();
    }
    parked.store(false, Ordering::SeqCst);
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.run.0.fetch_add(1, Ordering::SeqCst);
        for (handle, thread, _) in self.threads.drain(..) {
            thread.unpark();
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_takes_part_in_every_run() {
        for count in [1, 2, 3] {
            let mut pool = Pool::new(count);
            let sum = AtomicUsize::new(0);
            let phases = AtomicUsize::new(0);
            for round in 0..200 {
                pool.run(&|worker, barrier| {
                    sum.fetch_add(worker.index + 1, Ordering::Relaxed);
                    barrier.wait();
                    assert_eq!(sum.load(Ordering::Relaxed), (round + 1) * count * (count + 1) / 2);
                    barrier.wait();
                    phases.fetch_add(1, Ordering::Relaxed);
                });
                if round % 50 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            assert_eq!(phases.load(Ordering::Relaxed), 200 * count);
        }
    }
}
