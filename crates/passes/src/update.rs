//! Appends what gradient descent does with gradients: clipping, then one update for each weight.

use espalier_graph::{
    BinaryFn, Graph, GraphError, Op, Role, Shape, Stage, TensorType, UnaryFn, ValueId, verify,
};

/// How weights follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Share of the last step that is kept; 0 for none.
        momentum: f32,
        /// Looks ahead by the momentum (Nesterov 1983).
        nesterov: bool,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
}

/// The usual rule for weight decay: matrices and filters decay; biases and norm parameters, of rank 1, do not.
pub fn decays_by_default(_name: &str, rank: usize) -> bool {
    rank > 1
}

/// Appends the update of each state in `grads`, a list of states with their gradients, and declares it as what the
/// state becomes.
///
/// Declares the input `lr f32[]`, for AdamW also `step f32[]` (counted from 1), and the optimizer states
/// `NAME.momentum` or `NAME.exp_avg` and `NAME.exp_avg_sq`, which begin as zeros. `weight_decay` acts on the states
/// whose name and rank `decays` takes. With `clip_norm` all gradients are scaled so that their norm together, the value
/// `grad_norm`, is at most that.
///
/// The order of nodes is: what was there | clip | updates.
///
/// # Errors
/// A value in `grads` that is no state, is updated already, or differs from its gradient's type; a `clip_norm` that is
/// not positive.
pub fn update(
    graph: &mut Graph,
    grads: &[(ValueId, ValueId)],
    optimizer: Optimizer,
    weight_decay: f32,
    decays: &dyn Fn(&str, usize) -> bool,
    clip_norm: Option<f32>,
) -> Result<(), GraphError> {
    let gradients: Vec<ValueId> = grads.iter().map(|&(_, gradient)| gradient).collect();
    let lr = scalar_input(graph, "lr")?;
    let mut scalars = vec![lr, scale(graph, &gradients, clip_norm)?];
    if let Optimizer::AdamW { .. } = optimizer {
        scalars.push(scalar_input(graph, "step")?);
    }
    for &(state, gradient) in grads {
        let decay =
            if decays(&graph.value(state).name, graph.ty(state).shape.rank()) { weight_decay } else { 0.0 };
        update_one(graph, state, gradient, optimizer, decay, &scalars)?;
    }
    verify(graph, Stage::Step)
}

fn scalar_input(graph: &mut Graph, name: &str) -> Result<ValueId, GraphError> {
    graph.find(name).map_or_else(|| graph.add_input(name, TensorType::f32(Shape::default())), Ok)
}

/// `min(1, limit / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`, or 1.
fn scale(graph: &mut Graph, gradients: &[ValueId], clip_norm: Option<f32>) -> Result<ValueId, GraphError> {
    let one = Op::Fill { shape: Shape::default(), value: 1.0 };
    let Some(limit) = clip_norm else {
        return graph.add(&graph.fresh("clip.scale"), one, &[]);
    };
    if !(limit > 0.0 && limit.is_finite()) {
        return Err(GraphError::Invalid(format!("the norm to clip to is {limit}, it should be positive")));
    }
    let norm = graph.add(&graph.fresh("grad_norm"), Op::GlobalNorm, gradients)?;
    let offset = UnaryFn::Affine { scale: 1.0 / limit, offset: 1e-6 / limit };
    let excess = graph.unary(&graph.fresh("clip.excess"), offset, norm)?;
    let shrink = graph.unary(&graph.fresh("clip.shrink"), UnaryFn::Reciprocal, excess)?;
    let one = graph.add(&graph.fresh("clip.one"), one, &[])?;
    graph.add(&graph.fresh("clip.scale"), Op::Binary { f: BinaryFn::Min }, &[shrink, one])
}

fn update_one(
    graph: &mut Graph,
    state: ValueId,
    gradient: ValueId,
    optimizer: Optimizer,
    decay: f32,
    scalars: &[ValueId],
) -> Result<(), GraphError> {
    let (op, moments): (_, &[&str]) = match optimizer {
        Optimizer::Sgd { momentum, nesterov } => (Op::Sgd { momentum, nesterov, decay }, &["momentum"]),
        Optimizer::AdamW { beta1, beta2, eps } => {
            (Op::AdamW { beta1, beta2, eps, decay }, &["exp_avg", "exp_avg_sq"])
        }
    };
    let value = graph.value(state).clone();
    let mut states = vec![state];
    for moment in moments {
        states.push(graph.add_state(
            &format!("{}.{moment}", value.name),
            Role::Optimizer,
            value.ty.clone(),
        )?);
    }
    let inputs = [&[state, gradient], &states[1..], scalars].concat();
    let names: Vec<String> = states.iter().map(|&id| format!("{}.next", graph.value(id).name)).collect();
    let next = graph.add_named(&names, op, &inputs)?;
    states.iter().zip(next).try_for_each(|(&state, next)| graph.set_next(state, next))
}
