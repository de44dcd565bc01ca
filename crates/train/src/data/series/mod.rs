//! Series from files: CSV with a header, or a JSON object a line.
//!
//! Without a folder for each split a file is cut in time: its first 80 % are train, the next 10 % val, the last 10 % test, so
//! that nothing is learned from what comes later. Labels, which only measuring uses, lie beside the data
//! (`labels.json`, or NAB's `labels/combined_windows.json`).

mod labels;
mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_tasks::Row;
use espalier_tasks::series::Columns;
use sha2::{Digest, Sha256};

use super::{DataError, Skipped, Split, name_of, unreadable};
use crate::digest;
use labels::Labels;
use read::File;

/// Endings of the names of files with series.
const EXTENSIONS: [&str; 3] = ["csv", "jsonl", "ndjson"];
/// Shares of a file that are cut into splits in time: what ends train, and what ends val.
const CUTS: [f64; 2] = [0.8, 0.9];
/// Where there is a folder for train and none for val, this share of every series of train comes last and is val.
const HELD_OUT: f64 = 0.1;

/// Rows of one file, or of a part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The file.
    pub name: String,
    /// In the order of the file.
    pub rows: Vec<Row>,
    /// Times in which something was wrong, first and last second; none where nobody labelled the file.
    pub labels: Option<Vec<[f64; 2]>>,
}

/// What is in one file.
#[derive(Debug)]
pub struct FileRows {
    /// Its rows.
    pub rows: Vec<Row>,
    /// The first lines that are no rows.
    pub skipped: Vec<Skipped>,
}

/// The series of a dataset, by split.
#[derive(Clone, Debug)]
pub struct SeriesSet {
    /// The name of the file or folder.
    pub name: String,
    /// The columns of every row.
    pub columns: Columns,
    /// The median time between rows in seconds, where the files tell the time.
    pub interval_s: Option<f64>,
    splits: [Vec<Arc<Series>>; 3],
    /// Lines that are no rows, the first few of each file.
    pub skipped: Vec<Skipped>,
    /// Number of lines that are no rows.
    pub broken: usize,
}

/// Whether `path` holds series: a file with their ending, or a folder with such files.
pub fn is_series(path: &Path) -> bool {
    match path.is_dir() {
        true => folders(path).iter().any(|folder| !files(folder).is_empty()),
        false => path.is_file() && is_name(path),
    }
}

impl SeriesSet {
    /// Reads the series that `path` names. `wanted` are the columns, or all that hold numbers.
    ///
    /// # Errors
    /// A file that cannot be read, has other columns than the first, or mostly lines that are no rows.
    pub fn open(
        path: &Path,
        wanted: Option<&Columns>,
        names: Option<&[String]>,
    ) -> Result<SeriesSet, DataError> {
        if !path.exists() {
            return Err(DataError::NotFound(path.to_owned()));
        }
        let listed = listed(path)?;
        let first = listed
            .iter()
            .flatten()
            .next()
            .ok_or_else(|| super::unrecognised(path, "it holds no series (.csv, .jsonl)"))?;
        let columns = match wanted {
            Some(columns) => columns.clone(),
            None => read::columns(first, names)?,
        };
        let mut set = SeriesSet {
            name: name_of(path),
            columns,
            interval_s: None,
            splits: Default::default(),
            skipped: Vec::new(),
            broken: 0,
        };
        let labels = Labels::beside(path)?;
        for (split, paths) in Split::ALL.into_iter().zip(&listed) {
            for path in paths {
                let series = set.read(path, split, labels.as_ref())?;
                set.splits[split as usize].push(series);
            }
        }
        set.cut(path);
        set.interval_s = interval(set.splits.iter().flatten());
        Ok(set)
    }

    /// The rows of one file, with what is no row.
    ///
    /// # Errors
    /// As [`SeriesSet::open`].
    pub fn file(path: &Path, columns: &Columns) -> Result<FileRows, DataError> {
        let File { rows, faults, .. } = read::rows(path, columns)?;
        let name = path.display();
        let skipped = faults.into_iter().map(|(line, reason)| Skipped {
            name: format!("{name}:{line}"),
            split: None,
            reason,
        });
        Ok(FileRows { rows, skipped: skipped.collect() })
    }

    fn read(&mut self, path: &Path, split: Split, labels: Option<&Labels>) -> Result<Arc<Series>, DataError> {
        let File { rows, faults, broken } = read::rows(path, &self.columns)?;
        self.broken += broken;
        let name = path.display().to_string();
        let skipped = faults.into_iter().map(|(line, reason)| Skipped {
            name: format!("{name}:{line}"),
            split: Some(split),
            reason,
        });
        self.skipped.extend(skipped);
        let labels = labels.and_then(|labels| labels.of(path)).filter(|_| self.columns.time.is_some());
        let (series, all) = (Series { name, labels, rows: Vec::new() }, rows.len());
        // Labels of another time have no part.
        Ok(Series { rows, ..series }.part(0, all))
    }

