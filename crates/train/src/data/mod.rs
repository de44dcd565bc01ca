//! Data: finding it, checking it, augmenting it, and feeding it to the step.
//!
//! [`Dataset::open`] recognises what DATA is and lists its splits; [`Dataset::survey`] reads every image once, sets
//! the unreadable ones aside and measures the rest ([`Dataset::examine`] looks for near-duplicates too);
//! [`Images::load`] brings one split to a task's input size; and
//! [`Loader`] makes batches of it, ahead of the step, so that any batch can be made again from (seed, epoch, number).
//! [`Examples`] are the inputs and truths of one split for a task of any kind, boxes among them.

mod augment;
mod boxes;
pub mod duplicates;
mod examples;
mod fingerprint;
mod folder;
mod idx;
mod images;
mod loader;
mod near;
pub(crate) mod parallel;
pub mod series;
mod split;
mod statistics;
mod survey;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_tasks::{Image, ImageError, Limits, TaskError, decode};
use serde::{Deserialize, Serialize};

pub use augment::{Augment, Edge, Geometric, Jitter, Level};
pub use boxes::{Boxes, Label, read_coco, read_yolo};
pub(crate) use examples::windows;
pub use examples::{Example, Examples};
pub use idx::samples as read_idx;
pub use images::{CACHE_BYTES, Images};
pub use loader::{Batch, Batches, Loader, Options, Sampling};
pub use statistics::{Range, Statistics};
pub use survey::{IMBALANCE, Options as SurveyOptions, Survey};

/// The forms of DATA, for error messages.
const FORMS: &str = "a folder with train|val|test/CLASS/IMAGES or CLASS/IMAGES, a folder with IDX files \
    (NAME-images-idx3-ubyte[.gz] and NAME-labels-idx1-ubyte[.gz]), builtin:mnist-5k, or series (.csv or .jsonl, one file or a \
    folder)";

/// One part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the network learns from.
    Train,
    /// What decides when it is good.
    Val,
    /// What nothing was decided by.
    Test,
}

impl Split {
    /// All of them, in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// The name on the command line and of the folder.
    pub fn name(self) -> &'static str {
        ["train", "val", "test"][self as usize]
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Labelled images in up to three splits.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// The folder's name, or that of the built-in set.
    pub name: String,
    /// The class names, sorted (numbers by value for IDX); labels are indices into them.
    pub classes: Vec<String>,
    /// The samples of train, val and test; an absent split is empty.
    splits: [Vec<Sample>; 3],
    /// Files that take no part, and why.
    pub skipped: Vec<Skipped>,
    /// What is odd but no error: a class missing in val, an image that occurs in two splits.
    pub warnings: Vec<String>,
}

/// One labelled image.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where its bytes are.
    pub source: Source,
    /// Index of its class.
    pub label: usize,
}

/// Where the bytes of an image are.
#[derive(Clone, Debug)]
pub enum Source {
    /// An encoded file.
    File(Arc<Path>),
    /// One picture of an IDX file.
    Row(Arc<Rows>, usize),
}

/// The grey pictures of an IDX file, all of one size.
#[derive(Debug)]
pub struct Rows {
    pub(crate) name: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u8>,
}

/// A file that takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file, folder or row.
    pub name: String,
    /// The split of an image that cannot be read; `None` for what is no image of the dataset.
    pub split: Option<Split>,
    /// Why.
    pub reason: String,
}

