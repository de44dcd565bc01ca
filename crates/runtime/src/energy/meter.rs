//! Reading a meter, and what two readings say.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An energy meter of a Linux machine.
#[derive(Debug)]
pub struct Meter {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// How it tells energy.
#[derive(Debug)]
pub(super) enum Kind {
    /// Counters that run on; their sum counts.
    Counters(Vec<Counter>),
    /// Powers, from which energy follows by time; their sum counts.
    Powers { powers: Vec<Power>, settles: Duration },
}

/// A counter of microjoules.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) path: PathBuf,
    /// The greatest number that it shows, after which it begins at 0.
    pub(super) range: Option<u64>,
}

/// A power: the product of some files, in units of `watts`.
#[derive(Debug)]
pub(super) struct Power {
    pub(super) factors: Vec<PathBuf>,
    pub(super) watts: f64,
    /// Of a battery, which tells nothing once it no longer says `Discharging`.
    pub(super) status: Option<PathBuf>,
}

/// A meter that does not work, in a sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MeterError(pub(super) String);

/// What a meter said, and when.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    /// Microjoules of counters.
    counts: Vec<u64>,
    /// Watts of all powers.
    watts: f64,
}

impl Meter {
    /// What it is, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it takes until it shows what the machine does now.
    pub fn settles(&self) -> Duration {
        match &self.kind {
            Kind::Counters(_) => Duration::ZERO,
            Kind::Powers { settles, .. } => *settles,
        }
    }

    /// How far apart readings should be. RAPL counts once in a millisecond.
    pub fn turn(&self) -> Duration {
        self.settles().max(Duration::from_millis(100))
    }

    /// What it says now.
    ///
    /// # Errors
    /// A file that is gone, cannot be read or holds no number; a battery that is no longer discharging.
    pub fn read(&self) -> Result<Reading, MeterError> {
        let (mut counts, mut watts) = (Vec::new(), 0.0);
        match &self.kind {
            Kind::Counters(counters) => {
                counts = counters.iter().map(Counter::read).collect::<Result<_, _>>()?;
            }
            Kind::Powers { powers, .. } => {
                watts = powers.iter().map(Power::read).sum::<Result<f64, _>>()?;
            }
        }
        Ok(Reading { at: Instant::now(), counts, watts })
    }

    /// Energy between two readings, in joules.
    ///
    /// # Errors
    /// A counter without a range that went back.
    pub fn joules(&self, from: &Reading, to: &Reading) -> Result<f64, MeterError> {
        match &self.kind {
            Kind::Counters(counters) => {
                let readings = from.counts.iter().zip(&to.counts);
                let each = counters.iter().zip(readings).map(|(counter, (&a, &b))| counter.between(a, b));
                Ok(each.sum::<Result<u64, _>>()? as f64 / 1e6)
            }
            Kind::Powers { .. } => Ok((from.watts + to.watts) / 2.0 * (to.at - from.at).as_secs_f64()),
        }
    }
}

impl Counter {
    fn read(&self) -> Result<u64, MeterError> {
        let count = number::<u64>(&self.path)?;
        match self.range {
            Some(range) if count > range => Err(MeterError(format!(
                "{} says {count}, which is beyond its range of {range}",
                self.path.display()
            ))),
            _ => Ok(count),
        }
    }

    fn between(&self, from: u64, to: u64) -> Result<u64, MeterError> {
        match (to.checked_sub(from), self.range) {
            (Some(counted), _) => Ok(counted),
            // From the greatest number it is one step to 0.
            (None, Some(range)) => Ok(range - from + 1 + to),
            (None, None) => Err(MeterError(format!("{} went back from {from} to {to}", self.path.display()))),
        }
    }
}

impl Power {
    fn read(&self) -> Result<f64, MeterError> {
        if let Some(status) = &self.status
            && text(status)? != "Discharging"
        {
            return Err(MeterError(format!("{} no longer says Discharging", status.display())));
        }
        // Some batteries show what flows out as negative.
        let factors = self.factors.iter().map(|path| number::<i64>(path).map(|n| n as f64));
        Ok(factors.product::<Result<f64, _>>()?.abs() * self.watts)
    }
}

/// What a file of sysfs says.
pub(super) fn text(path: &Path) -> Result<String, MeterError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| MeterError(format!("{} cannot be read: {error}", path.display())))?;
    Ok(text.trim().into())
}

pub(super) fn number<T: std::str::FromStr>(path: &Path) -> Result<T, MeterError> {
    let text = text(path)?;
    text.parse().map_err(|_| {
        let start: String = text.chars().take(20).collect();
        MeterError(format!("{} says {start:?}, which should be a whole number", path.display()))
    })
}
