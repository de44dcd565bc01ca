//! The durable queue itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use espalier_wire::{Batch, Counts, Device, Digest, Dropped, Entry, Epoch, MAX_BATCH_PARTS, Priority};
use serde_json::value::RawValue;

use super::handover::Slot;
use super::storage::{Change, Place, Storage, StorageError, Stored, Weight};

/// Insights of a batch, and bytes of their JSON from which on it takes no more of them.
const BATCH_COUNT: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
const _: () = assert!(2 * BATCH_COUNT < MAX_BATCH_PARTS, "stretches and entries take turns");

/// What a queue holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Insights.
    pub count: u64,
    /// Bytes of their JSON.
    pub bytes: u64,
}

/// A device's insights for one receiver, numbered, until it has acknowledged them. Every number is accounted for: it is that
/// of an insight, or within a stretch of dropped ones, whose counts stay until they are acknowledged as well.
#[derive(Debug)]
pub struct Outbox<S> {
    device: Device,
    limits: Limits,
    storage: S,
    epoch: Epoch,
    /// The first number that no insight has yet.
    next: u64,
    /// The receiver has everything up to here.
    acknowledged: u64,
    /// The storage has forgotten everything up to here.
    forgotten: u64,
    weight: Weight,
    dropped: BTreeMap<u64, Dropped>,
    /// Since the process began.
    dropped_total: Counts,
    renewals: Vec<String>,
    /// Why what is there cannot be read, until an empty queue has taken its place.
    unreadable: Option<String>,
}

/// What stretches were before a change, so that it can be undone.
type Journal = BTreeMap<u64, Option<Dropped>>;

impl<S: Storage> Outbox<S> {
    /// The queue that is in a storage. Where it cannot be read, a new one begins ([`Outbox::renewals`]).
    ///
    /// # Errors
    /// A storage that cannot be used at all.
    pub fn open(storage: S, device: Device, limits: Limits) -> Result<Outbox<S>, StorageError> {
        let mut outbox = Outbox {
            device,
            limits,
            storage,
            epoch: Epoch(0),
            next: 1,
            acknowledged: 0,
            forgotten: 0,
            weight: Weight::default(),
            dropped: BTreeMap::new(),
            dropped_total: Counts::default(),
            renewals: Vec::new(),
            unreadable: None,
        };
        let found = outbox.load().or_else(|error| outbox.renewed(error));
        // What cannot be read is no reason not to start, even where its successor has to wait for room.
        if outbox.unreadable.is_some() { Ok(outbox) } else { found.map(|()| outbox) }
    }

    fn load(&mut self) -> Result<(), StorageError> {
        let contents = self.storage.contents()?;
        self.epoch = contents.epoch();
        self.next = contents.next;
        self.weight = contents.weight;
        self.dropped = contents.dropped.iter().map(|run| (run.first, *run)).collect();
        let oldest = self.storage.read(1, 1)?.first().map(|stored| stored.sequence);
        let oldest_run = self.dropped.keys().next().copied();
        let first = oldest.into_iter().chain(oldest_run).min().unwrap_or(self.next);
        (self.acknowledged, self.forgotten) = (first - 1, first - 1);
        Ok(())
    }

    /// After corruption: what could not be read is put aside, and sequence numbers begin anew in another epoch.
    fn renewed(&mut self, error: StorageError) -> Result<(), StorageError> {
        let StorageError::Corrupt(reason) = error else { return Err(error) };
        let reason = self.unreadable.insert(reason).clone();
        self.storage.renew()?;
        self.load()?;
        self.unreadable = None;
        self.renewals.push(reason);
        Ok(())
    }

    /// Finishes what a full disk may have kept from beginning anew.
    fn ready(&mut self) -> Result<(), StorageError> {
        self.unreadable.clone().map_or(Ok(()), |reason| self.renewed(StorageError::Corrupt(reason)))
    }

    /// Writes `group` behind what is there, in one step, and drops what then is too much. What is acknowledged is forgotten
    /// in the same step.
    ///
    /// # Errors
    /// As [`StorageError`] says; after `Unavailable` the group is not written, and whatever else there was is unchanged.
    /// A queue that cannot be read is begun anew, and the group is its first.
    pub fn commit(&mut self, group: &[Slot]) -> Result<(), StorageError> {
        self.ready()?;
        match self.step(group, &[]) {
            Err(error @ StorageError::Corrupt(_)) => {
                self.renewed(error)?;
                self.step(group, &[])
            }
            result => result,
        }
    }

