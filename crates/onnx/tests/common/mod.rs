//! Runs imported graphs.
#![allow(dead_code)] // Each test uses a part of it.

use std::collections::BTreeMap;

use espalier_graph::{Bindings, DType, Data, Tensor};
use espalier_onnx::Imported;
use espalier_passes::fold_batch_norm;
use espalier_runtime::{Isa, Options, Pool, lower};
use safetensors::SafeTensors;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// A small model with what ONNX Runtime made of its inputs.
#[derive(Default)]
pub(crate) struct Case {
    pub(crate) model: Vec<u8>,
    pub(crate) inputs: Tensors,
    pub(crate) outputs: Tensors,
}

/// The cases of a file that `tests/golden/README.md` describes, by name.
pub(crate) fn cases(bytes: &[u8]) -> BTreeMap<String, Case> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for (name, view) in file.iter() {
        let (key, part) = name.split_once('/').unwrap();
        let case = cases.entry(key.into()).or_default();
        let tensor = || Tensor::new(view.shape(), Data::from_le_bytes(DType::F32, view.data()));
        match part.split_once('/') {
            None => case.model = view.data().to_vec(),
            Some(("in", name)) => drop(case.inputs.insert(name.into(), tensor())),
            Some((_, name)) => drop(case.outputs.insert(name.into(), tensor())),
        }
    }
    cases
}

pub(crate) fn batch(case: &Case) -> Bindings {
    Bindings::batch(case.inputs.values().next().unwrap().shape.first().copied().unwrap_or(1))
}

/// The outputs of `imported`, batch normalisation folded as packages have it.
pub(crate) fn run(imported: &Imported, inputs: &Tensors, bindings: Bindings, isa: Isa) -> Tensors {
    let mut weights = imported.weights.clone();
    let graph = fold_batch_norm(&imported.graph, &mut weights).unwrap();
    let mut plan = lower(&graph, &weights, Options { isa, threads: 1, bindings }).unwrap();
    for &id in graph.inputs() {
        let name = &graph.value(id).name;
        match &inputs[name].data {
            Data::F32(v) => plan.input(name).copy_from_slice(v),
            Data::I32(v) => plan.input_i32(name).copy_from_slice(v),
            Data::U8(_) | Data::S8(_) => panic!("no graph takes bytes"),
        }
    }
    plan.run(&mut Pool::new(1));
    let output = |(name, id): &(String, _)| {
        (name.clone(), Tensor::f32(&graph.ty(*id).shape.bind(bindings), plan.output(name).to_vec()))
    };
    graph.outputs().iter().map(output).collect()
}

/// Fails where `got` and `want` differ by more than 1e-4 in relative Euclidean distance.
pub(crate) fn assert_close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.shape, want.shape, "{what}: shape");
    let (got, want) = (got.as_f32().unwrap(), want.as_f32().unwrap());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    let size = norm(&mut want.iter().map(|&w| f64::from(w)));
    assert!(
        difference <= 1e-4 * size,
        "{what}: relative distance {:e}\n{got:?}\n{want:?}",
        difference / size
    );
}
