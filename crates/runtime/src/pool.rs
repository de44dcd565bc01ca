//! The spin pool: threads that stay awake through a run, and help out where one of them is missing.
//!
//! Every step of a run is cut into as many shares as there are threads. A thread takes the share that is its own, whose data
//! lie in its caches, and the steps follow one another at a cost well under a microsecond. On a busy machine a thread may be
//! missing for milliseconds, at the beginning above all: whoever is done takes the share that nobody has begun, so a run
//! waits for no thread that is not there. Which thread computes a share changes no bit of it.
//!
//! Idle threads spin for a few tens of microseconds, so that runs in quick succession find them awake, then park.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use espalier_kernels::Worker;

const SPIN_BEFORE_PARK: Duration = Duration::from_micros(50);
/// Whoever has not begun a share after this long is missing: those that are awake begin within a fraction of it.
const SPIN_BEFORE_HELP: Duration = Duration::from_micros(2);
/// A thread that waits this long yields its core: whoever it waits for may need it.
const SPIN_BEFORE_YIELD: Duration = Duration::from_micros(100);

/// Keeps what one thread changes on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

/// A worker's part of one step.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The step.
    pub step: usize,
    /// Whose share it is.
    pub worker: Worker,
    /// The thread that computes it, in `0..worker.count`, for memory of its own.
    pub thread: usize,
}

type Job<'a> = dyn Fn(Share) + Sync + 'a;

/// May take part in the run.
const OPEN: usize = 0;
/// Takes part in it.
const ACTIVE: usize = 1;
/// Takes no part any more.
const CLOSED: usize = 2;

/// What there is for each thread.
struct Seat {
    state: Padded<AtomicUsize>,
    /// Steps of which its share was taken, by it or another thread.
    taken: Padded<AtomicUsize>,
    parked: Padded<AtomicBool>,
}

struct Shared {
    seats: Box<[Seat]>,
    /// Steps that are complete.
    complete: Padded<AtomicUsize>,
    /// Shares of the next one that are done.
    done: Padded<AtomicUsize>,
    /// The current run: its job, and its steps.
    run: UnsafeCell<Option<(&'static Job<'static>, usize)>>,
    stop: AtomicBool,
}

// SAFETY: `run` is written only by `Pool::run` while all seats but the first are closed, and read by threads only after they
// have made an open seat active, which orders it after the write; `Pool::run` waits for them before it returns.
unsafe impl Sync for Shared {}
// SAFETY: as above; the reference it holds is to a `Sync` closure.
unsafe impl Send for Shared {}

impl Shared {
    fn new(count: usize) -> Shared {
        let seat = || Seat {
            state: Padded(AtomicUsize::new(CLOSED)),
            taken: Padded::default(),
            parked: Padded::default(),
        };
        Shared {
            seats: std::iter::repeat_with(seat).take(count).collect(),
            complete: Padded::default(),
            done: Padded::default(),
            run: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
        }
    }

    /// Takes part in a run of so many steps until the last is complete; `observe` is told of each of them.
    fn follow(&self, thread: usize, job: &Job<'_>, steps: usize, observe: &mut dyn FnMut(usize)) {
        let (mut is_short_handed, mut told) = (false, 0);
        loop {
            // Whoever comes late goes on with the step that the others are at.
            let step = self.complete.0.load(Ordering::Acquire);
            (told..step).for_each(&mut *observe);
            told = step;
            if step >= steps {
                return;
            }
            self.take(thread, (step, thread), job);
            if is_short_handed || !self.completes(step, SPIN_BEFORE_HELP) {
                let others = (0..self.seats.len()).filter(|&other| other != thread);
                is_short_handed = others.filter(|&other| self.take(other, (step, thread), job)).count() > 0;
                spin_until(|| self.complete.0.load(Ordering::Acquire) > step);
            }
        }
    }

    /// Computes the share of `worker`, if nobody has begun it.
    fn take(&self, worker: usize, (step, thread): (usize, usize), job: &Job<'_>) -> bool {
        let (count, taken) = (self.seats.len(), &self.seats[worker].taken.0);
        // That nobody took it says that the step is not complete, and it was seen to be next.
        if taken.compare_exchange(step, step + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        job(Share { step, worker: Worker { index: worker, count }, thread });
        if self.done.0.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.done.0.store(0, Ordering::Relaxed);
            self.complete.0.store(step + 1, Ordering::Release);
        }
        true
    }

    /// Whether a step is complete within that time.
    fn completes(&self, step: usize, time: Duration) -> bool {
        let is_complete = || {
            (0..16).any(|_| {
                std::hint::spin_loop();
                self.complete.0.load(Ordering::Acquire) > step
            })
        };
        if is_complete() {
            return true;
        }
        let start = Instant::now();
        while start.elapsed() < time {
            if is_complete() {
                return true;
            }
        }
        false
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

/// A fixed number of threads, the calling one among them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `count` threads (at least 1): the caller and `count - 1` others.
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(Shared::new(count.max(1)));
        let threads = (1..count).map(|index| spawn(Arc::clone(&shared), index)).collect();
        Pool { shared, threads }
    }

    /// Number of threads, and of the shares of a step.
    pub fn workers(&self) -> usize {
        self.shared.seats.len()
    }

