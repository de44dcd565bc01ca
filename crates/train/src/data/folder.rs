//! ImageFolder: `train|val|test/CLASS/IMAGES`, or `CLASS/IMAGES`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use espalier_tasks::image::{is_image, is_image_name};

use super::split::{Shares, VAL_ONLY, WHOLE, by_name};
use super::{
    DataError, Dataset, Sample, Skipped, Source, Split, index_of, name_of, unreadable, unrecognised,
};

/// The files of each class, by class name.
type Classes = BTreeMap<String, Vec<PathBuf>>;

/// Lists an ImageFolder. Folders are visited to a fixed depth, so a loop of symbolic links ends.
pub(super) fn open(root: &Path) -> Result<Dataset, DataError> {
    let mut dataset = Dataset { name: name_of(root), ..Dataset::default() };
    let folders: Vec<PathBuf> = list(root)?.into_iter().filter(|path| path.is_dir()).collect();
    let is_split =
        |path: &PathBuf| Split::ALL.iter().any(|split| path.file_name() == Some(split.name().as_ref()));
    let splits = if folders.iter().any(is_split) {
        for other in folders.iter().filter(|path| !is_split(path)) {
            dataset.skip(other, "a folder beside train, val and test");
        }
        open_splits(&mut dataset, root)?
    } else {
        divide(classes_in(root, &mut dataset)?, WHOLE)
    };
    if splits.iter().flat_map(Classes::values).all(Vec::is_empty) {
        let reason = if folders.is_empty() { "no folders in it" } else { "no image found" };
        return Err(unrecognised(root, reason));
    }
    dataset.fill(splits)?;
    Ok(dataset)
}

fn open_splits(dataset: &mut Dataset, root: &Path) -> Result<[Classes; 3], DataError> {
    let mut splits = [const { Classes::new() }; 3];
    for split in Split::ALL {
        let folder = root.join(split.name());
        if folder.is_dir() {
            splits[split as usize] = classes_in(&folder, dataset)?;
        }
    }
    let [train, val, _] = &mut splits;
    if val.values().all(Vec::is_empty) && !train.is_empty() {
        // An empty class must stay visible, so that it is refused by name.
        [*train, *val, _] = divide(std::mem::take(train), VAL_ONLY);
    }
    Ok(splits)
}

/// Splits every class by file name. Every class is in train, though it be empty there.
fn divide(classes: Classes, shares: Shares) -> [Classes; 3] {
    let mut splits = [const { Classes::new() }; 3];
    for (class, files) in classes {
        for (split, files) in splits.iter_mut().zip(by_name(files, shares)) {
            split.insert(class.clone(), files);
        }
    }
    splits
}

fn classes_in(folder: &Path, dataset: &mut Dataset) -> Result<Classes, DataError> {
    let mut classes = Classes::new();
    for path in list(folder)? {
        if !path.is_dir() {
            dataset.skip(&path, "not in a class folder");
            continue;
        }
        let class = path.file_name().and_then(OsStr::to_str);
        let class = class.ok_or_else(|| unreadable(&path, "a label is text: rename this folder in UTF-8"))?;
        classes.insert(class.to_owned(), images_in(&path, dataset)?);
    }
    Ok(classes)
}

fn images_in(folder: &Path, dataset: &mut Dataset) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in list(folder)? {
        match kind(&path) {
            Ok(()) => files.push(path),
            Err(reason) => dataset.skip(&path, &reason),
        }
    }
    Ok(files)
}

/// `Ok` where the file is called like an image or begins like one, else what it is. What is called like an image and is
/// not there (a link that leads nowhere) counts as one, so that reading it says what is wrong.
fn kind(path: &Path) -> Result<(), String> {
    let metadata = match fs::metadata(path) {
        Err(_) if is_image_name(path) => return Ok(()),
        metadata => metadata.map_err(|error| error.to_string())?,
    };
    if metadata.is_dir() {
        return Err("a folder inside a class folder".into());
    }
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    // A name that promises an image makes a file without one unreadable, not something else.
    if is_image_name(path) || is_image(&head(path).map_err(|error| error.to_string())?) {
        return Ok(());
    }
    Err("not an image".into())
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(path)?.take(16).read_to_end(&mut head)?;
    Ok(head)
}

/// What is in a folder, sorted by the names' bytes, hidden entries left out.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|error| unreadable(folder, error))?;
    let hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut paths: Vec<_> =
        entries.iter().filter(|entry| !hidden(&entry.file_name())).map(|entry| entry.path()).collect();
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(paths)
}

impl Dataset {
    fn skip(&mut self, path: &Path, reason: &str) {
        let (name, reason) = (path.display().to_string(), reason.to_owned());
        self.skipped.push(Skipped { name, split: None, reason });
    }

    /// Numbers the classes: train's where there is a train split, else all that occur.
    fn fill(&mut self, splits: [Classes; 3]) -> Result<(), DataError> {
        let named_by = if splits[0].is_empty() { &splits[..] } else { &splits[..1] };
        let names: std::collections::BTreeSet<_> = named_by.iter().flat_map(Classes::keys).cloned().collect();
        self.classes = names.into_iter().collect();
        self.warn_of_similar_classes();
        for (split, classes) in Split::ALL.into_iter().zip(splits) {
            for (class, files) in classes {
                let label = index_of(&class, &self.classes, split.name())?;
                let sample = |path: PathBuf| Sample { source: Source::File(path.into()), label };
                self.splits[split as usize].extend(files.into_iter().map(sample));
            }
        }
        Ok(())
    }

    /// `Dog` and `dog` may well be meant as one class; a file system that knows no case would make them one.
    fn warn_of_similar_classes(&mut self) {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for class in &self.classes {
            by_key.entry(class.trim().to_lowercase()).or_default().push(class.clone());
        }
        for classes in by_key.into_values().filter(|classes| classes.len() > 1) {
            self.warn(format!("the classes {classes:?} differ in nothing but case or spaces"));
        }
    }
}
