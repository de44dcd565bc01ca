//! ONNX Runtime computes what our own runtime does, on the CPU provider of the library that `ESPALIER_PYTHON` has.

use std::path::PathBuf;

use espalier_engines::{EngineConfig, EngineKind, OnnxRuntime, OpenError, Provider, open};
use espalier_graph::random::Random;
use espalier_graph::{
    DType, Dim, Format, Graph, Manifest, Op, Package, Shape, Tensor, TensorType, UnaryFn, Weights, Window,
};
use espalier_passes::integers;
use espalier_passes::quantize::{Ranges, Settings, observed, quantize};
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Image, Model, ModelError, Task};

const SIDE: usize = 12;
const CLASSES: usize = 5;

fn config(library: PathBuf, providers: &[&str]) -> EngineConfig {
    let providers = providers.iter().map(|name| name.parse::<Provider>().unwrap()).collect();
    EngineConfig { engine: EngineKind::OnnxRuntime, providers, library: Some(library) }
}

/// Convolution, batch normalisation, pooling and a linear layer, and random weights.
fn network() -> (Graph, Weights) {
    let mut graph = Graph::new();
    let x = graph
        .add_input("x", TensorType::f32(Shape(vec![Dim::N, 3.into(), SIDE.into(), SIDE.into()])))
        .unwrap();
    let window = Window { kernel: [3, 3], stride: [2, 2], pad: [1; 4], dilation: [1, 1] };
    let h = graph.conv2d("conv1", x, 16, window, 1, true).unwrap();
    let h = graph.unary("relu1", UnaryFn::Relu, h).unwrap();
    let h = graph.conv2d("conv2", h, 32, window, 1, true).unwrap();
    let h = graph.unary("relu2", UnaryFn::Relu, h).unwrap();
    let h = graph.global_avg_pool("pool", h).unwrap();
    let y = graph.linear("fc", h, CLASSES).unwrap();
    graph.add_output("logits", y).unwrap();
    let mut random = Random::new(3, 0);
    let mut filled = |shape: &[usize]| {
        let inputs: usize = shape.iter().skip(1).product();
        let scale = (2.0 / inputs as f32).sqrt();
        Tensor::f32(shape, (0..shape.iter().product()).map(|_| scale * random.range(-1.7, 1.7)).collect())
    };
    let states = graph.states().iter().map(|state| graph.value(state.value));
    let weights = states
        .map(|value| (value.name.clone(), filled(&value.ty.shape.bind(espalier_graph::Bindings::batch(1)))));
    (graph.clone(), weights.collect())
}

/// The network in integers, with the ranges that a plan of the floats shows.
fn quantized(graph: &Graph, weights: &Weights) -> (Graph, Weights) {
    let mut looking = graph.clone();
    let names = observed(graph);
    for (at, name) in names.iter().enumerate() {
        looking.add_output(&format!("seen{at}"), graph.find(name).unwrap()).unwrap();
    }
    let options = espalier_runtime::Options {
        isa: Isa::best(),
        threads: 1,
        bindings: espalier_graph::Bindings::batch(1),
    };
    let mut raw = espalier_tasks::golden::Raw::new(&looking, weights, options).unwrap();
    let mut random = Random::new(4, 0);
    let noise =
        Tensor::f32(&[1, 3, SIDE, SIDE], (0..3 * SIDE * SIDE).map(|_| random.range(-2.0, 2.0)).collect());
    let sample = raw.golden(vec![noise]).unwrap();
    let range = |tensor: &Tensor| {
        tensor.as_f32().unwrap().iter().fold([0.0f32; 2], |[lo, hi], &v| [lo.min(v), hi.max(v)])
    };
    let ranges: Ranges = names.into_iter().zip(sample.outputs[1..].iter().map(range)).collect();
    let quantized = quantize(graph, weights, &ranges, &Settings::default()).unwrap();
    let mut weights = quantized.weights;
    let graph = integers(&quantized.graph, &mut weights, &quantized.bytes).unwrap();
    (graph, weights)
}

fn task() -> Task {
    let labels = (0..CLASSES).map(|class| format!("class {class}")).collect();
    Task::ClassifyImage(ClassifyImage::new([SIDE; 2], vec![0.5; 3], vec![0.25; 3], labels))
}

fn picture(seed: u64) -> Image {
    let mut random = Random::new(seed, 1);
    Image::new(20, 17, 3, (0..20 * 17 * 3).map(|_| random.below(256) as u8).collect()).unwrap()
}

