//! Pictures that are stored, or come through a pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use espalier_tasks::image::{EXTENSIONS, is_image_name};

use super::{Feed, SourceError};
use crate::frame::{Fault, PICTURE_BYTES};

/// A watched folder is looked at this far apart.
const LOOKS_APART: Duration = Duration::from_millis(250);

pub(super) fn named(path: &Path) -> impl Fn(std::io::Error) -> SourceError {
    move |error| SourceError::failed(format!("{}: {error}", path.display()))
}

/// The pictures of a folder, in the order of their names; numbers in names count as numbers. Where there are none, those of
/// the folders in it.
pub(super) fn folder(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    let mut files = pictures(path)?;
    if files.is_empty() {
        files = spread(path)?;
    }
    if files.is_empty() {
        return Err(SourceError::Wrong(format!(
            "{}: it holds no picture ({})",
            path.display(),
            EXTENSIONS.join(", ")
        )));
    }
    for file in files {
        if !one(&file, feed) {
            break;
        }
    }
    Ok(())
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let entries = std::fs::read_dir(path).map_err(named(path))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<Vec<_>, _>>().map_err(named(path))
}

fn pictures(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = entries(path)?;
    files.retain(|file| is_image_name(file) && file.is_file());
    files.sort_by_cached_key(|file| natural(&file.file_name().unwrap_or_default().to_string_lossy()));
    Ok(files)
}

/// The pictures of the folders in a folder, as data sets have one for each class. Those of each are spread over the whole, so
/// that every stretch of it shows a class as often as all of it does.
fn spread(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut folders = entries(path)?;
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    let mut all = Vec::new();
    for folder in folders {
        let files = pictures(&folder)?;
        let place = |number: usize| (number as f64 + 0.5) / files.len() as f64;
        all.extend(files.iter().cloned().enumerate().map(|(number, file)| (place(number), file)));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(all.into_iter().map(|(_, file)| file).collect())
}

/// The pictures of a folder, and then those that come into it, as long as it is there. One that is still being written is
/// left until it no longer changes; one that was replaced is taken again.
pub(super) fn watched(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    // What each file was like at the last look, and whether it was taken as that.
    let mut known: BTreeMap<PathBuf, (Option<(u64, SystemTime)>, bool)> = BTreeMap::new();
    while feed.sleep(LOOKS_APART) {
        let mut now = BTreeMap::new();
        for file in pictures(path)? {
            let is = std::fs::metadata(&file).ok().and_then(|data| Some((data.len(), data.modified().ok()?)));
            let before = known.get(&file);
            let is_same = before.is_some_and(|(was, _)| *was == is);
            let taken = is_same && before.is_some_and(|(_, taken)| *taken);
            if is_same && !taken && !one(&file, feed) {
                return Ok(());
            }
            now.insert(file, (is, is_same));
        }
        known = now;
    }
    Ok(())
}

/// Pieces of a name, compared one after another: digits by the number they make, then by how many there are.
fn natural(name: &str) -> Vec<(String, usize)> {
    let (mut pieces, mut rest) = (Vec::new(), name);
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        let significant = piece.trim_start_matches('0');
        // Longer numbers are larger: their length goes first.
        let key = if digits { format!("{:05}{significant}", significant.len()) } else { piece.to_owned() };
        pieces.push((key, piece.len()));
        rest = behind;
    }
    pieces
}

/// One picture.
pub(super) fn picture(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    one(path, feed);
    Ok(())
}

fn one(path: &Path, feed: &mut Feed) -> bool {
    let size = std::fs::metadata(path).map(|data| data.len());
    let bytes = match size {
        Ok(size) if size > PICTURE_BYTES as u64 => Err(Fault::new("the file is longer than 64 MiB")),
        Ok(_) => std::fs::read(path).map_err(|error| Fault::new(error.to_string())),
        Err(error) => Err(Fault::new(error.to_string())),
    };
    feed.frame(Some(path.display().to_string()), bytes)
}

/// A file of pictures one after another.
pub(super) fn mjpeg(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    let file = File::open(path).map_err(named(path))?;
    feed.pictures(file).map(drop)
}

/// Standard input.
pub(super) fn input(feed: &mut Feed) -> Result<(), SourceError> {
    super::rows::input(std::io::stdin().lock(), feed).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_spread_over_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        for (class, count) in [("cat", 2), ("dog", 4), ("empty", 0)] {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            (0..count)
                .for_each(|i| std::fs::write(folder.path().join(format!("{class}/{i}.jpg")), "").unwrap());
        }
        let shown = spread(folder.path()).unwrap();
        let shown: Vec<_> = shown
            .iter()
            .map(|file| file.strip_prefix(folder.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(shown, ["dog/0.jpg", "cat/0.jpg", "dog/1.jpg", "dog/2.jpg", "cat/1.jpg", "dog/3.jpg"]);
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["b1", "a10.jpg", "a9.jpg", "a010.jpg", "a.jpg", "A9", "10", "9", "a9b2", "a9b11"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["9", "10", "A9", "a9.jpg", "a9b2", "a9b11", "a10.jpg", "a010.jpg", "a.jpg", "b1"]);
    }
}
