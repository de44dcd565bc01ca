//! To the hub, and to any other subscriber of a broker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use espalier_wire::mqtt::{Client, Event, MqttError, Publication};
use espalier_wire::{Ack, Batch, Device, Lost, Message, topics};

use super::config::Broker;
use super::home_assistant::Discovery;
use super::names;
use super::receiver::{Outcome, Receiver};

/// For the hub to store a batch, or a broker to take a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that a broker has not acknowledged yet, at most.
const UNDER_WAY: usize = 16;

/// A connection that is made when it is needed.
struct Link {
    broker: Broker,
    client_id: String,
    stop: Arc<AtomicBool>,
    client: Option<Client>,
    /// Bytes of earlier connections.
    sent: u64,
}

impl Link {
    fn connected(&mut self, will: Option<Publication>) -> Result<(&mut Client, bool), MqttError> {
        let fresh = self.client.is_none();
        if fresh {
            let options = self.broker.options(self.client_id.clone(), will);
            self.client = Some(Client::connect(&options, self.stop.clone())?);
        }
        Ok((self.client.as_mut().expect("it is connected"), fresh))
    }

    fn lose(&mut self) {
        self.sent = self.bytes_sent();
        self.client = None;
    }

    fn bytes_sent(&self) -> u64 {
        self.sent + self.client.as_ref().map_or(0, |client| client.bytes().0)
    }

    /// Hears signs of life while there is nothing to send.
    fn idle(&mut self, patience: Duration) -> Result<(), String> {
        match &mut self.client {
            None => std::thread::sleep(patience),
            Some(client) => {
                if let Err(error) = client.poll(patience) {
                    self.lose();
                    return Err(error.to_string());
                }
            }
        }
        Ok(())
    }
}

/// The hub, which acknowledges what its database has.
pub(super) struct Hub {
    link: Link,
    device: Device,
}

impl Hub {
    pub(super) fn new(broker: Broker, device: Device, stop: Arc<AtomicBool>) -> Hub {
        let client_id = format!("espalier-{device}");
        Hub { link: Link { broker, client_id, stop, client: None, sent: 0 }, device }
    }

    fn exchange(&mut self, batch: &Batch) -> Result<Ack, MqttError> {
        let acks = topics::acks(&self.device);
        let (client, fresh) = self.link.connected(None)?;
        if fresh {
            client.subscribe(&acks)?;
            wait(client, |event| matches!(event, Event::Subscribed).then_some(Ok(())))??;
        }
        let (topic, payload) = (topics::batches(&self.device), batch.to_json().into_bytes());
        let id = client.publish(&Publication { topic, payload, acknowledged: true, retained: false })?;
        wait(client, |event| match event {
            Event::Rejected(rejected, reason) if rejected == id => {
                Some(Err(MqttError::Refused(format!("a batch: {reason}"))))
            }
            Event::Message { topic, payload } if topic == acks => {
                let ack = Ack::from_json(&payload).ok()?;
                let answers = ack.device == self.device
                    && (ack.refused.is_some() || ack.epoch == batch.epoch && ack.upto >= batch.last);
                answers.then_some(Ok(ack))
            }
            _ => None,
        })?
    }
}

impl Receiver for Hub {
    fn deliver(&mut self, batch: &Batch) -> Result<Outcome, String> {
        match self.exchange(batch) {
            Ok(ack) => Ok(Outcome { ack, rejected: 0 }),
            Err(error) => {
                self.link.lose();
                Err(match error {
                    MqttError::Silence => "the hub does not answer".into(),
                    error => error.to_string(),
                })
            }
        }
    }

    fn idle(&mut self, patience: Duration) -> Result<(), String> {
        self.link.idle(patience)
    }

    fn bytes_sent(&self) -> u64 {
        self.link.bytes_sent()
    }

    fn close(&mut self) {
        if let Some(client) = self.link.client.take() {
            client.close();
        }
    }
}

