//! When an outbox is sent, and sent again.

use std::time::Duration;

use espalier_wire::{Ack, Batch};

use crate::outbox::{Outbox, Storage, StorageError};

/// The longest pause after the first failure, and after many.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Pauses that double with every failure, each a random share of what it may be at most ("full jitter"), so that thousands of
/// devices do not come back at the same instant.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    until: Duration,
}

impl Backoff {
    /// Something failed; `random` is from 0 to below 1.
    pub fn failed(&mut self, now: Duration, random: f64) {
        let longest = PAUSES.0.saturating_mul(1 << self.failures.min(16)).min(PAUSES.1);
        self.failures = self.failures.saturating_add(1);
        self.until = now + longest.mul_f64(random.clamp(0.0, 1.0));
    }

    /// Something succeeded.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// How long to wait still.
    pub fn left(&self, now: Duration) -> Duration {
        self.until.saturating_sub(now)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// This is to be sent, and its acknowledgement waited for.
    Send(Batch),
    /// Nothing, for so long.
    Pause(Duration),
    /// Nothing, until there is something in the outbox.
    Nothing,
}

/// The exchange of one outbox with its receiver: one batch at a time, until it is acknowledged. It looks at no clock.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    backoff: Backoff,
}

impl Exchange {
    /// What is to be done at `now`.
    ///
    /// # Errors
    /// A storage that cannot be read.
    pub fn next<S: Storage>(&mut self, now: Duration, outbox: &mut Outbox<S>) -> Result<Next, StorageError> {
        let left = self.backoff.left(now);
        if !left.is_zero() {
            return Ok(Next::Pause(left));
        }
        Ok(outbox.batch()?.map_or(Next::Nothing, Next::Send))
    }

    /// The receiver answered; `true` where it has more than was known. The caller then lets the outbox commit that; where it
    /// cannot, the receiver may be told again, which it recognises.
    pub fn answered<S: Storage>(
        &mut self,
        now: Duration,
        random: f64,
        ack: &Ack,
        outbox: &mut Outbox<S>,
    ) -> bool {
        if ack.refused.is_some() {
            self.backoff.failed(now, random);
            return false;
        }
        let new = outbox.acknowledge(ack.epoch, ack.upto);
        if new {
            self.backoff.succeeded();
        }
        new
    }

    /// The connection was lost, or nothing was answered within the time.
    pub fn failed(&mut self, now: Duration, random: f64) {
        self.backoff.failed(now, random);
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_are_spread() {
        let (mut backoff, now) = (Backoff::default(), Duration::from_secs(100));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff.failed(now, 0.5);
            pauses.push(backoff.left(now).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.left(now + Duration::from_secs(30)), Duration::ZERO);
        backoff.failed(now, 0.0);
        assert_eq!(backoff.left(now), Duration::ZERO);
        backoff.succeeded();
        backoff.failed(now, 0.999);
        assert!(backoff.left(now) < Duration::from_secs(1), "it begins anew");
    }
}
