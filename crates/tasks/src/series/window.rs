//! The newest rows of a series, in one piece.

use std::collections::VecDeque;

use super::Row;

/// Missing rows that are bridged, as a share of a window. More of them are a gap, behind which a new window begins.
const BRIDGED: f64 = 0.25;

/// Rows one after another, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The values of each row, row after row.
    pub values: Vec<f32>,
    /// What came before it.
    pub follows: Follows,
}

/// What came before a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follows {
    /// It is the first of its series.
    #[default]
    Nothing,
    /// The series was interrupted.
    Gap,
    /// The window before it, which ends a stride earlier.
    Window,
}

/// Cuts a series into windows, a row at a time. Memory is that of one window.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Rows of a window.
    length: usize,
    /// Rows from one window to the next.
    stride: usize,
    /// Seconds from one row to the next, where the series tells the time.
    interval: Option<f64>,
    rows: VecDeque<Row>,
    /// Rows since the last window.
    since: usize,
    follows: Follows,
}

impl Windows {
    /// Of `length` rows, one every `stride` rows (at most `length`), of a series with a row every `interval` seconds.
    pub fn new(length: usize, stride: usize, interval: Option<f64>) -> Windows {
        let rows = VecDeque::with_capacity(length + 1);
        Windows { length, stride, interval, rows, since: 0, follows: Follows::Nothing }
    }

    /// Takes the next row, and gives the window that ends with it, if one is due. Where the times say that rows are missing,
    /// a straight line stands for a few of them; more, or a time that runs backwards by a row or more, begin a new window.
    pub fn push(&mut self, row: &Row) -> Option<Window> {
        match self.missing(row) {
            Some(missing) => self.bridge(row, missing),
            None => self.interrupt(),
        }
        self.keep(row.clone());
        if self.rows.len() < self.length || self.since < self.stride {
            return None;
        }
        self.since = 0;
        let values = self.rows.iter().flat_map(|row| &row.values).copied().collect();
        Some(Window { values, follows: std::mem::replace(&mut self.follows, Follows::Window) })
    }

    /// Goes on with the newest rows of another series of the same columns.
    pub fn follow(&mut self, other: &Windows) {
        other.rows.iter().for_each(|row| self.keep(row.clone()));
    }

    /// Whether the newest rows fill a window.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.length
    }

    /// Forgets the rows: what comes next does not follow on them.
    pub fn interrupt(&mut self) {
        self.rows.clear();
        if self.follows != Follows::Nothing {
            self.follows = Follows::Gap;
        }
    }

    /// Rows that are missing before `row`; `None` where they are too many, or the time runs backwards.
    fn missing(&self, row: &Row) -> Option<usize> {
        let (Some(interval), Some(last), Some(now)) =
            (self.interval, self.rows.back().and_then(|row| row.time), row.time)
        else {
            return Some(0);
        };
        let passed = now - last;
        let missing = (passed / interval).round() - 1.0;
        (passed > -interval && missing <= BRIDGED * self.length as f64).then_some(missing.max(0.0) as usize)
    }

    fn bridge(&mut self, row: &Row, missing: usize) {
        let Some(last) = self.rows.back().cloned() else { return };
        for at in 1..=missing {
            let share = at as f32 / (missing + 1) as f32;
            let between = last.values.iter().zip(&row.values).map(|(&a, &b)| a + (b - a) * share);
            self.keep(Row { time: None, values: between.collect() });
        }
    }

    fn keep(&mut self, row: Row) {
        if self.rows.len() == self.length {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
        self.since += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: f64, value: f32) -> Row {
        Row { time: Some(time), values: vec![value] }
    }

    /// Windows of 4 rows of a row a second, as (values, what came before).
    fn windows(stride: usize, rows: &[(f64, f32)]) -> Vec<(Vec<f32>, Follows)> {
        let mut windows = Windows::new(4, stride, Some(1.0));
        let found = rows.iter().filter_map(|&(time, value)| windows.push(&at(time, value)));
        found.map(|window| (window.values, window.follows)).collect()
    }

    #[test]
    fn every_stride_rows_once_there_are_enough() {
        let rows: Vec<(f64, f32)> = (0..7).map(|i| (f64::from(i), i as f32)).collect();
        let all = windows(1, &rows);
        assert_eq!(all.len(), 4);
        assert_eq!(all[0], (vec![0.0, 1.0, 2.0, 3.0], Follows::Nothing));
        assert_eq!(all[3], (vec![3.0, 4.0, 5.0, 6.0], Follows::Window));
        let third = windows(3, &rows);
        assert_eq!(third.iter().map(|(values, _)| values[0]).collect::<Vec<_>>(), [0.0, 3.0]);
    }

    #[test]
    fn few_missing_rows_are_bridged() {
        let found = windows(1, &[(0.0, 0.0), (1.0, 1.0), (3.0, 5.0)]);
        assert_eq!(found, [(vec![0.0, 1.0, 3.0, 5.0], Follows::Nothing)]);
    }

    #[test]
    fn gaps_and_clocks_that_run_backwards_begin_anew() {
        for odd in [14.0, -14.0, 2.0] {
            let before = (0..4).map(|i| (f64::from(i), 0.0));
            let after = (0..4).map(|i| (odd + f64::from(i), 1.0));
            let found = windows(1, &before.chain(after).collect::<Vec<_>>());
            assert_eq!(found, [(vec![0.0; 4], Follows::Nothing), (vec![1.0; 4], Follows::Gap)], "{odd}");
        }
    }

    #[test]
    fn without_times_every_row_follows() {
        let mut windows = Windows::new(2, 1, None);
        let row = Row { time: None, values: vec![1.0, 2.0] };
        assert!(windows.push(&row).is_none() && !windows.is_full());
        assert_eq!(windows.push(&row).unwrap().values, [1.0, 2.0, 1.0, 2.0]);
        windows.interrupt();
        assert!(windows.push(&row).is_none());
        assert_eq!(windows.push(&row).unwrap().follows, Follows::Gap);
    }
}
