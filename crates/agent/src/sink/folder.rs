//! To files of JSON lines, with hard samples beside them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use espalier_wire::{Batch, Kind, Lost, Message};

use super::receiver::{Outcome, Receiver};

/// What a file's name begins and ends with; between stands a number of twelve digits.
const NAME: (&str, &str) = ("insights-", ".jsonl");

/// A folder with `insights-NUMBER.jsonl` and `samples/`, each within its limit.
pub(super) struct Folder {
    path: PathBuf,
    /// Where hard samples lie at first.
    samples_from: Vec<PathBuf>,
    file_bytes: u64,
    max_bytes: u64,
    samples_bytes: u64,
}

impl Folder {
    pub(super) fn new(
        path: PathBuf,
        samples_from: Vec<PathBuf>,
        file_bytes: u64,
        max_bytes: u64,
        samples_bytes: u64,
    ) -> Folder {
        Folder { path, samples_from, file_bytes, max_bytes, samples_bytes }
    }

    /// Gives the number of hard samples whose files are not there.
    fn write(&self, batch: &Batch) -> io::Result<u64> {
        fs::create_dir_all(&self.path)?;
        let mut text = String::new();
        let lost = Lost::of(batch).into_iter().map(|lost| lost.to_json());
        let messages = Message::of(batch).into_iter().map(|message| message.to_json());
        lost.chain(messages).for_each(|line| text.extend([&line, "\n"]));
        let kept = oldest_first(&self.path, |name| number(name).is_some())?;
        self.make_room(&kept, text.len() as u64)?;
        let mut file = self.current(&kept)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        let mut missing = 0;
        for message in Message::of(batch).iter().filter(|_| !self.samples_from.is_empty()) {
            if let Ok(Kind::HardSample { file, .. }) = message.entry.parsed().map(|insight| insight.kind) {
                missing += u64::from(!self.keep_sample(&file)?);
            }
        }
        Ok(missing)
    }

