//! Durable files: a reader finds the old content or the whole new one, also after a power cut.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct FileError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Writes `path` through `write`: into a temporary file beside it, which is made durable (fsync) and then renamed;
/// the folder is made durable too. Several writers of one path do not disturb each other; the last rename wins.
///
/// # Errors
/// What `write` or the system said, with the path. `path` is then as it was, and the temporary file is gone. Only
/// where the folder itself cannot be made durable is the new content in place already.
pub fn write_atomic(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let path = path.as_ref();
    replace(path, write).map_err(|source| FileError { path: path.into(), source })
}

fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    // A folder that cannot be opened is noticed before anything is renamed.
    let folder = File::open(folder(path))?;
    let (temporary, file) = Temporary::beside(path)?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()?;
    temporary.rename(path)?;
    folder.sync_all()
}

/// Removes the temporary files that killed writers of `path` left beside it, and returns how many there were. Call it
/// where nobody else can be writing `path`.
///
/// # Errors
/// The folder cannot be listed, or a file cannot be removed.
pub fn remove_leftovers(path: impl AsRef<Path>) -> Result<usize, FileError> {
    let path = path.as_ref();
    sweep(path).map_err(|source| FileError { path: path.into(), source })
}

fn sweep(path: &Path) -> io::Result<usize> {
    let (prefix, mut removed) = (prefix(path)?, 0);
    for entry in fs::read_dir(folder(path))? {
        let name = entry?.file_name();
        let own = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        if own.is_some_and(|rest| rest.ends_with(SUFFIX.as_bytes())) {
            fs::remove_file(folder(path).join(name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

const SUFFIX: &str = ".tmp";

/// A file under a name that nobody else uses; removed unless renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn beside(target: &Path) -> io::Result<(Temporary, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let prefix = prefix(target)?;
        loop {
            let mut name = prefix.clone();
            name.push(format!("{}-{}{SUFFIX}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
            let path = folder(target).join(name);
            match File::create_new(&path) {
                Ok(file) => return Ok((Temporary { path, renamed: false }, file)),
                // Left by a killed process that had our number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `.NAME.`, with which every temporary file of `path` begins.
fn prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    Ok([".".as_ref(), name, ".".as_ref()].into_iter().collect())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
