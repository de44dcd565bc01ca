//! Beginning from weights in files: PyTorch's safetensors under any prefix, heads of other classes, and what does not
//! fit.

use std::path::Path;

use espalier_graph::package::floats;
use espalier_graph::{Graph, Op, Role, Tensor, Weights};
use espalier_tasks::ClassifyImage;
use espalier_train::best;
use espalier_train::data::{Range, Statistics};
use espalier_train::init::{Init, Taken};
use espalier_train::layers::{frozen, model_states};
use espalier_train::networks::{NetworkOptions, build, initial_weights};
use espalier_train::step::{StepOptions, training_step};
use espalier_train::{Overrides, UsageError};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/");

fn network(name: &str, classes: usize, size: usize) -> Graph {
    build(name, &NetworkOptions { classes, channels: 3, size: [size; 2], width: 0.125 }).unwrap()
}

fn labels(classes: usize) -> Vec<String> {
    (0..classes).map(|i| format!("class {i}")).collect()
}

/// Weights of the network with another seed than [`fill`] begins with.
fn other(graph: &Graph) -> Weights {
    initial_weights(graph, 2)
}

fn write(path: &Path, weights: &Weights) {
    let bytes: Vec<_> = weights.iter().map(|(name, t)| (name, t, t.data.to_le_bytes())).collect();
    let views = bytes.iter().map(|(name, t, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The weights of `graph` after a file of `weights`, and what was said.
fn fill(graph: &Graph, weights: &Weights) -> Result<(Weights, Taken), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write(&path, weights);
    let classes = graph.ty(graph.output("logits").unwrap()).shape.0[1].factor;
    let mut filled = initial_weights(graph, 1);
    let told = Init::read(&path).and_then(|init| init.fill(graph, &labels(classes), &mut filled));
    told.map(|taken| (filled, taken)).map_err(|e| format!("{e:#}"))
}

#[test]
fn prefixes_are_found() {
    for name in ["plain6", "resnet18", "mobilenet_v2", "lenet"] {
        let graph = network(name, 3, 32);
        for prefix in ["", "module.", "model.", "backbone.", "_orig_mod.", "module.model.", "a.b.c."] {
            let weights = other(&graph);
            let renamed = weights.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect();
            let (filled, taken) = fill(&graph, &renamed).unwrap();
            assert_eq!(filled, weights, "{name} `{prefix}`");
            assert_eq!((taken.prefix.as_str(), taken.tensors), (prefix, weights.len()), "{name}");
            assert!(taken.missing.is_empty() && taken.unexpected.is_empty(), "{name} `{prefix}`: {taken:?}");
        }
    }
}

/// After `edit` of whole weights for 3 classes, a network for `classes` is told `lines` about them.
fn check(name: &str, classes: usize, edit: impl Fn(&mut Weights), lines: &[&str]) -> Weights {
    let mut weights = other(&network(name, 3, 32));
    edit(&mut weights);
    let (filled, taken) = fill(&network(name, classes, 32), &weights).unwrap();
    let told: Vec<String> = taken.lines().iter().map(|line| line.replace(&taken.file, "FILE")).collect();
    assert_eq!(told, lines, "{name}");
    filled
}

fn refused(name: &str, edit: impl Fn(&mut Weights), words: &str) {
    let graph = network(name, 3, 32);
    let mut weights = other(&graph);
    edit(&mut weights);
    let error = fill(&graph, &weights).unwrap_err();
    assert!(error.starts_with("--init ") && error.contains(words), "{error:?} should say {words:?}");
    assert_eq!(error.matches("--init ").count(), 1, "told twice: {error}");
}

fn one(shape: &[usize]) -> Tensor {
    Tensor::f32(shape, vec![1.0; shape.iter().product()])
}

#[test]
fn what_is_taken_is_told() {
    check("plain6", 3, |_| {}, &["32 tensors from FILE", "head 20 goes on from there"]);
    let anew = ["30 tensors from FILE", "head 20: 3 classes in FILE, 5 here: begins anew"];
    let filled = check("plain6", 5, |_| {}, &anew);
    let random = initial_weights(&network("plain6", 5, 32), 1);
    assert_eq!(filled["20.weight"], random["20.weight"]);
    assert_ne!(filled["0.weight"], random["0.weight"]);

    let headless = |w: &mut Weights| w.retain(|name, _| !name.starts_with("fc."));
    let lines = ["120 tensors from FILE", "head fc: FILE has none: begins anew"];
    let lines = lines.map(|l| l.replace("120", &(other(&network("resnet18", 3, 32)).len() - 2).to_string()));
    check("resnet18", 3, headless, &lines.each_ref().map(String::as_str));

    let counters = |w: &mut Weights| drop(w.insert("1.num_batches_tracked".into(), one(&[])));
    check("plain6", 3, counters, &["32 tensors from FILE", "head 20 goes on from there"]);

    let partial = |w: &mut Weights| {
        w.retain(|name, _| !["3.weight", "4.bias"].contains(&name.as_str()));
        (0..7).for_each(|i| drop(w.insert(format!("extra.{i}\n"), one(&[2]))));
    };
    let lines = [
        "30 tensors from FILE",
        "head 20 goes on from there",
        "not in FILE, and begin anew: 3.weight, 4.bias",
        "of no use here: extra.0\\n, extra.1\\n, extra.2\\n, extra.3\\n, extra.4\\n, ... (7 in all)",
    ];
    check("plain6", 3, partial, &lines);
}

#[test]
fn what_does_not_fit_is_refused() {
    let reshaped = |w: &mut Weights| drop(w.insert("conv1.weight".into(), one(&[8, 3, 7, 7])));
    refused(
        "resnet18",
        reshaped,
        "tensor `conv1.weight` is f32[8,3,7,7], here it is f32[8,3,3,3]; another --model",
    );
    let narrow = |w: &mut Weights| w.values_mut().for_each(|t| *t = one(&[1]));
    refused("plain6", narrow, "tensor `0.weight` is f32[1], here it is f32[8,3,3,3], and ");
    let renamed = |w: &mut Weights| *w = [("blocks.0.attn.qkv".to_string(), one(&[4]))].into();
    refused(
        "plain6",
        renamed,
        "none of its tensors has a place here; it holds blocks.0.attn.qkv, the network 0.weight, ",
    );
    let only_head = |w: &mut Weights| w.retain(|name, _| name.starts_with("fc3"));
    let graph = network("lenet", 9, 32);
    let mut weights = other(&network("lenet", 3, 32));
    only_head(&mut weights);
    assert!(fill(&graph, &weights).unwrap_err().contains("none of its tensors"));
    let infinite = |w: &mut Weights| drop(w.insert("1.bias".into(), Tensor::f32(&[8], vec![f32::NAN; 8])));
    refused("plain6", infinite, "tensor `1.bias` holds a value that is not finite");
}

#[test]
fn files_of_other_kinds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let check = |bytes: &[u8], usage: bool, words: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Init::read(&path).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#} should say {words:?}");
        assert_eq!(error.downcast_ref::<UsageError>().is_some(), usage, "{error:#}");
    };
    check(b"PK\x03\x04 archive/data.pkl", true, "save_file(model.state_dict()");
    check(b"\x80\x02}q\x00X\x06\x00\x00\x00weightq\x01.", true, "save_file(model.state_dict()");
    check(b"", false, "not a valid safetensors file");
    check(b"\x08\x07onnx", false, "not a valid safetensors file");
    // 0x80 is also the first byte of a header of 128.
    let header =
        format!("{:128}", r#"{"conv1.weight":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#);
    let file = [&128u64.to_le_bytes()[..], header.as_bytes(), &[0, 0]].concat();
    check(&file, false, "tensor `conv1.weight` has element type F8_E4M3; F64, F32, F16 and BF16 are known");
    let error = Init::read(&folder.path().join("none")).unwrap_err();
    assert!(error.downcast_ref::<UsageError>().is_some_and(|e| e.0.contains("no such file")), "{error:#}");
    assert!(format!("{:#}", Init::read(folder.path()).unwrap_err()).contains("not a regular file"));
}

fn statistics(channels: usize, side: usize) -> Statistics {
    let range = Range { min: side, median: side, max: side };
    Statistics {
        images: [100, 20, 0],
        width: range,
        height: range,
        grey: channels == 1,
        mean: vec![0.25; channels],
        std: vec![0.5; channels],
        digest: "d".into(),
        ..Statistics::default()
    }
}

/// What weights in PyTorch's form ask for: model, imgsz, channels, first mean.
type Asked = (Option<String>, Option<usize>, Option<usize>, Option<f32>);

fn asked(weights: &Weights, given: Overrides, data: &Statistics) -> Result<Asked, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write(&path, weights);
    let completed = Init::read(&path).unwrap().complete(&given, data);
    completed
        .map(|(o, _)| (o.model, o.imgsz, o.channels, o.mean.map(|mean| mean[0])))
        .map_err(|error| error.to_string())
}

