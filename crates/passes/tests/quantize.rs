//! Where roundings are placed, as text in and text out; and that integers compute what the rounded floats say.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{BATCH, parse, sizes, values};
use espalier_graph::random::Random;
use espalier_graph::{Graph, Op, Tensor, Weights};
use espalier_kernels::reference::RefTensor;
use espalier_passes::fake_quant::fake_quant;
use espalier_passes::integers::remarks;
use espalier_passes::layer::layers;
use espalier_passes::quantize::{
    Quantized, Ranges, Settings, observed, quant_of, quantize, quants_by_name, round_symmetric,
};
use espalier_passes::{Extents, correct_biases, equalise, integers};

fn random_weights(graph: &Graph) -> Weights {
    let tensor = |(state, stream): (&espalier_graph::State, u64)| {
        let name = graph.value(state.value).name.clone();
        let (shape, mut random) = (sizes(graph, &name), Random::new(3, stream));
        let values = (0..shape.iter().product()).map(|_| random.uniform() - 0.5).collect();
        (name, Tensor::f32(&shape, values))
    };
    graph.states().iter().zip(0..).map(tensor).collect()
}

fn ranges(graph: &Graph, weights: &Weights) -> Ranges {
    let values = values(graph, weights);
    let range = |name: String| {
        let fold = |[lo, hi]: [f32; 2], &v: &f64| [lo.min(v as f32), hi.max(v as f32)];
        let range = values[&name].data.iter().fold([f32::MAX, f32::MIN], fold);
        (name, range)
    };
    observed(graph).into_iter().map(range).collect()
}

fn quantized(text: &str, settings: &Settings) -> Quantized {
    let graph = parse(text);
    let weights = random_weights(&graph);
    quantize(&graph, &weights, &ranges(&graph, &weights), settings).unwrap()
}

/// The weights of the graph that computes with floats.
fn simulated(q: &Quantized) -> Weights {
    let mut weights = q.weights.clone();
    for (name, bytes) in &q.bytes {
        let shape = sizes(&q.graph, name);
        weights.insert(name.clone(), Tensor::f32(&shape, bytes.floats(&shape)));
    }
    weights
}

/// The nodes as `name = Op(inputs)`, types and attributes left out.
fn nodes(graph: &Graph) -> Vec<String> {
    let node = |node: &espalier_graph::Node| {
        let inputs: Vec<&str> = node.inputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
        format!("{} = {}({})", graph.node_name(node), node.op.name(), inputs.join(", "))
    };
    graph.nodes().iter().map(node).collect()
}

/// The graph of integers has the nodes `want`, and its outputs are those of the rounded floats, up to `steps` steps of
/// the byte that is rounded last.
fn check(text: &str, settings: &Settings, steps: f64, want: &[&str]) {
    let q = quantized(text, settings);
    let mut weights = q.weights.clone();
    let made = integers(&q.graph, &mut weights, &q.bytes).unwrap();
    assert_eq!(nodes(&made), want, "of\n{}", q.graph);
    let (floats, bytes) = (values(&q.graph, &simulated(&q)), values(&made, &weights));
    for ((name, id), (_, int)) in q.graph.outputs().iter().zip(made.outputs()) {
        let (want, got) = (&floats[&q.graph.value(*id).name], &bytes[&made.value(*int).name]);
        let quant = made.producer(*int).and_then(|node| made.ty(node.inputs[0]).dtype.quant());
        let allowed = steps * quant.map_or(0.05, |q| f64::from(q.scale())) * 1.001;
        for (want, got) in want.data.iter().zip(&got.data) {
            assert!((want - got).abs() <= allowed, "{name}: {got}, not {want}, by\n{made}");
        }
    }
}

