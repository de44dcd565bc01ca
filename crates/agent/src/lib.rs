//! Streams: pictures that come one after another, from where they are to whoever looks at them.
//!
//! A [`Source`] is what a user names. A [`Stream`] reads it in a thread of its own and hands over numbered [`Frame`]s: all
//! of them, or always the newest ([`Policy`]). What is broken is a frame with a [`Fault`], never the end of a stream. A
//! [`Board`] holds what was seen last, and a [`Server`] shows it to browsers of this machine.
//!
//! Every frame ends in exactly one of three ways: it was processed, it was skipped, or it is broken. [`Tally`] counts them.

mod address;
mod frame;
mod moment;
mod queue;
mod show;
mod source;
mod stream;
mod tally;

pub use address::Address;
pub use frame::{Fault, Frame, PICTURE_BYTES};
pub use moment::Moment;
pub use queue::Policy;
pub use show::{Board, Server, Shot};
pub use source::multipart::Multipart;
pub use source::pictures::Splitter;
pub use source::rows::Rows;
pub use source::{Source, SourceError};
pub use stream::{Event, Stream};
pub use tally::{Histogram, Tally};
