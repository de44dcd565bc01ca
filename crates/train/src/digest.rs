//! SHA-256 as files and settings name it.

use sha2::{Digest, Sha256};

/// That of `bytes`, in hexadecimal digits.
pub(crate) fn of(bytes: impl AsRef<[u8]>) -> String {
    finish(Sha256::new_with_prefix(bytes))
}

/// That of what `hash` was given, in hexadecimal digits.
pub(crate) fn finish(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
