//! YOLO's form: `data.yaml` names classes and the pictures of each split; the boxes of `images/x.jpg` are in
//! `labels/x.txt`, one on each line: class, centre, width and height, in shares of the picture.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use espalier_tasks::TrueBox;
use espalier_tasks::image::is_image_name;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Boxes, Label};
use crate::data::folder::list;
use crate::data::{DataError, Split, name_of, read_file, unreadable};

/// Largest `data.yaml`, list of pictures, and label file in bytes.
const YAML_MAX: u64 = 1 << 20;
const LIST_MAX: u64 = 1 << 28;
const LABELS_MAX: u64 = 1 << 22;

/// Folders are visited to this depth.
const DEPTH_MAX: usize = 6;

/// Shares may be this far outside of the picture, as rounding leaves them.
const SLACK: f64 = 0.01;

#[derive(Deserialize)]
struct Yaml {
    path: Option<String>,
    train: Option<Texts>,
    #[serde(alias = "validation", alias = "valid")]
    val: Option<Texts>,
    test: Option<Texts>,
    names: Texts,
}

/// One text, a list, or a dictionary with the keys 0, 1, 2 and so on.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list, or a dictionary with the keys 0, 1, 2 and so on")
    }

    fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(Texts(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, text)) = map.next_entry::<usize, String>()? {
            texts.insert(key, text);
        }
        match texts.keys().enumerate().find(|&(at, &key)| at != key) {
            None => Ok(Texts(texts.into_values().collect())),
            Some((at, _)) => Err(serde::de::Error::custom(format!("the key {at} is missing"))),
        }
    }
}

/// Reads `yaml` and the labels of one split.
pub(super) fn open(yaml: &Path, split: Split) -> Result<Boxes, DataError> {
    let text = read_file(yaml, YAML_MAX).map_err(|e| unreadable(yaml, e))?;
    let text = String::from_utf8(text).map_err(|_| unreadable(yaml, "it is not UTF-8"))?;
    let read: Yaml = serde_saphyr::from_str(&text).map_err(|e| unreadable(yaml, first_line(&e)))?;
    let folder = yaml.parent().unwrap_or(Path::new(""));
    let root = read.path.as_ref().map(|path| folder.join(path)).filter(|root| root.is_dir());
    let root = root.unwrap_or_else(|| folder.to_owned());
    let places = match split {
        Split::Train => read.train,
        Split::Val => read.val,
        Split::Test => read.test,
    };
    let places = places.ok_or_else(|| DataError::NoSplit { dataset: name_of(yaml), split })?;
    let mut files = Vec::new();
    for place in &places.0 {
        pictures(&at(&root, place), &root, &mut files)?;
    }
    let classes = read.names.0;
    let mut found = 0;
    let mut boxes = Boxes { classes, pictures: Vec::with_capacity(files.len()) };
    for file in files {
        let path = label_path(&file);
        let label = if path.is_file() {
            found += 1;
            let text = read_file(&path, LABELS_MAX).map_err(|e| unreadable(&path, e))?;
            labels(&path.display().to_string(), &text, boxes.classes.len())?
        } else {
            Label::default()
        };
        boxes.pictures.push((file.into(), label));
    }
    if let (0, Some((first, _))) = (found, boxes.pictures.first()) {
        let expected = label_path(first);
        let reason =
            format!("no picture of {split} has labels; those of the first would be {}", expected.display());
        return Err(unreadable(yaml, reason));
    }
    Ok(boxes)
}

