//! What the outputs of a detector's network mean: which anchors hold something, and where their boxes lie.

use serde::{Deserialize, Serialize};

use super::priors::Priors;
use crate::{TaskError, check_length, ensure};

/// Pixels of the input for one cell of FastestDet's grid.
const FASTESTDET_STRIDE: usize = 16;

/// The form of a detector's outputs, for one input. C is the number of classes, A the number of anchors, which is
/// whatever the network has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// `[A, 5 + C]`: centre, width and height in pixels of the input, objectness, class scores; the score of a class is
    /// objectness times class score. YOLOv5, YOLOv7 and their like, decoded in the graph.
    Yolov5,
    /// `[4 + C, A]`: centre, width and height in pixels of the input, class scores. YOLOv8, YOLO11 and their like.
    Yolov8,
    /// `[5 + C, H / 16, W / 16]`: objectness, four numbers that give the box, class scores. The score of a class is
    /// objectness^0.6 times class score^0.4; the box in cells has its centre at tanh of the first two numbers plus the
    /// cell, and in shares of the input the sides sigmoid of the others (FastestDet).
    Fastestdet,
    /// Two outputs, scores `[A, 1 + C]`, the background's first, and boxes `[A, 4]`: corners in shares of the input, or
    /// where `priors` are given, offsets from these (UltraFace, and single-shot detectors like it).
    Ultraface {
        /// The boxes that the network's offsets start from; absent where the graph decodes them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priors: Option<Priors>,
    },
}

/// A class that an anchor holds with enough confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    pub(crate) anchor: usize,
    pub(crate) class: usize,
    pub(crate) score: f32,
}

