//! The package of a run's best weights.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use espalier_graph::{Format, Graph, Lineage, Manifest, Package, Role, Weights};
use espalier_passes::{average_name, fold_batch_norm, portable};
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Image, Model, Reference, Task};
use serde::{Deserialize, Serialize};

use crate::imported;
use crate::series::SeriesSettings;
use crate::settings::Settings;

/// Golden samples of a package.
const GOLDEN: usize = 4;
/// Longest side of a golden sample in pixels; larger pictures are shrunk, so that the file stays small.
const GOLDEN_SIDE: usize = 256;

/// The network of a package, as its manifest holds it: from this its trainable graph is built again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The name that [`networks::build`](crate::networks::build) takes.
    pub name: String,
    /// Scale of the channels.
    pub width: f32,
    /// Number of logits.
    pub classes: usize,
    /// Channels of the picture.
    pub channels: usize,
    /// Height and width of the picture.
    pub size: [usize; 2],
}

/// The states that belong to the model, not to its training; their moving averages where `states` holds these.
pub fn model_states(graph: &Graph, states: &Weights) -> Weights {
    let kept = graph.states().iter().filter(|s| s.role != Role::Optimizer);
    kept.filter_map(|s| {
        let name = &graph.value(s.value).name;
        let learned = states.get(&average_name(name)).or_else(|| states.get(name));
        learned.map(|tensor| (name.clone(), tensor.clone()))
    })
    .collect()
}

/// A model that answers with `weights` in the trainable `network`, batch normalisation folded.
///
/// # Errors
/// A graph that does not fold or fit the task: a fault of ours.
pub fn model(
    network: &Graph,
    weights: &Weights,
    task: &ClassifyImage,
    threads: usize,
) -> anyhow::Result<Model> {
    let portable = portable(network)?;
    let mut weights = model_states(&portable, weights);
    let folded = fold_batch_norm(&portable, &mut weights)?;
    Ok(Model::new(folded, weights, Task::ClassifyImage(task.clone()), Isa::best(), threads)?)
}

/// The model of the package at `path`, ready to answer.
///
/// # Errors
/// No package of a classifier is there.
pub fn open(path: &Path, threads: usize) -> anyhow::Result<Model> {
    let package = Package::read(path)?;
    let task = package.manifest.task.with_context(|| format!("{} has no task", path.display()))?;
    let mut weights = package.weights;
    let graph = fold_batch_norm(&package.graph, &mut weights)?;
    Ok(Model::new(graph, weights, serde_json::from_value(task)?, Isa::best(), threads)?)
}

/// Pictures for golden samples, evenly spaced over those given.
pub fn golden_pictures<E>(
    count: usize,
    picture: impl Fn(usize) -> Result<Image, E>,
) -> Result<Vec<Image>, E> {
    spaced(count).map(|at| picture(at).map(|image| shrunk(&image))).collect()
}

/// The numbers of a few inputs for golden samples, evenly spaced over `count`.
pub(crate) fn spaced(count: usize) -> impl Iterator<Item = usize> {
    let wanted = GOLDEN.min(count);
    (0..wanted).map(move |i| i * count / wanted)
}

/// The manifest of an autoencoder that was trained with `settings`.
pub(crate) fn manifest(
    task: &Task,
    metric: &str,
    metrics: BTreeMap<String, f64>,
    settings: &SeriesSettings,
) -> anyhow::Result<Manifest> {
    Ok(Manifest {
        name: settings.model.clone(),
        metric: Some(metric.into()),
        task: Some(serde_json::to_value(task)?),
        metrics,
        lineage: Lineage {
            parent: None,
            dataset: Some(settings.dataset.clone()),
            settings: Some(settings.digest()),
        },
        version: 1,
        ..Manifest::default()
    })
}

pub(crate) fn shrunk(image: &Image) -> Image {
    let side = image.width.max(image.height);
    if side <= GOLDEN_SIDE {
        return image.clone();
    }
    let scaled = |v: usize| (v * GOLDEN_SIDE / side).max(1);
    espalier_tasks::resize::resize(image, [scaled(image.height), scaled(image.width)])
}

/// The package: portable graph and weights unfolded, so that it can be trained further; golden samples of the pictures, and
/// the reference statistics of val.
///
/// # Errors
/// A golden sample that cannot be answered.
pub fn package(
    network: &Graph,
    weights: &Weights,
    task: &ClassifyImage,
    settings: &Settings,
    metrics: BTreeMap<String, f64>,
    model: &mut Model,
    (pictures, reference): (&[Image], Option<Reference>),
) -> anyhow::Result<Package> {
    let graph = portable(network)?;
    let golden = pictures.iter().map(|picture| model.golden(picture)).collect::<Result<Vec<_>, _>>()?;
    let task = Task::ClassifyImage(task.clone());
    // Of an imported network, the graph is all there is.
    let network = (settings.model != imported::NAME).then(|| Network {
        name: settings.model.clone(),
        width: settings.width,
        classes: task.labels().len(),
        channels: settings.channels,
        size: [settings.imgsz; 2],
    });
    let format = Format::of(&graph);
    let manifest = Manifest {
        format: if reference.is_some() { format.with_reference() } else { format },
        name: settings.model.clone(),
        network: network.map(serde_json::to_value).transpose()?,
        metric: Some(task.primary_metric().name.into()),
        task: Some(serde_json::to_value(&task)?),
        metrics,
        lineage: Lineage {
            parent: settings.init.clone(),
            dataset: Some(settings.dataset.clone()),
            settings: Some(settings.digest()),
        },
        version: 1,
        ..Manifest::default()
    };
    let weights = model_states(&graph, weights);
    let reference = reference.map(|reference| reference.tensors()).unwrap_or_default();
    Ok(Package { manifest, graph, weights, golden, reference })
}
