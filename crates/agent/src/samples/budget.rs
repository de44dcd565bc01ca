//! A budget for any hour, kept by a token bucket.

use std::time::Duration;

const HOUR_S: f64 = 3600.0;

/// Share of an hour's budget that may be spent at once.
const BURST: f64 = 0.25;

/// A token bucket (Turner 1986): it holds a quarter of the hour's budget, at least one, and is filled with the rest in an
/// hour, so that in no hour, wherever it begins, more than the budget is spent.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    room: f64,
    refill: f64,
    tokens: f64,
    at: Duration,
}

impl Budget {
    /// A full bucket. What costs more than it holds is never afforded.
    pub(super) fn new(hourly: f64) -> Budget {
        let room = if hourly > 0.0 { (BURST * hourly).max(1.0) } else { 0.0 };
        // One whole thing at most in an hour: half of it is refilled, which is less than a second one.
        let refill = (hourly - room).max(hourly.min(1.0) / 2.0);
        Budget { room, refill, tokens: room, at: Duration::ZERO }
    }

    /// Whether `cost` can be spent.
    pub(super) fn affords(&mut self, at: Duration, cost: f64) -> bool {
        let passed = at.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(at);
        self.tokens = (self.tokens + passed * self.refill / HOUR_S).min(self.room);
        self.tokens >= cost
    }

    /// Spends what was afforded.
    pub(super) fn spend(&mut self, cost: f64) {
        self.tokens = (self.tokens - cost).max(0.0);
    }
}
