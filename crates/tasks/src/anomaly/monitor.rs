//! A series as it comes, row after row.

use super::{Anomaly, Judge, Judgement, KIND, Reading};
use crate::series::{Row, Window, Windows};
use crate::{TaskError, check_length};

/// What a model remembers of the series that it answers.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    task: Anomaly,
    windows: Windows,
    judge: Judge,
    /// What the last window came to: judgement, and the column with the largest error.
    last: Option<(Judgement, Option<String>)>,
}

impl Monitor {
    pub(crate) fn new(task: &Anomaly) -> Monitor {
        Monitor { task: task.clone(), windows: task.windows(), judge: Judge::new(task), last: None }
    }

    /// Goes on with the rows that `before` has seen, where both take the same ones; what is usual is learned anew.
    pub(crate) fn follow(&mut self, before: &Monitor) {
        if self.task.row_columns() == before.task.row_columns() {
            self.windows.follow(&before.windows);
        }
    }

    /// Takes a row; gives the window to be answered, if one is due.
    pub(crate) fn push(&mut self, row: &Row) -> Result<Option<Window>, TaskError> {
        check_length("the row", row.values.len(), self.task.columns.len())?;
        if !row.values.iter().all(|value| value.is_finite()) {
            return Err(TaskError::Input { kind: KIND, expected: "rows of finite numbers" });
        }
        let window = self.windows.push(row);
        if !self.windows.is_full() {
            self.last = None;
        }
        Ok(window)
    }

    /// Judges the network's output for the window that was due.
    pub(crate) fn judge(&mut self, window: &Window, output: &[f32]) -> Result<(), TaskError> {
        let errors = self.task.window_errors(window, output)?;
        let judged = self.judge.judge(window.follows, self.task.error(&errors)?);
        self.last = Some((judged, self.task.worst(&errors)));
        Ok(())
    }

    /// What the newest row comes to: between two answers of the network, what the last one said.
    pub(crate) fn reading(&self, row: &Row) -> Reading {
        let (judged, column) = self.last.clone().unzip();
        let names = self.task.columns.iter().cloned();
        Reading {
            score: judged.map(|judged| judged.score),
            alarm: judged.is_some_and(|judged| judged.alarm),
            threshold: self.task.calibration.threshold,
            column: column.flatten(),
            at: row.time,
            values: names.zip(row.values.iter().copied()).collect(),
        }
    }
}
