//! How well alarms fall into the windows of time in which something was wrong.
//!
//! A labelled window counts as found where an alarm falls into it; each run of alarms outside of all windows is one false
//! alarm, and one that only begins inside of a window counts once it leaves it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Judge};
use crate::TaskError;
use crate::series::{Follows, Window};

/// The metric that targets and budgets are about.
pub const PRIMARY: &str = "f1";

/// Alarms of one or several series, against labels where there are any.
#[derive(Clone, Debug)]
pub struct Metrics {
    task: Anomaly,
    judge: Judge,
    /// Answers.
    n: u64,
    error_sum: f64,
    /// Which windows of which series an alarm fell into.
    found: BTreeSet<(usize, usize)>,
    /// Windows of all series that were begun; none without labels.
    windows: Option<usize>,
    series: usize,
    false_alarms: u64,
    /// Runs of alarms, wherever they are.
    alarms: u64,
    /// The last answer was an alarm, and one outside of all windows.
    was: [bool; 2],
}

impl Metrics {
    /// Nothing gathered yet.
    pub fn new(task: &Anomaly) -> Metrics {
        Metrics {
            judge: Judge::new(task),
            task: task.clone(),
            n: 0,
            error_sum: 0.0,
            found: BTreeSet::new(),
            windows: None,
            series: 0,
            false_alarms: 0,
            alarms: 0,
            was: [false; 2],
        }
    }

    /// Adds the network's output for the next window of a series.
    ///
    /// `label` is the number of the labelled window that its newest row lies in, and `labels` how many its series has; none
    /// where nothing is labelled.
    pub fn add(
        &mut self,
        window: &Window,
        output: &[f32],
        label: Option<usize>,
        labels: Option<usize>,
    ) -> Result<(), TaskError> {
        let error = self.task.error(&self.task.window_errors(window, output)?)?;
        let follows = window.follows;
        if follows == Follows::Nothing {
            self.judge = Judge::new(&self.task);
        }
        let alarm = self.judge.judge(follows, error).alarm;
        self.error_sum += error * error;
        self.add_alarm(follows, alarm, label, labels);
        Ok(())
    }

    /// Adds whether the next window is an alarm, whoever says so; as [`Metrics::add`].
    pub fn add_alarm(&mut self, follows: Follows, alarm: bool, label: Option<usize>, labels: Option<usize>) {
        if follows == Follows::Nothing {
            self.series += 1;
            self.windows = labels.map(|labels| self.windows.unwrap_or(0) + labels).or(self.windows);
        }
        if follows != Follows::Window {
            self.was = [false; 2];
        }
        self.count(alarm, label);
        self.n += 1;
    }

    fn count(&mut self, alarm: bool, label: Option<usize>) {
        let is = [alarm, alarm && label.is_none()];
        self.alarms += u64::from(is[0] && !self.was[0]);
        self.false_alarms += u64::from(is[1] && !self.was[1]);
        self.was = is;
        if let (true, Some(label)) = (alarm, label) {
            self.found.insert((self.series, label));
        }
    }

    /// The number of windows added.
    pub fn n(&self) -> usize {
        self.n as usize
    }

    /// `loss` (the mean square error), `alarms`, where the series tells the time `alarms_per_day`, and where there are labels
    /// `f1`, `precision`, `recall` and `false_alarms` or `false_alarms_per_day`. Where nothing is to be found and nothing is
    /// reported, all three are 1.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let days = self.task.interval_s.map(|interval| {
            (self.n as f64 * self.task.stride as f64 * interval / 86_400.0).max(f64::MIN_POSITIVE)
        });
        let mut metrics =
            vec![("loss", self.error_sum / self.n.max(1) as f64), ("alarms", self.alarms as f64)];
        metrics.extend(days.map(|days| ("alarms_per_day", self.alarms as f64 / days)));
        if let Some(windows) = self.windows {
            let (found, wrong) = (self.found.len() as f64, self.false_alarms as f64);
            let share = |part: f64, all: f64| if all > 0.0 { part / all } else { 1.0 };
            metrics.extend([
                ("precision", share(found, found + wrong)),
                ("recall", share(found, windows as f64)),
                // 2 tp / (2 tp + fp + fn): windows that were not found are those left.
                (PRIMARY, share(2.0 * found, found + wrong + windows as f64)),
                ("false_alarms", wrong),
            ]);
            metrics.extend(days.map(|days| ("false_alarms_per_day", wrong / days)));
        }
        metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    /// Adds a letter a window: `A` and `a` are alarms, `A` and `N` lie in labelled window 0, `B` and `b` in window 1.
    fn metrics(series: &[&str], labels: Option<usize>) -> BTreeMap<String, f64> {
        let mut metrics = Metrics::new(&Anomaly { hold: 1, ..task() });
        for letters in series {
            let mut follows = Follows::Nothing;
            for letter in letters.chars() {
                let label = match letter {
                    'A' | 'N' => Some(0),
                    'B' => Some(1),
                    _ => None,
                };
                let follows = std::mem::replace(&mut follows, Follows::Window);
                metrics.add_alarm(follows, matches!(letter, 'A' | 'a' | 'B'), label, labels);
            }
        }
        metrics.metrics()
    }

    #[test]
    fn windows_are_found_and_runs_outside_are_false() {
        let check = |series: &[&str], labels, [precision, recall, f1]: [f64; 3]| {
            let found = metrics(series, Some(labels));
            assert_eq!(
                [found["precision"], found["recall"], found["f1"]],
                [precision, recall, f1],
                "{series:?}"
            );
        };
        check(&["..NAAN.."], 1, [1.0, 1.0, 1.0]);
        check(&["aa..NNNN"], 1, [0.0, 0.0, 0.0]);
        check(&["aaa.NAN.aa.BBB"], 2, [0.5, 1.0, 4.0 / 6.0]);
        check(&["NNA"], 2, [1.0, 0.5, 2.0 / 3.0]);
        check(&["...."], 0, [1.0, 1.0, 1.0]);
        check(&["..a."], 0, [0.0, 1.0, 0.0]);
        check(&["...."], 1, [1.0, 0.0, 0.0]);
        // A run that leaves a window is a false alarm outside, and windows of another series are other windows.
        check(&["NAAa.."], 1, [0.5, 1.0, 2.0 / 3.0]);
        check(&["NA", "NA"], 1, [1.0, 1.0, 1.0]);
        check(&["NA", "NN"], 1, [1.0, 0.5, 2.0 / 3.0]);
    }

    #[test]
    fn without_labels_alarms_are_counted() {
        let found = metrics(&["aa.a...."], None);
        assert_eq!(found["alarms"], 2.0);
        // Two in eight minutes.
        assert!((found["alarms_per_day"] - 2.0 / 8.0 * 1440.0).abs() < 1e-6, "{found:?}");
        assert!(!found.contains_key("f1"));
    }

    #[test]
    fn errors_become_alarms() {
        let mut metrics = Metrics::new(&task());
        for (at, error) in [0.2f32, 0.2, 2.0, 0.2].into_iter().enumerate() {
            let follows = if at == 0 { Follows::Nothing } else { Follows::Window };
            let window = Window { values: [1.0, 10.0].repeat(4), follows };
            metrics.add(&window, &[error; 8], (at == 2).then_some(0), Some(1)).unwrap();
        }
        let found = metrics.metrics();
        assert_eq!((found["recall"], found["false_alarms"], metrics.n()), (1.0, 1.0, 4));
        let torn = Window { values: vec![0.0; 3], follows: Follows::Window };
        assert!(metrics.add(&torn, &[0.0; 8], None, None).is_err());
    }
}
