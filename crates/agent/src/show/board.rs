//! What a stream showed last.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use espalier_tasks::{Answer, Image};
use serde_json::{Map, Value, json};

use crate::tally::Tally;

/// A picture that is older is no longer shown as live.
pub(super) const STALE: Duration = Duration::from_secs(1);

/// A frame with its answer.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The frame's number.
    pub number: u64,
    /// Its picture, nothing drawn in; a row of a series has none.
    pub image: Option<Image>,
    /// What the network says.
    pub answer: Answer,
    /// Time of the answer, in milliseconds.
    pub inference_ms: f64,
    /// Time from the frame's last byte to its answer, in milliseconds.
    pub latency_ms: f64,
    /// When the frame's last byte was here.
    pub captured: Instant,
}

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has not given a frame yet.
    Waiting,
    /// It gives frames.
    Live,
    /// It fails, and is tried again.
    Failing,
    /// Nothing follows.
    Ended,
}

impl Health {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Health::Waiting => "waiting",
            Health::Live => "live",
            Health::Failing => "failing",
            Health::Ended => "ended",
        }
    }
}

#[derive(Default)]
struct State {
    package: String,
    labels: Arc<Vec<String>>,
    shot: Option<Arc<Shot>>,
    tally: Tally,
    trouble: Option<String>,
    refusal: Option<String>,
    health: Option<Health>,
    /// Counts changes.
    version: u64,
}

/// Holds what a stream showed last, and counts. Putting something on it costs nothing worth mentioning: pictures are drawn
/// and encoded by the threads of those who look, as often as they look.
pub struct Board {
    title: String,
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    /// An empty board: what the source, the package and its classes are called.
    pub fn new(source: String, package: String, labels: Vec<String>) -> Arc<Board> {
        let state = State { package, labels: Arc::new(labels), ..State::default() };
        Arc::new(Board { title: source, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// What the source is called.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What the package is called.
    pub fn package(&self) -> String {
        self.state().package.clone()
    }

    /// Another package answers from now on.
    pub fn replaced(&self, package: String, labels: Vec<String>) {
        self.change(|state| (state.package, state.labels, state.refusal) = (package, Arc::new(labels), None));
    }

    /// A package was refused; the one before goes on.
    pub fn refused(&self, why: String) {
        self.change(|state| state.refusal = Some(why));
    }

    /// Why the last package was refused, where it was.
    pub fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }

    /// Shows a frame with its answer.
    pub fn shot(&self, shot: Shot) {
        self.change(|state| {
            (state.shot, state.trouble, state.health) = (Some(Arc::new(shot)), None, Some(Health::Live));
        });
    }

    /// A frame is broken.
    pub fn fault(&self, text: &str) {
        self.change(|state| (state.trouble, state.health) = (Some(text.to_owned()), Some(Health::Live)));
    }

    /// The source fails.
    pub fn failing(&self, text: &str) {
        self.change(|state| (state.trouble, state.health) = (Some(text.to_owned()), Some(Health::Failing)));
    }

    /// Nothing follows.
    pub fn ended(&self, trouble: Option<String>) {
        self.change(|state| (state.trouble, state.health) = (trouble, Some(Health::Ended)));
    }

    /// How the source is.
    pub fn health(&self) -> Health {
        self.state().health.unwrap_or(Health::Waiting)
    }

    /// What is wrong with the source or its last frame, where something is.
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Time since the frame that is shown was there.
    pub fn age(&self) -> Option<Duration> {
        self.state().shot.as_ref().map(|shot| shot.captured.elapsed())
    }

    /// Reads or changes the counts.
    pub fn tally<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.state().tally)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.version += 1;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest frame.
    pub(super) fn latest(&self) -> Option<Arc<Shot>> {
        self.state().shot.clone()
    }

    /// The frame of a change after `version` and the number of that change; `None` where nothing changed within `patience`.
    pub(super) fn newer(&self, version: u64, patience: Duration) -> Option<(u64, Option<Arc<Shot>>)> {
        let same = |state: &mut State| state.version == version;
        let waited = self.changed.wait_timeout_while(self.state(), patience, same);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| (state.version, state.shot.clone()))
    }

    /// Everything but the picture.
    pub(crate) fn figures(&self) -> Value {
        let state = self.state();
        let State { tally, health, .. } = &*state;
        let mut figures = Map::new();
        if let Some(shot) = &state.shot {
            figures = shot.answer.fields(&state.labels);
            figures.insert("frame".into(), shot.number.into());
            figures.insert("ms".into(), round(shot.inference_ms).into());
            figures.insert("latency_ms".into(), round(shot.latency_ms).into());
            figures.insert("age_ms".into(), round(shot.captured.elapsed().as_secs_f64() * 1e3).into());
        }
        let counts = &tally.counts;
        let counts = json!({
            "fps": round(tally.fps()), "seen": counts.seen(), "processed": counts.processed, "skipped": counts.skipped,
            "broken": counts.broken, "trouble": state.trouble, "ended": *health == Some(Health::Ended),
            "source": health.unwrap_or(Health::Waiting).word(), "package": state.package, "refused": state.refusal,
        });
        figures.extend(counts.as_object().cloned().unwrap_or_default());
        figures.into()
    }
}

pub(crate) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