/// Roundings that can be trained give, before they were, what the others give: every value within one step.
fn check_fake(text: &str, settings: &Settings) {
    let (q, graph) = (quantized(text, settings), parse(text));
    let weights = random_weights(&graph);
    let fake = fake_quant(&q, &weights, settings).unwrap();
    assert!(!fake.graph.nodes().iter().any(|node| matches!(node.op, Op::Quantize { .. } | Op::Dequantize)));
    let (want, got) = (values(&q.graph, &simulated(&q)), values(&fake.graph, &fake.weights));
    let mut compared = 0;
    for node in q.graph.nodes().iter().filter(|node| node.op == Op::Dequantize) {
        let name = &q.graph.value(node.outputs[0]).name;
        let quant = q.graph.ty(node.inputs[0]).dtype.quant().unwrap();
        for (want, got) in want[name].data.iter().zip(&got[name].data) {
            assert!((want - got).abs() <= 1.001 * f64::from(quant.scale()), "{name}: {got}, not {want}");
            compared += 1;
        }
    }
    assert!(compared > 0, "nothing is rounded in\n{}", q.graph);
    // What was learned leads back to where it came from while nothing was.
    let ranges = ranges(&graph, &weights);
    let learned = fake.ranges(&graph, &ranges, settings, &fake.weights).unwrap();
    let quants = |ranges| quants_by_name(&graph, ranges, settings).unwrap();
    for ((name, before), after) in quants(&ranges).into_iter().zip(quants(&learned).into_values()) {
        let same = before.zero() == after.zero() && (before.scale() / after.scale() - 1.0).abs() < 1e-6;
        assert!(same, "{name}: {before} became {after}");
    }
}

#[test]
fn roundings_that_can_be_trained_stand_where_bytes_are() {
    let per_tensor = Settings { per_tensor: true, ..Settings::default() };
    let float = Settings { float: BTreeSet::from(["c2".into()]), ..Settings::default() };
    for settings in [Settings::default(), per_tensor] {
        check_fake(BLOCK, &settings);
        check_fake(CHAIN, &settings);
    }
    check_fake(BLOCK, &float);
}

/// A scale that was learned is the scale of the bytes.
#[test]
fn learned_scales_become_those_of_bytes() {
    let (q, graph) = (quantized(BLOCK, &default()), parse(BLOCK));
    let weights = random_weights(&graph);
    let fake = fake_quant(&q, &weights, &default()).unwrap();
    let mut trained = fake.weights.clone();
    let scales: Vec<String> = trained.keys().filter(|name| name.ends_with(".scale")).cloned().collect();
    assert_eq!(scales.len(), 4, "x, r1, r2 and p have a scale: {scales:?}");
    scales.iter().for_each(|name| drop(trained.insert(name.clone(), Tensor::f32(&[], vec![0.01]))));
    let before = ranges(&graph, &weights);
    let learned = fake.ranges(&graph, &before, &default(), &trained).unwrap();
    let made = quantize(&graph, &weights, &learned, &default()).unwrap();
    let scale = |q: &Quantized, name: &str| {
        let node = q.graph.producer(q.graph.find(name).unwrap()).unwrap();
        q.graph.ty(node.inputs[0]).dtype.quant().unwrap().scale()
    };
    let moved = values(&fake.graph, &trained);
    for name in ["x.rounded", "r1.rounded", "r2.rounded", "p.rounded"] {
        let used = moved[&format!("{name}.scale.used")].data[0] as f32;
        assert!(used > scale(&q, name), "{name}: the scale did not move");
        assert!(
            (scale(&made, name) / used - 1.0).abs() < 1e-5,
            "{name}: {} is not {used}",
            scale(&made, name)
        );
    }
}

fn default() -> Settings {
    Settings::default()
}

const BLOCK: &str = "\
input x: f32[N,4,5,5]
weight w1: f32[4,4,3,3]
weight b1: f32[4]
c1: f32[N,4,5,5] = Conv(x, w1, b1) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
r1: f32[N,4,5,5] = Unary(c1) f=Relu
weight w2: f32[4,4,3,3]
weight b2: f32[4]
c2: f32[N,4,5,5] = Conv(r1, w2, b2) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
s: f32[N,4,5,5] = Binary(c2, r1) f=Add
r2: f32[N,4,5,5] = Unary(s) f=Relu
p: f32[N,4] = Reduce(r2) f=Mean axes=[2,3] keep=false
weight w3: f32[3,4]
weight b3: f32[3]
m: f32[N,3] = MatMul(p, w3) trans_a=false trans_b=true
y: f32[N,3] = Binary(m, b3) f=Add
output y = y
";

