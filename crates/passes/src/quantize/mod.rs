//! Where a float graph is rounded to bytes: Quantize and Dequantize around float ops, and weights as bytes.
//!
//! What comes out still computes with floats, so that it can be compared with the graph of integers that
//! [`integers`](crate::integers()) makes of it. Roundings stand where an op of integers reads bytes, and nowhere else:
//!
//! * in front of convolutions, matrix products, sums, products, averages and functions that have an op of integers;
//! * behind the activation, not between a convolution and its clamp, which becomes limits of the byte;
//! * not between a convolution and the sum that reads nothing else of it: the sum adds before anything is rounded;
//! * inputs and outputs of the graph stay float, and so does a layer's result that only floats read.
//!
//! What moves elements has one quantization before and behind it, so all inputs of a concatenation share one scale.

mod points;
mod weights;

use std::collections::{BTreeMap, BTreeSet};

use espalier_graph::{Graph, GraphError, Op, Quant, Stage, ValueId, Weights, verify};

use crate::integers::ByteWeights;
use crate::layer::{is_constant, layers};
use crate::rewrite::{Item, Rewrite, rewrite};
use points::Points;
pub use weights::round_symmetric;

/// Smallest and largest number that a value takes, by the value's name.
pub type Ranges = BTreeMap<String, [f32; 2]>;

/// How a graph is quantized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// One scale for the whole weight, instead of one for each output.
    pub per_tensor: bool,
    /// Names of the layers that stay float.
    pub float: BTreeSet<String>,
}

/// A graph with its roundings.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Floats between Quantize and Dequantize.
    pub graph: Graph,
    /// Its states, apart from those in `bytes`; biases of quantized layers are multiples of the steps of their sums.
    pub weights: Weights,
    /// The weights of quantized layers.
    pub bytes: ByteWeights,
}

/// The quantization of every value that is bytes, by its name: what [`quantize`] makes of `ranges`.
///
/// # Errors
/// A range is missing or not finite.
pub fn quants_by_name(
    graph: &Graph,
    ranges: &Ranges,
    settings: &Settings,
) -> Result<BTreeMap<String, Quant>, GraphError> {
    let points = Points::of(graph, &settings.float);
    let quants = quants(graph, &points, ranges)?;
    let named = |id: ValueId| (graph.value(id).name.clone(), quants[&points.class(id)]);
    Ok(points.bytes().map(named).collect())
}

/// Names of the values whose ranges [`quantize`] needs, whichever layers stay float.
pub fn observed(graph: &Graph) -> Vec<String> {
    let points = Points::all(graph);
    let ids = points.bytes().chain(graph.nodes().iter().flat_map(|node| sums(graph, node)));
    let names: BTreeSet<&str> = ids.map(|id| graph.value(id).name.as_str()).collect();
    names.into_iter().map(String::from).collect()
}

/// What a sum reads: a layer that stays float has its result rounded there.
fn sums<'a>(graph: &'a Graph, node: &'a espalier_graph::Node) -> impl Iterator<Item = ValueId> + 'a {
    let is_sum = matches!(node.op, Op::Binary { .. }) && points::is_byte_op(graph, node);
    node.inputs.iter().copied().filter(move |&id| is_sum && !is_constant(graph, id))
}

/// The graph with its roundings, `ranges` of the values that [`observed`] names saying to which bytes.
///
/// # Errors
/// The graph is not valid; a range is missing or not finite; `weights` lack a state.
pub fn quantize(
    graph: &Graph,
    weights: &Weights,
    ranges: &Ranges,
    settings: &Settings,
) -> Result<Quantized, GraphError> {
    let points = Points::of(graph, &settings.float);
    let quants = quants(graph, &points, ranges)?;
    let (mut weights, mut bytes) = (weights.clone(), ByteWeights::new());
    for layer in layers(graph).iter().filter(|layer| !settings.float.contains(&layer.name)) {
        if let Some(quant) = quants.get(&points.class(layer.x)) {
            weights::round_layer(graph, layer, *quant, settings.per_tensor, &mut weights, &mut bytes)?;
        }
    }
    let rounded = rewrite(graph, |r, item| {
        r.copy(item)?;
        match item {
            Item::Input(id) => round(r, id, &points, &quants),
            Item::Node(node) => node.outputs.iter().try_for_each(|&id| round(r, id, &points, &quants)),
            _ => Ok(()),
        }
    })?;
    verify(&rounded, Stage::Portable)?;
    weights.retain(|name, _| !bytes.contains_key(name));
    Ok(Quantized { graph: rounded, weights, bytes })
}

/// Whoever reads the old value `id` from now on reads it rounded, if it is to be.
fn round(
    r: &mut Rewrite<'_>,
    id: ValueId,
    points: &Points,
    quants: &BTreeMap<ValueId, Quant>,
) -> Result<(), GraphError> {
    if !points.is_rounded(id) {
        return Ok(());
    }
    let (x, to) = (r.at(id)?, quants[&points.class(id)]);
    let name = |r: &Rewrite<'_>, end: &str| r.new.fresh(&r.old.fresh(&format!("{}.{end}", r.name(id))));
    let bytes = name(r, "bytes");
    let bytes = r.new.add(&bytes, Op::Quantize { to }, &[x])?;
    let float = name(r, "rounded");
    let float = r.new.add(&float, Op::Dequantize, &[bytes])?;
    r.replace(id, float);
    Ok(())
}

/// The quantization of every class of values that share one.
fn quants(graph: &Graph, points: &Points, ranges: &Ranges) -> Result<BTreeMap<ValueId, Quant>, GraphError> {
    let mut joined: BTreeMap<ValueId, [f32; 2]> = BTreeMap::new();
    for id in points.bytes() {
        let name = &graph.value(id).name;
        let &[lo, hi] = ranges.get(name).ok_or_else(|| {
            GraphError::Invalid(format!("the range of `{name}` is not known, so it cannot be quantized"))
        })?;
        let range = joined.entry(points.class(id)).or_insert([0.0, 0.0]);
        *range = [range[0].min(lo), range[1].max(hi)];
        if !(lo.is_finite() && hi.is_finite()) {
            return Err(GraphError::Invalid(format!("`{name}` takes values from {lo} to {hi}")));
        }
    }
    joined.into_iter().map(|(class, range)| Ok((class, quant_of(range)?))).collect()
}

/// The quantization whose 256 bytes span a range and zero, where zero is a byte exactly.
///
/// # Errors
/// Absurdly large numbers.
pub fn quant_of([lo, hi]: [f32; 2]) -> Result<Quant, GraphError> {
    let (lo, hi) = (f64::from(lo.min(0.0)), f64::from(hi.max(0.0)));
    // All zeros: any step does.
    let scale = if hi > lo { ((hi - lo) / 255.0).max(1e-9) } else { 1.0 };
    let zero = (-lo / scale).round_ties_even().clamp(0.0, 255.0);
    Quant::new(scale as f32, zero as u8).map_err(GraphError::Invalid)
}
