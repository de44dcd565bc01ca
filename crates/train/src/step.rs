//! The training step as a graph: forward, loss, backward, clip, update.

use espalier_graph::{
    BinaryFn, Graph, GraphError, Op, ReduceFn, Role, Shape, Stage, TensorType, ValueId, verify,
};
use espalier_passes::{Optimizer, differentiate, ema, prune_unused, training, update};

/// What a step does besides the network's own work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// How weights follow gradients.
    pub optimizer: Optimizer,
    /// Weight decay of matrices and filters.
    pub weight_decay: f32,
    /// Largest norm of all gradients together.
    pub clip_norm: Option<f32>,
    /// Whether a moving average of weights and running statistics is kept.
    pub ema: bool,
}

/// Appends loss, gradients and updates to a trainable network: a classifier with output `logits`, or an autoencoder with output
/// `reconstruction`. The step's inputs are the network's, of a classifier `target [N,K]`, `lr`, and what optimizer and moving average
/// ask for; its outputs `loss []` and the network's. States for which `frozen` holds stay as they are.
///
/// # Errors
/// No output `logits` of rank 2 and no `reconstruction`; nothing left to train.
pub fn training_step(
    network: &Graph,
    options: &StepOptions,
    frozen: &dyn Fn(&str) -> bool,
) -> Result<Graph, GraphError> {
    let (mut graph, pairs) = with_gradients(network, frozen)?;
    let decays = espalier_passes::decays_by_default;
    update(&mut graph, &pairs, options.optimizer, options.weight_decay, &decays, options.clip_norm)?;
    if options.ema {
        ema(&mut graph)?;
    }
    let graph = prune_unused(&graph)?;
    verify(&graph, Stage::Step)?;
    Ok(graph)
}

/// The forward graph of training with its loss, and every weight that `frozen` leaves free with its gradient.
fn with_gradients(
    network: &Graph,
    frozen: &dyn Fn(&str) -> bool,
) -> Result<(Graph, Vec<(ValueId, ValueId)>), GraphError> {
    let mut graph = training(network, frozen)?;
    let loss = loss(&mut graph)?;
    graph.add_output("loss", loss)?;
    let seed = graph.add("loss.seed", Op::Fill { shape: Shape::default(), value: 1.0 }, &[])?;
    let weights = trained(&graph, frozen);
    if weights.is_empty() {
        return Err(GraphError::Invalid("every weight is frozen: there is nothing to train".into()));
    }
    let gradients = differentiate(&mut graph, &[(loss, seed)], &weights)?;
    let pairs: Vec<(ValueId, ValueId)> =
        weights.iter().zip(gradients).filter_map(|(&w, g)| g.map(|g| (w, g))).collect();
    Ok((graph, pairs))
}

/// What is to become small: of `logits` the cross-entropy with `target`, of a `reconstruction` the mean square of what is left of
/// `x`.
fn loss(graph: &mut Graph) -> Result<ValueId, GraphError> {
    match (graph.output("logits"), graph.output("reconstruction"), graph.find("x")) {
        (Some(logits), ..) => {
            let target = graph.add_input("target", graph.ty(logits).clone())?;
            graph.add("loss", Op::CrossEntropy, &[logits, target])
        }
        (None, Some(again), Some(x)) => {
            let left = graph.add("loss.left", Op::Binary { f: BinaryFn::Sub }, &[x, again])?;
            let squares = graph.add("loss.squares", Op::Binary { f: BinaryFn::Mul }, &[left, left])?;
            let axes = (0..graph.ty(squares).shape.rank()).collect();
            graph.add("loss", Op::Reduce { f: ReduceFn::Mean, axes, keep: false }, &[squares])
        }
        _ => Err(GraphError::Invalid("a classifier has an output `logits`".into())),
    }
}

/// A step that changes no weight: its outputs are `loss []`, `logits`, and for every weight `NAME` the gradient of the loss,
/// `gradient.NAME`. The inputs are the network's and `target [N,K]`.
///
/// # Errors
/// As [`training_step`].
pub fn gradient_step(network: &Graph) -> Result<Graph, GraphError> {
    let (mut graph, pairs) = with_gradients(network, &|_| false)?;
    for (weight, gradient) in pairs {
        let name = gradient_name(&graph.value(weight).name);
        graph.add_output(&name, gradient)?;
    }
    let graph = prune_unused(&graph)?;
    verify(&graph, Stage::Step)?;
    Ok(graph)
}

/// The output of a [`gradient_step`] for the weight `name`.
pub fn gradient_name(name: &str) -> String {
    format!("gradient.{name}")
}

fn trained(graph: &Graph, frozen: &dyn Fn(&str) -> bool) -> Vec<ValueId> {
    let weights = graph.states().iter().filter(|s| s.role == Role::Weight).map(|s| s.value);
    weights.filter(|&id| !frozen(&graph.value(id).name) && is_float(graph.ty(id))).collect()
}

fn is_float(ty: &TensorType) -> bool {
    ty.dtype == espalier_graph::DType::F32
}
