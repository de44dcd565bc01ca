//! What a run does: the flags a user may give, the rules that fill in the others, and the resolved settings in run.toml.
//!
//! Rules look at the size and shape of the data, never at its name, and are applied once: a resumed run reads what they
//! gave.

use espalier_tasks::Fit;
use serde::{Deserialize, Serialize};

use crate::data::{Augment, Level, Sampling, Statistics};
use crate::digest;
use crate::imported::{self, Imported};
use crate::networks;
use crate::rules::{self, Budget, Choice};
use crate::run::Pace;
use crate::schedule::Shape;
use crate::series::FalseAlarms;

/// Optimizers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Stochastic gradient descent with Nesterov momentum 0.9.
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
}

/// What a user may set; the rest follows from the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Network by name, or `auto`.
    pub model: Option<String>,
    /// Scale of the channels.
    pub width: Option<f32>,
    /// Height and width of the input in pixels.
    pub imgsz: Option<usize>,
    /// Epochs at most.
    pub epochs: Option<usize>,
    /// Images in a step.
    pub batch: Option<usize>,
    /// Highest learning rate.
    pub lr: Option<f32>,
    /// Optimizer.
    pub optimizer: Option<OptimizerName>,
    /// Shape of the learning rate.
    pub schedule: Option<Shape>,
    /// Epochs of linear warm-up.
    pub warmup: Option<f32>,
    /// Weight decay.
    pub weight_decay: Option<f32>,
    /// Label smoothing, 0 to 1.
    pub smoothing: Option<f32>,
    /// Largest norm of all gradients together; 0 for none.
    pub clip_norm: Option<f32>,
    /// How much is done to training images.
    pub augment: Option<Level>,
    /// Random horizontal flips.
    pub flip: Option<bool>,
    /// Decay of the moving average of weights; 0 for none.
    pub ema: Option<f32>,
    /// Which images make an epoch.
    pub sampling: Option<Sampling>,
    /// Epochs without improvement after which training stops.
    pub patience: Option<usize>,
    /// Seed of every random number.
    pub seed: Option<u64>,
    /// Workers.
    pub threads: Option<usize>,
    /// Value of the primary metric at which training stops.
    pub target: Option<f64>,
    /// Seconds after which training stops.
    pub max_time_s: Option<f64>,
    /// SHA-256 of the file of weights to begin with.
    pub init: Option<String>,
    /// Layers that stay as they are.
    pub freeze: Option<Vec<String>>,
    /// Channels that the weights to begin with expect.
    pub channels: Option<usize>,
    /// Mean of each channel, or one for all, by which pictures are normalised.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation likewise.
    pub std: Option<Vec<f32>>,
    /// The planes of pictures are blue, green, red.
    pub bgr: bool,
    /// How pictures of another size are brought to the network's.
    pub fit: Option<Fit>,
    /// Of series, the columns to learn from.
    pub columns: Option<Vec<String>>,
    /// Of series, rows of a window.
    pub window: Option<usize>,
    /// Of series, rows from one answer to the next.
    pub stride: Option<usize>,
    /// Of series, the false alarms that are wanted at most.
    pub false_alarms: Option<FalseAlarms>,
}

/// The resolved settings of a run, as run.toml holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Network by name, or `imported`: that of the file that the run began with.
    pub model: String,
    /// Scale of the channels.
    pub width: f32,
    /// Height and width of the input in pixels.
    pub imgsz: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
    /// Subtracted from each channel, of values scaled to 0..1.
    pub mean: Vec<f32>,
    /// Each channel is divided by it, of values scaled to 0..1.
    pub std: Vec<f32>,
    /// The planes of pictures are blue, green, red.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub bgr: bool,
    /// How pictures of another size are brought to the network's, where the weights to begin with say it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fit: Option<Fit>,
    /// SHA-256 of the file of weights that the run began with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub init: Option<String>,
    /// Layers that stay as they are.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub freeze: Vec<String>,
    /// Epochs at most.
    pub epochs: usize,
    /// Images in a step.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f32,
    /// Optimizer.
    pub optimizer: OptimizerName,
    /// Shape of the learning rate.
    pub schedule: Shape,
    /// Epochs of linear warm-up.
    pub warmup: f32,
    /// Weight decay of matrices and filters.
    pub weight_decay: f32,
    /// Label smoothing.
    pub smoothing: f32,
    /// Largest norm of all gradients together; 0 for none.
    pub clip_norm: f32,
    /// Decay of the moving average of weights; 0 for none.
    pub ema: f32,
    /// Which images make an epoch.
    pub sampling: Sampling,
    /// Epochs without improvement after which training stops.
    pub patience: usize,
    /// Seed of every random number.
    pub seed: u64,
    /// Workers.
    pub threads: usize,
    /// SHA-256 of the data.
    pub dataset: String,
    /// Value of the primary metric at which training stops.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<f64>,
    /// Seconds after which training stops.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_time_s: Option<f64>,
    /// Random changes of the training images.
    pub augment: Augment,
}

