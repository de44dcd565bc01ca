//! The last package of a pipeline that passed every check: what runs after a start with one that does not.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use espalier_graph::files::{remove_leftovers, write_atomic};

use crate::package::Stamp;

/// Bytes that are compared at once.
const BLOCK: usize = 1 << 16;

/// Where the copy of one pipeline is. It is no hard link: who writes to the package in place does not touch it.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    path: PathBuf,
}

impl Spare {
    /// That of the pipeline of this name; `data` is the agent's folder for what outlives a restart.
    pub(crate) fn new(data: &Path, pipeline: &str) -> Spare {
        Spare { path: data.join("packages").join(format!("{pipeline}.espalier")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a copy of the file at `path`.
    pub(crate) fn is_copy_of(&self, path: &Path) -> bool {
        is_same(&self.path, path).unwrap_or(false)
    }

    /// Takes the place of the copy before, at once and for good. A file that is no longer the one that was checked is left:
    /// it will be checked itself.
    ///
    /// # Errors
    /// It could not be written; the copy before is still there.
    pub(crate) fn keep(&self, checked: &Stamp) -> io::Result<()> {
        if self.is_copy_of(checked.path()) {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        remove_leftovers(&self.path).map_err(io::Error::other)?;
        let mut is_another = false;
        let written = write_atomic(&self.path, |copy| {
            io::copy(&mut File::open(checked.path())?, copy)?;
            is_another = Stamp::of(checked.path())? != *checked;
            if is_another { Err(io::Error::other("it changes")) } else { Ok(()) }
        });
        if is_another { Ok(()) } else { written.map_err(io::Error::other) }
    }
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if left != other.metadata()?.len() {
        return Ok(false);
    }
    let mut blocks = [vec![0; BLOCK], vec![0; BLOCK]];
    while left > 0 {
        let size = left.min(BLOCK as u64) as usize;
        let [a, b] = &mut blocks;
        one.read_exact(&mut a[..size])?;
        other.read_exact(&mut b[..size])?;
        if a[..size] != b[..size] {
            return Ok(false);
        }
        left -= size as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_kept_of_what_was_checked_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (package, data) = (folder.path().join("a.espalier"), folder.path().join("data"));
        let spare = Spare::new(&data, "gate");
        let write = |text: &str| std::fs::write(&package, text).unwrap();
        write("first");
        assert!(!spare.is_copy_of(&package));
        let first = Stamp::of(&package).unwrap();
        spare.keep(&first).unwrap();
        assert!(spare.is_copy_of(&package));
        // In place, and no copy of it yet.
        write("other");
        assert!(!spare.is_copy_of(&package));
        write("longer");
        spare.keep(&first).unwrap();
        assert_eq!(std::fs::read(spare.path()).unwrap(), b"first", "that is not what was checked");
        spare.keep(&Stamp::of(&package).unwrap()).unwrap();
        assert_eq!(std::fs::read(spare.path()).unwrap(), b"longer");
        assert_eq!(std::fs::read_dir(data.join("packages")).unwrap().count(), 1, "nothing is left over");
    }
}
