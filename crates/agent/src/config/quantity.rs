//! Times and sizes as people write them.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A span of time: `"200ms"`, `"30s"`, `"10m"`; more than nothing, at most 10 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A size: `"200KB"`, `"32MB"` (KB = 1000 bytes), or a number of bytes; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const UNITS: [(&str, f64); 4] = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];

impl std::str::FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Time, Self::Err> {
        let time = humantime::parse_duration(text).ok().filter(|time| !time.is_zero() && *time <= LONGEST);
        time.map(Time).ok_or("it should be a time like \"200ms\", \"30s\", \"10m\" or \"2h\"")
    }
}

impl std::str::FromStr for Bytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Bytes, Self::Err> {
        let with_unit = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) = with_unit.unwrap_or((text, 1.0));
        let bytes = number.trim().parse::<f64>().ok().map(|number| number * unit);
        let bytes = bytes.filter(|bytes| (1.0..=1e15).contains(bytes));
        bytes.map(|bytes| Bytes(bytes as u64)).ok_or("it should be a size like \"200KB\", \"32MB\" or 4096")
    }
}

/// As it is written.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// In the largest unit that leaves no rest.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1000)];
        match units.into_iter().find(|(_, unit)| self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

struct Parsed<T>(&'static str, std::marker::PhantomData<T>);

impl<T: std::str::FromStr<Err = &'static str>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        deserializer.deserialize_any(Parsed("a time like \"200ms\" or \"30s\"", std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(Parsed("a size like \"32MB\" or 4096", std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        let time = |text: &str| text.parse::<Time>().map(|time| time.0.as_secs_f64());
        for (text, seconds) in
            [("50us", 5e-5), ("2ms", 2e-3), ("90s", 90.0), ("10m", 600.0), ("1h 30m", 5400.0)]
        {
            assert_eq!(time(text), Ok(seconds), "{text}");
        }
        for text in ["", "0s", "5", "-5s", "5 parsecs", "99999y", "1e9999s"] {
            assert!(time(text).unwrap_err().contains("200ms"), "{text}");
        }
        for (text, bytes) in [("200KB", 200_000), ("1.5MB", 1_500_000), ("12B", 12), ("12", 12)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "KB", "-1KB", "1e99", "nan", "0"] {
            assert!(text.parse::<Bytes>().unwrap_err().contains("32MB"), "{text}");
        }
        assert_eq!((Bytes(32_000_000).to_string(), Bytes(1001).to_string()), ("32MB".into(), "1001B".into()));
        assert_eq!(Time(Duration::from_millis(200)).to_string(), "200ms");
    }
}
