//! Pictures with boxes: YOLO's `data.yaml` with a text file of labels for each picture, and COCO's JSON.

mod coco;
mod yolo;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_tasks::TrueBox;

use super::{DataError, Split, name_of};

pub use coco::pictures as read_coco;
pub use yolo::labels as read_yolo;

/// Pictures and the boxes in them.
#[derive(Debug)]
pub struct Boxes {
    /// The class names; a box's class is an index into them.
    pub classes: Vec<String>,
    /// Where each picture is, and what is in it.
    pub pictures: Vec<(Arc<Path>, Label)>,
}

/// The boxes of one picture as its labels have them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Label {
    /// The boxes.
    pub boxes: Vec<TrueBox>,
    /// Height and width of the picture that the boxes are given in pixels of; absent where they are given in shares of
    /// whatever size it has.
    pub size: Option<[usize; 2]>,
}

impl Label {
    /// The boxes in pixels of a picture of `size` (height, width), or why they are not of that picture.
    pub(super) fn for_size(&self, size: [usize; 2]) -> Result<Vec<TrueBox>, String> {
        match self.size {
            Some(known) if known != size => {
                let ([h, w], [height, width]) = (known, size);
                Err(format!("the labels are for {w}x{h} pixels, the picture has {width}x{height}"))
            }
            Some(_) => Ok(self.boxes.clone()),
            None => {
                let scale = [size[1], size[0], size[1], size[0]].map(|side| side as f64);
                let scaled = |b: &TrueBox| TrueBox {
                    bounds: std::array::from_fn(|i| b.bounds[i] * scale[i]),
                    ..b.clone()
                };
                Ok(self.boxes.iter().map(scaled).collect())
            }
        }
    }
}

/// What kind of labels are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// This `data.yaml`.
    Yolo(PathBuf),
    /// This file, or a folder that has one for each split.
    Coco(PathBuf),
}

impl Form {
    /// In words.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Form::Yolo(_) => "YOLO labels",
            Form::Coco(_) => "COCO labels",
        }
    }
}

/// The labels with boxes at `path`, if there are any.
pub(super) fn recognise(path: &Path) -> Option<Form> {
    if path.is_dir() {
        let yaml = path.join("data.yaml");
        let coco = || coco::files(path).into_iter().next();
        return if yaml.is_file() { Some(Form::Yolo(yaml)) } else { coco().map(|_| Form::Coco(path.into())) };
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Form::Yolo(path.into())),
        "json" => Some(Form::Coco(path.into())),
        _ => None,
    }
}

/// The pictures of a split of the dataset at `path`, with their boxes.
pub(super) fn open(path: &Path, split: Split) -> Result<Boxes, DataError> {
    let boxes = match recognise(path) {
        Some(Form::Yolo(yaml)) => yolo::open(&yaml, split)?,
        Some(Form::Coco(at)) => coco::open(&at, split)?,
        None => return Err(DataError::NoBoxes(path.into())),
    };
    match boxes.pictures.is_empty() {
        true => Err(DataError::NoSplit { dataset: name_of(path), split }),
        false => Ok(boxes),
    }
}