/// The sum adds before it is rounded, behind its clamp; the logits are never rounded.
#[test]
fn a_residual_block() {
    let q = quantized(BLOCK, &default());
    let want = [
        "x.bytes = Quantize(x)",
        "x.rounded = Dequantize(x.bytes)",
        "c1 = Conv(x.rounded, w1, b1)",
        "r1 = Unary(c1)",
        "r1.bytes = Quantize(r1)",
        "r1.rounded = Dequantize(r1.bytes)",
        "c2 = Conv(r1.rounded, w2, b2)",
        "s = Binary(c2, r1.rounded)",
        "r2 = Unary(s)",
        "r2.bytes = Quantize(r2)",
        "r2.rounded = Dequantize(r2.bytes)",
        "p = Reduce(r2.rounded)",
        "p.bytes = Quantize(p)",
        "p.rounded = Dequantize(p.bytes)",
        "m = MatMul(p.rounded, w3)",
        "y = Binary(m, b3)",
    ];
    assert_eq!(nodes(&q.graph), want);
    let want = [
        "x.bytes = Quantize(x)",
        "r1.bytes = QConv(x.bytes, w1, w1.scale, b1)",
        "r2.bytes = QConv(r1.bytes, w2, w2.scale, b2, r1.bytes)",
        "p.bytes.mean = QAvgPool(r2.bytes)",
        "p.bytes = Reshape(p.bytes.mean)",
        "y.in = Reshape(p.bytes)",
        "y.product = QConv(y.in, w3, w3.scale, b3)",
        "y = Reshape(y.product)",
    ];
    check(BLOCK, &default(), 1.0, &want);
}

/// A layer that stays float reads and gives floats; the sum then joins bytes.
#[test]
fn a_layer_stays_float() {
    let settings = Settings { float: BTreeSet::from(["c2".into()]), ..Settings::default() };
    let want = [
        "x.bytes = Quantize(x)",
        "r1.bytes = QConv(x.bytes, w1, w1.scale, b1)",
        "r1.rounded = Dequantize(r1.bytes)",
        "c2 = Conv(r1.rounded, w2, b2)",
        "c2.bytes = Quantize(c2)",
        "r2.bytes = QAdd(c2.bytes, r1.bytes)",
        "p.bytes.mean = QAvgPool(r2.bytes)",
        "p.bytes = Reshape(p.bytes.mean)",
        "y.in = Reshape(p.bytes)",
        "y.product = QConv(y.in, w3, w3.scale, b3)",
        "y = Reshape(y.product)",
    ];
    check(BLOCK, &settings, 1.0, &want);
    let all = ["c1", "c2", "m"].map(String::from);
    let floats = quantized(BLOCK, &Settings { float: all.into(), ..Settings::default() });
    assert!(floats.bytes.is_empty() && remarks(&floats.graph).is_none(), "nothing is left to do with bytes");
}

