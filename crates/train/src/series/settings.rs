//! The resolved settings of a run on series.

use espalier_passes::Optimizer;
use espalier_tasks::{Anomaly, anomaly};
use serde::{Deserialize, Serialize};

use super::{FalseAlarms, NAME, UNCALIBRATED};
use crate::data::Split;
use crate::data::series::{Series, SeriesSet};
use crate::digest;
use crate::rules;
use crate::run::Pace;
use crate::schedule::Shape;
use crate::settings::{OptimizerName, Overrides, SettingsError, pairs};
use crate::step::StepOptions;

/// Rows of a window, where nobody says it.
const WINDOW: usize = 32;
/// The usual error is forgotten over so many windows' lengths.
const MEMORY: usize = 64;
/// Windows of a step, epochs at most, and epochs without improvement.
const BATCH: usize = 32;
const EPOCHS: usize = 60;
const PATIENCE: usize = 15;
/// Highest learning rate of AdamW.
const RATE: f32 = 2e-3;
/// An epoch has at least so many steps, in which windows come several times where they are few.
const STEPS_MIN: usize = 64;
/// Columns that never change in train are divided by this share of their value.
const CONSTANT: f64 = 1e-4;

/// The resolved settings of a run on series, as run.toml holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesSettings {
    /// `autoencoder`.
    pub model: String,
    /// The columns of values.
    pub columns: Vec<String>,
    /// Rows of a window.
    pub window: usize,
    /// Rows from one answer to the next.
    pub stride: usize,
    /// Rows over which the usual error is forgotten.
    pub memory: usize,
    /// Rows that an alarm goes on after the last one above the threshold.
    pub hold: usize,
    /// False alarms that are wanted at most.
    pub false_alarms: FalseAlarms,
    /// Subtracted from each column.
    pub mean: Vec<f32>,
    /// Each column is divided by it.
    pub std: Vec<f32>,
    /// Epochs at most.
    pub epochs: usize,
    /// Windows in a step.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f32,
    /// Optimizer.
    pub optimizer: OptimizerName,
    /// Shape of the learning rate.
    pub schedule: Shape,
    /// Epochs of linear warm-up.
    pub warmup: f32,
    /// Weight decay of matrices.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0 for none.
    pub clip_norm: f32,
    /// Decay of the moving average of weights; 0 for none.
    pub ema: f32,
    /// Epochs without improvement after which training stops.
    pub patience: usize,
    /// Seed of every random number.
    pub seed: u64,
    /// Workers.
    pub threads: usize,
    /// SHA-256 of the data.
    pub dataset: String,
    /// Seconds after which training stops.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_time_s: Option<f64>,
}

