//! The naive reference of the whole vocabulary, in f64 and in the logical layout. Each op family keeps its own part
//! beside its kernels; fast paths and gradients are tested against this.

use std::collections::BTreeMap;

use espalier_graph::{Bindings, Data, Graph, Op, Quant, Tensor};

/// A tensor of the reference: logical order, f64 (integers are exact up to 2^53).
#[derive(Clone, Debug, PartialEq)]
pub struct RefTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// `shape.product()` elements, row-major; of a quantized tensor, its bytes.
    pub data: Vec<f64>,
    /// What the bytes of a quantized tensor stand for.
    pub quant: Option<Quant>,
}

impl RefTensor {
    /// From shape and elements; panics where they do not agree.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {shape:?}");
        RefTensor { shape: shape.to_vec(), data, quant: None }
    }

    /// All elements from their flat index.
    pub fn from_fn(shape: &[usize], f: impl FnMut(usize) -> f64) -> Self {
        RefTensor::new(shape, (0..shape.iter().product()).map(f).collect())
    }

    /// The same elements, as bytes that stand for numbers.
    pub fn quantized(self, quant: Quant) -> Self {
        RefTensor { quant: Some(quant), ..self }
    }

    /// All zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        RefTensor::from_fn(shape, |_| 0.0)
    }
}

impl From<&Tensor> for RefTensor {
    fn from(tensor: &Tensor) -> Self {
        let data = match &tensor.data {
            Data::F32(v) => v.iter().map(|&v| v.into()).collect(),
            Data::I32(v) => v.iter().map(|&v| v.into()).collect(),
            Data::U8(v) => v.iter().map(|&v| v.into()).collect(),
            Data::S8(v) => v.iter().map(|&v| v.into()).collect(),
        };
        RefTensor::new(&tensor.shape, data)
    }
}

/// Runs a whole graph: `given` holds its inputs and states by name. Returns every value by name.
/// Panics where one is missing.
pub fn interpret(
    graph: &Graph,
    bindings: Bindings,
    given: &BTreeMap<String, RefTensor>,
) -> BTreeMap<String, RefTensor> {
    let mut values = given.clone();
    for node in graph.nodes() {
        let name = |id| graph.value(id).name.as_str();
        let inputs: Vec<&RefTensor> = node.inputs.iter().map(|&id| &values[name(id)]).collect();
        let shapes: Vec<Vec<usize>> =
            node.outputs.iter().map(|&id| graph.ty(id).shape.bind(bindings)).collect();
        let outputs = evaluate(&node.op, &inputs, &shapes);
        for (&id, output) in node.outputs.iter().zip(outputs) {
            let quant = graph.ty(id).dtype.quant();
            values.insert(name(id).to_string(), RefTensor { quant, ..output });
        }
    }
    values
}

/// Evaluates one op. `outputs` are the bound shapes of its outputs, as shape inference gives them.
/// Inputs must fit the op, which `graph::infer` has checked.
pub fn evaluate(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    match op {
        Op::Conv { .. } | Op::ConvInputGrad { .. } | Op::ConvWeightGrad { .. } => {
            crate::conv::reference(op, inputs, outputs)
        }
        Op::MatMul { .. } => crate::matmul::reference(op, inputs, outputs),
        Op::MaxPool { .. } | Op::MaxPoolGrad { .. } | Op::AvgPool { .. } | Op::AvgPoolGrad { .. } => {
            crate::pool::reference(op, inputs, outputs)
        }
        Op::Resize { .. } | Op::ResizeGrad { .. } => crate::resize::reference(op, inputs, outputs),
        Op::BatchNorm { .. }
        | Op::BatchNormTraining { .. }
        | Op::BatchNormGrad
        | Op::LayerNorm { .. }
        | Op::LayerNormGrad { .. } => crate::norm::reference(op, inputs, outputs),
        Op::Unary { .. }
        | Op::UnaryGrad { .. }
        | Op::Binary { .. }
        | Op::Dropout { .. }
        | Op::Fill { .. }
        | Op::Cast { .. } => crate::elementwise::reference(op, inputs, outputs),
        Op::Reduce { .. } => crate::reduce::reference(op, inputs, outputs),
        Op::Softmax { .. }
        | Op::SoftmaxGrad { .. }
        | Op::LogSoftmax { .. }
        | Op::CrossEntropy
        | Op::CrossEntropyGrad => crate::softmax::reference(op, inputs, outputs),
        Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherGrad { .. } => crate::movement::reference(op, inputs, outputs),
        Op::Quantize { .. }
        | Op::Dequantize
        | Op::QConv { .. }
        | Op::QAdd { .. }
        | Op::QMul { .. }
        | Op::QAvgPool { .. }
        | Op::Table { .. } => crate::int8::reference::reference(op, inputs, outputs),
        Op::GlobalNorm | Op::Sgd { .. } | Op::AdamW { .. } | Op::Ema => {
            crate::update::reference(op, inputs, outputs)
        }
    }
}