/// Gates, functions that are tables, and a concatenation whose parts share one scale.
#[test]
fn gates_tables_and_concatenation() {
    let text = "\
input x: f32[N,4,6,6]
weight w1: f32[4,1,3,3]
c1: f32[N,4,6,6] = Conv(x, w1) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=4
h: f32[N,4,6,6] = Unary(c1) f=HardSwish
g: f32[N,4,1,1] = Reduce(h) f=Mean axes=[2,3] keep=true
weight w2: f32[4,4,1,1]
c2: f32[N,4,1,1] = Conv(g, w2) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
e: f32[N,4,1,1] = Unary(c2) f=HardSigmoid(0.16666667,0.5)
s: f32[N,4,6,6] = Binary(h, e) f=Mul
m: f32[N,4,6,6] = MaxPool(x) window=[[3,3],[1,1],[1,1,1,1],[1,1]]
j: f32[N,8,6,6] = Concat(s, m) axis=1
weight w3: f32[2,8,1,1]
y: f32[N,2,6,6] = Conv(j, w3) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
output y = y
";
    let want = [
        "x.bytes = Quantize(x)",
        "c1.bytes = QConv(x.bytes, w1, w1.scale, w1.bias)",
        "h.bytes = Table(c1.bytes, h.bytes.table)",
        "g.bytes = QAvgPool(h.bytes)",
        "c2.bytes = QConv(g.bytes, w2, w2.scale, w2.bias)",
        "e.bytes = Table(c2.bytes, e.bytes.table)",
        "s.bytes = QMul(h.bytes, e.bytes)",
        "m = MaxPool(x.bytes)",
        "j = Concat(s.bytes, m)",
        "y = QConv(j, w3, w3.scale, w3.bias)",
    ];
    let q = quantized(text, &default());
    let mut weights = q.weights.clone();
    let made = integers(&q.graph, &mut weights, &q.bytes).unwrap();
    let names: Vec<String> = nodes(&made).iter().map(|n| n.replace("m.1", "m").replace("j.1", "j")).collect();
    assert_eq!(names, want);
    let quant = |name: &str| made.ty(made.find(name).unwrap()).dtype.quant();
    assert_eq!(quant("s.bytes"), quant("x.bytes"));
    assert_ne!(quant("s.bytes"), quant("h.bytes"));
}

/// What has no op of integers computes with floats, and is rounded where bytes are read again.
#[test]
fn floats_in_between() {
    let text = "\
input x: f32[N,4,2]
t: f32[N,4,4] = Pad(x) axis=2 before=1 after=1 value=0.5
weight w: f32[3,4]
y: f32[N,4,3] = MatMul(t, w) trans_a=false trans_b=true
z: f32[N,4,3] = Softmax(y) axis=2
output z = z
";
    let want = [
        "t = Pad(x)",
        "t.bytes = Quantize(t)",
        "y.in = Reshape(t.bytes)",
        "y.product = QConv(y.in, w, w.scale, w.bias)",
        "y = Reshape(y.product)",
        "z = Softmax(y)",
    ];
    check(text, &default(), 0.01, &want);
}

/// What only moves elements moves bytes: the input is rounded, once for all that is made of it.
#[test]
fn movement_is_of_bytes() {
    let text = "\
input x: f32[N,4,6]
t: f32[N,6,4] = Transpose(x) perm=[0,2,1]
a: f32[N,2,4] = Slice(t) axis=1 start=0 end=2
b: f32[N,4,4] = Slice(t) axis=1 start=2 end=6
j: f32[N,6,4] = Concat(b, a) axis=1
weight w: f32[3,4]
y: f32[N,6,3] = MatMul(j, w) trans_a=false trans_b=true
output y = y
";
    let want = [
        "x.bytes = Quantize(x)",
        "t.1 = Transpose(x.bytes)",
        "a.1 = Slice(t.1)",
        "b.1 = Slice(t.1)",
        "j.1 = Concat(b.1, a.1)",
        "y.in = Reshape(j.1)",
        "y.product = QConv(y.in, w, w.scale, w.bias)",
        "y = Reshape(y.product)",
    ];
    check(text, &default(), 0.01, &want);
}

#[test]
fn weights_are_rounded_symmetrically() {
    let values = [1.27, -0.635, 0.005, 0.0, 2.54, 0.03];
    let outputs = [0, 0, 0, 1, 1, 1].into_iter();
    let each = round_symmetric(&values, outputs.clone(), 0, false, &[0.0; 2]);
    assert_eq!((&each.values[..], each.scale.len()), (&[127, -64, 0, 0, 127, 2][..], 2));
    let all = round_symmetric(&values, outputs.clone(), 0, true, &[0.0; 2]);
    assert_eq!((&all.values[..], &all.scale[..]), (&[64, -32, 0, 0, 127, 2][..], &[0.02][..]));
    let dead = round_symmetric(&[0.0; 2], [0, 1].into_iter(), 0, false, &[0.0, 0.5]);
    assert_eq!(dead.scale, [1e-12, 0.5]);
}

