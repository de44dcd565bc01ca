//! What can be set of rules and smoothing.

use serde::{Deserialize, Serialize};

use super::zone::{Anchor, Zone};

/// A rule: what a pipeline is to report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name in events.
    pub name: String,
    /// It is about things with one of these labels; without labels, with any.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Only what is at least as sure counts: a confidence, or the score of an anomaly.
    #[serde(default)]
    pub confidence: f64,
    /// Only boxes that stand in it count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Which point of a box has to be in the zone.
    #[serde(default)]
    pub anchor: Anchor,
    /// How many there have to be, at once or within `within_s`; at least 1.
    #[serde(default = "one")]
    pub count: u64,
    /// Counts those that appear within so many seconds, instead of those that are there at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_s: Option<f64>,
    /// Reports each change of the label, which begins and ends by itself: for classifiers.
    #[serde(default)]
    pub change: bool,
    /// It begins once it has held for so many seconds.
    #[serde(default)]
    pub hold_s: f64,
    /// It ends once it has not held for so many seconds: shorter gaps do not count.
    #[serde(default)]
    pub release_s: f64,
    /// After its end it does not begin again for so many seconds.
    #[serde(default)]
    pub cooldown_s: f64,
    /// Smooths what is said of single frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smooth: Option<SmoothConfig>,
}

/// Smoothing over frames. Labels are smoothed by their scores, boxes by their number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmoothConfig {
    /// How.
    pub method: Method,
    /// Over so many frames; or else over `span_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<usize>,
    /// Over so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_s: Option<f64>,
}

/// How frames are smoothed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// What most of the frames say; of boxes, the median of their number.
    Majority,
    /// An exponentially weighted mean: a frame counts 2/(K+1) of `frames` K (Roberts 1959), or as much as its share of
    /// `span_s`.
    Exponential,
}

fn one() -> u64 {
    1
}

/// Why rules are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rule {rule:?}: {reason}")]
pub struct RuleError {
    /// Its name.
    pub rule: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Longest time that can be set, in seconds: a week.
const SECONDS_MAX: f64 = 7.0 * 86_400.0;

/// Most frames that are smoothed over, and most seconds.
const FRAMES_MAX: usize = 1000;
const SPAN_MAX: f64 = 3600.0;

impl RuleConfig {
    /// A rule that holds whenever anything is there.
    pub fn new(name: &str) -> RuleConfig {
        RuleConfig {
            name: name.into(),
            labels: Vec::new(),
            confidence: 0.0,
            zone: None,
            anchor: Anchor::default(),
            count: 1,
            within_s: None,
            change: false,
            hold_s: 0.0,
            release_s: 0.0,
            cooldown_s: 0.0,
            smooth: None,
        }
    }

    /// Refuses what cannot be kept; `labels` are the task's.
    ///
    /// # Errors
    /// The first fault, with what would be right.
    pub fn validate(&self, labels: &[String]) -> Result<(), RuleError> {
        self.fault(labels).map_err(|reason| RuleError { rule: self.name.clone(), reason })
    }

    fn fault(&self, labels: &[String]) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > 100 {
            return Err("a name has 1 to 100 bytes".into());
        }
        if let Some(unknown) = self.labels.iter().find(|label| !labels.contains(label)) {
            let some: Vec<&str> = labels.iter().take(20).map(String::as_str).collect();
            return Err(format!("labels: the model knows no {unknown:?}; it knows {}", some.join(", ")));
        }
        seconds("hold_s", Some(self.hold_s), 0.0)?;
        seconds("release_s", Some(self.release_s), 0.0)?;
        seconds("cooldown_s", Some(self.cooldown_s), 0.0)?;
        seconds("within_s", self.within_s, 1e-3)?;
        if !(self.confidence >= 0.0 && self.confidence.is_finite()) {
            return Err(format!("confidence is {}, it should be 0 or more", self.confidence));
        }
        if !(1..=100_000).contains(&self.count) {
            return Err(format!("count is {}, it should be 1 to 100000", self.count));
        }
        if self.change && (self.count > 1 || self.within_s.is_some() || self.zone.is_some()) {
            return Err("change is about the label of a frame: it has no count, within_s or zone".into());
        }
        self.zone.as_ref().map_or(Ok(()), Zone::validate)?;
        self.smooth.as_ref().map_or(Ok(()), SmoothConfig::validate)
    }
}

fn seconds(key: &str, value: Option<f64>, least: f64) -> Result<(), String> {
    match value {
        Some(value) if !(least..=SECONDS_MAX).contains(&value) => {
            Err(format!("{key} is {value}, it should be {least} to {SECONDS_MAX} seconds"))
        }
        _ => Ok(()),
    }
}

impl SmoothConfig {
    /// Refuses what cannot be kept.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), String> {
        match (self.frames, self.span_s) {
            (Some(frames), None) if (1..=FRAMES_MAX).contains(&frames) => Ok(()),
            (None, Some(span)) if span > 0.0 && span <= SPAN_MAX => Ok(()),
            (Some(frames), None) => {
                Err(format!("smooth: frames is {frames}, it should be 1 to {FRAMES_MAX}"))
            }
            (None, Some(span)) => {
                Err(format!("smooth: span_s is {span}, it should be above 0, to {SPAN_MAX}"))
            }
            _ => Err("smooth: it takes frames or span_s, one of them".into()),
        }
    }
}