    /// The newest file, or the one after it.
    fn current(&self, kept: &[Kept]) -> io::Result<File> {
        let newest = kept.last().map(|kept| (number(&kept.name).unwrap_or(0), kept.bytes));
        let next = match newest {
            Some((number, bytes)) if bytes < self.file_bytes => number,
            newest => newest.map_or(0, |(number, _)| number) + 1,
        };
        let path = self.path.join(format!("{}{next:012}{}", NAME.0, NAME.1));
        let fresh = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if fresh {
            File::open(&self.path)?.sync_all()?;
        } else if !ends_with_newline(&path)? {
            // What a power cut left of a line spoils no other.
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    fn make_room(&self, kept: &[Kept], comes: u64) -> io::Result<()> {
        make_room(&self.path, kept, comes, self.max_bytes)
    }

    /// Keeps a copy of a hard sample's file; `false` where there is none, or one that is too large.
    fn keep_sample(&self, name: &str) -> io::Result<bool> {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else { return Ok(false) };
        let folder = self.path.join("samples");
        let to = folder.join(name);
        if to.exists() {
            return Ok(true);
        }
        let mut places = self.samples_from.iter().map(|from| from.join(name));
        let Some(from) = places.find(|from| from.is_file()) else { return Ok(false) };
        let bytes = fs::metadata(&from)?.len();
        if bytes > self.samples_bytes {
            return Ok(false);
        }
        fs::create_dir_all(&folder)?;
        make_room(&folder, &oldest_first(&folder, |_| true)?, bytes, self.samples_bytes)?;
        let part = folder.join(format!(".{name}.part"));
        fs::copy(&from, &part)?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, &to)?;
        File::open(&folder)?.sync_all()?;
        Ok(true)
    }
}

impl Receiver for Folder {
    fn deliver(&mut self, batch: &Batch) -> Result<Outcome, String> {
        let rejected = self.write(batch).map_err(|e| format!("{}: {e}", self.path.display()))?;
        Ok(Outcome { rejected, ..Outcome::all(batch) })
    }
}

struct Kept {
    name: String,
    bytes: u64,
    modified: std::time::SystemTime,
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?.parse().ok()
}

/// Files of a folder whose names are wanted: numbered ones by number, others by time.
fn oldest_first(folder: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (Ok(name), Ok(found)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        if found.is_file() && wanted(&name) {
            let modified = found.modified().unwrap_or(std::time::UNIX_EPOCH);
            all.push(Kept { name, bytes: found.len(), modified });
        }
    }
    all.sort_by_key(|kept| (number(&kept.name), kept.modified));
    Ok(all)
}

/// Deletes the oldest until `comes` bytes more are within `limit`.
fn make_room(folder: &Path, kept: &[Kept], comes: u64, limit: u64) -> io::Result<()> {
    let mut total = comes + kept.iter().map(|kept| kept.bytes).sum::<u64>();
    for kept in kept {
        if total <= limit {
            break;
        }
        fs::remove_file(folder.join(&kept.name))?;
        total -= kept.bytes;
    }
    Ok(())
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use espalier_wire::{Counts, Dropped, Entry, Epoch, Priority};

    use super::*;

    fn batch(first: u64, insight: &str) -> Batch {
        let (device, epoch) = ("gate".parse().unwrap(), Epoch(1));
        let json = serde_json::from_str(insight).unwrap();
        let entry = Entry::new(&device, epoch, first + 1, Priority::Low, json);
        let dropped = Dropped { first, last: first, counts: Counts::one(Priority::Low) };
        Batch::new(device, epoch, (first, first + 1), vec![dropped], vec![entry])
    }

    fn sample(file: &str) -> String {
        format!(
            r#"{{"pipeline":"p","time_ms":1,"kind":"hard-sample","reason":"random","file":"{file}","bytes":3,"answer":{{}}}}"#
        )
    }

    fn names(folder: &Path) -> Vec<String> {
        oldest_first(folder, |_| true).unwrap().into_iter().map(|kept| kept.name).collect()
    }

    #[test]
    fn files_are_rotated_within_their_limits() {
        let scratch = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(scratch.path().join("out"), Vec::new(), 600, 1500, 0);
        for first in (1..40).step_by(2) {
            folder.deliver(&batch(first, "{}")).unwrap();
            let sizes: Vec<u64> =
                oldest_first(&folder.path, |_| true).unwrap().iter().map(|kept| kept.bytes).collect();
            assert!(sizes.iter().sum::<u64>() <= 1500 && sizes.iter().all(|&bytes| bytes < 900), "{sizes:?}");
        }
        let kept = names(&folder.path);
        assert!(kept.len() >= 2 && !kept.contains(&"insights-000000000001.jsonl".to_owned()), "{kept:?}");
        let newest = fs::read_to_string(folder.path.join(kept.last().unwrap())).unwrap();
        let last = newest.lines().last().unwrap();
        assert_eq!(Message::from_json(last.as_bytes()).unwrap().entry.sequence, 40);
        assert!(newest.contains(r#""dropped":{"first":39,"last":39,"low":1"#), "{newest}");
    }

    #[test]
    fn half_a_line_spoils_no_other() {
        let scratch = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(scratch.path().into(), Vec::new(), 1 << 20, 1 << 20, 0);
        folder.deliver(&batch(1, "{}")).unwrap();
        let path = scratch.path().join("insights-000000000001.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        folder.deliver(&batch(1, "{}")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let whole = text.lines().filter(|line| Message::from_json(line.as_bytes()).is_ok()).count();
        assert_eq!((text.lines().count(), whole), (4, 1), "{text}");
    }

    #[test]
    fn samples_come_along_within_their_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, out) = (scratch.path().join("in"), scratch.path().join("out"));
        fs::create_dir_all(&from).unwrap();
        let mut folder = Folder::new(out.clone(), vec![from.clone()], 1 << 20, 1 << 20, 7);
        for (place, name) in (1..).step_by(2).zip(["a.jpg", "b.jpg", "c.jpg", "a.jpg"]) {
            fs::write(from.join(name), b"abc").unwrap();
            assert_eq!(folder.deliver(&batch(place, &sample(name))).unwrap().rejected, 0);
        }
        let kept = names(&out.join("samples"));
        assert!(kept.len() == 2 && kept.contains(&"a.jpg".to_owned()), "{kept:?}");
        for absent in ["gone.jpg", "../in/a.jpg", "/etc/passwd", ""] {
            assert_eq!(folder.deliver(&batch(20, &sample(absent))).unwrap().rejected, 1, "{absent:?}");
        }
    }
}
