//! What all receivers of insights have in common.

use std::time::Duration;

use espalier_wire::{Ack, Batch};

/// What a receiver made of a batch.
pub(super) struct Outcome {
    /// What it has for good.
    pub(super) ack: Ack,
    /// Messages that it will never take.
    pub(super) rejected: u64,
}

impl Outcome {
    /// It has everything.
    pub(super) fn all(batch: &Batch) -> Outcome {
        let ack = Ack::new(batch.device.clone(), batch.epoch, batch.last, None);
        Outcome { ack, rejected: 0 }
    }
}

/// Somebody who takes batches, in a thread of his own.
pub(super) trait Receiver: Send {
    /// Hands over a batch, and waits until he has it for good. An error says why he does not; the batch comes again.
    fn deliver(&mut self, batch: &Batch) -> Result<Outcome, String>;

    /// There is nothing to hand over, for about so long.
    fn idle(&mut self, patience: Duration) -> Result<(), String> {
        std::thread::sleep(patience);
        Ok(())
    }

    /// Bytes that were sent over a network.
    fn bytes_sent(&self) -> u64 {
        0
    }

    /// Nothing will follow.
    fn close(&mut self) {}
}
