//! The same function in fewer ops: what exporters write out step by step gets its own name back.

use espalier_graph::{BinaryFn, Graph, GraphError, Node, Op, Stage, UnaryFn, ValueId, Window, verify};

use crate::prune_unused::prune_unused;
use crate::rewrite::{Item, Rewrite, rewrite};

/// The graph in which
///
/// * `x sigmoid(x)`, `x clip(x + 3, 0, 6) / 6` and `x (1 + erf(x / sqrt 2)) / 2` are SiLU, hard swish and GELU;
/// * scalings, clamps, reshapes and permutations that follow their like are one;
/// * padding with zeros is part of the convolution or the average that looks at it.
///
/// Values agree up to rounding.
///
/// # Errors
/// The graph is not valid.
pub fn simplify(graph: &Graph) -> Result<Graph, GraphError> {
    let simpler = rewrite(graph, |r, item| match item {
        Item::Node(node) => replace_node(r, node),
        item => r.copy(item),
    })?;
    let pruned = prune_unused(&simpler)?;
    verify(&pruned, Stage::Step)?;
    Ok(pruned)
}

/// What a node becomes.
enum Simpler {
    /// A value that is there already.
    Value(ValueId),
    /// Another op.
    Node(Op, Vec<ValueId>),
}

fn replace_node(r: &mut Rewrite<'_>, node: &Node) -> Result<(), GraphError> {
    if node.outputs.len() != 1 {
        return r.copy(Item::Node(node));
    }
    let (mut op, mut inputs) = (node.op.clone(), r.all(&node.inputs)?);
    while let Some(simpler) = simpler(&r.new, &op, &inputs) {
        match simpler {
            Simpler::Value(value) => {
                r.replace(node.outputs[0], value);
                return Ok(());
            }
            Simpler::Node(simpler, of) => (op, inputs) = (simpler, of),
        }
    }
    let name = r.name(node.outputs[0]).to_string();
    let made = r.new.add(&name, op, &inputs)?;
    r.replace(node.outputs[0], made);
    Ok(())
}

fn simpler(graph: &Graph, op: &Op, inputs: &[ValueId]) -> Option<Simpler> {
    let x = *inputs.first()?;
    match op {
        Op::Unary { f } => unary(graph, *f, x),
        Op::Binary { f: BinaryFn::Mul } => {
            let y = inputs[1];
            let (f, x) = product(graph, x, y).or_else(|| product(graph, y, x))?;
            Some(Simpler::Node(Op::Unary { f }, vec![x]))
        }
        Op::Reshape { shape } if graph.ty(x).shape == *shape => Some(Simpler::Value(x)),
        Op::Reshape { .. } => match graph.producer(x)? {
            Node { op: Op::Reshape { .. }, inputs, .. } => Some(Simpler::Node(op.clone(), inputs.clone())),
            _ => None,
        },
        Op::Transpose { perm } if perm.is_sorted() => Some(Simpler::Value(x)),
        Op::Transpose { perm } => match graph.producer(x)? {
            Node { op: Op::Transpose { perm: first }, inputs, .. } => {
                let perm = perm.iter().map(|&p| first[p]).collect();
                Some(Simpler::Node(Op::Transpose { perm }, inputs.clone()))
            }
            _ => None,
        },
        Op::Conv { window, groups } => {
            let (window, x) = unpadded(graph, window, x)?;
            let rest = inputs[1..].iter().copied();
            Some(Simpler::Node(
                Op::Conv { window, groups: *groups },
                std::iter::once(x).chain(rest).collect(),
            ))
        }
        Op::AvgPool { window, count_pad } if *count_pad || window.pad == [0; 4] => {
            let (window, x) = unpadded(graph, window, x)?;
            let fits = (0..4).all(|side| window.pad[side] < window.kernel[side % 2]);
            fits.then(|| Simpler::Node(Op::AvgPool { window, count_pad: true }, vec![x]))
        }
        _ => None,
    }
}

/// The window with the zeros that were put around its input as padding of its own.
fn unpadded(graph: &Graph, window: &Window, x: ValueId) -> Option<(Window, ValueId)> {
    let node = graph.producer(x)?;
    match node.op {
        Op::Pad { axis: axis @ (2 | 3), before, after, value: 0.0 } => {
            let mut window = *window;
            window.pad[axis - 2] += before;
            window.pad[axis] += after;
            Some((window, node.inputs[0]))
        }
        _ => None,
    }
}

/// The function that makes `id`, and of what.
fn function(graph: &Graph, id: ValueId) -> Option<(UnaryFn, ValueId)> {
    match graph.producer(id)? {
        Node { op: Op::Unary { f }, inputs, .. } => Some((*f, inputs[0])),
        _ => None,
    }
}

/// The bounds of a clamp.
fn bounds(f: UnaryFn) -> Option<[f32; 2]> {
    match f {
        UnaryFn::Relu => Some([0.0, f32::INFINITY]),
        UnaryFn::Clip { lo, hi } => Some([lo, hi]),
        _ => None,
    }
}

