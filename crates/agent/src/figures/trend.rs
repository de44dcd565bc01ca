//! Rates over the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use crate::queue::Counts;

/// The time over which rates are taken.
const SPAN: Duration = Duration::from_secs(5);

/// Frames a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) camera: f64,
    pub(crate) process: f64,
    pub(crate) skipped: f64,
}

/// Counts of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Trend {
    samples: VecDeque<(Duration, Counts)>,
}

impl Trend {
    /// The counts at `now`.
    pub(crate) fn add(&mut self, now: Duration, counts: Counts) {
        self.samples.push_back((now, counts));
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= SPAN) {
            self.samples.pop_front();
        }
    }

    /// Between the first and the last of them.
    pub(crate) fn rates(&self) -> Rates {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back()) else {
            return Rates::default();
        };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        let rate = |of: fn(&Counts) -> u64| match seconds > 0.0 {
            true => of(after).saturating_sub(of(before)) as f64 / seconds,
            false => 0.0,
        };
        Rates {
            camera: rate(|counts| counts.seen() + counts.waiting),
            process: rate(|counts| counts.processed),
            skipped: rate(|counts| counts.skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut trend = Trend::default();
        assert_eq!(trend.rates(), Rates::default());
        for second in 0..60u64 {
            // 10 frames a second, and from the 30th second on 20, of which half are skipped.
            let late = second.saturating_sub(30) * 10;
            let counts = Counts { processed: second * 10, skipped: late, waiting: 1, ..Counts::default() };
            trend.add(Duration::from_secs(second), counts);
            if second == 30 {
                assert_eq!(trend.rates(), Rates { camera: 10.0, process: 10.0, skipped: 0.0 });
            }
        }
        assert_eq!(trend.rates(), Rates { camera: 20.0, process: 10.0, skipped: 10.0 });
        assert!(trend.samples.len() <= 6, "it does not grow");
    }
}
