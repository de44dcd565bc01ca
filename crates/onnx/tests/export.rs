//! Graphs become files and graphs again: what comes back computes the same.

#[path = "../../runtime/tests/common/mod.rs"]
mod runs;

mod common;

use std::collections::BTreeMap;

use espalier_graph::{
    BinaryFn, Bindings, DType, Data, Dim, Graph, Op, Stage, Tensor, UnaryFn, Weights, verify,
};
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_onnx::{About, ExportError, Imported, Options, export, from_bytes};
use espalier_passes::fold_batch_norm;
use espalier_runtime::{Isa, Pool, lower};
use runs::growing::{bytes, floats};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/");

/// The outputs of a plan, in their order.
fn outputs(graph: &Graph, weights: &Weights, inputs: &[Tensor], bindings: Bindings) -> Vec<Tensor> {
    let options = espalier_runtime::Options { isa: Isa::best(), threads: 1, bindings };
    let mut plan = lower(graph, weights, options).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        let name = &graph.value(id).name;
        match &tensor.data {
            Data::F32(v) => plan.input(name).copy_from_slice(v),
            Data::I32(v) => plan.input_i32(name).copy_from_slice(v),
            Data::U8(_) | Data::S8(_) => unreachable!("no graph of ours takes bytes"),
        }
    }
    plan.run(&mut Pool::new(1));
    let output = |(name, id): &(String, _)| {
        Tensor::f32(&graph.ty(*id).shape.bind(bindings), plan.output(name).to_vec())
    };
    graph.outputs().iter().map(output).collect()
}

/// What belongs to states among all that is given.
fn states(graph: &Graph, given: &Weights) -> Weights {
    let states = given.iter().filter(|(name, _)| graph.find(name).is_some_and(|id| graph.is_state(id)));
    states.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
}

fn round_trip(what: &str, graph: &Graph, weights: &Weights) -> Imported {
    let exported = export(graph, &states(graph, weights), &About::default())
        .unwrap_or_else(|e| panic!("{what}: {e}\n{graph}"));
    from_bytes(exported.bytes, Options::default()).unwrap_or_else(|e| panic!("{what}: {e}\n{graph}"))
}

/// How near outputs must come.
#[derive(Clone, Copy, PartialEq)]
enum Close {
    /// To the bit.
    Exact,
    Float,
}

/// The graph that comes back has the outputs of the one that went out.
fn check(what: &str, graph: &Graph, given: &Weights, bindings: Bindings, close: Close) {
    let back = round_trip(what, graph, given);
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|&id| given[&graph.value(id).name].clone()).collect();
    let want = outputs(graph, given, &inputs, bindings);
    let got = outputs(&back.graph, &back.weights, &inputs, bindings);
    assert_eq!(got.len(), want.len(), "{what}");
    for ((got, want), (name, _)) in got.iter().zip(&want).zip(graph.outputs()) {
        let what = format!("{what}: {name} of\n{graph}\nwhich came back as\n{}", back.graph);
        match close {
            Close::Exact => assert_eq!(got, want, "{what}"),
            Close::Float => common::assert_close(&what, got, want),
        }
    }
}

fn count(few: u64) -> u64 {
    if espalier_testing::heavy(&format!("{} random graphs instead of {few}", 10 * few)) {
        10 * few
    } else {
        few
    }
}

#[test]
fn random_graphs_of_floats_come_back() {
    for seed in 0..count(150) {
        let graph = floats::grown(seed);
        for batch in [1, 3] {
            let bindings = Bindings::batch(batch);
            check(&format!("seed {seed}"), &graph, &runs::tensors(&graph, bindings), bindings, Close::Float);
        }
    }
}

#[test]
fn random_graphs_of_bytes_come_back_to_the_bit() {
    for seed in 0..count(150) {
        let (graph, bindings) = (bytes::grown(seed), Bindings::batch(2));
        check(&format!("seed {seed}"), &graph, &runs::tensors(&graph, bindings), bindings, Close::Exact);
    }
}

