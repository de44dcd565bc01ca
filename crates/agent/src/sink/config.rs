//! What a configuration says about a sink.

use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_wire::Device;
use espalier_wire::mqtt::{Login, MAX_PACKET_BYTES, Options, Publication, Tls};
use serde::Deserialize;

use super::SinkError;
use crate::address::Address;
use crate::outbox::Limits;

/// Bytes of a megabyte, as disks are sold.
const MEGABYTE: u64 = 1_000_000;

/// Where insights go to: one `[[sink]]` of a configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SinkConfig {
    /// Espalier's hub: every insight exactly once, or its number among the dropped ones.
    Hub(HubConfig),
    /// Subscribers of any MQTT broker, Home Assistant among them: at least once.
    Mqtt(MqttConfig),
    /// A web server that takes each insight as a POST: at least once.
    Webhook(WebhookConfig),
    /// Files of JSON lines, and hard samples beside them: at least once.
    Folder(FolderConfig),
    /// Lines of JSON on standard output: as long as somebody reads them.
    Stdout(StdoutConfig),
}

/// How to reach a broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// The sink's name in logs and counters, and of its queue's file.
    #[serde(default = "hub")]
    pub name: String,
    /// The broker that the hub reads: `mqtts://user:${PASSWORD}@host:8883`, or `mqtt://` without TLS.
    pub broker: String,
    /// PEM file of the certificates that the broker's is signed by; without it those that browsers trust.
    pub ca: Option<PathBuf>,
    /// PEM file of this device's certificate chain, for brokers that ask for one.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// Insights that wait at most.
    #[serde(default = "queue_messages")]
    pub queue_messages: u64,
    /// Megabytes of JSON that wait at most.
    #[serde(default = "queue_megabytes")]
    pub queue_megabytes: u64,
}

/// How to tell subscribers of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The sink's name in logs and counters, and of its queue's file.
    #[serde(default = "mqtt")]
    pub name: String,
    /// The broker: `mqtts://user:${PASSWORD}@host:8883`, or `mqtt://` without TLS.
    pub broker: String,
    /// PEM file of the certificates that the broker's is signed by; without it those that browsers trust.
    pub ca: Option<PathBuf>,
    /// PEM file of this device's certificate chain, for brokers that ask for one.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// What all topics begin with.
    #[serde(default = "topic")]
    pub topic: String,
    /// The discovery prefix of Home Assistant (by itself `homeassistant`); without it nothing is announced.
    pub home_assistant: Option<String>,
    /// Insights that wait at most.
    #[serde(default = "queue_messages")]
    pub queue_messages: u64,
    /// Megabytes of JSON that wait at most.
    #[serde(default = "queue_megabytes")]
    pub queue_megabytes: u64,
}

/// How to tell a web server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The sink's name in logs and counters, and of its queue's file.
    #[serde(default = "webhook")]
    pub name: String,
    /// `https://user:${PASSWORD}@host/path`, or `http://` without TLS.
    pub url: String,
    /// The header `Authorization`, such as `Bearer ${TOKEN}`.
    pub authorization: Option<String>,
    /// Insights that wait at most.
    #[serde(default = "queue_messages")]
    pub queue_messages: u64,
    /// Megabytes of JSON that wait at most.
    #[serde(default = "queue_megabytes")]
    pub queue_megabytes: u64,
}

/// How to keep insights in files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The sink's name in logs and counters, and of its queue's file.
    #[serde(default = "folder")]
    pub name: String,
    /// The folder, which is made where there is none.
    pub path: PathBuf,
    /// Megabytes of a file, before the next one is begun.
    #[serde(default = "file_megabytes")]
    pub file_megabytes: u64,
    /// Megabytes of all files; the oldest are deleted.
    #[serde(default = "max_megabytes")]
    pub max_megabytes: u64,
    /// Folders of hard samples (`folder` of a pipeline's samples): copies of theirs are kept in `samples` here.
    #[serde(default)]
    pub samples: Vec<PathBuf>,
    /// Megabytes of these copies; the oldest are deleted.
    #[serde(default = "samples_megabytes")]
    pub samples_megabytes: u64,
    /// Insights that wait at most.
    #[serde(default = "queue_messages")]
    pub queue_messages: u64,
    /// Megabytes of JSON that wait at most.
    #[serde(default = "queue_megabytes")]
    pub queue_megabytes: u64,
}

