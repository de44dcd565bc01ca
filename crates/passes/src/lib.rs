//! What is done to a model: graph in, graph out, one file for each pass. Every pass ends in
//! [`verify`](espalier_graph::verify), so what it returns keeps the rules of its stage.

mod backward;
pub mod channels;
mod correct_biases;
mod differentiate;
mod ema;
mod equalise;
pub mod fake_quant;
mod fold_batch_norm;
pub mod integers;
pub mod layer;
mod portable;
mod prune_unused;
pub mod quantize;
pub mod rewrite;
mod rules;
mod simplify;
pub mod sparsify;
mod training;
mod update;

pub use correct_biases::correct_biases;
pub use differentiate::differentiate;
pub use ema::{average_name, ema};
pub use equalise::{Extents, equalise};
pub use fold_batch_norm::fold_batch_norm;
pub use integers::integers;
pub use portable::portable;
pub use prune_unused::prune_unused;
pub use quantize::quantize;
pub use simplify::simplify;
pub use training::training;
pub use update::{Optimizer, decays_by_default, update};
