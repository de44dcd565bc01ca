//! The network that learns to say windows again.

use espalier_graph::{Graph, GraphError, Shape, Stage, TensorType, UnaryFn, ValueId, verify};

/// Its name in settings and packages.
pub const NAME: &str = "autoencoder";

/// Numbers of the bottleneck, as a share of those of a window.
const BOTTLENECK: f64 = 0.25;
/// Width of the layers on both sides of it likewise.
const HIDDEN: f64 = 2.0;
/// Wider layers learn no more.
const HIDDEN_MAX: usize = 512;

/// An autoencoder of dense layers (Hinton and Salakhutdinov 2006): input `x [N, window * columns]`, rows one after another;
/// output `reconstruction`, of the same shape. What is left between the two is computed of floats, outside of the network: bytes
/// would end where train ended, and hide what is unusual.
///
/// # Errors
/// None for a window with at least one number.
pub fn autoencoder(window: usize, columns: usize) -> Result<Graph, GraphError> {
    let numbers = window * columns;
    let share = |share: f64| ((numbers as f64 * share) as usize).max(2);
    let (hidden, bottleneck) = (share(HIDDEN).min(HIDDEN_MAX), share(BOTTLENECK).min(HIDDEN_MAX / 2));
    let mut graph = Graph::new();
    let x = graph.add_input("x", TensorType::f32(Shape::batched(&[numbers])))?;
    let y = layer(&mut graph, "encoder.0", x, hidden)?;
    let y = graph.linear("encoder.1", y, bottleneck)?;
    let y = layer(&mut graph, "decoder.0", y, hidden)?;
    let again = graph.linear("decoder.1", y, numbers)?;
    graph.add_output("reconstruction", again)?;
    verify(&graph, Stage::Trainable)?;
    Ok(graph)
}

fn layer(graph: &mut Graph, name: &str, x: ValueId, out: usize) -> Result<ValueId, GraphError> {
    let y = graph.linear(name, x, out)?;
    graph.unary(&format!("{name}.relu"), UnaryFn::Relu, y)
}
