//! What crosses the network between a device and whoever listens to it: insights, never raw data, but for the hard samples
//! that a configuration asks for.
//!
//! A device numbers its insights in a queue ([`Epoch`], sequence) and accounts for every number: a [`Batch`] says what became
//! of a stretch of them, what is left and what had to be dropped. The hub stores it and answers with an [`Ack`]. Others get
//! each insight as a [`Message`]. All of it is JSON; docs/messages.md describes it for those who read it without this crate.

mod batch;
mod digest;
mod error;
mod identity;
mod insight;
mod message;
pub mod mqtt;
pub mod topics;

pub use batch::{Ack, Batch, Counts, Dropped, MAX_BATCH_BYTES, MAX_BATCH_PARTS, MAX_SEQUENCE};
pub use digest::Digest;
pub use error::WireError;
pub use identity::{Device, Epoch};
pub use insight::{Frames, Insight, Kind, Priority, Right, State};
pub use message::{Entry, Lost, MAX_INSIGHT_BYTES, Message};
