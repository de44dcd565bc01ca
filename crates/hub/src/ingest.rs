//! Where batches come in: through a broker, so that devices need no open port and neither does the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use espalier_wire::mqtt::{Client, Event, MqttError, Options, Publication};
use espalier_wire::{Ack, Batch, Epoch, topics};

use crate::ledger::{Answer, Ledger, LedgerError};

/// Before the next try, after a broker was lost: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
const SLICE: Duration = Duration::from_millis(100);

/// What came in since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches with something new.
    pub stored: u64,
    /// Batches that were known, because an acknowledgement was lost.
    pub repeated: u64,
    /// Batches that were refused: damaged, of another device than their topic, or against what is stored.
    pub refused: u64,
    /// Batches that the database could not take; the devices send them again.
    pub postponed: u64,
    /// Messages from the broker that are no batch's.
    pub foreign: u64,
    /// Connections to the broker that were lost or did not come about.
    pub lost: u64,
}

/// Stores what devices send and acknowledges what is stored.
#[derive(Debug)]
pub struct Ingest {
    ledger: Ledger,
    counters: Counters,
}

impl Ingest {
    /// Into this database.
    pub fn new(ledger: Ledger) -> Ingest {
        Ingest { ledger, counters: Counters::default() }
    }

    /// What came in so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The database.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes what was published to a topic; gives what is to be answered, after the database has it.
    ///
    /// # Errors
    /// A database that cannot be written. Nothing is answered then, and the device will send it again.
    pub fn take(&mut self, topic: &str, payload: &[u8]) -> Result<Option<Publication>, LedgerError> {
        let Some(device) = topics::device_of(topic) else {
            self.counters.foreign += 1;
            return Ok(None);
        };
        let refused = |epoch, reason| Ack::new(device.clone(), epoch, 0, Some(reason));
        let ack = match Batch::from_json(payload) {
            Err(error) => {
                self.counters.refused += 1;
                refused(Epoch(0), error.to_string())
            }
            Ok(batch) if batch.device != device => {
                self.counters.refused += 1;
                refused(batch.epoch, format!("a batch of device {} on the topic of {device}", batch.device))
            }
            Ok(batch) => {
                let taken = self.ledger.take(&batch);
                let (answer, ack) = taken.inspect_err(|_| self.counters.postponed += 1)?;
                match answer {
                    Answer::Stored => self.counters.stored += 1,
                    Answer::Repeated => self.counters.repeated += 1,
                    Answer::Refused(_) => self.counters.refused += 1,
                }
                ack
            }
        };
        let (topic, payload) = (topics::acks(&device), ack.to_json().into_bytes());
        Ok(Some(Publication { topic, payload, acknowledged: false, retained: false }))
    }

    /// Takes what the broker has until `stop` is true; connects again whenever the broker is lost. `note` gets a sentence on
    /// everything that somebody should know.
    pub fn serve(&mut self, options: &Options, stop: &Arc<AtomicBool>, note: &mut dyn FnMut(&str)) {
        let mut pause = RETRY.0;
        while !stop.load(Ordering::Relaxed) {
            let mut connected = false;
            let Err(error) = self.connection(options, stop, note, &mut connected);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.counters.lost += 1;
            note(&format!("{}:{}: {error}", options.host, options.port));
            pause = if connected { RETRY.0 } else { (2 * pause).min(RETRY.1) };
            let slices = pause.as_millis() / SLICE.as_millis() + 1;
            (0..slices).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(|_| std::thread::sleep(SLICE));
        }
    }

    fn connection(
        &mut self,
        options: &Options,
        stop: &Arc<AtomicBool>,
        note: &mut dyn FnMut(&str),
        connected: &mut bool,
    ) -> Result<std::convert::Infallible, MqttError> {
        let mut client = Client::connect(options, stop.clone())?;
        client.subscribe(&topics::all_batches())?;
        loop {
            match client.poll(Duration::from_secs(1))? {
                Some(Event::Subscribed) => {
                    *connected = true;
                    note(&format!("takes batches from {}:{}", options.host, options.port));
                }
                Some(Event::Message { topic, payload }) => match self.take(&topic, &payload) {
                    Ok(Some(answer)) => {
                        client.publish(&answer)?;
                    }
                    Ok(None) => note(&format!("{topic:?} is no topic of a batch")),
                    Err(error) => note(&format!("a batch is not stored: {error}")),
                },
                Some(Event::Rejected(_, reason)) => {
                    note(&format!("the broker does not take an answer: {reason}"))
                }
                Some(Event::Connected | Event::Published(_)) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use espalier_wire::{Device, Entry, Priority};

    use super::*;

    fn batch(name: &str) -> Batch {
        let device: Device = name.parse().unwrap();
        let entry = Entry::new(&device, Epoch(1), 1, Priority::High, serde_json::from_str("{}").unwrap());
        Batch::new(device, Epoch(1), (1, 1), Vec::new(), vec![entry])
    }

    #[test]
    fn every_batch_is_answered_to_its_own_device() {
        let mut ingest = Ingest::new(Ledger::in_memory().unwrap());
        let mut check = |topic: &str, payload: &[u8], upto: u64, refused: &str| {
            let answer = ingest.take(topic, payload).unwrap().expect("an answer");
            assert_eq!(answer.topic, topic.replace("/batch", "/ack"));
            let ack = Ack::from_json(&answer.payload).unwrap();
            assert_eq!(ack.upto, upto);
            assert!(ack.refused.unwrap_or_default().contains(refused));
        };
        let text = batch("a").to_json();
        check("espalier/v1/a/batch", text.as_bytes(), 1, "");
        check("espalier/v1/a/batch", text.as_bytes(), 1, "");
        check("espalier/v1/b/batch", text.as_bytes(), 0, "a batch of device a on the topic of b");
        check("espalier/v1/a/batch", text.replace("{}", "[]").as_bytes(), 0, "damaged");
        check("espalier/v1/a/batch", b"", 0, "EOF");
        assert_eq!(ingest.take("espalier/v1/a/else", b"").unwrap(), None);
        let counters = Counters { stored: 1, repeated: 1, refused: 3, foreign: 1, ..Counters::default() };
        assert_eq!(ingest.counters(), counters);
    }
}