/// Why settings were refused: `--{flag}: {reason}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {reason}")]
pub struct SettingsError {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Settings {
    /// Fills in what `given` leaves open, from `statistics` of the data; `imported` is the network of the file of weights,
    /// where that holds one.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn resolve(
        given: &Overrides,
        statistics: &Statistics,
        classes: usize,
        imported: Option<&Imported>,
    ) -> Result<Settings, SettingsError> {
        let (channels, train) = (given.channels.unwrap_or(statistics.channels()), statistics.images[0]);
        let [mean, std] = normalisation(given, statistics, channels)?;
        let threads = given.threads.unwrap_or_else(rules::cores);
        let budget = Budget::new(given.max_time_s, threads, statistics);
        let Choice { model, width, imgsz } = given.choice(&budget, statistics, classes)?;
        let batch = given.batch.unwrap_or(rules::batch_for(train, imgsz)).min(train.max(1));
        let optimizer = given.optimizer.unwrap_or(OptimizerName::Sgd);
        let schedule = given.schedule.unwrap_or(Shape::OneCycle);
        let mut augment = Augment::for_data(given.augment.unwrap_or_default(), statistics, imgsz);
        if let Some(flip) = given.flip {
            augment.geometric.flip = flip;
        }
        let mut settings = Settings {
            model,
            width,
            imgsz,
            channels,
            mean,
            std,
            bgr: given.bgr,
            fit: given.fit,
            init: given.init.clone(),
            freeze: given.freeze.clone().unwrap_or_default(),
            epochs: 1,
            batch,
            lr: given.lr.unwrap_or(rules::rate_for(optimizer, batch)),
            optimizer,
            schedule,
            warmup: given.warmup.unwrap_or(if schedule == Shape::OneCycle { 0.0 } else { 3.0 }),
            weight_decay: given.weight_decay.unwrap_or(rules::decay_for(optimizer, train)),
            smoothing: given.smoothing.unwrap_or(0.1),
            clip_norm: given
                .clip_norm
                .unwrap_or(rules::clip_for(imported.is_none_or(Imported::is_normalised))),
            ema: given.ema.unwrap_or(0.0),
            sampling: given.sampling.unwrap_or_default(),
            patience: 0,
            seed: given.seed.unwrap_or(0),
            threads,
            dataset: statistics.digest.clone(),
            target: given.target,
            max_time_s: given.max_time_s,
            augment,
        };
        settings.check(imported)?;
        settings.epochs = match (given.epochs, imported) {
            (Some(epochs), _) => epochs,
            (None, Some(network)) => budget.epochs(&settings.model, network.macs()),
            (None, None) => {
                budget.epochs(&settings.model, macs(&settings.model, &settings.network(classes))?)
            }
        };
        settings.patience = given.patience.unwrap_or((settings.epochs / 2).max(10));
        settings.check(imported)?;
        Ok(settings)
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace {
            model: self.model.clone(),
            batch: self.batch,
            epochs: self.epochs,
            patience: self.patience,
            target: self.target,
            max_time_s: self.max_time_s,
            shape: self.schedule,
            lr: self.lr,
            warmup: self.warmup,
            ema: self.ema,
            seed: self.seed,
            threads: self.threads,
            init: self.init.clone(),
        }
    }

