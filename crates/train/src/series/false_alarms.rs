//! How many false alarms are wanted at most.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Units and their seconds.
const TIMES: [(&str, f64); 5] = [
    ("hour", 3_600.0),
    ("day", 86_400.0),
    ("week", 604_800.0),
    ("month", 2_592_000.0),
    ("year", 31_536_000.0),
];
/// What is wanted of series that do not tell the time, where nobody says it.
const ROWS: f64 = 10_000.0;

/// False alarms in a time, or in a number of rows: `1/week`, `3/day`, `1/10000rows`. A month has 30 days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FalseAlarms {
    text: String,
    count: f64,
    per: Per,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Per {
    Seconds(f64),
    Rows(f64),
}

impl FalseAlarms {
    /// What is wanted where nobody says it: one in a month, or in 10,000 rows where they do not tell the time.
    pub fn usual(tells_time: bool) -> FalseAlarms {
        let text = if tells_time { "1/month".to_owned() } else { format!("1/{ROWS}rows") };
        text.parse().expect("it is one")
    }

    /// The share of rows that may begin a false alarm; `interval` are the seconds from one row to the next.
    ///
    /// # Errors
    /// A time for rows that do not tell it; a share above one.
    pub fn per_row(&self, interval: Option<f64>) -> Result<f64, String> {
        let share = match (self.per, interval) {
            (Per::Rows(rows), _) => self.count / rows,
            (Per::Seconds(seconds), Some(interval)) => self.count * interval / seconds,
            (Per::Seconds(_), None) => {
                return Err(format!(
                    "{self}: the series does not tell the time; say it in rows, like 1/10000rows"
                ));
            }
        };
        match share {
            share if share <= 0.1 => Ok(share),
            share => {
                Err(format!("{self}: that is one in {:.1} rows; at most one in 10 is possible", 1.0 / share))
            }
        }
    }
}

impl fmt::Display for FalseAlarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<FalseAlarms> for String {
    fn from(wanted: FalseAlarms) -> String {
        wanted.text
    }
}

impl TryFrom<String> for FalseAlarms {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for FalseAlarms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: it should be like 1/week, 3/day or 1/10000rows");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let number =
            |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(wrong);
        let per = match per.strip_suffix("rows") {
            Some(rows) => Per::Rows(number(rows)?),
            None => {
                let known = TIMES.iter().find(|(unit, _)| *unit == per);
                Per::Seconds(known.ok_or_else(wrong)?.1)
            }
        };
        Ok(FalseAlarms { text: text.to_owned(), count: number(count)?, per })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_what_is_none() {
        let share =
            |text: &str, interval| text.parse::<FalseAlarms>().and_then(|wanted| wanted.per_row(interval));
        assert_eq!(share("1/week", Some(300.0)), Ok(300.0 / 604_800.0));
        assert_eq!(share("2/day", Some(86.4)), Ok(0.002));
        assert_eq!(share("1/10000rows", None), Ok(1e-4));
        for (text, words) in [
            ("1", "should be like"),
            ("x/day", "should be like"),
            ("0/day", "should be like"),
            ("-1/day", "should be like"),
            ("1/fortnight", "should be like"),
            ("1/0rows", "should be like"),
            ("1/2rows", "one in 2.0 rows"),
            ("1/day", "does not tell the time"),
        ] {
            let error = share(text, None).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let usual = FalseAlarms::usual(true);
        assert_eq!(serde_json::to_string(&usual).unwrap(), "\"1/month\"");
        assert_eq!(serde_json::from_str::<FalseAlarms>("\"1/month\"").unwrap(), usual);
        assert_eq!(FalseAlarms::usual(false).per_row(None), Ok(1e-4));
    }
}