/// How to print insights.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {
    /// The sink's name in logs and counters.
    #[serde(default = "stdout")]
    pub name: String,
}

fn hub() -> String {
    "hub".into()
}
fn mqtt() -> String {
    "mqtt".into()
}
fn webhook() -> String {
    "webhook".into()
}
fn folder() -> String {
    "folder".into()
}
fn stdout() -> String {
    "stdout".into()
}
fn topic() -> String {
    "espalier".into()
}
fn queue_messages() -> u64 {
    50_000
}
fn queue_megabytes() -> u64 {
    32
}
fn file_megabytes() -> u64 {
    10
}
fn max_megabytes() -> u64 {
    100
}
fn samples_megabytes() -> u64 {
    100
}

impl SinkConfig {
    /// The sink's name.
    pub fn name(&self) -> &str {
        match self {
            SinkConfig::Hub(c) => &c.name,
            SinkConfig::Mqtt(c) => &c.name,
            SinkConfig::Webhook(c) => &c.name,
            SinkConfig::Folder(c) => &c.name,
            SinkConfig::Stdout(c) => &c.name,
        }
    }

    /// Its `type` in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            SinkConfig::Hub(_) => "hub",
            SinkConfig::Mqtt(_) => "mqtt",
            SinkConfig::Webhook(_) => "webhook",
            SinkConfig::Folder(_) => "folder",
            SinkConfig::Stdout(_) => "stdout",
        }
    }

    /// Takes relative paths from `folder`.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        let join = |path: &mut PathBuf| *path = folder.join(&*path);
        match self {
            SinkConfig::Hub(HubConfig { ca, certificate, key, .. })
            | SinkConfig::Mqtt(MqttConfig { ca, certificate, key, .. }) => {
                [ca, certificate, key].into_iter().flatten().for_each(join);
            }
            SinkConfig::Folder(c) => c.samples.iter_mut().chain([&mut c.path]).for_each(join),
            SinkConfig::Webhook(_) | SinkConfig::Stdout(_) => {}
        }
    }

    /// What its queue holds at most; none where it has no queue in a file.
    pub(super) fn limits(&self) -> Option<Limits> {
        let (count, megabytes) = match self {
            SinkConfig::Hub(c) => (c.queue_messages, c.queue_megabytes),
            SinkConfig::Mqtt(c) => (c.queue_messages, c.queue_megabytes),
            SinkConfig::Webhook(c) => (c.queue_messages, c.queue_megabytes),
            SinkConfig::Folder(c) => (c.queue_messages, c.queue_megabytes),
            SinkConfig::Stdout(_) => return None,
        };
        Some(Limits { count, bytes: megabytes.saturating_mul(MEGABYTE) })
    }

    /// Looks at what can be seen without opening anything.
    ///
    /// # Errors
    /// A value that cannot be, and what would be right.
    pub fn validate(&self) -> Result<(), SinkError> {
        let name = self.name();
        let wrong = |key: &str, what: String| Err(SinkError::config(name, key, &what));
        if name.parse::<Device>().is_err() {
            return wrong("name", format!("{name:?} is to be 1 to 64 letters, digits, '.', '_' and '-'"));
        }
        if let Some(limits) = self.limits() {
            let counts = 1..=10_000_000;
            if !counts.contains(&limits.count) {
                return wrong("queue_messages", format!("{} is to be 1 to 10000000", limits.count));
            }
            if !(MEGABYTE..=100_000 * MEGABYTE).contains(&limits.bytes) {
                return wrong("queue_megabytes", format!("{} is to be 1 to 100000", limits.bytes / MEGABYTE));
            }
        }
        match self {
            SinkConfig::Hub(c) => Broker::new(name, &c.broker, &c.ca, &c.certificate, &c.key).map(drop),
            SinkConfig::Mqtt(c) => {
                Broker::new(name, &c.broker, &c.ca, &c.certificate, &c.key)?;
                let prefixes = [("topic", Some(&c.topic)), ("home_assistant", c.home_assistant.as_ref())];
                for (key, prefix) in prefixes {
                    if let Some(prefix) = prefix.filter(|prefix| !is_prefix(prefix)) {
                        return wrong(
                            key,
                            format!("{prefix:?} is to be a topic without +, # and empty segments"),
                        );
                    }
                }
                Ok(())
            }
            SinkConfig::Webhook(c) => {
                let url = address(name, "url", &c.url)?;
                if !["http://", "https://"].iter().any(|scheme| url.url().starts_with(scheme)) {
                    return wrong("url", format!("{url} is to begin with https:// or http://"));
                }
                c.authorization.as_ref().map_or(Ok(()), |text| address(name, "authorization", text).map(drop))
            }
            SinkConfig::Folder(c) => {
                let sizes = [("file_megabytes", c.file_megabytes), ("max_megabytes", c.max_megabytes)];
                match sizes.iter().find(|(_, size)| !(1..=1_000_000).contains(size)) {
                    Some((key, size)) => wrong(key, format!("{size} is to be 1 to 1000000")),
                    None if c.samples_megabytes > 1_000_000 => {
                        wrong("samples_megabytes", format!("{} is to be 0 to 1000000", c.samples_megabytes))
                    }
                    None if c.file_megabytes > c.max_megabytes => wrong(
                        "file_megabytes",
                        format!("{} is to be at most max_megabytes, {}", c.file_megabytes, c.max_megabytes),
                    ),
                    None => Ok(()),
                }
            }
            SinkConfig::Stdout(_) => Ok(()),
        }
    }
}

