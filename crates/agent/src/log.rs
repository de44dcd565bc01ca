//! One line on stderr for each event. Under systemd a line says its own level and leaves the time to the journal.

use std::fmt::Display;
use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// How much an event matters, as syslog counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Whether stderr goes to the journal (systemd.exec(5), `$JOURNAL_STREAM`).
static JOURNAL: LazyLock<bool> = LazyLock::new(|| std::env::var_os("JOURNAL_STREAM").is_some());

/// Says what happened to `subject`.
pub(crate) fn event(level: Level, subject: &str, text: impl Display) {
    let line = line(level, subject, &text.to_string(), *JOURNAL, SystemTime::now());
    // Nobody may be there to read it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn line(level: Level, subject: &str, text: &str, journal: bool, now: SystemTime) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (number, word) = (level as u8, format!("{level:?}").to_lowercase());
    match journal {
        true => format!("<{number}>{subject}: {text}\n"),
        false => format!("{} {word} {subject}: {text}\n", humantime::format_rfc3339_millis(now)),
    }
}

/// Lets through the first of many events of one kind, and then one in a while, with the number of those between.
pub(crate) struct Seldom {
    apart: Duration,
    last: Option<Instant>,
    kept: u64,
}

impl Seldom {
    pub(crate) fn new(apart: Duration) -> Seldom {
        Seldom { apart, last: None, kept: 0 }
    }

    /// The text with the number of those that were kept back, where it may pass.
    pub(crate) fn pass(&mut self, text: &str, now: Instant) -> Option<String> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.apart) {
            self.kept += 1;
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.kept) {
            0 => Some(text.to_owned()),
            kept => Some(format!("{text} ({kept} more like this before)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let of = |journal| line(Level::Warning, "gate", "lost\nit", journal, at);
        assert_eq!(of(true), "<4>gate: lost it\n");
        assert_eq!(of(false), "1970-01-01T00:00:01.500Z warning gate: lost it\n");
    }

    #[test]
    fn many_events_are_few_lines() {
        let (mut seldom, begun) = (Seldom::new(Duration::from_secs(10)), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(seldom.pass("a", at(0)), Some("a".into()));
        assert_eq!((seldom.pass("b", at(1)), seldom.pass("c", at(9))), (None, None));
        assert_eq!(seldom.pass("d", at(10)), Some("d (2 more like this before)".into()));
        assert_eq!(seldom.pass("e", at(20)), Some("e".into()));
    }
}
