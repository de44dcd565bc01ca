//! Cross-layer equalisation (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction").

use std::collections::BTreeMap;

use espalier_graph::{Graph, GraphError, Op, Tensor, UnaryFn, ValueId, Weights};

use crate::layer::{Layer, floats, is_constant, layers};

/// Scalings are small after so many rounds over all pairs.
const ROUNDS: usize = 20;
/// A clamp is not reached where values stay this much below its limit.
const BELOW: f32 = 0.99;

/// Largest magnitude of each channel of a value, by the value's name.
pub type Extents = BTreeMap<String, Vec<f32>>;

/// Scales the channels between two layers so that the weights on both sides span equal ranges: what one output of the
/// first is divided by, the second multiplies. Between them may stand nothing, or a function that commutes with positive
/// factors (ReLU, leaky ReLU), so the graph computes what it did. A clamp with an upper limit, such as ReLU6, commutes
/// only below it: there a channel is scaled only if `extents` show that it never reaches the limit, neither before nor
/// after. No channel grows beyond the largest one that `extents` show, so that activations need no wider range.
/// Returns how many pairs there are.
///
/// # Errors
/// `weights` lack a state of the graph.
pub fn equalise(graph: &Graph, weights: &mut Weights, extents: &Extents) -> Result<usize, GraphError> {
    let mut pairs = pairs(graph, extents);
    for _ in 0..ROUNDS {
        for pair in &mut pairs {
            pair.balance(graph, weights)?;
        }
    }
    Ok(pairs.len())
}

struct Pair {
    first: Layer,
    second: Layer,
    /// Largest magnitude of each channel between them.
    extent: Vec<f32>,
    /// Upper limit of the clamp between them.
    limit: f32,
}

fn pairs(graph: &Graph, extents: &Extents) -> Vec<Pair> {
    let uses = graph.uses();
    let layers = layers(graph);
    let is_own = |id: ValueId| uses[id.index()] == 1 && is_constant(graph, id);
    let pair = |second: &Layer| {
        let (result, limit) = before(graph, second.x)?;
        let first = layers.iter().find(|layer| layer.result == result)?;
        let once = [second.x, result].iter().all(|id| uses[id.index()] == 1);
        let owned = is_own(first.weight) && is_own(second.weight) && first.bias.is_none_or(is_own);
        let channels = first.outputs(graph);
        let extent = extents.get(&graph.value(second.x).name)?;
        let fits = second.inputs(graph) == channels && extent.len() == channels;
        (once && owned && fits).then(|| Pair {
            first: first.clone(),
            second: second.clone(),
            extent: extent.clone(),
            limit,
        })
    };
    layers.iter().filter_map(pair).collect()
}

/// What `id` is a scalable function of, and the upper limit of that function.
fn before(graph: &Graph, id: ValueId) -> Option<(ValueId, f32)> {
    let Some(node) = graph.producer(id) else { return Some((id, f32::INFINITY)) };
    match node.op {
        Op::Unary { f: UnaryFn::Relu | UnaryFn::LeakyRelu { .. } } => Some((node.inputs[0], f32::INFINITY)),
        Op::Unary { f: UnaryFn::Clip { lo: 0.0, hi } } => Some((node.inputs[0], hi)),
        Op::Unary { .. } => None,
        _ => Some((id, f32::INFINITY)),
    }
}

impl Pair {
    /// One step: both weights then span the geometric mean of what they spanned, as far as values allow.
    fn balance(&mut self, graph: &Graph, weights: &mut Weights) -> Result<(), GraphError> {
        let channels = self.extent.len();
        let span = |layer: &Layer, weights: &Weights, end: usize| -> Result<Vec<f32>, GraphError> {
            let mut largest = vec![0f32; channels];
            for (&w, ends) in floats(graph, weights, layer.weight)?.iter().zip(layer.ends(graph)) {
                largest[ends[end]] = largest[ends[end]].max(w.abs());
            }
            Ok(largest)
        };
        let (outgoing, incoming) = (span(&self.first, weights, 0)?, span(&self.second, weights, 1)?);
        let widest = self.extent.iter().copied().fold(0.0, f32::max);
        let factors: Vec<f32> =
            (0..channels).map(|c| self.factor(outgoing[c], incoming[c], self.extent[c], widest)).collect();
        scale(graph, weights, &self.first, 0, |c| factors[c].recip())?;
        scale(graph, weights, &self.second, 1, |c| factors[c])?;
        if let Some(bias) = self.first.bias {
            let scaled = floats(graph, weights, bias)?.iter().zip(&factors).map(|(b, s)| b / s).collect();
            weights.insert(graph.value(bias).name.clone(), Tensor::f32(&[channels], scaled));
        }
        self.extent.iter_mut().zip(&factors).for_each(|(extent, s)| *extent /= s);
        Ok(())
    }

    /// What a channel is divided by. A power of two, so that scaling rounds nothing.
    fn factor(&self, outgoing: f32, incoming: f32, extent: f32, widest: f32) -> f32 {
        if !(outgoing > 0.0 && incoming > 0.0 && extent > 0.0) || extent >= self.limit * BELOW {
            return 1.0;
        }
        let wanted = (outgoing / incoming).sqrt().log2().round();
        let least = (extent / widest.min(self.limit * BELOW)).log2().ceil();
        wanted.max(least).clamp(-60.0, 60.0).exp2()
    }
}

/// Multiplies the elements of a layer's weight by a factor for each output (`end` 0) or input (1).
fn scale(
    graph: &Graph,
    weights: &mut Weights,
    layer: &Layer,
    end: usize,
    factor: impl Fn(usize) -> f32,
) -> Result<(), GraphError> {
    let values = floats(graph, weights, layer.weight)?.iter().zip(layer.ends(graph));
    let scaled = values.map(|(w, ends)| w * factor(ends[end])).collect();
    weights.insert(graph.value(layer.weight).name.clone(), Tensor::f32(&layer.sizes(graph), scaled));
    Ok(())
}
