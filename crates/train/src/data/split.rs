//! Splitting what comes in one piece, the same way every time.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Sample, Split};

/// What share of the whole goes to val and to test.
#[derive(Clone, Copy)]
pub(super) struct Shares {
    pub(super) val: f64,
    pub(super) test: f64,
}

/// For data in one piece.
pub(super) const WHOLE: Shares = Shares { val: 0.1, test: 0.1 };

/// For a train split whose val is missing.
pub(super) const VAL_ONLY: Shares = Shares { val: 0.1, test: 0.0 };

/// The files of one class into train, val and test, by a hash of each file's name: it depends on no other file, so
/// that a file never moves from train to val when data are added. Where chance leaves a split empty though the class
/// has files enough, the file nearest to it moves.
pub(super) fn by_name<P: AsRef<Path>>(files: Vec<P>, shares: Shares) -> [Vec<P>; 3] {
    let enough = files.len() >= 3;
    let mut ranked: Vec<(f64, P)> = files.into_iter().map(|file| (rank(file.as_ref()), file)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let below = |bound: f64| ranked.iter().filter(|(rank, _)| *rank < bound).count();
    let (mut val, mut held_out) = (below(shares.val), below(shares.val + shares.test));
    if enough {
        // Ranked by hash, val comes first, then test, then train; each gets at least one.
        val = val.clamp(usize::from(shares.val > 0.0), ranked.len() - 2);
        held_out = held_out.clamp(val + usize::from(shares.test > 0.0), ranked.len() - 1);
    } else {
        (val, held_out) = (0, 0);
    }
    let mut files: Vec<P> = ranked.into_iter().map(|(_, file)| file).collect();
    let train = files.split_off(held_out);
    let test = files.split_off(val);
    [train, files, test]
}

/// Uniform in 0..1, from the file's name without its folder.
fn rank(file: &Path) -> f64 {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let digest = Sha256::digest(name.as_encoded_bytes());
    let head: [u8; 8] = std::array::from_fn(|i| digest[i]);
    (u64::from_be_bytes(head) >> 11) as f64 / (1u64 << 53) as f64
}

/// Samples without names into train, val and test: of each class, the first in order are train, then val, then test.
pub(super) fn by_order(samples: Vec<Sample>, shares: Shares) -> [Vec<Sample>; 3] {
    let classes = samples.iter().map(|sample| sample.label + 1).max().unwrap_or(0);
    let mut total = vec![0usize; classes];
    samples.iter().for_each(|sample| total[sample.label] += 1);
    let mut seen = vec![0usize; classes];
    let mut splits = [const { Vec::new() }; 3];
    for sample in samples {
        let (n, at) = (total[sample.label], seen[sample.label]);
        seen[sample.label] += 1;
        splits[place(at, n, shares) as usize].push(sample);
    }
    splits
}

/// The split of the `at`-th of `n`.
fn place(at: usize, n: usize, shares: Shares) -> Split {
    let test = (n as f64 * shares.test) as usize;
    let val = (n as f64 * shares.val) as usize;
    match n - at {
        left if left <= test => Split::Test,
        left if left <= test + val => Split::Val,
        _ => Split::Train,
    }
}
