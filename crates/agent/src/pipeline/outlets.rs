//! Where insights go.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use espalier_wire::Insight;

use crate::log::{Level, Seldom, event};

/// Takes insights away. It hands them over, to a queue of its own or another thread, and never waits for a network.
pub trait Outlet: Send + Sync {
    /// Takes an insight.
    ///
    /// # Errors
    /// Why it is lost; the pipeline goes on.
    fn push(&self, insight: &Insight) -> Result<(), String>;

    /// Bytes that have left the device by it.
    fn sent_bytes(&self) -> u64;
}

/// All outlets of a pipeline.
pub(crate) struct Outlets {
    name: String,
    all: Vec<Box<dyn Outlet>>,
    losses: Mutex<Seldom>,
}

impl Outlets {
    pub(crate) fn new(name: &str, all: Vec<Box<dyn Outlet>>) -> Outlets {
        Outlets { name: name.into(), all, losses: Mutex::new(Seldom::new(Duration::from_secs(60))) }
    }

    pub(crate) fn push(&self, insight: &Insight) {
        for outlet in &self.all {
            if let Err(why) = outlet.push(insight)
                && let Ok(mut losses) = self.losses.lock()
                && let Some(text) = losses.pass(&format!("an insight is lost: {why}"), Instant::now())
            {
                event(Level::Error, &self.name, text);
            }
        }
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.all.iter().map(|outlet| outlet.sent_bytes()).sum()
    }
}
