//! Ceilings on what is used in a second.

use std::time::Duration;

/// How far beyond its ceiling something may go before it is forgotten: so much of a second's worth.
const DEBT: f64 = 10.0;

/// What may be used rises with time, up to a small store; what is used lowers it. Below zero one has to wait, so over any
/// longer time the mean is the ceiling and no more (a token bucket).
#[derive(Clone, Debug)]
pub(crate) struct Ceiling {
    per_second: f64,
    most: f64,
    level: f64,
    at: Duration,
}

impl Ceiling {
    /// So much a second; what was not used is kept up to `most`.
    pub(crate) fn new(per_second: f64, most: f64, at: Duration) -> Ceiling {
        Ceiling { per_second, most, level: 0.0, at }
    }

    /// So much was used.
    pub(crate) fn take(&mut self, amount: f64) {
        self.level = (self.level - amount).max(-DEBT * self.per_second);
    }

    /// How long until more may be used; nothing where it may be now.
    pub(crate) fn wait(&mut self, at: Duration) -> Option<Duration> {
        let passed = at.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(at);
        self.level = (self.level + passed * self.per_second).min(self.most);
        (self.level < 0.0).then(|| Duration::from_secs_f64(-self.level / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_the_ceiling() {
        for (ceiling, cost) in [(0.5, 0.01), (0.1, 0.2), (5.0, 1.0)] {
            let (mut bucket, mut now, mut used) =
                (Ceiling::new(ceiling, cost, Duration::ZERO), Duration::ZERO, 0.0);
            while now < Duration::from_secs(100) {
                match bucket.wait(now) {
                    Some(wait) => now += wait + Duration::from_micros(100),
                    None => {
                        bucket.take(cost);
                        used += cost;
                    }
                }
            }
            let mean = used / 100.0;
            assert!((mean / ceiling - 1.0).abs() < 0.03, "{mean} instead of {ceiling}");
        }
    }

    #[test]
    fn idleness_saves_no_more_than_the_store() {
        let mut bucket = Ceiling::new(2.0, 1.0, Duration::ZERO);
        assert_eq!(bucket.wait(Duration::from_secs(3600)), None);
        bucket.take(1.0);
        assert_eq!(bucket.wait(Duration::from_secs(3600)), None, "the store");
        bucket.take(1.0);
        assert_eq!(bucket.wait(Duration::from_secs(3600)), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_debt_is_paid_within_seconds() {
        let mut bucket = Ceiling::new(0.5, 0.1, Duration::ZERO);
        bucket.take(1e9);
        assert_eq!(bucket.wait(Duration::ZERO), Some(Duration::from_secs(10)));
    }
}
