//! Times and sizes on the command line.

use crate::exit::usage;

/// `50ms`, `90s`, `10m`, `2h` or plain seconds.
pub(crate) fn seconds(flag: &str, text: &str) -> anyhow::Result<f64> {
    const UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let value = parse(text, &UNITS, 1.0).filter(|v| (1e-6..=1e9).contains(v));
    value.ok_or_else(|| usage(format!("{flag} {text}: it should be like 2ms, 90s, 10m or 2h")))
}

/// `5mJ`, `200uJ` or plain joules, in millijoules.
pub(crate) fn millijoules(flag: &str, text: &str) -> anyhow::Result<f64> {
    const UNITS: [(&str, f64); 3] = [("uJ", 1e-3), ("mJ", 1.0), ("J", 1e3)];
    let value = parse(text, &UNITS, 1e3).filter(|v| (1e-6..=1e9).contains(v));
    value.ok_or_else(|| usage(format!("{flag} {text}: it should be like 5mJ or 0.2J")))
}

/// `200KB`, `4MB` or plain bytes, to the next byte below.
pub(crate) fn bytes(flag: &str, text: &str) -> anyhow::Result<u64> {
    const UNITS: [(&str, f64); 4] = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
    let value = parse(text, &UNITS, 1.0).filter(|v| (1.0..=1e15).contains(v));
    let value = value.ok_or_else(|| usage(format!("{flag} {text}: it should be like 200KB or 4MB")))?;
    Ok(value as u64)
}

fn parse(text: &str, units: &[(&str, f64)], plain: f64) -> Option<f64> {
    let with_unit = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = with_unit.unwrap_or((text, plain));
    number.trim().parse::<f64>().ok().map(|v| v * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        let times =
            [("50us", 5e-5), ("2ms", 2e-3), ("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("7", 7.0)];
        for (text, want) in times {
            let got = seconds("--t", text).unwrap();
            assert!((got - want).abs() < 1e-12, "{text}: {got}");
        }
        let sizes =
            [("200KB", 200_000), ("1.5MB", 1_500_000), ("1GB", 1_000_000_000), ("12B", 12), ("12", 12)];
        for (text, want) in sizes {
            assert_eq!(bytes("--s", text).unwrap(), want, "{text}");
        }
        for text in ["", "KB", "-1KB", "1e99", "nan", "2 days", "0"] {
            assert!(bytes("--s", text).unwrap_err().to_string().starts_with(&format!("--s {text}: ")));
        }
        for (text, want) in [("5mJ", 5.0), ("200uJ", 0.2), ("0.2J", 200.0), ("2", 2000.0)] {
            assert!((millijoules("--e", text).unwrap() - want).abs() < 1e-12, "{text}");
        }
        assert!(millijoules("--e", "5 W").is_err() && millijoules("--e", "0mJ").is_err());
        for text in ["", "s", "-5s", "0", "inf"] {
            assert!(seconds("--t", text).is_err(), "{text}");
        }
    }
}
