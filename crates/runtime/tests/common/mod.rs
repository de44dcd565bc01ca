//! Runs a graph by a plan and by the f64 reference, and compares.
#![allow(dead_code)] // Each test uses a part of it.

pub(crate) mod growing;

use std::collections::BTreeMap;

use espalier_graph::random::Random;
use espalier_graph::{Bindings, DType, Data, Graph, Source, Tensor, Value, Weights};
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_runtime::{Isa, Options, Plan, Pool, lower};

/// Reproducible content for inputs and states: floats in 0.1..1 with signs where the name allows, small indices, and
/// biases of sums of bytes.
pub(crate) fn tensors(graph: &Graph, bindings: Bindings) -> Weights {
    let sourced = graph.values().iter().filter(|v| !matches!(v.source, Source::Node { .. }));
    sourced
        .enumerate()
        .map(|(stream, value)| {
            let shape = value.ty.shape.bind(bindings);
            let len = shape.iter().product();
            let mut random = Random::new(3, stream as u64);
            // Variances and what goes into logarithms must be positive.
            let positive = ["var", "positive", "scale"].iter().any(|p| value.name.contains(p));
            let bound = bound(value, &shape);
            let data = match value.ty.dtype {
                DType::F32 => Data::F32(
                    (0..len)
                        .map(|_| random.range(if positive { 0.1 * bound } else { -bound }, bound))
                        .collect(),
                ),
                DType::I32 if value.name.contains("bias") => {
                    Data::I32((0..len).map(|_| random.range(-3e4, 3e4) as i32).collect())
                }
                DType::I32 => Data::I32((0..len).map(|_| random.below(3) as i32).collect()),
                DType::U8 => Data::U8((0..len).map(|_| random.below(256) as u8).collect()),
                DType::S8 => {
                    let kept = |i: &usize| !value.name.contains("sparse") || is_kept(*i, &shape);
                    let byte = |i: usize| random.below(256) as u8 as i8 * i8::from(kept(&i));
                    Data::S8((0..len).map(byte).collect())
                }
                DType::Q8(_) => unreachable!("no state is quantized"),
            };
            (value.name.clone(), Tensor::new(&shape, data))
        })
        .collect()
}

/// Of weights that are sparse, one block of 2 outputs x 4 inputs in eight.
fn is_kept(i: usize, shape: &[usize]) -> bool {
    let taps = shape[2] * shape[3];
    let [output, input, tap] = [i / taps / shape[1], i / taps % shape[1], i % taps];
    (output / 2 + input / 4 + tap).is_multiple_of(8)
}

/// Filters and matrices are small, so that values do not grow from layer to layer.
fn bound(value: &Value, shape: &[usize]) -> f32 {
    match value.source {
        // Sums of bytes are large.
        Source::State(_) if value.name.ends_with("small.scale") => 3e-4,
        Source::State(_) if shape.len() > 1 => {
            (3.0 / shape[1..].iter().product::<usize>() as f32).sqrt().min(1.0)
        }
        _ => 1.0,
    }
}

/// The same tensors for the reference.
pub(crate) fn reference(tensors: &Weights) -> BTreeMap<String, RefTensor> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.into())).collect()
}

/// Writes all inputs of `graph`.
pub(crate) fn set_inputs(plan: &mut Plan, graph: &Graph, tensors: &Weights) {
    for &id in graph.inputs() {
        let name = &graph.value(id).name;
        match &tensors[name].data {
            Data::F32(v) => plan.input(name).copy_from_slice(v),
            Data::I32(v) => plan.input_i32(name).copy_from_slice(v),
            Data::U8(_) | Data::S8(_) => unreachable!("no graph of ours takes bytes"),
        }
    }
}

/// Every output and every updated state agrees with the reference, for every instruction set, 1 and 2 threads, and
/// batches of 1 and 3; and the results are the same bits for 1 and 2 threads.
pub(crate) fn check(text: &str) {
    check_graph(&text.parse().unwrap_or_else(|e| panic!("{e}\n{text}")), 2e-5);
}

/// As [`check`], with a tolerance relative to the largest value of a tensor, or to 1.
pub(crate) fn check_graph(graph: &Graph, tolerance: f64) {
    check_for(&Isa::available(), graph, tolerance);
}

/// As [`check_graph`], for some instruction sets only.
pub(crate) fn check_for(isas: &[Isa], graph: &Graph, tolerance: f64) {
    for batch in [1, 3] {
        let bindings = Bindings::batch(batch);
        let given = tensors(graph, bindings);
        let want = interpret(graph, bindings, &reference(&given));
        for &isa in isas {
            let one = run(graph, &given, Options { isa, threads: 1, bindings });
            let two = run(graph, &given, Options { isa, threads: 2, bindings });
            assert_eq!(one, two, "1 and 2 threads differ ({isa}, batch {batch}) in\n{graph}");
            for (name, (value, got)) in &one {
                let largest = want[value].data.iter().fold(1.0, |m: f64, w| m.max(w.abs()));
                for (i, (&g, &w)) in got.iter().zip(&want[value].data).enumerate() {
                    let close = (f64::from(g) - w).abs() <= tolerance * largest;
                    assert!(close, "{name}[{i}] is {g}, reference {w} ({isa}, batch {batch}) in\n{graph}");
                }
                assert_eq!(got.len(), want[value].data.len());
            }
        }
    }
}

type Results = BTreeMap<String, (String, Vec<f32>)>;

/// Outputs and updated states by name, each with the name of the graph's value. The plan runs twice, so that what a run
/// leaves behind in memory must not matter; states are reset in between.
fn run(graph: &Graph, given: &Weights, options: Options) -> Results {
    let mut plan = lower(graph, given, options).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let mut pool = Pool::new(options.threads);
    let mut results: Vec<Results> = Vec::new();
    for _ in 0..2 {
        plan.set_states(given).unwrap();
        set_inputs(&mut plan, graph, given);
        plan.run(&mut pool);
        let value = |id| graph.value(id).name.clone();
        let outputs =
            graph.outputs().iter().map(|(n, id)| (n.clone(), (value(*id), plan.output(n).to_vec())));
        let mut result: Results = outputs.collect();
        for (name, tensor) in plan.states() {
            let state = graph.states().iter().find(|s| value(s.value) == name).unwrap();
            let next = value(state.next.unwrap());
            result.insert(format!("state {name}"), (next, tensor.as_f32().unwrap().to_vec()));
        }
        results.push(result);
    }
    assert_eq!(results[0], results[1], "a second run differs in\n{graph}");
    results.swap_remove(0)
}
