//! Tensors whose bytes lie in another file. Only a regular file in the model's own folder is read: no absolute path, no
//! `..`, no symbolic link on the way, no second hard link; and only bytes that are there.

use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::import::fault::ImportError;
use crate::proto::StringStringEntryProto;

/// Where a tensor's bytes lie.
struct Location<'a> {
    file: &'a str,
    offset: u64,
    length: Option<u64>,
}

/// The bytes of a tensor that should have `want` of them, from a file in `folder`.
///
/// # Errors
/// The entries are malformed, or the file is not one that may be read.
pub(crate) fn read(
    entries: &[StringStringEntryProto],
    folder: Option<&Path>,
    want: usize,
) -> Result<Vec<u8>, ImportError> {
    let location = location(entries).map_err(ImportError::Malformed)?;
    let folder = folder.ok_or_else(|| refused(location.file, "the model did not come from a file"))?;
    if location.length.is_some_and(|length| length != want as u64) {
        let length = location.length.unwrap_or(0);
        return Err(ImportError::Malformed(format!(
            "external data of {length} bytes for a tensor that takes {want}"
        )));
    }
    let (path, expected) = confined(folder, location.file)?;
    let said = |e: std::io::Error| ImportError::Read(format!("external data {}: {e}", location.file));
    let mut file = File::open(path).map_err(said)?;
    let opened = file.metadata().map_err(said)?;
    if !same_file(&opened, &expected) {
        return Err(refused(location.file, "the file was exchanged while it was opened"));
    }
    if location.offset.checked_add(want as u64).is_none_or(|end| end > opened.len()) {
        let (offset, have) = (location.offset, opened.len());
        return Err(refused(
            location.file,
            &format!("it has {have} bytes, {want} from byte {offset} on are asked for"),
        ));
    }
    file.seek(SeekFrom::Start(location.offset)).map_err(said)?;
    let mut bytes = vec![0; want];
    file.read_exact(&mut bytes).map_err(said)?;
    Ok(bytes)
}

fn location(entries: &[StringStringEntryProto]) -> Result<Location<'_>, String> {
    let find = |key: &str| {
        let mut found = entries.iter().filter(|entry| entry.key == key);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(format!("external data gives `{key}` twice")),
            (entry, None) => Ok(entry.map(|entry| entry.value.as_str())),
        }
    };
    let number = |key: &str| {
        let parse = |text: &str| text.parse().map_err(|_| format!("external data's `{key}` is no number"));
        find(key)?.map(parse).transpose()
    };
    let file = find("location")?.ok_or("external data without a `location`")?;
    Ok(Location { file, offset: number("offset")?.unwrap_or(0), length: number("length")? })
}

/// The path of a file that lies in `folder`, and what it is.
fn confined(folder: &Path, file: &str) -> Result<(PathBuf, Metadata), ImportError> {
    let relative = Path::new(file);
    let plain = |c: &Component<'_>| matches!(c, Component::Normal(_));
    let parts: Vec<Component<'_>> = relative.components().filter(|c| *c != Component::CurDir).collect();
    if parts.is_empty() || file.contains(['\\', '\0']) || !parts.iter().all(plain) {
        return Err(refused(file, "it has to be a path below the model's own folder, without `..`"));
    }
    let mut path = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() };
    for (number, part) in parts.iter().enumerate() {
        path.push(part);
        let metadata = path.symlink_metadata().map_err(|e| refused(file, &e.to_string()))?;
        if metadata.is_symlink() {
            return Err(refused(file, "symbolic links are not followed"));
        }
        if number + 1 == parts.len() {
            check_file(file, &metadata)?;
            return Ok((path, metadata));
        }
    }
    unreachable!("a path that is not empty has a last part")
}

fn check_file(file: &str, metadata: &Metadata) -> Result<(), ImportError> {
    if !metadata.is_file() {
        return Err(refused(file, "it is not a regular file"));
    }
    match links(metadata) {
        1 => Ok(()),
        n => Err(refused(file, &format!("it has {n} hard links; make a copy of it"))),
    }
}

fn refused(file: &str, reason: &str) -> ImportError {
    let shown: String = file.chars().take(100).flat_map(char::escape_debug).collect();
    ImportError::Refused(format!("external data {shown}: {reason}"))
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino(), a.nlink()) == (b.dev(), b.ino(), b.nlink()) && a.is_file()
}

#[cfg(not(unix))]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.is_file() && a.len() == b.len()
}

/// Reads a model file: regular, and not larger than a protobuf message may be.
pub(crate) fn model(path: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let said = |e: std::io::Error| ImportError::Read(e.to_string());
    // Before opening: that would wait for ever on a pipe.
    let metadata = fs::metadata(path).map_err(said)?;
    if !metadata.is_file() {
        return Err(ImportError::Read("not a regular file".into()));
    }
    if metadata.len() > limit {
        let have = metadata.len();
        return Err(ImportError::TooLarge(format!("the file has {have} bytes, at most {limit} are read")));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(path).map_err(said)?.take(limit).read_to_end(&mut bytes).map_err(said)?;
    Ok(bytes)
}
