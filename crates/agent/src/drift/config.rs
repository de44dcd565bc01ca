//! What can be set of drift.

use serde::{Deserialize, Serialize};

/// Settings of a pipeline's watch for drift.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftConfig {
    /// Scenes in the window that is compared with the reference statistics, 30 to 10,000: a longer one finds smaller
    /// changes, and later.
    pub window: usize,
    /// How many false alarms 10,000 frames may bring on average, 1e-9 to 0.1.
    pub false_alarms: f64,
    /// Two frames whose 8 x 8 thumbnails correlate as much show the same scene, of which the first alone counts; 0.5 to 1;
    /// above 1, every frame counts.
    pub same_scene: f32,
}

impl Default for DriftConfig {
    fn default() -> Self {
        DriftConfig { window: 250, false_alarms: 1e-3, same_scene: 0.95 }
    }
}

/// Why drift cannot be watched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DriftError {
    /// The package holds nothing to compare with.
    #[error(
        "drift: the package holds no reference statistics; `espalier train` and `espalier compress` of this version write them, and \
         so does `espalier import --data DATA`: make the package again, or leave drift out"
    )]
    NoReference,
    /// The package looks at series, and says itself how unusual they are.
    #[error(
        "drift: the package is a detector of anomalies, whose score says how unusual what it sees is: leave drift out"
    )]
    Series,
    /// A setting that cannot be kept.
    #[error("drift: {key} is {value}, it should be {right}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What would be right.
        right: &'static str,
    },
}

impl DriftConfig {
    /// Refuses settings that cannot be kept.
    ///
    /// # Errors
    /// The first of them.
    pub fn validate(&self) -> Result<(), DriftError> {
        let check =
            |key, value: f64, range: std::ops::RangeInclusive<f64>, right| match range.contains(&value) {
                true => Ok(()),
                false => Err(DriftError::Setting { key, value, right }),
            };
        check("window", self.window as f64, 30.0..=10_000.0, "30 to 10000 scenes")?;
        check("false_alarms", self.false_alarms, 1e-9..=0.1, "1e-9 to 0.1 in 10000 frames")?;
        check("same_scene", f64::from(self.same_scene), 0.5..=2.0, "0.5 to 1, or 2 to count every frame")
    }
}
