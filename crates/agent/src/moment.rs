//! Time as state machines get it: as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
