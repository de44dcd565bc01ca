//! The task detect: boxes around the things in an image.
//!
//! The network's outputs are read by a [`Head`], overlapping boxes of a class are suppressed, and what is left is brought
//! back to the pixels of the picture. Nothing of this is part of the graph.

mod average_precision;
mod head;
mod priors;
mod suppress;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::average_precision::{Evaluation, Found};
use self::head::Hit;
use self::suppress::{Candidate, suppress};
use crate::picture_input::PictureInput;
use crate::resize::Placement;
use crate::{ClassScores, TaskError, check_labels, ensure};

pub use average_precision::TrueBox;
pub use head::Head;
pub use priors::{Level, Priors};

pub(crate) const KIND: &str = "detect";

/// The metric that stands for a detector.
pub(crate) const PRIMARY: &str = "mAP50-95";

/// Most boxes that suppression looks at, for one picture: the surest.
const CANDIDATES_MAX: usize = 30_000;

/// Metrics look at every box from this confidence on: what precision costs is seen on the curve.
const CONFIDENCE_MEASURED: f32 = 0.001;

/// How an image becomes the input tensor, and how outputs become boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detect {
    /// From image to tensor.
    #[serde(flatten)]
    pub input: PictureInput,
    /// The class names, in the order of the class scores.
    pub labels: Vec<String>,
    /// The form of the outputs.
    pub head: Head,
    /// Answers hold boxes from this confidence on.
    pub confidence: f32,
    /// Of boxes of one class whose intersection over union is larger, the surest stays.
    pub iou: f32,
    /// Most boxes for one picture: the surest.
    pub boxes_max: usize,
}

/// A thing in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The name of its class.
    pub label: String,
    /// How sure the network is, 0 to 1.
    pub confidence: f32,
    /// Left, top, right, bottom in pixels of the picture.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
    /// Index of its class among the task's labels.
    #[serde(skip)]
    pub class: usize,
}

/// Which boxes are wanted of an image.
#[derive(Clone, Copy)]
struct Wanted {
    confidence: f32,
    /// Every class that an anchor may hold, else the surest alone.
    every_class: bool,
}

impl Detect {
    /// A detector with the usual settings of its head: what its authors feed it, and which boxes they keep.
    pub fn new(head: Head, size: [usize; 2], labels: Vec<String>) -> Self {
        use crate::Fit::{Letterbox, Stretch};
        let input = PictureInput::new(size, vec![0.0; 3], vec![1.0; 3]);
        let (input, confidence, iou) = match head {
            Head::Yolov5 => (PictureInput { fit: Letterbox, ..input }, 0.25, 0.45),
            Head::Yolov8 => (PictureInput { fit: Letterbox, ..input }, 0.25, 0.7),
            Head::Fastestdet => (PictureInput { fit: Stretch, bgr: true, ..input }, 0.65, 0.45),
            Head::Ultraface { .. } => {
                let (mean, std) = (vec![127.0 / 255.0; 3], vec![128.0 / 255.0; 3]);
                (PictureInput { fit: Stretch, mean, std, ..input }, 0.7, 0.3)
            }
        };
        Detect { input, labels, head, confidence, iou, boxes_max: 300 }
    }

    /// Refuses settings that contradict themselves, saying which and why.
    pub fn validate(&self) -> Result<(), TaskError> {
        self.input.validate(KIND)?;
        check_labels(KIND, &self.labels, 1)?;
        self.head.validate(KIND)?;
        head::check_grid(KIND, &self.head, self.input.size)?;
        for (name, value) in [("confidence", self.confidence), ("iou", self.iou)] {
            let share = (0.0..=1.0).contains(&value);
            ensure(KIND, share, || format!("{name} is {value}, must be 0 to 1"))?;
        }
        let boxes = (1..=CANDIDATES_MAX).contains(&self.boxes_max);
        ensure(KIND, boxes, || format!("boxes_max is {}, must be 1 to {CANDIDATES_MAX}", self.boxes_max))
    }

    /// The boxes in a picture of `size` (height, width), the surest first; one class for each place.
    pub fn postprocess(&self, size: [usize; 2], outputs: &[&[f32]]) -> Result<Vec<Detection>, TaskError> {
        let wanted = Wanted { confidence: self.confidence, every_class: false };
        let found = self.find(size, outputs, wanted)?;
        let detection = |found: Found| Detection {
            label: self.labels[found.class].clone(),
            confidence: found.score,
            bounds: found.bounds.map(|v| v as f32),
            class: found.class,
        };
        Ok(found.into_iter().map(detection).collect())
    }

