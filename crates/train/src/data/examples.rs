//! The labelled inputs of one split, for a task of any kind.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use espalier_tasks::series::Follows;
use espalier_tasks::{Anomaly, Content, Limits, Task, Truth, Window};
use sha2::{Digest, Sha256};

use super::boxes::{self, Label};
use super::series::{Series, SeriesSet};
use super::{DataError, Dataset, Sample, Skipped, Source, Split, index_of, name_of, survey};

use crate::digest;

/// One split, with truths of the kind that a task is measured by.
#[derive(Debug)]
pub struct Examples {
    /// Which split.
    pub split: Split,
    /// The inputs.
    pub list: Vec<Example>,
    /// Files that take no part, and why.
    pub skipped: Vec<Skipped>,
}

/// One input and what it truly is.
#[derive(Clone, Debug)]
pub struct Example(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A picture, which is read when it is needed.
    Picture { source: Source, label: Answerable },
    /// A window of a series.
    Window(Windowed),
}

/// A window, and where its newest row is.
#[derive(Clone, Debug)]
struct Windowed {
    series: Arc<Series>,
    /// Number of the newest row.
    row: usize,
    window: Window,
    label: Option<usize>,
    labels: Option<usize>,
}

/// What labels say of an input before it is read.
#[derive(Clone, Debug)]
enum Answerable {
    Class(usize),
    Boxes(Label),
}

impl Examples {
    /// The examples of a split of the data that `spec` names, classes numbered as the task's labels.
    ///
    /// # Errors
    /// Data of another kind than the task's; no such split; labels that cannot be read; a class that the task does not
    /// know.
    pub fn open(spec: &str, split: Split, task: &Task) -> Result<Examples, DataError> {
        match task {
            Task::ClassifyImage(task) => classes(spec, split, &task.labels),
            Task::Detect(task) => with_boxes(Path::new(spec), split, &task.labels),
            Task::Anomaly(task) => {
                let set = SeriesSet::open(Path::new(spec), Some(&task.row_columns()), None)?;
                set.require(split)?;
                Ok(windows(&set, split, task))
            }
        }
    }

    /// Identifies what is in the split, wherever it lies: SHA-256 of every stored input with what its labels say. One
    /// that cannot be read counts as empty.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for Example(kind) in &self.list {
            let (content, label) = match kind {
                Kind::Picture { source, label: Answerable::Class(class) } => {
                    (source.content(&Limits::default()).unwrap_or_default(), format!("class {class}"))
                }
                Kind::Picture { source, label: Answerable::Boxes(label) } => {
                    (source.content(&Limits::default()).unwrap_or_default(), format!("{label:?}"))
                }
                Kind::Window(Windowed { window, label, labels, .. }) => {
                    let bytes = window.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    (Cow::Owned(bytes), format!("{:?} {label:?} of {labels:?}", window.follows))
                }
            };
            for part in [&content[..], label.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        digest::finish(hash)
    }

    /// Whether nobody said where something was wrong, in series that are to be measured by that.
    pub fn is_unlabelled(&self) -> bool {
        let unlabelled =
            |example: &Example| matches!(&example.0, Kind::Window(found) if found.labels.is_none());
        !self.list.is_empty() && self.list.iter().all(unlabelled)
    }

    /// Labels each series with runs of windows: where `alarms`, one for each window, says so.
    pub fn label(&mut self, alarms: &[bool]) {
        let mut before = (false, 0);
        let mut starts = Vec::new();
        for (at, (Example(kind), &alarm)) in self.list.iter_mut().zip(alarms).enumerate() {
            let Kind::Window(found) = kind else { continue };
            if found.window.follows == Follows::Nothing {
                (before, starts) = ((false, 0), [starts, vec![at]].concat());
            }
            if alarm && !before.0 {
                before.1 += 1;
            }
            before.0 = alarm;
            found.label = alarm.then(|| before.1 - 1);
            found.labels = Some(before.1);
        }
        // The number of labels is only known at the end of each series.
        for range in starts.iter().zip(starts.iter().skip(1).chain([&self.list.len()])) {
            let series = &mut self.list[*range.0..*range.1];
            let total = series.last().and_then(|Example(kind)| match kind {
                Kind::Window(found) => found.labels,
                Kind::Picture { .. } => None,
            });
            for Example(kind) in series {
                if let Kind::Window(found) = kind {
                    found.labels = total;
                }
            }
        }
    }

