//! PyTorch's values and gradients of single ops, as `tests/golden/README.md` describes them, against the f64 reference
//! and against plans for every instruction set.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use espalier_graph::{Bindings, DType, Data, Graph, Op, Tensor, Weights};
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_passes::differentiate;
use espalier_runtime::{Isa, Options, Pool, lower};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, tensor::Metadata};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/ops.safetensors");

type Values = BTreeMap<String, RefTensor>;

struct Golden {
    texts: BTreeMap<String, String>,
    tensors: Values,
}

impl Golden {
    fn read() -> Golden {
        let bytes = std::fs::read(FILE).unwrap();
        let (_, metadata): (_, Metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let texts = metadata.metadata().clone().unwrap().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        Golden { texts, tensors: file.iter().map(|(name, view)| (name.into(), widen(&view))).collect() }
    }

    fn cases(&self) -> Vec<&str> {
        self.texts.keys().filter_map(|key| key.strip_suffix("/graph")).collect()
    }

    fn graph(&self, case: &str, what: &str) -> Option<Graph> {
        let text = self.texts.get(&format!("{case}/{what}"))?;
        Some(text.parse().unwrap_or_else(|e| panic!("{case}/{what}: {e}\n{text}")))
    }

    /// The tensors `CASE/WHAT/NAME`, each called `prefix` and NAME.
    fn part(&self, case: &str, what: &str, prefix: &str) -> Values {
        let start = format!("{case}/{what}/");
        let of_case = self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&start)?, t)));
        of_case.map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
    }
}

fn widen(view: &TensorView<'_>) -> RefTensor {
    let words = view.data().as_chunks::<4>().0;
    let data = match view.dtype() {
        Dtype::F32 => words.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Dtype::I32 => words.iter().map(|&b| f64::from(i32::from_le_bytes(b))).collect(),
        other => panic!("golden tensors are F32 or I32, not {other:?}"),
    };
    RefTensor::new(view.shape(), data)
}

/// The outputs of `graph` from `given` are `want`: by the reference, and by a plan for every instruction set.
fn check(case: &str, graph: &Graph, given: &Values, want: &Values) {
    let names: BTreeSet<&String> = graph.outputs().iter().map(|(name, _)| name).collect();
    assert_eq!(names, want.keys().collect(), "outputs of {case}");
    let values = interpret(graph, Bindings::batch(1), given);
    for (name, id) in graph.outputs() {
        compare(&format!("{case}, reference, {name}"), graph, name, &values[&graph.value(*id).name], want);
    }
    for isa in Isa::available() {
        for (name, got) in run(graph, given, isa) {
            compare(&format!("{case}, {isa}, {name}"), graph, &name, &got, want);
        }
    }
}

fn compare(what: &str, graph: &Graph, name: &str, got: &RefTensor, want: &Values) {
    let want = &want[name];
    assert_eq!(got.shape, want.shape, "{what} of\n{graph}");
    let largest = want.data.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
    let float = graph.ty(graph.output(name).unwrap()).dtype == DType::F32;
    let tolerance = if float { 2e-5 * largest } else { 0.0 };
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        assert!((g - w).abs() <= tolerance, "{what}[{i}] is {g}, PyTorch has {w}, in\n{graph}");
    }
}

fn run(graph: &Graph, given: &Values, isa: Isa) -> Values {
    let sources = graph.inputs().iter().copied().chain(graph.states().iter().map(|s| s.value));
    let tensors: Weights = sources
        .map(|id| {
            let name = &graph.value(id).name;
            (name.clone(), narrow(graph.ty(id).dtype, &given[name]))
        })
        .collect();
    let options = Options { isa, threads: 1, bindings: Bindings::batch(1) };
    let mut plan = lower(graph, &tensors, options).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    common::set_inputs(&mut plan, graph, &tensors);
    plan.run(&mut Pool::new(1));
    let output = |(name, id): &(String, _)| {
        let ty = graph.ty(*id);
        let integer = |v: &f32| f64::from(v.to_bits() as i32);
        let got = plan.output(name).iter();
        let data = if ty.dtype == DType::F32 {
            got.map(|&v| f64::from(v)).collect()
        } else {
            got.map(integer).collect()
        };
        (name.clone(), RefTensor::new(&ty.shape.bind(options.bindings), data))
    };
    graph.outputs().iter().map(output).collect()
}