    /// Cuts what came in one piece.
    fn cut(&mut self, path: &Path) {
        let in_folders = path.is_dir() && Split::ALL.iter().any(|split| path.join(split.name()).is_dir());
        let [train, val, test] = &mut self.splits;
        if !in_folders {
            let whole = std::mem::take(train);
            for series in &whole {
                let at = CUTS.map(|share| (series.rows.len() as f64 * share) as usize);
                train.push(series.part(0, at[0]));
                val.push(series.part(at[0], at[1]));
                test.push(series.part(at[1], series.rows.len()));
            }
        } else if val.is_empty() && !train.is_empty() {
            for series in train.iter_mut() {
                let at = (series.rows.len() as f64 * (1.0 - HELD_OUT)) as usize;
                val.push(series.part(at, series.rows.len()));
                *series = series.part(0, at);
            }
        }
        self.splits.iter_mut().for_each(|list| list.retain(|series| !series.rows.is_empty()));
    }

    /// The series of a split.
    pub fn split(&self, split: Split) -> &[Arc<Series>] {
        &self.splits[split as usize]
    }

    /// The series of a split that must be there.
    ///
    /// # Errors
    /// There are none.
    pub fn require(&self, split: Split) -> Result<&[Arc<Series>], DataError> {
        match self.split(split) {
            [] => Err(DataError::NoSplit { dataset: self.name.clone(), split }),
            list => Ok(list),
        }
    }

    /// Rows of each split.
    pub fn rows(&self) -> [usize; 3] {
        Split::ALL.map(|split| self.split(split).iter().map(|series| series.rows.len()).sum())
    }

    /// Identifies train and val, wherever they lie: SHA-256 of columns and rows. Labels have no part in what is learned.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.columns));
        for split in [Split::Train, Split::Val] {
            hash.update(split.name());
            self.split(split).iter().for_each(|series| series.hash(&mut hash));
        }
        digest::finish(hash)
    }
}

impl Series {
    fn part(&self, from: usize, to: usize) -> Arc<Series> {
        let rows = self.rows[from..to].to_vec();
        let mut part = Series { name: self.name.clone(), rows, labels: None };
        let span = part.span();
        let inside =
            |[start, end]: &&[f64; 2]| span.is_some_and(|[first, last]| *end >= first && *start <= last);
        part.labels = self.labels.as_ref().map(|labels| labels.iter().filter(inside).copied().collect());
        Arc::new(part)
    }

    /// The times of the first and the last row.
    fn span(&self) -> Option<[f64; 2]> {
        Some([self.rows.first()?.time?, self.rows.last()?.time?])
    }

    /// The number of the label that a time lies in.
    pub(super) fn label(&self, time: Option<f64>) -> Option<usize> {
        let time = time?;
        self.labels.as_ref()?.iter().position(|[start, end]| (*start..=*end).contains(&time))
    }

    pub(super) fn hash(&self, hash: &mut Sha256) {
        hash.update((self.rows.len() as u64).to_le_bytes());
        for row in &self.rows {
            hash.update(row.time.unwrap_or(f64::NAN).to_le_bytes());
            row.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
    }
}

/// The median time between rows.
fn interval<'a>(series: impl Iterator<Item = &'a Arc<Series>>) -> Option<f64> {
    let mut steps: Vec<f64> = series
        .flat_map(|series| series.rows.windows(2))
        .filter_map(|pair| Some(pair[1].time? - pair[0].time?))
        .filter(|step| *step > 0.0)
        .collect();
    steps.sort_by(f64::total_cmp);
    steps.get(steps.len() / 2).copied()
}

fn is_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The folders that may hold files of a dataset: itself, and those of the splits.
fn folders(path: &Path) -> Vec<PathBuf> {
    let splits = Split::ALL.map(|split| path.join(split.name()));
    std::iter::once(path.to_owned()).chain(splits).collect()
}

/// The files of a folder by name; none where it cannot be listed.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_file() && is_name(path)).collect();
    files.sort();
    files
}

/// The files of each split; what has no split of its own is all train.
fn listed(path: &Path) -> Result<[Vec<PathBuf>; 3], DataError> {
    if path.is_file() {
        return Ok([vec![path.to_owned()], Vec::new(), Vec::new()]);
    }
    std::fs::read_dir(path).map_err(|error| unreadable(path, error))?;
    let splits = Split::ALL.map(|split| files(&path.join(split.name())));
    if splits.iter().all(Vec::is_empty) { Ok([files(path), Vec::new(), Vec::new()]) } else { Ok(splits) }
}