    /// What became of the oldest numbers that are not acknowledged; none where there are none.
    ///
    /// # Errors
    /// As [`StorageError`] says. A queue that cannot be read is begun anew, and there is nothing in it.
    pub fn batch(&mut self) -> Result<Option<Batch>, StorageError> {
        self.ready()?;
        match self.account() {
            Err(error @ StorageError::Corrupt(_)) => {
                self.renewed(error)?;
                Ok(None)
            }
            result => result,
        }
    }

    /// The receiver has everything up to a number. `false` where that says nothing new: it is of another epoch, was known, or
    /// is of numbers that were never given. It lasts when the next step is committed; until then the receiver may be told
    /// again, which it recognises.
    pub fn acknowledge(&mut self, epoch: Epoch, upto: u64) -> bool {
        if epoch != self.epoch || upto >= self.next {
            return false;
        }
        // A stretch may have grown since it was sent. It is then told again as a whole.
        let grown = self.dropped.range(..=upto).next_back().filter(|(_, run)| run.last > upto);
        let upto = grown.map_or(upto, |(first, _)| first - 1);
        let new = upto > self.acknowledged;
        self.acknowledged = self.acknowledged.max(upto);
        new
    }

    /// Whether what is acknowledged is still to be forgotten by the storage.
    pub fn is_settled(&self) -> bool {
        self.forgotten == self.acknowledged
    }

    /// Of this queue.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The sequence number that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Insights that are stored.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Insights that were dropped since the process began.
    pub fn dropped(&self) -> Counts {
        self.dropped_total
    }

    /// Why queues could not be read, each time that one was begun anew.
    pub fn renewals(&self) -> &[String] {
        &self.renewals
    }

    /// The storage, for a simulation to look at.
    pub fn storage(&mut self) -> &mut S {
        &mut self.storage
    }

    /// The storage, at the end.
    pub fn into_storage(self) -> S {
        self.storage
    }

    fn account(&mut self) -> Result<Option<Batch>, StorageError> {
        let first = self.acknowledged + 1;
        if first >= self.next {
            return Ok(None);
        }
        let stored = self.storage.read(first, BATCH_COUNT)?;
        let damaged: Vec<Place> =
            stored.iter().filter(|stored| self.entry(stored).is_none()).map(place).collect();
        if !damaged.is_empty() {
            self.step(&[], &damaged)?;
            return self.account();
        }
        let mut stored = stored.iter().peekable();
        let (mut entries, mut dropped, mut bytes, mut at) = (Vec::new(), Vec::new(), 0, first);
        while at < self.next && entries.len() < BATCH_COUNT && bytes < BATCH_BYTES {
            if let Some(stored) = stored.next_if(|stored| stored.sequence == at) {
                bytes += stored.insight.len();
                entries.extend(self.entry(stored));
                at += 1;
            } else if let Some(run) = self.dropped.get(&at) {
                dropped.push(*run);
                at = run.last + 1;
            } else {
                return Err(StorageError::Corrupt(format!("number {at} is neither there nor dropped")));
            }
        }
        Ok(Some(Batch::new(self.device.clone(), self.epoch, (first, at - 1), dropped, entries)))
    }

    /// What is stored, unless it is damaged.
    fn entry(&self, stored: &Stored) -> Option<Entry> {
        let Stored { sequence, priority, digest, ref insight } = *stored;
        let insight = RawValue::from_string(insight.to_string()).ok()?;
        let entry = Entry { sequence, priority, digest, insight };
        entry.is_whole(&self.device, self.epoch).then_some(entry)
    }

    /// One step of the storage; `lost` are stored insights that are to be dropped in any case.
    fn step(&mut self, group: &[Slot], lost: &[Place]) -> Result<(), StorageError> {
        let mut journal = Journal::new();
        let planned = self.plan(group, lost, &mut journal);
        let done = planned.and_then(|plan| self.storage.commit(&plan.change).map(|()| plan));
        match done {
            Ok(plan) => {
                (self.next, self.forgotten, self.weight) =
                    (plan.change.next, plan.change.forget, plan.weight);
                self.dropped_total += plan.dropped;
                Ok(())
            }
            Err(error) => {
                for (first, old) in journal {
                    put(&mut self.dropped, first, old);
                }
                Err(error)
            }
        }
    }

