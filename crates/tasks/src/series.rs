//! Series: rows of numbers over time, as sensors give them, and how text becomes rows.
//!
//! A row is one line of text: of CSV under a header, or a JSON object. A line that lacks a number where a column wants one is a
//! [`RowError`], which names the column; it never ends a series.

mod columns;
mod time;
mod window;

pub use columns::{COLUMNS_MAX, Columns, ROW_BYTES, delimiter, fields, header, is_name_of_time};
pub use time::seconds;
pub use window::{Follows, Window, Windows};

/// What was measured at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Seconds since 1970, where the series tells the time.
    pub time: Option<f64>,
    /// One finite number for each column.
    pub values: Vec<f32>,
}

/// Why a line is no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// More than [`ROW_BYTES`].
    #[error("a line has {0} bytes, at most {ROW_BYTES} are read")]
    Long(usize),
    /// Bytes that are no text.
    #[error("it is no UTF-8 text")]
    Text,
    /// A line of JSON that holds no object.
    #[error("it is no JSON object: {0}")]
    Json(String),
    /// The header has no such column, or the line ends before it.
    #[error("column `{0}` is missing")]
    Missing(String),
    /// No finite number where one is needed.
    #[error("column `{column}` is {found:?}, a number is needed")]
    Number {
        /// The column.
        column: String,
        /// What stands there, its beginning.
        found: String,
    },
    /// No time where one is needed.
    #[error("column `{column}` is {found:?}, a time is needed: 2026-11-30 12:00:00, or seconds since 1970")]
    Time {
        /// The column.
        column: String,
        /// What stands there, its beginning.
        found: String,
    },
    /// Two columns of one name, or more than [`COLUMNS_MAX`].
    #[error("the header {0}")]
    Header(String),
}
