//! The network that learns to say windows again.

use espalier_graph::{
    BinaryFn, Graph, GraphError, Op, ReduceFn, Shape, Stage, TensorType, UnaryFn, ValueId, verify,
};

/// Its name in settings and packages.
pub const NAME: &str = "autoencoder";

/// Numbers of the bottleneck, as a share of those of a window.
const BOTTLENECK: f64 = 0.25;
/// Width of the layers on both sides of it likewise.
const HIDDEN: f64 = 2.0;
/// Wider layers learn no more.
const HIDDEN_MAX: usize = 512;

/// An autoencoder of dense layers (Hinton and Salakhutdinov 2006): input `x [N, window * columns]`, rows one after another;
/// output `errors [N, columns]`, the mean square error of each column over the window.
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
    let errors = errors(&mut graph, x, again, [window, columns])?;
    graph.add_output("errors", errors)?;
    verify(&graph, Stage::Trainable)?;
    Ok(graph)
}

fn layer(graph: &mut Graph, name: &str, x: ValueId, out: usize) -> Result<ValueId, GraphError> {
    let y = graph.linear(name, x, out)?;
    graph.unary(&format!("{name}.relu"), UnaryFn::Relu, y)
}

/// What is left between `x` and `again`, squared, as its mean over the rows.
fn errors(
    graph: &mut Graph,
    x: ValueId,
    again: ValueId,
    [window, columns]: [usize; 2],
) -> Result<ValueId, GraphError> {
    let left = graph.add("left", Op::Binary { f: BinaryFn::Sub }, &[x, again])?;
    let squared = graph.add("squared", Op::Binary { f: BinaryFn::Mul }, &[left, left])?;
    let rows = graph.reshape("rows", squared, Shape::batched(&[window, columns]))?;
    graph.add("mean", Op::Reduce { f: ReduceFn::Mean, axes: vec![1], keep: false }, &[rows])
}
