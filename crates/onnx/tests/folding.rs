//! What graphs compute from sizes and constants is known when they are imported.

#[path = "common/build.rs"]
mod build;

use build::{graph, int_attribute, model, node, tensor};
use espalier_onnx::{Options, from_bytes};

/// The paddings that TensorFlow's "same" leaves are computed by Ceil, Clip and Cast.
#[test]
fn clipped_paddings_are_known() {
    let floats = |name: &str, values: &[f32]| {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensor(name, &[values.len() as i64], &raw)
    };
    let nodes = [
        node("Ceil", &["p"], &["whole"]),
        node("Clip", &["whole", "least"], &["clipped"]),
        node("Clip", &["clipped", "", "most"], &["bounded"]),
        node("Cast", &["bounded"], &["pads"]).message(5, int_attribute("to", 7)),
        node("Pad", &["x", "pads"], &["y"]),
    ];
    let scalar = |name: &str, v: f32| tensor(name, &[], &v.to_le_bytes());
    let tensors = [floats("p", &[-2.5, 0.4, 0.0, 9.0]), scalar("least", 0.0), scalar("most", 3.0)];
    let imported = from_bytes(model(graph(&nodes, &tensors)), Options::default()).unwrap();
    let (_, y) = &imported.graph.outputs()[0];
    assert_eq!(imported.graph.ty(*y).to_string(), "f32[N,8]", "{}", imported.graph);
}
