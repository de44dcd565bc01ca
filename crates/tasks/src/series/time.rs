//! Stamps of time as files and sensors write them.

/// Numbers from here on are milliseconds: as seconds they would be in the year 5138.
const MILLISECONDS: f64 = 1e11;

/// Seconds since 1970 of a stamp: a date with or without a time (ISO 8601, `T` or a space between, a zone or none, which
/// means UTC), or a number, which is in seconds or, where it is that large, milliseconds.
pub fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) if !number.is_finite() => None,
        Ok(number) if number.abs() >= MILLISECONDS => Some(number / 1e3),
        Ok(number) => Some(number),
        Err(_) => date(text),
    }
}

fn date(text: &str) -> Option<f64> {
    let (day, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "00:00:00"),
    };
    let separator = if day.contains('/') { '/' } else { '-' };
    let [year, month, day] = integers(day, separator)?;
    let in_range = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let (clock, zone) = clock_and_zone(rest.trim())?;
    in_range.then(|| days_since_1970(year, month, day) as f64 * 86_400.0 + clock - zone)
}

/// Seconds of the day, and those that the zone is ahead of UTC.
fn clock_and_zone(text: &str) -> Option<(f64, f64)> {
    let (clock, zone) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) if text[at..].eq_ignore_ascii_case("z") => (&text[..at], 0.0),
        Some(at) => {
            let [hours, minutes] = integers(&text[at + 1..], ':')?;
            let ahead = (hours * 60 + minutes) as f64 * 60.0;
            (&text[..at], if text[at..].starts_with('-') { -ahead } else { ahead })
        }
        None => (text, 0.0),
    };
    let mut parts = clock.trim().split(':');
    let (hours, minutes) = (integer(parts.next()?)?, integer(parts.next()?)?);
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let is_clock = hours < 24 && minutes < 60 && (0.0..61.0).contains(&seconds) && parts.next().is_none();
    is_clock.then_some(((hours * 60 + minutes) as f64 * 60.0 + seconds, zone))
}

fn integers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let parts: Vec<i64> = text.split(separator).map(integer).collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn integer(text: &str) -> Option<i64> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// Days of the proleptic Gregorian calendar, by months that begin in March so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_and_their_seconds() {
        let check = |text: &str, expected: f64| assert_eq!(seconds(text), Some(expected), "{text}");
        check("1970-01-01 00:00:00", 0.0);
        check("2014-04-10 00:04:00", 1_397_088_240.0);
        check("2000-02-29T23:59:59.5Z", 951_868_799.5);
        check("2024-03-01", 1_709_251_200.0);
        check("2026/11/30 12:00", 1_796_040_000.0);
        check("2026-11-30T12:00:00+02:00", 1_796_032_800.0);
        check("2026-11-30T12:00:00-02:30", 1_796_049_000.0);
        check(" 17.25 ", 17.25);
        check("1397088240", 1_397_088_240.0);
        check("1397088240123", 1_397_088_240.123);
        check("1969-12-31 23:59:59", -1.0);
    }

    #[test]
    fn what_is_no_stamp() {
        for text in [
            "",
            "NaN",
            "inf",
            "2014-13-01",
            "2014-00-10",
            "2014-04-10 24:00:00",
            "2014-04-10 1:2:3:4",
            "a-b-c",
            "12:00",
            "2014-04-10 12:00:00+2",
            "2014-04-10T",
            "99999-01-01",
            "2014-04-10 é",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
