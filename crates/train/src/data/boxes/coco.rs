//! COCO's form: one JSON file for each split lists pictures, boxes (left, top, width, height in pixels) and classes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use espalier_tasks::TrueBox;
use serde::Deserialize;

use super::{Boxes, Label};
use crate::data::folder::list;
use crate::data::{DataError, Split, name_of, unreadable};

/// Largest file in bytes.
const FILE_MAX: u64 = 2 << 30;

#[derive(Deserialize)]
struct Document {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Picture {
    id: i64,
    file_name: String,
    width: usize,
    height: usize,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// Reads the JSON called `name`: pictures in the order of their numbers, with paths as they stand there. It is read as it
/// comes; what is kept takes no more memory than it.
///
/// # Errors
/// JSON of another form, with line and column; an annotation of an unknown picture or class; a path that leads out of the
/// folder; a number that occurs twice.
pub fn pictures(name: &str, json: impl Read) -> Result<Boxes, DataError> {
    let wrong = |reason: String| DataError::Read { name: name.to_owned(), reason };
    let document: Document =
        serde_json::from_reader(json).map_err(|e| wrong(format!("it is no COCO JSON: {e}")))?;
    let mut labels: BTreeMap<i64, (Arc<Path>, Label)> = BTreeMap::new();
    for picture in document.images {
        let (id, path) = (picture.id, Path::new(&picture.file_name));
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(wrong(format!(
                "image {id}: the file {:?} is not below the folder",
                picture.file_name
            )));
        }
        let label = Label { boxes: Vec::new(), size: Some([picture.height, picture.width]) };
        if labels.insert(id, (path.into(), label)).is_some() {
            return Err(wrong(format!("two images have the id {id}")));
        }
    }
    let numbers: BTreeMap<i64, usize> =
        document.categories.iter().enumerate().map(|(at, category)| (category.id, at)).collect();
    for (at, annotation) in document.annotations.iter().enumerate() {
        let wrong = |reason: String| wrong(format!("annotations[{at}]: {reason}"));
        let (_, label) = labels
            .get_mut(&annotation.image_id)
            .ok_or_else(|| wrong(format!("there is no image with the id {}", annotation.image_id)))?;
        let class = *numbers
            .get(&annotation.category_id)
            .ok_or_else(|| wrong(format!("there is no category with the id {}", annotation.category_id)))?;
        let [left, top, width, height] = annotation.bbox;
        let bounds = [left, top, left + width, top + height];
        // The `not` refuses what is no number; boxes without area are in COCO itself and are never found.
        if !(width >= 0.0 && height >= 0.0 && bounds.iter().all(|v| v.is_finite())) {
            return Err(wrong(format!("bbox {:?} is no left, top, width, height", annotation.bbox)));
        }
        label.boxes.push(TrueBox { class, bounds, crowd: annotation.iscrowd != 0 });
    }
    let classes = document.categories.into_iter().map(|category| category.name).collect();
    Ok(Boxes { classes, pictures: labels.into_values().collect() })
}

/// Reads the labels of a split: `at` is its file, or a folder that has one for each.
pub(super) fn open(at: &Path, split: Split) -> Result<Boxes, DataError> {
    let file = if at.is_dir() { file_of(at, split)? } else { at.to_owned() };
    let bytes = std::fs::metadata(&file).map_err(|e| unreadable(&file, e))?.len();
    if bytes > FILE_MAX {
        return Err(unreadable(&file, format!("it has {bytes} bytes, at most {FILE_MAX} are read")));
    }
    let reader = BufReader::with_capacity(1 << 20, File::open(&file).map_err(|e| unreadable(&file, e))?);
    let mut boxes = pictures(&file.display().to_string(), reader.take(FILE_MAX))?;
    let root = root(&file, boxes.pictures.first().map(|(path, _)| &**path))?;
    boxes.pictures.iter_mut().for_each(|(path, _)| *path = root.join(&*path).into());
    Ok(boxes)
}

/// The JSON files with labels in a folder: `annotations/*.json`, or one in the folder of each split.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let beside = |split: &str| folder.join(split).join("_annotations.coco.json");
    let split: Vec<PathBuf> =
        ["train", "val", "valid", "test"].into_iter().map(beside).filter(|path| path.is_file()).collect();
    let is_json = |path: &PathBuf| path.is_file() && path.extension().is_some_and(|e| e == "json");
    let listed = list(&folder.join("annotations")).unwrap_or_default().into_iter().filter(is_json);
    split.into_iter().chain(listed).collect()
}

