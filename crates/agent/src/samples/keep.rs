//! Keeps hard samples, under budgets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use espalier_tasks::image::write_jpeg;
use espalier_tasks::{Limits, decode};
use espalier_wire::Kind;
use serde_json::{Map, Value};

use super::budget::Budget;
use super::config::{SampleConfig, SampleError};
use super::store::Store;
use super::{Candidate, Reason, lock};
use crate::moment::Moment;

/// Of a JPEG that is kept, out of 100.
const QUALITY: u8 = 95;

/// What may still be spent.
#[derive(Debug)]
pub(super) struct Purse {
    count: Budget,
    /// The part of the count that is not left to random ones.
    chosen: Budget,
    bytes: Budget,
    refused: u64,
}

impl Purse {
    fn new(config: &SampleConfig) -> Purse {
        let hourly = f64::from(config.per_hour);
        Purse {
            count: Budget::new(hourly),
            chosen: Budget::new(hourly * (1.0 - config.random)),
            bytes: Budget::new(config.bytes_per_hour as f64),
            refused: 0,
        }
    }

    /// Whether a picture may be within the budgets, before anybody has made of it what is kept; what is not is counted.
    pub(super) fn may_afford(&mut self, now: Duration, reason: Reason, picture: &[u8]) -> bool {
        let least = if is_compact(picture) { picture.len() } else { 0 };
        self.affords(now, reason, least as u64)
    }

    /// Hard samples that were not within the budgets.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    fn affords(&mut self, now: Duration, reason: Reason, cost: u64) -> bool {
        let is_left = reason == Reason::Random || self.chosen.affords(now, 1.0);
        let affords = is_left && self.count.affords(now, 1.0) && self.bytes.affords(now, cost as f64);
        self.refused += u64::from(!affords);
        affords
    }

    fn spend(&mut self, reason: Reason, cost: u64) {
        self.count.spend(1.0);
        self.bytes.spend(cost as f64);
        if reason != Reason::Random {
            self.chosen.spend(1.0);
        }
    }
}

/// Makes files of hard samples.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Never held while a disk is waited for.
    purse: Arc<Mutex<Purse>>,
    store: Store,
}

impl Keeper {
    /// With full budgets, which others may look at.
    pub(super) fn open(config: &SampleConfig) -> Result<(Keeper, Arc<Mutex<Purse>>), SampleError> {
        let purse = Arc::new(Mutex::new(Purse::new(config)));
        let store = Store::open(&config.folder, config.folder_bytes)?;
        Ok((Keeper { purse: purse.clone(), store }, purse))
    }

    /// Keeps a hard sample if the budgets allow it and it is not there already.
    ///
    /// # Errors
    /// It could not be written; nothing of it is there then, and it is not counted against a budget.
    pub(super) fn keep(&mut self, candidate: Candidate) -> Result<Option<Kind>, SampleError> {
        let Candidate { at, reason, picture, answer } = candidate;
        let (picture, beside) = (compact(picture), beside(at, reason, &answer));
        let cost = (picture.len() + beside.len()) as u64;
        if !lock(&self.purse).affords(at.since_start, reason, cost) {
            return Ok(None);
        }
        if !self.store.has_room(cost) {
            lock(&self.purse).refused += 1;
            return Ok(None);
        }
        let Some(file) = self.store.keep(&picture, &beside)? else { return Ok(None) };
        lock(&self.purse).spend(reason, cost);
        Ok(Some(Kind::HardSample { reason: reason.name().into(), file, bytes: picture.len() as u64, answer }))
    }
}

/// Whether a picture is kept as it is. What `ffmpeg` decoded is not compressed.
fn is_compact(picture: &[u8]) -> bool {
    !picture.starts_with(b"BM")
}

/// What is kept of a picture: its own bytes, or a JPEG of what is not compressed.
fn compact(picture: Vec<u8>) -> Vec<u8> {
    if is_compact(&picture) {
        return picture;
    }
    let mut jpeg = Vec::new();
    let written = decode(&picture, &Limits::default()).map(|image| write_jpeg(&image, QUALITY, &mut jpeg));
    if matches!(written, Ok(Ok(()))) { jpeg } else { picture }
}

/// What stands in the file beside a sample.
fn beside(at: Moment, reason: Reason, answer: &Map<String, Value>) -> Vec<u8> {
    let mut fields = answer.clone();
    fields.insert("reason".into(), reason.name().into());
    fields.insert("time_ms".into(), at.unix_ms().into());
    Value::Object(fields).to_string().into_bytes()
}
