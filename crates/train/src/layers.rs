//! Layers by name: the head of a network, and what `--freeze` holds.

use std::collections::BTreeSet;

use espalier_graph::{Graph, Op, Role, ValueId};

/// The word that stands for every layer but the head.
pub const BACKBONE: &str = "backbone";

/// The layer that gives the logits: the only one whose shape depends on the number of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub layer: String,
    /// The names of its states.
    pub states: BTreeSet<String>,
}

impl Head {
    /// The head of a network with the output `logits`: what lies between that output and the matrix or filter that is
    /// met first on the way back from it; `None` where there is no such thing.
    pub fn of(network: &Graph) -> Option<Head> {
        let name = |id: ValueId| network.value(id).name.clone();
        let mut states = BTreeSet::new();
        let mut at = network.output("logits");
        while let Some(node) = at.and_then(|id| network.producer(id)) {
            let (own, others): (Vec<ValueId>, Vec<ValueId>) =
                node.inputs.iter().partition(|&&id| network.is_state(id));
            states.extend(own.iter().map(|&id| name(id)));
            let is_product = matches!(node.op, Op::Conv { .. } | Op::MatMul { .. });
            if let Some(&matrix) = own.first().filter(|_| is_product) {
                return Some(Head { layer: name(matrix).trim_end_matches(".weight").into(), states });
            }
            at = others.first().copied();
        }
        None
    }
}

/// The states, running statistics among them, of `layers` of `network`. A layer is named in full or by its first parts
/// (`layer1`, `features.0`, `fc.bias`); [`BACKBONE`] names all but the head.
///
/// # Errors
/// A name that no layer has: what there is. Every weight is held.
pub fn frozen(layers: &[String], network: &Graph) -> Result<BTreeSet<String>, String> {
    let names: Vec<&str> = model_states(network).collect();
    let head = Head::of(network);
    let mut frozen = BTreeSet::new();
    for layer in layers {
        let holds = |name: &&&str| match layer.as_str() {
            BACKBONE => head.as_ref().is_none_or(|head| !head.states.contains(**name)),
            layer => is_part(name, layer),
        };
        let found: Vec<&&str> = names.iter().filter(holds).collect();
        if found.is_empty() {
            return Err(format!("there is no layer `{layer}`; there are {BACKBONE}, {}", outermost(&names)));
        }
        frozen.extend(found.iter().map(|name| name.to_string()));
    }
    if names.iter().all(|name| frozen.contains(*name)) {
        return Err("it holds every layer, which leaves nothing to train".into());
    }
    Ok(frozen)
}

/// The names of the states that belong to the model, not to its training.
pub fn model_states(network: &Graph) -> impl Iterator<Item = &str> {
    let kept = network.states().iter().filter(|state| state.role != Role::Optimizer);
    kept.map(|state| network.value(state.value).name.as_str())
}

/// Whether the state `name` is `layer`'s or lies below it: `layer1.0.conv1.weight` does below `layer1`, not `layer`.
fn is_part(name: &str, layer: &str) -> bool {
    name.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The first parts of `names`, each once, in their order.
fn outermost(names: &[&str]) -> String {
    let mut seen = BTreeSet::new();
    let first = names.iter().filter_map(|name| name.split('.').next());
    first.filter(|part| seen.insert(*part)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::{NAMES, NetworkOptions, build};

    fn network(name: &str) -> Graph {
        build(name, &NetworkOptions { classes: 7, channels: 3, size: [32, 32], width: 0.25 }).unwrap()
    }

    #[test]
    fn every_network_has_a_head() {
        for name in NAMES {
            let graph = network(name);
            let head = Head::of(&graph).unwrap_or_else(|| panic!("{name}"));
            let want = ["weight", "bias"].map(|part| format!("{}.{part}", head.layer));
            assert_eq!(head.states, want.into(), "{name}");
            let classes = graph.ty(graph.find(&format!("{}.weight", head.layer)).unwrap()).shape.0[0];
            assert_eq!(classes.known(), Some(7), "{name}");
        }
        let layer = |name| Head::of(&network(name)).unwrap().layer;
        assert_eq!([layer("resnet18"), layer("mobilenet_v2"), layer("plain6")], ["fc", "classifier.1", "20"]);
    }

    fn check(name: &str, layers: &[&str], count: usize, some: &[&str]) {
        let layers: Vec<String> = layers.iter().map(|l| l.to_string()).collect();
        let frozen = frozen(&layers, &network(name)).unwrap();
        assert_eq!(frozen.len(), count, "{name} {layers:?}: {frozen:?}");
        some.iter().for_each(|state| assert!(frozen.contains(*state), "{name} {layers:?}: {state}"));
    }

    #[test]
    fn layers_are_found_by_whole_parts_of_names() {
        check("resnet18", &["layer1"], 20, &["layer1.0.conv1.weight", "layer1.1.bn2.running_var"]);
        check("resnet18", &["layer1.0", "layer1.0.bn1", "bn1"], 14, &["bn1.bias"]);
        check("resnet18", &["fc.bias"], 1, &["fc.bias"]);
        check("mobilenet_v2", &["features.1"], 10, &["features.1.conv.0.0.weight"]);
        check("plain6", &["1"], 4, &["1.running_mean"]);
        check("plain6", &["backbone"], 30, &["16.running_var"]);
        check("lenet", &["backbone"], 8, &["fc2.bias"]);
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        for layer in ["layer", "layer1.", "layer1.9", "Layer1", ""] {
            let error = frozen(&[layer.to_string()], &network("resnet18")).unwrap_err();
            let want = format!(
                "there is no layer `{layer}`; there are backbone, conv1, bn1, layer1, layer2, layer3, layer4, fc"
            );
            assert_eq!(error, want);
        }
        let all = ["backbone", "fc"].map(String::from);
        assert!(frozen(&all, &network("resnet18")).unwrap_err().contains("nothing to train"));
    }
}
