//! The task anomaly: whether the newest rows of a series are as unusual as hardly any that were learned from.
//!
//! An autoencoder learns, without labels, to say a window of rows again through a bottleneck. What it cannot say again is
//! unlike what it learned from (Sakurada and Yairi 2014). Its errors are judged against the errors before them
//! ([`Judge`]), so that a series may change slowly, and the threshold follows from the false alarms that are wanted
//! ([`Calibration`]).

mod calibration;
mod judge;
mod metrics;
mod monitor;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::series::{COLUMNS_MAX, Columns, Window, Windows};
use crate::{TaskError, check_labels, check_length, ensure};

pub use calibration::Calibration;
pub use judge::{Judge, Judgement};
pub use metrics::{Metrics, PRIMARY};
pub(crate) use monitor::Monitor;

pub(crate) const KIND: &str = "anomaly";

/// Most rows of a window.
pub const WINDOW_MAX: usize = 4096;
/// Most numbers of a window.
const NUMBERS_MAX: usize = 1 << 16;
/// Normalised values end here, in standard deviations, so that one of them does not drown the others.
const LIMIT: f32 = 20.0;

/// Which rows make a window, how it becomes a tensor, and from which error on it is an alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The columns of values, in their order in a row.
    pub columns: Vec<String>,
    /// The column of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Seconds from one row to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Rows of a window.
    pub window: usize,
    /// Rows from one answer of the network to the next.
    pub stride: usize,
    /// Subtracted from each column.
    pub mean: Vec<f32>,
    /// Each column is divided by it.
    pub std: Vec<f32>,
    /// Rows over which the usual error is forgotten.
    pub memory: usize,
    /// Rows that an alarm goes on after the last one above the threshold.
    pub hold: usize,
    /// False alarms that are wanted at most, as a share of rows.
    pub false_alarms: f64,
    /// The usual error, and the threshold.
    pub calibration: Calibration,
}

/// What the newest row comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// How far the error is above the usual one, in standard deviations of it; none before there are enough rows.
    pub score: Option<f64>,
    /// Whether it is an alarm.
    pub alarm: bool,
    /// The score from which on it is one.
    pub threshold: f64,
    /// The column with the largest error, where there is a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Seconds since 1970, where the row tells the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// The row's values by column.
    #[serde(default)]
    pub values: BTreeMap<String, f32>,
}

