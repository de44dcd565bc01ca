//! What each layer of a candidate computes with, and why.

use std::collections::{HashMap, HashSet};

use espalier_graph::{Graph, ValueId, Weights};
use espalier_passes::integers::remarks;
use espalier_passes::layer::layers;
use espalier_passes::sparsify::sparse_layers;
use serde::Serialize;

use super::recipe::Recipe;
use super::sensitivity::Sensitivity;

/// A layer, or another operator that stays float.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerNote {
    /// Its name in the float network.
    pub name: String,
    /// `int8` or `f32`.
    pub kind: &'static str,
    /// Why it stays float.
    pub reason: Option<String>,
    /// Outputs that pruning left of how many, where it took some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<[usize; 2]>,
    /// Share of its weights that are zero, where pruning made them so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zeros: Option<f64>,
}

/// What was pruned of each layer, by its name.
pub(super) struct Pruned {
    outputs: HashMap<String, [usize; 2]>,
    zeros: HashMap<String, f64>,
}

impl Pruned {
    /// Between the network that was given and what is left of it.
    pub(super) fn between(whole: &Graph, left: (&Graph, &Weights)) -> Pruned {
        let sizes: HashMap<String, usize> =
            layers(whole).into_iter().map(|layer| (layer.name.clone(), layer.outputs(whole))).collect();
        let (graph, weights) = left;
        let outputs = layers(graph).into_iter().filter_map(|layer| {
            let [before, after] = [*sizes.get(&layer.name)?, layer.outputs(graph)];
            (before != after).then_some((layer.name, [after, before]))
        });
        let sparse: HashSet<ValueId> = sparse_layers(graph).into_iter().collect();
        let zeros =
            layers(graph).into_iter().filter(|layer| sparse.contains(&layer.weight)).filter_map(|layer| {
                let values = weights.get(&graph.value(layer.weight).name)?.as_f32()?;
                let zeros = values.iter().filter(|&&w| w == 0.0).count();
                (zeros > 0).then_some((layer.name, zeros as f64 / values.len() as f64))
            });
        Pruned { outputs: outputs.collect(), zeros: zeros.collect() }
    }

    fn note(&self, name: String, kind: &'static str, reason: Option<String>) -> LayerNote {
        let (outputs, zeros) = (self.outputs.get(&name).copied(), self.zeros.get(&name).copied());
        LayerNote { name, kind, reason, outputs, zeros }
    }
}

/// All layers of `float`, and what else stays float in `made`.
pub(super) fn notes(
    float: &Graph,
    made: &Graph,
    recipe: Option<&Recipe>,
    sensitivities: &[Sensitivity],
    pruned: &Pruned,
) -> Vec<LayerNote> {
    let Some(recipe) = recipe else {
        let reason = || Some("the network stays float".into());
        return layers(float).into_iter().map(|layer| pruned.note(layer.name, "f32", reason())).collect();
    };
    let restored = |name: &str| {
        recipe.float.contains(name).then(|| match sensitivities.iter().find(|s| s.layer == name) {
            Some(Sensitivity { error, whole, .. }) => {
                format!("in float it lowers the error of the outputs from {whole:.2e} to {error:.2e}")
            }
            None => "it harms most".into(),
        })
    };
    let mut notes: Vec<LayerNote> = layers(float)
        .into_iter()
        .map(|layer| match restored(&layer.name) {
            None => pruned.note(layer.name, "int8", None),
            reason => pruned.note(layer.name, "f32", reason),
        })
        .collect();
    let named: HashSet<String> = notes.iter().map(|note| note.name.clone()).collect();
    let others = remarks(made).map(|remarks| remarks.floats).unwrap_or_default();
    notes.extend(others.into_iter().filter(|remark| !named.contains(&remark.node)).map(|remark| {
        let reason = Some(format!("{}: {}", remark.op, remark.reason));
        pruned.note(remark.node, "f32", reason)
    }));
    notes
}