fn is_prefix(text: &str) -> bool {
    let segment = |segment: &str| !segment.is_empty() && !segment.contains(['+', '#', '\0', '$']);
    text.len() <= 256 && text.split('/').all(segment)
}

/// An address in which `${NAME}` stands for a variable of the environment.
pub(super) fn address(sink: &str, key: &str, text: &str) -> Result<Address, SinkError> {
    Address::new(text, |name| std::env::var(name).ok())
        .map_err(|e| SinkError::config(sink, key, &e.to_string()))
}

/// A broker and how to log in there.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    host: String,
    port: u16,
    login: Option<Login>,
    tls: Option<Tls>,
}

impl Broker {
    pub(super) fn new(
        sink: &str,
        broker: &str,
        ca: &Option<PathBuf>,
        certificate: &Option<PathBuf>,
        key: &Option<PathBuf>,
    ) -> Result<Broker, SinkError> {
        let wrong = |key: &str, what: &str| SinkError::config(sink, key, what);
        let address = address(sink, "broker", broker)?;
        let (url, login) = address.credentials();
        let right = "is to be mqtts://host:8883, or mqtt://host:1883 without TLS";
        let bad = || wrong("broker", &format!("{address} {right}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (secure, usual) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(bad()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (rest, usual),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '?', '#']) {
            return Err(bad());
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("key", "it is needed beside certificate")),
            (None, Some(_)) => return Err(wrong("certificate", "it is needed beside key")),
        };
        if !secure && (ca.is_some() || identity.is_some()) {
            return Err(wrong(
                "broker",
                &format!("{address} is without TLS: ca, certificate and key are for mqtts://"),
            ));
        }
        let tls = secure.then(|| Tls { ca: ca.clone(), identity });
        let login = login.map(|(user, password)| Login { user, password });
        Ok(Broker { host: host.to_owned(), port, login, tls })
    }

