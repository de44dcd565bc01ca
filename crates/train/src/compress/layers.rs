//! What each layer of a candidate computes with, and why.

use std::collections::HashSet;

use espalier_graph::Graph;
use espalier_passes::integers::remarks;
use espalier_passes::layer::layers;
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
}

/// All layers of `float`, and what else stays float in `made`.
pub(super) fn notes(
    float: &Graph,
    made: &Graph,
    recipe: Option<&Recipe>,
    sensitivities: &[Sensitivity],
) -> Vec<LayerNote> {
    let Some(recipe) = recipe else {
        let note = |name| LayerNote { name, kind: "f32", reason: Some("the network stays float".into()) };
        return layers(float).into_iter().map(|layer| note(layer.name)).collect();
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
            None => LayerNote { name: layer.name, kind: "int8", reason: None },
            reason => LayerNote { name: layer.name, kind: "f32", reason },
        })
        .collect();
    let named: HashSet<String> = notes.iter().map(|note| note.name.clone()).collect();
    let others = remarks(made).map(|remarks| remarks.floats).unwrap_or_default();
    notes.extend(others.into_iter().filter(|remark| !named.contains(&remark.node)).map(|remark| {
        let reason = Some(format!("{}: {}", remark.op, remark.reason));
        LayerNote { name: remark.node, kind: "f32", reason }
    }));
    notes
}
