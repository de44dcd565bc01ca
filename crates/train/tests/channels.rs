//! Channels of every network, and of graphs with what networks of others have: those that nothing reads can go.

use std::collections::BTreeSet;

use espalier_graph::random::Random;
use espalier_graph::{
    BinaryFn, Bindings, Data, Graph, GraphError, Op, ReduceFn, Role, Shape, State, Tensor, TensorType,
    UnaryFn, ValueId, Weights, Window,
};
use espalier_passes::channels::Channels;
use espalier_passes::{fold_batch_norm, portable};
use espalier_runtime::{Isa, Options, Pool, lower};
use espalier_train::networks::{self, NAMES, NetworkOptions};

/// Random weights, with norms that are no identity.
fn weights(graph: &Graph, seed: u64) -> Weights {
    let variances: BTreeSet<ValueId> = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::BatchNorm { .. }))
        .map(|node| node.inputs[4])
        .collect();
    let fill = |(state, stream): (&State, u64)| {
        let value = graph.value(state.value);
        let (shape, mut random) = (value.ty.shape.bind(Bindings::batch(1)), Random::new(seed, stream));
        let fan_in = shape.iter().skip(1).product::<usize>();
        let scale = if shape.len() > 1 { (6.0 / fan_in as f32).sqrt() } else { 0.5 };
        let offset = if variances.contains(&state.value) { 1.0 } else { 0.0 };
        let values = (0..shape.iter().product()).map(|_| offset + scale * random.range(-1.0, 1.0));
        (value.name.clone(), Tensor::f32(&shape, values.collect()))
    };
    graph.states().iter().zip(1..).map(fill).collect()
}

fn outputs(graph: &Graph, weights: &Weights) -> Vec<f32> {
    let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(2) };
    let mut plan = lower(graph, weights, options).unwrap();
    for &input in graph.inputs() {
        let mut random = Random::new(5, 5);
        plan.input(&graph.value(input).name).iter_mut().for_each(|v| *v = random.range(-1.0, 1.0));
    }
    plan.run(&mut Pool::new(1));
    graph.outputs().iter().flat_map(|(name, _)| plan.output(name).to_vec()).collect()
}

/// Some units of each group, never all.
fn chosen(channels: &Channels, seed: u64) -> BTreeSet<usize> {
    let mut random = Random::new(seed, 9);
    let mut gone = BTreeSet::new();
    for group in &channels.groups {
        let mut group = group.clone();
        random.shuffle(&mut group);
        gone.extend(&group[..random.below(group.len())]);
    }
    gone
}

/// Where nothing reads a unit any more, the network without it gives the same.
fn check(what: &str, graph: &Graph, seed: u64, least_groups: usize) {
    let channels = Channels::of(graph);
    assert!(channels.groups.len() >= least_groups, "{what} has {} groups", channels.groups.len());
    let (mut weights, gone) = (weights(graph, seed), chosen(&channels, seed));
    for unit in gone.iter().map(|&unit| &channels.units[unit]) {
        for slice in &unit.readers {
            let tensor = weights.get_mut(&graph.value(slice.state).name).unwrap();
            let shape = tensor.shape.clone();
            let Data::F32(values) = &mut tensor.data else { panic!("floats") };
            slice.elements(&shape).for_each(|at| values[at] = 0.0);
        }
    }
    let smaller = channels.remove(graph, &gone).unwrap();
    let left = channels.remove_weights(graph, &weights, &gone).unwrap();
    let (count, all) = (networks::cost(&smaller).parameters, networks::cost(graph).parameters);
    assert!(gone.is_empty() || count < all, "{what}: {count} of {all} parameters are left");
    let (got, want) = (outputs(&smaller, &left), outputs(graph, &weights));
    let most = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(most > 1e-3, "{what} gives only {most}");
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-4 * most, "{what}: {got} is not {want}");
    }
}

#[test]
fn every_network() {
    for name in NAMES {
        let options = NetworkOptions { classes: 3, channels: 3, size: [32; 2], width: 0.25 };
        let graph = portable(&networks::build(name, &options).unwrap()).unwrap();
        check(name, &graph, 1, if *name == "lenet" { 4 } else { 6 });
        let mut weights = weights(&graph, 2);
        let folded = fold_batch_norm(&graph, &mut weights).unwrap();
        check(&format!("{name}, folded"), &folded, 2, 4);
    }
}

