//! What a compressed package may cost, and how far a candidate is from that.

use std::collections::BTreeMap;

use espalier_tasks::Metric;
use serde::{Deserialize, Serialize};

/// What a compressed package may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// How much worse the primary metric on val may be, absolutely.
    pub max_drop: f64,
    /// Largest file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// Longest median latency of one input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// Most energy of one answer, in millijoules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_energy_mj: Option<f64>,
}

/// Without a budget: one point of the metric.
pub const DEFAULT_DROP: f64 = 0.01;

impl Default for Budget {
    fn default() -> Self {
        Budget { max_drop: DEFAULT_DROP, max_size_bytes: None, max_latency_ms: None, max_energy_mj: None }
    }
}

/// What was measured of a package.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// On val, with the plan that a device runs.
    pub metrics: BTreeMap<String, f64>,
    /// Of the file.
    pub size_bytes: u64,
    /// Median latency of one input; `None` where it was not timed.
    pub p50_ms: Option<f64>,
    /// Of one input, by the machine's meter; `None` where there is none, or it was not timed.
    pub energy_mj: Option<f64>,
    /// The same by CPU seconds, where the watts of a busy core are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_mj_estimate: Option<f64>,
}

impl Figures {
    /// Nothing is known yet of what one answer takes.
    pub(super) fn untimed(metrics: BTreeMap<String, f64>, size_bytes: u64) -> Figures {
        Figures { metrics, size_bytes, p50_ms: None, energy_mj: None, energy_mj_estimate: None }
    }

    /// Energy in millijoules, measured where it can be; and whether it is an estimate.
    pub fn energy(&self) -> Option<(f64, bool)> {
        let estimate = self.energy_mj_estimate.map(|mj| (mj, true));
        self.energy_mj.map(|mj| (mj, false)).or(estimate)
    }

    /// How much worse the metric is than `before`'s; negative where it is better.
    pub fn drop(&self, before: &Figures, metric: Metric) -> f64 {
        let fall = before.metrics[metric.name] - self.metrics[metric.name];
        if metric.higher_is_better { fall } else { -fall }
    }
}

/// A part of the budget that is not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Excess {
    /// In words.
    pub reason: String,
    /// By how many times what is allowed.
    pub times: f64,
    /// Whether it is the metric that fell too far.
    pub is_drop: bool,
}

/// Differences of metrics that are only rounding.
const ROUNDING: f64 = 1e-9;

impl Budget {
    /// What of the budget `figures` do not keep.
    pub fn excesses(&self, figures: &Figures, before: &Figures, metric: Metric) -> Vec<Excess> {
        let mut all = Vec::new();
        let drop = figures.drop(before, metric);
        if drop > self.max_drop + ROUNDING {
            let (name, allowed) = (metric.name, self.max_drop);
            all.push(Excess {
                reason: format!("{name} falls by {drop:.4}, at most {allowed} is allowed"),
                times: drop / allowed.max(1e-3),
                is_drop: true,
            });
        }
        if let Some(allowed) = self.max_size_bytes.filter(|&allowed| figures.size_bytes > allowed) {
            all.push(Excess {
                reason: format!("the file has {} bytes, at most {allowed} are allowed", figures.size_bytes),
                times: figures.size_bytes as f64 / allowed.max(1) as f64,
                is_drop: false,
            });
        }
        if let (Some(allowed), Some(p50)) = (self.max_latency_ms, figures.p50_ms)
            && p50 > allowed
        {
            all.push(Excess {
                reason: format!("one answer takes {p50:.3} ms, at most {allowed} ms are allowed"),
                times: p50 / allowed,
                is_drop: false,
            });
        }
        if let (Some(allowed), Some((mj, is_estimate))) = (self.max_energy_mj, figures.energy())
            && mj > allowed
        {
            let by = if is_estimate { " by estimate" } else { "" };
            all.push(Excess {
                reason: format!("one answer takes {mj:.3} mJ{by}, at most {allowed} mJ are allowed"),
                times: mj / allowed,
                is_drop: false,
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(accuracy: f64, size_bytes: u64, p50_ms: f64) -> Figures {
        let metrics = BTreeMap::from([("accuracy".into(), accuracy)]);
        Figures { p50_ms: Some(p50_ms), ..Figures::untimed(metrics, size_bytes) }
    }

    fn check(budget: Budget, after: Figures, higher_is_better: bool, want: &[&str]) {
        let metric = Metric { name: "accuracy", higher_is_better };
        let all = budget.excesses(&after, &figures(0.9, 1000, 2.0), metric);
        assert_eq!(all.len(), want.len(), "{all:?}");
        for (excess, want) in all.iter().zip(want) {
            assert!(excess.reason.contains(want) && excess.times > 1.0, "{excess:?} should say {want}");
        }
    }

    #[test]
    fn each_part_is_named() {
        check(Budget::default(), figures(0.89, 9000, 9.0), true, &[]);
        check(Budget::default(), figures(0.95, 1, 1.0), true, &[]);
        check(Budget::default(), figures(0.95, 1, 1.0), false, &["accuracy falls by 0.05"]);
        let strict = Budget {
            max_drop: 0.0,
            max_size_bytes: Some(500),
            max_latency_ms: Some(1.5),
            max_energy_mj: Some(5.0),
        };
        let want = ["falls by 0.1000, at most 0 is", "600 bytes, at most 500", "1.600 ms, at most 1.5 ms"];
        check(strict.clone(), figures(0.8, 600, 1.6), true, &want);
        let kept = figures(0.9, 400, 1.4);
        let measured = Figures { energy_mj: Some(6.0), energy_mj_estimate: Some(4.0), ..kept.clone() };
        check(strict.clone(), measured, true, &["6.000 mJ, at most 5 mJ"]);
        let estimated = Figures { energy_mj_estimate: Some(7.0), ..kept.clone() };
        check(strict.clone(), estimated, true, &["7.000 mJ by estimate, at most 5 mJ"]);
        check(strict, Figures { energy_mj: Some(4.0), energy_mj_estimate: Some(6.0), ..kept }, true, &[]);
    }
}
