//! The labelled inputs of one split, for a task of any kind.

use std::path::Path;

use espalier_tasks::{Image, Limits, Task, Truth};
use sha2::{Digest, Sha256};

use super::boxes::{self, Label};
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
pub struct Example {
    source: Source,
    label: Answerable,
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
        }
    }

    /// Identifies what is in the split, wherever it lies: SHA-256 of every stored input with what its labels say. One
    /// that cannot be read counts as empty.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for Example { source, label } in &self.list {
            let content = source.content(&Limits::default()).unwrap_or_default();
            let label = match label {
                Answerable::Class(class) => format!("class {class}"),
                Answerable::Boxes(label) => format!("{label:?}"),
            };
            for part in [&content[..], label.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        digest::finish(hash)
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
    let example =
        |sample: &Sample| Example { source: sample.source.clone(), label: Answerable::Class(sample.label) };
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
    let example = |(path, label)| Example { source: Source::File(path), label: Answerable::Boxes(label) };
    Ok(Examples { split, list: pictures.into_iter().map(example).collect(), skipped: Vec::new() })
}

impl Example {
    /// The file's path, or the IDX file's name and the row.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Reads and decodes the input, and says what it truly is.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, or that is not the one its labels are for.
    pub fn load(&self, limits: &Limits) -> Result<(Image, Truth), DataError> {
        let image = self.source.image(limits)?;
        let truth = match &self.label {
            Answerable::Class(class) => Truth::Class(*class),
            Answerable::Boxes(label) => {
                let boxes = label.for_size([image.height, image.width]);
                Truth::Boxes(boxes.map_err(|reason| self.source.error(reason))?)
            }
        };
        Ok((image, truth))
    }
}
