//! What all classification tasks share: targets, softmax, predictions and metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{TaskError, check_length};

/// The most likely class of one input, and how likely each is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The name of the most likely class.
    pub label: String,
    /// Its index among the task's labels.
    pub index: usize,
    /// Its softmax probability.
    pub confidence: f32,
    /// The softmax probability of every class.
    pub scores: Vec<f32>,
}

impl Prediction {
    /// From one row of logits, one a label.
    pub fn new(logits: &[f32], labels: &[String]) -> Result<Self, TaskError> {
        check_length("a row of logits", logits.len(), labels.len())?;
        let scores = softmax(logits);
        let index = argmax(logits);
        Ok(Prediction { label: labels[index].clone(), index, confidence: scores[index], scores })
    }
}

/// `exp(x) / sum exp(x)`, shifted by the maximum so that it cannot overflow.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|&x| (x - max).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

/// The index of the first largest value (0 of an empty slice).
pub fn argmax(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// Cross-entropy of one row of logits against class `truth`, in f64: `ln(sum exp(x)) - x[truth]`.
pub fn cross_entropy(logits: &[f32], truth: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    sum.ln() - f64::from(logits[truth] - max)
}

/// Writes the soft target of class `label`: `smoothing / classes` everywhere and `1 - smoothing` more at the label
/// (Szegedy et al. 2016). `out` has `classes` elements.
pub fn target(label: usize, classes: usize, smoothing: f32, out: &mut [f32]) -> Result<(), TaskError> {
    check_length("a target", out.len(), classes)?;
    check_class(label, classes)?;
    out.fill(smoothing / classes as f32);
    out[label] += 1.0 - smoothing;
    Ok(())
}

fn check_class(class: usize, classes: usize) -> Result<(), TaskError> {
    if class < classes {
        return Ok(());
    }
    let reason = format!("class {class} does not exist, there are {classes} classes");
    Err(TaskError::Invalid { kind: "classification", reason })
}

/// Accuracy, top-5, cross-entropy, confusion and per-class scores, gathered row by row.
#[derive(Clone, Debug)]
pub struct Metrics {
    labels: Vec<String>,
    confusion: Vec<Vec<u64>>,
    among_first_five: u64,
    loss_sum: f64,
    n: u64,
}

/// How well one class is told from the others. A ratio without cases (0/0) counts as 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// The class.
    pub label: String,
    /// How many inputs truly are of it.
    pub n: u64,
    /// Of those predicted as this class, the share that is.
    pub precision: f64,
    /// Of those that are this class, the share predicted so.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
}

impl Metrics {
    /// Nothing gathered yet.
    pub fn new(labels: &[String]) -> Self {
        let confusion = vec![vec![0; labels.len()]; labels.len()];
        Metrics { labels: labels.to_vec(), confusion, among_first_five: 0, loss_sum: 0.0, n: 0 }
    }

    /// Adds one row of logits whose class is `truth`.
    pub fn add(&mut self, logits: &[f32], truth: usize) -> Result<(), TaskError> {
        check_length("a row of logits", logits.len(), self.labels.len())?;
        check_class(truth, self.labels.len())?;
        self.n += 1;
        self.confusion[truth][argmax(logits)] += 1;
        self.among_first_five += u64::from(rank(logits, truth) < 5);
        self.loss_sum += cross_entropy(logits, truth);
        Ok(())
    }

    /// The number of rows added.
    pub fn n(&self) -> usize {
        self.n as usize
    }

    /// The share of rows whose most likely class is the true one.
    pub fn accuracy(&self) -> f64 {
        let hits: u64 = (0..self.labels.len()).map(|class| self.confusion[class][class]).sum();
        ratio(hits, self.n)
    }

    /// The mean cross-entropy.
    pub fn loss(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.loss_sum / self.n as f64 }
    }

    /// `confusion[true][predicted]`, in numbers of rows.
    pub fn confusion(&self) -> &[Vec<u64>] {
        &self.confusion
    }

    /// Each class's scores, in the order of the labels.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        (0..self.labels.len()).map(|class| self.class(class)).collect()
    }

    fn class(&self, class: usize) -> ClassMetrics {
        let hits = self.confusion[class][class];
        let n = self.confusion[class].iter().sum();
        let predicted = self.confusion.iter().map(|row| row[class]).sum::<u64>();
        ClassMetrics {
            label: self.labels[class].clone(),
            n,
            precision: ratio(hits, predicted),
            recall: ratio(hits, n),
            f1: ratio(2 * hits, n + predicted),
        }
    }

    /// `accuracy`, `loss`, `f1` (the mean over classes) and, from 6 classes on, `top5`.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let classes = self.labels.len();
        let f1 = self.per_class().iter().map(|class| class.f1).sum::<f64>() / classes.max(1) as f64;
        let top5 = (classes > 5).then(|| ("top5", ratio(self.among_first_five, self.n)));
        let always = [("accuracy", self.accuracy()), ("f1", f1), ("loss", self.loss())];
        always.into_iter().chain(top5).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// How many classes come before `class`; of equal ones the lower index comes first, as in [`argmax`].
