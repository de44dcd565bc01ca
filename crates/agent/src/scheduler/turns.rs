//! Whose turn it is: a state machine without clocks or threads.
//!
//! Cores are shared as EEVDF shares them (Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995): who has
//! had no more than the mean of those who compete is eligible, and of the eligible the one with the earliest deadline
//! goes first. So nobody gets more than a fair share where cores are short, and where they are not, deadlines decide.

use std::collections::BTreeMap;
use std::time::Duration;

/// Who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u64);

struct Client {
    /// Cores that a turn of it occupies.
    cores: usize,
    /// Core seconds that it had. Who was idle is lifted to [`Turns::time`]: idleness saves nothing up.
    used: f64,
    /// The deadline of the turn that it waits for.
    waits: Option<Duration>,
    is_running: bool,
}

/// The cores, and who uses and wants them.
pub(crate) struct Turns {
    free: usize,
    cores: usize,
    clients: BTreeMap<Id, Client>,
    next_id: u64,
    /// What the one that had least has had, of those that compete or last did (the virtual time).
    time: f64,
}

impl Turns {
    pub(crate) fn new(cores: usize) -> Turns {
        Turns { free: cores, cores, clients: BTreeMap::new(), next_id: 0, time: 0.0 }
    }

    /// A new client whose turns occupy `cores` cores, or all there are.
    pub(crate) fn join(&mut self, cores: usize) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        let cores = cores.clamp(1, self.cores);
        let client = Client { cores, used: self.time, waits: None, is_running: false };
        self.clients.insert(id, client);
        id
    }

    /// It takes no turns any more.
    pub(crate) fn leave(&mut self, id: Id) {
        if let Some(client) = self.clients.remove(&id)
            && client.is_running
        {
            self.free += client.cores;
        }
    }

    /// It wants a turn, which should end at `deadline` (since any fixed time).
    pub(crate) fn ask(&mut self, id: Id, deadline: Duration) {
        let time = self.time;
        if let Some(client) = self.clients.get_mut(&id) {
            client.used = client.used.max(time);
            client.waits = Some(deadline);
        }
    }

    /// It no longer wants one.
    pub(crate) fn withdraw(&mut self, id: Id) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.waits = None;
        }
    }

    /// Who goes next, where its cores are free. Nobody passes by a client that waits for more cores than are free.
    pub(crate) fn next(&self) -> Option<Id> {
        let competing = || self.clients.values().filter(|c| c.waits.is_some() || c.is_running);
        let mean = competing().map(|c| c.used).sum::<f64>() / competing().count().max(1) as f64;
        let waiting = || self.clients.iter().filter_map(|(id, c)| Some((*id, c, c.waits?)));
        let eligible =
            waiting().filter(|(_, c, _)| c.used <= mean).min_by_key(|(id, _, deadline)| (*deadline, *id));
        // Where those that had least are all at work, it is who had least of those that wait.
        let (id, client, _) = eligible.or_else(|| waiting().min_by(|a, b| a.1.used.total_cmp(&b.1.used)))?;
        (client.cores <= self.free).then_some(id)
    }

    /// Its turn begins.
    pub(crate) fn begin(&mut self, id: Id) {
        if let Some(client) = self.clients.get_mut(&id) {
            (client.waits, client.is_running) = (None, true);
            self.free -= client.cores;
        }
    }

    /// Its turn, of so many seconds, is over.
    pub(crate) fn end(&mut self, id: Id, seconds: f64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.is_running = false;
            client.used += seconds * client.cores as f64;
            self.free += client.cores;
            let used = client.used;
            // It will ask again at once, or so it may be.
            self.time = self.time.max(self.least().map_or(used, |least| least.min(used)));
        }
    }

    /// What the one that had least has had, of those that compete.
    fn least(&self) -> Option<f64> {
        let competing = self.clients.values().filter(|c| c.waits.is_some() || c.is_running);
        competing.map(|c| c.used).min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline of the simulation: cores, seconds of a turn, seconds between frames (0: always one there).
    struct Load {
        cores: usize,
        cost: f64,
        period: f64,
    }

    /// Simulates `loads` on `cores` for `time` seconds; turns of each, and the longest that each waited.
    fn simulate(cores: usize, loads: &[Load], time: f64) -> Vec<(u64, f64)> {
        let mut turns = Turns::new(cores);
        let ids: Vec<Id> = loads.iter().map(|load| turns.join(load.cores)).collect();
        let mut done = vec![(0, 0.0f64); loads.len()];
        let mut due = vec![0.0; loads.len()];
        let mut running: Vec<(f64, usize)> = Vec::new();
        let (mut now, mut asked) = (0.0, vec![None; loads.len()]);
        while now < time {
            for (i, load) in loads.iter().enumerate() {
                let busy = running.iter().any(|&(_, r)| r == i);
                if !busy && asked[i].is_none() && due[i] <= now {
                    turns.ask(ids[i], Duration::from_secs_f64(now + load.period.max(load.cost)));
                    asked[i] = Some(now);
                }
            }
            while let Some(id) = turns.next() {
                let i = ids.iter().position(|&other| other == id).unwrap();
                turns.begin(id);
                let since = asked[i].take().unwrap();
                done[i] = (done[i].0 + 1, done[i].1.max(now - since));
                due[i] = (due[i] + loads[i].period).max(now);
                running.push((now + loads[i].cost, i));
            }
            let busy: usize = running.iter().map(|&(_, i)| loads[i].cores).sum();
            assert!(busy <= cores, "{busy} of {cores} cores are in use");
            let arrivals =
                (0..loads.len()).filter(|&i| asked[i].is_none()).map(|i| due[i]).filter(|&at| at > now);
            let next = running.iter().map(|&(at, _)| at).chain(arrivals).fold(time, f64::min);
            now = next.max(now + 1e-9);
            running.retain(|&(at, i)| {
                if at <= now {
                    turns.end(ids[i], loads[i].cost);
                }
                at > now
            });
        }
        done
    }

    #[test]
    fn cores_that_are_short_are_shared_fairly() {
        let greedy = |cost| Load { cores: 1, cost, period: 0.0 };
        let loads = [greedy(0.001), greedy(0.004), greedy(0.020), greedy(0.050)];
        let done = simulate(2, &loads, 60.0);
        for (load, (turns, _)) in loads.iter().zip(&done) {
            let share = *turns as f64 * load.cost / 30.0;
            assert!((share - 1.0).abs() < 0.02, "{} s a turn had {share} of its share", load.cost);
        }
    }

    #[test]
    fn who_needs_little_is_not_kept_waiting_by_who_wants_all() {
        let small = Load { cores: 1, cost: 0.002, period: 0.050 };
        let done = simulate(1, &[small, Load { cores: 1, cost: 0.010, period: 0.0 }], 60.0);
        assert!(done[0].0 >= 1199, "all frames of the small one: {}", done[0].0);
        assert!(done[0].1 <= 0.0101, "it waits for at most one turn of the other: {}", done[0].1);
    }

    #[test]
    fn who_needs_all_cores_is_not_starved() {
        let loads = [1, 1, 1, 2].map(|cores| Load { cores, cost: 0.010, period: 0.0 });
        let done = simulate(2, &loads, 60.0);
        let had = |i: usize| done[i].0 as f64 * 0.010 * loads[i].cores as f64;
        assert!(had(3) > 0.8 * had(0), "{} against {}", had(3), had(0));
    }

    #[test]
    fn who_comes_late_has_no_more_rights_than_the_others() {
        let mut turns = Turns::new(1);
        let old = turns.join(1);
        for second in 0..1000 {
            turns.ask(old, Duration::from_secs(second));
            turns.begin(old);
            turns.end(old, 1.0);
        }
        let new = turns.join(1);
        let mut had = [0, 0];
        for second in 1000..1100 {
            [old, new].into_iter().for_each(|id| turns.ask(id, Duration::from_secs(second)));
            let next = turns.next().unwrap();
            had[usize::from(next == new)] += 1;
            turns.begin(next);
            turns.end(next, 1.0);
        }
        assert_eq!(had, [50, 50]);
    }

    #[test]
    fn of_those_with_equal_rights_the_earliest_deadline_goes_first() {
        let mut turns = Turns::new(1);
        let [a, b] = [turns.join(1), turns.join(1)];
        turns.ask(a, Duration::from_millis(90));
        turns.ask(b, Duration::from_millis(40));
        assert_eq!(turns.next(), Some(b));
        turns.begin(b);
        assert_eq!(turns.next(), None, "the core is in use");
        turns.end(b, 0.01);
        turns.ask(b, Duration::from_millis(50));
        assert_eq!(turns.next(), Some(a), "b had more than its share");
        turns.withdraw(a);
        assert_eq!(turns.next(), Some(b));
        turns.begin(b);
        turns.leave(b);
        turns.ask(a, Duration::from_millis(99));
        assert_eq!(turns.next(), Some(a), "who leaves gives its cores back");
    }
}
