//! How a model runs: `lower` turns a graph into a plan, one block of memory holds everything, a spin pool runs it.
//! Nothing here knows of training: a training step is a graph like any other. But its ops have kernels only with the feature
//! `training`.

mod channels;
pub mod energy;
mod fuse;
mod integers;
mod lower;
pub mod memory;
mod plan;
mod pool;
mod repeat;
mod select;
mod supersteps;
#[cfg(feature = "training")]
mod training;
#[cfg(not(feature = "training"))]
#[path = "no_training.rs"]
mod training;

pub use channels::Origin;
pub use espalier_kernels::{Isa, IsaError};
pub use fuse::{Group, Work, fuse};
pub use lower::{LowerError, MAX_VALUE_BYTES, Options, lower, lower_for_bytes};
pub use plan::{Plan, Sizes, StepInfo};
pub use pool::{Pool, Share};
pub use repeat::Repeat;