    /// How to connect as `client_id`.
    pub(super) fn options(&self, client_id: String, will: Option<Publication>) -> Options {
        Options {
            host: self.host.clone(),
            port: self.port,
            tls: self.tls.clone(),
            client_id,
            login: self.login.clone(),
            will,
            keep_alive: Duration::from_secs(30),
            max_packet_bytes: MAX_PACKET_BYTES,
            patience: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SinkConfig, String> {
        let config: SinkConfig = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string()).map(|()| config)
    }

    #[test]
    fn what_is_wrong_is_said_with_key_value_and_what_would_be_right() {
        let check = |text: &str, fault: &str| match read(text) {
            Ok(_) => assert!(fault.is_empty(), "{text} is accepted"),
            Err(error) => assert!(!fault.is_empty() && error.contains(fault), "{text}: {error}"),
        };
        check(r#"{"type": "hub", "broker": "mqtts://a:b@host"}"#, "");
        check(r#"{"type": "hub", "broker": "mqtt://[::1]:1884"}"#, "");
        check(
            r#"{"type": "hub", "broker": "http://host"}"#,
            "broker: http://host is to be mqtts://host:8883",
        );
        check(r#"{"type": "hub", "broker": "mqtt://host:x"}"#, "mqtt://host:x is to be");
        check(r#"{"type": "hub", "broker": "mqtt://u:secret@host:x"}"#, "mqtt://u:***@host:x is to be");
        check(r#"{"type": "hub"}"#, "missing field `broker`");
        check(r#"{"type": "hub", "broker": "mqtt://h", "brokr": 1}"#, "unknown field `brokr`");
        check(
            r#"{"type": "hub", "broker": "mqtt://h", "ca": "a.pem"}"#,
            "ca, certificate and key are for mqtts://",
        );
        check(
            r#"{"type": "hub", "broker": "mqtts://h", "key": "a.pem"}"#,
            "certificate: it is needed beside key",
        );
        check(
            r#"{"type": "hub", "broker": "mqtt://h", "queue_messages": 0}"#,
            "queue_messages: 0 is to be 1 to",
        );
        check(
            r#"{"type": "hub", "broker": "mqtt://h", "queue_megabytes": 0}"#,
            "queue_megabytes: 0 is to be 1 to",
        );
        check(r#"{"type": "hub", "broker": "mqtt://${NOT_SET_ANYWHERE}"}"#, "NOT_SET_ANYWHERE is not set");
        check(r#"{"type": "mqtt", "broker": "mqtt://h", "home_assistant": "homeassistant"}"#, "");
        check(r#"{"type": "mqtt", "broker": "mqtt://h", "topic": "a/#"}"#, "topic: \"a/#\" is to be a topic");
        check(r#"{"type": "webhook", "url": "https://h/x"}"#, "");
        check(r#"{"type": "webhook", "url": "ftp://h/x"}"#, "url: ftp://h/x is to begin with https://");
        check(r#"{"type": "folder", "path": "x", "file_megabytes": 0}"#, "file_megabytes: 0 is to be 1 to");
        check(
            r#"{"type": "folder", "path": "x", "max_megabytes": 5}"#,
            "10 is to be at most max_megabytes, 5",
        );
        check(r#"{"type": "stdout", "name": "a/b"}"#, "sink a/b: name: \"a/b\" is to be");
        check(r#"{"type": "smtp"}"#, "unknown variant `smtp`");
    }

    /// The keys that the parser knows are those of the table in docs/messages.md.
    #[test]
    fn the_reference_has_every_key() {
        let text = include_str!("../../../../docs/messages.md");
        let (_, table) = text.split_once("| key | sinks | default | meaning |").expect("the table of keys");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
        for kind in ["hub", "mqtt", "webhook", "folder", "stdout"] {
            let is_for = |sinks: &str| match sinks {
                "all" => true,
                "all but stdout" => kind != "stdout",
                some => some.split(", ").any(|sink| sink == kind),
            };
            let rows = rows.iter().filter(|row| is_for(row[2]));
            let mut documented: Vec<&str> =
                rows.flat_map(|row| row[1].split(", ")).map(|key| key.trim_matches('`')).collect();
            let error = read(&format!(r#"{{"type": "{kind}", "no_such_key": 1}}"#)).unwrap_err();
            let (_, known) = error.split_once("expected").expect("the parser says what it knows");
            let mut known: Vec<&str> = known.split('`').skip(1).step_by(2).chain(["type"]).collect();
            documented.sort_unstable();
            known.sort_unstable();
            assert_eq!(documented, known, "{kind}: {error}");
        }
    }
}
