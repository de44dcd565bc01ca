//! The manifest: what a package says about itself, as one canonical JSON text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::graph::Graph;
use crate::package::PackageError;

/// The newest major format that is read, and the one that is written.
pub const MAJOR: u64 = 1;

/// The entries of [`Format::requires`] that are understood.
pub const FEATURES: &[&str] = &[INT8, REFERENCE];

/// Stands in [`Format::requires`] where values of the graph are quantized.
const INT8: &str = "int8";

/// Stands in [`Format::requires`] where the package holds reference statistics, a kind of tensor that older readers refuse.
const REFERENCE: &str = "reference";

/// Every JSON object costs hundreds of bytes once parsed, so their number is bounded before.
const MAX_OBJECTS: usize = 4096;

/// What a reader must understand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Counts changes that older readers cannot cope with.
    pub major: u64,
    /// Features without which the package would be misread.
    #[serde(default)]
    pub requires: Vec<String>,
}

impl Format {
    /// What a reader of `graph` must understand.
    pub fn of(graph: &Graph) -> Self {
        let quantized = graph.values().iter().any(|value| value.ty.dtype.quant().is_some());
        Format { major: MAJOR, requires: quantized.then(|| INT8.to_string()).into_iter().collect() }
    }

    /// The same for a package with reference statistics.
    pub fn with_reference(mut self) -> Self {
        if !self.requires.iter().any(|entry| entry == REFERENCE) {
            self.requires.push(REFERENCE.into());
        }
        self
    }
}

impl Default for Format {
    fn default() -> Self {
        Format { major: MAJOR, requires: Vec::new() }
    }
}

/// Where a model comes from, as digests of what it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The file that training or compression began from: a package, or weights of another program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The resolved settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
}

/// What a package says about itself, its graph apart. It holds no time, path or rate: the same model gives the same
/// bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What a reader must understand.
    pub format: Format,
    /// For people.
    pub name: String,
    /// The network with its width, number of classes and so on, from which training rebuilds the trainable graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Value>,
    /// Pre- and post-processing, read by the tasks; without it tensors go in and out raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Value>,
    /// The primary one of [`Manifest::metrics`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// What was measured, by name; finite.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// What the model may cost on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Value>,
    /// Where the model comes from.
    #[serde(default)]
    pub lineage: Lineage,
    /// Counts the releases of one model.
    #[serde(default)]
    pub version: u64,
}

/// The key that stands beside those of [`Manifest`].
#[derive(Deserialize)]
struct GraphText {
    graph: String,
}

/// The one key that every major has.
#[derive(Deserialize)]
struct FormatOnly {
    format: Format,
}

impl Manifest {
    /// Canonical JSON of the manifest with the graph: sorted keys, no white space, shortest numbers.
    pub(super) fn write(&self, graph: &Graph) -> Result<String, PackageError> {
        let mut value = serde_json::to_value(self).map_err(malformed)?;
        value["graph"] = graph.to_string().into();
        value.sort_all_objects();
        Ok(value.to_string())
    }

    /// Reads what [`Manifest::write`] wrote; unknown keys are ignored.
    pub(super) fn read(text: &str) -> Result<(Manifest, Graph), PackageError> {
        if text.bytes().filter(|&b| b == b'{').count() > MAX_OBJECTS {
            return Err(PackageError::Manifest(format!("has more than {MAX_OBJECTS} objects")));
        }
        // First the format alone: what a newer one does with the other keys is unknown.
        serde_json::from_str::<FormatOnly>(text).map_err(malformed)?.format.check()?;
        let manifest: Manifest = serde_json::from_str(text).map_err(malformed)?;
        let GraphText { graph } = serde_json::from_str(text).map_err(malformed)?;
        Ok((manifest, graph.parse()?))
    }

    /// What a manifest must keep so that it can be written and read.
    pub(super) fn check(&self, graph: &Graph) -> Result<(), PackageError> {
        self.format.check()?;
        if let Some(feature) =
            Format::of(graph).requires.into_iter().find(|f| !self.format.requires.contains(f))
        {
            return Err(PackageError::Manifest(format!(
                "does not require `{feature}`, which its graph needs"
            )));
        }
        match self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Err(PackageError::Manifest(format!("has the metric `{name}` = {value}"))),
            None => Ok(()),
        }
    }
}

impl Manifest {
    /// Whether it says of reference statistics what is there.
    pub(super) fn check_reference(&self, is_there: bool) -> Result<(), PackageError> {
        let is_said = self.format.requires.iter().any(|entry| entry == REFERENCE);
        match is_there && !is_said {
            true => Err(PackageError::Manifest(format!(
                "does not require `{REFERENCE}`, though the package holds reference statistics"
            ))),
            false => Ok(()),
        }
    }
}

impl Format {
    fn check(&self) -> Result<(), PackageError> {
        if self.major == 0 || self.major > MAJOR {
            return Err(PackageError::Major(self.major));
        }
        match self.requires.iter().find(|entry| !FEATURES.contains(&entry.as_str())) {
            Some(entry) => Err(PackageError::Requires(super::shown(entry))),
            None => Ok(()),
        }
    }
}

fn malformed(error: serde_json::Error) -> PackageError {
    PackageError::Manifest(format!("does not parse: {error}"))
}
