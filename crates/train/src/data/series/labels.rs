//! Times in which something was wrong, in the form of the Numenta Anomaly Benchmark (Lavin and Ahmad 2015):
//! `{"FOLDER/FILE.csv": [["2014-04-10 07:15:00", "2014-04-11 16:45:00"], ...], ...}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{DataError, read_file, unreadable};
use super::read::stamp;

/// Where labels lie, from the folder of the data or one of those around it.
const NAMES: [&str; 2] = ["labels.json", "labels/combined_windows.json"];
/// How many folders up.
const UP: usize = 4;
/// Longest file.
const BYTES_MAX: u64 = 16 << 20;

/// The labels of some files.
pub(super) struct Labels(BTreeMap<String, Vec<[f64; 2]>>);

impl Labels {
    /// The labels that lie beside the data at `path`; none where there are none.
    pub(super) fn beside(path: &Path) -> Result<Option<Labels>, DataError> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let candidates = path.ancestors().take(UP).flat_map(|folder| NAMES.map(|name| folder.join(name)));
        let found: Option<PathBuf> = candidates.into_iter().find(|file| file.is_file());
        found.map(|file| Labels::read(&file)).transpose()
    }

    fn read(file: &Path) -> Result<Labels, DataError> {
        let wrong = |reason: String| unreadable(file, reason);
        let bytes = read_file(file, BYTES_MAX).map_err(|error| unreadable(file, error))?;
        Labels::parse(&bytes).map_err(wrong)
    }

    fn parse(bytes: &[u8]) -> Result<Labels, String> {
        let all: BTreeMap<String, Vec<[Value; 2]>> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let span = |name: &str, pair: &[Value; 2]| {
            let times = [stamp(&pair[0]), stamp(&pair[1])];
            match times {
                [Some(start), Some(end)] if start <= end => Ok([start, end]),
                _ => Err(format!("{name}: {} to {} is no span of time", pair[0], pair[1])),
            }
        };
        let spans = all.iter().map(|(name, pairs)| {
            let spans: Result<Vec<_>, String> = pairs.iter().map(|pair| span(name, pair)).collect();
            Ok((name.clone(), spans?))
        });
        spans.collect::<Result<_, String>>().map(Labels)
    }

    /// Those of the file at `path`: under its path from some folder on, the longest that is there.
    pub(super) fn of(&self, path: &Path) -> Option<Vec<[f64; 2]>> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let known = self.0.iter().filter(|(name, _)| path.ends_with(name));
        known.max_by_key(|(name, _)| name.len()).map(|(_, spans)| spans.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_wins() {
        let labels = Labels::parse(
            br#"{"a.csv": [[0, 1]], "b/a.csv": [["1970-01-01 00:00:02", 3.5], [5, 6]], "c.csv": []}"#,
        );
        let labels = labels.unwrap();
        let of = |path: &str| labels.of(Path::new(path));
        assert_eq!(of("/data/b/a.csv").unwrap(), [[2.0, 3.5], [5.0, 6.0]]);
        assert_eq!(of("/data/x/a.csv").unwrap(), [[0.0, 1.0]]);
        assert_eq!(of("/data/c.csv").unwrap().len(), 0);
        assert_eq!(of("/data/d.csv"), None);
    }

    #[test]
    fn wrong_labels_are_named() {
        let check = |text: &str, words: &str| {
            let error = Labels::parse(text.as_bytes()).err().unwrap();
            assert!(error.contains(words), "{error}");
        };
        check(r#"{"a": [[3, 2]]}"#, "a: 3 to 2 is no span of time");
        check(r#"{"a": [["soon", 2]]}"#, "a: \"soon\" to 2 is no span");
        check(r#"{"a": [[1]]}"#, "invalid length 1");
        check("[]", "expected a map");
    }
}
