//! What a run does: the flags a user may give, the rules that fill in the others, and the resolved settings in run.toml.
//!
//! Rules look at the size and shape of the data, never at its name, and are applied once: a resumed run reads what they
//! gave.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::{Augment, Statistics};
use crate::networks;
use crate::schedule::Shape;

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
    /// Random horizontal flips.
    pub flip: Option<bool>,
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
}

/// The resolved settings of a run, as run.toml holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Network by name.
    pub model: String,
    /// Scale of the channels.
    pub width: f32,
    /// Height and width of the input in pixels.
    pub imgsz: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
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

/// Images that a default run looks at, all epochs together, where the data is small.
const IMAGES_SEEN: usize = 100_000;
/// Up to so many training images, data counts as small: smaller steps and more weight decay generalise better.
const SMALL: usize = 10_000;
/// Epochs over data that is large.
const EPOCHS_LARGE: usize = 10;
/// Epochs over data that is tiny.
const EPOCHS_MAX: usize = 100;
/// Multiply-accumulates (three for each of the forward pass) that a default run may take: some minutes on two cores
/// for small pictures, some hours for large ones.
const MACS_MAX: f64 = 4e14;

impl Settings {
    /// Fills in what `given` leaves open, from `statistics` of the data.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn resolve(
        given: &Overrides,
        statistics: &Statistics,
        classes: usize,
    ) -> Result<Settings, SettingsError> {
        let imgsz = given.imgsz.unwrap_or(statistics.image_size());
        let (channels, train) = (statistics.channels(), statistics.images[0]);
        let model = match given.model.as_deref() {
            None | Some("auto") => network_for(imgsz).to_string(),
            Some(name) => name.to_string(),
        };
        let width = given.width.unwrap_or(width_for(&model, channels));
        let batch = given.batch.unwrap_or(batch_for(train, imgsz)).min(train.max(1));
        let optimizer = given.optimizer.unwrap_or(OptimizerName::Sgd);
        let schedule = given.schedule.unwrap_or(Shape::OneCycle);
        let mut augment = Augment::for_data(statistics);
        if let Some(flip) = given.flip {
            augment.flip = flip;
        }
        let mut settings = Settings {
            model,
            width,
            imgsz,
            channels,
            epochs: 1,
            batch,
            lr: given.lr.unwrap_or(rate_for(optimizer, batch)),
            optimizer,
            schedule,
            warmup: given.warmup.unwrap_or(if schedule == Shape::OneCycle { 0.0 } else { 3.0 }),
            weight_decay: given.weight_decay.unwrap_or(decay_for(optimizer, train)),
            smoothing: given.smoothing.unwrap_or(0.1),
            clip_norm: given.clip_norm.unwrap_or(0.0),
            patience: 0,
            seed: given.seed.unwrap_or(0),
            threads: given.threads.unwrap_or_else(cores),
            dataset: statistics.digest.clone(),
            target: given.target,
            max_time_s: given.max_time_s,
            augment,
        };
        settings.check()?;
        settings.epochs = match given.epochs {
            Some(epochs) => epochs,
            None => epochs_for(train, settings.macs(classes)?),
        };
        settings.patience = given.patience.unwrap_or((settings.epochs / 2).max(10));
        settings.check()?;
        Ok(settings)
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

    fn macs(&self, classes: usize) -> Result<f64, SettingsError> {
        let graph = networks::build(&self.model, &self.network(classes))
            .map_err(|e| SettingsError { flag: "model", reason: e.to_string() })?;
        Ok(networks::cost(&graph).macs as f64)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let rule = |flag, good: bool, reason: String| {
            if good { Ok(()) } else { Err(SettingsError { flag, reason }) }
        };
        let within = |flag, v: f32, lo: f32, hi: f32| {
            rule(flag, (lo..=hi).contains(&v), format!("{v} is not in {lo}..={hi}"))
        };
        rule("model", networks::NAMES.contains(&self.model.as_str()), unknown_model(&self.model))?;
        within("width", self.width, 0.05, 8.0)?;
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
        rule("threads", (1..=256).contains(&self.threads), format!("{} is not in 1..=256", self.threads))
    }

    /// Names of the settings that differ from `other`'s.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let table = |s: &Settings| serde_json::to_value(s).expect("settings are plain data");
        let (a, b) = (table(self), table(other));
        let keys = a.as_object().into_iter().flatten();
        keys.filter(|(key, value)| b.get(key) != Some(value)).map(|(key, _)| key.clone()).collect()
    }

    /// Names and values for people and for logs, in the order of run.toml; parts of `augment` as `augment.NAME`.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let table = toml::Table::try_from(self).expect("settings are plain data");
        let mut pairs = Vec::new();
        flatten("", &table, &mut pairs);
        pairs
    }

    /// SHA-256 of the settings in canonical form.
    pub fn digest(&self) -> String {
        let text = serde_json::to_value(self).expect("settings are plain data").to_string();
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }
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
            patience,
            seed,
            threads
        );
        new.target = self.target.or(new.target);
        new.max_time_s = self.max_time_s.or(new.max_time_s);
        if let Some(model) = self.model.as_ref().filter(|m| *m != "auto") {
            new.model.clone_from(model);
        }
        if let Some(flip) = self.flip {
            new.augment.flip = flip;
        }
        new
    }
}

fn unknown_model(name: &str) -> String {
    format!("there is no network `{name}`; there are: auto, {}", networks::NAMES.join(", "))
}

/// Small pictures keep their resolution in a network of plain convolutions; large ones want depth for few operations.
fn network_for(imgsz: usize) -> &'static str {
    if imgsz <= 64 { "plain6" } else { "mobilenet_v2" }
}

/// Grey pictures hold less to tell apart.
fn width_for(model: &str, channels: usize) -> f32 {
    if model == "plain6" && channels == 1 { 0.5 } else { 1.0 }
}

fn batch_for(train: usize, imgsz: usize) -> usize {
    let by_size = if imgsz <= 64 && train > SMALL { 64 } else { 32 };
    // At least some ten steps in an epoch.
    by_size.min((train / 10).next_power_of_two()).max(8)
}

fn rate_for(optimizer: OptimizerName, batch: usize) -> f32 {
    match optimizer {
        // The linear rule of Goyal et al. 2017 outside of the usual 32 to 64 images; steps that small are noisier still.
        OptimizerName::Sgd if batch < 32 => 0.1 * batch as f32 / 64.0,
        OptimizerName::Sgd => 0.1 * (batch as f32 / 64.0).max(1.0),
        OptimizerName::Adamw => 2e-3,
    }
}

fn decay_for(optimizer: OptimizerName, train: usize) -> f32 {
    match optimizer {
        OptimizerName::Sgd if train <= SMALL => 1e-3,
        OptimizerName::Sgd => 5e-4,
        OptimizerName::Adamw => 5e-2,
    }
}

/// Small data is seen often, large data at least ten times, and the arithmetic stays affordable.
fn epochs_for(train: usize, macs: f64) -> usize {
    let train = train.max(1);
    let wanted = (IMAGES_SEEN / train).clamp(EPOCHS_LARGE, EPOCHS_MAX);
    let affordable = (MACS_MAX / (3.0 * macs * train as f64)) as usize;
    wanted.min(affordable.max(1))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