/// Why data cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DataError {
    /// Nothing is at this path.
    #[error("{} does not exist; data is {FORMS}", .0.display())]
    NotFound(PathBuf),
    /// Something is there, of no known form.
    #[error("{}: {reason}; data is {FORMS}", path.display())]
    Unrecognised {
        /// The path given.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// Boxes, where pictures with one class each are needed.
    #[error(
        "{} holds boxes ({form}): `val` measures detectors on it, training learns to classify and cannot use it; data for that \
         is {FORMS}", path.display()
    )]
    Boxes {
        /// The path given.
        path: PathBuf,
        /// What kind of labels.
        form: &'static str,
    },
    /// Rows of numbers, where pictures are needed.
    #[error("{} holds series of numbers, and what it is to be used for takes pictures", .0.display())]
    Series(PathBuf),
    /// No boxes, where they are needed.
    #[error(
        "{} holds no boxes, which a detector is measured on: they come as a folder with data.yaml (YOLO), a folder with \
         annotations/*.json or SPLIT/_annotations.coco.json (COCO), or one such file", .0.display()
    )]
    NoBoxes(PathBuf),
    /// The dataset lacks the split that was asked for.
    #[error("dataset {dataset} has no {split} split")]
    NoSplit {
        /// The dataset's name.
        dataset: String,
        /// The absent split.
        split: Split,
    },
    /// A class without a readable training image.
    #[error("class {class:?} has no image in {split}")]
    EmptyClass {
        /// The class.
        class: String,
        /// The split.
        split: Split,
    },
    /// A class that training, or the model, does not know.
    #[error("class {class:?} of {place} is not among {}", some(known))]
    UnknownClass {
        /// The class.
        class: String,
        /// Where it occurs.
        place: String,
        /// The classes there are.
        known: Vec<String>,
    },
    /// More unreadable images than may be overlooked.
    #[error("{bad} of {n} images in {split} are unreadable (at most 1 % may be): {first}")]
    Unreadable {
        /// The split.
        split: Split,
        /// How many are unreadable.
        bad: usize,
        /// Of how many.
        n: usize,
        /// The first few with their reasons.
        first: String,
    },
    /// One image or file cannot be read.
    #[error("{name}: {reason}")]
    Read {
        /// The file or row.
        name: String,
        /// Why.
        reason: String,
    },
    /// The task refuses the images.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A loader's thread ended by a panic.
    #[error("a thread of the data loader panicked")]
    Worker,
}

impl DataError {
    /// Whether the command was called wrongly (exit status 2): what it names is not there or no data.
    pub fn is_usage(&self) -> bool {
        use DataError::{Boxes, NoBoxes, NoSplit, NotFound, Series, Unrecognised};
        matches!(
            self,
            Series(_) | NotFound(_) | Unrecognised { .. } | Boxes { .. } | NoBoxes(_) | NoSplit { .. }
        )
    }

    /// Why, without the name of the file.
    pub(crate) fn reason(self) -> String {
        match self {
            DataError::Read { reason, .. } => reason,
            other => other.to_string(),
        }
    }
}

impl Dataset {
    /// Recognises what `spec` is (a folder or `builtin:NAME`) and lists its samples; the same data always gives the
    /// same order and splits.
    ///
    /// `CLASS/IMAGES` folders are split 80/10/10 by a hash of the file name, so a file stays in its split when
    /// others come; where val is missing, a tenth of train is split off the same way. IDX files, which have no
    /// names, are split by each class's order.
    pub fn open(spec: &str) -> Result<Dataset, DataError> {
        if let Some(name) = spec.strip_prefix("builtin:") {
            return idx::builtin(name)?.checked();
        }
        let path = Path::new(spec);
        if !path.exists() {
            return Err(DataError::NotFound(path.to_owned()));
        }
        if series::is_series(path) {
            return Err(DataError::Series(path.to_owned()));
        }
        if let Some(form) = boxes::recognise(path) {
            return Err(DataError::Boxes { path: path.to_owned(), form: form.name() });
        }
        if !path.is_dir() {
            return Err(unrecognised(path, "not a folder"));
        }
        let pairs = idx::pairs(path)?;
        if pairs.is_empty() { folder::open(path)?.checked() } else { idx::open(path, pairs)?.checked() }
    }

    /// The samples of a split, none where it is absent.
    pub fn split(&self, split: Split) -> &[Sample] {
        &self.splits[split as usize]
    }

    /// The samples of a split that must be there.
    pub fn require(&self, split: Split) -> Result<&[Sample], DataError> {
        match self.split(split) {
            [] => Err(DataError::NoSplit { dataset: self.name.clone(), split }),
            samples => Ok(samples),
        }
    }

