//! The examples of docs/insights.md and docs/drift.md are what the parser takes, and every key is told there.

use espalier_agent::Source;
use espalier_agent::config::AggregateConfig;
use espalier_agent::drift::DriftConfig;
use espalier_agent::insight::{Method, RuleConfig, Rules, SmoothConfig};
use espalier_agent::samples::SampleConfig;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    pipeline: Pipeline,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pipeline {
    rule: Vec<RuleConfig>,
    aggregate: Option<AggregateConfig>,
    drift: Option<DriftConfig>,
    samples: Option<SampleConfig>,
}

fn page(name: &str) -> String {
    let path = format!("{}/../../docs/{name}.md", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The blocks of code of one kind.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let fence = format!("```{kind}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn examples_are_taken() {
    let labels = ["person", "bicycle"].map(String::from);
    let (mut rules, mut drift, mut samples, mut aggregates) = (0, 0, 0, 0);
    for text in ["insights", "drift"].iter().flat_map(|name| blocks(&page(name), "toml")) {
        let example: Example = toml::from_str(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        rules += example.pipeline.rule.len();
        Rules::new(&example.pipeline.rule, &labels).unwrap();
        if let Some(config) = example.pipeline.drift {
            assert_eq!(config, DriftConfig::default(), "the page shows the defaults");
            drift += 1;
        }
        if let Some(config) = example.pipeline.aggregate {
            assert_eq!(config.span.0, std::time::Duration::from_secs(60), "the page shows the default");
            aggregates += 1;
        }
        if let Some(config) = example.pipeline.samples {
            assert_eq!(config, SampleConfig::new(config.folder.clone()), "the page shows the defaults");
            samples += 1;
        }
    }
    assert_eq!((rules, drift, samples, aggregates), (3, 1, 1, 1));
    let sources = blocks(&page("insights"), "text");
    for line in sources.iter().flat_map(|block| block.lines()) {
        assert!(matches!(Source::new(line), Ok(Source::Digits(_))), "{line}");
    }
    assert_eq!(sources.len(), 1);
}

#[test]
fn every_key_is_told() {
    let check = |name: &str, config: toml::Table| {
        let page = page(name);
        let missing: Vec<&String> =
            config.keys().filter(|key| !page.contains(&format!("\n| `{key}` |"))).collect();
        assert!(config.len() > 2 && missing.is_empty(), "docs/{name}.md lacks {missing:?}");
    };
    let smooth = SmoothConfig { method: Method::Majority, frames: Some(1), span_s: Some(1.0) };
    let zone = Some(toml::from_str("polygon = []").unwrap());
    let rule = RuleConfig { within_s: Some(1.0), smooth: Some(smooth.clone()), zone, ..RuleConfig::new("a") };
    check("insights", toml::Table::try_from(rule).unwrap());
    check("insights", toml::Table::try_from(smooth).unwrap());
    check("insights", toml::Table::try_from(SampleConfig::new("a")).unwrap());
    check("drift", toml::Table::try_from(DriftConfig::default()).unwrap());
}