/// Zero is a byte exactly, in every range.
#[test]
fn zero_is_exact() {
    for range in [[0.0, 6.0], [-1.0, 3.0], [2.0, 3.0], [-5.0, -1.0], [0.0, 0.0], [-1e-20, 1e-20], [-3e8, 1.0]]
    {
        let quant = quant_of(range).unwrap();
        assert_eq!(quant.dequantize(quant.quantize(0.0)), 0.0, "{range:?}");
        for end in range {
            let off = (quant.dequantize(quant.quantize(end)) - end).abs();
            assert!(off <= quant.scale() * 0.51, "{range:?}: {end} is off by {off}");
        }
    }
    assert_eq!(quant_of([0.0, 6.0]).unwrap().zero(), 0);
}

#[test]
fn what_is_missing_is_named() {
    let graph = parse(BLOCK);
    let weights = random_weights(&graph);
    let mut known = ranges(&graph, &weights);
    let error = |weights: &Weights, ranges: &Ranges| {
        quantize(&graph, weights, ranges, &Settings::default()).unwrap_err().to_string()
    };
    assert!(error(&Weights::new(), &known).contains("the weights lack the state `b1`"));
    known.insert("r1".into(), [0.0, f32::INFINITY]);
    assert!(error(&weights, &known).contains("`r1` takes values from 0 to inf"));
    known.remove("r1");
    assert!(error(&weights, &known).contains("the range of `r1` is not known"));
}

const CHAIN: &str = "\
input x: f32[N,4,5,5]
weight w1: f32[6,4,1,1]
weight b1: f32[6]
c1: f32[N,6,5,5] = Conv(x, w1, b1) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
r1: f32[N,6,5,5] = Unary(c1) f=Relu
weight w2: f32[6,1,3,3]
weight b2: f32[6]
c2: f32[N,6,5,5] = Conv(r1, w2, b2) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=6
r2: f32[N,6,5,5] = Unary(c2) f=Relu
weight w3: f32[3,6,1,1]
weight b3: f32[3]
y: f32[N,3,5,5] = Conv(r2, w3, b3) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
output y = y
";

/// Weights in which channels differ a thousandfold between two layers, and what follows makes up for it: what equalisation
/// is for.
fn unequal(graph: &Graph) -> Weights {
    let factors = [1.0, 0.01, 5.0, 0.1, 30.0, 0.003f32];
    let mut weights = random_weights(graph);
    let mut scale = |name: &str, factor: &dyn Fn(usize) -> f32| {
        let values = weights[name].as_f32().unwrap().iter().enumerate();
        let scaled = values.map(|(i, w)| w * factor(i)).collect();
        weights.insert(name.into(), Tensor::f32(&sizes(graph, name), scaled));
    };
    for pair in layers(graph).windows(2) {
        let [first, second] = pair else { unreachable!("windows of two") };
        let (outputs, inputs): (Vec<_>, Vec<_>) = (first.ends(graph).collect(), second.ends(graph).collect());
        scale(&graph.value(first.weight).name, &|i| factors[outputs[i][0]]);
        scale(&graph.value(first.bias.unwrap()).name, &|i| factors[i]);
        scale(&graph.value(second.weight).name, &|i| 1.0 / factors[inputs[i][1]]);
    }
    weights
}

fn extents(graph: &Graph, weights: &Weights) -> Extents {
    let values = values(graph, weights);
    let of = |name: String| {
        let RefTensor { shape, data, .. } = &values[&name];
        let (channels, inner) = (shape[1], shape[2..].iter().product::<usize>());
        let mut extents = vec![0f32; channels];
        data.iter().enumerate().for_each(|(i, v)| {
            let c = i / inner % channels;
            extents[c] = extents[c].max(v.abs() as f32);
        });
        (name, extents)
    };
    observed(graph).into_iter().map(of).collect()
}

fn output(graph: &Graph, weights: &Weights) -> Vec<f64> {
    values(graph, weights)[&graph.value(graph.outputs()[0].1).name].data.clone()
}

/// Root of the mean squared difference from the float network, with one scale for each weight.
fn error_of(graph: &Graph, weights: &Weights, want: &[f64]) -> f64 {
    let settings = Settings { per_tensor: true, ..Settings::default() };
    let q = quantize(graph, weights, &ranges(graph, weights), &settings).unwrap();
    let got = output(&q.graph, &simulated(&q));
    (got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum::<f64>() / want.len() as f64).sqrt()
}

