//! What a model is: the op vocabulary, tensor types, the graph with its text form, shape inference,
//! verification, and the package file. This crate depends on no other crate of ours.

pub mod attr;
pub mod files;
mod functions;
mod graph;
mod infer;
mod layers;
pub mod op;
pub mod package;
pub mod random;
mod text;
pub mod types;
mod values;
mod verify;
mod weights;

pub use functions::normal_cdf;
pub use graph::{Graph, GraphError, Node, Role, Source, State, Value, ValueId};
pub use infer::infer;
pub use op::{BinaryFn, Op, ReduceFn, ResizeMode, UnaryFn, Window};
pub use package::{Format, Golden, Lineage, Manifest, Package, PackageError};
pub use text::MAX_TEXT;
pub use types::{Bindings, DType, Dim, Quant, Shape, TensorType};
pub use values::{Plain, Values};
pub use verify::{Stage, verify};
pub use weights::{Data, Tensor, Weights};
