//! The folder of hard samples: each a file named by its SHA-256, and the answer beside it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use espalier_graph::files::write_atomic;
use sha2::{Digest, Sha256};

use super::config::SampleError;

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    bytes_max: u64,
    /// Bytes in the folder as they were last counted, and what was kept since.
    bytes: u64,
}

impl Store {
    pub(super) fn open(folder: &Path, bytes_max: u64) -> Result<Store, SampleError> {
        let named = |error| SampleError::Folder { path: folder.into(), error };
        std::fs::create_dir_all(folder).map_err(named)?;
        let mut store = Store { folder: folder.into(), bytes_max, bytes: 0 };
        store.clean()?;
        store.bytes = store.count().map_err(named)?;
        Ok(store)
    }

    /// Whether so many bytes fit. Others take samples away, so the folder is counted again before it is called full.
    pub(super) fn has_room(&mut self, bytes: u64) -> bool {
        let fits = |store: &Store| store.bytes.saturating_add(bytes) <= store.bytes_max;
        if !fits(self)
            && let Ok(counted) = self.count()
        {
            self.bytes = counted;
        }
        fits(self)
    }

    /// Keeps a picture; the name of its file. `None` where it is there already.
    pub(super) fn keep(&mut self, picture: &[u8], beside: &[u8]) -> Result<Option<String>, SampleError> {
        let digest: String = Sha256::digest(picture).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{digest}.{}", extension(picture));
        let (file, answer) = (self.folder.join(&name), self.folder.join(format!("{digest}.json")));
        if file.exists() {
            return Ok(None);
        }
        // The answer first: whoever finds a picture finds its answer.
        write_atomic(&answer, |file| file.write_all(beside))?;
        write_atomic(&file, |file| file.write_all(picture))?;
        self.bytes += (picture.len() + beside.len()) as u64;
        Ok(Some(name))
    }

    /// Removes what a killed process left: unfinished files, and answers without a picture.
    fn clean(&self) -> Result<(), SampleError> {
        let named = |error| SampleError::Folder { path: self.folder.clone(), error };
        let names = || -> std::io::Result<Vec<PathBuf>> {
            std::fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
        };
        let paths = names().map_err(named)?;
        let (answers, others): (Vec<_>, Vec<_>) = paths.iter().partition(|path| ends(path, "json"));
        let pictures: BTreeSet<&OsStr> = others.iter().filter_map(|path| path.file_stem()).collect();
        let is_alone = |path: &&&PathBuf| {
            path.file_stem()
                .is_some_and(|stem| is_digest(stem.as_encoded_bytes()) && !pictures.contains(stem))
        };
        let is_unfinished = |path: &&&PathBuf| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            ends(path, "tmp") && name.get(1..65).is_some_and(is_digest)
        };
        let left = answers.iter().filter(is_alone).chain(others.iter().filter(is_unfinished));
        left.into_iter().try_for_each(|path| std::fs::remove_file(path).map_err(named))
    }

    fn count(&self) -> std::io::Result<u64> {
        std::fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
    }
}

fn ends(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn is_digest(name: &[u8]) -> bool {
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

/// The usual ending of such bytes.
fn extension(picture: &[u8]) -> &'static str {
    match picture {
        [0xff, 0xd8, ..] => "jpg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'B', b'M', ..] => "bmp",
        [b'G', b'I', b'F', ..] => "gif",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "bin",
    }
}
