//! Names of a configuration as segments of topics and as identifiers of Home Assistant.

use espalier_wire::{Device, Digest, Kind};

/// A name with nothing in it but letters, digits, `_` and `-`: itself, or, where it holds anything else, that replaced and a
/// digest behind it, so that two names never become one.
pub(super) fn segment(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
        return name.to_owned();
    }
    let short: String = name.chars().take(32).map(|c| if plain(c) { c } else { '_' }).collect();
    format!("{short}-{}", Digest::of([name.as_bytes()]))
}

/// Where an insight is published: `PREFIX/DEVICE/PIPELINE/KIND`, of events and drift with what they are about behind it.
pub(super) fn topic(prefix: &str, device: &Device, pipeline: &str, kind: &Kind) -> String {
    let base = format!("{prefix}/{device}/{}", segment(pipeline));
    match kind {
        Kind::Event { rule, .. } => format!("{base}/event/{}", segment(rule)),
        Kind::Drift { statistic, .. } => format!("{base}/drift/{}", segment(statistic)),
        Kind::Aggregate { .. } => format!("{base}/aggregate"),
        Kind::HardSample { .. } => format!("{base}/hard-sample"),
        Kind::Health { .. } => format!("{base}/health"),
    }
}

/// Where a device says whether it is there: `online`, or, from its will, `offline`.
pub(super) fn status(prefix: &str, device: &Device) -> String {
    format!("{prefix}/{device}/status")
}

/// Where a device says what it had to drop.
pub(super) fn dropped(prefix: &str, device: &Device) -> String {
    format!("{prefix}/{device}/dropped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_stay_different() {
        assert_eq!(segment("front-door_2"), "front-door_2");
        let odd = ["a b", "a/b", "a+b", "a.b", "", "ü", "a_b"].map(segment);
        assert_eq!(odd.iter().collect::<std::collections::BTreeSet<_>>().len(), odd.len(), "{odd:?}");
        assert!(segment("a/b").starts_with("a_b-") && segment(&"x".repeat(99)).len() < 64);
    }
}