impl Anomaly {
    /// Refuses settings that contradict themselves, saying which and why.
    pub fn validate(&self) -> Result<(), TaskError> {
        check_labels(KIND, &self.columns, 1)?;
        let (columns, window) = (self.columns.len(), self.window);
        let rule = |holds: bool, reason: String| ensure(KIND, holds, || reason);
        rule(columns <= COLUMNS_MAX, format!("{columns} columns, at most {COLUMNS_MAX} are possible"))?;
        rule((2..=WINDOW_MAX).contains(&window), format!("window is {window}, must be 2 to {WINDOW_MAX}"))?;
        rule(
            window * columns <= NUMBERS_MAX,
            format!(
                "a window of {window} rows has {} numbers, at most {NUMBERS_MAX} are possible",
                window * columns
            ),
        )?;
        rule(
            (1..=window).contains(&self.stride),
            format!("stride is {}, must be 1 to {window}", self.stride),
        )?;
        for (name, rows) in [("memory", self.memory), ("hold", self.hold)] {
            rule((1..=1 << 30).contains(&rows), format!("{name} is {rows}, must be 1 to 2^30"))?;
        }
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            rule(
                values.len() == columns,
                format!("{name} has {} values for {columns} columns", values.len()),
            )?;
            rule(values.iter().all(|v| v.is_finite()), format!("{name} is {values:?}, must be finite"))?;
        }
        rule(self.std.iter().all(|&v| v > 0.0), format!("std is {:?}, must be above 0", self.std))?;
        let interval = self.interval_s.unwrap_or(1.0);
        rule(
            interval.is_finite() && interval > 0.0,
            format!("interval_s is {interval}, must be finite and above 0"),
        )?;
        let share = self.false_alarms;
        rule(share > 0.0 && share <= 1.0, format!("false_alarms is {share}, must be above 0 and at most 1"))?;
        self.calibration.validate()
    }

    /// Which columns of a line make a row.
    pub fn row_columns(&self) -> Columns {
        Columns { values: self.columns.clone(), time: self.time.clone() }
    }

    /// Cuts a series into this task's windows.
    pub fn windows(&self) -> Windows {
        Windows::new(self.window, self.stride, self.interval_s)
    }

    /// The elements of a window: rows one after another.
    pub fn shape(&self) -> [usize; 1] {
        [self.window * self.columns.len()]
    }

    /// `(v - mean) / std`, limited to 20 either way.
    pub fn preprocess(&self, window: &Window, out: &mut [f32]) -> Result<(), TaskError> {
        check_length("the window", window.values.len(), out.len())?;
        check_length("the input", out.len(), self.shape()[0])?;
        let columns = self.columns.len();
        for (row, values) in out.chunks_exact_mut(columns).zip(window.values.chunks_exact(columns)) {
            for (((to, v), mean), std) in row.iter_mut().zip(values).zip(&self.mean).zip(&self.std) {
                *to = ((v - mean) / std).clamp(-LIMIT, LIMIT);
            }
        }
        Ok(())
    }

    /// The mean square error of each column between the tensor of a window and what the network made of it.
    pub fn column_errors(&self, input: &[f32], output: &[f32]) -> Result<Vec<f32>, TaskError> {
        check_length("the output", output.len(), self.shape()[0])?;
        check_length("the input", input.len(), output.len())?;
        let columns = self.columns.len();
        let mut errors = vec![0.0; columns];
        for (x, y) in input.chunks_exact(columns).zip(output.chunks_exact(columns)) {
            errors.iter_mut().zip(x.iter().zip(y)).for_each(|(error, (x, y))| *error += (x - y) * (x - y));
        }
        errors.iter_mut().for_each(|error| *error /= self.window as f32);
        Ok(errors)
    }

    /// The same for a window as it came.
    pub fn window_errors(&self, window: &Window, output: &[f32]) -> Result<Vec<f32>, TaskError> {
        let mut input = vec![0.0; self.shape()[0]];
        self.preprocess(window, &mut input)?;
        self.column_errors(&input, output)
    }

    /// The error of a window: the root of the mean square error over all columns.
    pub fn error(&self, errors: &[f32]) -> Result<f64, TaskError> {
        check_length("the errors", errors.len(), self.columns.len())?;
        let sum: f64 = errors.iter().map(|&error| f64::from(error)).sum();
        Ok((sum / errors.len() as f64).sqrt())
    }

    /// What one window comes to by itself, judged against the usual error of the calibration.
    pub fn postprocess(&self, window: &Window, output: &[f32]) -> Result<Reading, TaskError> {
        let errors = self.window_errors(window, output)?;
        let judged = Judge::new(self).judge(window.follows, self.error(&errors)?);
        Ok(Reading {
            score: Some(judged.score),
            alarm: judged.alarm,
            threshold: self.calibration.threshold,
            column: self.worst(&errors),
            at: None,
            values: BTreeMap::new(),
        })
    }

    /// The column with the largest error.
    fn worst(&self, errors: &[f32]) -> Option<String> {
        let worst = (0..errors.len()).max_by(|&a, &b| errors[a].total_cmp(&errors[b]))?;
        self.columns.get(worst).cloned()
    }

    /// False alarms in a day at the rate that is wanted, where the series tells the time.
    pub fn false_alarms_per_day(&self) -> Option<f64> {
        self.interval_s.map(|interval| self.false_alarms * 86_400.0 / interval)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two columns, windows of 4 rows.
    pub(crate) fn task() -> Anomaly {
        Anomaly {
            columns: vec!["a".into(), "b".into()],
            time: Some("t".into()),
            interval_s: Some(60.0),
            window: 4,
            stride: 1,
            mean: vec![1.0, 10.0],
            std: vec![0.5, 2.0],
            memory: 64,
            hold: 4,
            false_alarms: 1e-3,
            calibration: Calibration { mean: 0.2, std: 0.1, threshold: 5.0 },
        }
    }

    #[test]
    fn windows_are_normalised_and_limited() {
        let window = Window { values: vec![1.0, 10.0, 2.0, 8.0, 0.5, 12.0, 1e9, -1e9], ..window() };
        let mut out = [0.0; 8];
        task().preprocess(&window, &mut out).unwrap();
        assert_eq!(out, [0.0, 0.0, 2.0, -1.0, -1.0, 1.0, 20.0, -20.0]);
        assert!(task().preprocess(&window, &mut [0.0; 6]).is_err());
    }

    fn window() -> Window {
        Window { values: Vec::new(), follows: crate::series::Follows::Nothing }
    }

    #[test]
    fn errors_of_columns_become_one() {
        let window = Window { values: [1.0, 10.0].repeat(4), ..window() };
        let output = [1.0, 2.0, -1.0, 2.0, 1.0, 2.0, 1.0, -2.0];
        let errors = task().window_errors(&window, &output).unwrap();
        assert_eq!(errors, [1.0, 4.0]);
        assert!(task().window_errors(&window, &[0.0; 2]).is_err());
        assert_eq!(task().error(&[1.0, 7.0]).unwrap(), 2.0);
        assert_eq!(task().worst(&[1.0, 7.0]).unwrap(), "b");
        assert!(task().error(&[1.0]).is_err());
        assert!((task().false_alarms_per_day().unwrap() - 1.44).abs() < 1e-9);
    }

    #[test]
    fn contradictions_are_named() {
        let check = |change: fn(&mut Anomaly), words: &str| {
            let mut task = task();
            change(&mut task);
            let error = task.validate().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        assert_eq!(task().validate(), Ok(()));
        check(|task| task.columns[1] = "a".into(), "label \"a\" occurs twice");
        check(|task| task.window = 1, "window is 1, must be 2 to 4096");
        check(|task| task.stride = 5, "stride is 5, must be 1 to 4");
        check(|task| task.hold = 0, "hold is 0");
        check(|task| task.memory = 0, "memory is 0");
        check(|task| task.mean = vec![0.0], "mean has 1 values for 2 columns");
        check(|task| task.std[0] = 0.0, "must be above 0");
        check(|task| task.std[0] = f32::NAN, "must be finite");
        check(|task| task.interval_s = Some(0.0), "interval_s is 0");
        check(|task| task.false_alarms = 0.0, "false_alarms is 0");
        check(|task| task.calibration.std = 0.0, "calibration");
    }
}
