//! MLflow: parameters, metrics of every epoch and the package, logged to a tracking server.
//!
//! A thread of its own does the talking. The run hands it rows and never waits for it, but for a short while at its very
//! end. A server that is away, slow or odd costs one warning; the rows wait, at most `WAITING_MAX` of them, and what
//! was lost is sent again from the history when the run ends. Rows are delivered in order, so one number says how far the
//! server is: a resumed run asks for it and goes on from there, in the same MLflow run.

mod client;
mod server;
mod session;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Observer;
use crate::checkpoint::Epoch;
use crate::event::Event;
use crate::run_folder::RunFolder;
use session::Session;

pub use server::{Patience, Server};
pub(crate) use session::IDENTITY;

/// Rows that wait for the server at most.
const WAITING_MAX: usize = 1000;

/// Bytes of an artefact for which the server gets one more second.
const BYTES_PER_SECOND: u64 = 250_000;

/// Logs a run to an MLflow server.
pub struct Mlflow {
    server: Server,
    folder: PathBuf,
    shared: Arc<Shared>,
    started: bool,
}

impl Mlflow {
    /// To `server`, a run that is kept in `folder`. The first request is made when the run starts.
    pub fn new(server: Server, folder: &RunFolder) -> Self {
        Mlflow { server, folder: folder.path().into(), shared: Arc::default(), started: false }
    }

    fn start(&mut self, parameters: Vec<(String, String)>, history: &[Epoch]) {
        let session = Session::new(self.server.clone(), &self.folder, parameters);
        let (shared, patience) = (self.shared.clone(), self.server.patience);
        shared.lock().rows = rows(history).collect();
        self.started = true;
        thread::spawn(move || shared.work(session, patience));
    }

    /// Hands over what is left, and waits until it is delivered or the time for it is over.
    fn end(&mut self, end: End) {
        let bytes: u64 = end.artefacts.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
        let limit = self.server.patience.last + Duration::from_secs(bytes / BYTES_PER_SECOND);
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.end = Some(end);
        self.shared.changed.notify_all();
        while !state.done && Instant::now() < until {
            state = self.shared.wait(state, until);
        }
        if !state.done {
            let text = format!("MLflow: {} did not answer within {} s", self.server.url, limit.as_secs());
            state.warnings.push(format!("{text}; it may lack the last epochs and files of this run"));
        }
    }
}

impl Observer for Mlflow {
    fn observe(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Started { subject, history, .. } => {
                let mut parameters = subject.settings();
                parameters.push(("data".into(), subject.name().into()));
                parameters.push(("espalier".into(), env!("CARGO_PKG_VERSION").into()));
                self.start(parameters, history);
            }
            Event::Epoch { row, .. } => self.shared.push(Row::new(row)),
            Event::Ended { outcome, history, .. } if self.started => {
                self.started = false;
                let artefacts = ["best.espalier", "report.html"].map(|name| self.folder.join(name)).to_vec();
                let note = outcome.verdict.text.clone();
                self.end(End { status: "FINISHED", rows: rows(history).collect(), artefacts, note });
            }
            _ => {}
        }
        Ok(())
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().warnings)
    }
}

impl Drop for Mlflow {
    /// A run that failed says so.
    fn drop(&mut self) {
        if self.started {
            let (rows, artefacts, note) = (Vec::new(), Vec::new(), String::new());
            self.end(End { status: "FAILED", rows, artefacts, note });
        }
    }
}

/// Metrics of one epoch, and when they were measured.
#[derive(Clone)]
struct Row {
    epoch: usize,
    time_ms: u64,
    metrics: Vec<(String, f64)>,
}

impl Row {
    fn new(epoch: &Epoch) -> Row {
        let train = [
            ("lr", Some(epoch.lr)),
            ("train_accuracy", epoch.train_accuracy),
            ("train_loss", Some(epoch.train_loss)),
        ];
        let train = train.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
        let val = epoch.val.iter().map(|(name, value)| (format!("val_{name}"), *value));
        Row { epoch: epoch.epoch, time_ms: now_ms(), metrics: train.chain(val).collect() }
    }
}

fn rows(history: &[Epoch]) -> impl Iterator<Item = Row> {
    history.iter().map(Row::new)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}

/// The last that is delivered.
struct End {
    status: &'static str,
    /// All of the run's; those that the server has are not sent again.
    rows: Vec<Row>,
    artefacts: Vec<PathBuf>,
    note: String,
}

/// What run and thread have in common.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rows: VecDeque<Row>,
    end: Option<End>,
    warnings: Vec<String>,
    done: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    fn push(&self, row: Row) {
        let mut state = self.lock();
        if state.rows.len() == WAITING_MAX {
            state.rows.pop_front();
        }
        state.rows.push_back(row);
        self.changed.notify_all();
    }

    fn warn(&self, text: String) {
        self.lock().warnings.push(text);
    }

    /// The thread: delivers rows as they come, then the end.
    fn work(&self, mut session: Session, patience: Patience) {
        let mut pause = patience.first_pause;
        let mut answers = true;
        loop {
            let rows: Vec<Row> = self.lock().rows.iter().cloned().collect();
            match session.deliver(&rows) {
                Ok(()) => {
                    self.lock().rows.retain(|row| row.epoch > session.delivered());
                    (pause, answers) = (patience.first_pause, true);
                    if self.idle() {
                        break;
                    }
                }
                Err(fault) => {
                    if answers {
                        self.warn(format!("MLflow: {fault}; training goes on, and it will be tried again"));
                    }
                    answers = false;
                    if self.rest(pause) {
                        break;
                    }
                    pause = (pause * 2).min(patience.longest_pause);
                }
            }
        }
        self.finish(session);
    }

    /// Waits for something to do; whether it is the end.
    fn idle(&self) -> bool {
        let mut state = self.lock();
        while state.rows.is_empty() && state.end.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.end.is_some()
    }

    /// Waits for `pause`, but not beyond the end; whether it has come.
    fn rest(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while state.end.is_none() && Instant::now() < until {
            state = self.wait(state, until);
        }
        state.end.is_some()
    }

    /// What is left, and what of it could not be delivered.
    fn finish(&self, mut session: Session) {
        let end = self.lock().end.take().expect("the end has come");
        let lacking = session.finish(&end);
        let mut state = self.lock();
        state.warnings.extend(lacking);
        state.done = true;
        self.changed.notify_all();
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
