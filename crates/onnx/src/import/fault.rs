//! Why a file was not imported.

use std::path::PathBuf;

use espalier_graph::GraphError;

/// Why a file was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// What is wrong with the file at `path`.
    #[error("{}: {fault}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: Box<ImportError>,
    },
    /// The file, or one that it names, could not be read.
    #[error("cannot read: {0}")]
    Read(String),
    /// The bytes are no ONNX model, or contradict themselves.
    #[error("not a valid ONNX model: {0}")]
    Malformed(String),
    /// More than is allowed.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Operators, or uses of operators, that cannot be imported; all of the file at once.
    #[error("what is not supported: {0}")]
    Unsupported(String),
    /// The size of the input is open, or not the one that was asked for.
    #[error("{0}")]
    Size(String),
    /// A sentence that says what is not built yet or why something is not done.
    #[error("{0}")]
    Refused(String),
}

/// Why one node was not imported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// It is right, but beyond us.
    Unsupported(String),
    /// It contradicts itself or the format.
    Malformed(String),
}

pub(crate) fn unsupported(reason: impl Into<String>) -> Fault {
    Fault::Unsupported(reason.into())
}

pub(crate) fn malformed(reason: impl Into<String>) -> Fault {
    Fault::Malformed(reason.into())
}

impl From<GraphError> for Fault {
    fn from(error: GraphError) -> Self {
        match error {
            GraphError::Node { inputs, reason, .. } => Fault::Malformed(format!("of {inputs}: {reason}")),
            other => Fault::Malformed(other.to_string()),
        }
    }
}
