//! Where pictures and rows come from.

mod buffer;
mod digits;
mod disturb;
mod feed;
mod ffmpeg;
mod files;
mod http;
pub(crate) mod multipart;
pub(crate) mod pictures;
pub(crate) mod rows;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use espalier_tasks::Task;
use espalier_tasks::image::{is_image, is_image_name};

use crate::address::Address;
use crate::queue::Policy;

pub use digits::Digits;
pub use disturb::Disturbance;
pub(crate) use feed::{End, Feed, Interrupter};
pub use feed::{Persistence, Retry};

/// Endings of the names of JPEGs one after another.
const MJPEG: [&str; 2] = ["mjpeg", "mjpg"];
/// Endings of the names of series.
const SERIES: [&str; 3] = ["csv", "jsonl", "ndjson"];

/// Why a source gives nothing, or nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It names nothing that could be read: the caller is to name something else.
    #[error("{0}")]
    Wrong(String),
    /// Nothing of that name is there now.
    #[error("{0}")]
    Missing(String),
    /// It was named rightly, and failed.
    #[error("{0}")]
    Failed(String),
}

impl SourceError {
    fn failed(text: impl fmt::Display) -> SourceError {
        SourceError::Failed(text.to_string())
    }
}

/// A source of pictures, or of the rows of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The pictures of a folder, by name.
    Folder(PathBuf),
    /// The pictures of a folder, and those that come into it.
    Watched(PathBuf),
    /// One picture.
    Picture(PathBuf),
    /// A file of JPEGs one after another.
    Mjpeg(PathBuf),
    /// A file of rows: CSV with a header, or a JSON object a line.
    Series(PathBuf),
    /// Standard input: pictures one after another, or rows.
    Input,
    /// Any other file: a video for `ffmpeg`.
    Video(PathBuf),
    /// A camera of this machine, through `ffmpeg`.
    Camera(PathBuf),
    /// A stream or a picture over HTTP; what is neither of these goes to `ffmpeg`.
    Http(Address),
    /// Any other address, RTSP say, through `ffmpeg`.
    Remote(Address),
    /// The built-in digits as a camera.
    Digits(Digits),
}

impl Source {
    /// What `text` names: a number is a camera, `-` standard input, `builtin:mnist-5k` the built-in digits, what has a scheme (`rtsp://...`) an address, anything
    /// else a file or folder. In addresses, `${NAME}` stands for a variable of the environment.
    ///
    /// # Errors
    /// [`SourceError::Missing`] where nothing of that name is there, [`SourceError::Wrong`] where nothing can be.
    pub fn new(text: &str) -> Result<Source, SourceError> {
        let is_variable = text.starts_with("${") && text.ends_with('}');
        if text == "-" {
            Ok(Source::Input)
        } else if Digits::is_meant(text) {
            Digits::new(text).map(Source::Digits)
        } else if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            camera(Path::new(&format!("/dev/video{text}")), text)
        } else if text.contains("://") || is_variable {
            let address = Address::new(text, |name| std::env::var(name).ok())?;
            Source::remote(address)
        } else {
            local(Path::new(text))
        }
    }

    fn remote(address: Address) -> Result<Source, SourceError> {
        let scheme = address.url().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Ok(Source::Http(address)),
            Some("rtsp" | "rtsps" | "rtmp" | "rtmps" | "srt" | "udp" | "tcp" | "rtp") => {
                Ok(Source::Remote(address))
            }
            Some(_) => Err(SourceError::Wrong(format!(
                "{address}: http, https, rtsp, rtsps, rtmp, rtmps, srt, udp, tcp and rtp are understood; a file is named by \
                 its path"
            ))),
            None => Err(SourceError::Wrong("the variable of the environment holds no URL".into())),
        }
    }

    /// Whether it goes on whether or not anybody looks.
    pub fn is_live(&self) -> bool {
        matches!(self, Source::Camera(_) | Source::Http(_) | Source::Remote(_) | Source::Digits(_))
    }

    /// What is usual for it: the newest of what is live, every frame of what is stored or piped.
    pub fn policy(&self) -> Policy {
        if self.is_live() { Policy::Latest } else { Policy::Every }
    }

    /// How long it is read where nobody says otherwise: what is live is tried again where it breaks off.
    pub fn persistence(&self) -> Persistence {
        Persistence { again: false, retry: if self.is_live() { Retry::Some } else { Retry::Never } }
    }

    /// Refuses a source that cannot give what `task` takes.
    ///
    /// # Errors
    /// [`SourceError::Wrong`] for pictures where rows of a series are needed, and the other way round.
    pub fn check(&self, task: &Task) -> Result<(), SourceError> {
        let (gives_rows, takes_rows) = (matches!(self, Source::Series(_)), task.row_columns().is_some());
        let kind = task.kind();
        match (self, gives_rows, takes_rows) {
            (Source::Input, ..) | (_, true, true) | (_, false, false) => Ok(()),
            (_, true, false) => Err(SourceError::Wrong(format!(
                "{self}: it gives rows of a series, and the package is for {kind}, which looks at pictures"
            ))),
            (_, false, true) => Err(SourceError::Wrong(format!(
                "{self}: it gives pictures, and the package is for {kind}, which looks at series (.csv, .jsonl, or - for \
                 standard input)"
            ))),
        }
    }

    /// Reads it once: to its end, until it breaks off, or until nobody takes frames any more.
    pub(crate) fn read(&self, feed: &mut Feed) -> Result<End, SourceError> {
        let over = |()| End::Over;
        match self {
            Source::Folder(path) => files::folder(path, feed).map(over),
            Source::Watched(path) => files::watched(path, feed).map(over),
            Source::Picture(path) => files::picture(path, feed).map(over),
            Source::Mjpeg(path) => files::mjpeg(path, feed).map(over),
            Source::Series(path) => rows::file(path, feed).map(over),
            Source::Input => files::input(feed).map(over),
            Source::Video(path) => ffmpeg::file(path, feed).map(over),
            Source::Camera(path) => ffmpeg::camera(path, feed),
            Source::Http(address) => http::read(address, feed),
            Source::Remote(address) => ffmpeg::remote(address, feed),
            Source::Digits(digits) => digits.play(feed).map(over),
        }
    }
}

