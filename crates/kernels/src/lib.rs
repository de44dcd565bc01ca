//! How numbers are computed: one file per op family with its naive reference, its fast paths and its gradients.
//! Nothing here knows of graphs being trained, of threads or of memory planning: a kernel gets buffers and a share.

mod activation;
pub mod conv;
pub(crate) mod depthwise;
pub mod elementwise;
mod functions;
pub mod int8;
pub mod isa;
pub mod kernel;
mod lanes;
pub mod layout;
mod math;
pub mod matmul;
pub mod movement;
pub mod norm;
pub mod peak;
pub mod pool;
pub mod reduce;
pub mod reference;
pub mod resize;
pub mod softmax;
mod strided;
#[cfg(test)]
mod testing;
pub mod update;

pub use activation::Activation;
pub use isa::{Isa, IsaError};
pub use kernel::{Buffer, Element, InputRows, Io, Kernel, Output, Rows, Worker};
pub use lanes::LANES;
pub use layout::{Layout, blocks, physical_len};
