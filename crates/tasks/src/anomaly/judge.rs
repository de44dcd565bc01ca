//! From errors to scores and alarms.

use super::Anomaly;
use super::calibration::STD_MIN;
use crate::series::Follows;

/// Judges the errors of one series, one after another. It remembers what is usual: a moving mean and variance, which begin
/// with those of the calibration (West 1979, with exponential weights).
#[derive(Clone, Debug)]
pub struct Judge {
    mean: f64,
    variance: f64,
    threshold: f64,
    /// Weight of the newest error.
    weight: f64,
    /// Answers that an alarm goes on.
    hold: usize,
    /// Answers that it will go on for, unless there is another reason for one.
    left: usize,
}

/// What one error comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Standard deviations above the usual error.
    pub score: f64,
    /// Whether it is an alarm.
    pub alarm: bool,
}

impl Judge {
    /// For a series of `task`.
    pub fn new(task: &Anomaly) -> Judge {
        let answers = |rows: usize| rows.div_ceil(task.stride).max(1);
        let calibration = task.calibration;
        Judge {
            mean: calibration.mean,
            variance: calibration.std.powi(2),
            threshold: calibration.threshold,
            weight: 1.0 / answers(task.memory) as f64,
            hold: answers(task.hold),
            left: 0,
        }
    }

    /// Judges the next error; a series that was interrupted ends an alarm.
    pub fn judge(&mut self, follows: Follows, error: f64) -> Judgement {
        if follows != Follows::Window {
            self.left = 0;
        }
        let score = (error - self.mean) / self.variance.sqrt();
        if score > self.threshold {
            // This answer, and those of `hold` behind it.
            self.left = self.hold + 1;
        }
        let alarm = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.learn(error);
        Judgement { score, alarm }
    }

    fn learn(&mut self, error: f64) {
        let step = error - self.mean;
        self.mean += self.weight * step;
        let variance = (1.0 - self.weight) * (self.variance + self.weight * step * step);
        self.variance = variance.max(STD_MIN * STD_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    fn alarms(errors: &[f64]) -> Vec<bool> {
        let mut judge = Judge::new(&task());
        errors.iter().map(|&error| judge.judge(Follows::Window, error).alarm).collect()
    }

    #[test]
    fn an_alarm_goes_on_for_a_while() {
        let mut errors = [0.2; 12];
        errors[2] = 1.0;
        let expected: Vec<bool> = (0..12).map(|at| (2..=6).contains(&at)).collect();
        assert_eq!(alarms(&errors), expected);
    }

    #[test]
    fn what_goes_on_becomes_usual() {
        let found = alarms(&[1.0; 400]);
        assert!(found[0] && !found[399], "{found:?}");
        let judged = Judge::new(&task()).judge(Follows::Nothing, 0.5);
        assert!((judged.score - 3.0).abs() < 1e-9 && !judged.alarm, "{judged:?}");
    }

    #[test]
    fn an_interruption_ends_an_alarm() {
        let mut judge = Judge::new(&task());
        assert!(judge.judge(Follows::Nothing, 9.0).alarm);
        assert!(!judge.judge(Follows::Gap, 0.2).alarm);
    }
}
