//! Weights on their way into the order that a kernel reads.

use std::fmt;

/// Bytes that are yet to be written: where they end up is decided when all weights of a network are known, and then they
/// are packed by all cores at once.
pub struct Packing<'a> {
    bytes: usize,
    fill: Fill<'a>,
}

type Fill<'a> = Box<dyn FnOnce(&mut [u8]) + Send + 'a>;

impl<'a> Packing<'a> {
    /// `bytes` that `fill` writes into zeros.
    pub(super) fn new(bytes: usize, fill: impl FnOnce(&mut [u8]) + Send + 'a) -> Packing<'a> {
        Packing { bytes, fill: Box::new(fill) }
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes them to `to`, which holds as many zeros. Panics where it is of another length.
    pub fn fill(self, to: &mut [u8]) {
        assert_eq!(to.len(), self.bytes, "bytes of packed weights");
        (self.fill)(to);
    }

    /// They themselves.
    pub fn to_vec(self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        self.fill(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Packing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packing of {} bytes", self.bytes)
    }
}
