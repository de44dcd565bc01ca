//! How a float network becomes one of integers: post-training quantization in its variants.

use std::collections::{BTreeMap, BTreeSet};

use espalier_graph::{Graph, GraphError, Weights};
use espalier_passes::quantize::{self, Quantized, quantize};
use espalier_passes::{correct_biases, integers};
use serde::Serialize;

use super::calibration::{Seen, means, ranges};
use super::histogram::Method;

/// One way to quantize.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// How the ranges of activations follow from calibration.
    pub ranges: Method,
    /// Whether layers were equalised before.
    pub equalise: bool,
    /// Whether biases make good for what rounding the weights takes from the mean.
    pub correct_biases: bool,
    /// Whether weights have one scale for all of a layer's outputs, instead of one for each.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub per_tensor: bool,
    /// Whether the network was trained with its roundings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trained: bool,
    /// Layers that stay float.
    pub float: BTreeSet<String>,
}

/// What a recipe begins with: the weights, equalised or not, and what flows.
pub(super) struct Calibrated {
    /// Of the folded graph.
    pub(super) weights: Weights,
    /// By the names of values.
    pub(super) seen: BTreeMap<String, Seen>,
}

impl Recipe {
    /// All layers in int8, with ranges by `method`.
    pub fn plain(method: Method) -> Recipe {
        Recipe {
            ranges: method,
            equalise: false,
            correct_biases: false,
            per_tensor: false,
            trained: false,
            float: BTreeSet::new(),
        }
    }

    /// The same for another network that is only rounded: which layers harm, and training, are of one network.
    pub(super) fn rounding(&self) -> Recipe {
        Recipe { trained: false, float: BTreeSet::new(), ..self.clone() }
    }

    /// In words.
    pub fn name(&self) -> String {
        let mut name = format!("int8, ranges by {}", self.ranges.name());
        for (is_on, what) in [
            (self.equalise, "equalised"),
            (self.correct_biases, "biases corrected"),
            (self.per_tensor, "one scale a tensor"),
            (self.trained, "trained with its roundings"),
        ] {
            if is_on {
                name = format!("{name}, {what}");
            }
        }
        match self.float.len() {
            0 => name,
            1 => format!("{name}, 1 layer float"),
            n => format!("{name}, {n} layers float"),
        }
    }

    /// How a graph is quantized so.
    pub(super) fn settings(&self) -> quantize::Settings {
        quantize::Settings { per_tensor: self.per_tensor, float: self.float.clone() }
    }

    /// The graph of integers and its weights, by rounding.
    ///
    /// # Errors
    /// A graph that cannot be quantized: numbers that are absurdly large.
    pub(super) fn make(&self, graph: &Graph, from: &Calibrated) -> Result<(Graph, Weights), GraphError> {
        let (settings, ranges) = (self.settings(), ranges(&from.seen, self.ranges));
        let mut quantized = quantize(graph, &from.weights, &ranges, &settings)?;
        if self.correct_biases {
            let mut weights = from.weights.clone();
            correct_biases(graph, &mut weights, &quantized.bytes, &means(&from.seen))?;
            quantized = quantize(graph, &weights, &ranges, &settings)?;
        }
        with_integers(quantized)
    }
}

/// What computes with integers what `quantized` says in floats, and its weights.
///
/// # Errors
/// As [`integers`].
pub(super) fn with_integers(quantized: Quantized) -> Result<(Graph, Weights), GraphError> {
    let mut weights = quantized.weights;
    let graph = integers(&quantized.graph, &mut weights, &quantized.bytes)?;
    Ok((graph, weights))
}