impl SeriesSettings {
    /// Fills in what `given` leaves open, from the data.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn resolve(given: &Overrides, data: &SeriesSet) -> Result<SeriesSettings, SettingsError> {
        let model = given.model.as_deref().unwrap_or("auto");
        let rule = |flag, holds: bool, reason: String| match holds {
            true => Ok(()),
            false => Err(SettingsError { flag, reason }),
        };
        rule("model", ["auto", NAME].contains(&model), format!("{model}: series are learned by `{NAME}`"))?;
        let optimizer = given.optimizer.unwrap_or(OptimizerName::Adamw);
        let schedule = given.schedule.unwrap_or(Shape::OneCycle);
        let false_alarms = given.false_alarms.clone();
        let window = given.window.unwrap_or(WINDOW);
        let [mean, std] = normalisation(data);
        let settings = SeriesSettings {
            model: NAME.into(),
            columns: data.columns.values.clone(),
            window,
            stride: given.stride.unwrap_or(1),
            memory: MEMORY * window,
            hold: window,
            false_alarms: false_alarms.unwrap_or_else(|| FalseAlarms::usual(data.interval_s.is_some())),
            mean,
            std,
            epochs: given.epochs.unwrap_or(EPOCHS),
            batch: given.batch.unwrap_or(BATCH),
            lr: given.lr.unwrap_or(match optimizer {
                OptimizerName::Adamw => RATE,
                OptimizerName::Sgd => rules::rate_for(optimizer, BATCH),
            }),
            optimizer,
            schedule,
            warmup: given.warmup.unwrap_or(if schedule == Shape::OneCycle { 0.0 } else { 3.0 }),
            weight_decay: given.weight_decay.unwrap_or(1e-4),
            clip_norm: given.clip_norm.unwrap_or(1.0),
            ema: given.ema.unwrap_or(0.0),
            patience: given.patience.unwrap_or(PATIENCE),
            seed: given.seed.unwrap_or(0),
            threads: given.threads.unwrap_or(1),
            dataset: data.digest(),
            max_time_s: given.max_time_s,
        };
        let within = |flag, v: usize, lo: usize, hi: usize| {
            rule(flag, (lo..=hi).contains(&v), format!("{v} is not in {lo}..={hi}"))
        };
        let share = |flag, v: f32, lo: f32, hi: f32| {
            rule(flag, (lo..=hi).contains(&v), format!("{v} is not in {lo}..={hi}"))
        };
        within("window", window, 2, anomaly::WINDOW_MAX)?;
        within("stride", settings.stride, 1, window)?;
        within("epochs", settings.epochs, 1, 100_000)?;
        within("batch", settings.batch, 1, 4096)?;
        within("threads", settings.threads, 1, 256)?;
        share("lr", settings.lr, 1e-8, 100.0)?;
        share("warmup", settings.warmup, 0.0, 1e6)?;
        share("weight-decay", settings.weight_decay, 0.0, 1.0)?;
        share("clip-norm", settings.clip_norm, 0.0, 1e6)?;
        share("ema", settings.ema, 0.0, 0.99999)?;
        let per_row = settings.false_alarms.per_row(data.interval_s);
        per_row.map_err(|reason| SettingsError { flag: "false-alarms", reason })?;
        Ok(settings)
    }

    /// The task, without its calibration.
    pub(super) fn task(&self, data: &SeriesSet) -> Anomaly {
        let false_alarms = self.false_alarms.per_row(data.interval_s).expect("checked when it was resolved");
        Anomaly {
            columns: self.columns.clone(),
            time: data.columns.time.clone(),
            interval_s: data.interval_s,
            window: self.window,
            stride: self.stride,
            mean: self.mean.clone(),
            std: self.std.clone(),
            memory: self.memory,
            hold: self.hold,
            false_alarms,
            calibration: UNCALIBRATED,
        }
    }

    /// Batches of an epoch with so many windows to learn from.
    pub(super) fn batches_per_epoch(&self, windows: usize) -> usize {
        (windows / self.batch).max(STEPS_MIN)
    }

    pub(super) fn step_options(&self) -> StepOptions {
        let optimizer = match self.optimizer {
            OptimizerName::Sgd => Optimizer::Sgd { momentum: 0.9, nesterov: true },
            OptimizerName::Adamw => Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        };
        let clip_norm = (self.clip_norm > 0.0).then_some(self.clip_norm);
        StepOptions { optimizer, weight_decay: self.weight_decay, clip_norm, ema: self.ema > 0.0 }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace {
            model: self.model.clone(),
            batch: self.batch,
            epochs: self.epochs,
            patience: self.patience,
            target: None,
            max_time_s: self.max_time_s,
            shape: self.schedule,
            lr: self.lr,
            warmup: self.warmup,
            ema: self.ema,
            seed: self.seed,
            threads: self.threads,
            init: None,
        }
    }

    /// Names and values for people and for logs, in the order of run.toml.
    pub fn pairs(&self) -> Vec<(String, String)> {
        pairs(self)
    }

    /// SHA-256 of the settings in canonical form.
    pub fn digest(&self) -> String {
        digest::of(serde_json::to_value(self).expect("settings are plain data").to_string())
    }
}

/// Mean and standard deviation of each column over train.
fn normalisation(data: &SeriesSet) -> [Vec<f32>; 2] {
    let columns = data.columns.values.len();
    let values = |column: usize| {
        let rows = data.split(Split::Train).iter().flat_map(|series: &std::sync::Arc<Series>| &series.rows);
        rows.map(move |row| f64::from(row.values[column]))
    };
    let n = data.rows()[0].max(1) as f64;
    let mean: Vec<f64> = (0..columns).map(|column| values(column).sum::<f64>() / n).collect();
    let std = mean.iter().enumerate().map(|(column, mean)| {
        let variance = values(column).map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        let least = if *mean == 0.0 { 1.0 } else { CONSTANT * mean.abs() };
        (if variance.sqrt() < least.min(1e-3) { least } else { variance.sqrt() }) as f32
    });
    let std = std.map(|std: f32| if std > 0.0 && std.is_finite() { std } else { 1.0 }).collect();
    [mean.iter().map(|&mean| mean as f32).collect(), std]
}