    /// The options that build its network.
    pub fn network(&self, classes: usize) -> networks::NetworkOptions {
        networks::NetworkOptions {
            classes,
            channels: self.channels,
            size: [self.imgsz; 2],
            width: self.width,
        }
    }

    fn check(&self, imported: Option<&Imported>) -> Result<(), SettingsError> {
        let rule = |flag, good: bool, reason: String| {
            if good { Ok(()) } else { Err(SettingsError { flag, reason }) }
        };
        let within = |flag, v: f32, lo: f32, hi: f32| {
            rule(flag, (lo..=hi).contains(&v), format!("{v} is not in {lo}..={hi}"))
        };
        let known = match imported {
            Some(_) => self.model == imported::NAME,
            None => networks::NAMES.contains(&self.model.as_str()),
        };
        rule("model", known, unknown_model(&self.model))?;
        within("width", self.width, 0.05, 8.0)?;
        for (flag, values) in [("mean", &self.mean), ("std", &self.std)] {
            let good = values.iter().all(|v| v.is_finite() && (flag == "mean" || *v > 0.0));
            rule(flag, good, format!("{values:?} should be finite, --std above 0"))?;
            let (n, channels) = (values.len(), self.channels);
            rule(flag, n == channels, format!("{n} values for {channels} channels; one for all will do"))?;
        }
        rule("imgsz", (8..=1024).contains(&self.imgsz), format!("{} is not in 8..=1024", self.imgsz))?;
        rule(
            "epochs",
            (1..=100_000).contains(&self.epochs),
            format!("{} is not in 1..=100000", self.epochs),
        )?;
        rule("batch", (1..=4096).contains(&self.batch), format!("{} is not in 1..=4096", self.batch))?;
        rule("batch", self.batch > 1, "batch normalisation needs at least 2 images in a step".into())?;
        within("lr", self.lr, 1e-8, 100.0)?;
        within("warmup", self.warmup, 0.0, 1e6)?;
        within("weight-decay", self.weight_decay, 0.0, 1.0)?;
        within("smoothing", self.smoothing, 0.0, 0.9)?;
        within("clip-norm", self.clip_norm, 0.0, 1e6)?;
        within("ema", self.ema, 0.0, 0.99999)?;
        rule("threads", (1..=256).contains(&self.threads), format!("{} is not in 1..=256", self.threads))
    }

    /// Names of the settings that differ from `other`'s.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        differences(self, other)
    }

    /// Names and values for people and for logs, in the order of run.toml; parts of `augment` as `augment.NAME`.
    pub fn pairs(&self) -> Vec<(String, String)> {
        pairs(self)
    }

    /// SHA-256 of the settings in canonical form.
    pub fn digest(&self) -> String {
        let text = serde_json::to_value(self).expect("settings are plain data").to_string();
        digest::of(text)
    }
}

/// Names of the settings in which two differ.
pub(crate) fn differences<T: Serialize>(a: &T, b: &T) -> Vec<String> {
    let table = |settings: &T| serde_json::to_value(settings).expect("settings are plain data");
    let (a, b) = (table(a), table(b));
    let keys = a.as_object().into_iter().flatten();
    keys.filter(|(key, value)| b.get(key) != Some(value)).map(|(key, _)| key.clone()).collect()
}

/// Names and values of settings, in the order of run.toml.
pub(crate) fn pairs<T: Serialize>(settings: &T) -> Vec<(String, String)> {
    // Through the text, in which an f32 has only the digits that it needs.
    let text = toml::to_string(settings).expect("settings are plain data");
    let table: toml::Table = text.parse().expect("what was written can be read");
    let mut pairs = Vec::new();
    flatten("", &table, &mut pairs);
    pairs
}

fn flatten(prefix: &str, table: &toml::Table, pairs: &mut Vec<(String, String)>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{name}."), inner, pairs),
            toml::Value::String(text) => pairs.push((format!("{prefix}{name}"), text.clone())),
            value => pairs.push((format!("{prefix}{name}"), value.to_string())),
        }
    }
}

