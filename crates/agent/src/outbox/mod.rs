//! Insights on their way out: kept until whoever they are for has them.
//!
//! Who has something to say pushes it into a [`Handover`], in memory, and goes on. One thread takes what is there, and an
//! [`Outbox`] writes it in one step to a [`Storage`], which is [`Sqlite`]. Another thread asks for a batch, sends it, and
//! says what was acknowledged. None of it looks at a clock, so a simulation can drive it.
//!
//! Where there is too much, what matters least is dropped, the oldest first, and what was dropped is told like everything
//! else: the receiver knows exactly how much is missing.

mod handover;
mod queue;
mod sqlite;
mod storage;

pub use handover::{Handover, Slot, counts};
pub use queue::{Limits, Outbox};
pub use sqlite::Sqlite;
pub use storage::{Change, Contents, Place, Storage, StorageError, Stored, Weight};
