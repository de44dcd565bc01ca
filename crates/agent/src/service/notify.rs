//! Tells systemd how the service is (sd_notify(3)): a datagram to the socket that it names.

use std::ffi::OsStr;
use std::time::Duration;

/// Where to tell, and how often one has to say that one is alive.
pub(super) struct Notifier {
    #[cfg(unix)]
    to: Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// By the environment that systemd gives its services; without it, nothing is told.
    pub(super) fn from_environment() -> Notifier {
        let variable = std::env::var_os;
        let usec =
            variable("WATCHDOG_USEC").and_then(|usec| usec.to_str()?.parse().ok()).filter(|usec| *usec > 0);
        let is_ours =
            variable("WATCHDOG_PID").is_none_or(|pid| pid.to_str() == Some(&std::process::id().to_string()));
        Notifier {
            #[cfg(unix)]
            to: variable("NOTIFY_SOCKET").and_then(|socket| address(&socket)),
            watchdog: usec.filter(|_| is_ours).map(Duration::from_micros),
        }
    }

    /// How often systemd wants to hear, at least, where it wants to.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells that the configuration is read again; `READY=1` tells when that is done.
    pub(super) fn reloading(&self) {
        #[cfg(unix)]
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
    }

    /// Tells a state, like `READY=1`.
    pub(super) fn tell(&self, state: &str) {
        #[cfg(unix)]
        if let Some((socket, address)) = &self.to {
            // Whether anybody listens is systemd's business.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
        #[cfg(not(unix))]
        let _ = state;
    }
}

/// Seconds and nanoseconds of the clock that never jumps, as microseconds.
#[cfg(unix)]
fn monotonic_usec() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// A path, or `@` and a name of Linux's abstract namespace.
#[cfg(unix)]
fn address(name: &OsStr) -> Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let socket = UnixDatagram::unbound().ok()?;
    let address = match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok()?
        }
        _ => SocketAddr::from_pathname(name).ok()?,
    };
    Some((socket, address))
}
