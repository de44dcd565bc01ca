//! Random graphs, chains and diamonds of all kinds of ops in odd shapes: plans against the reference. What single ops
//! cannot show is tested here: fusion, layouts that meet, memory that is used again. `ESPALIER_HEAVY=1` takes all
//! instruction sets and many more graphs.

mod common;

use common::check_for;
use common::growing::floats::grown;
use espalier_graph::{Graph, Role, Source, ValueId};
use espalier_passes::{differentiate, training};
use espalier_runtime::Isa;

/// The gradients of all weights, from a seed for each output.
fn with_gradients(graph: &Graph) -> Graph {
    let mut g = training(graph, &|_| false).unwrap();
    let seeds: Vec<_> = g
        .outputs()
        .to_vec()
        .into_iter()
        .map(|(name, y)| {
            let ty = g.ty(y).clone();
            (y, g.add_input(&format!("{name}.seed"), ty).unwrap())
        })
        .collect();
    let is_source = |g: &Graph, id| !matches!(g.value(id).source, Source::Node { .. });
    let wrt: Vec<ValueId> = g.states().iter().filter(|s| s.role == Role::Weight).map(|s| s.value).collect();
    let gradients = differentiate(&mut g, &seeds, &wrt).unwrap();
    for (w, gradient) in wrt.into_iter().zip(gradients) {
        let name = format!("{}.gradient", g.value(w).name);
        if let Some(id) = gradient.filter(|&id| !is_source(&g, id)) {
            g.add_output(&name, id).unwrap();
        }
    }
    g
}

/// `count` graphs for the best instruction set.
fn check_many(count: u64, tolerance: f64, graph: impl Fn(u64) -> Graph) {
    let heavy = espalier_testing::heavy("ten times as many graphs, for every instruction set");
    let (count, isas) = if heavy { (10 * count, Isa::available()) } else { (count, vec![Isa::best()]) };
    (0..count).for_each(|seed| check_for(&isas, &graph(seed), tolerance));
}

#[test]
fn plans_agree_with_the_reference() {
    check_many(400, 1e-4, grown);
}

#[test]
fn gradients_agree_with_the_reference() {
    check_many(200, 1e-3, |seed| with_gradients(&grown(seed)));
}
