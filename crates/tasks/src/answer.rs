//! What a task says about one input: as JSON, in words, and drawn.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::anomaly::Reading;
use crate::classification::Prediction;
use crate::detect::Detection;
use crate::draw::Canvas;
use crate::image::Image;

/// What a task says about one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of the classification tasks.
    Label(Prediction),
    /// Of detect: the boxes, the surest first.
    Boxes(Vec<Detection>),
    /// Of anomaly.
    Reading(Reading),
}

impl Answer {
    /// The answer as keys and values of JSON; `labels` are the task's.
    pub fn fields(&self, labels: &[String]) -> Map<String, Value> {
        let value = match self {
            Answer::Label(Prediction { label, confidence, scores, .. }) => {
                let scores = labels.iter().cloned().zip(scores.iter().map(|&score| score.into()));
                json!({"label": label, "confidence": confidence, "scores": scores.collect::<Map<_, _>>()})
            }
            Answer::Boxes(boxes) => {
                let hundredths = |v: f32| (f64::from(v) * 100.0).round() / 100.0;
                let one = |Detection { label, confidence, bounds, .. }: &Detection| json!({"label": label, "confidence": confidence, "box": bounds.map(hundredths)});
                json!({"boxes": boxes.iter().map(one).collect::<Vec<_>>()})
            }
            Answer::Reading(reading) => {
                let rounded = reading.score.map(|score| (score * 1e4).round() / 1e4);
                let mut value = json!(reading);
                value["score"] = rounded.into();
                value
            }
        };
        if let Value::Object(fields) = value { fields } else { Map::new() }
    }

    /// The answer in words, on one line.
    pub fn summary(&self) -> String {
        match self {
            Answer::Label(answer) => format!("{}  {:.1} %", answer.label, answer.confidence * 100.0),
            Answer::Boxes(boxes) if boxes.is_empty() => "nothing found".to_owned(),
            Answer::Boxes(boxes) => {
                let one = |Detection { label, confidence, bounds, .. }: &Detection| {
                    let [left, top, right, bottom] = bounds.map(f32::round);
                    format!("{label} {:.1} % at {left},{top} to {right},{bottom}", confidence * 100.0)
                };
                boxes.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Answer::Reading(Reading { score: None, .. }) => "too few rows so far".to_owned(),
            Answer::Reading(Reading { score: Some(score), alarm, column, values, .. }) => {
                let column = column.as_deref().filter(|_| *alarm && values.len() > 1);
                let column = column.map(|name| format!(" in {name}")).unwrap_or_default();
                let values: Vec<String> =
                    values.iter().map(|(name, value)| format!("{name} {value}")).collect();
                let word = if *alarm { "ALARM" } else { "usual" };
                format!("{word}{column}  score {score:.2}  {}", values.join(", ")).trim_end().to_owned()
            }
        }
    }

    /// Draws the answer into the picture that it is about.
    pub fn draw(&self, image: &mut Image) {
        let mut canvas = Canvas::new(image);
        match self {
            Answer::Label(answer) => canvas.text(&caption(&answer.label, answer.confidence), answer.index),
            // The surest last, so that nothing lies over it.
            Answer::Boxes(boxes) => boxes.iter().rev().for_each(|found| {
                canvas.labelled(found.bounds, &caption(&found.label, found.confidence), found.class);
            }),
            Answer::Reading(reading) => canvas.text(&self.summary(), usize::from(reading.alarm)),
        }
    }
}

fn caption(label: &str, confidence: f32) -> String {
    format!("{label} {:.0}%", confidence * 100.0)
}
