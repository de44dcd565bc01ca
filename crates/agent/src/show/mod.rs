//! What was seen last, for browsers of this machine.

mod http;
mod page;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use espalier_tasks::{Answer, Image};
use serde_json::{Map, Value, json};

use crate::tally::Tally;

/// The port where none is asked for and this one is free.
const PORT: u16 = 8484;
/// Connections at the same time; a browser keeps two open.
const CONNECTIONS: usize = 16;
/// Pictures, and figures, that a browser gets at most in a second.
const PICTURES_APART: Duration = Duration::from_millis(60);
const FIGURES_APART: Duration = Duration::from_millis(100);
/// Figures come at least that often, so that a page notices when a source is silent.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A frame with its answer.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The frame's number.
    pub number: u64,
    /// Its picture, nothing drawn in.
    pub image: Image,
    /// What the network says.
    pub answer: Answer,
    /// Time of the answer, in milliseconds.
    pub inference_ms: f64,
    /// Time from the frame's last byte to its answer, in milliseconds.
    pub latency_ms: f64,
    /// When the frame's last byte was here.
    pub captured: Instant,
}

#[derive(Default)]
struct State {
    shot: Option<Arc<Shot>>,
    tally: Tally,
    trouble: Option<String>,
    ended: bool,
    /// Counts changes.
    version: u64,
}

/// Holds what a stream showed last. Putting something on it costs nothing worth mentioning: pictures are drawn and encoded
/// by the threads of those who look, as often as they look.
pub struct Board {
    title: String,
    model: String,
    labels: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    /// An empty board: what the source, the model and its classes are called.
    pub fn new(source: String, model: String, labels: Vec<String>) -> Arc<Board> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Board { title: source, model, labels, state, changed })
    }

    /// Shows a frame with its answer.
    pub fn shot(&self, shot: Shot, tally: &Tally) {
        self.change(|state| {
            (state.shot, state.tally, state.trouble) = (Some(Arc::new(shot)), tally.clone(), None);
        });
    }

    /// Shows the counts of frames without an answer, and a sentence about the source.
    pub fn trouble(&self, text: &str, tally: &Tally) {
        self.change(|state| (state.trouble, state.tally) = (Some(text.to_owned()), tally.clone()));
    }

    /// Says that nothing follows.
    pub fn ended(&self, tally: &Tally) {
        self.change(|state| (state.ended, state.tally) = (true, tally.clone()));
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

    /// The frame of a change after `version` and the number of that change; `None` where nothing changed within `patience`.
    fn newer(&self, version: u64, patience: Duration) -> Option<(u64, Option<Arc<Shot>>)> {
        let same = |state: &mut State| state.version == version;
        let waited = self.changed.wait_timeout_while(self.state(), patience, same);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| (state.version, state.shot.clone()))
    }

    /// Everything but the picture.
    fn figures(&self) -> Value {
        let state = self.state();
        let tally = &state.tally;
        let mut figures = Map::new();
        if let Some(shot) = &state.shot {
            figures = shot.answer.fields(&self.labels);
            figures.insert("frame".into(), shot.number.into());
            figures.insert("ms".into(), round(shot.inference_ms).into());
            figures.insert("latency_ms".into(), round(shot.latency_ms).into());
            figures.insert("age_ms".into(), round(shot.captured.elapsed().as_secs_f64() * 1e3).into());
        }
        let counts = json!({
            "fps": round(tally.fps()), "seen": tally.seen, "processed": tally.processed, "skipped": tally.skipped,
            "broken": tally.broken, "trouble": state.trouble, "ended": state.ended,
        });
        figures.extend(counts.as_object().cloned().unwrap_or_default());
        figures.into()
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Shows a board to browsers of this machine, until it is dropped.
pub struct Server {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl Server {
    /// Listens on 127.0.0.1 at `port` (0: any that is free); where none is asked for, at 8484 or any that is free.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(board: Arc<Board>, port: Option<u16>) -> std::io::Result<Server> {
        let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = port.map_or_else(|| listen(PORT).or_else(|_| listen(0)), listen)?;
        let port = listener.local_addr()?.port();
        let closed = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let closed = closed.clone();
            move || accept(&listener, &board, &closed)
        });
        Ok(Server { port, closed })
    }

    /// Where browsers find it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever waits for a connection gets one, and looks.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(listener: &TcpListener, board: &Arc<Board>, closed: &Arc<AtomicBool>) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        if closed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(connection) = connection else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (board, closed, open) = (board.clone(), closed.clone(), open.clone());
        std::thread::spawn(move || {
            // A browser that went away is no matter.
            let _ = http::serve(connection, &board, &closed);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
