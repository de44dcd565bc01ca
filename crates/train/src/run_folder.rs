//! The folder of a run: run.toml, best.espalier, the checkpoints, what observers keep, and result.json once it has ended.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use espalier_graph::files::{self, FileError};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::observers::mlflow;

/// Every file of a run that is written whole.
const FILES: [&str; 8] = [
    "run.toml",
    METRICS,
    REPORT,
    "best.espalier",
    "result.json",
    mlflow::IDENTITY,
    checkpoint::LAST,
    checkpoint::PREVIOUS,
];

const METRICS: &str = "metrics.csv";
const REPORT: &str = "report.html";

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

/// Why a run's folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is a run already.
    #[error("{} exists and is not empty; use another --out, or --resume to go on with it", .0.display())]
    Exists(PathBuf),
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

impl RunFolder {
    /// The folder at `path`, which need not exist. With `resume` it may hold a run, else it must be empty.
    ///
    /// # Errors
    /// It holds something, or cannot be listed.
    pub fn open(path: &Path, resume: bool) -> Result<RunFolder, RunError> {
        if !resume && holds_something(path).map_err(|e| fault(path, e))? {
            return Err(RunError::Exists(path.into()));
        }
        Ok(RunFolder(path.into()))
    }

    /// Makes the folder if need be, and removes what killed writers left in it.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn create(&self) -> Result<(), RunError> {
        std::fs::create_dir_all(&self.0).map_err(|e| fault(&self.0, e))?;
        for name in FILES {
            files::remove_leftovers(self.0.join(name))?;
        }
        Ok(())
    }

    /// `runs/NAME`, or with a number where that exists.
    pub fn fresh(name: &str) -> PathBuf {
        let base = Path::new("runs");
        let numbered = (2..).map(|i| base.join(format!("{name}-{i}")));
        std::iter::once(base.join(name)).chain(numbered).find(|p| !p.exists()).expect("numbers are endless")
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the best package lies.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.espalier")
    }

    /// Where the metrics of every epoch lie.
    pub fn metrics(&self) -> PathBuf {
        self.0.join(METRICS)
    }

    /// Where the report lies.
    pub fn report(&self) -> PathBuf {
        self.0.join(REPORT)
    }

    /// Writes run.toml.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_settings<T: Serialize>(&self, settings: &T) -> Result<(), RunError> {
        let text = toml::to_string(settings).expect("settings are plain data");
        Ok(files::write_atomic(self.0.join("run.toml"), |f| f.write_all(text.as_bytes()))?)
    }

    /// Reads run.toml, `None` where there is none yet.
    ///
    /// # Errors
    /// It cannot be read or does not parse.
    pub fn settings<T: for<'a> Deserialize<'a>>(&self) -> Result<Option<T>, RunError> {
        let path = self.0.join("run.toml");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        toml::from_str(&text).map(Some).map_err(|e| fault(&path, e.message()))
    }

    /// Writes result.json, which says that the run has ended.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_result<T: Serialize>(&self, result: &T) -> Result<(), RunError> {
        let text = serde_json::to_string(result).expect("results are plain data");
        Ok(files::write_atomic(self.0.join("result.json"), |f| f.write_all(text.as_bytes()))?)
    }

    /// Reads result.json, `None` where the run has not ended.
    ///
    /// # Errors
    /// It cannot be read or does not parse.
    pub fn result<T: for<'a> Deserialize<'a>>(&self) -> Result<Option<T>, RunError> {
        let path = self.0.join("result.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|e| fault(&path, e))
    }
}

fn fault(path: &Path, reason: impl ToString) -> RunError {
    RunError::File { path: path.into(), reason: reason.to_string() }
}

fn holds_something(path: &Path) -> std::io::Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, RunError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fault(path, e)),
    }
}
