//! Learning rates over the steps of a run.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The same from the end of the warm-up on.
    Constant,
    /// Falls to 0 along half a cosine (Loshchilov and Hutter 2017).
    Cosine,
    /// Rises from 1/25 to the peak over 30 % of the run, then falls to nearly 0, both along cosines (Smith and Topin
    /// 2018, in PyTorch's form). The rise is the warm-up.
    OneCycle,
}

/// A schedule over `steps` optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub shape: Shape,
    /// The highest learning rate.
    pub peak: f32,
    /// Steps of linear warm-up (not for one-cycle).
    pub warmup: usize,
    /// All steps of the run.
    pub steps: usize,
}

const RISE: f64 = 0.3;
const START_DIV: f64 = 25.0;
const END_DIV: f64 = 1e4;

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: usize) -> f32 {
        let peak = f64::from(self.peak);
        let rate = match self.shape {
            Shape::OneCycle => self.one_cycle(step, peak),
            Shape::Constant => peak * self.warmed_up(step),
            Shape::Cosine if step < self.warmup => peak * self.warmed_up(step),
            Shape::Cosine => cosine(peak, 0.0, progress(step, self.warmup, self.steps)),
        };
        rate as f32
    }

    fn warmed_up(&self, step: usize) -> f64 {
        ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0)
    }

    fn one_cycle(&self, step: usize, peak: f64) -> f64 {
        let top = ((self.steps as f64 * RISE) as usize).max(1);
        let (start, end) = (peak / START_DIV, peak / START_DIV / END_DIV);
        if step < top {
            cosine(start, peak, progress(step, 0, top))
        } else {
            cosine(peak, end, progress(step, top, self.steps))
        }
    }
}

/// The decay of a moving average in step `step`, counted from 0: at first small, so that the average soon forgets the
/// random weights that training begins with, and never above `limit`.
pub fn ema_decay(limit: f32, step: usize) -> f32 {
    let step = step as f32;
    limit.min(step / (step + 10.0))
}

fn progress(step: usize, from: usize, to: usize) -> f64 {
    let length = to.saturating_sub(from).max(1) as f64;
    (step.saturating_sub(from) as f64 / length).min(1.0)
}

fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Shape, warmup: usize, want: &[(usize, f32)]) {
        let schedule = Schedule { shape, peak: 0.1, warmup, steps: 100 };
        for &(step, rate) in want {
            assert!((schedule.at(step) - rate).abs() < 1e-6, "{shape:?} step {step}: {}", schedule.at(step));
        }
    }

    #[test]
    fn decays() {
        let check = |step, want: f32| assert_eq!(ema_decay(0.99, step), want);
        check(0, 0.0);
        check(10, 0.5);
        check(989, 989.0 / 999.0);
        check(10_000, 0.99);
        assert_eq!(ema_decay(0.0, 10_000), 0.0);
    }

    #[test]
    fn shapes() {
        check(Shape::Constant, 4, &[(0, 0.025), (3, 0.1), (99, 0.1)]);
        check(Shape::Cosine, 10, &[(0, 0.01), (9, 0.1), (10, 0.1), (55, 0.05), (100, 0.0)]);
        check(Shape::OneCycle, 0, &[(0, 0.004), (15, 0.052), (30, 0.1), (65, 0.05), (100, 4e-7)]);
    }
}