    /// Refuses the split where more of its inputs could not be read than may be overlooked.
    pub(crate) fn check_readable(&self, unreadable: &[Skipped]) -> Result<(), DataError> {
        survey::check_readable(self.split, self.list.len(), &unreadable.iter().collect::<Vec<_>>())
    }
}

fn classes(spec: &str, split: Split, labels: &[String]) -> Result<Examples, DataError> {
    let mut dataset = Dataset::open(spec)?;
    dataset.require(split)?;
    dataset.match_labels(labels)?;
    let example = |sample: &Sample| {
        Example(Kind::Picture { source: sample.source.clone(), label: Answerable::Class(sample.label) })
    };
    let list = dataset.split(split).iter().map(example).collect();
    Ok(Examples { split, list, skipped: dataset.skipped })
}

fn with_boxes(path: &Path, split: Split, labels: &[String]) -> Result<Examples, DataError> {
    if !path.exists() {
        return Err(DataError::NotFound(path.to_owned()));
    }
    let boxes::Boxes { classes, mut pictures } = boxes::open(path, split)?;
    // A class that never occurs need not be known.
    let place = format!("dataset {}", name_of(path));
    let mut numbers: Vec<Option<usize>> = vec![None; classes.len()];
    for found in pictures.iter_mut().flat_map(|(_, label)| &mut label.boxes) {
        let number = &mut numbers[found.class];
        found.class = match *number {
            Some(known) => known,
            None => *number.insert(index_of(&classes[found.class], labels, &place)?),
        };
    }
    let example = |(path, label)| {
        Example(Kind::Picture { source: Source::File(path), label: Answerable::Boxes(label) })
    };
    Ok(Examples { split, list: pictures.into_iter().map(example).collect(), skipped: Vec::new() })
}

/// The windows of a split, as the device would cut them.
pub(crate) fn windows(set: &SeriesSet, split: Split, task: &Anomaly) -> Examples {
    let mut list = Vec::new();
    for series in set.split(split) {
        let (mut windows, labels) = (task.windows(), series.labels.as_ref().map(Vec::len));
        for (row, at) in series.rows.iter().zip(0..) {
            if let Some(window) = windows.push(row) {
                let label = series.label(row.time);
                let found = Windowed { series: series.clone(), row: at, window, label, labels };
                list.push(Example(Kind::Window(found)));
            }
        }
    }
    Examples { split, list, skipped: set.skipped.clone() }
}

impl Example {
    /// The file's path, or the IDX file's name and the row, or the series and the number of the newest row.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Picture { source, .. } => source.name(),
            Kind::Window(Windowed { series, row, .. }) => format!("{}[{row}]", series.name),
        }
    }

    /// The window of a series, where it is one.
    pub fn window(&self) -> Option<&Window> {
        match &self.0 {
            Kind::Picture { .. } => None,
            Kind::Window(found) => Some(&found.window),
        }
    }

    /// Reads and decodes the input, and says what it truly is.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, or that is not the one its labels are for.
    pub fn load(&self, limits: &Limits) -> Result<(Content, Truth), DataError> {
        let (source, label) = match &self.0 {
            Kind::Picture { source, label } => (source, label),
            Kind::Window(Windowed { window, label, labels, .. }) => {
                let truth = Truth::Series { label: *label, labels: *labels };
                return Ok((Content::Window(window.clone()), truth));
            }
        };
        let image = source.image(limits)?;
        let truth = match label {
            Answerable::Class(class) => Truth::Class(*class),
            Answerable::Boxes(label) => {
                let boxes = label.for_size([image.height, image.width]);
                Truth::Boxes(boxes.map_err(|reason| source.error(reason))?)
            }
        };
        Ok((Content::Image(image), truth))
    }
}