#[test]
fn equalisation_changes_nothing_but_the_ranges() {
    let graph = parse(CHAIN);
    let before = unequal(&graph);
    let (mut after, want) = (before.clone(), output(&graph, &before));
    assert_eq!(equalise(&graph, &mut after, &extents(&graph, &before)).unwrap(), 2);
    let scale = want.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    for (got, want) in output(&graph, &after).iter().zip(&want) {
        assert!((got - want).abs() <= 1e-6 * scale, "{got} is not {want}");
    }
    let (was, is) = (error_of(&graph, &before, &want), error_of(&graph, &after, &want));
    assert!(is < 0.5 * was, "an error of {was} became {is}");
}

/// Below its limit a clamp commutes with scaling; a channel that reaches it is left alone, and so the graph computes what it
/// did.
#[test]
fn a_limit_is_respected() {
    let graph = parse(&CHAIN.replace("f=Relu", "f=Clip(0.0,6.0)"));
    let before = unequal(&graph);
    let seen = extents(&graph, &before);
    assert!(seen["r1"].contains(&6.0), "the case has a channel that reaches the limit: {seen:?}");
    let (mut after, want) = (before.clone(), output(&graph, &before));
    assert_eq!(equalise(&graph, &mut after, &seen).unwrap(), 2);
    assert_ne!(before, after);
    for (got, want) in output(&graph, &after).iter().zip(&want) {
        assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} is not {want}");
    }
}

#[test]
fn what_is_read_twice_is_not_scaled() {
    let graph = parse(&CHAIN.replace("output y = y", "output y = y\noutput r = r1"));
    let (mut weights, before) = (unequal(&graph), unequal(&graph));
    assert_eq!(equalise(&graph, &mut weights, &extents(&graph, &before)).unwrap(), 1);
    assert_eq!((&weights["w1"], &weights["b1"]), (&before["w1"], &before["b1"]));
}

/// Weights that are all rounded downwards shift the mean; the correction takes the shift back, at the border too.
#[test]
fn biases_make_good_for_rounded_weights() {
    let text = "\
input x: f32[N,4,5,5]
r: f32[N,4,5,5] = Unary(x) f=Sigmoid
weight w: f32[3,4,3,3]
weight b: f32[3]
y: f32[N,3,5,5] = Conv(r, w, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
output y = y
";
    let graph = parse(text);
    let mut weights = random_weights(&graph);
    let lopsided = (0..108).map(|i| if i % 36 == 0 { 1.27 } else { 0.0249 }).collect();
    weights.insert("w".into(), Tensor::f32(&[3, 4, 3, 3], lopsided));
    let want = output(&graph, &weights);
    let mean_error = |weights: &Weights| {
        let q = quantize(&graph, weights, &ranges(&graph, weights), &Settings::default()).unwrap();
        let got = output(&q.graph, &simulated(&q));
        (got.iter().sum::<f64>() - want.iter().sum::<f64>()).abs() / want.len() as f64
    };
    let r = &values(&graph, &weights)["r"];
    let mean =
        |c: usize| r.data.iter().enumerate().filter(|(i, _)| i / 25 % 4 == c).map(|(_, v)| v).sum::<f64>();
    let means = BTreeMap::from([("r".to_string(), (0..4).map(|c| mean(c) / (25 * BATCH) as f64).collect())]);
    let q = quantize(&graph, &weights, &ranges(&graph, &weights), &Settings::default()).unwrap();
    let mut corrected = weights.clone();
    assert_eq!(correct_biases(&graph, &mut corrected, &q.bytes, &means).unwrap(), 1);
    let (was, is) = (mean_error(&weights), mean_error(&corrected));
    assert!(was > 0.05 && is < 0.1 * was, "a mean error of {was} became {is}");
    assert_eq!(corrected["w"], weights["w"]);
    let none = BTreeMap::new();
    assert_eq!(correct_biases(&graph, &mut corrected, &q.bytes, &none).unwrap(), 0);
}
