//! How damage on the way, in memory or on a disk, is noticed.

use std::fmt;

use crc::{CRC_32_ISCSI, Crc};
use serde::{Deserialize, Serialize};

use crate::{Device, Epoch, Priority, WireError};

static CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// CRC-32C (RFC 3720, appendix B.4), as text eight hexadecimal digits. It finds every burst of up to 32 bits, so every
/// flipped bit. It is no protection from malice: that is TLS's part, and the broker's, which knows who may write to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub u32);

impl Digest {
    /// That of `parts`, one after another.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        let mut sum = CASTAGNOLI.digest();
        parts.into_iter().for_each(|part| sum.update(part));
        Digest(sum.finalize())
    }

    /// That of an insight at its place: of the lines `device`, `epoch`, `sequence`, `priority`, and of its JSON.
    pub fn of_insight(
        device: &Device,
        epoch: Epoch,
        sequence: u64,
        priority: Priority,
        json: &str,
    ) -> Digest {
        let head = format!("{device}\n{epoch}\n{sequence}\n{}\n", priority.name());
        Digest::of([head.as_bytes(), json.as_bytes()])
    }
}

impl TryFrom<String> for Digest {
    type Error = WireError;

    fn try_from(text: String) -> Result<Digest, WireError> {
        match u32::from_str_radix(&text, 16) {
            Ok(number) if Digest(number).to_string() == text => Ok(Digest(number)),
            _ => Err(WireError::Wrong("a digest is eight hexadecimal digits, in lower case".into())),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
    #[test]
    fn the_known_value() {
        assert_eq!(Digest::of([&b"1234"[..], b"56789"]).to_string(), "e3069283");
    }
}
