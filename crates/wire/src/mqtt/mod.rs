//! A client of MQTT 5 (OASIS, 7 March 2019) for one thread: no runtime, and nothing is read that is larger than was said.
//!
//! The protocol is `mqtt-protocol-core`'s, which knows no network. [`Session`] gives it one connection's bytes and time, and
//! [`Client`] brings both from a socket. A lost connection is an error; whoever wants another one connects again, when it
//! suits.

mod client;
mod session;
mod tls;

use std::time::Duration;

pub use client::Client;
pub use session::{Event, Session};
pub use tls::Tls;

/// Bytes of the largest packet that is taken unless somebody says otherwise; the broker is told.
pub const MAX_PACKET_BYTES: u32 = 256 << 10;

/// How to speak to a broker, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name or address of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// With TLS, or without.
    pub tls: Option<Tls>,
    /// The name of this client, which no other one of the broker may have at the same time.
    pub client_id: String,
    /// User name and password.
    pub login: Option<Login>,
    /// What the broker publishes when the connection is lost.
    pub will: Option<Publication>,
    /// Without anything to say, a sign of life is sent this often; the broker takes silence for longer as the end.
    pub keep_alive: Duration,
    /// Bytes of the largest packet that is taken. A larger one ends the connection before it is read.
    pub max_packet_bytes: u32,
    /// For connecting, and for each packet to be sent.
    pub patience: Duration,
}

/// User name and password. Neither is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(***)")
    }
}

/// Something to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// At least once (QoS 1), or at most once (QoS 0).
    pub acknowledged: bool,
    /// Whether later subscribers get it too.
    pub retained: bool,
}

/// Why a connection does not come about, or ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MqttError {
    /// The network, or TLS.
    #[error("{0}")]
    Io(String),
    /// The broker does not want it.
    #[error("the broker refuses {0}")]
    Refused(String),
    /// The broker sent more than it was told that it may.
    #[error("the broker sent a packet of more than {0} bytes, which was not read")]
    TooLarge(u32),
    /// The broker does not keep to MQTT 5.
    #[error("the broker does not keep to MQTT 5: {0}")]
    Protocol(String),
    /// Nothing came within the time.
    #[error("the broker does not answer")]
    Silence,
    /// The broker closed it, or it is to be closed.
    #[error("the connection was closed")]
    Closed,
}
