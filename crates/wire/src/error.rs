//! What can be wrong with what arrives.

/// Why something that arrived is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More than is ever sent.
    #[error("{bytes} bytes, where {limit} are the limit")]
    TooLarge {
        /// Bytes that arrived.
        bytes: usize,
        /// Bytes that are taken.
        limit: usize,
    },
    /// No JSON, or not of the form that is expected.
    #[error("{0}")]
    Json(String),
    /// What it says cannot be.
    #[error("{0}")]
    Wrong(String),
    /// It is not what was sent.
    #[error("{0} does not match its digest: it was damaged")]
    Damaged(String),
}

impl WireError {
    pub(crate) fn json(error: serde_json::Error) -> WireError {
        WireError::Json(error.to_string())
    }

    pub(crate) fn check_size(bytes: &[u8], limit: usize) -> Result<(), WireError> {
        let bytes = bytes.len();
        if bytes > limit { Err(WireError::TooLarge { bytes, limit }) } else { Ok(()) }
    }
}
