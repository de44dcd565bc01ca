//! `[[pipeline]]`: a source, and what looks at it.

use std::path::{Path, PathBuf};

use espalier_engines::{EngineConfig, EngineKind, Provider};
use espalier_runtime::Isa;
use serde::Deserialize;

use super::fault::{Fault, rate};
use super::{Bytes, Time, name};
use crate::drift::DriftConfig;
use crate::insight::{RuleConfig, SmoothConfig};
use crate::queue::Policy;
use crate::samples::SampleConfig;

/// `[[pipeline]]`: a source, and what looks at it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// Its name in everything that it says.
    pub name: String,
    /// Where frames come from.
    pub source: SourceConfig,
    /// What looks at them.
    pub model: ModelConfig,
    /// How often it says how it is; changes are said at once.
    #[serde(default = "a_minute")]
    pub health: Time,
    /// What it is to report when it begins and when it ends.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleConfig>,
    /// Smooths what rules are about that have no smoothing of their own.
    pub smooth: Option<SmoothConfig>,
    /// Counts of what was seen; none without it.
    pub aggregate: Option<AggregateConfig>,
    /// Frames that are kept; none without it.
    pub samples: Option<SampleConfig>,
    /// Whether what it sees is still what its model was validated on; not watched without it.
    pub drift: Option<DriftConfig>,
}

/// `[pipeline.aggregate]`: counts of what was seen.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateConfig {
    /// They are told once in so long.
    #[serde(default = "a_minute")]
    pub span: Time,
}

/// `[pipeline.source]`: where frames come from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What `espalier run --source` takes: a camera's number, a file, a folder, an address.
    pub uri: String,
    /// What happens to frames that come faster than they are looked at; default: `latest` of what is live, `every` of what
    /// is stored.
    pub policy: Option<PolicyConfig>,
    /// Frames a second: of what is stored the speed at which it is played, of what is live the most that are looked at.
    pub rate: Option<f64>,
    /// Whether what is stored begins again at its end.
    #[serde(default, rename = "loop")]
    pub again: bool,
    /// Whether new pictures of a folder are waited for.
    #[serde(default)]
    pub watch: bool,
    /// Longest pause before a source that fails is tried again.
    #[serde(default = "half_a_minute")]
    pub retry: Time,
    /// Age at which a frame that waits is no longer worth looking at; it is skipped.
    pub deadline: Option<Time>,
}

fn a_minute() -> Time {
    Time(std::time::Duration::from_secs(60))
}

fn half_a_minute() -> Time {
    Time(std::time::Duration::from_secs(30))
}

/// What happens to frames that come faster than they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyConfig {
    /// The newest wins.
    Latest,
    /// The source waits.
    Every,
}

impl From<PolicyConfig> for Policy {
    fn from(config: PolicyConfig) -> Policy {
        match config {
            PolicyConfig::Latest => Policy::Latest,
            PolicyConfig::Every => Policy::Every,
        }
    }
}

/// `[pipeline.model]`: what looks at frames.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The package. A new file in its place is taken over while the pipeline runs.
    pub path: PathBuf,
    /// Cores that one answer uses at once; default: all but one where there is one pipeline, else 1.
    pub threads: Option<usize>,
    /// Instruction set; default: the best of the machine.
    pub isa: Option<String>,
    /// What computes it.
    #[serde(default)]
    pub engine: EngineKind,
    /// Execution providers of ONNX Runtime, the preferred one first.
    #[serde(default)]
    pub providers: Vec<Provider>,
    /// ONNX Runtime's library, or its folder.
    pub library: Option<PathBuf>,
    /// Longest time of an answer (the median) that a new package may take.
    pub max_latency: Option<Time>,
    /// Most memory that a package may take: its values, weights and scratch. Of the engine "espalier" alone.
    pub max_memory: Option<Bytes>,
}

impl PipelineConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.model.path = folder.join(&self.model.path);
        self.model.library.iter_mut().for_each(|library| *library = folder.join(&*library));
        self.samples.iter_mut().for_each(|samples| samples.folder = folder.join(&samples.folder));
        let uri = &self.source.uri;
        let is_other = uri == "-"
            || ["builtin:", "${"].iter().any(|start| uri.starts_with(start))
            || uri.contains("://")
            || uri.bytes().all(|byte| byte.is_ascii_digit());
        if !is_other && let Some(path) = folder.join(uri).to_str() {
            self.source.uri = path.to_owned();
        }
    }

    pub(super) fn validate(&self, path: &str) -> Result<(), Fault> {
        name(&format!("{path}.name"), &self.name)?;
        let SourceConfig { uri, .. } = &self.source;
        let right = "it should be a camera's number, a file, a folder or an address like \"rtsp://...\"";
        Fault::of(format!("{path}.source.uri"), Some(uri).filter(|uri| uri.is_empty()), right)?;
        rate(format!("{path}.source.rate"), self.source.rate)?;
        self.model.validate(&format!("{path}.model"))?;
        let within = |text: String| Fault::Table { path: path.to_owned(), right: text };
        let smooth = self.smooth.as_ref().map_or(Ok(()), SmoothConfig::validate);
        smooth.map_err(within)?;
        let drift = self.drift.as_ref().map_or(Ok(()), DriftConfig::validate);
        drift.map_err(|error| within(error.to_string()))?;
        let samples = self.samples.as_ref().map_or(Ok(()), SampleConfig::validate);
        samples.map_err(|error| within(error.to_string()))
    }

    /// Its rules, each with its smoothing.
    pub fn smoothed_rules(&self) -> Vec<RuleConfig> {
        let smoothed = |rule: &RuleConfig| {
            let smooth = rule.smooth.clone().or_else(|| self.smooth.clone());
            RuleConfig { smooth, ..rule.clone() }
        };
        self.rules.iter().map(smoothed).collect()
    }
}

impl ModelConfig {
    fn validate(&self, path: &str) -> Result<(), Fault> {
        let empty = Some(&self.path).filter(|path| path.as_os_str().is_empty());
        Fault::of(
            format!("{path}.path"),
            empty,
            "it should be a package that `espalier train`, `compress` or `import` wrote",
        )?;
        let threads = self.threads.filter(|threads| !(1..=256).contains(threads));
        Fault::of(format!("{path}.threads"), threads, "it should be 1 to 256")?;
        let engine = self.engine().validate();
        engine.map_err(|error| Fault::Table { path: path.to_owned(), right: error.to_string() })?;
        let is_other = self.engine != EngineKind::Espalier;
        let stray = "it is for the engine \"espalier\"; leave it out";
        Fault::of(format!("{path}.isa"), self.isa.as_ref().filter(|_| is_other), stray)?;
        // Other engines do not tell what memory they take.
        Fault::of(format!("{path}.max_memory"), self.max_memory.filter(|_| is_other), stray)?;
        self.isa().map(drop).map_err(|error| {
            Fault::value(format!("{path}.isa"), self.isa.as_deref().unwrap_or_default(), error)
        })
    }

    /// What computes it, and how.
    pub fn engine(&self) -> EngineConfig {
        let ModelConfig { engine, providers, library, .. } = self.clone();
        EngineConfig { engine, providers, library }
    }

    /// The instruction set.
    ///
    /// # Errors
    /// This machine does not have it, or nobody does.
    pub fn isa(&self) -> Result<Isa, String> {
        self.isa
            .as_deref()
            .map_or(Ok(Isa::best()), |name| Isa::named(name).map_err(|error| error.to_string()))
    }
}
