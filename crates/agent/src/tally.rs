//! Counting frames and times, in memory that does not grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::queue::Counts;

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

/// Quantiles of the last times are those of one to two such spans.
const SPAN: Duration = Duration::from_secs(30);

/// Times of one kind: all of them, and the last.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// All.
    pub all: Histogram,
    /// Sum of all, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
    span: Histogram,
    before: Histogram,
    begun: Option<Instant>,
}

impl Times {
    fn add(&mut self, time: Duration, now: Instant) {
        self.all.add(time);
        (self.sum, self.count) = (self.sum + time.as_secs_f64(), self.count + 1);
        self.turn(now);
        self.span.add(time);
    }

    /// Forgets what is too old.
    fn turn(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let passed = now.saturating_duration_since(begun);
        if passed >= SPAN {
            let span = std::mem::take(&mut self.span);
            self.before = if passed < 2 * SPAN { span } else { Histogram::default() };
            self.begun = Some(now);
        }
    }

    /// The time that the share `q` (0 to 1) of the last 30 to 60 seconds did not exceed.
    pub fn lately(&mut self, q: f64) -> Option<Duration> {
        self.turn(Instant::now());
        let mut both = self.span.clone();
        both.counts.iter_mut().zip(&self.before.counts).for_each(|(sum, before)| *sum += before);
        both.quantile(q)
    }
}

/// What became of a stream's frames.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames by what became of them.
    pub counts: Counts,
    /// Time of one answer, pre-processing included.
    pub inference: Times,
    /// Time from the frame's last byte to its answer.
    pub latency: Times,
    pub(crate) recent: VecDeque<Instant>,
}

impl Tally {
    /// A frame got its answer.
    pub fn processed(&mut self, inference: Duration, latency: Duration) {
        let now = Instant::now();
        self.inference.add(inference, now);
        self.latency.add(latency, now);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
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
            self.counts.seen(),
            self.counts.processed,
            self.counts.skipped,
            self.counts.broken,
            times(&self.inference.all),
            times(&self.latency.all)
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
        let counts = Counts { processed: 2, skipped: 1, broken: 1, ..Counts::default() };
        let mut tally = Tally { counts, ..Tally::default() };
        assert_eq!((tally.fps(), tally.summary().contains("p50 - ms")), (0.0, true));
        (0..2).for_each(|_| tally.processed(Duration::from_millis(3), Duration::from_millis(9)));
        let text = tally.summary();
        assert!(
            text.starts_with("4 frames seen = 2 processed + 1 skipped + 1 broken; inference p50 3.0"),
            "{text}"
        );
        assert!(tally.fps() > 0.0);
    }

    #[test]
    fn old_times_are_forgotten() {
        let (mut times, begun) = (Times::default(), Instant::now());
        times.add(Duration::from_millis(80), begun);
        times.add(Duration::from_millis(2), begun + SPAN);
        assert!(times.lately(1.0) > Some(Duration::from_millis(79)));
        times.add(Duration::from_millis(2), begun + 2 * SPAN);
        assert!(times.lately(1.0) < Some(Duration::from_millis(3)));
        times.turn(begun + 9 * SPAN);
        assert_eq!((times.lately(0.5), times.count), (None, 3));
    }
}
