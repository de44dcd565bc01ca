//! The door to others: ONNX files become graphs that can be trained, compressed and run, and graphs become ONNX files.
//!
//! `import` is the way in. A file is read (`model`), its operators become ops of our vocabulary one by one (`ops` holds one
//! rule for each), and whatever depends on shapes and constants alone is computed on the way (`fold`). Every limit is checked
//! before memory is taken; what cannot be imported is an error that names all of it at once. `docs/onnx.md` lists what is
//! read. `export` is the way out; it is all that is built without the feature `import`, and then needs no passes: devices hand
//! what it writes to other engines.

mod export;
#[cfg(feature = "import")]
mod import;
mod proto;

pub use export::{About, ExportError, Exported, OPSET, export};
#[cfg(feature = "import")]
pub use import::{Batch, ImportError, Imported, MAX_NODES, Metadata, OPSETS, Options, from_bytes, from_file};

/// Largest file: that of a protobuf message.
pub const MAX_FILE: u64 = (2 << 30) - 1;
