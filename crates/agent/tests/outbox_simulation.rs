//! The production code of outbox and exchange, against the hub's ledger, on a disk and a network that fail by a seed: kills
//! at every commit, full disks, damage, lost, repeated and reordered messages. Whatever happens, what was produced is
//! received or declared as dropped. Rare states are counted, so that a simulation that no longer reaches them fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use espalier_agent::outbox::{
    Change, Contents, Handover, Limits, Outbox, Place, Slot, Storage, StorageError, Stored, Weight,
};
use espalier_agent::{Exchange, Next};
use espalier_hub::Ledger;
use espalier_wire::{Ack, Batch, Counts, Device, Dropped, Priority};

const LIMITS: Limits = Limits { count: 12, bytes: 700 };
/// The seeds of a usual run, and of a heavy one.
const SEEDS: (u64, u64) = (400, 20_000);
const STEPS: usize = 600;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Nothing can be written.
    Full,
    /// The process dies in the next commit, which is durable or not.
    Dies {
        durable: bool,
    },
    /// Nothing can be read.
    Unreadable,
}

/// What is on the disk outlives the process.
struct Disk {
    epoch: u64,
    next: u64,
    insights: BTreeMap<u64, Stored>,
    dropped: BTreeMap<u64, Dropped>,
    fault: Fault,
    /// Everything that was ever durable, by epoch and sequence.
    history: BTreeMap<(u64, u64), String>,
    full_commits: u64,
    /// So often a new file cannot be made.
    stubborn: usize,
    put_off: u64,
}

impl Disk {
    fn readable(&self) -> Result<(), StorageError> {
        let unreadable = self.fault == Fault::Unreadable;
        if unreadable { Err(StorageError::Corrupt("a bad sector".into())) } else { Ok(()) }
    }
}

impl Storage for Disk {
    fn contents(&mut self) -> Result<Contents, StorageError> {
        self.readable()?;
        let bytes = self.insights.values().map(|stored| stored.insight.len() as u64).sum();
        let weight = Weight { count: self.insights.len() as u64, bytes };
        let dropped = self.dropped.values().copied().collect();
        Ok(Contents { epoch: self.epoch, next: self.next, weight, dropped })
    }

    fn commit(&mut self, change: &Change) -> Result<(), StorageError> {
        self.readable()?;
        match self.fault {
            Fault::Full => {
                self.full_commits += 1;
                return Err(StorageError::Unavailable("no space".into()));
            }
            Fault::Dies { durable: false } => return Err(StorageError::Fsync("killed before".into())),
            _ => {}
        }
        self.next = change.next;
        self.insights.retain(|sequence, _| *sequence > change.forget);
        self.dropped.retain(|_, run| run.last > change.forget);
        for stored in &change.append {
            let old = self.history.insert((self.epoch, stored.sequence), stored.insight.to_string());
            assert_eq!(old, None, "a sequence number is given once");
            self.insights.insert(stored.sequence, stored.clone());
        }
        for sequence in &change.remove {
            assert!(self.insights.remove(sequence).is_some(), "only what is there is dropped");
        }
        for (first, run) in &change.dropped {
            match run {
                Some(run) => drop(self.dropped.insert(*first, *run)),
                None => drop(self.dropped.remove(first)),
            }
        }
        match self.fault {
            Fault::Dies { .. } => Err(StorageError::Fsync("killed after".into())),
            _ => Ok(()),
        }
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Stored>, StorageError> {
        self.readable()?;
        Ok(self.insights.range(first..).take(count).map(|(_, stored)| stored.clone()).collect())
    }

    fn least(&mut self, first: u64, count: usize) -> Result<Vec<Place>, StorageError> {
        self.readable()?;
        let place = |(&sequence, stored): (&u64, &Stored)| Place {
            priority: stored.priority,
            sequence,
            bytes: stored.insight.len() as u64,
        };
        let mut places: Vec<Place> = self.insights.range(first..).map(place).collect();
        places.sort();
        places.truncate(count);
        Ok(places)
    }

    fn weight(&mut self, last: u64) -> Result<Weight, StorageError> {
        self.readable()?;
        let range = self.insights.range(..=last);
        Ok(range.fold(Weight::default(), |sum, (_, stored)| Weight {
            count: sum.count + 1,
            bytes: sum.bytes + stored.insight.len() as u64,
        }))
    }

    fn renew(&mut self) -> Result<(), StorageError> {
        if self.stubborn > 0 {
            self.stubborn -= 1;
            self.put_off += 1;
            return Err(StorageError::Unavailable("no space for a new file".into()));
        }
        self.fault = Fault::None;
        (self.epoch, self.next) = (self.epoch + 1, 1);
        (self.insights, self.dropped) = Default::default();
        Ok(())
    }
}

enum Mail {
    ToHub(Vec<u8>),
    ToDevice(Vec<u8>),
}

/// States that are to be reached, by name.
type Reached = BTreeMap<&'static str, u64>;

struct World<'a> {
    random: Random,
    now: Duration,
    device: Device,
    handover: Handover,
    /// None while the process is dead.
    outbox: Option<Outbox<Disk>>,
    disk: Option<Disk>,
    exchange: Exchange,
    /// When the batch that is under way is given up.
    waiting: Option<Duration>,
    mail: VecDeque<Mail>,
    ledger: Ledger,
    pushed: Counts,
    numbers: u64,
    /// Acknowledged in the answer that was taken last.
    told: u64,
    reached: &'a mut Reached,
}

