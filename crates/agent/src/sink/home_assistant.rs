//! What Home Assistant has to be told before it shows a device: one retained message for each thing that it can show, under
//! its discovery prefix (home-assistant.io/integrations/mqtt, "MQTT discovery").

use std::collections::BTreeSet;

use espalier_wire::{Device, Insight, Kind};
use serde_json::{Value, json};

use super::names;

/// Announces each thing once in a connection, when the first insight about it comes.
#[derive(Debug)]
pub(super) struct Discovery {
    discovery_prefix: String,
    topic_prefix: String,
    device: Device,
    announced: BTreeSet<String>,
}

impl Discovery {
    pub(super) fn new(discovery_prefix: &str, topic_prefix: &str, device: &Device) -> Discovery {
        let (discovery_prefix, topic_prefix) = (discovery_prefix.to_owned(), topic_prefix.to_owned());
        Discovery { discovery_prefix, topic_prefix, device: device.clone(), announced: BTreeSet::new() }
    }

    /// Topic and message that announce what an insight is about, unless that was announced, or cannot be shown.
    pub(super) fn announce(&mut self, insight: &Insight) -> Option<(String, String)> {
        let pipeline = &insight.pipeline;
        let (component, what, name, mut config) = match &insight.kind {
            Kind::Event { rule, .. } => (
                "binary_sensor",
                format!("event-{}", names::segment(rule)),
                format!("{pipeline}: {rule}"),
                held(),
            ),
            Kind::Drift { statistic, .. } => (
                "binary_sensor",
                format!("drift-{}", names::segment(statistic)),
                format!("{pipeline}: drift of {statistic}"),
                with(held(), json!({ "device_class": "problem", "entity_category": "diagnostic" })),
            ),
            Kind::Aggregate { .. } => (
                "sensor",
                "aggregate".to_owned(),
                format!("{pipeline}: frames"),
                json!({
                    "value_template": "{{ value_json.insight.frames.processed }}",
                    "state_class": "measurement",
                    "json_attributes_template": "{{ value_json.insight.labels | tojson }}",
                }),
            ),
            Kind::Health { .. } => (
                "sensor",
                "health".to_owned(),
                format!("{pipeline}: source"),
                json!({
                    "value_template": "{{ value_json.insight.source }}",
                    "entity_category": "diagnostic",
                    "json_attributes_template": "{{ value_json.insight.counters | tojson }}",
                }),
            ),
            Kind::HardSample { .. } => return None,
        };
        // Home Assistant admits letters, digits, _ and - in these.
        let node = format!("espalier-{}", names::segment(self.device.as_str()));
        let object = format!("{}-{what}", names::segment(pipeline));
        if !self.announced.insert(object.clone()) {
            return None;
        }
        let topic = names::topic(&self.topic_prefix, &self.device, pipeline, &insight.kind);
        if config.get("json_attributes_template").is_some() {
            config = with(config, json!({ "json_attributes_topic": topic }));
        }
        let config = with(
            config,
            json!({
                "name": name,
                "unique_id": format!("{node}-{object}"),
                "state_topic": topic,
                "qos": 1,
                "availability_topic": names::status(&self.topic_prefix, &self.device),
                "device": {
                    "identifiers": [node],
                    "name": self.device.as_str(),
                    "manufacturer": "Espalier",
                    "model": "espalier-agent",
                    "sw_version": env!("CARGO_PKG_VERSION"),
                },
                "origin": { "name": "Espalier", "sw_version": env!("CARGO_PKG_VERSION") },
            }),
        );
        Some((format!("{}/{component}/{node}/{object}/config", self.discovery_prefix), config.to_string()))
    }
}

/// Of what begins and ends.
fn held() -> Value {
    json!({
        "value_template": "{{ value_json.insight.state }}",
        "payload_on": "begins",
        "payload_off": "ends",
    })
}

fn with(mut config: Value, more: Value) -> Value {
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    config
}

#[cfg(test)]
mod tests {
    use espalier_wire::State;

    use super::*;

    fn event(pipeline: &str, rule: &str) -> Insight {
        let kind = Kind::Event {
            rule: rule.into(),
            state: State::Begins,
            label: None,
            confidence: None,
            count: None,
            duration_ms: 0,
        };
        Insight { pipeline: pipeline.into(), time_ms: 1, kind }
    }

    #[test]
    fn each_thing_is_announced_once_and_reads_the_messages() {
        let mut discovery = Discovery::new("homeassistant", "espalier", &"gate".parse().unwrap());
        let (topic, text) = discovery.announce(&event("door", "a person")).unwrap();
        assert!(
            topic.starts_with("homeassistant/binary_sensor/espalier-gate/door-event-a_person-"),
            "{topic}"
        );
        assert!(topic.ends_with("/config"));
        assert!(topic.chars().all(|c| c.is_ascii_alphanumeric() || "/_-".contains(c)), "{topic}");
        let config: Value = serde_json::from_str(&text).unwrap();
        let insight = serde_json::to_value(event("door", "a person")).unwrap();
        assert_eq!(insight["state"], config["payload_on"], "the template's value is one of the payloads");
        assert_eq!(config["availability_topic"], "espalier/gate/status");
        assert!(config["state_topic"].as_str().unwrap().starts_with("espalier/gate/door/event/a_person-"));
        assert!(discovery.announce(&event("door", "a person")).is_none());
        assert!(discovery.announce(&event("yard", "a person")).is_some());
    }
}
