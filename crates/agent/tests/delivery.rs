//! Insights through a real broker into the hub's database, while everything on the way is killed.

mod broker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, eventually, hub_options, insight, mosquitto, number};
use espalier_agent::{SinkConfig, Sinks};
use espalier_hub::{Ingest, Ledger};
use espalier_wire::mqtt::{Options, Publication};
use espalier_wire::{Counts, Device, Dropped, Epoch};

/// Says what a child of this test is to do.
const ROLE: &str = "ESPALIER_TEST_ROLE";

fn device() -> Device {
    "gate-7".parse().unwrap()
}

fn config(text: &str) -> SinkConfig {
    let config: SinkConfig = toml::from_str(text).unwrap();
    config.validate().unwrap();
    config
}

/// This program again, to do nothing but `role`.
fn child(role: &str, folder: &Path, port: u16) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env(ROLE, role);
    command.env("ESPALIER_TEST_FOLDER", folder).env("ESPALIER_TEST_PORT", port.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Not a test: what children of the tests below do, until they are killed.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(std::env::var("ESPALIER_TEST_FOLDER").unwrap());
    let port: u16 = std::env::var("ESPALIER_TEST_PORT").unwrap().parse().unwrap();
    match role.as_str() {
        "hub" => {
            let mut ingest = Ingest::new(Ledger::open(&folder.join("hub.db")).unwrap());
            ingest.serve(&hub_options(port), &Arc::default(), &mut |_| {});
        }
        "publish" | "drain" => {
            let text = format!("type = \"hub\"\nbroker = \"mqtt://127.0.0.1:{port}\"\nqueue_messages = 2000");
            let sinks = Sinks::open(&[config(&text)], &folder, &device()).unwrap();
            // Numbers ascend over all lives of the process.
            let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let first = begun.as_millis() as u64 * 1000;
            if role == "drain" {
                let empty = || sinks.counters()[0].waiting == 0;
                return eventually("the queue is empty", Duration::from_secs(150), empty);
            }
            for number in 0.. {
                sinks.push(&insight(first + number));
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        other => panic!("{other} is no role"),
    }
}

/// What a dead process left in its queue.
struct Left {
    epoch: Epoch,
    next: u64,
    insights: BTreeMap<u64, String>,
    dropped: Vec<Dropped>,
}

/// None where it died before there was one.
fn queue(path: &Path) -> Option<Left> {
    if !path.exists() {
        return None;
    }
    let file = rusqlite::Connection::open(path).unwrap();
    let head = file.query_row("SELECT epoch, next FROM queue", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (epoch, next): (i64, u64) = match head {
        Err(error) if error.to_string().contains("no such table") => return None,
        head => head.unwrap(),
    };
    let mut insights = file.prepare("SELECT sequence, json FROM insights").unwrap();
    let insights = insights.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let mut dropped = file.prepare("SELECT first, last, low, normal, high FROM dropped").unwrap();
    let dropped = dropped.query_map([], |row| {
        let counts = Counts { low: row.get(2)?, normal: row.get(3)?, high: row.get(4)? };
        Ok(Dropped { first: row.get(0)?, last: row.get(1)?, counts })
    });
    let dropped = dropped.unwrap().map(Result::unwrap).collect();
    let insights = insights.map(Result::unwrap).collect();
    Some(Left { epoch: Epoch(epoch as u64), next, insights, dropped })
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Done-when 3: 200 kills while publishing.
#[test]
fn what_was_committed_arrives_exactly_once_though_everything_is_killed() {
    let Some(program) = mosquitto("kills while publishing through a broker") else { return };
    let heavy = espalier_testing::heavy("200 kills while publishing, in place of 12");
    let kills = if heavy { 200 } else { 12 };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let mut broker = Broker::start(&program, folder, "");
    let mut hub = child("hub", folder, broker.port);
    let (mut committed, mut restarts, mut full) = (BTreeMap::new(), (0, 0), 0);
    for round in 0..kills {
        let publisher = child("publish", folder, broker.port);
        std::thread::sleep(Duration::from_millis(150 + (round * 137) % 450));
        if round % 4 == 1 {
            restarts.0 += 1;
            broker.kill();
            // Long enough for the queue to be full now and then.
            std::thread::sleep(Duration::from_millis(if round % 8 == 1 { 3000 } else { 100 }));
            broker.restart();
        }
        if round % 5 == 2 {
            restarts.1 += 1;
            kill(hub);
            hub = child("hub", folder, broker.port);
        }
        kill(publisher);
        if let Some(left) = queue(&folder.join("hub.queue")) {
            committed.extend(left.insights);
            full += left.dropped.len();
        }
    }
    let drained = child("drain", folder, broker.port).wait().unwrap();
    assert!(drained.success(), "the queue does not become empty");
    let Left { epoch, next, insights, dropped } = queue(&folder.join("hub.queue")).expect("a queue");
    assert_eq!((insights.len(), dropped.len()), (0, 0), "insights and stretches that are left");
    kill(hub);
    let ledger = Ledger::open(&folder.join("hub.db")).unwrap();
    assert_eq!(ledger.queues().unwrap(), [(device(), epoch)], "one queue, never made anew");
    let account = ledger.account(&device(), epoch).unwrap();
    println!(
        "{kills} kills, {} of the broker, {} of the hub: {account:?}, {full} stretches seen",
        restarts.0, restarts.1
    );
    assert_eq!(account.upto, next - 1, "every number that was given is accounted for");
    assert_eq!(account.upto, account.received + account.dropped.total(), "received + dropped = produced");
    assert_eq!(account.missing, 0);
    assert!(account.received > kills, "something was published");
    let stored: BTreeMap<u64, String> = ledger.insights(&device(), epoch).unwrap().into_iter().collect();
    assert_eq!(stored.len() as u64, account.received);
    let numbers: Vec<u64> = stored.values().map(|json| number(json)).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, and none twice");
    for (sequence, json) in &committed {
        let arrived = stored.get(sequence);
        assert!(arrived.is_none_or(|arrived| arrived == json), "{sequence}: {arrived:?} is not {json}");
    }
    let absent = committed.keys().filter(|sequence| !stored.contains_key(sequence)).count() as u64;
    assert!(absent <= account.dropped.total(), "{absent} that were committed are neither there nor dropped");
}

/// Plain MQTT: at least once, each with a key.
#[test]
fn subscribers_get_everything_at_least_once_with_a_key() {
    let Some(program) = mosquitto("subscribers of a plain broker") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(&program, scratch.path(), "");
    let port = broker.port;
    let text = format!(
        "type = \"mqtt\"\nbroker = \"mqtt://127.0.0.1:{port}\"\nhome_assistant = \"homeassistant\"\ntopic = \"site/a\""
    );
    let connect = |filters: &[&str]| {
        let options = Options { client_id: format!("test-{}", filters[0].len()), ..hub_options(port) };
        let mut client = espalier_wire::mqtt::Client::connect(&options, Arc::default()).unwrap();
        filters.iter().for_each(|filter| client.subscribe(filter).unwrap());
        client
    };
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut others: BTreeMap<String, String> = BTreeMap::new();
    for life in 0..4 {
        let mut subscriber = connect(&["site/a/#", "homeassistant/#"]);
        let sinks = Sinks::open(&[config(&text)], scratch.path(), &device()).unwrap();
        if life == 2 {
            // The connection of the sink breaks. Whoever listens is there again before anything is said.
            broker.restart();
            subscriber = connect(&["site/a/#", "homeassistant/#"]);
        }
        (0..50).for_each(|number| sinks.push(&insight(life * 50 + number)));
        let wanted = (life + 1) * 50;
        let begun = Instant::now();
        while (seen.len() as u64) < wanted {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} of {wanted}: {:?}",
                seen.len(),
                sinks.counters()
            );
            let event = subscriber.poll(Duration::from_millis(100)).unwrap();
            let Some(espalier_wire::mqtt::Event::Message { topic, payload }) = event else { continue };
            match espalier_wire::Message::from_json(&payload) {
                Ok(message) => {
                    let number = number(message.entry.insight.get());
                    let old = seen.insert(message.key(), number);
                    assert!(old.is_none_or(|old| old == number), "a key is of one insight");
                    assert!(topic.starts_with("site/a/gate-7/door/"), "{topic}");
                }
                Err(_) => drop(others.insert(topic, String::from_utf8(payload).unwrap())),
            }
        }
        sinks.close();
    }
    let numbers: Vec<u64> =
        seen.values().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    let announced: Vec<_> = others.keys().filter(|topic| topic.starts_with("homeassistant/")).collect();
    assert_eq!(announced.len(), 2, "the event and the health: {announced:?}");
    let config: serde_json::Value = serde_json::from_str(&others[announced[0]]).unwrap();
    assert_eq!(config["state_topic"], "site/a/gate-7/door/event/person");
    // What is retained tells a later subscriber that the device has gone.
    let mut late = connect(&["site/a/gate-7/status"]);
    let status = std::iter::from_fn(|| late.poll(Duration::from_secs(5)).unwrap());
    let status = status.filter_map(|event| match event {
        espalier_wire::mqtt::Event::Message { payload, .. } => Some(payload),
        _ => None,
    });
    assert_eq!(status.into_iter().next().as_deref(), Some(&b"offline"[..]));
}

/// A process that is killed says so by its will.
#[test]
fn the_will_says_that_a_device_is_gone() {
    let Some(program) = mosquitto("the will of a device") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let broker = Broker::start(&program, scratch.path(), "");
    let will =
        Publication { topic: "w".into(), payload: b"gone".to_vec(), acknowledged: true, retained: false };
    let mut watcher =
        espalier_wire::mqtt::Client::connect(&hub_options(broker.port), Arc::default()).unwrap();
    watcher.subscribe("w").unwrap();
    let options = Options { will: Some(will), client_id: "mortal".into(), ..hub_options(broker.port) };
    drop(espalier_wire::mqtt::Client::connect(&options, Arc::default()).unwrap());
    eventually("the will is published", Duration::from_secs(10), || {
        let event = watcher.poll(Duration::from_millis(100)).unwrap();
        matches!(event, Some(espalier_wire::mqtt::Event::Message { payload, .. }) if payload == b"gone")
    });
}