fn near(have: f32, want: f32) -> bool {
    (have - want).abs() <= 1e-5 * want.abs()
}

fn unary(graph: &Graph, f: UnaryFn, x: ValueId) -> Option<Simpler> {
    if f == (UnaryFn::Affine { scale: 1.0, offset: 0.0 }) {
        return Some(Simpler::Value(x));
    }
    let (f, x) = match f {
        UnaryFn::Affine { scale, offset: 0.0 } => {
            scaled_product(graph, scale, x).or_else(|| of_function(graph, f, x))
        }
        _ => of_function(graph, f, x),
    }?;
    Some(Simpler::Node(Op::Unary { f }, vec![x]))
}

/// `f(g(x))` as one function.
fn of_function(graph: &Graph, f: UnaryFn, y: ValueId) -> Option<(UnaryFn, ValueId)> {
    let (g, x) = function(graph, y)?;
    if let (Some([lo, hi]), Some(inner)) = (bounds(f), bounds(g)) {
        let [lo, hi] = inner.map(|bound| bound.max(lo).min(hi));
        let f = if [lo, hi] == [0.0, f32::INFINITY] { UnaryFn::Relu } else { UnaryFn::Clip { lo, hi } };
        return Some((f, x));
    }
    match (f, g) {
        (UnaryFn::Affine { scale, offset }, UnaryFn::Affine { scale: s, offset: o }) => {
            let (scale, offset) = (scale * s, scale * o + offset);
            (scale.is_finite() && offset.is_finite()).then_some((UnaryFn::Affine { scale, offset }, x))
        }
        (UnaryFn::Clip { lo: 0.0, hi: 1.0 }, UnaryFn::Affine { scale, offset }) => {
            Some((UnaryFn::HardSigmoid { alpha: scale, beta: offset }, x))
        }
        // clip(x + 3, 0, 6) / 6
        (UnaryFn::Affine { scale, offset: 0.0 }, UnaryFn::Clip { lo: 0.0, hi }) if near(scale * hi, 1.0) => {
            match function(graph, x)? {
                (UnaryFn::Affine { scale: s, offset }, x) => {
                    Some((UnaryFn::HardSigmoid { alpha: scale * s, beta: scale * offset }, x))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// `x * g` as a function of one value alone, and of which.
fn product(graph: &Graph, x: ValueId, g: ValueId) -> Option<(UnaryFn, ValueId)> {
    match function(graph, g)? {
        (UnaryFn::Sigmoid, of) if of == x => Some((UnaryFn::Silu, x)),
        (UnaryFn::HardSigmoid { alpha, beta }, of)
            if of == x && near(alpha, 1.0 / 6.0) && near(beta, 0.5) =>
        {
            Some((UnaryFn::HardSwish, x))
        }
        (UnaryFn::Affine { scale, offset }, e) if near(scale, 0.5) && near(offset, 0.5) => {
            is_gauss_error(graph, e, x).then_some((UnaryFn::Gelu, x))
        }
        (UnaryFn::Affine { scale, offset }, e) if near(scale, 1.0) && near(offset, 1.0) => {
            match function(graph, x)? {
                (UnaryFn::Affine { scale, offset: 0.0 }, of) if near(scale, 0.5) => {
                    is_gauss_error(graph, e, of).then_some((UnaryFn::Gelu, of))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// `scale (x * g)`, where the factor stands behind the product; or with half of x in it.
fn scaled_product(graph: &Graph, scale: f32, y: ValueId) -> Option<(UnaryFn, ValueId)> {
    let node = graph.producer(y).filter(|node| node.op == Op::Binary { f: BinaryFn::Mul })?;
    let (a, b) = (node.inputs[0], node.inputs[1]);
    [(a, b), (b, a)].into_iter().find_map(|(x, g)| match function(graph, g)? {
        (UnaryFn::Affine { scale: s, offset: o }, e) if near(s, 1.0) && near(o, 1.0) && near(scale, 0.5) => {
            is_gauss_error(graph, e, x).then_some((UnaryFn::Gelu, x))
        }
        (UnaryFn::Clip { lo: 0.0, hi }, ramp) if near(hi, 6.0) && near(scale, 1.0 / 6.0) => {
            match function(graph, ramp)? {
                (UnaryFn::Affine { scale: s, offset: o }, of) if of == x && near(s, 1.0) && near(o, 3.0) => {
                    Some((UnaryFn::HardSwish, x))
                }
                _ => None,
            }
        }
        _ => None,
    })
}

/// Whether `e` is `erf(x / sqrt 2)`.
fn is_gauss_error(graph: &Graph, e: ValueId, x: ValueId) -> bool {
    let Some((UnaryFn::Erf, inner)) = function(graph, e) else { return false };
    match function(graph, inner) {
        Some((UnaryFn::Affine { scale, offset: 0.0 }, of)) => {
            of == x && near(scale, std::f32::consts::FRAC_1_SQRT_2)
        }
        _ => false,
    }
}