    fn plan(&mut self, group: &[Slot], lost: &[Place], journal: &mut Journal) -> Result<Plan, StorageError> {
        let forget = self.acknowledged;
        let forgotten = self.storage.weight(forget)?;
        let past: Vec<u64> = self.dropped.range(..=forget).map(|(first, _)| *first).collect();
        past.into_iter().for_each(|first| self.record(journal, first, None));
        let mut plan = Plan {
            change: Change { next: self.next, forget, ..Change::default() },
            weight: Weight {
                count: self.weight.count - forgotten.count,
                bytes: self.weight.bytes - forgotten.bytes,
            },
            dropped: Counts::default(),
        };
        for slot in group {
            match slot {
                Slot::Insight(priority, json) => self.append(&mut plan, *priority, json.clone()),
                Slot::Dropped(counts) => {
                    let first = plan.change.next;
                    plan.change.next += counts.total();
                    let run = Dropped { first, last: plan.change.next - 1, counts: *counts };
                    self.drop_run(journal, &mut plan, run);
                }
            }
        }
        lost.iter().for_each(|place| self.drop_stored(journal, &mut plan, *place));
        self.evict(&mut plan, journal)?;
        plan.change.dropped =
            journal.keys().map(|first| (*first, self.dropped.get(first).copied())).collect();
        Ok(plan)
    }

    fn append(&self, plan: &mut Plan, priority: Priority, insight: Arc<str>) {
        let sequence = plan.change.next;
        let digest = Digest::of_insight(&self.device, self.epoch, sequence, priority, &insight);
        plan.weight.count += 1;
        plan.weight.bytes += insight.len() as u64;
        plan.change.append.push(Stored { sequence, priority, digest, insight });
        plan.change.next += 1;
    }

    /// Drops what matters least, the oldest first, until the rest is within the limits.
    fn evict(&mut self, plan: &mut Plan, journal: &mut Journal) -> Result<(), StorageError> {
        let mut fresh: Vec<Place> = plan.change.append.iter().map(place).collect();
        fresh.sort_unstable();
        let mut fresh = fresh.into_iter().peekable();
        let (mut old, mut seen, mut asked) = (Vec::new().into_iter().peekable(), 0, 0);
        while plan.weight.count > self.limits.count || plan.weight.bytes > self.limits.bytes {
            if old.peek().is_none() && seen == asked {
                asked = (2 * asked).max(64);
                let mut all = self.storage.least(self.acknowledged + 1, asked)?;
                let new = all.split_off(seen.min(all.len()));
                seen += new.len();
                old = new.into_iter().peekable();
            }
            match (old.peek(), fresh.peek()) {
                (Some(stored), newer) if newer.is_none_or(|newer| stored < newer) => {
                    let place = *stored;
                    old.next();
                    // One that was just lost is gone already.
                    if !plan.change.remove.contains(&place.sequence) {
                        self.drop_stored(journal, plan, place);
                    }
                }
                (_, Some(newer)) => {
                    let place = *newer;
                    fresh.next();
                    plan.change.append.retain(|stored| stored.sequence != place.sequence);
                    self.drop_place(journal, plan, place);
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn drop_stored(&mut self, journal: &mut Journal, plan: &mut Plan, place: Place) {
        plan.change.remove.push(place.sequence);
        self.drop_place(journal, plan, place);
    }

    fn drop_place(&mut self, journal: &mut Journal, plan: &mut Plan, place: Place) {
        plan.weight.count -= 1;
        plan.weight.bytes -= place.bytes;
        let counts = Counts::one(place.priority);
        self.drop_run(journal, plan, Dropped { first: place.sequence, last: place.sequence, counts });
    }

    /// Adds a stretch to those before and behind it that it touches.
    fn drop_run(&mut self, journal: &mut Journal, plan: &mut Plan, mut run: Dropped) {
        plan.dropped += run.counts;
        let before = self.dropped.range(..run.first).next_back().map(|(_, before)| *before);
        if let Some(before) = before.filter(|before| before.last + 1 == run.first) {
            run = Dropped { first: before.first, last: run.last, counts: before.counts + run.counts };
        }
        if let Some(behind) = self.dropped.get(&(run.last + 1)).copied() {
            self.record(journal, behind.first, None);
            run = Dropped { first: run.first, last: behind.last, counts: run.counts + behind.counts };
        }
        self.record(journal, run.first, Some(run));
    }

    /// Changes a stretch and remembers what it was.
    fn record(&mut self, journal: &mut Journal, first: u64, run: Option<Dropped>) {
        let old = put(&mut self.dropped, first, run);
        journal.entry(first).or_insert(old);
    }
}

/// A step and what will be so after it.
struct Plan {
    change: Change,
    weight: Weight,
    dropped: Counts,
}

fn place(stored: &Stored) -> Place {
    let Stored { sequence, priority, ref insight, .. } = *stored;
    Place { priority, sequence, bytes: insight.len() as u64 }
}

fn put(runs: &mut BTreeMap<u64, Dropped>, first: u64, run: Option<Dropped>) -> Option<Dropped> {
    match run {
        Some(run) => runs.insert(first, run),
        None => runs.remove(&first),
    }
}
