//! What the numbers mean: a task turns raw input into a tensor and the network's outputs into an answer.
//!
//! One file or folder per task. Training, prediction and the device call the same functions, so the same input gives the
//! same answer everywhere. A new task is that file, one variant in each of the enums below and of
//! [`Answer`] and [`Metrics`], and what the compiler then asks for.

pub mod anomaly;
mod answer;
pub mod classification;
pub mod classify_image;
pub mod detect;
mod draw;
mod engine;
pub mod golden;
pub mod image;
mod metrics;
pub mod model;
pub mod picture_input;
mod plans;
pub mod reference;
pub mod resize;
pub mod series;
mod slot;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::series::{Columns, Follows};

pub use self::image::{Image, ImageError, Limits, decode};
pub use anomaly::{Anomaly, Reading};
pub use answer::Answer;
pub use classification::Prediction;
pub use classify_image::ClassifyImage;
pub use detect::{Detect, Detection, Head, TrueBox};
pub use draw::note;
pub use engine::{Engine, EngineError};
pub use metrics::{ClassScores, Metrics};
pub use model::{Model, ModelError};
pub use picture_input::PictureInput;
pub use reference::{Observation, Recorder, Reference};
pub use resize::Fit;
pub use series::{Row, Window};
pub use slot::Slot;

/// A task and its settings, as the package's manifest holds them: `{"kind": "classify-image", ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Task {
    /// One label for one image.
    ClassifyImage(ClassifyImage),
    /// Boxes around the things in one image.
    Detect(Detect),
    /// Whether the newest rows of a series are unusual.
    Anomaly(Anomaly),
}

/// One raw input. Which variant a task takes is the task's; another is [`TaskError::Input`].
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A decoded image of any size.
    Image(&'a Image),
    /// The newest rows of a series.
    Window(&'a Window),
    /// One row, for a [`Model`] that remembers those before it; alone it is no tensor.
    Row(&'a Row),
}

impl<'a> From<&'a Image> for Input<'a> {
    fn from(image: &'a Image) -> Self {
        Input::Image(image)
    }
}

impl<'a> From<&'a Window> for Input<'a> {
    fn from(window: &'a Window) -> Self {
        Input::Window(window)
    }
}

impl<'a> From<&'a Row> for Input<'a> {
    fn from(row: &'a Row) -> Self {
        Input::Row(row)
    }
}

/// One raw input that was read from somewhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A decoded image.
    Image(Image),
    /// The newest rows of a series.
    Window(Window),
    /// One row of a series.
    Row(Row),
}

impl Content {
    /// It, borrowed.
    pub fn input(&self) -> Input<'_> {
        match self {
            Content::Image(image) => Input::Image(image),
            Content::Window(window) => Input::Window(window),
            Content::Row(row) => Input::Row(row),
        }
    }
}

/// What answers and metrics have to know of an input beside its tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Of an image, its size before it was brought to the network's.
    Image {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A window itself: what the network says is compared with it.
    Window(Window),
}

impl Input<'_> {
    /// What remains to be known of it once it is a tensor.
    pub fn origin(&self) -> Origin {
        match self {
            Input::Image(image) => Origin::Image { height: image.height, width: image.width },
            Input::Window(window) => Origin::Window((*window).clone()),
            Input::Row(row) => {
                Origin::Window(Window { values: row.values.clone(), follows: Follows::Nothing })
            }
        }
    }
}

/// What an input truly is, for metrics.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// The index of its class in the task's labels.
    Class(usize),
    /// The boxes in it.
    Boxes(Vec<TrueBox>),
    /// Where the newest row of a window lies among the times in which something was wrong.
    Series {
        /// Which of them it lies in.
        label: Option<usize>,
        /// How many its series has; none where nothing is labelled.
        labels: Option<usize>,
    },
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

/// `Ok` where `condition` holds.
pub(crate) fn ensure(
    kind: &'static str,
    condition: bool,
    reason: impl FnOnce() -> String,
) -> Result<(), TaskError> {
    if condition { Ok(()) } else { Err(TaskError::Invalid { kind, reason: reason() }) }
}

/// Class names: at least `least`, none twice, none empty.
pub(crate) fn check_labels(kind: &'static str, labels: &[String], least: usize) -> Result<(), TaskError> {
    ensure(kind, labels.len() >= least, || format!("{} labels, at least {least} are needed", labels.len()))?;
    let mut seen = BTreeSet::new();
    let repeated = labels.iter().find(|label| !seen.insert(*label));
    ensure(kind, repeated.is_none(), || format!("label {:?} occurs twice", repeated.unwrap()))?;
    ensure(kind, !seen.contains(&String::new()), || "a label is empty".to_owned())
}