/// Joined, cut and joined again, as DenseNet and ShuffleNet do; squeezed and weighed, as SE blocks do.
#[test]
fn channels_keep_apart_where_they_are_joined() {
    let graph = joined().unwrap();
    for seed in 0..20 {
        check("joined", &graph, seed, 4);
    }
    let channels = Channels::of(&graph);
    assert_eq!(channels.reason(&graph, "a"), None);
    assert!(channels.reason(&graph, "left").is_some_and(|reason| reason.contains("Transpose")));
    assert_eq!(channels.reason(&graph, "logits"), Some("it is an output"));
}

fn joined() -> Result<Graph, GraphError> {
    let mut g = Graph::new();
    let x = g.add_input("x", TensorType::f32(Shape::batched(&[3, 8, 8])))?;
    let state = |g: &mut Graph, name: &str, sizes: &[usize]| {
        g.add_state(name, Role::Weight, TensorType::f32(Shape::known(sizes)))
    };
    let conv = |g: &mut Graph, name: &str, x, sizes: [usize; 4], groups| {
        let weight = state(g, &format!("{name}.weight"), &sizes)?;
        let bias = state(g, &format!("{name}.bias"), &sizes[..1])?;
        let window = Window::square(sizes[2], 1, sizes[2] / 2);
        g.add(name, Op::Conv { window, groups }, &[x, weight, bias])
    };
    let a = conv(&mut g, "a", x, [8, 3, 3, 3], 1)?;
    let a_relu = g.unary("a.relu", UnaryFn::Relu, a)?;
    let b = conv(&mut g, "b", a_relu, [6, 8, 3, 3], 1)?;
    let both = g.add("both", Op::Concat { axis: 1 }, &[a_relu, b])?;
    let d = conv(&mut g, "d", both, [8, 14, 1, 1], 1)?;
    let mean = g.add("mean", Op::Reduce { f: ReduceFn::Mean, axes: vec![2, 3], keep: true }, &[d])?;
    let squeezed = conv(&mut g, "squeezed", mean, [4, 8, 1, 1], 1)?;
    let squeezed = g.unary("squeezed.relu", UnaryFn::Relu, squeezed)?;
    let excited = conv(&mut g, "excited", squeezed, [8, 4, 1, 1], 1)?;
    let excited = g.unary("excited.sigmoid", UnaryFn::Sigmoid, excited)?;
    let e = g.add("e", Op::Binary { f: BinaryFn::Mul }, &[d, excited])?;
    let left = g.add("left", Op::Slice { axis: 1, start: 0, end: 3 }, &[e])?;
    let right = g.add("right", Op::Slice { axis: 1, start: 3, end: 8 }, &[e])?;
    let right = conv(&mut g, "depthwise", right, [5, 1, 3, 3], 5)?;
    let f = conv(&mut g, "f", right, [6, 5, 1, 1], 1)?;
    let scale = state(&mut g, "scale", &[1, 6, 1, 1])?;
    let scaled = g.add("scaled", Op::Binary { f: BinaryFn::Mul }, &[f, scale])?;
    let h = conv(&mut g, "h", scaled, [6, 6, 1, 1], 1)?;
    let residual = g.add("residual", Op::Binary { f: BinaryFn::Add }, &[h, scaled])?;
    let pooled = g.add("pooled", Op::MaxPool { window: Window::square(2, 2, 0) }, &[residual])?;
    let rows = g.reshape("rows", pooled, Shape::batched(&[96]))?;
    let matrix = state(&mut g, "matrix", &[96, 4])?;
    let product = g.add("product", Op::MatMul { trans_a: false, trans_b: false }, &[rows, matrix])?;
    let bias = state(&mut g, "bias", &[4])?;
    let logits = g.sum("logits", product, bias)?;
    let turned = g.add("turned", Op::Transpose { perm: vec![0, 2, 1, 3] }, &[left])?;
    let means = Op::Reduce { f: ReduceFn::Mean, axes: vec![1, 2, 3], keep: false };
    let means = g.add("means", means, &[turned])?;
    g.add_output("logits", logits)?;
    g.add_output("means", means)?;
    Ok(g)
}
