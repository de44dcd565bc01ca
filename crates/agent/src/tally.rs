//! Counting frames and times, in memory that does not grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Buckets a factor of 1.02 apart, from a microsecond on.
const STEP: f64 = 1.02;
const FIRST: f64 = 1e-6;
/// The last bucket begins above 30 minutes.
const BUCKETS: usize = 1080;

/// A histogram of times. Quantiles are right to 1 %.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS] }
    }
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        let bucket = (time.as_secs_f64() / FIRST).max(1.0).ln() / STEP.ln();
        self.counts[(bucket as usize).min(BUCKETS - 1)] += 1;
    }

    /// The time that the share `q` (0 to 1) does not exceed; `None` of no times.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().sum();
        let rank = ((total as f64 * q).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        let bucket = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_secs_f64(FIRST * STEP.powf(bucket as f64 + 0.5)))
    }
}

/// Frames over which a rate is taken.
const WINDOW: usize = 32;
/// Frames older than this do not count for the rate.
const RECENT: Duration = Duration::from_secs(5);

/// What became of a stream's frames.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames that the source gave: processed, skipped and broken ones together.
    pub seen: u64,
    /// Frames with an answer.
    pub processed: u64,
    /// Frames that nobody looked at because newer ones were there, or because the stream was closed.
    pub skipped: u64,
    /// Frames without a picture.
    pub broken: u64,
    /// Time of one answer, pre-processing included.
    pub inference: Histogram,
    /// Time from the frame's last byte to its answer.
    pub latency: Histogram,
    pub(crate) recent: VecDeque<Instant>,
}

impl Tally {
    /// A frame got its answer.
    pub fn processed(&mut self, inference: Duration, latency: Duration) {
        self.processed += 1;
        self.inference.add(inference);
        self.latency.add(latency);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(Instant::now());
    }

    /// Frames processed a second, lately.
    pub fn fps(&self) -> f64 {
        let recent: Vec<_> = self.recent.iter().filter(|at| at.elapsed() < RECENT).collect();
        match recent.as_slice() {
            [first, .., last] => {
                (recent.len() - 1) as f64 / last.duration_since(**first).as_secs_f64().max(1e-6)
            }
            _ => 0.0,
        }
    }

    /// The counts and times in one sentence.
    pub fn summary(&self) -> String {
        let ms =
            |time: Option<Duration>| time.map_or("-".into(), |t| format!("{:.2}", t.as_secs_f64() * 1e3));
        let times = |histogram: &Histogram| {
            format!("p50 {} ms, p99 {} ms", ms(histogram.quantile(0.5)), ms(histogram.quantile(0.99)))
        };
        format!(
            "{} frames seen = {} processed + {} skipped + {} broken; inference {}; end to end {}",
            self.seen,
            self.processed,
            self.skipped,
            self.broken,
            times(&self.inference),
            times(&self.latency)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_hundredth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=1000).for_each(|i| histogram.add(Duration::from_micros(100 * i)));
        for (q, expected) in [(0.0, 1e-4), (0.5, 0.05), (0.99, 0.099), (1.0, 0.1)] {
            let found = histogram.quantile(q).unwrap().as_secs_f64();
            assert!((found / expected - 1.0).abs() < 0.0101, "{q}: {found}, expected {expected}");
        }
        histogram.add(Duration::MAX);
        histogram.add(Duration::ZERO);
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(1800));
    }

    #[test]
    fn the_summary_adds_up() {
        let mut tally = Tally { seen: 4, skipped: 1, broken: 1, ..Tally::default() };
        assert_eq!((tally.fps(), tally.summary().contains("p50 - ms")), (0.0, true));
        (0..2).for_each(|_| tally.processed(Duration::from_millis(3), Duration::from_millis(9)));
        let text = tally.summary();
        assert!(
            text.starts_with("4 frames seen = 2 processed + 1 skipped + 1 broken; inference p50 3.0"),
            "{text}"
        );
        assert!(tally.fps() > 0.0);
    }
}
