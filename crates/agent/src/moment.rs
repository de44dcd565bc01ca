//! Time as state machines get it: as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time by both clocks: one never jumps and is what durations are taken from; the other is what people read,
/// and may jump by years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the process began.
    pub since_start: Duration,
    /// By the wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// Milliseconds since 1970 by the wall clock; 0 before.
    pub fn unix_ms(&self) -> u64 {
        self.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }
}

/// Gives moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
}

impl Clock {
    /// Begins now.
    pub(crate) fn start() -> Clock {
        Clock { begun: Instant::now() }
    }

    pub(crate) fn now(&self) -> Moment {
        self.at(Instant::now(), SystemTime::now())
    }

    /// The moment of two readings that were made together.
    pub(crate) fn at(&self, instant: Instant, wall: SystemTime) -> Moment {
        Moment { since_start: instant.saturating_duration_since(self.begun), wall }
    }
}
