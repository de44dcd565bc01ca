//! Floats that depend on one byte alone, known for all 256 of them.

use std::rc::Rc;

use espalier_graph::{DType, Graph, Node, Op, Quant, Source, ValueId};

use super::{Pass, Rounding};
use crate::layer::is_constant;

/// A function of one byte.
#[derive(Clone)]
pub(super) struct Function {
    /// The new bytes that it is of.
    pub(super) root: ValueId,
    /// Its value for each byte, in the arithmetic of f32: every step is rounded.
    values: Rc<[f32; 256]>,
}

impl Function {
    /// What the bytes `root` stand for.
    pub(super) fn identity(root: ValueId, quant: Quant) -> Self {
        Function { root, values: Rc::new(std::array::from_fn(|q| quant.dequantize(q as u8))) }
    }

    /// What the bytes stand for that `entries` makes of those of `root`.
    pub(super) fn of_bytes(root: ValueId, entries: &[u8; 256], quant: Quant) -> Self {
        Function { root, values: Rc::new(entries.map(|q| quant.dequantize(q))) }
    }

    fn then(&self, f: impl Fn(usize, f64) -> f64) -> Self {
        let values = std::array::from_fn(|q| f(q, f64::from(self.values[q])) as f32);
        Function { root: self.root, values: Rc::new(values) }
    }

    /// Its values as another type; `None` where f32 could not hold them.
    fn cast(&self, to: DType) -> Option<Self> {
        const EXACT: f32 = (1 << f32::MANTISSA_DIGITS) as f32;
        match to {
            DType::F32 => Some(self.clone()),
            DType::I32 if self.values.iter().all(|v| v.abs() <= EXACT) => Some(self.then(|_, x| x.trunc())),
            _ => None,
        }
    }

    /// Its values as indices of `list`; `None` where one lies outside.
    fn picked(&self, list: &[f32]) -> Option<Self> {
        let inside = |&v: &f32| (0.0..list.len() as f32).contains(&v);
        self.values.iter().all(inside).then(|| self.then(|_, at| f64::from(list[at as usize])))
    }

    /// The function rounded to bytes.
    pub(super) fn entries(&self, how: Rounding) -> [u8; 256] {
        let [lo, hi] = how.limits;
        self.values.map(|v| how.to.quantize(v).clamp(lo, hi))
    }
}

/// An operand of an elementwise op.
enum Operand {
    Function(Function),
    Number(f64),
}

impl Operand {
    fn at(&self, q: usize) -> f64 {
        match self {
            Operand::Function(function) => f64::from(function.values[q]),
            Operand::Number(number) => *number,
        }
    }
}

impl Pass<'_> {
    /// The result of an elementwise node as a function of one byte.
    pub(super) fn function_of(&self, graph: &Graph, node: &Node) -> Option<Function> {
        match &node.op {
            Op::Unary { f } => Some(self.functions.get(&node.inputs[0])?.then(|_, x| f.value(x))),
            Op::Binary { f } => {
                let [a, b] = [self.operand(graph, node.inputs[0])?, self.operand(graph, node.inputs[1])?];
                let function = match (&a, &b) {
                    (Operand::Function(a), Operand::Function(b)) if a.root != b.root => return None,
                    (Operand::Function(function), _) | (_, Operand::Function(function)) => function,
                    (Operand::Number(_), Operand::Number(_)) => return None,
                };
                // Broadcasting a function would make more elements than there are bytes.
                let whole = [0, 1].iter().any(|&i| graph.ty(node.inputs[i]) == graph.ty(node.outputs[0]));
                let functions = [&a, &b].iter().filter(|o| matches!(o, Operand::Function(_))).count();
                let alike = functions == 1 || graph.ty(node.inputs[0]) == graph.ty(node.inputs[1]);
                (whole && alike).then(|| function.then(|q, _| f.value(a.at(q), b.at(q))))
            }
            Op::Cast { to } => self.functions.get(&node.inputs[0])?.cast(*to),
            Op::Gather { axis: 0 } => {
                self.functions.get(&node.inputs[1])?.picked(self.list(graph, node.inputs[0])?)
            }
            _ => None,
        }
    }

    /// The floats of a constant list.
    fn list(&self, graph: &Graph, id: ValueId) -> Option<&[f32]> {
        let tensor = self.weights.get(&graph.value(id).name).filter(|_| is_constant(graph, id))?;
        tensor.as_f32().filter(|_| tensor.shape.len() == 1)
    }

    fn operand(&self, graph: &Graph, id: ValueId) -> Option<Operand> {
        if let Some(function) = self.functions.get(&id) {
            return Some(Operand::Function(function.clone()));
        }
        match graph.value(id).source {
            Source::State(state) if graph.states()[state].next.is_none() => {
                let name = &graph.value(id).name;
                let number = match self.bytes.get(name) {
                    Some(bytes) => bytes.number(),
                    None => match self.weights.get(name)?.as_f32()? {
                        &[number] => Some(number),
                        _ => None,
                    },
                };
                number.map(|number| Operand::Number(number.into()))
            }
            _ => match graph.producer(id)?.op {
                Op::Fill { value, .. } => Some(Operand::Number(value.into())),
                _ => None,
            },
        }
    }
}
