//! A whole account of a stretch of a queue, and the answer to it.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

use crate::{Device, Digest, Entry, Epoch, Priority, WireError};

/// The most bytes of a batch as JSON.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// The most entries, and the most stretches of dropped ones, in a batch.
pub const MAX_BATCH_PARTS: usize = 1024;
/// The most bytes of an acknowledgement.
const MAX_ACK_BYTES: usize = 4 << 10;
/// The highest sequence number: what any JSON reader keeps exactly.
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;

/// Numbers of insights by priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Those of [`Priority::Low`].
    pub low: u64,
    /// Those of [`Priority::Normal`].
    pub normal: u64,
    /// Those of [`Priority::High`].
    pub high: u64,
}

impl Counts {
    /// One insight.
    pub fn one(priority: Priority) -> Counts {
        let mut counts = Counts::default();
        *counts.of_mut(priority) = 1;
        counts
    }

    /// The number of a priority.
    pub fn of_mut(&mut self, priority: Priority) -> &mut u64 {
        match priority {
            Priority::Low => &mut self.low,
            Priority::Normal => &mut self.normal,
            Priority::High => &mut self.high,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.low.saturating_add(self.normal).saturating_add(self.high)
    }
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts { low: self.low + other.low, normal: self.normal + other.normal, high: self.high + other.high }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        *self = *self + other;
    }
}

/// A stretch of a queue of which nothing is left: all its insights were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The first sequence number.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// What they were; together `last - first + 1`.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Everything that became of the sequence numbers `first..=last`: each is that of an entry or within a stretch of dropped
/// ones. So whoever has the batches up to a number knows of every insight that was ever produced up to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Who says it.
    pub device: Device,
    /// From which of its queues.
    pub epoch: Epoch,
    /// The first sequence number that it accounts for.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// What was dropped, in order.
    pub dropped: Vec<Dropped>,
    /// What is left, in order.
    pub entries: Vec<Entry>,
    /// That of all the above.
    pub digest: Digest,
}

impl Batch {
    /// An account of `first..=last`.
    pub fn new(
        device: Device,
        epoch: Epoch,
        (first, last): (u64, u64),
        dropped: Vec<Dropped>,
        entries: Vec<Entry>,
    ) -> Batch {
        let mut batch = Batch { device, epoch, first, last, dropped, entries, digest: Digest(0) };
        batch.digest = batch.sum();
        batch
    }

    /// CRC-32C of the lines `device`, `epoch`, `first last`, then `first last low normal high` of each stretch, then
    /// `sequence digest` of each entry.
    fn sum(&self) -> Digest {
        let Batch { device, epoch, first, last, .. } = self;
        let head = format!("{device}\n{epoch}\n{first} {last}\n");
        let dropped = self.dropped.iter().map(|Dropped { first, last, counts: c }| {
            format!("{first} {last} {} {} {}\n", c.low, c.normal, c.high)
        });
        let entries = self.entries.iter().map(|entry| format!("{} {}\n", entry.sequence, entry.digest));
        let lines: Vec<String> = std::iter::once(head).chain(dropped).chain(entries).collect();
        Digest::of(lines.iter().map(String::as_bytes))
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads what [`Batch::to_json`] wrote.
    ///
    /// # Errors
    /// What is too long, no JSON of this form, no whole account, or does not match its digests.
    pub fn from_json(bytes: &[u8]) -> Result<Batch, WireError> {
        WireError::check_size(bytes, MAX_BATCH_BYTES)?;
        let batch: Batch = serde_json::from_slice(bytes).map_err(WireError::json)?;
        batch.check_account()?;
        let Batch { device, epoch, first, last, .. } = &batch;
        if batch.sum() != batch.digest {
            return Err(WireError::Damaged(format!("batch {first}..={last} of device {device}")));
        }
        match batch.entries.iter().find(|entry| !entry.is_whole(device, *epoch)) {
            Some(entry) => Err(WireError::Damaged(format!("message {} of device {device}", entry.sequence))),
            None => Ok(batch),
        }
    }

    /// Whether entries and stretches, merged, cover `first..=last` without a gap or an overlap.
    fn check_account(&self) -> Result<(), WireError> {
        let wrong = |what: String| Err(WireError::Wrong(what));
        let Batch { first, last, .. } = *self;
        if first == 0 || first > last || last > MAX_SEQUENCE {
            return wrong(format!("a batch of {first}..={last}: numbers begin at 1 and ascend"));
        }
        if self.entries.len() > MAX_BATCH_PARTS || self.dropped.len() > MAX_BATCH_PARTS {
            return wrong(format!("a batch of more than {MAX_BATCH_PARTS} entries or stretches"));
        }
        let mut next = first;
        let (mut entries, mut dropped) = (self.entries.iter().peekable(), self.dropped.iter().peekable());
        while next <= last {
            if entries.next_if(|entry| entry.sequence == next).is_some() {
                next += 1;
            } else if let Some(run) = dropped.next_if(|run| run.first == next) {
                if run.last < run.first || run.last > last || run.counts.total() != run.last - run.first + 1 {
                    return wrong(format!(
                        "{} dropped within {}..={}",
                        run.counts.total(),
                        run.first,
                        run.last
                    ));
                }
                next = run.last + 1;
            } else {
                return wrong(format!("a batch of {first}..={last} that does not say what became of {next}"));
            }
        }
        match entries.next().map(|e| e.sequence).or(dropped.next().map(|run| run.first)) {
            Some(behind) => wrong(format!("a batch of {first}..={last} that goes on to {behind}")),
            None => Ok(()),
        }
    }

    /// What was dropped within it.
    pub fn dropped_counts(&self) -> Counts {
        self.dropped.iter().fold(Counts::default(), |sum, run| sum + run.counts)
    }
}

/// What the hub answers to a batch, after its database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Whom it answers.
    pub device: Device,
    /// Which of its queues.
    pub epoch: Epoch,
    /// Everything up to this sequence number is stored for good: the device may forget it. 0 for nothing yet.
    pub upto: u64,
    /// Why a batch was refused, where one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
    /// That of all the above.
    pub digest: Digest,
}

