//! What errors are usual, and from where on they are alarms.

use serde::{Deserialize, Serialize};

use super::KIND;
use crate::{TaskError, ensure};

/// Errors below this share of their distribution say nothing about its end.
const TAIL: f64 = 0.98;
/// Standard deviations of errors below this, in those of the data, are rounding.
pub(super) const STD_MIN: f64 = 1e-3;

/// The usual error and the threshold, from errors on data without anomalies, or with few.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean of the errors.
    pub mean: f64,
    /// Standard deviation of the errors.
    pub std: f64,
    /// The score from which on it is an alarm: standard deviations above the mean.
    pub threshold: f64,
}

impl Calibration {
    pub(super) fn validate(&self) -> Result<(), TaskError> {
        let fits =
            self.mean.is_finite() && self.std.is_finite() && self.std > 0.0 && self.threshold.is_finite();
        ensure(KIND, fits, || format!("calibration is {self:?}, must be finite and std above 0"))
    }

    /// From the `errors` of windows one after another. Of them, `rate` (a share of all) may begin an alarm; what comes within
    /// `hold` windows belongs to one alarm.
    ///
    /// The rate that is wanted is mostly lower than one in as many errors as there are, so the end of their distribution is
    /// continued: peaks above a high quantile, one for each alarm, have an exponential excess (peaks over threshold, Pickands
    /// 1975, with the shape 0; as a detector, Siffer et al. 2017). The mean excess is the maximum-likelihood estimate.
    pub fn new(errors: &[f64], hold: usize, rate: f64) -> Calibration {
        let n = errors.len().max(1) as f64;
        let mean = errors.iter().sum::<f64>() / n;
        let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / n;
        let std = variance.sqrt().max(STD_MIN);
        let scores: Vec<f64> = errors.iter().map(|error| (error - mean) / std).collect();
        Calibration { mean, std, threshold: threshold(&scores, hold, rate) }
    }
}

fn threshold(scores: &[f64], hold: usize, rate: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(&high) = sorted.get((sorted.len() as f64 * TAIL) as usize).or(sorted.last()) else { return 0.0 };
    let peaks = peaks(scores, high, hold);
    let excess = peaks.iter().map(|peak| peak - high).sum::<f64>() / peaks.len().max(1) as f64;
    let frequency = peaks.len() as f64 / scores.len() as f64;
    // At least the tail itself: nothing is known of what lies below it.
    high + excess * (frequency / rate).ln().max(0.0)
}

/// The highest score of each stretch that rises above `high` without falling below it for `hold` scores.
fn peaks(scores: &[f64], high: f64, hold: usize) -> Vec<f64> {
    let (mut peaks, mut last): (Vec<f64>, Option<usize>) = (Vec::new(), None);
    for (at, &score) in scores.iter().enumerate().filter(|(_, score)| **score >= high) {
        match peaks.last_mut() {
            Some(peak) if last.is_some_and(|last| at - last <= hold) => *peak = peak.max(score),
            _ => peaks.push(score),
        }
        last = Some(at);
    }
    peaks
}

#[cfg(test)]
mod tests {
    use espalier_graph::random::Random;

    use super::*;

    #[test]
    fn stretches_have_one_peak() {
        assert_eq!(peaks(&[0.0, 3.0, 1.0, 4.0, 0.0, 0.0, 0.0, 2.0], 2.0, 2), [4.0, 2.0]);
        assert!(peaks(&[0.0, 1.0], 2.0, 2).is_empty());
    }

    /// On errors of a known distribution the threshold is exceeded about as often as was wanted, rarer than one in a sample.
    #[test]
    fn the_rate_is_kept_on_exponential_errors() {
        let mut random = Random::new(7, 1);
        let mut errors =
            |n: usize| (0..n).map(|_| -f64::from(1.0 - random.uniform()).ln()).collect::<Vec<_>>();
        let fitted = errors(4000);
        for rate in [1e-3, 1e-4] {
            let found = Calibration::new(&fitted, 1, rate);
            let fresh = errors(1_000_000);
            let above = fresh.iter().filter(|&e| (e - found.mean) / found.std > found.threshold).count();
            let ratio = above as f64 / 1e6 / rate;
            assert!((0.4..2.5).contains(&ratio), "{ratio} times the wanted rate {rate}");
        }
    }

    #[test]
    fn few_and_constant_errors_have_a_threshold_too() {
        for errors in [&[][..], &[0.5], &[0.5; 100]] {
            let found = Calibration::new(errors, 4, 1e-4);
            assert_eq!(found.validate(), Ok(()), "{errors:?} {found:?}");
        }
    }
}