    fn find(&self, size: [usize; 2], outputs: &[&[f32]], wanted: Wanted) -> Result<Vec<Found>, TaskError> {
        let (classes, input) = (self.labels.len(), self.input.size);
        let anchors = self.head.anchors(outputs, input, classes)?;
        let mut hits = self.head.hits(outputs, anchors, classes, wanted.confidence);
        if !wanted.every_class {
            surest_classes(&mut hits);
        }
        hits.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then((a.anchor, a.class).cmp(&(b.anchor, b.class)))
        });
        hits.truncate(CANDIDATES_MAX);
        let candidate = |hit: Hit| Candidate {
            bounds: self.head.bounds(outputs, anchors, hit.anchor, input),
            class: hit.class,
            score: hit.score,
        };
        let candidates = hits.into_iter().map(candidate).filter(|c| has_area(c.bounds));
        let kept = suppress(candidates, self.iou, self.boxes_max);
        let placement = Placement::new(size, input, self.input.fit);
        let found = kept.into_iter().map(|Candidate { bounds, class, score }| {
            let [left, top, right, bottom] = bounds.map(f64::from);
            let corners = [[left, top], [right, bottom]].map(|corner| within(placement.source(corner), size));
            Found { class, score, bounds: [corners[0][0], corners[0][1], corners[1][0], corners[1][1]] }
        });
        // What lies wholly in the margin of a letterbox is not in the picture.
        Ok(found.filter(|f| f.bounds[0] < f.bounds[2] && f.bounds[1] < f.bounds[3]).collect())
    }
}

/// Of each anchor the class with the highest score, of equal ones the first.
fn surest_classes(hits: &mut Vec<Hit>) {
    hits.sort_unstable_by(|a, b| {
        a.anchor.cmp(&b.anchor).then(b.score.total_cmp(&a.score)).then(a.class.cmp(&b.class))
    });
    hits.dedup_by_key(|hit| hit.anchor);
}

/// False for what is empty, turned over, or no number.
fn has_area([left, top, right, bottom]: [f32; 4]) -> bool {
    left < right && top < bottom && [left, top, right, bottom].iter().all(|v| v.is_finite())
}

fn within(point: [f64; 2], [height, width]: [usize; 2]) -> [f64; 2] {
    [point[0].clamp(0.0, width as f64), point[1].clamp(0.0, height as f64)]
}

/// Average precision by COCO's rules, gathered picture by picture.
#[derive(Clone, Debug)]
pub struct Metrics {
    task: Detect,
    evaluation: Evaluation,
    n: usize,
}

impl Metrics {
    /// Nothing gathered yet.
    pub fn new(task: &Detect) -> Self {
        Metrics { task: task.clone(), evaluation: Evaluation::new(task.labels.len()), n: 0 }
    }

    /// Adds the outputs for a picture of `size` (height, width) that truly holds `truth`. Every box counts whose confidence
    /// is at least 0.001, and every class of an anchor, as detectors are usually measured.
    pub fn add(&mut self, size: [usize; 2], outputs: &[&[f32]], truth: &[TrueBox]) -> Result<(), TaskError> {
        let classes = self.task.labels.len();
        let unknown = truth.iter().map(|t| t.class).find(|&class| class >= classes);
        ensure(KIND, unknown.is_none(), || {
            format!("class {} does not exist, there are {classes} classes", unknown.unwrap_or_default())
        })?;
        let wanted = Wanted { confidence: CONFIDENCE_MEASURED, every_class: true };
        let found = self.task.find(size, outputs, wanted)?;
        self.evaluation.add(&found, truth);
        self.n += 1;
        Ok(())
    }

    /// The number of pictures added.
    pub fn n(&self) -> usize {
        self.n
    }

    /// `mAP50` and `mAP50-95`: means over the classes that occur.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let [at_half, over_all] = self.evaluation.mean();
        [("mAP50".to_owned(), at_half), (PRIMARY.to_owned(), over_all)].into()
    }

    /// `AP50` and `AP50-95` of the classes that occur, those with most true boxes first.
    pub fn per_class(&self) -> Vec<ClassScores> {
        let scores = |class: usize| {
            let [at_half, over_all] = self.evaluation.class(class)?;
            let scores = vec![("AP50", at_half), ("AP50-95", over_all)];
            Some(ClassScores { label: self.task.labels[class].clone(), n: self.evaluation.n(class), scores })
        };
        let mut classes: Vec<ClassScores> = (0..self.task.labels.len()).filter_map(scores).collect();
        classes.sort_by_key(|class| Reverse(class.n));
        classes
    }
}
