//! Folds batch normalisation with fixed statistics into the linear layer before it (Jacob et al. 2018, section 3.2).

use espalier_graph::{
    BinaryFn, Graph, GraphError, Node, Op, Role, Shape, Source, Stage, Tensor, TensorType, ValueId, Weights,
    verify,
};

use crate::prune_unused::prune_unused;
use crate::rewrite::{Item, Rewrite, rewrite};

/// The graph in which each BatchNorm that directly follows a convolution or a linear layer has become part of that
/// layer's weight and bias; `weights` follow. A weight keeps its name; a bias that is new is called `conv.bias` for
/// `conv.weight`. What stays as it is: a layer whose result is read elsewhere too, whose weight or bias is shared,
/// and everything whose states are updated.
///
/// # Errors
/// `weights` lacks a state that is folded, or holds it in another shape; then they stay as they were.
pub fn fold_batch_norm(graph: &Graph, weights: &mut Weights) -> Result<Graph, GraphError> {
    let uses = graph.uses();
    let folds: Vec<Fold> = graph.nodes().iter().filter_map(|norm| Fold::find(graph, &uses, norm)).collect();
    let mut folded_weights = weights.clone();
    folds.iter().try_for_each(|fold| fold.scale_weights(graph, &mut folded_weights))?;
    let folded = rewrite(graph, |r, item| match item {
        Item::Node(node) => replace_node(r, node, &folds),
        item => r.copy(item),
    })?;
    let folded = prune_unused(&folded)?;
    verify(&folded, Stage::Step)?;
    let is_gone = |name: &str| graph.find(name).is_some() && folded.find(name).is_none();
    folded_weights.retain(|name, _| !is_gone(name));
    *weights = folded_weights;
    Ok(folded)
}

/// A layer `y = W x + b` and the BatchNorm after it.
struct Fold {
    /// Result of the BatchNorm.
    norm: ValueId,
    /// Result of the layer, with its bias.
    layer: ValueId,
    weight: ValueId,
    /// The weight's axis of output channels.
    axis: usize,
    bias: Option<ValueId>,
    /// gamma, beta, mean, var.
    statistics: [ValueId; 4],
    eps: f32,
}

fn replace_node(r: &mut Rewrite<'_>, node: &Node, folds: &[Fold]) -> Result<(), GraphError> {
    let y = node.outputs[0];
    if let Some(fold) = folds.iter().find(|fold| fold.norm == y) {
        let layer = r.at(fold.layer)?;
        r.replace(y, layer);
        return Ok(());
    }
    match folds.iter().find(|fold| fold.layer == y && fold.bias.is_none()) {
        Some(fold) => fold.add_bias(r, node),
        None => r.copy(Item::Node(node)),
    }
}

/// Whether `id` is a state that no run changes.
fn is_constant(graph: &Graph, id: ValueId) -> bool {
    match graph.value(id).source {
        Source::State(state) => graph.states()[state].next.is_none(),
        Source::Input | Source::Node { .. } => false,
    }
}

impl Fold {
    /// The fold of `norm` into the layer before it, where that is possible.
    fn find(graph: &Graph, uses: &[usize], norm: &Node) -> Option<Fold> {
        let Op::BatchNorm { eps, .. } = norm.op else { return None };
        let (layer, statistics) = norm.inputs.split_first()?;
        let statistics: [ValueId; 4] = statistics.try_into().ok()?;
        let (product, bias) = match graph.producer(*layer)? {
            Node { op: Op::Binary { f: BinaryFn::Add }, inputs, .. } => (inputs[0], Some(inputs[1])),
            node => (*layer, node.inputs.get(2).copied()),
        };
        let node = graph.producer(product)?;
        let axis = match node.op {
            Op::Conv { .. } if product == *layer => 0,
            Op::MatMul { trans_b, .. } if graph.ty(product).shape.rank() == 2 => usize::from(!trans_b),
            _ => return None,
        };
        let weight = node.inputs[1];
        let is_read_once = |id: ValueId| uses[id.index()] == 1;
        let is_own = |id: ValueId| is_read_once(id) && is_constant(graph, id);
        let folds = is_read_once(*layer)
            && is_read_once(product)
            && is_own(weight)
            && bias.is_none_or(|bias| is_own(bias) && graph.ty(bias) == graph.ty(statistics[1]))
            && statistics.iter().all(|&id| is_constant(graph, id));
        folds.then_some(Fold { norm: norm.outputs[0], layer: *layer, weight, axis, bias, statistics, eps })
    }

