//! What the machine says about this process and about energy.

use std::path::Path;
use std::time::{Duration, Instant};

use espalier_runtime::energy::{Meter, Reading, cpu_seconds};

/// Readings of a meter are at least so far apart; counters wrap within an hour.
const APART: Duration = Duration::from_secs(5);

/// Resident memory of this process in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Blocks of memory from this size on go back to the system as soon as they are free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 256 << 10;

/// Tells glibc to give large blocks back, and to keep few heaps: frames and models come and go in many threads, and what its
/// heaps keep of them would add up over months.
pub(crate) fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only changes settings of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Follows what this process uses.
pub(crate) struct Machine {
    cores: usize,
    cpu: Option<f64>,
    at: Instant,
    share: f64,
    energy: Option<Energy>,
}

/// A meter and what it counted.
struct Energy {
    meter: Meter,
    last: Reading,
    at: Instant,
    joules: f64,
}

impl Machine {
    pub(crate) fn new(cores: usize) -> Machine {
        let meter = Meter::find(Path::new("/sys")).ok();
        let at = Instant::now();
        let energy =
            meter.and_then(|meter| Some(Energy { last: meter.read().ok()?, meter, at, joules: 0.0 }));
        Machine { cores, cpu: cpu_seconds(), at, share: 0.0, energy }
    }

    /// Looks again; to be called about once a second.
    pub(crate) fn look(&mut self) {
        let (now, cpu) = (Instant::now(), cpu_seconds());
        if let (Some(before), Some(after)) = (self.cpu, cpu) {
            let passed = now.duration_since(self.at).as_secs_f64().max(1e-3);
            self.share = (after - before) / passed / self.cores as f64;
        }
        (self.cpu, self.at) = (cpu, now);
        self.energy = self.energy.take().and_then(|energy| energy.look(now));
    }

    /// CPU seconds of this process, of all its threads.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        self.cpu
    }

    /// Share of the CPU time of all cores, lately.
    pub(crate) fn cpu_share(&self) -> f64 {
        self.share
    }

    /// Energy since the start in joules, of all that the meter measures, where there is one.
    pub(crate) fn joules(&self) -> Option<f64> {
        self.energy.as_ref().map(|energy| energy.joules)
    }
}

impl Energy {
    /// Nothing, once the meter fails: what was not measured is not told.
    fn look(mut self, now: Instant) -> Option<Energy> {
        if now.duration_since(self.at) >= APART.max(self.meter.turn()) {
            let reading = self.meter.read().ok()?;
            self.joules += self.meter.joules(&self.last, &reading).ok()?;
            (self.last, self.at) = (reading, now);
        }
        Some(self)
    }
}
