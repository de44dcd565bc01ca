//! A detector that is small enough to be written by hand.

#[path = "../../../onnx/tests/common/build.rs"]
mod build;

use build::{int_attribute, ints, message, model, node, tensor, value};

/// Two anchors and two classes in YOLOv8's form, for 8 x 8 pixels: the left one is there as far as the picture is red, the
/// right one as far as it is green.
pub(crate) fn detector(input: &[i64], shape: &[i64], metadata: &[(&str, &str)]) -> Vec<u8> {
    let elements = shape.iter().product::<i64>() as usize;
    let mut weight = vec![0.0f32; 3 * elements];
    let mut bias = [[4.0, 6.0], [4.0, 2.0], [4.0, 2.0], [4.0, 2.0], [0.0, 0.0], [0.0, 0.0]].concat();
    bias.resize(elements, 0.0f32);
    (weight[3 * 8], weight[3 * 11 + 1]) = (1.0, 1.0);
    let floats = |name: &str, dims: &[i64], values: &[f32]| {
        tensor(name, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    };
    let nodes = [
        node("GlobalAveragePool", &["x"], &["p"]),
        node("Flatten", &["p"], &["m"]),
        node("Gemm", &["m", "w", "b"], &["l"]).message(5, int_attribute("transB", 1)),
        node("Reshape", &["l", "shape"], &["y"]),
    ];
    let shape: Vec<i64> = [&[1], shape].concat();
    let graph = nodes.iter().fold(message(), |m, node| m.message(1, node.clone()));
    let graph = graph.message(5, floats("w", &[elements as i64, 3], &weight));
    let graph = graph.message(5, floats("b", &[elements as i64], &bias)).message(5, ints("shape", &shape));
    let graph = graph.message(11, value("x", input)).message(12, value("y", &shape));
    metadata
        .iter()
        .fold(build::Message(model(graph)), |m, (k, v)| m.message(14, message().text(1, k).text(2, v)))
        .0
}