/// Exact: the file holds f32 and i32.
fn narrow(dtype: DType, tensor: &RefTensor) -> Tensor {
    let data = match dtype {
        DType::F32 => Data::F32(tensor.data.iter().map(|&v| v as f32).collect()),
        DType::I32 => Data::I32(tensor.data.iter().map(|&v| v as i32).collect()),
        DType::U8 | DType::S8 | DType::Q8(_) => unreachable!("no golden case holds bytes"),
    };
    Tensor::new(&tensor.shape, data)
}

#[test]
fn values() {
    let golden = Golden::read();
    for case in golden.cases() {
        let graph = golden.graph(case, "graph").unwrap();
        check(case, &graph, &golden.part(case, "in", ""), &golden.part(case, "out", ""));
    }
}

#[test]
fn gradients_by_explicit_ops() {
    let golden = Golden::read();
    for case in golden.cases() {
        let Some(graph) = golden.graph(case, "backward") else { continue };
        let mut given = golden.part(case, "in", "");
        given.extend(golden.part(case, "out", ""));
        given.extend(golden.part(case, "seed", "d"));
        let mut want = golden.part(case, "grad", "d");
        want.retain(|name, _| graph.output(name).is_some());
        check(case, &graph, &given, &want);
    }
}

#[test]
fn gradients_by_differentiation() {
    let golden = Golden::read();
    for case in golden.cases() {
        let want = golden.part(case, "grad", "d");
        let mut graph = golden.graph(case, "graph").unwrap();
        let mut given = golden.part(case, "in", "");
        given.extend(golden.part(case, "seed", "seed."));
        append_gradients(case, &mut graph, &golden.part(case, "seed", ""), &want);
        check(case, &graph, &given, &golden.part(case, "out", "").into_iter().chain(want).collect());
    }
}

/// Adds an input `seed.NAME` for each output with a seed, and an output `dNAME` for each wanted gradient.
fn append_gradients(case: &str, graph: &mut Graph, seeds: &Values, want: &Values) {
    let seeds: Vec<_> = seeds
        .keys()
        .map(|name| {
            let value = graph.output(name).unwrap();
            let ty = graph.ty(value).clone();
            (value, graph.add_input(&format!("seed.{name}"), ty).unwrap())
        })
        .collect();
    let wrt: Vec<_> = want.keys().map(|name| graph.find(&name[1..]).unwrap()).collect();
    let gradients = differentiate(graph, &seeds, &wrt).unwrap_or_else(|e| panic!("{case}: {e}"));
    for (name, gradient) in want.keys().zip(gradients) {
        graph.add_output(name, gradient.unwrap_or_else(|| panic!("{case}: no {name}"))).unwrap();
    }
}

#[test]
fn every_op_of_floats_but_dropout_has_a_case() {
    let golden = Golden::read();
    let graphs = golden
        .cases()
        .into_iter()
        .flat_map(|case| ["graph", "backward"].map(|what| golden.graph(case, what)));
    let seen: BTreeSet<&str> =
        graphs.flatten().flat_map(|g| g.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>()).collect();
    let missing: Vec<_> = Op::NAMES.iter().filter(|name| !seen.contains(*name)).collect();
    // Bits of integers are compared with the reference (tests/integers.rs) and with ONNX Runtime (crates/onnx/tests/qdq.rs).
    let integers = ["Quantize", "Dequantize", "QConv", "QAdd", "QMul", "QAvgPool", "Table"];
    let missing: Vec<_> = missing.into_iter().filter(|name| !integers.contains(name)).collect();
    assert_eq!(missing, [&"Dropout"]);
}