    /// Carries over a layer that had no bias, with one.
    fn add_bias(&self, r: &mut Rewrite<'_>, node: &Node) -> Result<(), GraphError> {
        let ty = r.old.ty(self.statistics[1]).clone();
        let bias = r.new.add_state(&self.bias_name(r.old), Role::Weight, ty)?;
        let inputs = r.all(&node.inputs)?;
        let name = r.name(node.outputs[0]).to_string();
        let y = match &node.op {
            Op::MatMul { .. } => {
                let product =
                    r.new.add(&r.old.fresh(&format!("{name}.product")), node.op.clone(), &inputs)?;
                r.new.sum(&name, product, bias)?
            }
            op => r.new.add(&name, op.clone(), &[inputs[0], inputs[1], bias])?,
        };
        r.replace(node.outputs[0], y);
        Ok(())
    }

    fn bias_name(&self, graph: &Graph) -> String {
        if let Some(bias) = self.bias {
            return graph.value(bias).name.clone();
        }
        let weight = &graph.value(self.weight).name;
        graph.fresh(&format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight)))
    }

    /// `W' = s W` and `b' = beta + s (b - mean)`, with `s = gamma / sqrt(var + eps)` for each output channel.
    fn scale_weights(&self, graph: &Graph, weights: &mut Weights) -> Result<(), GraphError> {
        let [gamma, beta, mean, var] = self.statistics.map(|id| floats(graph, weights, id));
        let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
        let deviation = |v: f64| (v + f64::from(self.eps)).sqrt();
        let scale: Vec<f64> = gamma.iter().zip(&var).map(|(g, &v)| g / deviation(v)).collect();
        let bias = self.bias.map_or(Ok(vec![0.0; scale.len()]), |id| floats(graph, weights, id))?;
        let bias = (0..scale.len()).map(|c| (beta[c] + scale[c] * (bias[c] - mean[c])) as f32).collect();
        let shape = sizes(graph, self.weight);
        let inner: usize = shape[self.axis + 1..].iter().product();
        let weight = floats(graph, weights, self.weight)?;
        let scaled = |(i, w): (usize, &f64)| (w * scale[i / inner % scale.len()]) as f32;
        let weight = Tensor::f32(&shape, weight.iter().enumerate().map(scaled).collect());
        weights.insert(graph.value(self.weight).name.clone(), weight);
        weights.insert(self.bias_name(graph), Tensor::f32(&[scale.len()], bias));
        Ok(())
    }
}

fn sizes(graph: &Graph, state: ValueId) -> Vec<usize> {
    graph.ty(state).shape.0.iter().map(|dim| dim.factor).collect()
}

fn floats(graph: &Graph, weights: &Weights, state: ValueId) -> Result<Vec<f64>, GraphError> {
    let value = graph.value(state);
    let name = &value.name;
    let tensor = weights
        .get(name)
        .ok_or_else(|| GraphError::Invalid(format!("the weights lack the state `{name}`")))?;
    if tensor.ty() != (TensorType { dtype: value.ty.dtype, shape: Shape::known(&sizes(graph, state)) }) {
        let (have, want) = (tensor.ty(), &value.ty);
        return Err(GraphError::Invalid(format!(
            "the weights hold `{name}` as {have}, the graph has {want}"
        )));
    }
    let floats = tensor.as_f32().ok_or_else(|| GraphError::Invalid(format!("`{name}` should be f32")))?;
    Ok(floats.iter().map(|&x| f64::from(x)).collect())
}
