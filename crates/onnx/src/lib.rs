//! The door to others: ONNX files become graphs that can be trained, compressed and run, and graphs become ONNX files.
//!
//! A file is read (`model`), its operators become ops of our vocabulary one by one (`ops` holds one rule for each),
//! and whatever depends on shapes and constants alone is computed on the way (`fold`). Every limit is checked before
//! memory is taken; what cannot be imported is an error that names all of it at once. `docs/onnx.md` lists what is read.
//! `export` is the way out.

mod bytes;
mod constant;
mod export;
mod external;
mod fault;
mod fold;
mod import;
mod metadata;
mod model;
mod names;
mod node;
mod ops;
mod proto;
mod shapes;
mod tensor;

use std::ops::RangeInclusive;

pub use export::{About, ExportError, Exported, OPSET, export};
pub use fault::ImportError;
pub use import::{Batch, Imported, Options, from_bytes, from_file};
pub use metadata::Metadata;

/// Versions of the default operator set that are read.
pub const OPSETS: RangeInclusive<i64> = 7..=21;

/// Largest file: that of a protobuf message.
pub const MAX_FILE: u64 = (2 << 30) - 1;

/// Most nodes of a graph.
pub const MAX_NODES: usize = 1 << 16;

/// Most axes of a tensor.
const MAX_RANK: usize = espalier_graph::Shape::MAX_RANK;

/// Most elements of a constant that is not of floats: such are sizes, axes and indices.
const MAX_INTS: usize = 1 << 20;

/// Most elements of a value that flows, for one sample.
const MAX_ELEMENTS: usize = 1 << 28;
