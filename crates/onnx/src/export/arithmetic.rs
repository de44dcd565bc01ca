//! Element functions, reductions and what goes along one axis.

use espalier_graph::{BinaryFn, DType, Node, ReduceFn, UnaryFn};

use super::draft::{float, int, ints};
use super::{Exporter, Written};
use crate::proto::{AttributeProto, data};

impl Exporter<'_> {
    /// Writes `y = f(x)`; functions without an operator in the steps that exporters write them in.
    pub(super) fn function(&mut self, f: UnaryFn, x: &str, y: &str) {
        let attributes: Vec<AttributeProto> = match f {
            UnaryFn::LeakyRelu { slope } => vec![float("alpha", slope)],
            UnaryFn::HardSigmoid { alpha, beta } => vec![float("alpha", alpha), float("beta", beta)],
            _ => Vec::new(),
        };
        let op = match f {
            UnaryFn::Relu => "Relu",
            UnaryFn::LeakyRelu { .. } => "LeakyRelu",
            UnaryFn::Sigmoid => "Sigmoid",
            UnaryFn::HardSwish => "HardSwish",
            UnaryFn::HardSigmoid { .. } => "HardSigmoid",
            UnaryFn::Erf => "Erf",
            UnaryFn::Tanh => "Tanh",
            UnaryFn::Exp => "Exp",
            UnaryFn::Log => "Log",
            UnaryFn::Sqrt => "Sqrt",
            UnaryFn::Abs => "Abs",
            UnaryFn::Neg => "Neg",
            UnaryFn::Reciprocal => "Reciprocal",
            UnaryFn::Round => "Round",
            UnaryFn::Clip { lo, hi } => return self.clip(x, [lo, hi], y),
            UnaryFn::Silu => {
                let sigmoid = self.draft.step(y, "sigmoid", "Sigmoid", &[x], &[]);
                return self.draft.node("Mul", &[x, &sigmoid], &[], y);
            }
            UnaryFn::Gelu => return self.gelu(x, y),
            UnaryFn::Affine { scale, offset } => {
                let scale = self.draft.number(&format!("{y}.scale"), scale);
                let offset = self.draft.number(&format!("{y}.offset"), offset);
                let scaled = self.draft.step(y, "scaled", "Mul", &[x, &scale], &[]);
                return self.draft.node("Add", &[&scaled, &offset], &[], y);
            }
        };
        self.draft.node(op, &[x], &attributes, y);
    }

    /// `min(max(x, lo), hi)`; an infinite bound is left out.
    pub(super) fn clip(&mut self, x: &str, [lo, hi]: [f32; 2], y: &str) {
        let lo =
            if lo == f32::NEG_INFINITY { String::new() } else { self.draft.number(&format!("{y}.lo"), lo) };
        let hi = if hi == f32::INFINITY { String::new() } else { self.draft.number(&format!("{y}.hi"), hi) };
        let inputs = match (lo.is_empty(), hi.is_empty()) {
            (true, true) => vec![x],
            (false, true) => vec![x, &lo],
            _ => vec![x, &lo, &hi],
        };
        self.draft.node("Clip", &inputs, &[], y);
    }

    /// `x * (1 + erf(x / sqrt 2)) / 2`: Gelu became an operator with opset 20.
    fn gelu(&mut self, x: &str, y: &str) {
        let [root, one, half] = [("root", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)]
            .map(|(part, v)| self.draft.number(&format!("{y}.{part}"), v));
        let scaled = self.draft.step(y, "scaled", "Div", &[x, &root], &[]);
        let erf = self.draft.step(y, "erf", "Erf", &[&scaled], &[]);
        let sum = self.draft.step(y, "sum", "Add", &[&erf, &one], &[]);
        let product = self.draft.step(y, "product", "Mul", &[x, &sum], &[]);
        self.draft.node("Mul", &[&product, &half], &[], y);
    }

    pub(super) fn binary(&mut self, node: &Node, f: BinaryFn) -> Written {
        let op = match f {
            BinaryFn::Add => "Add",
            BinaryFn::Sub => "Sub",
            BinaryFn::Mul => "Mul",
            BinaryFn::Div => "Div",
            BinaryFn::Max => "Max",
            BinaryFn::Min => "Min",
            BinaryFn::Pow => "Pow",
            BinaryFn::Step => return Err("is the step function, which stands in gradients only".into()),
        };
        let [a, b] = [0, 1].map(|i| self.at(node.inputs[i]));
        self.draft.node(op, &[&a, &b], &[], &self.result(node));
        Ok(())
    }

    pub(super) fn cast(&mut self, node: &Node, to: DType) -> Written {
        let code = match to {
            DType::F32 => data::FLOAT,
            DType::I32 => data::INT32,
            other => return Err(format!("to {other} is not exported")),
        };
        let x = self.at(node.inputs[0]);
        self.draft.node("Cast", &[&x], &[int("to", code.into())], &self.result(node));
        Ok(())
    }

    /// Until opset 18, only sums have their axes as an input.
    pub(super) fn reduce(&mut self, node: &Node, f: ReduceFn, axes: &[usize], keep: bool) -> Written {
        let (x, y) = (self.at(node.inputs[0]), self.result(node));
        let keep = int("keepdims", keep.into());
        match f {
            // Without axes, ONNX reduces over all of them.
            _ if axes.is_empty() => self.draft.node("Identity", &[&x], &[], &y),
            ReduceFn::Sum => {
                let list: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
                let list = self.draft.list(&format!("{y}.axes"), &list);
                self.draft.node("ReduceSum", &[&x, &list], &[keep], &y);
            }
            ReduceFn::Mean => self.draft.node("ReduceMean", &[&x], &[ints("axes", axes), keep], &y),
            ReduceFn::Max => self.draft.node("ReduceMax", &[&x], &[ints("axes", axes), keep], &y),
        }
        Ok(())
    }

    pub(super) fn along(&mut self, node: &Node, op: &str, axis: usize) -> Written {
        let x = self.at(node.inputs[0]);
        self.draft.node(op, &[&x], &[int("axis", axis as i64)], &self.result(node));
        Ok(())
    }
}
