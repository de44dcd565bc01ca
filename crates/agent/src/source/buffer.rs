//! Bytes that came and were not taken yet.

use std::ops::Deref;

/// A row of bytes that grows at its end and is taken from its beginning, both without moving the rest.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops the first `size` bytes.
    pub(super) fn skip(&mut self, size: usize) {
        self.start += size.min(self.len());
    }

    /// Takes the first `size` bytes.
    pub(super) fn take(&mut self, size: usize) -> Vec<u8> {
        let taken = self[..size].to_vec();
        self.skip(size);
        taken
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
