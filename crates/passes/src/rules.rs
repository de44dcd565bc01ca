//! The table of gradients: one rule for each op, written with the ops of the vocabulary. In each rule `x` are the
//! inputs, `y` is the output and `dy` its gradient.

use espalier_graph::{
    BinaryFn, DType, Dim, Graph, GraphError, Node, Op, ReduceFn, Shape, UnaryFn, ValueId, Window,
};

use crate::backward::{Backward, Gradients, Made};

/// Appends the gradients of `node` for those inputs that `wants` marks; `dy` are the gradients of its outputs.
///
/// # Errors
/// The op has no gradient, or none for the output that has one in `dy`.
pub(crate) fn gradients(graph: &mut Graph, node: &Node, dy: &[Option<ValueId>], wants: &[bool]) -> Gradients {
    let &[Some(dy), ref others @ ..] = dy else {
        return Err(only_first_output(graph, node));
    };
    if others.iter().any(Option::is_some) {
        return Err(only_first_output(graph, node));
    }
    let b = &mut Backward::new(graph, node, dy, wants);
    let x = |i: usize| node.inputs[i];
    match &node.op {
        Op::Conv { window, groups } => b.each(3, |b, i| conv(b, i, *window, *groups)),
        Op::ConvInputGrad { window, groups, .. } => b.each(2, |b, i| conv_input_grad(b, i, *window, *groups)),
        Op::MatMul { trans_a, trans_b } => b.each(2, |b, i| matmul(b, i, *trans_a, *trans_b)),
        Op::MaxPool { window } => b.each(1, |b, _| b.add(Op::MaxPoolGrad { window: *window }, &[x(0), dy])),
        Op::AvgPool { window, count_pad } => b.each(1, |b, _| {
            let input = b.picture_size(x(0));
            b.add(Op::AvgPoolGrad { window: *window, count_pad: *count_pad, input }, &[dy])
        }),
        Op::Resize { mode, .. } => b.each(1, |b, _| {
            let input = b.picture_size(x(0));
            b.add(Op::ResizeGrad { mode: *mode, input }, &[dy])
        }),
        Op::BatchNorm { eps, .. } => b.each(3, |b, i| batch_norm(b, i, *eps)),
        Op::BatchNormTraining { .. } => {
            b.together(Op::BatchNormGrad, &[x(0), dy, x(1), node.outputs[3], node.outputs[4]])
        }
        Op::LayerNorm { eps } => b.together(Op::LayerNormGrad { eps: *eps }, &[x(0), dy, x(1)]),
        Op::Unary { f } => b.each(1, |b, _| unary(b, *f)),
        // The step's gradient is zero, so it has none.
        Op::Binary { f: BinaryFn::Step } => b.each(0, |b, _| Ok(b.dy)),
        Op::Binary { f } => b.each(2, |b, i| {
            let part = binary(b, i, *f)?;
            b.sum_to(part, b.shape(x(i)))
        }),
        Op::Dropout { .. } => b.each(1, |b, _| b.add(node.op.clone(), &[dy, x(1)])),
        Op::Fill { .. } => Ok(Vec::new()),
        // Rounding to integers has gradient zero; `dependents` follows floats only.
        Op::Cast { to } => b.each(usize::from(*to == DType::F32), |b, _| Ok(b.dy)),
        Op::Reduce { f, axes, .. } => b.each(1, |b, _| reduce(b, *f, axes)),
        Op::Softmax { axis } => {
            b.each(1, |b, _| b.add(Op::SoftmaxGrad { axis: *axis }, &[node.outputs[0], dy]))
        }
        Op::LogSoftmax { axis } => b.each(1, |b, _| log_softmax(b, *axis)),
        Op::CrossEntropy => b.each(1, |b, _| b.add(Op::CrossEntropyGrad, &[x(0), x(1), dy])),
        Op::Reshape { .. } => b.each(1, |b, _| b.reshape(dy, b.shape(x(0)))),
        Op::Transpose { perm } => b.each(1, |b, _| b.add(Op::Transpose { perm: inverse(perm) }, &[dy])),
        Op::Expand { .. } => b.each(1, |b, _| b.sum_to(dy, b.shape(x(0)))),
        Op::Concat { axis } => b.each(node.inputs.len(), |b, i| concat(b, i, *axis)),
        Op::Slice { axis, start, end } => b.each(1, |b, _| {
            let after = b.shape(x(0)).0[*axis].factor - end;
            b.add(Op::Pad { axis: *axis, before: *start, after, value: 0.0 }, &[dy])
        }),
        Op::Pad { axis, before, .. } => b.each(1, |b, _| {
            let end = before + b.shape(x(0)).0[*axis].factor;
            b.add(Op::Slice { axis: *axis, start: *before, end }, &[dy])
        }),
        Op::Gather { axis } => b.each(1, |b, _| {
            let size = b.shape(x(0)).0[*axis].factor;
            b.add(Op::GatherGrad { axis: *axis, size }, &[x(1), dy])
        }),
        Op::ConvWeightGrad { .. }
        | Op::MaxPoolGrad { .. }
        | Op::AvgPoolGrad { .. }
        | Op::ResizeGrad { .. }
        | Op::BatchNormGrad
        | Op::LayerNormGrad { .. }
        | Op::UnaryGrad { .. }
        | Op::SoftmaxGrad { .. }
        | Op::CrossEntropyGrad
        | Op::GatherGrad { .. }
        | Op::Quantize { .. }
        | Op::Dequantize
        | Op::QConv { .. }
        | Op::QAdd { .. }
        | Op::QMul { .. }
        | Op::QAvgPool { .. }
        | Op::Table { .. }
        | Op::GlobalNorm
        | Op::Sgd { .. }
        | Op::AdamW { .. }
        | Op::Ema => Err(b.no_gradient()),
    }
}

