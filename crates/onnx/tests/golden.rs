//! One small model for each operator and way of writing it, against the outputs of ONNX Runtime
//! (`tests/golden/README.md` describes the file).

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Case, assert_close, batch, run};
use espalier_graph::{Bindings, Tensor};
use espalier_onnx::{Batch, Options, from_bytes};
use espalier_runtime::Isa;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/onnx.safetensors");

fn cases() -> BTreeMap<String, Case> {
    common::cases(&std::fs::read(FILE).unwrap())
}

#[test]
fn outputs_are_those_of_onnx_runtime() {
    let cases = cases();
    assert!(cases.len() > 300, "the reader reads");
    let mut failed = Vec::new();
    for (name, case) in &cases {
        match from_bytes(case.model.clone(), Options::default()) {
            Err(e) => failed.push(format!("{name}: {e}")),
            Ok(imported) => {
                for isa in Isa::available() {
                    let got = run(&imported, &case.inputs, batch(case), isa);
                    assert_eq!(got.len(), case.outputs.len(), "{name}");
                    for (output, want) in &case.outputs {
                        assert_close(
                            &format!("{name} {isa} {output} of\n{}", imported.graph),
                            &got[output],
                            want,
                        );
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Exporters bake the batch of their example into shapes: two samples at once give what each gives alone.
#[test]
fn samples_do_not_mix() {
    let mut any = 0;
    for (name, case) in cases() {
        let imported = from_bytes(case.model.clone(), Options::default()).unwrap();
        let is_one = case.inputs.values().all(|x| x.shape.first() == Some(&1));
        if imported.batch != Batch::Any || !is_one {
            continue;
        }
        any += 1;
        let twice = |t: &Tensor| {
            let one = t.as_f32().unwrap();
            let negated = one.iter().map(|v| -v);
            let shape = [&[2], &t.shape[1..]].concat();
            Tensor::f32(&shape, one.iter().copied().chain(negated).collect())
        };
        let inputs = case.inputs.iter().map(|(name, t)| (name.clone(), twice(t))).collect();
        for (output, got) in run(&imported, &inputs, Bindings::batch(2), Isa::best()) {
            let want = &case.outputs[&output];
            let half = got.data.len() / 2;
            assert_eq!(half, want.data.len(), "{name}");
            let first = Tensor::f32(&want.shape, got.as_f32().unwrap()[..half].to_vec());
            assert_close(&format!("{name}, first of two"), &first, want);
        }
    }
    assert!(any > 80, "{any} models take any number of samples");
}

fn ops(case: &str) -> BTreeSet<&'static str> {
    let imported = from_bytes(cases()[case].model.clone(), Options::default()).unwrap();
    imported.graph.nodes().iter().map(|node| node.op.name()).collect()
}

fn text(case: &str) -> String {
    from_bytes(cases()[case].model.clone(), Options::default()).unwrap().graph.to_string()
}

/// What fast kernels wait for keeps or gets its own op.
#[test]
fn what_exporters_write_out_is_recognised() {
    for (case, function) in [
        ("silu-21", "f=Silu"),
        ("hard-swish-clip-21", "f=HardSwish"),
        ("hard-swish-gate-11", "f=HardSwish"),
        ("hard-swish-sigmoid-7", "f=HardSwish"),
        ("gelu-erf-9", "f=Gelu"),
        ("gelu-half-21", "f=Gelu"),
        ("relu6-21", "f=Clip(0.0,6.0)"),
    ] {
        let text = text(case);
        assert!(text.contains(function) && text.lines().count() == 3, "{case}:\n{text}");
    }
    assert_eq!(ops("conv-padded-13"), ["Conv"].into());
    assert_eq!(ops("conv-batch-norm-9"), ["BatchNorm", "Conv"].into());
    assert_eq!(ops("nearest-doubled-21"), ["Resize"].into());
    assert_eq!(ops("linear-half_pixel-21"), ["Resize"].into());
    assert_eq!(ops("view-21"), ["Reshape"].into());
    assert!(text("view-21").contains("shape=[N,12]"));
}

#[test]
fn weights_keep_their_names_and_roles() {
    let text = text("batch-norm-15");
    for line in
        ["weight scale: f32[3]", "weight b: f32[3]", "statistic mean: f32[3]", "statistic var: f32[3]"]
    {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(text.contains("eps=0.01 momentum=0.1"), "{text}");
}
