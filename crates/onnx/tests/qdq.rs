//! One small quantized model for each pattern that becomes integers, against the outputs of ONNX Runtime, which computes
//! what the file says in float (`tests/golden/README.md` describes the file).

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Case, batch, run};
use espalier_graph::{Bindings, Tensor};
use espalier_onnx::{Batch, Imported, Options, from_bytes};
use espalier_runtime::Isa;
use safetensors::SafeTensors;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/qdq.safetensors");

/// How near outputs must come.
#[derive(Clone, Copy)]
enum Close {
    /// To the bit.
    Exact,
    /// Floats are summed in another order than integers: a rounding may fall to the next byte, now and then.
    Step(f32),
    /// Not rounded at the end.
    Float,
}

/// A case, and what the file says about it: how near, and the ops of the imported graph.
struct Pattern {
    case: Case,
    close: Close,
    ops: BTreeSet<String>,
}

fn patterns() -> BTreeMap<String, Pattern> {
    let bytes = std::fs::read(FILE).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let said = header.metadata().clone().unwrap();
    let read = |(name, case): (String, Case)| {
        let mut words = said[&name].split_whitespace();
        let close = match (words.next().unwrap(), words.next().unwrap().parse().unwrap()) {
            ("exact", _) => Close::Exact,
            ("step", step) => Close::Step(step),
            ("float", _) => Close::Float,
            (other, _) => panic!("{name}: {other}"),
        };
        (name, Pattern { case, close, ops: words.map(String::from).collect() })
    };
    common::cases(&bytes).into_iter().map(read).collect()
}

/// The ops of a graph, roundings apart.
fn ops(imported: &Imported) -> BTreeSet<String> {
    let names = imported.graph.nodes().iter().map(|node| node.op.name().to_string());
    names.filter(|name| !["Quantize", "Dequantize"].contains(&name.as_str())).collect()
}

fn assert_near(what: &str, got: &Tensor, want: &Tensor, close: Close) {
    assert_eq!(got.shape, want.shape, "{what}: shape");
    let (values, wanted) = (got.as_f32().unwrap(), want.as_f32().unwrap());
    match close {
        Close::Exact => assert_eq!(values, wanted, "{what}"),
        Close::Float => common::assert_close(what, got, want),
        Close::Step(step) => {
            let steps = |i: usize| (values[i] - wanted[i]).abs() / step;
            let off: Vec<usize> = (0..values.len()).filter(|&i| steps(i) > 1e-3).collect();
            assert!(off.iter().all(|&i| steps(i) < 1.001), "{what}:\n{values:?}\n{wanted:?}");
            assert!(off.len() * 50 <= values.len(), "{what}: {} of {} are off", off.len(), values.len());
        }
    }
}

#[test]
fn patterns_become_integers_and_mean_the_same() {
    let patterns = patterns();
    assert!(patterns.len() > 90, "the reader reads");
    for (name, Pattern { case, close, ops: wanted }) in &patterns {
        let imported =
            from_bytes(case.model.clone(), Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(ops(&imported), *wanted, "{name}:\n{}", imported.graph);
        let has_floats = !wanted.iter().all(|op| {
            let moved =
                ["MaxPool", "Resize", "Concat", "Slice", "Reshape", "Transpose"].contains(&op.as_str());
            moved || op == "Table" || op.starts_with('Q')
        });
        let remarks = imported.integers.clone().expect("quantized");
        assert_eq!(!remarks.floats.is_empty(), has_floats, "{name}: {remarks:?}");
        for isa in Isa::available() {
            for (output, got) in run(&imported, &case.inputs, batch(case), isa) {
                let what = format!("{name} {isa} {output} of\n{}", imported.graph);
                assert_near(&what, &got, &case.outputs[&output], *close);
            }
        }
    }
}

/// Two samples at once give what each gives alone, to the bit.
#[test]
fn samples_do_not_mix() {
    let mut any = 0;
    for (name, Pattern { case, .. }) in patterns() {
        let imported = from_bytes(case.model.clone(), Options::default()).unwrap();
        if imported.batch != Batch::Any || !case.inputs.values().all(|x| x.shape[0] == 1) {
            continue;
        }
        any += 1;
        let with = |sign: f32| {
            let signed =
                |t: &Tensor| Tensor::f32(&t.shape, t.as_f32().unwrap().iter().map(|v| v * sign).collect());
            case.inputs.iter().map(|(name, t)| (name.clone(), signed(t))).collect()
        };
        let both = case.inputs.iter().map(|(name, t)| {
            let one = t.as_f32().unwrap();
            let shape = [&[2], &t.shape[1..]].concat();
            (name.clone(), Tensor::f32(&shape, one.iter().copied().chain(one.iter().map(|v| -v)).collect()))
        });
        let got = run(&imported, &both.collect(), Bindings::batch(2), Isa::best());
        let [first, second] =
            [1.0, -1.0].map(|sign| run(&imported, &with(sign), Bindings::batch(1), Isa::best()));
        for (output, got) in got {
            let alone = [&first[&output], &second[&output]].map(|t| t.as_f32().unwrap()).concat();
            assert_eq!(got.as_f32().unwrap(), alone, "{name}");
        }
    }
    assert!(any > 40, "{any} models take any number of samples");
}

fn text(case: &str) -> String {
    from_bytes(patterns()[case].case.model.clone(), Options::default()).unwrap().graph.to_string()
}

#[test]
fn clamps_become_limits() {
    for (case, limits) in [
        ("conv-13", "limits=[0,255]"),
        ("conv-relu-13", "limits=[100,255]"),
        ("conv-relu-zero-13", "limits=[0,255]"),
        ("conv-clip-13", "limits=[7,207]"),
        ("mul-clip-13", "limits=[90,129]"),
        ("add-relu-13", "limits=[100,255]"),
    ] {
        assert!(text(case).contains(limits), "{case}:\n{}", text(case));
    }
}

/// A rounding between two operators stays one, and none comes up that the file has not.
#[test]
fn roundings_are_kept() {
    let count = |case: &str, op: &str| text(case).matches(&format!("= {op}(")).count();
    assert_eq!((count("residual-13", "QConv"), count("residual-13", "QAdd")), (1, 1));
    assert_eq!((count("residual-unrounded-13", "QConv"), count("residual-unrounded-13", "QAdd")), (1, 0));
    assert_eq!(count("silu-13", "Table"), 1);
    assert_eq!(count("read-twice-13", "QConv"), 1);
}