fn only_first_output(graph: &Graph, node: &Node) -> GraphError {
    let (name, op) = (graph.node_name(node), node.op.name());
    GraphError::Invalid(format!("node `{name}` ({op}): only its first output can have a gradient"))
}

fn conv(b: &mut Backward<'_>, i: usize, window: Window, groups: usize) -> Made {
    match i {
        0 => {
            let input = b.picture_size(b.x(0));
            b.add(Op::ConvInputGrad { window, groups, input }, &[b.dy, b.x(1)])
        }
        1 => b.add(Op::ConvWeightGrad { window, groups }, &[b.x(0), b.dy]),
        _ => b.sum_per_channel(b.dy),
    }
}

/// The transposed convolution swaps the roles of input and output.
fn conv_input_grad(b: &mut Backward<'_>, i: usize, window: Window, groups: usize) -> Made {
    match i {
        0 => b.add(Op::Conv { window, groups }, &[b.dy, b.x(1)]),
        _ => b.add(Op::ConvWeightGrad { window, groups }, &[b.dy, b.x(0)]),
    }
}

/// `y = A B` has `dA = dy Bᵀ` and `dB = Aᵀ dy`; a flag says that the operand is stored transposed.
fn matmul(b: &mut Backward<'_>, i: usize, trans_a: bool, trans_b: bool) -> Made {
    let (a, w, dy) = (b.x(0), b.x(1), b.dy);
    let is_shared = b.shape(a).rank() > 2 && b.shape(w).rank() == 2;
    match (i, is_shared, trans_a, trans_b) {
        (0, _, false, _) => b.matmul(dy, false, w, !trans_b),
        (0, false, true, _) => b.matmul(w, trans_b, dy, true),
        (0, true, true, _) => {
            let transposed = b.matmul(dy, false, w, !trans_b)?;
            b.swap_last_axes(transposed)
        }
        (_, false, _, false) => b.matmul(a, !trans_a, dy, false),
        (_, false, _, true) => b.matmul(dy, true, a, trans_a),
        (_, true, _, _) => {
            let rows = if trans_a { b.swap_last_axes(a)? } else { a };
            let (rows, dy) = (b.as_matrix(rows)?, b.as_matrix(dy)?);
            if trans_b { b.matmul(dy, true, rows, false) } else { b.matmul(rows, true, dy, false) }
        }
    }
}

/// With given statistics, which are constants: `y = (x - mean) * rstd * gamma + beta`.
fn batch_norm(b: &mut Backward<'_>, i: usize, eps: f32) -> Made {
    match i {
        0 => {
            let rstd = reciprocal_deviation(b, eps)?;
            let scale = b.mul(b.x(1), rstd)?;
            let scale = b.per_channel(scale)?;
            b.mul(b.dy, scale)
        }
        1 => {
            let mean = b.per_channel(b.x(3))?;
            let centred = b.binary(BinaryFn::Sub, b.x(0), mean)?;
            let product = b.mul(b.dy, centred)?;
            let sum = b.sum_per_channel(product)?;
            let rstd = reciprocal_deviation(b, eps)?;
            b.mul(sum, rstd)
        }
        _ => b.sum_per_channel(b.dy),
    }
}