impl World<'_> {
    fn reach(&mut self, state: &'static str, so: bool) {
        *self.reached.entry(state).or_default() += u64::from(so);
    }

    fn push(&mut self) {
        let priority = Priority::ALL[self.random.below(3)];
        let padding = "x".repeat(self.random.below(90));
        self.numbers += 1;
        let json: Arc<str> = format!(r#"{{"number":{},"padding":"{padding}"}}"#, self.numbers).into();
        *self.pushed.of_mut(priority) += 1;
        let before = self.handover.counts().1;
        self.handover.push(priority, json);
        let dropped = self.handover.counts().1 != before;
        self.reach("dropped in memory", dropped);
    }

    fn commit(&mut self) {
        let group = self.handover.take(1 + self.random.below(9));
        let Some(outbox) = &mut self.outbox else { return self.handover.put_back(group) };
        let before = (outbox.dropped(), outbox.renewals().len());
        let result = outbox.commit(&group);
        let evicted = outbox.dropped() != before.0;
        let renewed = outbox.renewals().len() > before.1;
        self.reach("dropped from the queue", evicted);
        self.reach("began anew after corruption", renewed);
        match result {
            Ok(()) => {}
            Err(StorageError::Fsync(when)) => {
                let durable = when == "killed after";
                self.reach(if durable { "killed after a commit" } else { "killed before a commit" }, true);
                // Who counts afterwards has to know what was only in memory.
                if !durable {
                    self.handover.put_back(group);
                }
                self.die();
            }
            Err(_) => self.handover.put_back(group),
        }
    }

    /// The process ends; what was in memory is lost, and never was produced as far as anybody can know.
    fn die(&mut self) {
        for slot in self.handover.take(usize::MAX) {
            match slot {
                Slot::Insight(priority, _) => *self.pushed.of_mut(priority) -= 1,
                Slot::Dropped(counts) => {
                    self.pushed.low -= counts.low;
                    self.pushed.normal -= counts.normal;
                    self.pushed.high -= counts.high;
                }
            }
        }
        let outbox = self.outbox.take().expect("it lives");
        let mut disk = outbox.into_storage();
        if disk.fault != Fault::Unreadable {
            disk.fault = Fault::None;
        }
        self.disk = Some(disk);
    }

    fn start(&mut self) {
        if let Some(disk) = self.disk.take() {
            self.outbox =
                Some(Outbox::open(disk, self.device.clone(), LIMITS).expect("a disk that can be used"));
            (self.exchange, self.waiting) = (Exchange::default(), None);
        }
    }

    fn send(&mut self) {
        let random = self.random.below(1000) as f64 / 1000.0;
        if self.waiting.is_some_and(|until| self.now < until) {
            return;
        }
        if self.waiting.take().is_some() {
            self.exchange.failed(self.now, random);
        }
        let Some(outbox) = &mut self.outbox else { return };
        let renewals = outbox.renewals().len();
        let dropped = outbox.dropped();
        let next = self.exchange.next(self.now, outbox);
        let (renewed, damaged) = (outbox.renewals().len() > renewals, outbox.dropped() != dropped);
        self.reach("began anew while reading", renewed);
        self.reach("found a damaged insight", damaged && !renewed);
        match next {
            Ok(Next::Send(batch)) => {
                let again = batch.first <= self.told;
                self.reach("told a stretch again that had grown", again);
                self.waiting = Some(self.now + Duration::from_secs(10));
                self.mail.push_back(Mail::ToHub(batch.to_json().into_bytes()));
            }
            Err(StorageError::Fsync(_)) => self.die(),
            _ => {}
        }
    }

    /// One message arrives, or is lost, comes twice, late, or damaged.
    fn travel(&mut self) {
        let Some(mail) = self.mail.pop_front() else { return };
        if self.random.chance(15) {
            return self.reach("lost a message", true);
        }
        if self.random.chance(10) {
            self.reach("repeated a message", true);
            let copy = match &mail {
                Mail::ToHub(bytes) => Mail::ToHub(bytes.clone()),
                Mail::ToDevice(bytes) => Mail::ToDevice(bytes.clone()),
            };
            let at = self.random.below(self.mail.len() + 1);
            self.mail.insert(at, copy);
        }
        if self.random.chance(10) && !self.mail.is_empty() {
            self.reach("delayed a message", true);
            return self.mail.push_back(mail);
        }
        match mail {
            Mail::ToHub(mut bytes) => {
                if self.random.chance(3) {
                    let at = self.random.below(bytes.len());
                    bytes[at] ^= 1 << self.random.below(8);
                    self.reach("damaged a message", true);
                }
                self.hub(&bytes);
            }
            Mail::ToDevice(bytes) => self.answer(&bytes),
        }
    }

    fn hub(&mut self, bytes: &[u8]) {
        let ack = match Batch::from_json(bytes) {
            Ok(batch) => {
                let known = self.ledger.account(&batch.device, batch.epoch).unwrap().upto;
                self.reach("repeated a whole batch", batch.last <= known);
                self.reach("repeated a part of a batch", batch.first <= known && known < batch.last);
                let grown = batch.dropped.iter().any(|run| run.first <= known && known < run.last);
                self.reach("a stretch grew over what was received", grown);
                let (_, ack) = self.ledger.take(&batch).unwrap();
                assert_eq!(ack.refused, None);
                ack
            }
            Err(error) => Ack::new(self.device.clone(), espalier_wire::Epoch(0), 0, Some(error.to_string())),
        };
        self.mail.push_back(Mail::ToDevice(ack.to_json().into_bytes()));
    }

    fn answer(&mut self, bytes: &[u8]) {
        let ack = Ack::from_json(bytes).unwrap();
        let Some(outbox) = &mut self.outbox else { return };
        let (epoch, random) = (outbox.epoch(), self.random.below(1000) as f64 / 1000.0);
        let new = self.exchange.answered(self.now, random, &ack, outbox);
        let result = if new { outbox.commit(&[]).map(|()| true) } else { Ok(false) };
        let unsettled = !outbox.is_settled();
        self.reach("an answer of another epoch", ack.refused.is_none() && ack.epoch != epoch);
        self.reach("an answer that says nothing new", ack.epoch == epoch && result == Ok(false));
        self.reach("an answer on a full disk", unsettled);
        match result {
            Ok(true) | Err(StorageError::Unavailable(_)) => {
                (self.waiting, self.told) = (None, if ack.epoch == epoch { ack.upto } else { 0 });
            }
            Ok(false) if ack.refused.is_some() => self.waiting = None,
            Ok(false) => {}
            Err(StorageError::Fsync(_)) => self.die(),
            Err(StorageError::Corrupt(_)) => panic!("a new queue begins"),
        }
    }

    fn fault(&mut self, corruption: bool) {
        let kind = self.random.below(6);
        let durable = self.random.chance(50);
        let victim = self.random.below(20);
        let Some(outbox) = &mut self.outbox else { return };
        let disk = outbox.storage();
        match kind {
            0 | 1 => disk.fault = if disk.fault == Fault::Full { Fault::None } else { Fault::Full },
            2 => disk.fault = Fault::Dies { durable },
            3 => self.die(),
            4 => {
                if let Some(stored) = disk.insights.values_mut().nth(victim) {
                    stored.insight = format!("{}!", stored.insight).into();
                    // Its length is what the limits count; it stays as it was.
                    stored.insight = stored.insight[1..].into();
                }
            }
            _ if corruption => (disk.fault, disk.stubborn) = (Fault::Unreadable, victim % 3),
            _ => {}
        }
    }

    fn step(&mut self, corruption: bool) {
        self.now += Duration::from_millis(200);
        match self.random.below(100) {
            0..40 => self.push(),
            40..60 => self.commit(),
            60..75 => self.send(),
            75..95 => self.travel(),
            95..98 => self.fault(corruption),
            _ => self.start(),
        }
    }

    /// Everything works again until nothing is left to do.
    fn heal(&mut self) {
        self.start();
        if let Some(outbox) = &mut self.outbox
            && outbox.storage().fault != Fault::Unreadable
        {
            outbox.storage().fault = Fault::None;
        }
        for _ in 0..2000 {
            self.now += Duration::from_secs(30);
            self.start();
            self.commit();
            self.send();
            if let Some(mail) = self.mail.pop_front() {
                match mail {
                    Mail::ToHub(bytes) => self.hub(&bytes),
                    Mail::ToDevice(bytes) => self.answer(&bytes),
                }
            }
        }
    }

    fn check(&mut self, seed: u64, corruption: bool) {
        let outbox = self.outbox.as_mut().expect("it lives");
        let (epoch, next) = (outbox.epoch(), outbox.next());
        let history = std::mem::take(&mut outbox.storage().history);
        let account = self.ledger.account(&self.device, epoch).unwrap();
        assert_eq!(account.upto + 1, next, "seed {seed}: everything arrives in the end");
        let (mut received, mut dropped, mut last) = (Counts::default(), Counts::default(), 0);
        for (device, epoch) in self.ledger.queues().unwrap() {
            let account = self.ledger.account(&device, epoch).unwrap();
            assert_eq!(account.missing, 0, "seed {seed}");
            assert_eq!(account.upto, account.received + account.dropped.total(), "seed {seed}");
            dropped += account.dropped;
            for (sequence, json) in self.ledger.insights(&device, epoch).unwrap() {
                assert_eq!(
                    history.get(&(epoch.0, sequence)),
                    Some(&json),
                    "seed {seed}: as it was committed"
                );
                let insight: serde_json::Value = serde_json::from_str(&json).unwrap();
                let number = insight["number"].as_u64().unwrap();
                assert!(number > last, "seed {seed}: {number} is not before {last}");
                last = number;
            }
            received += self.ledger.received(&device, epoch).unwrap();
        }
        if !corruption {
            assert_eq!(received + dropped, self.pushed, "seed {seed}: received + dropped = produced");
        }
    }
}