/// The parser's errors go on with a picture of the place.
fn first_line(error: &serde_saphyr::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A place of `data.yaml`. `../train/images` is often meant from the dataset's own folder.
fn at(root: &Path, place: &str) -> PathBuf {
    let path = root.join(place);
    match place.strip_prefix("../") {
        Some(rest) if !path.exists() => root.join(rest),
        _ => path,
    }
}

/// The pictures that a place names: a folder, a picture, or a text file with one on each line.
fn pictures(place: &Path, root: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    if place.is_dir() {
        return visit(place, DEPTH_MAX, files);
    }
    if !place.is_file() {
        return Err(DataError::NotFound(place.to_owned()));
    }
    if is_image_name(place) {
        files.push(place.to_owned());
        return Ok(());
    }
    let text = read_file(place, LIST_MAX).map_err(|e| unreadable(place, e))?;
    let text =
        String::from_utf8(text).map_err(|_| unreadable(place, "a list of pictures is text in UTF-8"))?;
    let beside = place.parent().unwrap_or(root);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    files.extend(
        lines.map(|line| line.strip_prefix("./").map_or_else(|| root.join(line), |rest| beside.join(rest))),
    );
    Ok(())
}

fn visit(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for path in list(folder)? {
        if path.is_dir() {
            // A link may lead back to where we are.
            if depth > 0 && !path.is_symlink() {
                visit(&path, depth - 1, files)?;
            }
        } else if is_image_name(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// `.../images/a/x.jpg` has `.../labels/a/x.txt`; where there is no folder `images`, the labels lie beside.
fn label_path(picture: &Path) -> PathBuf {
    let path = picture.with_extension("txt");
    let parts: Vec<Component<'_>> = path.components().collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    let Some(at) = folders.iter().rposition(|part| part.as_os_str() == "images") else { return path };
    let part = |(i, part): (usize, &Component<'_>)| {
        if i == at { "labels".into() } else { part.as_os_str().to_owned() }
    };
    parts.iter().enumerate().map(part).collect()
}

/// The boxes of a label file called `name`: on each line a class and centre, width and height, or the corners of an
/// outline, in shares of the picture. A line that occurs twice is one box.
///
/// # Errors
/// The first line that is none of this.
pub fn labels(name: &str, bytes: &[u8], classes: usize) -> Result<Label, DataError> {
    let mut boxes: Vec<TrueBox> = Vec::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let wrong = |reason: String| DataError::Read {
            name: name.to_owned(),
            reason: format!("line {}: {reason}", number + 1),
        };
        let line = str::from_utf8(line).map_err(|_| wrong("it is no text".into()))?;
        if !line.trim().is_empty() {
            boxes.push(parse(line, classes).map_err(wrong)?);
        }
    }
    let key = |b: &TrueBox| (b.class, b.bounds.map(f64::to_bits));
    let mut seen = std::collections::HashSet::new();
    boxes.retain(|b| seen.insert(key(b)));
    Ok(Label { boxes, size: None })
}

fn parse(line: &str, classes: usize) -> Result<TrueBox, String> {
    let number = |text: &str| {
        let value = text.parse::<f64>().ok().filter(|v| v.is_finite());
        value.ok_or_else(|| format!("{:?} is no number", shown(text)))
    };
    let mut words = line.split_ascii_whitespace();
    let class = number(words.next().unwrap_or_default())?;
    if class.fract() != 0.0 || class < 0.0 || class >= classes as f64 {
        return Err(format!(
            "class {class} does not exist, the names are those of 0 to {}",
            classes.max(1) - 1
        ));
    }
    let numbers = words.map(number).collect::<Result<Vec<f64>, _>>()?;
    if let Some(outside) = numbers.iter().find(|v| !(-SLACK..=1.0 + SLACK).contains(*v)) {
        return Err(format!("{outside} is no share of the picture, 0 to 1"));
    }
    let [left, top, right, bottom] = match numbers[..] {
        [x, y, width, height] => [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0],
        _ if numbers.len() >= 6 && numbers.len() % 2 == 0 => around(&numbers),
        _ => {
            let n = numbers.len();
            return Err(format!(
                "{n} numbers after the class; a box has 4, an outline 6 or more, two for each corner"
            ));
        }
    };
    if left >= right || top >= bottom {
        return Err("the box is empty".into());
    }
    Ok(TrueBox { class: class as usize, bounds: [left, top, right, bottom], crowd: false })
}

/// The box around the corners of an outline.
fn around(points: &[f64]) -> [f64; 4] {
    let edge = |axis: usize, pick: fn(f64, f64) -> f64| {
        points.iter().skip(axis).step_by(2).copied().fold(points[axis], pick)
    };
    [edge(0, f64::min), edge(1, f64::min), edge(0, f64::max), edge(1, f64::max)]
}

/// A word of a foreign file, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<&[(usize, [f64; 4])], &str>) {
        match (labels("x.txt", text.as_bytes(), 3), want) {
            (Ok(label), Ok(want)) => {
                let got: Vec<_> = label.boxes.iter().map(|b| (b.class, b.bounds)).collect();
                assert_eq!((got.as_slice(), label.size), (want, None), "{text:?}");
            }
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text:?}: {error}"),
            (got, _) => panic!("{text:?}: {got:?}"),
        }
    }

    #[test]
    fn lines_are_boxes() {
        check("", Ok(&[]));
        check("1 0.5 0.5 0.5 0.25\r\n\n", Ok(&[(1, [0.25, 0.375, 0.75, 0.625])]));
        check(
            "2.0\t0.5 0.5 1 1\n0 .5 .5 .5 .5",
            Ok(&[(2, [0.0, 0.0, 1.0, 1.0]), (0, [0.25, 0.25, 0.75, 0.75])]),
        );
        check("0 0.25 0.5 0.5 0.125 0.75 0.75", Ok(&[(0, [0.25, 0.125, 0.75, 0.75])]));
        check("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n", Ok(&[(0, [0.25, 0.25, 0.75, 0.75])]));
    }

    #[test]
    fn faults_are_named_with_their_line() {
        check("0 0.5 0.5 0.5 0.5\ncar 0.5 0.5 0.5 0.5", Err("x.txt: line 2: \"car\" is no number"));
        check("3 0.5 0.5 0.5 0.5", Err("line 1: class 3 does not exist, the names are those of 0 to 2"));
        check("-1 0.5 0.5 0.5 0.5", Err("class -1"));
        check("0.5 0.5 0.5 0.5 0.5", Err("class 0.5"));
        check("0 120 80 40 40", Err("120 is no share"));
        check("0 0.5 0.5 0.5", Err("3 numbers after the class"));
        check("0 0.5 0.5 0.5 0.5 0.9", Err("5 numbers"));
        check("0 0.5 0.5 0 0.5", Err("empty"));
        check("0 0.5 nan 0.5 0.5", Err("\"nan\" is no number"));
        assert!(labels("x", b"0 0.5 \xff", 3).unwrap_err().to_string().contains("line 1: it is no text"));
    }

    #[test]
    fn labels_lie_beside_pictures() {
        let check = |picture: &str, want: &str| assert_eq!(label_path(Path::new(picture)), Path::new(want));
        check("/d/images/val/a.b.jpg", "/d/labels/val/a.b.txt");
        check("/images/d/images/x.png", "/images/d/labels/x.txt");
        check("x.png", "x.txt");
        check("d/images", "d/images.txt");
    }
}