impl Head {
    /// The name as on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Head::Yolov5 => "yolov5",
            Head::Yolov8 => "yolov8",
            Head::Fastestdet => "fastestdet",
            Head::Ultraface { .. } => "ultraface",
        }
    }

    /// What outputs it reads, in words.
    pub fn wants(&self, size: [usize; 2], classes: usize) -> String {
        match self {
            Head::Yolov5 => format!("one of shape [1, A, {}]", 5 + classes),
            Head::Yolov8 => format!("one of shape [1, {}, A]", 4 + classes),
            Head::Fastestdet => {
                let [height, width] = grid(size);
                format!("one of shape [1, {}, {height}, {width}]", 5 + classes)
            }
            Head::Ultraface { .. } => format!("scores [1, A, {}] and boxes [1, A, 4]", 1 + classes),
        }
    }

    /// Whether outputs of these shapes, for a batch of one, have this form.
    pub fn fits(&self, size: [usize; 2], classes: usize, shapes: &[&[usize]]) -> bool {
        match (self, shapes) {
            (Head::Yolov5, &[&[1, _, row]]) => row == 5 + classes,
            (Head::Yolov8, &[&[1, rows, _]]) => rows == 4 + classes,
            (Head::Fastestdet, &[&[1, planes, height, width]]) => {
                planes == 5 + classes && [height, width] == grid(size)
            }
            (Head::Ultraface { priors }, &[&[1, anchors, row], &[1, boxes, 4]]) => {
                let counted = priors.as_ref().is_none_or(|priors| priors.count(size) == anchors);
                anchors == boxes && row == 1 + classes && counted
            }
            _ => false,
        }
    }

    pub(crate) fn validate(&self, kind: &'static str) -> Result<(), TaskError> {
        match self {
            Head::Ultraface { priors: Some(priors) } => priors.validate(kind),
            _ => Ok(()),
        }
    }

    /// How many anchors the outputs have.
    ///
    /// # Errors
    /// Outputs of another form.
    pub(crate) fn anchors(
        &self,
        outputs: &[&[f32]],
        size: [usize; 2],
        classes: usize,
    ) -> Result<usize, TaskError> {
        let of = |output: &[f32], row: usize| {
            let anchors = output.len() / row;
            check_length("an output of the detector", output.len(), anchors * row).map(|()| anchors)
        };
        match (self, outputs) {
            (Head::Yolov5, &[output]) => of(output, 5 + classes),
            (Head::Yolov8, &[output]) => of(output, 4 + classes),
            (Head::Fastestdet, &[output]) => {
                let cells = grid(size).iter().product();
                check_length("the output of the detector", output.len(), cells * (5 + classes))?;
                Ok(cells)
            }
            (Head::Ultraface { priors }, &[scores, boxes]) => {
                let anchors = of(scores, 1 + classes)?;
                check_length("the boxes of the detector", boxes.len(), 4 * anchors)?;
                let wanted = priors.as_ref().map_or(anchors, |priors| priors.count(size));
                check_length("the detector's anchors", anchors, wanted)?;
                Ok(anchors)
            }
            (head, outputs) => {
                let expected = if matches!(head, Head::Ultraface { .. }) { 2 } else { 1 };
                check_length("the list of outputs", outputs.len(), expected).map(|()| 0)
            }
        }
    }

    /// Every class of every anchor whose score is at least `least`, anchors in no particular order. `outputs` are as
    /// [`anchors`](Self::anchors) has checked them. NaN is no hit.
    pub(crate) fn hits(&self, outputs: &[&[f32]], anchors: usize, classes: usize, least: f32) -> Vec<Hit> {
        let mut hits = Vec::new();
        match self {
            Head::Yolov5 => {
                for (anchor, row) in outputs[0].chunks_exact(5 + classes).enumerate() {
                    let gate = row[4];
                    if gate >= least {
                        let scores = row[5..].iter().map(|&score| gate * score);
                        hits.extend(above(scores, least).map(|(class, score)| Hit { anchor, class, score }));
                    }
                }
            }
            Head::Yolov8 => {
                for (class, plane) in outputs[0][4 * anchors..].chunks_exact(anchors.max(1)).enumerate() {
                    let scores = plane.iter().copied();
                    hits.extend(above(scores, least).map(|(anchor, score)| Hit { anchor, class, score }));
                }
            }
            Head::Fastestdet => {
                // Powers are dear: a class score is compared with the one that would just do.
                let gates: Vec<f32> =
                    outputs[0][..anchors].iter().map(|&objectness| objectness.powf(0.6)).collect();
                let needed: Vec<f32> = gates.iter().map(|gate| (least / gate).powf(2.5)).collect();
                for (class, plane) in outputs[0][5 * anchors..].chunks_exact(anchors.max(1)).enumerate() {
                    for (anchor, (&score, &needed)) in plane.iter().zip(&needed).enumerate() {
                        if score >= needed {
                            hits.push(Hit { anchor, class, score: gates[anchor] * score.powf(0.4) });
                        }
                    }
                }
            }
            Head::Ultraface { .. } => {
                for (anchor, row) in outputs[0].chunks_exact(1 + classes).enumerate() {
                    let scores = row[1..].iter().copied();
                    hits.extend(above(scores, least).map(|(class, score)| Hit { anchor, class, score }));
                }
            }
        }
        hits
    }

    /// The box of an anchor as left, top, right, bottom in pixels of the input of `size` (height, width).
    pub(crate) fn bounds(
        &self,
        outputs: &[&[f32]],
        anchors: usize,
        anchor: usize,
        size: [usize; 2],
    ) -> [f32; 4] {
        let [height, width] = size.map(|side| side as f32);
        match self {
            Head::Yolov5 => {
                let row = outputs[0].len() / anchors;
                let at = &outputs[0][anchor * row..];
                corners([at[0], at[1], at[2], at[3]])
            }
            Head::Yolov8 => corners([0, 1, 2, 3].map(|i| outputs[0][i * anchors + anchor])),
            Head::Fastestdet => {
                let [rows, columns] = grid(size);
                let [x, y, w, h] = [1, 2, 3, 4].map(|i| outputs[0][i * anchors + anchor]);
                let cell = [anchor % columns, anchor / columns].map(|at| at as f32);
                corners([
                    (x.tanh() + cell[0]) / columns as f32 * width,
                    (y.tanh() + cell[1]) / rows as f32 * height,
                    sigmoid(w) * width,
                    sigmoid(h) * height,
                ])
            }
            Head::Ultraface { priors } => {
                let stored: [f32; 4] = std::array::from_fn(|i| outputs[1][4 * anchor + i]);
                let [left, top, right, bottom] = match priors {
                    Some(priors) => corners(priors.decode(stored, anchor, size)),
                    None => stored,
                };
                [left * width, top * height, right * width, bottom * height]
            }
        }
    }
}

/// Rows and columns of FastestDet's cells.
fn grid(size: [usize; 2]) -> [usize; 2] {
    size.map(|side| side / FASTESTDET_STRIDE)
}

fn above(scores: impl Iterator<Item = f32>, least: f32) -> impl Iterator<Item = (usize, f32)> {
    scores.enumerate().filter(move |&(_, score)| score >= least)
}

/// Centre and sides to corners.
fn corners([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Refuses an input that FastestDet's grid does not divide.
pub(crate) fn check_grid(kind: &'static str, head: &Head, size: [usize; 2]) -> Result<(), TaskError> {
    let divides = *head != Head::Fastestdet || size.iter().all(|side| side % FASTESTDET_STRIDE == 0);
    ensure(kind, divides, || format!("size is {size:?}, fastestdet needs multiples of {FASTESTDET_STRIDE}"))
}