impl Ack {
    /// An answer.
    pub fn new(device: Device, epoch: Epoch, upto: u64, refused: Option<String>) -> Ack {
        let mut ack = Ack { device, epoch, upto, refused, digest: Digest(0) };
        ack.digest = ack.sum();
        ack
    }

    fn sum(&self) -> Digest {
        let Ack { device, epoch, upto, refused, .. } = self;
        let text = format!("{device}\n{epoch}\n{upto}\n{}", refused.as_deref().unwrap_or_default());
        Digest::of([text.as_bytes()])
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads what [`Ack::to_json`] wrote.
    ///
    /// # Errors
    /// What is too long, no JSON of this form, or does not match its digest.
    pub fn from_json(bytes: &[u8]) -> Result<Ack, WireError> {
        WireError::check_size(bytes, MAX_ACK_BYTES)?;
        let ack: Ack = serde_json::from_slice(bytes).map_err(WireError::json)?;
        if ack.sum() != ack.digest {
            return Err(WireError::Damaged(format!("acknowledgement for device {}", ack.device)));
        }
        Ok(ack)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn device() -> Device {
        "gate".parse().unwrap()
    }

    fn entry(sequence: u64) -> Entry {
        let insight = RawValue::from_string(format!(r#"{{"n":{sequence}}}"#)).unwrap();
        Entry::new(&device(), Epoch(1), sequence, Priority::Normal, insight)
    }

    fn dropped(first: u64, last: u64, low: u64, normal: u64, high: u64) -> Dropped {
        Dropped { first, last, counts: Counts { low, normal, high } }
    }

    fn batch(range: (u64, u64), dropped: &[Dropped], entries: &[u64]) -> Batch {
        let entries = entries.iter().map(|&sequence| entry(sequence)).collect();
        Batch::new(device(), Epoch(1), range, dropped.to_vec(), entries)
    }

    #[test]
    fn only_whole_accounts_are_read() {
        let check = |batch: Batch, fault: &str| match Batch::from_json(batch.to_json().as_bytes()) {
            Ok(read) => assert!(fault.is_empty() && read == batch, "{fault}"),
            Err(error) => assert!(!fault.is_empty() && error.to_string().contains(fault), "{error}"),
        };
        check(batch((1, 1), &[], &[1]), "");
        check(batch((4, 9), &[dropped(5, 7, 1, 2, 0)], &[4, 8, 9]), "");
        check(batch((1, 5), &[dropped(1, 5, 0, 0, 5)], &[]), "");
        check(batch((1, 3), &[], &[1, 3]), "what became of 2");
        check(batch((1, 2), &[], &[1]), "what became of 2");
        check(batch((1, 2), &[], &[1, 2, 3]), "goes on to 3");
        check(batch((1, 2), &[], &[2, 1]), "what became of 1");
        check(batch((0, 0), &[], &[]), "begin at 1");
        check(batch((2, 1), &[], &[]), "begin at 1");
        check(batch((1, u64::MAX), &[dropped(1, u64::MAX, u64::MAX, 0, 0)], &[]), "begin at 1");
        check(batch((1, 3), &[dropped(2, 3, 1, 0, 0)], &[1]), "1 dropped within 2..=3");
        check(batch((1, 3), &[dropped(2, 4, 3, 0, 0)], &[1]), "3 dropped within 2..=4");
        check(batch((1, 3), &[dropped(1, 2, u64::MAX, 3, 0)], &[3]), "dropped within 1..=2");
        check(batch((1, 1025), &[], &(1..=1025).collect::<Vec<_>>()), "more than 1024");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = batch((4, 9), &[dropped(5, 7, 1, 2, 0)], &[4, 8, 9]).to_json().into_bytes();
        let answer = Ack::new(device(), Epoch(3), 77, Some("no".into())).to_json().into_bytes();
        assert!(Batch::from_json(&whole).is_ok() && Ack::from_json(&answer).is_ok());
        let flipped = |text: &[u8], bit: usize| {
            let mut bytes = text.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        (0..8 * whole.len())
            .for_each(|bit| assert!(Batch::from_json(&flipped(&whole, bit)).is_err(), "{bit}"));
        (0..8 * answer.len())
            .for_each(|bit| assert!(Ack::from_json(&flipped(&answer, bit)).is_err(), "{bit}"));
    }

    #[test]
    fn what_is_too_long_is_not_looked_at() {
        let error = Batch::from_json(&vec![b' '; MAX_BATCH_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "1048577 bytes, where 1048576 are the limit");
    }

    /// The seeds of the fuzz target were written by another program, after docs/messages.md.
    #[test]
    fn what_others_write_after_the_documentation_is_read() {
        let seed = |name: &str| {
            let path = format!("{}/../../fuzz/seeds/wire/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        let batch = Batch::from_json(&seed("batch")).unwrap();
        assert_eq!((batch.entries.len(), batch.dropped_counts().total()), (2, 3));
        assert!(batch.entries.iter().all(|entry| entry.parsed().is_ok()));
        assert_eq!(Ack::from_json(&seed("ack")).unwrap().upto, 21);
        assert!(Ack::from_json(&seed("refusal")).unwrap().refused.is_some());
        assert_eq!(crate::Message::from_json(&seed("message")).unwrap().entry, batch.entries[0]);
    }
}
