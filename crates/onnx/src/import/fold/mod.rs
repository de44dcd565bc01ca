//! What is computed when a file is imported: sizes, axes, indices, masks, and arithmetic of constants. One function for
//! each operator, as in ONNX's specification; the size of a result is checked against the budget before it is made.

mod arithmetic;
mod creation;
mod movement;

pub(crate) use arithmetic::of_type;
pub(crate) use creation::part_of_shape;
pub(crate) use movement::permutation;

use std::rc::Rc;

use crate::import::constant::{Constant, Elements, Int};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::node::Node;

type Folded = Result<Vec<Constant>, Fault>;

/// The results of `node` over known inputs, or `None` where the operator is not one of these.
pub(crate) fn fold(
    node: &Node,
    inputs: &[Option<Rc<Constant>>],
    opset: i64,
    budget: &mut usize,
) -> Option<Folded> {
    let rule: fn(&mut Call<'_>) -> Folded = match node.op.as_str() {
        // Broadcasting to a shape that holds N is work for every run.
        "Expand" if depends_on_batch(inputs.get(1)) => return None,
        "ConstantOfShape" if depends_on_batch(inputs.first()) => return None,
        "Constant" => creation::constant,
        "ConstantOfShape" => creation::of_shape,
        "Range" => creation::range,
        "Identity" | "Dropout" => movement::identity,
        "Shape" => creation::shape,
        "Size" => creation::size,
        "Reshape" => movement::reshape,
        "Flatten" => movement::flatten,
        "Squeeze" => movement::squeeze,
        "Unsqueeze" => movement::unsqueeze,
        "Transpose" => movement::transpose,
        "Concat" => movement::concat,
        "Slice" => movement::slice,
        "Split" => movement::split,
        "Gather" => movement::gather,
        "Expand" => movement::expand,
        "Tile" => movement::tile,
        "Cast" | "CastLike" => arithmetic::cast,
        "Where" => arithmetic::choose,
        "Not" => arithmetic::not,
        "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Log" | "Sin" | "Cos" | "Sigmoid"
        | "Tanh" | "Relu" | "Reciprocal" => arithmetic::unary,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" => arithmetic::binary,
        "Clip" => arithmetic::clip,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" => arithmetic::compare,
        "And" | "Or" | "Xor" => arithmetic::logic,
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceMean" => arithmetic::reduce,
        _ => return None,
    };
    let mut call = Call { node, inputs, opset, budget };
    if MOVEMENT.contains(&node.op.as_str()) {
        return Some(rule(&mut call));
    }
    let widened = match call.widened() {
        Ok(widened) => widened,
        Err(fault) => return Some(Err(fault)),
    };
    Some(rule(&mut Call { inputs: &widened, ..call }))
}

/// What does not compute with elements, so that bytes stay bytes.
const MOVEMENT: [&str; 13] = [
    "Identity",
    "Dropout",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Split",
    "Gather",
    "Tile",
    "Shape",
    "Size",
];

fn depends_on_batch(input: Option<&Option<Rc<Constant>>>) -> bool {
    let is_size = |v: &Int| v.known().is_none();
    matches!(input, Some(Some(c)) if matches!(&c.elements, Elements::Ints(v) if v.iter().any(is_size)))
}

/// One operator over known inputs.
struct Call<'a> {
    node: &'a Node,
    inputs: &'a [Option<Rc<Constant>>],
    opset: i64,
    budget: &'a mut usize,
}

impl<'a> Call<'a> {
    fn optional(&self, at: usize) -> Option<&'a Rc<Constant>> {
        self.inputs.get(at)?.as_ref()
    }

    fn input(&self, at: usize) -> Result<&'a Rc<Constant>, Fault> {
        self.optional(at).ok_or_else(|| malformed(format!("lacks input {at}")))
    }

    /// A list of integers that older versions have as the attribute `name`, newer ones as input `at`.
    fn list(&self, name: &str, at: usize) -> Result<Option<Vec<i64>>, Fault> {
        match self.node.ints(name)? {
            Some(list) => Ok(Some(list.to_vec())),
            None => self.optional(at).map(|c| c.known_ints()).transpose(),
        }
    }

    /// Takes what `count` elements like those of `elements` need from the budget.
    fn pay(&mut self, elements: &Elements, shape: &[usize]) -> Result<(), Fault> {
        if shape.len() > crate::import::MAX_RANK {
            return Err(malformed(format!(
                "gives {} axes, at most {} are read",
                shape.len(),
                crate::import::MAX_RANK
            )));
        }
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        let left = self.budget.checked_sub(elements.bytes(count));
        *self.budget = left.ok_or_else(|| {
            unsupported(format!(
                "a constant of shape {shape:?}; what is computed at import would take too much memory"
            ))
        })?;
        Ok(())
    }

    /// The inputs with bytes as the integers that arithmetic takes.
    fn widened(&mut self) -> Result<Vec<Option<Rc<Constant>>>, Fault> {
        let inputs = self.inputs;
        let widen = |c: &Option<Rc<Constant>>| match c {
            Some(c) if c.elements.is_bytes() => {
                self.pay(&Elements::Ints(Vec::new()), &c.shape)?;
                Ok(Some(Rc::new(Constant { elements: c.elements.widened(), ..Constant::clone(c) })))
            }
            c => Ok(c.clone()),
        };
        inputs.iter().map(widen).collect()
    }

    /// A tensor of shape `shape` whose element at some coordinates is the one of `c` at the given position.
    fn moved(
        &mut self,
        c: &Constant,
        shape: Vec<usize>,
        source: impl Fn(&[usize]) -> usize,
    ) -> Result<Constant, Fault> {
        self.pay(&c.elements, &shape)?;
        let elements = c.elements.take(Coordinates::new(&shape).map(|at| source(&at)));
        Ok(Constant::new(shape, elements))
    }
}

/// All coordinates of a shape in row-major order.
struct Coordinates {
    shape: Vec<usize>,
    next: Option<Vec<usize>>,
}

impl Coordinates {
    fn new(shape: &[usize]) -> Self {
        let next = (!shape.contains(&0)).then(|| vec![0; shape.len()]);
        Coordinates { shape: shape.to_vec(), next }
    }
}

impl Iterator for Coordinates {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let now = self.next.clone()?;
        let following = self.next.as_mut().expect("just seen");
        let turned = (0..self.shape.len()).rev().find(|&axis| {
            following[axis] += 1;
            let fits = following[axis] < self.shape[axis];
            if !fits {
                following[axis] = 0;
            }
            fits
        });
        if turned.is_none() {
            self.next = None;
        }
        Some(now)
    }
}

/// The distance in elements between neighbours along each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// NumPy's broadcasting of two shapes.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], axis: usize| (axis + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let dims = (0..rank).map(|axis| match (at(a, axis), at(b, axis)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(malformed(format!("joins {a:?} and {b:?}, which do not broadcast"))),
    });
    dims.collect()
}

/// Strides of `shape` within a result of `rank` axes: 0 where it is broadcast.
fn broadcast_strides(shape: &[usize], rank: usize) -> Vec<usize> {
    let own = strides(shape);
    let skipped = rank - shape.len();
    (0..rank)
        .map(|axis| axis.checked_sub(skipped).map_or(0, |i| if shape[i] == 1 { 0 } else { own[i] }))
        .collect()
}

fn position(at: &[usize], strides: &[usize]) -> usize {
    at.iter().zip(strides).map(|(i, s)| i * s).sum()
}
