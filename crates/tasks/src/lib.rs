//! What the numbers mean: a task turns raw input into a tensor and the network's outputs into an answer.
//!
//! One file per task. Training, prediction and the device call the same functions, so the same input gives the same
//! answer everywhere. A new task is one file, one variant in each enum below, and what the compiler then asks for.

pub mod classification;
pub mod classify_image;
pub mod golden;
pub mod image;
pub mod model;
pub mod resize;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::image::{Image, ImageError, Limits, decode};
pub use classification::Prediction;
pub use classify_image::ClassifyImage;
pub use model::{Model, ModelError};
pub use resize::Fit;

/// A task and its settings, as the package's manifest holds them: `{"kind": "classify-image", ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Task {
    /// One label for one image.
    ClassifyImage(ClassifyImage),
}

/// One raw input. Which variant a task takes is the task's; another is [`TaskError::Input`].
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A decoded image of any size.
    Image(&'a Image),
}

/// What an input truly is, for metrics.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// The index of its class in the task's labels.
    Class(usize),
}

/// What a task says about one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of the classification tasks.
    Label(Prediction),
}

/// The metrics of a split, gathered input by input.
#[derive(Clone, Debug)]
pub enum Metrics {
    /// Of the classification tasks.
    Classification(classification::Metrics),
}

/// A metric and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its key in [`Metrics::metrics`].
    pub name: &'static str,
    /// Whether larger is better.
    pub higher_is_better: bool,
}

/// Why a task's settings or a call were refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TaskError {
    /// The settings contradict themselves.
    #[error("task {kind}: {reason}")]
    Invalid {
        /// The task's kind.
        kind: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The kind of input, truth or metrics is another task's.
    #[error("task {kind} takes {expected}")]
    Input {
        /// The task's kind.
        kind: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A buffer has the wrong number of elements.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits.
        expected: usize,
    },
}

/// `Ok` where `found` elements are `expected` ones.
pub(crate) fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), TaskError> {
    if found == expected { Ok(()) } else { Err(TaskError::Length { what, found, expected }) }
}

impl Task {
    /// The kind as in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Task::ClassifyImage(_) => classify_image::KIND,
        }
    }

    /// Refuses settings that contradict themselves; call it on whatever came from a file.
    pub fn validate(&self) -> Result<(), TaskError> {
        match self {
            Task::ClassifyImage(task) => task.validate(),
        }
    }

    /// The class names, in the order of the outputs; empty for tasks without classes.
    pub fn labels(&self) -> &[String] {
        match self {
            Task::ClassifyImage(task) => &task.labels,
        }
    }

    /// The shape of one input tensor, without the batch.
    pub fn input_shape(&self) -> Vec<usize> {
        match self {
            Task::ClassifyImage(task) => task.input_shape().to_vec(),
        }
    }

    /// Turns a raw input into the input tensor; `out` has [`input_shape`](Self::input_shape)'s number of elements.
    pub fn preprocess(&self, input: Input<'_>, out: &mut [f32]) -> Result<(), TaskError> {
        match (self, input) {
            (Task::ClassifyImage(task), Input::Image(image)) => task.preprocess(image, out),
        }
    }

    /// Turns the outputs for one input, one slice per graph output, into an answer.
    pub fn postprocess(&self, outputs: &[&[f32]]) -> Result<Answer, TaskError> {
        match self {
            Task::ClassifyImage(task) => {
                check_length("the list of outputs", outputs.len(), 1)?;
                task.postprocess(outputs[0]).map(Answer::Label)
            }
        }
    }

    /// An empty accumulator of this task's metrics.
    pub fn metrics(&self) -> Metrics {
        match self {
            Task::ClassifyImage(task) => Metrics::Classification(classification::Metrics::new(&task.labels)),
        }
    }

    /// The metric that targets, early stopping and budgets are about.
    pub fn primary_metric(&self) -> Metric {
        match self {
            Task::ClassifyImage(_) => Metric { name: "accuracy", higher_is_better: true },
        }
    }
}

impl Metrics {
    /// Adds one input: its outputs, one slice per graph output, and its truth.
    pub fn add(&mut self, outputs: &[&[f32]], truth: &Truth) -> Result<(), TaskError> {
        match (self, truth) {
            (Metrics::Classification(metrics), Truth::Class(class)) => {
                check_length("the list of outputs", outputs.len(), 1)?;
                metrics.add(outputs[0], *class)
            }
        }
    }

    /// The number of inputs added.
    pub fn n(&self) -> usize {
        match self {
            Metrics::Classification(metrics) => metrics.n(),
        }
    }

    /// All scalar metrics by name.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        match self {
            Metrics::Classification(metrics) => metrics.metrics(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        Task::ClassifyImage(ClassifyImage::new([2, 2], vec![0.5], vec![0.5], labels))
    }

    #[test]
    fn the_manifest_form_is_stable() {
        let json = serde_json::to_string(&task()).unwrap();
        let expected = r#"{"kind":"classify-image","size":[2,2],"channels":1,"mean":[0.5],"std":[0.5],"fit":"crop","labels":["cat","dog"]}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task());
    }

    #[test]
    fn unknown_keys_are_ignored_and_unknown_kinds_refused() {
        let newer = r#"{"kind":"classify-image","size":[2,2],"channels":1,"mean":[0.5],"std":[0.5],"labels":["cat","dog"],"later":1}"#;
        assert_eq!(serde_json::from_str::<Task>(newer).unwrap(), task());
        assert!(serde_json::from_str::<Task>(r#"{"kind":"divine"}"#).is_err());
    }

    #[test]
    fn input_to_answer_to_metrics() {
        let task = task();
        let image = Image::new(2, 2, 1, vec![0, 255, 0, 255]).unwrap();
        let mut tensor = vec![0.0; task.input_shape().iter().product()];
        task.preprocess(Input::Image(&image), &mut tensor).unwrap();
        assert_eq!(tensor, [-1.0, 1.0, -1.0, 1.0]);
        let Answer::Label(prediction) = task.postprocess(&[&[0.0, 3.0]]).unwrap();
        assert_eq!(prediction.label, "dog");
        let mut metrics = task.metrics();
        metrics.add(&[&[0.0, 3.0]], &Truth::Class(1)).unwrap();
        assert_eq!(metrics.metrics()[task.primary_metric().name], 1.0);
        assert!(task.postprocess(&[]).is_err());
        assert!(task.preprocess(Input::Image(&image), &mut [0.0; 3]).is_err());
    }
}