#[test]
fn weights_say_what_they_are_for() {
    let weights = |name: &str, channels: usize, size: usize| {
        let o = NetworkOptions { classes: 1000, channels, size: [size; 2], width: 1.0 };
        initial_weights(&build(name, &o).unwrap(), 1)
    };
    let none = Overrides::default;
    let small = weights("resnet18", 3, 32);
    let want = |name: &str, imgsz, channels, mean| Ok((Some(name.to_string()), imgsz, Some(channels), mean));
    assert_eq!(asked(&small, none(), &statistics(3, 32)), want("resnet18", None, 3, Some(0.485)));
    // The stem is that for large pictures.
    let large = weights("resnet34", 3, 224);
    assert_eq!(asked(&large, none(), &statistics(3, 32)), want("resnet34", Some(128), 3, Some(0.485)));
    assert_eq!(asked(&large, none(), &statistics(3, 100)), want("resnet34", None, 3, Some(0.485)));
    let sized = Overrides { imgsz: Some(32), ..none() };
    assert_eq!(asked(&large, sized, &statistics(3, 32)), want("resnet34", Some(32), 3, Some(0.485)));
    // Nobody publishes these, and grey data does not change what the filters take.
    assert_eq!(asked(&weights("plain6", 3, 32), none(), &statistics(1, 32)), want("plain6", None, 3, None));
    assert_eq!(asked(&weights("lenet", 1, 28), none(), &statistics(3, 32)), want("lenet", None, 1, None));
    let four = asked(&weights("plain6", 4, 32), none(), &statistics(3, 32));
    assert!(four.unwrap_err().contains("`0.weight` takes pictures of 4 channels"));

    let mut more = small.clone();
    more.insert("aux.weight".into(), one(&[3]));
    let unclear = asked(&more, none(), &statistics(3, 32)).unwrap_err();
    assert!(unclear.contains("say by --model"), "{unclear}");
    let named = Overrides { model: Some("resnet18".into()), ..none() };
    assert_eq!(asked(&more, named, &statistics(3, 32)), want("resnet18", None, 3, Some(0.485)));
}

