//! Signals, as the main loop hears them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a signal asks for.
pub(super) struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    #[cfg(unix)]
    woken: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Signals {
    /// SIGTERM and SIGINT ask for the end, a second time for the end at once; SIGHUP asks for the configuration to be read
    /// again.
    pub(super) fn listen() -> std::io::Result<Signals> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let (stop, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (woken, waker) = std::os::unix::net::UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
            signal_hook::flag::register(signal, stop.clone())?;
        }
        signal_hook::flag::register(SIGHUP, reload.clone())?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Signals { stop, reload, woken })
    }

    /// Waits up to `time` for a signal.
    pub(super) fn wait(&mut self, time: Duration) {
        use std::io::Read;
        let time = time.max(Duration::from_millis(1));
        if self.woken.set_read_timeout(Some(time)).is_ok() {
            let _ = self.woken.read(&mut [0; 16]);
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Ctrl-C asks for the end.
    pub(super) fn listen() -> std::io::Result<Signals> {
        let (stop, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone())?;
        Ok(Signals { stop, reload })
    }

    /// Waits for `time`.
    pub(super) fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl Signals {
    /// Whether the end is wanted.
    pub(super) fn wants_end(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the configuration is to be read again; once for each time.
    pub(super) fn wants_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}