    /// Calls `job` for every share of every step, each once: those of one step at the same time, step after step. `observe` is
    /// told by the calling thread of every step that is complete. Returns when all are; a panic of `job` on another thread, or
    /// with others at work, ends the process.
    pub fn run(&mut self, steps: usize, job: &Job<'_>, observe: &mut dyn FnMut(usize)) {
        let shared = &*self.shared;
        shared.complete.0.store(0, Ordering::Relaxed);
        shared.seats.iter().for_each(|seat| seat.taken.0.store(0, Ordering::Relaxed));
        // SAFETY: no other thread is in a run now. The lifetime is stretched, but threads use the job only while their seats
        // are active, and this function waits until none is.
        unsafe {
            *shared.run.get() = Some((std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job), steps))
        };
        for seat in &shared.seats[1..] {
            seat.state.0.store(OPEN, Ordering::SeqCst);
        }
        for (seat, handle) in shared.seats[1..].iter().zip(&self.threads) {
            if seat.parked.0.load(Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
        let close = Close { seats: &shared.seats[1..] };
        shared.follow(0, job, steps, observe);
        drop(close);
    }
}

/// Closes the seats: of those that never came at once, of the others when they leave. Also while the caller's own share
/// unwinds, since the others still use the job.
struct Close<'a> {
    seats: &'a [Seat],
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.seats.is_empty() {
            // The others would wait for this thread's share forever: nothing sound is left to do.
            std::process::abort();
        }
        for Seat { state: Padded(state), .. } in self.seats {
            if state.compare_exchange(OPEN, CLOSED, Ordering::SeqCst, Ordering::Acquire).is_err() {
                spin_until(|| state.load(Ordering::Acquire) == CLOSED);
            }
        }
    }
}

fn spawn(shared: Arc<Shared>, index: usize) -> JoinHandle<()> {
    thread::Builder::new()
        .name(format!("espalier-{index}"))
        .spawn(move || work(&shared, index))
        .expect("the system has threads to give")
}

fn work(shared: &Shared, index: usize) {
    let state = &shared.seats[index].state.0;
    loop {
        wait_for_run(shared, &shared.seats[index]);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        if state.compare_exchange(OPEN, ACTIVE, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            continue;
        }
        // SAFETY: the seat was open, so `Pool::run` has written the run and waits for this thread before it returns.
        let (job, steps) = unsafe { (*shared.run.get()).expect("a run has a job") };
        let follow = || shared.follow(index, job, steps, &mut |_| {});
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(follow)).is_err() {
            // The others wait for this share; the message is out already.
            std::process::abort();
        }
        state.store(CLOSED, Ordering::Release);
    }
}

fn wait_for_run(shared: &Shared, seat: &Seat) {
    let began = || seat.state.0.load(Ordering::SeqCst) == OPEN || shared.stop.load(Ordering::SeqCst);
    let start = Instant::now();
    while start.elapsed() < SPIN_BEFORE_PARK {
        for _ in 0..64 {
            if began() {
                return;
            }
            std::hint::spin_loop();
        }
    }
    // The flag is raised before the last look, and `Pool::run` looks at it after the seat is open: one of them sees the other.
    seat.parked.0.store(true, Ordering::SeqCst);
    while !began() {
        thread::park();
    }
    seat.parked.0.store(false, Ordering::SeqCst);
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for handle in self.threads.drain(..) {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every share is computed once, after all those of the step before, by a thread that has no other at the same time.
    #[test]
    fn every_share_is_computed_once_and_steps_follow_one_another() {
        for count in [1, 2, 3, 8] {
            let mut pool = Pool::new(count);
            for round in 0..200 {
                let steps = round % 7;
                let shares: Vec<AtomicUsize> = (0..steps * count).map(|_| AtomicUsize::new(0)).collect();
                let busy: Vec<AtomicBool> = (0..count).map(|_| AtomicBool::new(false)).collect();
                let mut seen = 0;
                let job = |share: Share| {
                    assert!(!busy[share.thread].swap(true, Ordering::SeqCst), "one thing at a time");
                    assert_eq!(share.worker.count, count);
                    let before = &shares[..share.step * count];
                    assert!(before.iter().all(|times| times.load(Ordering::Relaxed) == 1), "{share:?}");
                    if round % 5 == 1 && share.worker.index == 1 {
                        thread::sleep(Duration::from_micros(50));
                    }
                    let share_at = share.step * count + share.worker.index;
                    assert_eq!(shares[share_at].fetch_add(1, Ordering::Relaxed), 0, "{share:?} again");
                    busy[share.thread].store(false, Ordering::SeqCst);
                };
                pool.run(steps, &job, &mut |step| {
                    assert_eq!(step, seen);
                    seen += 1;
                });
                assert_eq!(seen, steps);
                assert!(shares.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                if round % 50 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// As if the system gave the other threads no core.
    #[test]
    fn a_run_waits_for_no_thread_that_is_not_there() {
        for count in [2, 5] {
            let mut pool = Pool { shared: Arc::new(Shared::new(count)), threads: Vec::new() };
            for _ in 0..3 {
                let (computed, mut complete) = (AtomicUsize::new(0), 0);
                let job = |share: Share| {
                    assert_eq!(share.thread, 0);
                    computed.fetch_add(1, Ordering::Relaxed);
                };
                pool.run(40, &job, &mut |_| complete += 1);
                assert_eq!((computed.into_inner(), complete), (40 * count, 40));
            }
        }
    }
}