fn reciprocal_deviation(b: &mut Backward<'_>, eps: f32) -> Made {
    let variance = b.affine(b.x(4), 1.0, eps)?;
    let deviation = b.unary(UnaryFn::Sqrt, variance)?;
    b.unary(UnaryFn::Reciprocal, deviation)
}

fn unary(b: &mut Backward<'_>, f: UnaryFn) -> Made {
    match f {
        UnaryFn::Neg => b.unary(UnaryFn::Neg, b.dy),
        UnaryFn::Affine { scale, .. } => b.affine(b.dy, scale, 0.0),
        // These have the same derivative at f(x) as at x, and f(x) is kept alive by whoever reads it anyway.
        UnaryFn::Relu | UnaryFn::Clip { .. } => b.add(Op::UnaryGrad { f }, &[b.y(), b.dy]),
        _ => b.add(Op::UnaryGrad { f }, &[b.x(0), b.dy]),
    }
}

/// The gradient for operand `i`, in the broadcast shape.
fn binary(b: &mut Backward<'_>, i: usize, f: BinaryFn) -> Made {
    let (this, other, dy) = (b.x(i), b.x(1 - i), b.dy);
    match (f, i) {
        (BinaryFn::Add, _) | (BinaryFn::Sub, 0) => Ok(dy),
        (BinaryFn::Sub, _) => b.unary(UnaryFn::Neg, dy),
        (BinaryFn::Mul, _) => b.mul(dy, other),
        (BinaryFn::Div, 0) => b.div(dy, other),
        (BinaryFn::Div, _) => {
            let slope = b.div(b.y(), this)?;
            let product = b.mul(dy, slope)?;
            b.unary(UnaryFn::Neg, product)
        }
        (BinaryFn::Max, _) => masked(b, this, other),
        (BinaryFn::Min, _) => masked(b, other, this),
        (BinaryFn::Pow, 0) => {
            let less = b.affine(other, 1.0, -1.0)?;
            let power = b.binary(BinaryFn::Pow, this, less)?;
            let slope = b.mul(power, other)?;
            b.mul(dy, slope)
        }
        (BinaryFn::Pow, _) => {
            let log = b.unary(UnaryFn::Log, other)?;
            let slope = b.mul(b.y(), log)?;
            b.mul(dy, slope)
        }
        (BinaryFn::Step, _) => Err(b.no_gradient()),
    }
}

/// `dy` where `larger > smaller`, half of it where they are equal.
fn masked(b: &mut Backward<'_>, larger: ValueId, smaller: ValueId) -> Made {
    let mask = b.binary(BinaryFn::Step, larger, smaller)?;
    b.mul(b.dy, mask)
}

fn reduce(b: &mut Backward<'_>, f: ReduceFn, axes: &[usize]) -> Made {
    let (x, shape) = (b.x(0), b.shape(b.x(0)));
    let mut kept = shape.clone();
    axes.iter().for_each(|&axis| kept.0[axis] = Dim::from(1));
    let dy = b.reshape(b.dy, kept.clone())?;
    match f {
        ReduceFn::Sum => b.expand(dy, shape),
        ReduceFn::Mean => {
            let count = Shape(axes.iter().map(|&axis| shape.0[axis]).collect()).elements();
            let share = b.divide_by(dy, count)?;
            b.expand(share, shape)
        }
        ReduceFn::Max => {
            let max = b.reshape(b.y(), kept)?;
            // Nothing exceeds the maximum, so the step is 1/2 at every maximum and 0 elsewhere.
            let mask = b.binary(BinaryFn::Step, x, max)?;
            let total = b.sum(mask, axes, true)?;
            let share = b.div(dy, total)?;
            b.mul(mask, share)
        }
    }
}

/// `dx = dy - softmax(x) * sum(dy)`.
fn log_softmax(b: &mut Backward<'_>, axis: usize) -> Made {
    let softmax = b.unary(UnaryFn::Exp, b.y())?;
    let total = b.sum(b.dy, &[axis], true)?;
    let product = b.mul(softmax, total)?;
    b.binary(BinaryFn::Sub, b.dy, product)
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
    inverse
}

fn concat(b: &mut Backward<'_>, i: usize, axis: usize) -> Made {
    let size = |b: &Backward<'_>, i: usize| b.shape(b.x(i)).0[axis].factor;
    let start = (0..i).map(|before| size(b, before)).sum();
    let end = start + size(b, i);
    b.add(Op::Slice { axis, start, end }, &[b.dy])
}
