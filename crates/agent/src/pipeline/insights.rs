//! What a pipeline makes of its answers. Rules, aggregates and what else there is have their place here.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_wire::Kind;

use super::Seen;
use crate::config::{Fault, PipelineConfig};
use crate::moment::Moment;
use crate::show::Health;

/// Makes insights of the answers of one pipeline.
pub(crate) struct Insights {
    health: HealthReports,
}

impl Insights {
    /// For answers with these labels.
    ///
    /// # Errors
    /// What the configuration asks for and the labels do not have.
    pub(crate) fn new(config: &PipelineConfig, _labels: &[String]) -> Result<Insights, Fault> {
        Ok(Insights { health: HealthReports::new(config.health.0) })
    }

    /// What an answer gives rise to.
    pub(crate) fn frame(&mut self, _at: Moment, _seen: &Seen<'_>) -> Vec<Kind> {
        Vec::new()
    }

    /// What time alone gives rise to.
    pub(crate) fn tick(
        &mut self,
        at: Moment,
        health: Health,
        counters: impl FnOnce() -> BTreeMap<String, f64>,
    ) -> Vec<Kind> {
        self.health.tick(at, health, counters).into_iter().collect()
    }
}

/// Says how a source is: at once when that changes, and again and again.
struct HealthReports {
    every: Duration,
    last: Option<(Duration, Health)>,
}

impl HealthReports {
    fn new(every: Duration) -> HealthReports {
        HealthReports { every, last: None }
    }

    fn tick(
        &mut self,
        at: Moment,
        health: Health,
        counters: impl FnOnce() -> BTreeMap<String, f64>,
    ) -> Option<Kind> {
        let now = at.since_start;
        let same =
            |(last, before): (Duration, Health)| before == health && now.saturating_sub(last) < self.every;
        if self.last.is_some_and(same) {
            return None;
        }
        self.last = Some((now, health));
        Some(Kind::Health { source: health.word().into(), counters: counters() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn health_is_told_when_it_changes_and_now_and_then() {
        let mut reports = HealthReports::new(Duration::from_secs(60));
        let mut told = Vec::new();
        for second in 0..200 {
            // The wall clock jumps; nothing follows from that.
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(if second < 50 { 0 } else { 1 << 40 });
            let health = if (70..75).contains(&second) { Health::Failing } else { Health::Live };
            let at = Moment { since_start: Duration::from_secs(second), wall };
            if let Some(Kind::Health { source, .. }) = reports.tick(at, health, BTreeMap::new) {
                told.push((second, source));
            }
        }
        let expected =
            [(0, "live"), (60, "live"), (70, "failing"), (75, "live"), (135, "live"), (195, "live")];
        assert_eq!(told, expected.map(|(second, word)| (second, word.to_owned())));
    }
}