impl Task {
    /// The kind as in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Task::ClassifyImage(_) => classify_image::KIND,
            Task::Detect(_) => detect::KIND,
            Task::Anomaly(_) => anomaly::KIND,
        }
    }

    /// Refuses settings that contradict themselves; call it on whatever came from a file.
    pub fn validate(&self) -> Result<(), TaskError> {
        match self {
            Task::ClassifyImage(task) => task.validate(),
            Task::Detect(task) => task.validate(),
            Task::Anomaly(task) => task.validate(),
        }
    }

    /// The class names, in the order of the outputs; empty for tasks without classes.
    pub fn labels(&self) -> &[String] {
        match self {
            Task::ClassifyImage(task) => &task.labels,
            Task::Detect(task) => &task.labels,
            Task::Anomaly(_) => &[],
        }
    }

    /// How its pictures become input; none where it looks at no pictures.
    pub fn picture_input(&self) -> Option<&PictureInput> {
        match self {
            Task::ClassifyImage(task) => Some(&task.input),
            Task::Detect(task) => Some(&task.input),
            Task::Anomaly(_) => None,
        }
    }

    /// Which columns make its rows; none where it looks at no series.
    pub fn row_columns(&self) -> Option<Columns> {
        match self {
            Task::ClassifyImage(_) | Task::Detect(_) => None,
            Task::Anomaly(task) => Some(task.row_columns()),
        }
    }

    /// The shape of one input tensor, without the batch.
    pub fn input_shape(&self) -> Vec<usize> {
        match self {
            Task::ClassifyImage(ClassifyImage { input, .. }) | Task::Detect(Detect { input, .. }) => {
                input.shape().to_vec()
            }
            Task::Anomaly(task) => task.shape().to_vec(),
        }
    }

    /// Whether the task reads outputs of these shapes, for a batch of one; where not, what it reads.
    pub fn check_outputs(&self, shapes: &[&[usize]]) -> Result<(), String> {
        let (fits, wants) = match self {
            Task::ClassifyImage(task) => {
                let want = [1, task.labels.len()];
                (*shapes == [&want[..]], format!("one of shape {want:?}"))
            }
            Task::Detect(Detect { head, input, labels, .. }) => {
                (head.fits(input.size, labels.len(), shapes), head.wants(input.size, labels.len()))
            }
            Task::Anomaly(task) => {
                let want = [1, task.shape()[0]];
                (*shapes == [&want[..]], format!("one of shape {want:?}"))
            }
        };
        if fits { Ok(()) } else { Err(wants) }
    }

    /// Turns a raw input into the input tensor; `out` has [`input_shape`](Self::input_shape)'s number of elements.
    pub fn preprocess(&self, input: Input<'_>, out: &mut [f32]) -> Result<(), TaskError> {
        match (self, input) {
            (Task::ClassifyImage(task), Input::Image(image)) => task.input.preprocess(image, out),
            (Task::Detect(task), Input::Image(image)) => task.input.preprocess(image, out),
            (Task::Anomaly(task), Input::Window(window)) => task.preprocess(window, out),
            (task, _) => Err(task.wants_other()),
        }
    }

    /// Turns the outputs for one input, one slice per graph output, into an answer.
    pub fn postprocess(&self, origin: Origin, outputs: &[&[f32]]) -> Result<Answer, TaskError> {
        match (self, origin) {
            (Task::ClassifyImage(task), Origin::Image { .. }) => {
                task.postprocess(only(outputs)?).map(Answer::Label)
            }
            (Task::Detect(task), Origin::Image { height, width }) => {
                task.postprocess([height, width], outputs).map(Answer::Boxes)
            }
            (Task::Anomaly(task), Origin::Window(window)) => {
                task.postprocess(&window, only(outputs)?).map(Answer::Reading)
            }
            (task, _) => Err(task.wants_other()),
        }
    }

    /// The refusal of an input of another kind.
    pub(crate) fn wants_other(&self) -> TaskError {
        let expected = match self {
            Task::ClassifyImage(_) | Task::Detect(_) => "pictures",
            Task::Anomaly(_) => "windows of a series",
        };
        TaskError::Input { kind: self.kind(), expected }
    }

    /// An empty accumulator of this task's metrics.
    pub fn metrics(&self) -> Metrics {
        match self {
            Task::ClassifyImage(task) => Metrics::Classification(classification::Metrics::new(&task.labels)),
            Task::Detect(task) => Metrics::Detection(Box::new(detect::Metrics::new(task))),
            Task::Anomaly(task) => Metrics::Anomaly(Box::new(anomaly::Metrics::new(task))),
        }
    }

    /// The metric that targets, early stopping and budgets are about.
    pub fn primary_metric(&self) -> Metric {
        match self {
            Task::ClassifyImage(_) => Metric { name: "accuracy", higher_is_better: true },
            Task::Detect(_) => Metric { name: detect::PRIMARY, higher_is_better: true },
            Task::Anomaly(_) => Metric { name: anomaly::PRIMARY, higher_is_better: true },
        }
    }
}

/// The output of a task that has one.
fn only<'a>(outputs: &[&'a [f32]]) -> Result<&'a [f32], TaskError> {
    check_length("the list of outputs", outputs.len(), 1).map(|()| outputs[0])
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
        let origin = Input::Image(&image).origin();
        let answer = task.postprocess(origin.clone(), &[&[0.0, 3.0]]).unwrap();
        assert_eq!(answer.summary(), "dog  95.3 %");
        assert_eq!(answer.fields(task.labels())["label"], "dog");
        let mut metrics = task.metrics();
        metrics.add(origin.clone(), &[&[0.0, 3.0]], &Truth::Class(1)).unwrap();
        assert_eq!(metrics.metrics()[task.primary_metric().name], 1.0);
        assert_eq!((metrics.confusion().unwrap().len(), metrics.per_class().len()), (2, 2));
        let other = metrics.add(origin.clone(), &[&[0.0, 3.0]], &Truth::Boxes(Vec::new())).unwrap_err();
        assert_eq!(other.to_string(), "task classification takes a class");
        assert!(task.postprocess(origin, &[]).is_err());
        assert!(task.preprocess(Input::Image(&image), &mut [0.0; 3]).is_err());
    }
}
