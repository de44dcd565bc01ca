//! Progress on stderr: a bar with rate and time left on a terminal, else a plain line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one job of known length.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
    unit: &'static str,
    length: u64,
    plain: bool,
    started: Instant,
    from: u64,
    spoken: Instant,
}

impl Progress {
    /// A job of `length` steps (called `unit`), of which `done` are done already.
    pub(crate) fn new(what: &str, unit: &'static str, length: u64, done: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar =
            if plain { ProgressBar::hidden() } else { ProgressBar::new(length).with_elapsed(Duration::ZERO) };
        let rate = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.1} {unit}/s", state.per_sec());
        };
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg} {rate}, {eta} left");
        bar.set_style(style.expect("a valid template").with_key("rate", rate).progress_chars("━╸ "));
        bar.set_prefix(what.to_string());
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        Progress { bar, what: what.into(), unit, length, plain, started: now, from: done, spoken: now }
    }

    /// `done` steps are done; `message` stands beside the bar.
    pub(crate) fn set(&mut self, done: u64, message: &str) {
        if !self.plain {
            self.bar.set_message(message.to_string());
            self.bar.set_position(done);
        } else if self.spoken.elapsed() > LINE_EVERY {
            self.spoken = Instant::now();
            eprintln!("{}", self.line(done, message));
        }
    }

    fn line(&self, done: u64, message: &str) -> String {
        let rate = (done - self.from) as f64 / self.started.elapsed().as_secs_f64();
        let left = (self.length.saturating_sub(done)) as f64 / rate.max(1e-9);
        let (what, length, unit) = (&self.what, self.length, self.unit);
        format!("{what} {done}/{length} {message} {rate:.1} {unit}/s, {left:.0} s left")
    }

    /// A line above the bar that stays.
    pub(crate) fn say(&self, line: &str) {
        if self.plain { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
