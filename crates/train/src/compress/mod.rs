//! Compression: a trained network becomes a package that keeps a budget, smaller and faster, and the proof that it does.
//!
//! What decides is measured, not derived: every candidate is answered by the plan that a device would run, on val, and timed
//! in turn with the float network. Calibration, the choice of layers and fine-tuning use images of train. `policy` says what is
//! tried: all layers in int8, by several recipes; the layers that harm most in float; training with roundings; pruning of
//! channels, then of blocks.

mod budget;
mod calibration;
mod candidate;
mod channels;
mod fine_tune;
mod histogram;
mod latency;
mod layers;
mod page;
mod policy;
mod qat;
mod recipe;
mod search;
mod sensitivity;
mod sparsity;
mod trained;
mod variant;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use espalier_graph::package::PackageError;
use espalier_graph::{Package, Weights};
use espalier_passes::layer::layers as weighted;
use espalier_runtime::{Isa, Pool};
use espalier_tasks::{Model, Task};
use serde::Serialize;

use crate::data::{Examples, Skipped};
use crate::digest;
pub use budget::{Budget, DEFAULT_DROP, Figures};
pub use calibration::Calibration;
pub use candidate::Candidate;
pub use histogram::{Histogram, Method};
pub use layers::LayerNote;
pub use page::page;
pub use recipe::Recipe;
pub use sensitivity::Sensitivity;
pub use variant::{Sparsity, Structure};

/// Training images that ranges are measured on.
pub const CALIBRATION_IMAGES: usize = 256;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Only packages of integers are an answer; else the float network is one too.
    pub int8: bool,
    /// Share of the multiply-adds to remove with channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<f64>,
    /// Weights of inner layers to make zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Train the network with its roundings.
    pub qat: bool,
    /// One scale for all weights of a layer, as some accelerators have it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub per_tensor: bool,
    /// What the package may cost.
    pub budget: Budget,
    /// Images of train for calibration.
    pub calibration_images: usize,
    /// Chooses them.
    pub seed: u64,
}

impl Settings {
    /// What is to be taken out of the network, whatever comes of it.
    fn structure(&self) -> Structure {
        Structure { prune: self.prune, sparsity: self.sparsity }
    }
}

/// A package and what its file is.
pub struct Source {
    /// What is compressed.
    pub package: Package,
    /// SHA-256 of the file.
    pub digest: String,
    /// Bytes of the file.
    pub size_bytes: u64,
}

/// A compression to be done.
pub struct Request {
    /// What is compressed.
    pub source: Source,
    /// What it is for.
    pub task: Task,
    /// Where train and val come from, as on the command line: fine-tuning reads train as training does.
    pub data: String,
    /// For calibration.
    pub train: Examples,
    /// What decides.
    pub val: Examples,
    /// What is asked for.
    pub settings: Settings,
    /// Instructions to measure with.
    pub isa: Isa,
    /// Worker threads to measure with.
    pub threads: usize,
    /// Watts of one busy core, for an estimate of energy.
    pub watts: Option<f64>,
    /// Where networks that were trained on the way are kept.
    pub folder: PathBuf,
    /// Takes those that are there already.
    pub resume: bool,
    /// When to stop looking for something better; it is no part of the settings, since it depends on the machine.
    pub max_time: Option<Duration>,
    /// Set from outside, it ends the search; what keeps the budget by then is the answer.
    pub stop: Arc<AtomicBool>,
}

/// How a compression goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step begins.
    Began {
        /// In words.
        what: String,
        /// What it counts.
        unit: &'static str,
        /// How many of them.
        length: usize,
    },
    /// So many are done.
    Done(usize),
    /// The step is over; a line about it.
    Ended(String),
}

/// One step that was taken, for reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// What was done.
    pub step: String,
    /// What came of it.
    pub result: String,
    /// How long it took.
    pub seconds: f64,
}