/// The same network in PyTorch, its weights saved there.
#[test]
fn a_file_of_pytorch_gives_pytorchs_answers() {
    let graph = network("plain6", 4, 16);
    let mut weights = initial_weights(&graph, 1);
    let taken = Init::read(Path::new(&format!("{GOLDEN}init.safetensors"))).unwrap().fill(
        &graph,
        &labels(4),
        &mut weights,
    );
    let taken = taken.unwrap();
    assert_eq!((taken.tensors, taken.prefix.as_str()), (32, "module.model."));
    assert_eq!((taken.missing.len(), taken.unexpected), (0, vec!["ema_decay".to_string()]));

    let answers = floats(&std::fs::read(format!("{GOLDEN}init-answers.safetensors")).unwrap()).unwrap();
    let (x, want) = (answers["x"].as_f32().unwrap(), answers["logits"].as_f32().unwrap());
    let task = ClassifyImage::new([16, 16], vec![0.0; 3], vec![1.0; 3], labels(4));
    let mut model = best::model(&graph, &weights, &task, 1).unwrap();
    let got = model.infer(x, 3).unwrap().swap_remove(0);
    let error: f32 = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f32 = want.iter().map(|v| v * v).sum();
    assert!((error / norm).sqrt() < 1e-5, "{got:?} {want:?}");
}

/// Nothing runs backward through what is frozen before the first layer that is trained.
#[test]
fn frozen_layers_cost_no_backward_pass() {
    let graph = network("resnet18", 3, 32);
    let optimizer = espalier_passes::Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let options = StepOptions { optimizer, weight_decay: 1e-3, clip_norm: None, ema: false };
    let check = |layers: &[&str], filters: usize, inputs: usize, norms: usize, optimized: usize| {
        let layers: Vec<String> = layers.iter().map(|l| l.to_string()).collect();
        let frozen = frozen(&layers, &graph).unwrap();
        let step = training_step(&graph, &options, &|name| frozen.contains(name)).unwrap();
        let count = |is: fn(&Op) -> bool| step.nodes().iter().filter(|n| is(&n.op)).count();
        let found = (
            count(|op| matches!(op, Op::ConvWeightGrad { .. })),
            count(|op| matches!(op, Op::ConvInputGrad { .. })),
            count(|op| matches!(op, Op::BatchNormGrad)),
            step.states().iter().filter(|s| s.role == Role::Optimizer).count(),
        );
        assert_eq!(found, (filters, inputs, norms, optimized), "{layers:?}");
        let moving = step.states().iter().filter(|s| s.next.is_some()).map(|s| &step.value(s.value).name);
        let moved: Vec<&String> = moving.filter(|name| frozen.contains(*name)).collect();
        assert!(moved.is_empty(), "{layers:?}: {moved:?}");
        assert!(model_states(&graph).all(|name| step.find(name).is_some()), "{layers:?}: a state is gone");
    };
    check(&[], 20, 19, 20, 62);
    check(&["backbone"], 0, 0, 0, 2);
    // The last block: two convolutions, and the second's input is the first's output.
    check(&["conv1", "bn1", "layer1", "layer2", "layer3", "layer4.0"], 2, 1, 2, 8);
    // What is frozen behind a trained layer passes the gradient on.
    check(&["layer4", "fc"], 15, 19, 15, 45);
}
