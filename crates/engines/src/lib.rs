//! What computes a package: our own runtime, or ONNX Runtime with its execution providers for accelerators.
//!
//! ONNX Runtime is a library that the user installs; it is loaded when a configuration names it (`library`). The package's graph
//! is written as ONNX in memory (`espalier_onnx::export`) and handed to a session (`session`); providers are those that were
//! asked for, and nobody else computes anything (`provider`). `docs/engines.md` is the guide.

mod config;
mod error;
mod library;
mod provider;
mod session;

use espalier_graph::Package;
use espalier_runtime::Isa;
use espalier_tasks::{Model, Task};

pub use config::{EngineConfig, EngineKind};
pub use error::OpenError;
pub use provider::{Provider, ProviderKind};
pub use session::{OnnxRuntime, Placement};

/// A package's model on the engine that `config` names; our own runtime takes the best instruction set. Golden samples are not
/// replayed yet: [`Model::replay`] does it, with the engine's tolerance. Of another engine, replay all of them: the tolerance is a
/// share of the outputs' range over those that are replayed, and of one sample that may be narrow.
///
/// # Errors
/// Settings that contradict each other, a package without a task, a library that is missing, too old or no ONNX Runtime, a
/// provider that it does not have or that does not take the network.
pub fn open(config: &EngineConfig, package: &Package, threads: usize) -> Result<Model, OpenError> {
    config.validate()?;
    let task = package.manifest.task.clone().ok_or(OpenError::NoTask)?;
    let task: Task = serde_json::from_value(task).map_err(|e| OpenError::Task(e.to_string()))?;
    let graph = package.graph.clone();
    let model = match config.engine {
        EngineKind::Espalier => Model::new(graph, package.weights.clone(), task, Isa::best(), threads),
        EngineKind::OnnxRuntime => {
            let engine = OnnxRuntime::open(config, &graph, &package.weights, threads)?;
            Model::with_engine(graph, Box::new(engine), task)
        }
    };
    Ok(model?)
}
