//! What a run tells while it goes, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Epoch;
use crate::data::series::SeriesSet;
use crate::data::{Dataset, Images, Loader, Statistics};
use crate::diagnosis::Verdict;
use crate::networks;
use crate::series::SeriesSettings;
use crate::settings::Settings;

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// The target was reached.
    Target,
    /// Validation did not improve any more.
    Patience,
    /// All epochs are done.
    Epochs,
    /// The time is up.
    Time,
}

/// How a run ended, as result.json and `train --json` have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The network.
    pub model: String,
    /// Epochs done.
    pub epochs: usize,
    /// The epoch of the best weights.
    pub best_epoch: usize,
    /// Why it ended.
    pub stopped: Stopped,
    /// Name of the primary metric.
    pub metric: String,
    /// The best weights' metrics on val.
    pub metrics: BTreeMap<String, f64>,
    /// Training images, or windows of series, per second of the epochs, validation left out; `None` where no step was made.
    pub images_per_second: Option<f64>,
    /// Images of each class in train.
    #[serde(default)]
    pub class_counts: BTreeMap<String, usize>,
    /// The target, if one was given.
    pub target: Option<f64>,
    /// SHA-256 of the file of weights that it began with.
    #[serde(default)]
    pub init: Option<String>,
    /// The run's folder.
    pub out: PathBuf,
    /// What happened and what to try.
    pub verdict: Verdict,
}

/// Where the time of a run went since it was started or resumed. It has no influence on the result.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// All of it.
    pub total: Duration,
    /// Epochs, validation left out.
    pub epochs: Duration,
    /// Training steps.
    pub steps: Duration,
    /// Waiting for batches.
    pub data: Duration,
    /// Validation, and packing what is the best so far.
    pub validation: Duration,
    /// Writing checkpoints.
    pub checkpoints: Duration,
    /// How many steps.
    pub count: usize,
}

impl Outcome {
    /// Whether a target was given and missed.
    pub fn missed_target(&self) -> bool {
        self.target.is_some_and(|target| self.metrics.get(&self.metric).is_none_or(|&v| v < target))
    }
}

/// What is learned from, and how.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Pictures with a class each.
    Pictures {
        /// The data.
        dataset: &'a Dataset,
        /// Its statistics.
        statistics: &'a Statistics,
        /// The resolved settings.
        settings: &'a Settings,
    },
    /// Series.
    Series {
        /// The data.
        data: &'a SeriesSet,
        /// The resolved settings.
        settings: &'a SeriesSettings,
    },
}

impl Subject<'_> {
    /// The name of the data.
    pub fn name(&self) -> &str {
        match self {
            Subject::Pictures { dataset, .. } => &dataset.name,
            Subject::Series { data, .. } => &data.name,
        }
    }

    /// Names and values of the settings, in the order of run.toml.
    pub fn settings(&self) -> Vec<(String, String)> {
        match self {
            Subject::Pictures { settings, .. } => settings.pairs(),
            Subject::Series { settings, .. } => settings.pairs(),
        }
    }

    /// Epochs at most.
    pub fn epochs(&self) -> usize {
        match self {
            Subject::Pictures { settings, .. } => settings.epochs,
            Subject::Series { settings, .. } => settings.epochs,
        }
    }
}

/// What was learned from, for whoever looks at it afterwards.
#[derive(Clone, Copy, Debug)]
pub enum Learned<'a> {
    /// Pictures.
    Pictures {
        /// Makes training batches.
        loader: &'a Loader,
        /// The images of val.
        val: &'a Arc<Images>,
    },
    /// Series.
    Series {
        /// The data.
        data: &'a SeriesSet,
    },
}

/// What a run tells while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Data and settings are known.
    Started {
        /// What is learned from, and how.
        subject: Subject<'a>,
        /// Parameters and operations of the network.
        cost: networks::Cost,
        /// Where its weights come from and what is frozen, in sentences.
        notes: &'a [String],
        /// Epochs and batches that a checkpoint holds already.
        resumed: Option<(usize, usize)>,
        /// Steps that it holds.
        step: usize,
        /// Epochs that it holds.
        history: &'a [Epoch],
    },
    /// A step is done.
    Step {
        /// Counted from 0.
        epoch: usize,
        /// Steps done in this epoch.
        batch: usize,
        /// Steps of an epoch.
        batches: usize,
        /// Mean loss of this epoch so far.
        loss: f64,
        /// Steps done in the run.
        step: usize,
        /// Loss of this step.
        step_loss: f64,
    },
    /// An epoch is done and validated.
    Epoch {
        /// Its results.
        row: &'a Epoch,
        /// Whether it is the best so far.
        best: bool,
        /// All epochs, this one last.
        history: &'a [Epoch],
        /// Steps done in the run.
        step: usize,
    },
    /// Something that the user should know and that does not stop the run.
    Warning {
        /// One sentence.
        text: &'a str,
    },
    /// Training is over, and the best package written.
    Ended {
        /// How.
        outcome: &'a Outcome,
        /// All epochs.
        history: &'a [Epoch],
        /// Where the time went.
        times: &'a Times,
        /// What was learned from.
        learned: Learned<'a>,
    },
    /// The run had ended before; nothing was done.
    AlreadyDone,
}
