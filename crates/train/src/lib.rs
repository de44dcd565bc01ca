//! How weights are learned: data and its loading, networks by name, the training step as a graph, the loop with its
//! checkpoints, and what watches it.

pub mod best;
pub mod checkpoint;
pub mod compress;
pub mod data;
pub mod diagnosis;
mod digest;
pub mod evaluate;
pub mod event;
pub mod explain;
pub mod imported;
pub mod init;
pub mod layers;
pub mod networks;
pub mod observers;
pub mod reference;
mod rules;
mod run;
pub mod run_folder;
pub mod schedule;
pub mod series;
pub mod settings;
pub mod step;
pub mod suspects;
pub mod trainer;

pub use diagnosis::Verdict;
pub use event::{Event, Learned, Outcome, Stopped, Subject, Times};
pub use settings::{OptimizerName, Overrides, Settings, SettingsError};
pub use trainer::{CHECKPOINT_EVERY, Request, UsageError, train};