/// PyTorch's cases of single ops that a portable graph may hold, by name, with content for all that is given.
fn op_cases() -> Vec<(String, Graph, Weights, Bindings)> {
    let bytes = std::fs::read(format!("{GOLDEN}ops.safetensors")).unwrap();
    let (_, metadata): (_, Metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut cases = Vec::new();
    for (name, text) in metadata.metadata().clone().unwrap() {
        let Some(case) = name.strip_suffix("/graph") else { continue };
        let graph: Graph = text.parse().unwrap();
        let steps = graph.nodes().iter().any(|node| node.op == Op::Binary { f: BinaryFn::Step });
        // The importer gives floats.
        let integers = graph.outputs().iter().any(|(_, id)| graph.ty(*id).dtype == DType::I32);
        if verify(&graph, Stage::Portable).is_err() || steps || integers {
            continue;
        }
        // What has one sample comes back with N.
        let open = graph.inputs().iter().any(|&id| graph.ty(id).shape.0.first() == Some(&Dim::N));
        let bindings = Bindings::batch(if open { 2 } else { 1 });
        let mut given = runs::tensors(&graph, bindings);
        // NaN is nothing to compare.
        let partial =
            [Op::Unary { f: UnaryFn::Log }, Op::Unary { f: UnaryFn::Sqrt }, Op::Binary { f: BinaryFn::Pow }];
        if graph.nodes().iter().any(|node| partial.contains(&node.op)) {
            given.values_mut().for_each(|tensor| {
                *tensor =
                    Tensor::f32(&tensor.shape, tensor.as_f32().unwrap().iter().map(|v| v.abs()).collect());
            });
        }
        cases.push((case.to_string(), graph, given, bindings));
    }
    assert!(cases.len() > 60, "{} cases", cases.len());
    cases
}

#[test]
fn the_cases_of_single_ops_come_back() {
    for (name, graph, given, bindings) in op_cases() {
        check(&name, &graph, &given, bindings, Close::Float);
    }
}

/// ONNX Runtime itself, where it is: what our importer reads as we mean it has to be what the operators mean.
#[test]
fn onnx_runtime_computes_the_same() {
    let Some(python) = espalier_testing::python("onnxruntime") else { return };
    let folder = tempfile::tempdir().unwrap();
    let seeds = 0..count(40);
    let grown = |kind: &'static str, grow: fn(u64) -> Graph| {
        seeds.clone().map(move |seed| {
            let (graph, bindings) = (grow(seed), Bindings::batch(2));
            (format!("{kind}-{seed}"), graph.clone(), runs::tensors(&graph, bindings), bindings)
        })
    };
    let mut cases = op_cases();
    cases.extend(grown("floats", floats::grown).chain(grown("bytes", bytes::grown)));
    for (name, graph, given, _) in &cases {
        let weights = states(graph, given);
        let exported = export(graph, &weights, &About::default()).unwrap();
        let inputs: Vec<(&str, &Tensor)> = graph
            .inputs()
            .iter()
            .map(|&id| (graph.value(id).name.as_str(), &given[&graph.value(id).name]))
            .collect();
        let described: Vec<String> = inputs
            .iter()
            .map(|(name, tensor)| {
                let kind = if tensor.as_i32().is_some() { "<i4" } else { "<f4" };
                format!(r#"{{"name": "{name}", "shape": {:?}, "type": "{kind}"}}"#, tensor.shape)
            })
            .collect();
        let raw: Vec<u8> = inputs.iter().flat_map(|(_, tensor)| tensor.data.to_le_bytes()).collect();
        let write =
            |end: &str, bytes: &[u8]| std::fs::write(folder.path().join(format!("{name}.{end}")), bytes);
        write("onnx", &exported.bytes).unwrap();
        write("json", format!("[{}]", described.join(", ")).as_bytes()).unwrap();
        write("in", &raw).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run_folder.py");
    let done = std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (name, graph, given, bindings) in &cases {
        let inputs: Vec<Tensor> =
            graph.inputs().iter().map(|&id| given[&graph.value(id).name].clone()).collect();
        let mut raw = &std::fs::read(folder.path().join(format!("{name}.out"))).unwrap()[..];
        for (want, (output, _)) in outputs(graph, given, &inputs, *bindings).iter().zip(graph.outputs()) {
            let own = raw.split_off(..4 * want.data.len()).expect("as many numbers");
            let got = Tensor::new(&want.shape, Data::from_le_bytes(DType::F32, own));
            let what = format!("{name}: {output} of\n{graph}");
            // Where it computes with floats, a rounding falls to the other side of a tie now and then.
            let tolerance = if name.starts_with("bytes") { 0.05 } else { 1e-4 };
            let distance = distance(got.as_f32().unwrap(), want.as_f32().unwrap());
            assert!(distance <= tolerance, "{what}\nis off by {distance}:\n{got:?}\n{want:?}");
        }
        assert!(raw.is_empty(), "{name}");
    }
}

/// The Euclidean distance as a share of the norm of `want`.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    if difference == 0.0 { 0.0 } else { difference / norm(&mut want.iter().map(|&w| f64::from(w))) }
}

/// What other tools wrote comes in, goes out and comes back: ONNX Runtime's outputs still hold for it.
#[test]
fn imported_models_go_out_again() {
    for (file, close, least) in [
        ("onnx.safetensors", Close::Float, 250),
        ("qdq.safetensors", Close::Exact, 90),
        ("integer-networks.safetensors", Close::Exact, 4),
    ] {
        let cases = common::cases(&std::fs::read(format!("{GOLDEN}{file}")).unwrap());
        assert!(cases.len() >= least, "{file}: {} cases", cases.len());
        for (name, case) in cases {
            let imported = from_bytes(case.model.clone(), Options::default()).unwrap();
            let mut given = imported.weights;
            let graph = fold_batch_norm(&imported.graph, &mut given).unwrap();
            let bindings = common::batch(&case);
            given.extend(case.inputs);
            check(&format!("{file} {name}"), &graph, &given, bindings, close);
        }
    }
}

/// Ops of integers come back as themselves, so that they run as fast as before.
#[test]
fn integers_come_back_as_integers() {
    let cases = common::cases(&std::fs::read(format!("{GOLDEN}integer-networks.safetensors")).unwrap());
    for (name, case) in cases {
        let first = from_bytes(case.model, Options::default()).unwrap();
        let back = round_trip(&name, &first.graph, &first.weights);
        let ops = |graph: &Graph| {
            let mut count = BTreeMap::new();
            for node in graph.nodes() {
                *count.entry(node.op.name()).or_insert(0) += 1;
            }
            count
        };
        assert_eq!(ops(&back.graph), ops(&first.graph), "{name}");
    }
}

fn refused(text: &str, want: &str) {
    let graph: Graph = text.parse().unwrap();
    let error = export(&graph, &runs::tensors(&graph, Bindings::batch(1)), &About::default()).unwrap_err();
    assert!(error.to_string().contains(want), "{error} should say {want}");
}

#[test]
fn what_has_no_counterpart_is_named() {
    refused(
        "input x: f32[N,4]\ny: f32[N,4] = Binary(x, x) f=Step\noutput y = y\n",
        "node `y` (Binary) is the step function",
    );
    let graph: Graph =
        "input x: f32[N,4]\ny: f32[N,4] = Unary(x) f=Relu\noutput y = y\nweight w: f32[4]\n".parse().unwrap();
    let error = export(&graph, &Weights::new(), &About::default()).unwrap_err();
    assert!(matches!(&error, ExportError::Value(text) if text.contains("`w`")), "{error}");
}

/// Outputs keep their names, also where one value is several of them, an input or a weight.
#[test]
fn outputs_keep_their_names() {
    let text = "\
input x: f32[N,4]
weight w: f32[4]
a: f32[N,4] = Unary(x) f=Relu
b: f32[N,4] = Binary(a, w) f=Add
output b = a
output first = b
output second = b
output given = x
output weight = w
";
    let (graph, bindings): (Graph, _) = (text.parse().unwrap(), Bindings::batch(2));
    let given = runs::tensors(&graph, bindings);
    let back = round_trip("names", &graph, &given);
    let names: Vec<&str> = back.graph.outputs().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b", "first", "second", "given", "weight"]);
    check("names", &graph, &given, bindings, Close::Exact);
}

#[test]
fn rounding_comes_back() {
    let text = "input x: f32[N,4]\ny: f32[N,4] = Unary(x) f=Round\noutput y = y\n";
    let (graph, bindings): (Graph, _) = (text.parse().unwrap(), Bindings::batch(2));
    check("round", &graph, &runs::tensors(&graph, bindings), bindings, Close::Exact);
}

/// The reference in f64 says what a graph means, so that two errors cannot cancel out in plans.
#[test]
fn the_reference_agrees() {
    for seed in 1000..1030 {
        let (graph, bindings) = (floats::grown(seed), Bindings::batch(2));
        let given = runs::tensors(&graph, bindings);
        let back = round_trip(&format!("seed {seed}"), &graph, &given);
        let inputs = graph.inputs().iter().map(|&id| graph.value(id).name.clone());
        let mut returned = back.weights.clone();
        returned.extend(inputs.map(|name| (name.clone(), given[&name].clone())));
        let widen = |all: &Weights| all.iter().map(|(name, t)| (name.clone(), RefTensor::from(t))).collect();
        let want = interpret(&graph, bindings, &widen(&given));
        let got = interpret(&back.graph, bindings, &widen(&returned));
        for ((name, id), (_, other)) in graph.outputs().iter().zip(back.graph.outputs()) {
            let want = &want[&graph.value(*id).name].data;
            let got = &got[&back.graph.value(*other).name].data;
            let largest = want.iter().fold(1.0, |m: f64, w| m.max(w.abs()));
            let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-5 * largest);
            assert!(near && got.len() == want.len(), "seed {seed}: {name} of\n{graph}\n{}", back.graph);
        }
    }
}