/// What came of a compression.
pub struct Outcome {
    /// Name of the network.
    pub name: String,
    /// Images of val.
    pub images: usize,
    /// The primary metric.
    pub metric: &'static str,
    /// What the budget was.
    pub settings: Settings,
    /// The instruction set that it was measured with.
    pub isa: String,
    /// The threads that it was measured with.
    pub threads: usize,
    /// What told the energy of an answer, in words.
    pub energy: String,
    /// Name of the energy meter, where there is one.
    pub energy_meter: Option<String>,
    /// The float network.
    pub before: Figures,
    /// All that were tried, the float network first.
    pub candidates: Vec<Candidate>,
    /// The best that keeps the budget, or the nearest to it.
    pub chosen: Choice,
    /// The layers of the chosen or nearest candidate.
    pub layers: Vec<LayerNote>,
    /// What was done.
    pub steps: Vec<Step>,
    /// Images that could not be read.
    pub skipped: Vec<Skipped>,
    /// The package, where the budget is kept.
    pub package: Option<Package>,
}

/// Which of the candidates it came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// This one keeps the budget, and is the fastest that does.
    Kept(usize),
    /// None keeps it; this one is nearest.
    Missed {
        /// The nearest.
        nearest: usize,
        /// Why it is none.
        reason: String,
    },
}

impl Outcome {
    /// The candidate that was chosen, or is nearest.
    pub fn candidate(&self) -> &Candidate {
        match self.chosen {
            Choice::Kept(at) | Choice::Missed { nearest: at, .. } => &self.candidates[at],
        }
    }
}

impl Source {
    /// Reads the package file at `path`. Nothing of it stays in the file, which may change while a long search goes on.
    ///
    /// # Errors
    /// It cannot be read, or is no package.
    pub fn read(path: &Path) -> Result<Source, PackageError> {
        let bytes = espalier_graph::package::open(path)?;
        let named = |fault| PackageError::At { path: path.into(), fault: Box::new(fault) };
        let package = Package::from_bytes(&bytes).map_err(named)?;
        Ok(Source { package, digest: digest::of(&bytes[..]), size_bytes: bytes.len() as u64 })
    }
}

/// What a search says that was stopped too early.
const STOPPED: &str = "stopped before anything kept the budget";

/// Compresses, and tells `notify` how it goes.
///
/// # Errors
/// A package that is quantized already, has no layer that could be, or does not fit the data; what could not be read.
pub fn compress(mut request: Request, notify: &mut dyn FnMut(Event)) -> anyhow::Result<Outcome> {
    let Package { graph, weights, .. } = &request.source.package;
    let (graph, weights) = variant::folded(graph, weights)?;
    refuse(&request, &graph, &weights)?;
    if request.val.is_unlabelled() {
        // What the float network says is then what is to be kept.
        let task = request.task.clone();
        let mut float = Model::new(graph, weights, task, request.isa, request.threads)?;
        let alarms = candidate::alarms(&mut float, &request.val, request.threads)?;
        request.val.label(&alarms);
    }
    let deadline = request.max_time.map(|time| Instant::now() + time);
    let outcome = search::Search::new(&request, Pool::new(request.threads), deadline, notify)?.run()?;
    if request.stop.load(Ordering::Relaxed) && outcome.package.is_none() {
        bail!(STOPPED);
    }
    Ok(outcome)
}

/// What cannot be compressed is said before anything is measured.
fn refuse(request: &Request, graph: &espalier_graph::Graph, weights: &Weights) -> anyhow::Result<()> {
    let quantized = graph.values().iter().find(|value| value.ty.dtype.quant().is_some());
    if let Some(value) = quantized {
        bail!("it is quantized already (`{}` is {}); compress takes a float package", value.name, value.ty);
    }
    if weighted(graph).is_empty() {
        bail!(
            "it has no convolution and no matrix product with constant weights, so there is nothing to quantize"
        );
    }
    let broken = weights
        .iter()
        .find(|(_, tensor)| tensor.as_f32().is_some_and(|values| values.iter().any(|v| !v.is_finite())));
    if let Some((name, _)) = broken {
        bail!("the weight `{name}` holds numbers that are not finite once batch normalisation is folded");
    }
    match [&request.train, &request.val].into_iter().find(|examples| examples.list.is_empty()) {
        Some(examples) => {
            bail!("the {} split is empty; compress calibrates on train and decides on val", examples.split)
        }
        None => Ok(()),
    }
}
