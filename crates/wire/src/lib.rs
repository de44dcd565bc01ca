//! What crosses the network between a device and whoever listens to it: insights, never raw data, but for the hard samples
//! that a configuration asks for.

mod insight;

pub use insight::{Frames, Insight, Kind, Priority, State};
