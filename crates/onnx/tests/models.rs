//! Whole detectors, where the larger data sets are: their outputs are those that ONNX Runtime gave.

mod common;

use std::path::PathBuf;

use common::{Tensors, assert_close, run};
use espalier_graph::{Bindings, Tensor};
use espalier_onnx::{Batch, Options, from_file};
use espalier_runtime::Isa;
use espalier_testing::data;

fn read(path: PathBuf) -> Tensor {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = npyz::NpyFile::new(&bytes[..]).unwrap();
    let shape: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
    Tensor::f32(&shape, file.into_vec().unwrap())
}

fn check(model: &str, reference: &str, input: &str, outputs: &[(&str, &str)]) {
    let Some(folder) = data("onnx-models") else { return };
    let imported = from_file(&folder.join(model), Options::default()).unwrap();
    assert_eq!(imported.batch, Batch::Any, "{model}");
    let inputs: Tensors = [(input.to_string(), read(folder.join(reference).join("input.npy")))].into();
    let got = run(&imported, &inputs, Bindings::batch(1), Isa::best());
    for (name, file) in outputs {
        assert_close(&format!("{model} {name}"), &got[*name], &read(folder.join(reference).join(file)));
    }
}

#[test]
fn fastest_det() {
    check("fastestdet/FastestDet.onnx", "fastestdet/reference", "input.1", &[("758", "output.npy")]);
}

#[test]
fn ultra_face() {
    for name in ["version-RFB-320_simplified", "version-slim-320_simplified"] {
        let outputs = [("scores", "scores.npy"), ("boxes", "boxes.npy")];
        check(&format!("ultraface/{name}.onnx"), &format!("ultraface/reference/{name}"), "input", &outputs);
    }
}
