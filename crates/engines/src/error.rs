//! Why an engine is not there.

use std::path::PathBuf;

use espalier_onnx::ExportError;
use espalier_tasks::ModelError;

/// What to do about a library that is not there.
const INSTALL: &str = "install ONNX Runtime 1.17 or newer (`pip install onnxruntime`, a package of your system, or a release of \
                       github.com/microsoft/onnxruntime) and name its library, or the folder that it is in, by `library`, \
                       --engine-library or ORT_DYLIB_PATH";

/// Why a package does not run on an engine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The settings contradict each other.
    #[error("{0}")]
    Config(String),
    /// There is nothing that says how raw input becomes a tensor.
    #[error("the package has no task: it takes raw tensors")]
    NoTask,
    /// The package's task cannot be read.
    #[error("the package's task: {0}")]
    Task(String),
    /// No library could be loaded.
    #[error("ONNX Runtime cannot be loaded: {}; {INSTALL}", tried(.0))]
    Missing(Vec<(String, String)>),
    /// The library is older than what is asked of it.
    #[error("{} is ONNX Runtime {version}, 1.{least} or newer is needed; {INSTALL}", path.display())]
    TooOld {
        /// The library.
        path: PathBuf,
        /// What it says of itself.
        version: String,
        /// Minor number of the oldest version that serves.
        least: u32,
    },
    /// A process holds one library.
    #[error(
        "this process has loaded {} already and takes no second ONNX Runtime ({}): name one library everywhere",
        loaded.display(), wanted.display()
    )]
    Second {
        /// The one that is there.
        loaded: PathBuf,
        /// The one that was asked for.
        wanted: PathBuf,
    },
    /// The library was built without a provider.
    #[error("{library} has no provider `{asked}`; it has: {}", available.join(", "))]
    Provider {
        /// Which library.
        library: String,
        /// The provider that was asked for.
        asked: String,
        /// Those that are there.
        available: Vec<String>,
    },
    /// A provider takes nothing, or not everything, of the network.
    #[error("{0}")]
    Placement(String),
    /// ONNX Runtime refuses the network or a setting.
    #[error("{library} does not open the network: {reason}")]
    Session {
        /// Which library.
        library: String,
        /// What it says.
        reason: String,
    },
    /// The graph takes or gives something that no engine is handed.
    #[error("{0}")]
    Graph(String),
    /// The graph has no ONNX form.
    #[error("the network as ONNX: {0}")]
    Export(#[from] ExportError),
    /// The task and the graph do not agree, or our own runtime refuses the graph.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// `PATH (why)` for each.
fn tried(all: &[(String, String)]) -> String {
    let one = |(path, why): &(String, String)| format!("{path} ({why})");
    format!("tried {}", all.iter().map(one).collect::<Vec<_>>().join(", "))
}