/// Waits until `wanted` finds something.
fn wait<T>(client: &mut Client, mut wanted: impl FnMut(Event) -> Option<T>) -> Result<T, MqttError> {
    let begun = Instant::now();
    while let Some(left) = PATIENCE.checked_sub(begun.elapsed()) {
        if let Some(found) = client.poll(left)?.and_then(&mut wanted) {
            return Ok(found);
        }
    }
    Err(MqttError::Silence)
}

/// Subscribers of any broker.
pub(super) struct Subscribers {
    link: Link,
    device: Device,
    prefix: String,
    home_assistant: Option<String>,
    discovery: Option<Discovery>,
}

impl Subscribers {
    pub(super) fn new(
        broker: Broker,
        device: Device,
        name: &str,
        prefix: String,
        home_assistant: Option<String>,
        stop: Arc<AtomicBool>,
    ) -> Subscribers {
        let client_id = format!("espalier-{device}-{name}");
        let link = Link { broker, client_id, stop, client: None, sent: 0 };
        Subscribers { link, device, prefix, home_assistant, discovery: None }
    }

    fn publish_all(&mut self, batch: &Batch) -> Result<(), MqttError> {
        let status = |text: &str| Publication {
            topic: names::status(&self.prefix, &self.device),
            payload: text.into(),
            acknowledged: true,
            retained: true,
        };
        let (client, fresh) = self.link.connected(Some(status("offline")))?;
        let mut waiting = BTreeSet::new();
        if fresh {
            waiting.insert(client.publish(&status("online"))?);
            // A broker may have forgotten what was announced.
            let discovery = |prefix: &String| Discovery::new(prefix, &self.prefix, &self.device);
            self.discovery = self.home_assistant.as_ref().map(discovery);
        }
        for publication in publications(batch, &self.prefix, self.discovery.as_mut()) {
            while waiting.len() >= UNDER_WAY || client.is_full() {
                settle(client, &mut waiting)?;
            }
            waiting.insert(client.publish(&publication)?);
        }
        while !waiting.is_empty() {
            settle(client, &mut waiting)?;
        }
        Ok(())
    }
}

/// Waits until the broker has one more of those that are under way.
fn settle(client: &mut Client, waiting: &mut BTreeSet<u16>) -> Result<(), MqttError> {
    let id = wait(client, |event| match event {
        Event::Published(id) => Some(Ok(id)),
        Event::Rejected(_, reason) => Some(Err(MqttError::Refused(format!("a message: {reason}")))),
        _ => None,
    })??;
    waiting.remove(&id);
    Ok(())
}

/// Everything that a batch says, in its order.
fn publications(batch: &Batch, prefix: &str, mut discovery: Option<&mut Discovery>) -> Vec<Publication> {
    let at = |topic: String, payload: String, retained| Publication {
        topic,
        payload: payload.into_bytes(),
        acknowledged: true,
        retained,
    };
    let mut all = Vec::new();
    for lost in Lost::of(batch) {
        all.push(at(names::dropped(prefix, &batch.device), lost.to_json(), false));
    }
    for message in Message::of(batch) {
        let Ok(insight) = message.entry.parsed() else { continue };
        if let Some((topic, config)) = discovery.as_mut().and_then(|discovery| discovery.announce(&insight)) {
            all.push(at(topic, config, true));
        }
        let topic = names::topic(prefix, &batch.device, &insight.pipeline, &insight.kind);
        all.push(at(topic, message.to_json(), false));
    }
    all
}

impl Receiver for Subscribers {
    fn deliver(&mut self, batch: &Batch) -> Result<Outcome, String> {
        match self.publish_all(batch) {
            Ok(()) => Ok(Outcome::all(batch)),
            Err(error) => {
                self.link.lose();
                Err(error.to_string())
            }
        }
    }

    fn idle(&mut self, patience: Duration) -> Result<(), String> {
        self.link.idle(patience)
    }

    fn bytes_sent(&self) -> u64 {
        self.link.bytes_sent()
    }

    fn close(&mut self) {
        if let Some(mut client) = self.link.client.take() {
            let topic = names::status(&self.prefix, &self.device);
            let offline =
                Publication { topic, payload: "offline".into(), acknowledged: false, retained: true };
            let _ = client.publish(&offline);
            client.close();
        }
    }
}
