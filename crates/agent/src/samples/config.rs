//! What can be set of hard samples.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the hard samples of a pipeline. Without them no picture leaves the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Where they are kept, each as a file with its answer beside it.
    pub folder: PathBuf,
    /// Most samples in any hour.
    #[serde(default = "per_hour")]
    pub per_hour: u32,
    /// Most bytes of samples in any hour, their answers included.
    #[serde(default = "bytes_per_hour")]
    pub bytes_per_hour: u64,
    /// Most bytes in the folder: beyond, nothing is kept until somebody takes samples away.
    #[serde(default = "folder_bytes")]
    pub folder_bytes: u64,
    /// An answer is uncertain where the surest of its labels leads the next by less than this, 0 to 1; 0 turns it off.
    #[serde(default = "margin")]
    pub margin: f64,
    /// A frame is novel where one of its numbers lies beyond all of the reference statistics by more than this share of their
    /// range; needs these; a negative one turns it off.
    #[serde(default = "novelty")]
    pub novelty: f64,
    /// Share of `per_hour` that is chosen at random, 0 to 1.
    #[serde(default = "random")]
    pub random: f64,
    /// What the random ones are a function of.
    #[serde(default)]
    pub seed: u64,
}

fn per_hour() -> u32 {
    60
}

fn bytes_per_hour() -> u64 {
    10_000_000
}

fn folder_bytes() -> u64 {
    100_000_000
}

fn margin() -> f64 {
    0.2
}

fn novelty() -> f64 {
    0.1
}

fn random() -> f64 {
    0.1
}

/// Why hard samples cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A setting that cannot be kept.
    #[error("samples: {key} is {value}, it should be {right}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What would be right.
        right: &'static str,
    },
    /// The package looks at rows of a series: a single row is worth no label.
    #[error("samples: hard samples are pictures, and the package looks at series: leave samples out")]
    Series,
    /// The folder cannot be used.
    #[error("samples: folder {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file could not be written; nothing is half there.
    #[error("samples: {0}")]
    Write(#[from] espalier_graph::files::FileError),
}

impl SampleConfig {
    /// The usual settings.
    pub fn new(folder: impl Into<PathBuf>) -> SampleConfig {
        SampleConfig {
            folder: folder.into(),
            per_hour: per_hour(),
            bytes_per_hour: bytes_per_hour(),
            folder_bytes: folder_bytes(),
            margin: margin(),
            novelty: novelty(),
            random: random(),
            seed: 0,
        }
    }

    /// Refuses settings that cannot be kept.
    ///
    /// # Errors
    /// The first of them.
    pub fn validate(&self) -> Result<(), SampleError> {
        let check =
            |key, value: f64, range: std::ops::RangeInclusive<f64>, right| match range.contains(&value) {
                true => Ok(()),
                false => Err(SampleError::Setting { key, value, right }),
            };
        check("per_hour", f64::from(self.per_hour), 1.0..=3600.0, "1 to 3600")?;
        check("bytes_per_hour", self.bytes_per_hour as f64, 1e3..=1e11, "1000 to 1e11")?;
        check("folder_bytes", self.folder_bytes as f64, 1e3..=1e13, "1000 to 1e13")?;
        check("margin", self.margin, 0.0..=1.0, "0 to 1")?;
        check("novelty", self.novelty, -1.0..=100.0, "-1 (off) to 100")?;
        check("random", self.random, 0.0..=1.0, "0 to 1")
    }
}
