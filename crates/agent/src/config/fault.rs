//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// A fault of a configuration, with its file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It is no TOML, or cannot be read.
    #[error("{0}")]
    Text(String),
    /// A key's value.
    #[error("{path} = {value}: {right}")]
    Value {
        /// Where it stands, as in `pipeline[0].source.rate`.
        path: String,
        /// The value.
        value: String,
        /// What would be right.
        right: String,
    },
    /// A table as a whole.
    #[error("{path}: {right}")]
    Table {
        /// Where it stands; empty: the file.
        path: String,
        /// What is wrong and what would be right.
        right: String,
    },
}

impl Fault {
    /// A fault at `path`, where there is a `wrong` value; `right` says what would be right.
    pub fn of(path: impl Into<String>, wrong: Option<impl fmt::Debug>, right: &str) -> Result<(), Fault> {
        let fault = |wrong| Fault::value(path, wrong, right);
        wrong.map_or(Ok(()), |wrong| Err(fault(wrong)))
    }

    /// The value `wrong` at `path`.
    pub fn value(path: impl Into<String>, wrong: impl fmt::Debug, right: impl Into<String>) -> Fault {
        Fault::Value { path: path.into(), value: format!("{wrong:?}"), right: right.into() }
    }
}

/// A rate in frames a second.
pub(super) fn rate(path: impl Into<String>, rate: Option<f64>) -> Result<(), Fault> {
    let wrong = rate.filter(|rate| !(0.001..=1000.0).contains(rate));
    Fault::of(path, wrong, "it should be 0.001 to 1000 frames a second")
}

/// Reads TOML; faults name the key.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let table: toml::Table = text.parse().map_err(|error| syntax(text, &error))?;
    serde_path_to_error::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
        let (path, mut at) = (error.path(), Some(&toml::Value::Table(table)));
        let mut shown = String::new();
        for segment in path.iter() {
            match segment {
                Segment::Map { key } => {
                    let dot = if shown.is_empty() { "" } else { "." };
                    shown = format!("{shown}{dot}{key}");
                    at = at.and_then(|value| value.get(key));
                }
                Segment::Seq { index } => {
                    shown = format!("{shown}[{index}]");
                    at = at.and_then(|value| value.get(index));
                }
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        let right = error.inner().message().trim().replace('\n', "; ");
        match at {
            Some(toml::Value::Table(_) | toml::Value::Array(_)) | None if !shown.is_empty() => {
                Fault::Table { path: shown, right }
            }
            Some(value) if !shown.is_empty() => Fault::Value { path: shown, value: value.to_string(), right },
            _ => Fault::Text(right),
        }
    })
}

fn syntax(text: &str, error: &toml::de::Error) -> Fault {
    let line = 1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count();
    Fault::Text(format!("line {line}: {}", error.message().trim().replace('\n', "; ")))
}
