//! What a model is: the op vocabulary, tensor types, the graph with its text form, shape inference,
//! verification, and the package file. This crate depends on no other crate of ours.

pub mod attr;
pub mod op;
pub mod random;
pub mod types;

pub use op::{BinaryFn, Op, ReduceFn, ResizeMode, UnaryFn, Window};
pub use types::{Bindings, DType, Dim, Shape, TensorType};
