//! A real Mosquitto for a test, and what tests of sinks share.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use espalier_wire::mqtt::Options;
use espalier_wire::{Insight, Kind, MAX_BATCH_BYTES, State};

/// Where Mosquitto is; where it is not, the test says that it skipped `what`.
pub(crate) fn mosquitto(what: &str) -> Option<PathBuf> {
    let found = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find(|path| {
        Command::new(path).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    if found.is_none() {
        espalier_testing::skip(&format!("{what} (mosquitto is not installed)"));
    }
    found.map(PathBuf::from)
}

/// How the hub reads a broker.
pub(crate) fn hub_options(port: u16) -> Options {
    Options {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        client_id: "espalier-hub".into(),
        login: None,
        will: None,
        keep_alive: Duration::from_secs(5),
        max_packet_bytes: MAX_BATCH_BYTES as u32 + 1024,
        patience: Duration::from_secs(5),
    }
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A broker that dies with the test.
pub(crate) struct Broker {
    program: PathBuf,
    config: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Broker {
    /// One that keeps nothing when it ends; `more` goes into its configuration.
    pub(crate) fn start(program: &Path, folder: &Path, more: &str) -> Broker {
        let (port, config) = (free_port(), folder.join("mosquitto.conf"));
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n{more}\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut broker = Broker { program: program.into(), config, port, child: None };
        broker.restart();
        broker
    }

    /// Kills it, if it lives, and starts it anew.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let up = || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        eventually("the broker listens", Duration::from_secs(20), up);
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, patience: Duration, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An insight that can be told from all others; every third has the same priority.
pub(crate) fn insight(number: u64) -> Insight {
    let kind = match number % 3 {
        0 => Kind::Event {
            rule: "person".into(),
            state: State::Begins,
            label: None,
            confidence: None,
            count: Some(number),
            duration_ms: 0,
        },
        1 => Kind::Health { source: "streaming".into(), counters: Default::default() },
        _ => Kind::HardSample {
            reason: "random".into(),
            file: format!("{number}.jpg"),
            bytes: 1,
            answer: Default::default(),
        },
    };
    Insight { pipeline: "door".into(), time_ms: number, kind }
}

/// The number of such an insight.
pub(crate) fn number(json: &str) -> u64 {
    serde_json::from_str::<Insight>(json).unwrap().time_ms
}
