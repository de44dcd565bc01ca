//! Where insights go to.
//!
//! [`Sinks`] takes each insight to all of them and goes on at once. A durable sink has a queue in a file of its own
//! ([`crate::outbox`]) and two threads: one writes the queue, the other empties it towards a receiver and, where that is not
//! there, comes back later. So a receiver that is slow or gone holds up neither the others nor inference.

mod config;
mod exchange;
mod folder;
mod home_assistant;
mod mqtt;
mod names;
mod queue;
mod receiver;
mod stdout;
mod webhook;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use espalier_wire::{Counts, Device, Insight, Priority};

pub use config::{FolderConfig, HubConfig, MqttConfig, SinkConfig, StdoutConfig, WebhookConfig};
pub use exchange::{Backoff, Exchange, Next};

use crate::outbox::{Handover, Outbox, Slot, Sqlite};
use config::{Broker, address};
use queue::Queue;
use receiver::Receiver;
use stdout::Lines;

/// Insights, and bytes of their JSON, that are held at most while a sink gets other settings.
const HELD: (usize, usize) = (1024, 1 << 20);
/// For the threads of all sinks to end; those that a network still holds are left alone then.
const CLOSING: Duration = Duration::from_millis(900);

/// Why a sink cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sink {sink}: {what}")]
pub struct SinkError {
    sink: String,
    what: String,
}

impl SinkError {
    fn new(sink: &str, what: impl ToString) -> SinkError {
        SinkError { sink: sink.to_owned(), what: what.to_string() }
    }

    fn config(sink: &str, key: &str, what: &str) -> SinkError {
        SinkError::new(sink, format!("{key}: {what}"))
    }
}

/// What became of the insights that a sink got since the process began, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkCounters {
    /// The sink's name.
    pub name: String,
    /// Its `type` in the configuration.
    pub kind: &'static str,
    /// `ok`, or what is wrong.
    pub state: String,
    /// Insights that its receiver has.
    pub delivered: u64,
    /// Insights that wait, in memory and in its file.
    pub waiting: u64,
    /// Bytes of JSON of those in its file.
    pub waiting_bytes: u64,
    /// Insights that were dropped.
    pub dropped: Counts,
    /// Messages that a web server will never take, and hard samples whose files were not there.
    pub rejected: u64,
    /// Attempts to reach the receiver that failed.
    pub failures: u64,
    /// Queues that could not be read and were begun anew.
    pub renewals: u64,
    /// Bytes that left the device: of MQTT's packets, or of the bodies of requests; without those of TLS and TCP.
    pub sent_bytes: u64,
}

/// All sinks of a configuration. Dropping it closes them.
pub struct Sinks {
    sinks: RwLock<Vec<Sink>>,
    data: PathBuf,
    device: Device,
}

struct Sink {
    config: SinkConfig,
    way: Way,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

enum Way {
    Queued(Arc<Queue>),
    Printed(Arc<Lines>),
    /// It is being opened: what comes meanwhile waits.
    Held(Mutex<Handover>),
}

impl Sinks {
    /// Opens the sinks of `configs` for this device. Their queues are files `NAME.queue` in `data`, a folder that is made
    /// where there is none. Nobody is waited for: a receiver that is not there is tried again.
    ///
    /// # Errors
    /// A configuration that cannot be, or a queue that cannot be opened.
    pub fn open(configs: &[SinkConfig], data: &Path, device: &Device) -> Result<Sinks, SinkError> {
        check(configs)?;
        let all = Sinks { sinks: RwLock::default(), data: data.into(), device: device.clone() };
        for config in configs {
            let sink = all.begin(config)?;
            all.change().push(sink);
        }
        Ok(all)
    }

    /// Hands an insight to every sink. It does not wait for any of them.
    pub fn push(&self, insight: &Insight) {
        self.push_weighed(insight);
    }

    /// The same; how many bytes of JSON it is.
    pub(crate) fn push_weighed(&self, insight: &Insight) -> usize {
        let json: Arc<str> = serde_json::to_string(insight).expect("an insight is JSON").into();
        self.look().iter().for_each(|sink| sink.push(insight.priority(), json.clone()));
        json.len()
    }

    /// How each sink is.
    pub fn counters(&self) -> Vec<SinkCounters> {
        self.look().iter().map(Sink::counters).collect()
    }