/// The one file of a folder that is called by the split: `val/...`, `instances_val2017.json`.
fn file_of(folder: &Path, split: Split) -> Result<PathBuf, DataError> {
    let is_of = |path: &PathBuf| {
        let below = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().to_lowercase();
        let words: BTreeSet<&str> =
            below.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
        let boxes = !["captions", "keypoints", "panoptic", "stuff"].iter().any(|other| words.contains(other));
        boxes && (words.contains(split.name()) || (split == Split::Val && words.contains("valid")))
    };
    let mut found: Vec<PathBuf> = files(folder).into_iter().filter(is_of).collect();
    match found.len() {
        0 => Err(DataError::NoSplit { dataset: name_of(folder), split }),
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            Err(unreadable(
                folder,
                format!("several files have labels of {split}: {}; give one as DATA", names.join(", ")),
            ))
        }
    }
}

/// The folder that holds the first picture: beside the file, or where COCO and its exporters put them.
fn root(file: &Path, first: Option<&Path>) -> Result<PathBuf, DataError> {
    let own = file.parent().unwrap_or(Path::new(""));
    let Some(first) = first else { return Ok(own.to_owned()) };
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let split = stem.strip_prefix("instances_").unwrap_or(&stem).to_owned();
    let above = own.join("..");
    let candidates = [own, &above].into_iter().flat_map(|folder| {
        ["", "images", "data", &split]
            .map(|name| folder.join(name))
            .into_iter()
            .chain([folder.join("images").join(&split)])
    });
    let candidates: Vec<PathBuf> = candidates.collect();
    candidates.iter().find(|folder| folder.join(first).is_file()).cloned().ok_or_else(|| {
        unreadable(
            file,
            format!(
                "its first picture, {}, is neither beside it nor in images, data or {split}",
                first.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"info": {"year": 2026}, "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [{"id": 9, "file_name": "b.jpg", "width": 20, "height": 10}, {"id": 2, "file_name": "a.jpg", "width": 8, "height": 9}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 3.5, 4], "iscrowd": 1, "segmentation": [[1, 2]]}]}"#;

    #[test]
    fn a_file_becomes_pictures_with_boxes() {
        let Boxes { classes, pictures } = pictures("x.json", GOOD.as_bytes()).unwrap();
        assert_eq!(classes, ["cat", "dog"]);
        let names: Vec<_> = pictures.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(names, ["a.jpg", "b.jpg"], "in the order of their numbers");
        let Label { boxes, size } = &pictures[1].1;
        assert_eq!(*size, Some([10, 20]));
        assert_eq!(*boxes, [TrueBox { class: 1, bounds: [1.0, 2.0, 4.5, 6.0], crowd: true }]);
    }

    #[test]
    fn faults_are_named() {
        let check = |from: &str, to: &str, words: &str| {
            assert!(GOOD.contains(from));
            let error = pictures("x.json", GOOD.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("x.json"), "{error}");
        };
        check("\"image_id\": 9", "\"image_id\": 8", "annotations[0]: there is no image with the id 8");
        check("\"category_id\": 3", "\"category_id\": 4", "no category with the id 4");
        check("3.5, 4]", "-3.5, 4]", "is no left, top, width, height");
        check("3.5, 4]", "3.5]", "line 3");
        check("\"id\": 2,", "\"id\": 9,", "two images have the id 9");
        check("b.jpg", "../b.jpg", "not below the folder");
        check("b.jpg", "/b.jpg", "not below the folder");
        check("\"categories\"", "\"classes\"", "missing field `categories`");
        check("]]}]}", "]]}", "EOF");
    }
}
