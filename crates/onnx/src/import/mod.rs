//! The way in: an ONNX file becomes a graph.

mod bytes;
mod constant;
mod external;
mod fault;
mod fold;
mod importer;
mod metadata;
mod model;
mod names;
mod node;
mod ops;
mod shapes;
mod tensor;

use std::ops::RangeInclusive;

pub use fault::ImportError;
pub use importer::{Batch, Imported, Options, from_bytes, from_file};
pub use metadata::Metadata;

/// Versions of the default operator set that are read.
pub const OPSETS: RangeInclusive<i64> = 7..=21;

/// Most nodes of a graph.
pub const MAX_NODES: usize = 1 << 16;

/// Most axes of a tensor.
const MAX_RANK: usize = espalier_graph::Shape::MAX_RANK;

/// Most elements of a constant that is not of floats: such are sizes, axes and indices.
const MAX_INTS: usize = 1 << 20;

/// Most elements of a value that flows, for one sample.
const MAX_ELEMENTS: usize = 1 << 28;
