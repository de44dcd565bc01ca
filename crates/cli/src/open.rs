//! Opens packages, and makes of them what commands work with.

use std::path::Path;

use anyhow::Context;
use espalier_graph::{Graph, Package, Weights};
use espalier_passes::fold_batch_norm;
use espalier_runtime::Isa;
use espalier_runtime::energy::Energy;
use espalier_tasks::{Model, Task};
use espalier_train::data::{DataError, Dataset};

use crate::exit::usage;

/// Reads a package; a file that is not there is wrong usage.
pub(crate) fn package(path: &Path) -> anyhow::Result<Package> {
    Ok(Package::read(existing(path)?)?)
}

/// A package's path; where nothing is, that is wrong usage.
pub(crate) fn existing(path: &Path) -> anyhow::Result<&Path> {
    match path.exists() {
        true => Ok(path),
        false => {
            Err(usage(format!("{} does not exist; a package comes from `espalier train`", path.display())))
        }
    }
}

/// The dataset that `data` names; one that is not there is wrong usage.
pub(crate) fn dataset(data: &str) -> anyhow::Result<Dataset> {
    Dataset::open(data).map_err(data_error)
}

/// With the status that it stands for.
pub(crate) fn data_error(error: DataError) -> anyhow::Error {
    if error.is_usage() { usage(error) } else { error.into() }
}

/// The graph and weights to run: batch normalisation goes into the convolutions before it.
pub(crate) fn folded(package: &Package) -> anyhow::Result<(Graph, Weights)> {
    let mut weights = package.weights.clone();
    let graph = fold_batch_norm(&package.graph, &mut weights)?;
    Ok((graph, weights))
}

/// The package's task.
pub(crate) fn task(package: &Package) -> anyhow::Result<Task> {
    let value = package
        .manifest
        .task
        .clone()
        .context("the package has no task: it takes raw tensors (`run --input`)")?;
    let task: Task = serde_json::from_value(value).context("the package's task")?;
    task.validate()?;
    Ok(task)
}

/// A model that is ready to answer, after one golden sample was.
pub(crate) fn model(path: &Path, isa: Isa, threads: usize) -> anyhow::Result<Model> {
    let package = package(path)?;
    let named = || format!("package {}", path.display());
    let task = task(&package).with_context(named)?;
    let (graph, weights) = folded(&package).with_context(named)?;
    let mut model = Model::new(graph, weights, task, isa, threads).with_context(named)?;
    model.replay(&package.golden[..package.golden.len().min(1)]).with_context(named)?;
    Ok(model)
}

/// The instruction set called `name`, or the best.
pub(crate) fn isa(name: Option<&str>) -> anyhow::Result<Isa> {
    name.map_or(Ok(Isa::best()), |name| Isa::named(name).map_err(|e| usage(format!("--isa: {e}"))))
}

/// What tells energy here; `watts` are those of one busy core.
pub(crate) fn energy(watts: Option<f64>) -> anyhow::Result<Energy> {
    let energy = Energy::here(watts);
    match watts {
        Some(watts) if !(0.01..=1000.0).contains(&watts) => {
            Err(usage(format!("--watts {watts}: it should be what one busy core draws, like 6")))
        }
        Some(_) if energy.watts().is_none() => Err(usage("--watts: this system does not tell CPU seconds")),
        _ => Ok(energy),
    }
}

/// `threads`, or one for each core.
pub(crate) fn threads(threads: Option<usize>) -> anyhow::Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match threads.unwrap_or(cores) {
        n @ 1..=256 => Ok(n),
        n => Err(usage(format!("--threads: {n} is not in 1..=256"))),
    }
}
