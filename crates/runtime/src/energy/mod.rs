//! What running a plan costs in energy: measured where the machine has a meter, estimated where somebody says what a busy
//! core draws, and otherwise not told.

mod find;
mod meter;

use std::path::Path;
use std::time::{Duration, Instant};

pub use meter::{Meter, MeterError, Reading};

use crate::pool::Pool;
use crate::repeat::Repeat;

/// Each plan has so many turns.
const TURNS: usize = 3;
/// A turn has at least so many runs.
const LEAST: usize = 10;
/// How long a turn lasts where there is no meter that says it.
const ESTIMATE: Duration = Duration::from_millis(100);

/// Energy of one run, in millijoules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// By the meter: of all that it measures, whatever else that does.
    pub measured_mj: Option<f64>,
    /// By the CPU seconds of this process, times the watts of one busy core.
    pub estimate_mj: Option<f64>,
}

/// By what energy is told.
#[derive(Debug)]
pub struct Energy {
    meter: Result<Meter, String>,
    watts: Option<f64>,
}

impl Energy {
    /// The meter of this machine; `watts` are those of one busy core, for an estimate.
    pub fn here(watts: Option<f64>) -> Energy {
        Energy::at(Path::new("/sys"), watts)
    }

    /// As [`Energy::here`], of the machine whose sysfs is at `root`.
    pub fn at(root: &Path, watts: Option<f64>) -> Energy {
        Energy { meter: Meter::find(root), watts: watts.filter(|_| cpu_seconds().is_some()) }
    }

    /// Name of the meter.
    ///
    /// # Errors
    /// Why there is none.
    pub fn meter(&self) -> Result<&str, &str> {
        self.meter.as_ref().map(Meter::name).map_err(String::as_str)
    }

    /// Watts of one busy core, where they are known and CPU seconds can be counted.
    pub fn watts(&self) -> Option<f64> {
        self.watts
    }

    /// What one run of each plan costs. They take turns, each long enough for the meter, so that all see the same machine.
    /// A meter that fails is not asked again.
    pub fn per_run<const N: usize>(
        &mut self,
        mut plans: [&mut Repeat<'_>; N],
        pool: &mut Pool,
    ) -> [Spent; N] {
        let (mut sums, mut meter) = ([Sum::default(); N], self.meter.as_ref().ok());
        if meter.is_none() && self.watts.is_none() {
            return [Spent::default(); N];
        }
        let mut failure = None;
        for _ in 0..TURNS {
            for (plan, sum) in plans.iter_mut().zip(&mut sums) {
                let mut run = || {
                    plan.run(pool);
                };
                if let Err(error) = sum.turn(meter, &mut run) {
                    (meter, failure) = (None, Some(error.to_string()));
                }
            }
        }
        if let Some(meter) = meter.filter(|_| sums.iter().any(|sum| sum.joules <= 0.0)) {
            failure = Some(format!("{} stands still while the machine works", meter.name()));
        }
        if let Some(failure) = failure {
            self.meter = Err(failure);
        }
        let (is_measured, watts) = (self.meter.is_ok(), self.watts);
        sums.map(|sum| Spent {
            measured_mj: is_measured.then(|| sum.millijoules(sum.joules)),
            estimate_mj: watts.map(|watts| sum.millijoules(watts * sum.cpu_seconds)),
        })
    }
}

/// In words.
impl std::fmt::Display for Energy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.meter, self.watts) {
            (Ok(meter), _) => write!(f, "measured by {}", meter.name()),
            (Err(why), Some(watts)) => {
                write!(f, "estimated from CPU seconds, at {watts} W for a busy core (no meter: {why})")
            }
            (Err(why), None) => write!(f, "not measured: {why}"),
        }
    }
}

/// What the turns of a plan took.
#[derive(Clone, Copy, Default)]
struct Sum {
    runs: usize,
    joules: f64,
    cpu_seconds: f64,
}

impl Sum {
    fn turn(&mut self, meter: Option<&Meter>, run: &mut dyn FnMut()) -> Result<(), MeterError> {
        let (settle, turn) =
            meter.map_or((Duration::ZERO, ESTIMATE), |meter| (meter.settles(), meter.turn()));
        repeat(0, settle, run);
        let (cpu, before) = (cpu_seconds(), meter.map(Meter::read).transpose());
        self.runs += repeat(LEAST, turn, run);
        if let (Some(before), Some(after)) = (cpu, cpu_seconds()) {
            self.cpu_seconds += after - before;
        }
        if let (Some(meter), Some(before)) = (meter, before?) {
            self.joules += meter.joules(&before, &meter.read()?)?;
        }
        Ok(())
    }

    fn millijoules(&self, joules: f64) -> f64 {
        1e3 * joules / self.runs as f64
    }
}

/// Runs at least `least` times and for `time`; how often that was.
fn repeat(least: usize, time: Duration, run: &mut dyn FnMut()) -> usize {
    let (start, mut runs) = (Instant::now(), 0);
    while runs < least || start.elapsed() < time {
        run();
        runs += 1;
    }
    runs
}

/// CPU time of all threads of this process; `None` where the system does not tell.
#[cfg(unix)]
pub fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Nothing: the system does not tell.
#[cfg(not(unix))]
pub fn cpu_seconds() -> Option<f64> {
    None
}
