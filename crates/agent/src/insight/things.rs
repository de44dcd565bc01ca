//! What an answer says is there.

use espalier_tasks::Answer;

/// One thing in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Thing<'a> {
    pub(super) label: &'a str,
    pub(super) confidence: f64,
    /// Its box in shares of the picture: left, top, right, bottom.
    pub(super) bounds: Option<[f64; 4]>,
}

/// The things that `answer` names; `size` is the height and width of the picture. Of a classifier it is one, the frame itself;
/// of a row of a series one where it is an alarm, as sure as its score is high.
pub(super) fn things(answer: &Answer, [height, width]: [usize; 2]) -> Vec<Thing<'_>> {
    match answer {
        Answer::Label(said) => {
            vec![Thing { label: &said.label, confidence: said.confidence.into(), bounds: None }]
        }
        Answer::Boxes(boxes) => boxes
            .iter()
            .map(|found| {
                let [left, top, right, bottom] = found.bounds.map(f64::from);
                let (width, height) = (width.max(1) as f64, height.max(1) as f64);
                let bounds = [left / width, top / height, right / width, bottom / height];
                let label = &found.label;
                Thing { label, confidence: found.confidence.into(), bounds: Some(bounds) }
            })
            .collect(),
        Answer::Reading(reading) => {
            let score = reading.score.filter(|_| reading.alarm);
            let label = reading.column.as_deref().unwrap_or_default();
            score.map(|confidence| Thing { label, confidence, bounds: None }).into_iter().collect()
        }
    }
}
