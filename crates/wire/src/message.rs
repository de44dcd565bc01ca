//! One insight with its place in a device's queue.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Batch, Device, Digest, Dropped, Epoch, Insight, Priority, WireError};

/// The most bytes that an insight has as JSON.
pub const MAX_INSIGHT_BYTES: usize = 64 << 10;

/// An insight as it stands in a queue and in a batch. Its bytes are kept as they are, so that the digest that was made when
/// it entered the queue can be checked wherever it arrives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its place in the queue, from 1 on.
    pub sequence: u64,
    /// How much it matters.
    pub priority: Priority,
    /// That of device, epoch, sequence, priority and the insight's JSON.
    pub digest: Digest,
    /// The [`Insight`] as JSON.
    pub insight: Box<RawValue>,
}

impl Entry {
    /// Gives an insight its place.
    pub fn new(
        device: &Device,
        epoch: Epoch,
        sequence: u64,
        priority: Priority,
        insight: Box<RawValue>,
    ) -> Entry {
        let digest = Digest::of_insight(device, epoch, sequence, priority, insight.get());
        Entry { sequence, priority, digest, insight }
    }

    /// Whether it is what once entered the queue of this device and epoch.
    pub fn is_whole(&self, device: &Device, epoch: Epoch) -> bool {
        Digest::of_insight(device, epoch, self.sequence, self.priority, self.insight.get()) == self.digest
    }

    /// What it says.
    ///
    /// # Errors
    /// JSON that is no insight that this version knows.
    pub fn parsed(&self) -> Result<Insight, WireError> {
        serde_json::from_str(self.insight.get()).map_err(WireError::json)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.sequence, self.priority, self.digest) == (other.sequence, other.priority, other.digest)
            && self.insight.get() == other.insight.get()
    }
}

/// What one insight is for whoever is not the hub: an MQTT broker's subscribers, a webhook, a file. `device`, `epoch` and
/// `sequence` together are the key by which repeats are recognised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// Who says it.
    pub device: Device,
    /// From which of its queues.
    pub epoch: Epoch,
    /// The insight and its place there.
    #[serde(flatten)]
    pub entry: Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    device: Device,
    epoch: Epoch,
    sequence: u64,
    priority: Priority,
    digest: Digest,
    insight: Box<RawValue>,
}

impl Message {
    /// One line of JSON, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads what [`Message::to_json`] wrote.
    ///
    /// # Errors
    /// What is too long, no JSON of this form, or does not match its digest.
    pub fn from_json(bytes: &[u8]) -> Result<Message, WireError> {
        WireError::check_size(bytes, MAX_INSIGHT_BYTES + 1024)?;
        let Flat { device, epoch, sequence, priority, digest, insight } =
            serde_json::from_slice(bytes).map_err(WireError::json)?;
        let entry = Entry { sequence, priority, digest, insight };
        if !entry.is_whole(&device, epoch) {
            return Err(WireError::Damaged(format!("message {sequence} of device {device}")));
        }
        Ok(Message { device, epoch, entry })
    }

    /// The messages of a batch, in order.
    pub fn of(batch: &Batch) -> Vec<Message> {
        let message = |entry: &Entry| Message {
            device: batch.device.clone(),
            epoch: batch.epoch,
            entry: entry.clone(),
        };
        batch.entries.iter().map(message).collect()
    }

    /// `device/epoch/sequence`: equal for repeats, and only for them.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.device, self.epoch, self.entry.sequence)
    }
}

/// What a device had to drop, for whoever is not the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Who says it.
    pub device: Device,
    /// From which of its queues.
    pub epoch: Epoch,
    /// Where they stood, and what they were.
    pub dropped: Dropped,
}

impl Lost {
    /// The stretches of a batch of which nothing is left, in order.
    pub fn of(batch: &Batch) -> Vec<Lost> {
        let lost =
            |dropped: &Dropped| Lost { device: batch.device.clone(), epoch: batch.epoch, dropped: *dropped };
        batch.dropped.iter().map(lost).collect()
    }

    /// One line of JSON, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// `device/epoch/first-last`: equal for repeats, and only for them.
    pub fn key(&self) -> String {
        format!("{}/{}/{}-{}", self.device, self.epoch, self.dropped.first, self.dropped.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let (device, epoch) = ("gate".parse().unwrap(), Epoch(7));
        let insight = RawValue::from_string(r#"{"pipeline":"p","time_ms":1,"kind":"x"}"#.into()).unwrap();
        let entry = Entry::new(&device, epoch, 3, Priority::High, insight);
        Message { device, epoch, entry }
    }

    #[test]
    fn the_json_is_stable() {
        let text = r#"{"device":"gate","epoch":"0000000000000007","sequence":3,"priority":"high","digest":"DIGEST","insight":{"pipeline":"p","time_ms":1,"kind":"x"}}"#;
        let digest = Digest::of([
            &b"gate\n0000000000000007\n3\nhigh\n{\"pipeline\":\"p\",\"time_ms\":1,\"kind\":\"x\"}"[..],
        ]);
        let text = text.replace("DIGEST", &digest.to_string());
        assert_eq!(message().to_json(), text);
        assert_eq!(Message::from_json(text.as_bytes()).unwrap(), message());
        assert_eq!(message().key(), "gate/0000000000000007/3");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let text = message().to_json().into_bytes();
        for bit in 0..8 * text.len() {
            let mut bytes = text.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::from_json(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