impl Overrides {
    /// The first flag that only series have.
    pub(crate) fn of_series(&self) -> Option<&'static str> {
        let given = [
            ("columns", self.columns.is_some()),
            ("window", self.window.is_some()),
            ("stride", self.stride.is_some()),
            ("false-alarms", self.false_alarms.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }

    /// The first flag that only pictures have.
    pub(crate) fn of_pictures(&self) -> Option<&'static str> {
        let given = [
            ("width", self.width.is_some()),
            ("imgsz", self.imgsz.is_some()),
            ("smoothing", self.smoothing.is_some()),
            ("augment", self.augment.is_some()),
            ("flip", self.flip.is_some()),
            ("sampling", self.sampling.is_some()),
            ("freeze", self.freeze.is_some()),
            ("mean", self.mean.is_some()),
            ("std", self.std.is_some()),
            ("target", self.target.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }

    /// Network, width and input size: as given, else by the rules.
    fn choice(
        &self,
        budget: &Budget,
        statistics: &Statistics,
        classes: usize,
    ) -> Result<Choice, SettingsError> {
        let model = self.model.as_deref().filter(|&name| name != "auto");
        let choices = budget.candidates(statistics, model, self.width, self.imgsz);
        budget.choose(choices, |choice| {
            let channels = self.channels.unwrap_or(statistics.channels());
            let options =
                networks::NetworkOptions { classes, channels, size: [choice.imgsz; 2], width: choice.width };
            macs(&choice.model, &options)
        })
    }

    /// `settings` with what is given here in place of its own; automatic values stay as they were resolved.
    pub fn over(&self, settings: &Settings) -> Settings {
        let mut new = settings.clone();
        macro_rules! take {
            ($($field:ident),*) => { $(if let Some(v) = &self.$field { new.$field = v.clone(); })* };
        }
        take!(
            width,
            imgsz,
            epochs,
            batch,
            lr,
            optimizer,
            schedule,
            warmup,
            weight_decay,
            smoothing,
            clip_norm,
            ema,
            sampling,
            patience,
            seed,
            threads,
            freeze,
            channels
        );
        new.init = self.init.clone().or(new.init);
        for (given, own) in [(&self.mean, &mut new.mean), (&self.std, &mut new.std)] {
            if let Some(values) = given {
                *own = per_channel(values, settings.channels);
            }
        }
        new.target = self.target.or(new.target);
        new.max_time_s = self.max_time_s.or(new.max_time_s);
        if let Some(model) = self.model.as_ref().filter(|m| *m != "auto") {
            new.model.clone_from(model);
        }
        if let Some(level) = self.augment {
            new.augment.level = level;
        }
        if let Some(flip) = self.flip {
            new.augment.geometric.flip = flip;
        }
        new
    }
}

/// Mean and standard deviation of each channel: those given, or the data's.
fn normalisation(
    given: &Overrides,
    statistics: &Statistics,
    channels: usize,
) -> Result<[Vec<f32>; 2], SettingsError> {
    let [mean, std] = match (&given.mean, &given.std) {
        (None, None) => [&statistics.mean, &statistics.std],
        (Some(mean), Some(std)) => [mean, std],
        (mean, _) => {
            let flag = if mean.is_some() { "mean" } else { "std" };
            return Err(SettingsError { flag, reason: "--mean and --std belong together".into() });
        }
    };
    Ok([mean, std].map(|values| per_channel(values, channels)))
}

/// One value serves every channel; a grey picture has the mean of three.
fn per_channel(values: &[f32], channels: usize) -> Vec<f32> {
    match (values.len(), channels) {
        (1, n) => vec![values[0]; n],
        (3, 1) => vec![values.iter().sum::<f32>() / 3.0],
        _ => values.to_vec(),
    }
}

/// Multiply-accumulates of an image on its way forward through a network.
fn macs(model: &str, options: &networks::NetworkOptions) -> Result<f64, SettingsError> {
    let graph = networks::build(model, options)
        .map_err(|e| SettingsError { flag: "model", reason: e.to_string() })?;
    Ok(networks::cost(&graph).macs as f64)
}

fn unknown_model(name: &str) -> String {
    format!("there is no network `{name}`; there are: auto, {}", networks::NAMES.join(", "))
}
