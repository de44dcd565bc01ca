//! When something begins and when it ends, in time.

use std::time::Duration;

use espalier_wire::State;

/// Without a frame for so long nothing holds any more, whatever was said last.
const LOST: Duration = Duration::from_secs(5);

/// What holds in a frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sign {
    pub(super) label: Option<String>,
    pub(super) confidence: f64,
    pub(super) count: u64,
}

/// What begins or ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) state: State,
    /// The label that it began with, the highest confidence and count.
    pub(super) sign: Sign,
    pub(super) duration: Duration,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// It holds, and may be about to begin.
    Pending(Held),
    /// It began and has not ended.
    Begun(Held),
}

#[derive(Debug)]
struct Held {
    since: Duration,
    last: Duration,
    sign: Sign,
}

/// Makes beginnings and ends of what holds in single frames. They take turns; all times are since the start.
#[derive(Debug)]
pub(super) struct Latch {
    hold: Duration,
    release: Duration,
    cooldown: Duration,
    phase: Phase,
    /// It does not begin before.
    free: Duration,
}

impl Latch {
    pub(super) fn new(hold: Duration, release: Duration, cooldown: Duration) -> Latch {
        Latch { hold, release, cooldown, phase: Phase::Idle, free: Duration::ZERO }
    }

    /// The label of what holds or is about to.
    pub(super) fn label(&self) -> Option<&str> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Pending(held) | Phase::Begun(held) => held.sign.label.as_deref(),
        }
    }

    /// A frame in which it holds, or does not.
    pub(super) fn frame(&mut self, at: Duration, sign: Option<Sign>) -> Option<Turn> {
        match (std::mem::replace(&mut self.phase, Phase::Idle), sign) {
            (Phase::Idle, None) | (Phase::Pending(_), None) => None,
            (Phase::Idle, Some(sign)) => self.pend(at, Held { since: at, last: at, sign }),
            (Phase::Pending(held), Some(sign)) => self.pend(at, held.seen(at, sign)),
            (Phase::Begun(held), Some(sign)) => {
                self.phase = Phase::Begun(held.seen(at, sign));
                None
            }
            (Phase::Begun(held), None) => self.gap(at, held, self.release),
        }
    }

    /// Time passes without a frame.
    pub(super) fn tick(&mut self, at: Duration) -> Option<Turn> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Begun(held) => self.gap(at, held, self.release.max(LOST)),
            Phase::Pending(held) if at.saturating_sub(held.last) < LOST => {
                self.phase = Phase::Pending(held);
                None
            }
            Phase::Idle | Phase::Pending(_) => None,
        }
    }

    /// Ends what has begun.
    pub(super) fn stop(&mut self, at: Duration) -> Option<Turn> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Begun(held) => self.gap(at, held, Duration::ZERO),
            Phase::Idle | Phase::Pending(_) => None,
        }
    }

    fn pend(&mut self, at: Duration, held: Held) -> Option<Turn> {
        let duration = at.saturating_sub(held.since);
        if duration < self.hold || at < self.free {
            self.phase = Phase::Pending(held);
            return None;
        }
        let sign = held.sign.clone();
        self.phase = Phase::Begun(held);
        Some(Turn { state: State::Begins, sign, duration })
    }

    fn gap(&mut self, at: Duration, held: Held, allowed: Duration) -> Option<Turn> {
        if at.saturating_sub(held.last) < allowed {
            self.phase = Phase::Begun(held);
            return None;
        }
        self.free = at + self.cooldown;
        let duration = held.last.saturating_sub(held.since);
        Some(Turn { state: State::Ends, sign: held.sign, duration })
    }
}

impl Held {
    fn seen(mut self, at: Duration, sign: Sign) -> Held {
        self.last = at;
        self.sign.confidence = self.sign.confidence.max(sign.confidence);
        self.sign.count = self.sign.count.max(sign.count);
        self
    }
}
