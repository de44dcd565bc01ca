//! Cores, shared between pipelines: who wants to compute waits for its turn.
//!
//! A pipeline has a thread and, for a network that runs on several cores, helpers. Without turns the helpers of two
//! networks would spin against each other. With turns no more cores are ever at work on networks than there are.

mod ceiling;
mod turns;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use espalier_runtime::energy::cpu_seconds;

use ceiling::Ceiling;
use turns::{Id, Turns};

/// Who waits looks at least that often whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);
/// Seconds of CPU use that may be saved up.
const SAVED: f64 = 0.25;

/// Ceilings on what all pipelines together use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Power {
    /// Share of the CPU time of all cores, up to 1.
    pub cpu: Option<f64>,
    /// Turns a second.
    pub rate: Option<f64>,
}

struct State {
    turns: Turns,
    /// CPU seconds, and those of the process when they were last taken.
    cpu: Option<(Ceiling, f64)>,
    rate: Option<Ceiling>,
}

impl State {
    /// How long nobody may begin; nothing where somebody may. Turns that are not counted are not held by the rate.
    fn held(&mut self, now: Duration, is_counted: bool) -> Option<Duration> {
        let cpu = self.cpu.as_mut().and_then(|(ceiling, before)| {
            let used = cpu_seconds().unwrap_or(*before);
            ceiling.take(used - *before);
            *before = used;
            ceiling.wait(now)
        });
        let rate = self.rate.as_mut().filter(|_| is_counted).and_then(|ceiling| ceiling.wait(now));
        cpu.max(rate)
    }
}

/// Hands out turns.
pub struct Scheduler {
    cores: usize,
    state: Mutex<State>,
    changed: Condvar,
    begun: Instant,
}

impl Scheduler {
    /// Shares `cores` cores, under ceilings.
    pub fn new(cores: usize, power: Power) -> Arc<Scheduler> {
        let state = State { turns: Turns::new(cores), cpu: None, rate: None };
        let scheduler =
            Scheduler { cores, state: Mutex::new(state), changed: Condvar::new(), begun: Instant::now() };
        scheduler.limit(power);
        Arc::new(scheduler)
    }

    /// Other ceilings from now on.
    pub fn limit(&self, power: Power) {
        let now = self.begun.elapsed();
        let mut state = self.state();
        let cores = self.cores as f64;
        state.cpu = power
            .cpu
            .zip(cpu_seconds())
            .map(|(share, used)| (Ceiling::new(share * cores, share * cores * SAVED, now), used));
        state.rate = power.rate.map(|rate| Ceiling::new(rate, 1.0, now));
        self.changed.notify_all();
    }

    /// Cores that are shared.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// Somebody who computes on `cores` cores at once, or on all there are.
    pub fn join(self: &Arc<Self>, cores: usize) -> Client {
        self.client(cores, true)
    }

    /// As [`join`](Self::join), for turns that no frame is looked at in: the ceiling on the rate is not for them.
    pub fn join_uncounted(self: &Arc<Self>, cores: usize) -> Client {
        self.client(cores, false)
    }

    fn client(self: &Arc<Self>, cores: usize, is_counted: bool) -> Client {
        Client { id: self.state().turns.join(cores), scheduler: self.clone(), is_counted }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who takes turns.
pub struct Client {
    scheduler: Arc<Scheduler>,
    id: Id,
    is_counted: bool,
}

impl Client {
    /// Waits for a turn, which should end at `deadline`. `None` once `stop` says so.
    pub fn turn(&self, deadline: Instant, stop: impl Fn() -> bool) -> Option<Turn<'_>> {
        let Scheduler { state, changed, begun, .. } = &*self.scheduler;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.turns.ask(self.id, deadline.saturating_duration_since(*begun));
        loop {
            if stop() {
                state.turns.withdraw(self.id);
                changed.notify_all();
                return None;
            }
            let mut patience = PATIENCE;
            if state.turns.next() == Some(self.id) {
                match state.held(begun.elapsed(), self.is_counted) {
                    None => break,
                    Some(held) => patience = held.min(PATIENCE),
                }
            }
            state = changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.turns.begin(self.id);
        if let Some(rate) = state.rate.as_mut().filter(|_| self.is_counted) {
            rate.take(1.0);
        }
        // The next one may fit beside it.
        changed.notify_all();
        Some(Turn { client: self, begun: Instant::now() })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.scheduler.state().turns.leave(self.id);
        self.scheduler.changed.notify_all();
    }
}

/// A turn, which ends when it is dropped.
pub struct Turn<'a> {
    client: &'a Client,
    begun: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let scheduler = &self.client.scheduler;
        scheduler.state().turns.end(self.client.id, self.begun.elapsed().as_secs_f64());
        scheduler.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Runs clients that always want a turn and spin in it; turns of each.
    fn spin(scheduler: &Arc<Scheduler>, cores: &[usize], time: Duration) -> Vec<u64> {
        let (busy, end) = (AtomicUsize::new(0), Instant::now() + time);
        let client = &|cores: usize| {
            let client = scheduler.join(cores);
            let mut turns = 0;
            while let Some(turn) = client.turn(Instant::now(), || Instant::now() > end) {
                let now = busy.fetch_add(cores, Ordering::SeqCst) + cores;
                assert!(now <= scheduler.cores(), "{now} cores in use");
                let until = Instant::now() + Duration::from_millis(2);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                busy.fetch_sub(cores, Ordering::SeqCst);
                drop(turn);
                turns += 1;
            }
            turns
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = cores.iter().map(|&cores| scope.spawn(move || client(cores))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn no_more_cores_are_in_use_than_there_are() {
        let turns = spin(&Scheduler::new(2, Power::default()), &[1, 1, 2], Duration::from_millis(300));
        assert!(turns.iter().all(|&turns| turns > 5), "{turns:?}");
    }

    #[test]
    fn a_ceiling_on_the_rate_is_kept() {
        let scheduler = Scheduler::new(2, Power { rate: Some(40.0), cpu: None });
        let turns: u64 = spin(&scheduler, &[1, 1], Duration::from_secs(1)).iter().sum();
        assert!((37..=43).contains(&turns), "{turns} turns in a second, 40 are the ceiling");
    }

    #[test]
    fn who_stops_waiting_gets_no_turn() {
        let scheduler = Scheduler::new(1, Power { rate: Some(0.001), cpu: None });
        let client = scheduler.join(1);
        drop(client.turn(Instant::now(), || false));
        let until = Instant::now() + Duration::from_millis(50);
        assert!(client.turn(Instant::now(), || Instant::now() > until).is_none());
    }
}