fn simulate(seed: u64, reached: &mut Reached) {
    let device: Device = "gate".parse().unwrap();
    let disk = Disk {
        epoch: 1 + (seed << 20),
        next: 1,
        insights: BTreeMap::new(),
        dropped: BTreeMap::new(),
        fault: Fault::None,
        history: BTreeMap::new(),
        full_commits: 0,
        stubborn: 0,
        put_off: 0,
    };
    let corruption = seed % 4 == 3;
    let mut world = World {
        random: Random(seed),
        now: Duration::ZERO,
        device: device.clone(),
        handover: Handover::new(6, 500),
        outbox: Some(Outbox::open(disk, device, LIMITS).unwrap()),
        disk: None,
        exchange: Exchange::default(),
        waiting: None,
        mail: VecDeque::new(),
        ledger: Ledger::in_memory().unwrap(),
        pushed: Counts::default(),
        numbers: 0,
        told: 0,
        reached,
    };
    (0..STEPS).for_each(|_| world.step(corruption));
    world.heal();
    let disk = world.outbox.as_mut().expect("it lives").storage();
    let (full, put_off) = (disk.full_commits, disk.put_off);
    world.reach("a full disk refused a commit", full > 0);
    world.reach("beginning anew was put off", put_off > 0);
    world.check(seed, corruption);
}

#[test]
fn received_and_dropped_are_what_was_produced() {
    let seeds = if espalier_testing::heavy("20,000 seeds of the outbox's simulation, in place of 400") {
        SEEDS.1
    } else {
        SEEDS.0
    };
    let mut reached = Reached::new();
    (0..seeds).for_each(|seed| simulate(seed, &mut reached));
    println!("{reached:#?}");
    let states = 20;
    assert_eq!(reached.len(), states, "the states that are counted: {reached:#?}");
    let never: Vec<_> = reached.iter().filter(|(_, count)| **count == 0).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
}
