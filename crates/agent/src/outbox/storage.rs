//! What an outbox wants of a disk.

use std::sync::Arc;

use espalier_wire::{Digest, Dropped, Epoch, Priority};

/// Why a disk did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// It cannot be written now: it is full, read-only, or in use by another process. Nothing was changed; later it may work.
    #[error("{0}")]
    Unavailable(String),
    /// What it holds cannot be read.
    #[error("{0}")]
    Corrupt(String),
    /// It could not make durable what it took. Nobody knows then what it holds, so the process has to end: what the next
    /// one reads is what is there.
    #[error("{0}")]
    Fsync(String),
}

/// An insight as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the queue.
    pub sequence: u64,
    /// How much it matters.
    pub priority: Priority,
    /// That of `espalier_wire::Entry`.
    pub digest: Digest,
    /// The insight as JSON.
    pub insight: Arc<str>,
}

/// Where an insight stands, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// How much it matters.
    pub priority: Priority,
    /// Its place in the queue.
    pub sequence: u64,
    /// Bytes of its JSON.
    pub bytes: u64,
}

/// A number of insights, and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many.
    pub count: u64,
    /// Bytes of their JSON.
    pub bytes: u64,
}

/// What a storage knows when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Of this queue.
    pub epoch: u64,
    /// The sequence number that comes next.
    pub next: u64,
    /// Insights in it.
    pub weight: Weight,
    /// Stretches that were dropped, in order.
    pub dropped: Vec<Dropped>,
}

impl Contents {
    /// The same as a type.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// A step from one state of a queue to the next: all of it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The sequence number that comes next from now on.
    pub next: u64,
    /// Insights and stretches that end at or before it are forgotten.
    pub forget: u64,
    /// New insights, in order.
    pub append: Vec<Stored>,
    /// Sequence numbers of insights that are dropped.
    pub remove: Vec<u64>,
    /// Stretches by their first number: as they are from now on, or gone.
    pub dropped: Vec<(u64, Option<Dropped>)>,
}

/// A disk, or what stands for one in a simulation.
pub trait Storage {
    /// What is there.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn contents(&mut self) -> Result<Contents, StorageError>;

    /// Takes a step. When it returns, the step is durable.
    ///
    /// # Errors
    /// As [`StorageError`] says; after `Unavailable` nothing has changed.
    fn commit(&mut self, change: &Change) -> Result<(), StorageError>;

    /// Up to `count` insights from `first` on, in order.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Stored>, StorageError>;

    /// Up to `count` insights from `first` on, those that matter least first, of these the oldest first.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn least(&mut self, first: u64, count: usize) -> Result<Vec<Place>, StorageError>;

    /// Insights up to the number `last`.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn weight(&mut self, last: u64) -> Result<Weight, StorageError>;

    /// Puts aside what cannot be read, and begins an empty queue with an epoch of its own.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn renew(&mut self) -> Result<(), StorageError>;
}
