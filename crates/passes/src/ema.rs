//! Appends the moving average of what a step learns.

use espalier_graph::{Graph, GraphError, Op, Role, Shape, Stage, TensorType, ValueId, verify};

/// What the average of a state is called.
pub fn average_name(state: &str) -> String {
    format!("{state}.ema")
}

/// Appends an exponential moving average (Polyak and Juditsky 1992, in the form of timm and of PyTorch's `swa_utils`) of
/// every weight and running statistic that the step changes: the optimizer state `NAME.ema`, which follows the state's
/// next value with the input `ema_decay f32[]`. A decay of 0 in the first step makes up for beginning with zeros.
///
/// # Errors
/// A name that is taken.
pub fn ema(graph: &mut Graph) -> Result<(), GraphError> {
    let decay = graph.add_input("ema_decay", TensorType::f32(Shape::default()))?;
    let learned = graph.states().iter().filter(|state| state.role != Role::Optimizer);
    let changing: Vec<(ValueId, ValueId)> =
        learned.filter_map(|state| Some((state.value, state.next?))).collect();
    for (state, next) in changing {
        let value = graph.value(state).clone();
        let name = average_name(&value.name);
        let average = graph.add_state(&name, Role::Optimizer, value.ty)?;
        let moved = graph.add(&format!("{name}.next"), Op::Ema, &[average, next, decay])?;
        graph.set_next(average, moved)?;
    }
    verify(graph, Stage::Step)
}
