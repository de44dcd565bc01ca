//! What a device has to say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One thing that a pipeline has to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Insight {
    /// The pipeline's name in the device's configuration.
    pub pipeline: String,
    /// Milliseconds since 1970 by the device's clock, which may be wrong; order is told by sequence numbers, not by it.
    pub time_ms: u64,
    /// What it is about.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What an insight is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A rule of the configuration began or ceased to hold.
    Event {
        /// The rule's name.
        rule: String,
        /// What became of it.
        state: State,
        /// The label that it is about, where it is about one.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// The highest confidence, or score of an anomaly, while it held.
        #[serde(skip_serializing_if = "Option::is_none")]
        confidence: Option<f64>,
        /// The number of things that it counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
        /// How long it has held.
        duration_ms: u64,
    },
    /// What was seen within a span of time.
    Aggregate {
        /// Length of the span.
        span_ms: u64,
        /// Frames of the span, by what became of them.
        frames: Frames,
        /// Frames (of classifiers) or things (of detectors) by label.
        labels: BTreeMap<String, u64>,
        /// Mean confidence of the answers; none without answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        confidence: Option<f64>,
        /// How many answers were right, where the source tells what is truly in its frames.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        truth: Option<Right>,
    },
    /// What the pipeline sees is no longer what its model was trained on, or is so again.
    Drift {
        /// What became of it.
        state: State,
        /// The statistic that says so: `class-mix`, `confidence`, `brightness`, ... (docs/drift.md lists them).
        statistic: String,
        /// The test's value.
        value: f64,
        /// The value from which on it is drift.
        threshold: f64,
        /// Frames that were looked at until then, since the package answers.
        #[serde(default)]
        frames: u64,
    },
    /// A raw frame that the configuration asks for.
    HardSample {
        /// Why it was chosen: `uncertain`, `novel`, `random`.
        reason: String,
        /// Name and SHA-256 of its file.
        file: String,
        /// Bytes of the file.
        bytes: u64,
        /// The answer to it, as `espalier predict --json` has it.
        answer: serde_json::Map<String, serde_json::Value>,
    },
    /// How the pipeline is.
    Health {
        /// Whether its source gives frames.
        source: String,
        /// The counters, by the names that `/metrics` has for them.
        counters: BTreeMap<String, f64>,
    },
}

/// What became of something that holds for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It begins to hold.
    Begins,
    /// It has ended.
    Ends,
}

/// Frames by what became of them: `seen = processed + skipped + broken`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Frames that the source gave.
    pub seen: u64,
    /// Those with an answer.
    pub processed: u64,
    /// Those that nobody looked at, because newer ones were there.
    pub skipped: u64,
    /// Those without a picture or row.
    pub broken: u64,
}

/// Answers of frames of which the truth is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    /// All of them.
    pub known: u64,
    /// Those that say it.
    pub right: u64,
}

/// What is given up first where a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Hard samples.
    Low,
    /// Aggregates and health.
    Normal,
    /// Events and drift.
    High,
}

impl Priority {
    /// All, what is given up first at the front.
    pub const ALL: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }
}

impl Insight {
    /// How much it matters.
    pub fn priority(&self) -> Priority {
        match self.kind {
            Kind::HardSample { .. } => Priority::Low,
            Kind::Aggregate { .. } | Kind::Health { .. } => Priority::Normal,
            Kind::Event { .. } | Kind::Drift { .. } => Priority::High,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_stable() {
        let kind = Kind::Event {
            rule: "person".into(),
            state: State::Begins,
            label: Some("person".into()),
            confidence: Some(0.5),
            count: None,
            duration_ms: 400,
        };
        let insight = Insight { pipeline: "gate".into(), time_ms: 1, kind };
        let text = r#"{"pipeline":"gate","time_ms":1,"kind":"event","rule":"person","state":"begins","label":"person","confidence":0.5,"duration_ms":400}"#;
        assert_eq!(serde_json::to_string(&insight).unwrap(), text);
        assert_eq!(serde_json::from_str::<Insight>(text).unwrap(), insight);
        assert_eq!(insight.priority(), Priority::High);
    }
}
