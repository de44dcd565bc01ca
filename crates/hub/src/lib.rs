//! Where the insights of many devices come together.
//!
//! So far that is where they enter: an [`Ingest`] takes batches from a broker, a [`Ledger`] stores them, each insight once
//! whatever the network repeats, and only then is the device told that it may forget them.

mod ingest;
mod ledger;

pub use ingest::{Counters, Ingest};
pub use ledger::{Account, Answer, Ledger, LedgerError};
