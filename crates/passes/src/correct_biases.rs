//! Bias correction (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", with the
//! means measured instead of derived).

use std::collections::BTreeMap;

use espalier_graph::{Graph, GraphError, Tensor, Weights, Window};

use crate::integers::ByteWeights;
use crate::layer::{Layer, floats, layers};

/// Adds to each bias what rounding the weight takes from the layer's mean result: `(w - w') E[x]`, with `means` holding
/// `E[x]` of every channel of what layers read, by the value's name. Layers whose weight is not in `bytes`, whose bias is
/// none of their own, or whose mean is not known stay as they are. Returns how many were corrected.
///
/// # Errors
/// `weights` lack a state of the graph.
pub fn correct_biases(
    graph: &Graph,
    weights: &mut Weights,
    bytes: &ByteWeights,
    means: &BTreeMap<String, Vec<f64>>,
) -> Result<usize, GraphError> {
    let uses = graph.uses();
    let mut corrected = 0;
    for layer in layers(graph) {
        let Some(bias) = layer.bias.filter(|id| uses[id.index()] == 1) else { continue };
        let name = &graph.value(layer.weight).name;
        let mean = means.get(&graph.value(layer.x).name).filter(|mean| mean.len() == layer.inputs(graph));
        let (Some(bytes), Some(mean)) = (bytes.get(name), mean) else { continue };
        let rounded = bytes.floats(&layer.sizes(graph));
        let coverage = coverage(graph, &layer);
        let mut shifted: Vec<f64> = floats(graph, weights, bias)?.iter().map(|&b| b.into()).collect();
        let lost = floats(graph, weights, layer.weight)?.iter().zip(&rounded);
        for ((at, (&w, &r)), [o, i]) in lost.enumerate().zip(layer.ends(graph)) {
            shifted[o] += (f64::from(w) - f64::from(r)) * mean[i] * coverage[at % coverage.len()];
        }
        let shifted = shifted.into_iter().map(|b| b as f32).collect::<Vec<_>>();
        weights.insert(graph.value(bias).name.clone(), Tensor::f32(&[shifted.len()], shifted));
        corrected += 1;
    }
    Ok(corrected)
}

/// For every tap of a window, the share of its positions that lie on the picture, not on its padding.
fn coverage(graph: &Graph, layer: &Layer) -> Vec<f64> {
    let Some((window, _)) = layer.conv else { return vec![1.0] };
    let sizes: Vec<usize> = graph.ty(layer.x).shape.0[2..].iter().map(|dim| dim.factor).collect();
    let share = |axis: usize| -> Vec<f64> { along(&window, axis, sizes[axis]) };
    let (rows, columns) = (share(0), share(1));
    rows.iter().flat_map(|row| columns.iter().map(move |column| row * column)).collect()
}

fn along(window: &Window, axis: usize, size: usize) -> Vec<f64> {
    let (stride, before) = (window.stride[axis], window.pad[axis]);
    let extent = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
    let positions = (size + before + window.pad[axis + 2] - extent) / stride + 1;
    let inside = |tap: usize| {
        let at = |position: usize| position * stride + tap * window.dilation[axis];
        let on = (0..positions).filter(|&p| (before..before + size).contains(&at(p))).count();
        on as f64 / positions as f64
    };
    (0..window.kernel[axis]).map(inside).collect()
}
