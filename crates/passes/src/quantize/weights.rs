//! Weights and biases of a layer, rounded.

use espalier_graph::{Graph, GraphError, Quant, Tensor, Weights};

use crate::integers::{ByteWeight, ByteWeights};
use crate::layer::{Layer, floats};

/// Largest bias in steps of the sum, so that both together stay within 32 bits.
const MAX_BIAS_STEPS: f64 = (1 << 30) as f64;
/// An output without weights has this scale: small beside any bias, and far from where quotients of scales leave f32.
const SMALLEST_SCALE: f32 = 1e-12;

/// The weight as signed bytes around zero, -127 to 127, rounded half to even, with one scale for each index along `axis`
/// or (`per_tensor`) one for all; `least` holds the smallest scale that each output may have.
pub fn round_symmetric(
    values: &[f32],
    outputs: impl Iterator<Item = usize> + Clone,
    axis: usize,
    per_tensor: bool,
    least: &[f32],
) -> ByteWeight {
    let mut largest = vec![0f32; least.len()];
    values.iter().zip(outputs.clone()).for_each(|(&v, o)| largest[o] = largest[o].max(v.abs()));
    let own = |(&largest, &least): (&f32, &f32)| (largest / 127.0).max(least).max(SMALLEST_SCALE);
    let mut scale: Vec<f32> = largest.iter().zip(least).map(own).collect();
    if per_tensor {
        let used = scale.iter().zip(&largest).filter(|(_, largest)| **largest > 0.0).map(|(scale, _)| *scale);
        scale = vec![used.reduce(f32::max).unwrap_or(SMALLEST_SCALE)];
    }
    let of = |o: usize| if per_tensor { scale[0] } else { scale[o] };
    let rounded =
        values.iter().zip(outputs).map(|(&v, o)| (v / of(o)).round_ties_even().clamp(-127.0, 127.0));
    ByteWeight { values: rounded.map(|v| v as i8).collect(), scale, axis }
}

/// Moves the weight of a layer that reads bytes of `quant` to `bytes`, and rounds its bias to whole steps of its sums, as
/// other engines keep it.
pub(super) fn round_layer(
    graph: &Graph,
    layer: &Layer,
    quant: Quant,
    per_tensor: bool,
    weights: &mut Weights,
    bytes: &mut ByteWeights,
) -> Result<(), GraphError> {
    let name = &graph.value(layer.weight).name;
    let outputs = layer.outputs(graph);
    let bias = layer.bias.map(|id| floats(graph, weights, id).map(<[f32]>::to_vec)).transpose()?;
    let step = f64::from(quant.scale());
    let least = match &bias {
        Some(bias) => bias.iter().map(|&b| (f64::from(b).abs() / step / MAX_BIAS_STEPS) as f32).collect(),
        None => vec![0.0; outputs],
    };
    // A weight that two layers share is rounded once.
    if !bytes.contains_key(name) {
        let values = floats(graph, weights, layer.weight)?;
        let which = layer.ends(graph).map(|[output, _]| output).collect::<Vec<_>>();
        let rounded = round_symmetric(values, which.into_iter(), layer.axis, per_tensor, &least);
        bytes.insert(name.clone(), rounded);
    }
    let is_own = |id: espalier_graph::ValueId| graph.uses()[id.index()] == 1;
    if let (Some(id), Some(mut bias)) = (layer.bias.filter(|&id| is_own(id)), bias) {
        let scale = &bytes[name].scale;
        for (o, value) in bias.iter_mut().enumerate() {
            let step = step * f64::from(scale[o % scale.len()]);
            *value = ((f64::from(*value) / step).round_ties_even() * step) as f32;
        }
        weights.insert(graph.value(id).name.clone(), Tensor::f32(&[outputs], bias));
    }
    Ok(())
}
