//! Smoothing over frames: what single frames get wrong is outvoted by the others.

use std::collections::VecDeque;
use std::time::Duration;

use espalier_tasks::classification::{Prediction, argmax};

use super::config::{Method, SmoothConfig};

/// Most frames that are kept, however many come within a span.
const KEPT_MAX: usize = 1000;

/// Smooths a row of numbers, frame by frame.
#[derive(Debug)]
pub(super) struct Smoother {
    config: SmoothConfig,
    /// Majority: the frames of the window, each its number or label, and its scores.
    kept: VecDeque<(Duration, usize, Vec<f32>)>,
    /// Exponential: the mean so far, and when it was taken.
    mean: Option<(Duration, Vec<f64>)>,
}

impl Smoother {
    pub(super) fn new(config: &SmoothConfig) -> Smoother {
        Smoother { config: config.clone(), kept: VecDeque::new(), mean: None }
    }

    /// The label, by its number, and how sure it is.
    pub(super) fn label(&mut self, at: Duration, said: &Prediction) -> (usize, f64) {
        match self.config.method {
            Method::Majority => {
                self.keep(at, said.index, said.scores.clone());
                let votes = |label: usize| self.kept.iter().filter(|(_, other, _)| *other == label).count();
                // Of labels with as many votes, the one that was said last.
                let latest_first = self.kept.iter().rev().map(|(_, label, _)| *label);
                let most = latest_first.clone().map(votes).max().unwrap_or(0);
                let label = latest_first.clone().find(|&label| votes(label) == most).unwrap_or(said.index);
                let scores = self.kept.iter().filter_map(|(_, _, scores)| scores.get(label));
                (label, scores.map(|&s| f64::from(s)).sum::<f64>() / self.kept.len() as f64)
            }
            Method::Exponential => {
                let mean = self.averaged(at, said.scores.iter().map(|&s| f64::from(s)).collect());
                let scores: Vec<f32> = mean.iter().map(|&v| v as f32).collect();
                let label = argmax(&scores);
                (label, mean[label])
            }
        }
    }

    /// A number of things.
    pub(super) fn count(&mut self, at: Duration, count: u64) -> u64 {
        match self.config.method {
            Method::Majority => {
                self.keep(at, count as usize, Vec::new());
                let mut counts: Vec<usize> = self.kept.iter().map(|(_, count, _)| *count).collect();
                counts.sort_unstable();
                counts[counts.len() / 2] as u64
            }
            Method::Exponential => self.averaged(at, vec![count as f64])[0].round() as u64,
        }
    }

    fn keep(&mut self, at: Duration, value: usize, scores: Vec<f32>) {
        self.kept.push_back((at, value, scores));
        let most = self.config.frames.unwrap_or(KEPT_MAX);
        let span = self.config.span_s.map(Duration::from_secs_f64);
        let is_old = |&(time, ..): &(Duration, usize, Vec<f32>)| {
            span.is_some_and(|span| at.saturating_sub(time) > span)
        };
        while self.kept.len() > most || self.kept.front().is_some_and(is_old) {
            self.kept.pop_front();
        }
    }

    fn averaged(&mut self, at: Duration, values: Vec<f64>) -> &[f64] {
        let (before, mut mean) =
            self.mean.take().filter(|(_, mean)| mean.len() == values.len()).unwrap_or((at, values.clone()));
        let weight = match (self.config.frames, self.config.span_s) {
            (Some(frames), _) => 2.0 / (frames as f64 + 1.0),
            (None, span) => 1.0 - (-at.saturating_sub(before).as_secs_f64() / span.unwrap_or(1.0)).exp(),
        };
        mean.iter_mut().zip(&values).for_each(|(mean, value)| *mean += weight * (value - *mean));
        &self.mean.insert((at, mean)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(index: usize, confidence: f32) -> Prediction {
        let mut scores = vec![(1.0 - confidence) / 2.0; 3];
        scores[index] = confidence;
        Prediction { label: index.to_string(), index, confidence, scores }
    }

    fn labels(config: SmoothConfig, frames: &[(u64, usize, f32)]) -> Vec<usize> {
        let mut smoother = Smoother::new(&config);
        let label = |&(ms, index, confidence): &(u64, usize, f32)| {
            smoother.label(Duration::from_millis(ms), &said(index, confidence)).0
        };
        frames.iter().map(label).collect()
    }

    #[test]
    fn single_frames_are_outvoted() {
        let said = [(0, 0.9), (0, 0.9), (1, 0.8), (0, 0.9), (1, 0.9), (1, 0.9), (2, 0.9)];
        let frames: Vec<_> = said.into_iter().zip(0..).map(|((i, c), t)| (100 * t, i, c)).collect();
        let majority = SmoothConfig { method: Method::Majority, frames: Some(3), span_s: None };
        assert_eq!(labels(majority, &frames), [0, 0, 0, 0, 1, 1, 1]);
        let span = SmoothConfig { method: Method::Majority, frames: None, span_s: Some(0.2) };
        assert_eq!(labels(span, &frames), [0, 0, 0, 0, 1, 1, 1], "0.2 s are three frames");
        let exponential = SmoothConfig { method: Method::Exponential, frames: Some(3), span_s: None };
        assert_eq!(labels(exponential, &frames), [0, 0, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn confidence_is_the_mean_of_the_label_that_wins() {
        let config = SmoothConfig { method: Method::Majority, frames: Some(2), span_s: None };
        let mut smoother = Smoother::new(&config);
        smoother.label(Duration::ZERO, &said(1, 0.6));
        let (label, confidence) = smoother.label(Duration::ZERO, &said(1, 0.8));
        assert!(label == 1 && (confidence - 0.7).abs() < 1e-6);
    }

    #[test]
    fn numbers_are_medians_or_means() {
        let counts = |method| {
            let mut smoother = Smoother::new(&SmoothConfig { method, frames: Some(3), span_s: None });
            [2, 2, 0, 2, 9, 2].map(|n| smoother.count(Duration::ZERO, n))
        };
        assert_eq!(counts(Method::Majority), [2, 2, 2, 2, 2, 2]);
        assert_eq!(counts(Method::Exponential), [2, 2, 1, 2, 5, 4]);
    }
}