fn rank(logits: &[f32], class: usize) -> usize {
    let own = logits[class];
    let before = |(i, &x): (usize, &f32)| x > own || (x == own && i < class);
    logits.iter().enumerate().filter(|&item| before(item)).count()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    #[test]
    fn softmax_and_argmax() {
        let scores = softmax(&[0.0, 2.0f32.ln(), f32::NEG_INFINITY]);
        assert!((scores[0] - 1.0 / 3.0).abs() < 1e-6 && (scores[1] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(scores[2], 0.0);
        assert_eq!(softmax(&[1e30, 1e30]), [0.5, 0.5]);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        let prediction = Prediction::new(&[-1.0, 5.0], &labels(2)).unwrap();
        assert_eq!((prediction.label.as_str(), prediction.index), ("c1", 1));
        assert_eq!(prediction.confidence, prediction.scores[1]);
    }

    #[test]
    fn smoothed_targets() {
        let mut out = [0.0; 4];
        target(2, 4, 0.0, &mut out).unwrap();
        assert_eq!(out, [0.0, 0.0, 1.0, 0.0]);
        target(0, 4, 0.2, &mut out).unwrap();
        assert_eq!(out, [0.85, 0.05, 0.05, 0.05]);
        assert!(target(4, 4, 0.0, &mut out).is_err());
        assert!(target(0, 5, 0.0, &mut out).is_err());
    }

    #[test]
    fn metrics_by_hand() {
        // True class and predicted class: 0→0, 0→1, 1→1, 1→1, 2→0.
        let mut metrics = Metrics::new(&labels(3));
        for (truth, logits) in [
            (0, [1.0, 0.0, 0.0]),
            (0, [0.0, 1.0, 0.0]),
            (1, [0.0, 1.0, 0.0]),
            (1, [0.0, 1.0, 0.0]),
            (2, [1.0, 0.0, 0.0]),
        ] {
            metrics.add(&logits, truth).unwrap();
        }
        assert_eq!(metrics.confusion(), [vec![1, 1, 0], vec![0, 2, 0], vec![1, 0, 0]]);
        let classes = metrics.per_class();
        let found: Vec<_> = classes.iter().map(|c| (c.n, c.precision, c.recall, c.f1)).collect();
        assert_eq!(found, [(2, 0.5, 0.5, 0.5), (2, 2.0 / 3.0, 1.0, 0.8), (1, 0.0, 0.0, 0.0)]);
        let all = metrics.metrics();
        assert_eq!(all["accuracy"], 0.6);
        assert!((all["f1"] - 1.3 / 3.0).abs() < 1e-12);
        assert!(!all.contains_key("top5"));
        // Three rows cost ln(e + 2) - 1, two cost ln(e + 2).
        let ln = (1f64.exp() + 2.0).ln();
        assert!((all["loss"] - (5.0 * ln - 3.0) / 5.0).abs() < 1e-12);
    }

    #[test]
    fn top5_counts_ties_by_index() {
        let mut metrics = Metrics::new(&labels(6));
        metrics.add(&[0.0; 6], 4).unwrap();
        metrics.add(&[0.0; 6], 5).unwrap();
        assert_eq!(metrics.metrics()["top5"], 0.5);
    }

    #[test]
    fn empty_and_wrong_rows() {
        let mut metrics = Metrics::new(&labels(2));
        assert_eq!(metrics.metrics()["accuracy"], 0.0);
        assert!(metrics.add(&[0.0; 3], 0).is_err());
        assert!(metrics.add(&[0.0; 2], 2).is_err());
        assert_eq!(metrics.n(), 0);
        metrics.add(&[f32::NAN; 2], 1).unwrap();
        assert!(metrics.loss().is_nan(), "a diverged model must not look fine");
    }
}
