//! What a stream consists of.

use std::path::Path;
use std::time::{Instant, SystemTime};

use espalier_tasks::series::Columns;
use espalier_tasks::{Content, Image, Limits, Row, Task, decode};

/// The most bytes of one encoded picture: enough for an uncompressed one of 4096 x 4096 pixels.
pub const PICTURE_BYTES: usize = 64 << 20;

/// Why there is no picture where one should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    pub(crate) fn new(reason: impl Into<String>) -> Fault {
        Fault(reason.into())
    }
}

/// One picture or row of a stream, or why it is none.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its number in the stream, from 1 on; frames that were skipped have numbers too.
    pub number: u64,
    /// When its last byte was here.
    pub time: SystemTime,
    /// The same by the clock that never jumps, for latencies.
    pub captured: Instant,
    /// The name of its file, where it has one of its own.
    pub file: Option<String>,
    /// Which reading of the source it is of, from 1 on: each beginning, after an end or a failure, is a new one.
    pub reading: u64,
    /// The picture's bytes (JPEG, PNG, BMP, ...), or a row of a series as a JSON object, or what is wrong. They are decoded
    /// by who needs them: a frame that is skipped costs no decoding.
    pub bytes: Result<Vec<u8>, Fault>,
}

impl Frame {
    /// What it truly shows, where the folder of its file says so, as data sets are laid out: `CLASS/NAME`.
    pub fn truth(&self) -> Option<&str> {
        Path::new(self.file.as_ref()?).parent()?.file_name()?.to_str()
    }

    /// The pixels.
    ///
    /// # Errors
    /// The fault that the source found, or that decoding finds.
    pub fn image(&self) -> Result<Image, Fault> {
        let bytes = self.bytes.as_ref().map_err(Clone::clone)?;
        decode(bytes, &Limits::default()).map_err(|error| Fault::new(error.to_string()))
    }

    /// The row of a series.
    ///
    /// # Errors
    /// The fault that the source found, or what the row lacks.
    pub fn row(&self, columns: &Columns) -> Result<Row, Fault> {
        let bytes = self.bytes.as_ref().map_err(Clone::clone)?;
        columns.of_json(bytes).map_err(|error| Fault::new(error.to_string()))
    }

    /// What `task` takes: a picture, or a row of a series.
    ///
    /// # Errors
    /// As [`Frame::image`] and [`Frame::row`].
    pub fn content(&self, task: &Task) -> Result<Content, Fault> {
        match task.row_columns() {
            Some(columns) => self.row(&columns).map(Content::Row),
            None => self.image().map(Content::Image),
        }
    }
}
