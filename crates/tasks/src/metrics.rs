//! How well a model does on a split, by the measures of its task.

use std::collections::BTreeMap;

use crate::{Origin, TaskError, Truth, anomaly, classification, detect, only};

/// The metrics of a split, gathered input by input.
#[derive(Clone, Debug)]
pub enum Metrics {
    /// Of the classification tasks.
    Classification(classification::Metrics),
    /// Of detect.
    Detection(Box<detect::Metrics>),
    /// Of anomaly.
    Anomaly(Box<anomaly::Metrics>),
}

/// How well one class is recognised, by measures of the task's kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassScores {
    /// The class.
    pub label: String,
    /// How often it truly occurs.
    pub n: u64,
    /// The measures by name, the same ones for every class.
    pub scores: Vec<(&'static str, f64)>,
}

impl Metrics {
    /// Adds one input: where it came from, its outputs, one slice per graph output, and its truth.
    pub fn add(&mut self, origin: Origin, outputs: &[&[f32]], truth: &Truth) -> Result<(), TaskError> {
        match (self, truth, origin) {
            (Metrics::Classification(metrics), Truth::Class(class), _) => metrics.add(only(outputs)?, *class),
            (Metrics::Classification(_), ..) => {
                Err(TaskError::Input { kind: "classification", expected: "a class" })
            }
            (Metrics::Detection(metrics), Truth::Boxes(boxes), Origin::Image { height, width }) => {
                metrics.add([height, width], outputs, boxes)
            }
            (Metrics::Detection(_), ..) => Err(TaskError::Input { kind: detect::KIND, expected: "boxes" }),
            (Metrics::Anomaly(metrics), &Truth::Series { label, labels }, Origin::Window(window)) => {
                metrics.add(&window, only(outputs)?, label, labels)
            }
            (Metrics::Anomaly(_), ..) => {
                Err(TaskError::Input { kind: anomaly::KIND, expected: "windows of a series" })
            }
        }
    }

    /// The number of inputs added.
    pub fn n(&self) -> usize {
        match self {
            Metrics::Classification(metrics) => metrics.n(),
            Metrics::Detection(metrics) => metrics.n(),
            Metrics::Anomaly(metrics) => metrics.n(),
        }
    }

    /// All scalar metrics by name.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        match self {
            Metrics::Classification(metrics) => metrics.metrics(),
            Metrics::Detection(metrics) => metrics.metrics(),
            Metrics::Anomaly(metrics) => metrics.metrics(),
        }
    }

    /// The scores of each class.
    pub fn per_class(&self) -> Vec<ClassScores> {
        match self {
            Metrics::Classification(metrics) => metrics.per_class().into_iter().map(Into::into).collect(),
            Metrics::Detection(metrics) => metrics.per_class(),
            Metrics::Anomaly(_) => Vec::new(),
        }
    }

    /// `confusion[true][predicted]`, for tasks that have one.
    pub fn confusion(&self) -> Option<&[Vec<u64>]> {
        match self {
            Metrics::Classification(metrics) => Some(metrics.confusion()),
            Metrics::Detection(_) | Metrics::Anomaly(_) => None,
        }
    }
}

impl From<classification::ClassMetrics> for ClassScores {
    fn from(class: classification::ClassMetrics) -> Self {
        let scores = vec![("precision", class.precision), ("recall", class.recall), ("f1", class.f1)];
        ClassScores { label: class.label, n: class.n, scores }
    }
}