/// A package with golden samples of our own runtime.
fn package(graph: Graph, weights: Weights) -> Package {
    let mut model = Model::new(graph.clone(), weights.clone(), task(), Isa::best(), 1).unwrap();
    let golden = (0..3).map(|seed| model.golden(&picture(seed)).unwrap()).collect();
    let manifest = Manifest {
        task: Some(serde_json::to_value(task()).unwrap()),
        format: Format::of(&graph),
        ..Manifest::default()
    };
    Package { manifest, graph, weights, golden, reference: Weights::new() }
}

#[test]
fn float_and_int8_packages_keep_their_golden_samples() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (graph, weights) = network();
    let (bytes, byte_weights) = quantized(&graph, &weights);
    assert!(bytes.values().iter().any(|value| matches!(value.ty.dtype, DType::Q8(_))), "{bytes}");
    for (package, tolerance) in [(package(graph, weights), 1e-3), (package(bytes, byte_weights), 0.05)] {
        let mut own = open(&EngineConfig::default(), &package, 1).unwrap();
        for providers in [&[][..], &["cpu"]] {
            let mut model = open(&config(library.clone(), providers), &package, 2).unwrap();
            assert_eq!(model.tolerance(), tolerance);
            assert!(
                model.engine().starts_with("onnxruntime 1.") && model.engine().contains("(cpu "),
                "{}",
                model.engine()
            );
            model.replay(&package.golden).unwrap();
            let [want, got] =
                [&mut own, &mut model].map(|model| model.answer(&picture(9)).unwrap().summary());
            assert_eq!(want.split("  ").next(), got.split("  ").next(), "the same label");
        }
    }
}

#[test]
fn several_inputs_are_computed_one_by_one() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (graph, weights) = network();
    let package = package(graph, weights);
    let mut random = Random::new(7, 0);
    let inputs: Vec<f32> = (0..3 * 3 * SIDE * SIDE).map(|_| random.range(-1.0, 1.0)).collect();
    let mut answers = [EngineConfig::default(), config(library, &[])]
        .map(|config| open(&config, &package, 1).unwrap().infer(&inputs, 3).unwrap().remove(0));
    assert_eq!(answers[0].len(), 3 * CLASSES);
    let furthest = answers[0].iter().zip(&answers[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest < 1e-4, "{answers:?}");
    answers[1].clear();
}

#[test]
fn an_altered_golden_sample_is_refused_by_the_engines_name() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (graph, weights) = network();
    let mut package = package(graph, weights);
    let mut values = package.golden[0].outputs[0].as_f32().unwrap().to_vec();
    values[1] += 10.0;
    package.golden[0].outputs[0] = Tensor::f32(&[CLASSES], values);
    let mut model = open(&config(library, &["cpu"]), &package, 1).unwrap();
    let error = model.replay(&package.golden).unwrap_err();
    assert!(matches!(&error, ModelError::Golden { sample: 0, element: 1, .. }), "{error}");
    assert!(error.to_string().contains("in onnxruntime 1."), "{error}");
}

#[test]
fn providers_that_are_not_there_are_errors_that_name_those_that_are() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (graph, weights) = network();
    let package = package(graph, weights);
    for providers in [&["qnn", "cpu"][..], &["coreml"]] {
        let error = open(&config(library.clone(), providers), &package, 1).err().unwrap();
        assert!(matches!(&error, OpenError::Provider { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("no provider `{}`", providers[0])) && text.contains("it has: cpu"),
            "{text}"
        );
    }
}

#[test]
fn a_process_takes_one_library() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let (graph, weights) = network();
    let package = package(graph, weights);
    open(&config(library, &[]), &package, 1).unwrap();
    let other = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let error = open(&config(other, &[]), &package, 1).err().unwrap();
    assert!(error.to_string().contains("takes no second ONNX Runtime"), "{error}");
}

#[test]
fn what_no_engine_is_handed_is_named() {
    let Some(library) = espalier_testing::onnxruntime() else { return };
    let mut graph = Graph::new();
    let ty = TensorType { dtype: DType::I32, shape: Shape::known(&[4]) };
    let index = graph.add_input("index", ty).unwrap();
    let table = graph.embedding("table", index, 3, 2).unwrap();
    graph.add_output("y", table).unwrap();
    let weights = Weights::from([("table.weight".to_owned(), Tensor::f32(&[3, 2], vec![0.0; 6]))]);
    let error = OnnxRuntime::open(&config(library, &[]), &graph, &weights, 1).err().unwrap();
    assert!(error.to_string().contains("`index` is i32"), "{error}");
    assert!(graph.nodes().iter().any(|node| matches!(node.op, Op::Gather { .. })));
}
