//! Streams: pictures, or rows of a series, that come one after another, from where they are to whoever looks at them.
//!
//! A [`Source`] is what a user names. A [`Stream`] reads it in a thread of its own and hands over numbered [`Frame`]s: all
//! of them, or always the newest ([`Policy`]). What is broken is a frame with a [`Fault`], never the end of a stream. A
//! [`Board`] holds what was seen last, and a [`Server`] shows it to browsers of this machine.
//!
//! What is made of answers are state machines that take time as an argument: [`insight`], [`drift`], [`samples`].
//!
//! Every frame ends in exactly one of three ways: it was processed, it was skipped, or it is broken. [`Tally`] counts them.

mod address;
pub mod config;
pub mod drift;
mod figures;
mod frame;
pub mod insight;
mod log;
mod machine;
mod moment;
pub mod outbox;
mod package;
mod pipeline;
mod queue;
pub mod samples;
mod scheduler;
mod service;
mod show;
mod sink;
mod source;
mod spare;
mod stream;
mod swap;
mod tally;

use std::path::Path;
use std::process::ExitCode;

pub use address::Address;
pub use frame::{Fault, Frame, PICTURE_BYTES};
pub use machine::resident_bytes;
pub use moment::Moment;
pub use package::Refusal;
pub use pipeline::{Listener, Manner, Seen, Viewer, broken};
pub use queue::{Counts, Outcome, Policy};
pub use scheduler::{Client, Power, Scheduler, Turn};
pub use service::{AgentError, check, run};
pub use show::{Board, Health, Server, Shot};
pub use sink::{
    Backoff, Exchange, FolderConfig, HubConfig, MqttConfig, Next, SinkConfig, SinkCounters, SinkError, Sinks,
    StdoutConfig, WebhookConfig,
};
pub use source::multipart::Multipart;
pub use source::pictures::Splitter;
pub use source::rows::Rows;
pub use source::{Digits, Disturbance, Persistence, Retry, Source, SourceError};
pub use stream::{Event, Reading, Stream};
pub use tally::{Histogram, Tally, Times};

/// The agent as a program: runs the configuration at `config`, or only checks it. Status 0: done, 1: failed, 2: the
/// configuration is wrong.
pub fn main(config: &Path, only_check: bool) -> ExitCode {
    let result = match only_check {
        true => check(config).map(|lines| lines.iter().for_each(|line| println!("{line}"))),
        false => run(config),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    log::event(log::Level::Error, "agent", &error);
    ExitCode::from(if error.is_usage() { 2 } else { 1 })
}