    /// Becomes the sinks of `configs`. Those that are the same go on; insights for those that begin wait until they have. A
    /// sink that cannot be opened is left out.
    ///
    /// # Errors
    /// Of each sink that is left out, why.
    pub fn reconfigure(&self, configs: &[SinkConfig]) -> Result<(), Vec<SinkError>> {
        check(configs).map_err(|error| vec![error])?;
        end(self.hold(configs));
        let errors: Vec<_> = configs.iter().filter_map(|config| self.fill(config).err()).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Holds what is for sinks that begin; those that are to end.
    fn hold(&self, configs: &[SinkConfig]) -> Vec<Sink> {
        let mut sinks = self.change();
        let mut before = std::mem::take(&mut *sinks);
        let after = configs.iter().map(|config| {
            let same = before.iter().position(|sink| sink.config == *config);
            same.map_or_else(|| Sink::held(config), |at| before.swap_remove(at))
        });
        *sinks = after.collect();
        before
    }

    /// Opens the sink that is held, and gives it what waited for it.
    fn fill(&self, config: &SinkConfig) -> Result<(), SinkError> {
        let is_held = |sink: &Sink| sink.config == *config && matches!(sink.way, Way::Held(_));
        if !self.look().iter().any(is_held) {
            return Ok(());
        }
        let opened = self.begin(config);
        let mut sinks = self.change();
        let at = sinks.iter().position(is_held).expect("nobody else changes sinks");
        let held = sinks.remove(at);
        let sink = opened?;
        held.hand_on(&sink);
        sinks.insert(at, sink);
        Ok(())
    }

    fn begin(&self, config: &SinkConfig) -> Result<Sink, SinkError> {
        open(config, &self.data, &self.device)
    }

    fn look(&self) -> RwLockReadGuard<'_, Vec<Sink>> {
        self.sinks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Vec<Sink>> {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is only in memory, says good-bye to receivers, and ends, within a second. What is not delivered waits in
    /// its file for the next start.
    pub fn close(&self) {
        let sinks = std::mem::take(&mut *self.change());
        end(sinks);
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends sinks, and waits for them as long as it may.
fn end(sinks: Vec<Sink>) {
    sinks.iter().for_each(Sink::stop);
    let begun = Instant::now();
    let threads: Vec<_> = sinks.into_iter().flat_map(|sink| sink.threads).collect();
    while begun.elapsed() < CLOSING && threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Sink {
    fn held(config: &SinkConfig) -> Sink {
        let way = Way::Held(Mutex::new(Handover::new(HELD.0, HELD.1)));
        Sink { config: config.clone(), way, stop: Arc::default(), threads: Vec::new() }
    }

    fn push(&self, priority: Priority, json: Arc<str>) {
        match &self.way {
            Way::Queued(queue) => queue.push(priority, json),
            Way::Printed(lines) => lines.push(priority, json),
            Way::Held(held) => held.lock().unwrap_or_else(PoisonError::into_inner).push(priority, json),
        }
    }

    /// Gives what it holds to another sink.
    fn hand_on(&self, to: &Sink) {
        let Way::Held(held) = &self.way else { return };
        for slot in held.lock().unwrap_or_else(PoisonError::into_inner).take(usize::MAX) {
            match (slot, &to.way) {
                (Slot::Insight(priority, json), _) => to.push(priority, json),
                (slot @ Slot::Dropped(_), Way::Queued(queue)) => queue.put(slot),
                (slot @ Slot::Dropped(_), Way::Printed(lines)) => lines.put(slot),
                (Slot::Dropped(_), Way::Held(_)) => {}
            }
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        match &self.way {
            Way::Queued(queue) => queue.wake(),
            Way::Printed(lines) => lines.wake(),
            Way::Held(_) => {}
        }
    }

    fn counters(&self) -> SinkCounters {
        let (name, kind) = (self.config.name().to_owned(), self.config.kind());
        let state = |trouble: String| if trouble.is_empty() { "ok".to_owned() } else { trouble };
        match &self.way {
            Way::Queued(queue) => {
                let f = queue.figures();
                SinkCounters {
                    name,
                    kind,
                    state: state(f.trouble),
                    delivered: f.delivered,
                    waiting: f.waiting,
                    waiting_bytes: f.waiting_bytes,
                    dropped: f.dropped,
                    rejected: f.rejected,
                    failures: f.failures,
                    renewals: f.renewals,
                    sent_bytes: f.sent_bytes,
                }
            }
            Way::Printed(lines) => {
                let (waiting, delivered, dropped, trouble) = lines.figures();
                let state = state(trouble);
                SinkCounters { name, kind, state, delivered, waiting, dropped, ..SinkCounters::default() }
            }
            Way::Held(held) => {
                let (waiting, dropped) = held.lock().unwrap_or_else(PoisonError::into_inner).counts();
                let state = "opens".to_owned();
                SinkCounters { name, kind, state, waiting, dropped, ..SinkCounters::default() }
            }
        }
    }
}

/// Every sink, and that no two have one name, which is also their file's.
pub(crate) fn check(configs: &[SinkConfig]) -> Result<(), SinkError> {
    let mut names = BTreeSet::new();
    for config in configs {
        config.validate()?;
        if !names.insert(config.name()) {
            return Err(SinkError::config(config.name(), "name", "there is another sink of this name"));
        }
    }
    Ok(())
}

fn open(config: &SinkConfig, data: &Path, device: &Device) -> Result<Sink, SinkError> {
    let (name, stop) = (config.name(), Arc::<AtomicBool>::default());
    let sink = |way, threads| Sink { config: config.clone(), way, stop: stop.clone(), threads };
    let failed = |e: std::io::Error| SinkError::new(name, e);
    let Some(limits) = config.limits() else {
        let lines = Lines::new(stop.clone());
        let thread = lines.start(name, Box::new(std::io::stdout())).map_err(failed)?;
        return Ok(sink(Way::Printed(lines), vec![thread]));
    };
    let receiver = receiver(config, device, &stop)?;
    std::fs::create_dir_all(data).map_err(|e| SinkError::new(name, format!("{}: {e}", data.display())))?;
    let storage = Sqlite::open(&data.join(format!("{name}.queue")), device);
    let outbox = storage.and_then(|storage| Outbox::open(storage, device.clone(), limits));
    let outbox = outbox.map_err(|e| SinkError::new(name, e))?;
    let queue = Queue::new(name, outbox, stop.clone());
    let threads = queue.start(receiver).map_err(failed)?.into();
    Ok(sink(Way::Queued(queue), threads))
}

fn receiver(
    config: &SinkConfig,
    device: &Device,
    stop: &Arc<AtomicBool>,
) -> Result<Box<dyn Receiver>, SinkError> {
    let (name, device, stop) = (config.name(), device.clone(), stop.clone());
    let megabytes = |count: u64| count * 1_000_000;
    Ok(match config {
        SinkConfig::Hub(c) => {
            let broker = Broker::new(name, &c.broker, &c.ca, &c.certificate, &c.key)?;
            Box::new(mqtt::Hub::new(broker, device, stop))
        }
        SinkConfig::Mqtt(c) => {
            let broker = Broker::new(name, &c.broker, &c.ca, &c.certificate, &c.key)?;
            let (topic, home_assistant) = (c.topic.clone(), c.home_assistant.clone());
            Box::new(mqtt::Subscribers::new(broker, device, name, topic, home_assistant, stop))
        }
        SinkConfig::Webhook(c) => {
            let authorization = c.authorization.as_ref().map(|text| address(name, "authorization", text));
            Box::new(webhook::Webhook::new(address(name, "url", &c.url)?, authorization.transpose()?))
        }
        SinkConfig::Folder(c) => Box::new(folder::Folder::new(
            c.path.clone(),
            c.samples.clone(),
            megabytes(c.file_megabytes),
            megabytes(c.max_megabytes),
            megabytes(c.samples_megabytes),
        )),
        SinkConfig::Stdout(_) => return Err(SinkError::new(name, "standard output has no queue")),
    })
}

#[cfg(test)]
mod tests {
    use espalier_wire::Kind;

    use super::*;

    fn insight(number: u64) -> Insight {
        let kind = Kind::Health { source: "streaming".into(), counters: Default::default() };
        Insight { pipeline: "p".into(), time_ms: number, kind }
    }

    fn config(text: &str) -> SinkConfig {
        toml::from_str(text).unwrap()
    }

    /// Nobody is there, and pushing does not wait; what is handed over is in the file after closing, which takes no second.
    #[test]
    fn what_nobody_takes_waits_for_the_next_start() {
        let scratch = tempfile::tempdir().unwrap();
        // Port 9 of this machine discards, where anybody listens at all.
        let configs = [config("type = \"hub\"\nbroker = \"mqtt://127.0.0.1:9\"\nqueue_messages = 1000")];
        let device = "gate".parse().unwrap();
        let sinks = Sinks::open(&configs, scratch.path(), &device).unwrap();
        (0..700).for_each(|number| sinks.push(&insight(number)));
        let begun = Instant::now();
        sinks.close();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let sinks = Sinks::open(&configs, scratch.path(), &device).unwrap();
        let counters = &sinks.counters()[0];
        assert_eq!((counters.waiting, counters.dropped.total(), counters.kind), (700, 0, "hub"));
    }

    #[test]
    fn two_sinks_of_one_name_are_refused() {
        let configs =
            [config("type = \"stdout\""), config("type = \"folder\"\npath = \"x\"\nname = \"stdout\"")];
        let scratch = tempfile::tempdir().unwrap();
        let error = Sinks::open(&configs, scratch.path(), &"gate".parse().unwrap()).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "sink stdout: name: there is another sink of this name");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing was opened");
    }
}
