//! Whole networks of integers, which Espalier trained and ONNX Runtime quantized: every instruction set, taken by force,
//! gives the same bits (`tests/golden/README.md` describes the file).

mod common;

use std::collections::BTreeMap;

use common::{Case, batch, cases, run};
use espalier_graph::Tensor;
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_onnx::{Imported, Options, from_bytes};
use espalier_runtime::Isa;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/integer-networks.safetensors");

const NETWORKS: [&str; 4] = ["mobilenet_v2", "mobilenet_v3_small", "plain6", "resnet18"];

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.as_f32().unwrap().iter().map(|value| value.to_bits()).collect()
}

/// What the graph means, op by op, in f64.
fn reference(imported: &Imported, case: &Case) -> Vec<u32> {
    let given: BTreeMap<String, RefTensor> = imported
        .weights
        .iter()
        .chain(&case.inputs)
        .map(|(name, t)| (name.clone(), RefTensor::from(t)))
        .collect();
    let values = interpret(&imported.graph, batch(case), &given);
    let (_, y) = imported.graph.outputs()[0];
    values[&imported.graph.value(y).name].data.iter().map(|&value| (value as f32).to_bits()).collect()
}

#[test]
fn every_instruction_set_gives_the_bits_of_onnx_runtime() {
    let cases = cases(&std::fs::read(FILE).unwrap());
    assert_eq!(cases.keys().map(String::as_str).collect::<Vec<_>>(), NETWORKS);
    for (name, case) in &cases {
        let imported = from_bytes(case.model.clone(), Options::default()).unwrap();
        let remarks = imported.integers.as_ref().expect("a quantized network");
        assert!(remarks.integers >= 8 && remarks.floats.is_empty(), "{name}: {remarks:?}");
        let want = bits(&case.outputs["y"]);
        assert_eq!(reference(&imported, case), want, "{name}: the reference against ONNX Runtime");
        for isa in Isa::available() {
            assert_eq!(bits(&run(&imported, &case.inputs, batch(case), isa)["y"]), want, "{name} on {isa}");
        }
    }
}