    /// Renumbers the classes as a model's `labels`, by name; a class that the model does not know is an error.
    pub fn match_labels(&mut self, labels: &[String]) -> Result<(), DataError> {
        let place = format!("dataset {}", self.name);
        let index = self
            .classes
            .iter()
            .map(|class| index_of(class, labels, &place))
            .collect::<Result<Vec<_>, _>>()?;
        self.splits.iter_mut().flatten().for_each(|sample| sample.label = index[sample.label]);
        self.classes = labels.to_vec();
        Ok(())
    }

    /// The sample at a place.
    pub fn sample(&self, member: duplicates::Member) -> &Sample {
        &self.splits[member.split as usize][member.index]
    }

    /// How many samples of each class a split has.
    pub fn counts(&self, split: Split) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.split(split).iter().for_each(|sample| counts[sample.label] += 1);
        counts
    }

    /// Refuses an empty class, and warns of one that val or test lacks.
    fn checked(mut self) -> Result<Dataset, DataError> {
        if self.split(Split::Train).is_empty() {
            return Ok(self);
        }
        if let Some(class) = self.lacking(Split::Train).first() {
            return Err(DataError::EmptyClass { class: class.clone(), split: Split::Train });
        }
        for split in [Split::Val, Split::Test] {
            let lacking = self.lacking(split);
            if !lacking.is_empty() && !self.split(split).is_empty() {
                self.warn(format!("{split} has no image of {lacking:?}"));
            }
        }
        Ok(self)
    }

    /// The classes without a sample in a split.
    fn lacking(&self, split: Split) -> Vec<String> {
        let counts = self.counts(split);
        self.classes.iter().zip(counts).filter(|(_, n)| *n == 0).map(|(class, _)| class.clone()).collect()
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

impl Sample {
    /// The file's path, or the IDX file's name and the row.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Reads and decodes the image.
    pub fn image(&self, limits: &Limits) -> Result<Image, DataError> {
        self.source.image(limits)
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Row(rows, index) => format!("{}[{index}]", rows.name),
        }
    }

    /// The stored bytes: a file's content, or a row's pixels.
    fn content(&self, limits: &Limits) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Source::File(path) => read_file(path, limits.bytes).map(Cow::Owned).map_err(|e| self.error(e)),
            Source::Row(rows, index) => Ok(Cow::Borrowed(rows.row(*index))),
        }
    }

    fn decode(&self, content: Cow<'_, [u8]>, limits: &Limits) -> Result<Image, DataError> {
        let image = match self {
            Source::File(_) => decode(&content, limits),
            Source::Row(rows, _) => Image::new(rows.width, rows.height, 1, content.into_owned()),
        };
        image.map_err(|error: ImageError| self.error(error))
    }

    fn image(&self, limits: &Limits) -> Result<Image, DataError> {
        self.decode(self.content(limits)?, limits)
    }

    fn error(&self, reason: impl ToString) -> DataError {
        DataError::Read { name: self.name(), reason: reason.to_string() }
    }
}

impl Rows {
    fn row(&self, index: usize) -> &[u8] {
        let size = self.width * self.height;
        &self.pixels[index * size..(index + 1) * size]
    }
}

/// A whole file, unless it is larger than `limit` bytes.
fn read_file(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("the file is larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn index_of(class: &str, known: &[String], place: &str) -> Result<usize, DataError> {
    known.iter().position(|name| name == class).ok_or_else(|| DataError::UnknownClass {
        class: class.to_owned(),
        place: place.to_owned(),
        known: known.to_vec(),
    })
}

/// The first of many names.
fn some(names: &[String]) -> String {
    const MOST: usize = 12;
    match names.len() {
        ..=MOST => format!("{names:?}"),
        n => format!("{:?} and {} more", &names[..MOST], n - MOST),
    }
}

fn unrecognised(path: &Path, reason: &str) -> DataError {
    DataError::Unrecognised { path: path.to_owned(), reason: reason.to_owned() }
}

fn unreadable(path: &Path, reason: impl ToString) -> DataError {
    DataError::Read { name: path.display().to_string(), reason: reason.to_string() }
}

/// The last part of a path, as text.
fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