/// As it may be shown: without secrets.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Input => f.write_str("standard input"),
            Source::Digits(digits) => digits.fmt(f),
            Source::Http(address) | Source::Remote(address) => address.fmt(f),
            Source::Folder(path)
            | Source::Watched(path)
            | Source::Picture(path)
            | Source::Mjpeg(path)
            | Source::Series(path)
            | Source::Video(path)
            | Source::Camera(path) => path.display().fmt(f),
        }
    }
}

fn camera(path: &Path, text: &str) -> Result<Source, SourceError> {
    if path.exists() {
        return Ok(Source::Camera(path.into()));
    }
    Err(SourceError::Missing(format!("there is no camera {text} ({} does not exist)", path.display())))
}

fn local(path: &Path) -> Result<Source, SourceError> {
    let shown = path.display();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !path.exists() {
        Err(SourceError::Missing(format!("{shown}: there is no such file or folder")))
    } else if path.is_dir() {
        Ok(Source::Folder(path.into()))
    } else if path.starts_with("/dev/") && !path.is_file() {
        Ok(Source::Camera(path.into()))
    } else if MJPEG.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        Ok(Source::Mjpeg(path.into()))
    } else if SERIES.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        Ok(Source::Series(path.into()))
    } else if is_image_name(path) || path.is_file() && begins_a_picture(path) {
        Ok(Source::Picture(path.into()))
    } else {
        Ok(Source::Video(path.into()))
    }
}

fn begins_a_picture(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut head));
    read.is_ok() && is_image(&head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_they_stand_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, if name == "plain" { &b"\xff\xd8\xff\xe0"[..] } else { b"text" }).unwrap();
            path
        };
        let check = |text: &str, source: Source, live: bool| {
            assert_eq!(Source::new(text), Ok(source.clone()), "{text}");
            assert_eq!((source.is_live(), source.policy() == Policy::Latest), (live, live), "{text}");
        };
        for (name, source) in [
            ("a.JPG", Source::Picture as fn(PathBuf) -> Source),
            ("plain", Source::Picture),
            ("a.mjpg", Source::Mjpeg),
            ("a.MJPEG", Source::Mjpeg),
            ("a.mp4", Source::Video),
            ("a.csv", Source::Series),
            ("a.JSONL", Source::Series),
        ] {
            let path = path(name);
            check(path.to_str().unwrap(), source(path.clone()), false);
        }
        check(folder.path().to_str().unwrap(), Source::Folder(folder.path().into()), false);
        check("-", Source::Input, false);
        let address = |text| Address::new(text, |_| None).unwrap();
        check("http://h/v", Source::Http(address("http://h/v")), true);
        check("RTSP://h/v", Source::Remote(address("RTSP://h/v")), true);
        check("/dev/null", Source::Camera("/dev/null".into()), true);
        check("builtin:mnist-5k", Source::Digits(Digits::default()), true);
    }

    #[test]
    fn what_is_not_there_is_named_without_secrets() {
        let check = |text: &str, words: &str| {
            let error = Source::new(text).unwrap_err();
            let is_missing = words.contains("there is no");
            assert_eq!(matches!(error, SourceError::Missing(_)), is_missing, "{error}");
            assert!(
                matches!(error, SourceError::Wrong(_) | SourceError::Missing(_))
                    && error.to_string().contains(words),
                "{error}"
            );
            assert!(!error.to_string().contains("geheim"), "{error}");
        };
        check("", "there is no such file");
        check("nowhere.mp4", "nowhere.mp4: there is no such file");
        check("9973", "there is no camera 9973 (/dev/video9973 does not exist)");
        check("gopher://me:geheim@host/", "gopher://me:***@host/: http, https, rtsp");
        check("file:///etc/passwd", "a file is named by its path");
        check("http://h/${ESPALIER_NO_SUCH_THING}", "variable ESPALIER_NO_SUCH_THING is not set");
    }
}
