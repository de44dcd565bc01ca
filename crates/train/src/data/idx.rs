//! IDX, the format of MNIST and Fashion-MNIST (LeCun, Cortes and Burges, <http://yann.lecun.com/exdb/mnist/>), and
//! the built-in set, which is stored so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_digits::{NAME, SIDE};
use flate2::read::MultiGzDecoder;

use super::split::{VAL_ONLY, WHOLE, by_order};
use super::{DataError, Dataset, Rows, Sample, Source, Split, name_of, unreadable, unrecognised};

/// Most values that one file may hold, since they stay in memory: 1 GiB, a million and a third pictures of 28x28.
const VALUES_MAX: u64 = 1 << 30;

/// Most images of one file: each takes some hundred bytes besides its pixels.
const IMAGES_MAX: usize = 4 << 20;

/// An images file and its labels file.
pub(super) struct Pair {
    images: PathBuf,
    labels: PathBuf,
}

/// The pairs of IDX files in a folder, by what stands before `-images`; none where it is no IDX folder.
pub(super) fn pairs(folder: &Path) -> Result<BTreeMap<String, Pair>, DataError> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let mut pairs = BTreeMap::new();
    for (prefix, images) in paths.iter().filter_map(|path| Some((prefix(path, "images-idx3-ubyte")?, path))) {
        let is_label = |path: &&PathBuf| self::prefix(path, "labels-idx1-ubyte").as_ref() == Some(&prefix);
        let labels =
            paths.iter().find(is_label).ok_or_else(|| unreadable(images, "its labels file is missing"))?;
        pairs.insert(prefix, Pair { images: images.clone(), labels: labels.clone() });
    }
    Ok(pairs)
}

/// `train` of `train-images-idx3-ubyte.gz`; some copies have a dot before `idx`.
fn prefix(path: &Path, ending: &str) -> Option<String> {
    let name = path.file_name()?.to_str()?.replace(".idx", "-idx");
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(ending).map(|prefix| prefix.trim_end_matches(['-', '_']).to_owned())
}

/// Reads a folder of IDX pairs: `train`, `val` and `t10k` or `test`, or one pair of another name that is split.
pub(super) fn open(folder: &Path, pairs: BTreeMap<String, Pair>) -> Result<Dataset, DataError> {
    let name = name_of(folder);
    if let (1, Some(pair)) = (pairs.len(), pairs.iter().find(|(prefix, _)| split_of(prefix).is_none())) {
        return Ok(dataset(name, by_order(read_pair(pair.1)?, WHOLE)));
    }
    let mut splits = [const { Vec::new() }; 3];
    for (prefix, pair) in &pairs {
        let split = split_of(prefix)
            .ok_or_else(|| unrecognised(folder, &format!("{prefix:?} is not train, val, t10k or test")))?;
        splits[split as usize] = read_pair(pair)?;
    }
    let [train, val, _] = &mut splits;
    if val.is_empty() {
        [*train, *val, _] = by_order(std::mem::take(train), VAL_ONLY);
    }
    Ok(dataset(name, splits))
}

fn split_of(prefix: &str) -> Option<Split> {
    match prefix {
        "train" => Some(Split::Train),
        "val" => Some(Split::Val),
        "t10k" | "test" => Some(Split::Test),
        _ => None,
    }
}

/// The set that the program carries: of each digit 400 for train, 50 for val and 50 for test.
pub(super) fn builtin(name: &str) -> Result<Dataset, DataError> {
    if name != NAME {
        return Err(unrecognised(Path::new(&format!("builtin:{name}")), "there is no such built-in set"));
    }
    let (pixels, labels) = espalier_digits::all();
    let rows = Rows { name: NAME.to_owned(), width: SIDE, height: SIDE, pixels };
    Ok(dataset(NAME.to_owned(), by_order(rows_of(rows, labels), WHOLE)))
}

fn dataset(name: String, splits: [Vec<Sample>; 3]) -> Dataset {
    let classes = splits.iter().flatten().map(|sample| sample.label + 1).max().unwrap_or(0);
    let classes = (0..classes).map(|class| class.to_string()).collect();
    Dataset { name, classes, splits, ..Dataset::default() }
}

fn read_pair(pair: &Pair) -> Result<Vec<Sample>, DataError> {
    let open = |path| reader(path).map_err(|error| unreadable(path, error));
    samples(&name_of(&pair.images), open(&pair.images)?, open(&pair.labels)?)
        .map_err(|reason| unreadable(&pair.images, reason))
}

fn reader(path: &Path) -> std::io::Result<Box<dyn Read>> {
    let file = BufReader::new(File::open(path)?);
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    Ok(if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Reads a pair of IDX files, unpacked already: one sample an image, all sharing the pixels.
///
/// # Errors
/// In words: what is wrong with which of them.
pub fn samples(name: &str, images: impl Read, labels: impl Read) -> Result<Vec<Sample>, String> {
    let ([n, height, width], pixels) = read(images).map_err(|reason| format!("images: {reason}"))?;
    let ([m], labels) = read(labels).map_err(|reason| format!("labels: {reason}"))?;
    if n > IMAGES_MAX {
        return Err(format!("{n} images are more than {IMAGES_MAX}"));
    }
    if n != m {
        return Err(format!("{n} images but {m} labels"));
    }
    if n * height * width == 0 {
        return Err(format!("{n} images of {height}x{width} pixels are none"));
    }
    Ok(rows_of(Rows { name: name.to_owned(), width, height, pixels }, labels))
}

fn rows_of(rows: Rows, labels: Vec<u8>) -> Vec<Sample> {
    let rows = Arc::new(rows);
    let sample =
        |(index, label)| Sample { source: Source::Row(rows.clone(), index), label: usize::from(label) };
    labels.into_iter().enumerate().map(sample).collect()
}

/// Reads unsigned bytes of `N` dimensions. Memory grows with what is really there, never with what the header says.
fn read<const N: usize>(mut file: impl Read) -> Result<([usize; N], Vec<u8>), String> {
    let mut word = || -> Result<[u8; 4], String> {
        let mut word = [0; 4];
        file.read_exact(&mut word).map_err(|_| "the header is cut off".to_owned())?;
        Ok(word)
    };
    let magic = word()?;
    if magic != [0, 0, 8, N as u8] {
        return Err(format!(
            "begins with {magic:02x?}, IDX bytes of {N} dimensions begin with [00, 00, 08, {N:02x}]"
        ));
    }
    let mut shape = [0; N];
    for side in &mut shape {
        *side = u32::from_be_bytes(word()?) as usize;
    }
    let expected = shape.iter().try_fold(1u64, |n, &side| n.checked_mul(side as u64));
    let expected = expected.filter(|&n| n <= VALUES_MAX).ok_or(format!("{shape:?} values are too many"))?;
    let mut values = Vec::new();
    file.take(expected + 1).read_to_end(&mut values).map_err(|error| error.to_string())?;
    match (values.len() as u64).cmp(&expected) {
        std::cmp::Ordering::Equal => Ok((shape, values)),
        std::cmp::Ordering::Less => Err(format!("says {shape:?}, but only {} values follow", values.len())),
        std::cmp::Ordering::Greater => Err(format!("says {shape:?}, but more values follow")),
    }
}
