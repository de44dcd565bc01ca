//! One rule for each operator: how it becomes ops of our vocabulary. A file's operator without a row here is not
//! supported; one whose inputs are all known is computed by [`fold`](crate::import::fold) before its rule is asked.

mod activation;
mod arithmetic;
mod conv;
mod linear;
mod movement;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod sizes;
mod slices;

use crate::import::fault::unsupported;
use crate::import::importer::{Importer, Made};
use crate::import::node::Node;

/// Appends what a node stands for and returns its results.
pub(crate) type Rule = fn(&mut Importer<'_>, &Node) -> Made;

/// The rule of the operator `op`.
pub(crate) fn rule(domain: &str, op: &str) -> Option<Rule> {
    if !matches!(domain, "" | "ai.onnx") {
        return None;
    }
    Some(match op {
        "Conv" => conv::conv,
        "ConvTranspose" => conv::transposed,
        "MaxPool" => pool::max,
        "AveragePool" => pool::average,
        "GlobalAveragePool" => pool::global_average,
        "GlobalMaxPool" => pool::global_max,
        "Gemm" => linear::gemm,
        "MatMul" => linear::matmul,
        "BatchNormalization" => norm::batch,
        "LayerNormalization" => norm::layer,
        "InstanceNormalization" => norm::instance,

        "Relu" => activation::relu,
        "Clip" => activation::clip,
        "LeakyRelu" => activation::leaky_relu,
        "PRelu" => activation::prelu,
        "Elu" => activation::elu,
        "HardSwish" => activation::hard_swish,
        "HardSigmoid" => activation::hard_sigmoid,
        "Gelu" => activation::gelu,
        "Softplus" => activation::softplus,
        "Mish" => activation::mish,
        "Sigmoid" | "Tanh" | "Exp" | "Log" | "Sqrt" | "Abs" | "Neg" | "Reciprocal" | "Erf" | "Round" => {
            activation::plain
        }
        "Softmax" => activation::softmax,
        "LogSoftmax" => activation::log_softmax,

        "Add" | "Sub" | "Mul" | "Div" => arithmetic::binary,
        "Max" | "Min" | "Sum" | "Mean" => arithmetic::variadic,
        "Pow" => arithmetic::pow,

        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" => reduce::reduce,

        "Identity" | "Dropout" => movement::identity,
        "Cast" => movement::cast,
        "Reshape" => movement::reshape,
        "Flatten" => movement::flatten,
        "Squeeze" => movement::squeeze,
        "Unsqueeze" => movement::unsqueeze,
        "Transpose" => movement::transpose,
        "Expand" => movement::expand,
        "ConstantOfShape" => movement::filled,
        "Tile" => movement::tile,
        "Concat" => movement::concat,
        "DepthToSpace" => movement::depth_to_space,
        "SpaceToDepth" => movement::space_to_depth,
        "Slice" => slices::slice,
        "Split" => slices::split,
        "Gather" => slices::gather,
        "Pad" => slices::pad,
        "Resize" | "Upsample" => resize::resize,
        "Shape" => sizes::shape,
        "Size" => sizes::size,

        "QuantizeLinear" => quantize::quantize,
        "DequantizeLinear" => quantize::dequantize,

        "Constant" | "Range" | "Where" | "Not" | "Equal" | "Less" | "Greater" | "LessOrEqual"
        | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Mod" | "Floor" | "Ceil" | "Sin" | "Cos"
        | "ReduceProd" | "CastLike" => of_data,
        _ => return None,
    })
}

/// What is only computed at import.
fn of_data(_: &mut Importer<'_>, _: &Node) -> Made {
    Err(unsupported("of values that are computed from the data"))
}
