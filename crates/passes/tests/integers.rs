//! Floats between bytes, as text in and text out; and both graphs computed by the reference.

mod common;

use common::{parse, sizes, values};

use espalier_graph::random::Random;
use espalier_graph::{Graph, Tensor, Weights};
use espalier_kernels::reference::RefTensor;
use espalier_passes::integers;
use espalier_passes::integers::{ByteWeight, ByteWeights, remarks};

/// States called `w*` are bytes with a scale for each index along their first axis, the others floats.
fn states(graph: &Graph) -> (Weights, ByteWeights) {
    let (mut weights, mut bytes) = (Weights::new(), ByteWeights::new());
    for (state, stream) in graph.states().iter().zip(0..) {
        let name = graph.value(state.value).name.clone();
        let (shape, mut random) = (sizes(graph, &name), Random::new(1, stream));
        let count = shape.iter().product();
        if name.starts_with('w') {
            let values = (0..count).map(|_| (random.below(255) as i32 - 127) as i8).collect();
            let scale = (0..shape[0]).map(|_| 0.002 + 0.01 * random.uniform()).collect();
            bytes.insert(name, ByteWeight { values, scale, axis: 0 });
        } else {
            let values = (0..count).map(|_| random.uniform() - 0.5).collect();
            weights.insert(name, Tensor::f32(&shape, values));
        }
    }
    (weights, bytes)
}

fn outputs(graph: &Graph, weights: &Weights) -> Vec<(String, RefTensor)> {
    let values = values(graph, weights);
    let output = |(name, id): &(String, _)| (name.clone(), values[&graph.value(*id).name].clone());
    graph.outputs().iter().map(output).collect()
}

/// The graph of integers, which must give what `text` gives up to `step`, the rounding that a tie may turn.
fn convert(text: &str, step: f64) -> Graph {
    let graph = parse(text);
    let (mut weights, bytes) = states(&graph);
    let mut floats = weights.clone();
    for (name, weight) in &bytes {
        let shape = sizes(&graph, name);
        let each = weight.values.len() / shape[0];
        let values = weight.values.iter().enumerate().map(|(i, &v)| f32::from(v) * weight.scale[i / each]);
        floats.insert(name.clone(), Tensor::f32(&shape, values.collect()));
    }
    let made = integers(&graph, &mut weights, &bytes).unwrap();
    for state in made.states() {
        assert!(weights.contains_key(&made.value(state.value).name), "{made}");
    }
    assert_eq!(weights.len(), made.states().len(), "no content without a state:\n{made}");
    for ((name, want), (_, got)) in outputs(&graph, &floats).into_iter().zip(outputs(&made, &weights)) {
        for (want, got) in want.data.iter().zip(&got.data) {
            assert!((want - got).abs() <= step * 1.001, "{name}: {got}, not {want}, by\n{made}");
        }
    }
    made
}

fn check(text: &str, step: f64, want: &str) {
    let made = convert(text, step).to_string();
    assert_eq!(made, want, "the pass gave\n{made}");
}

const X: &str = "\
input x: f32[N,4,5,5]
q: q8(0.017,128)[N,4,5,5] = Quantize(x) to=q8(0.017,128)
d: f32[N,4,5,5] = Dequantize(q)
";

const END: &str = "\
u: f32[N,4,5,5] = Dequantize(z)
output y = u
";

fn between(lines: &str) -> String {
    format!("{X}{lines}{END}")
}

#[test]
fn a_convolution_with_its_clamp() {
    let text = between(
        "\
weight w: f32[4,4,3,3]
weight b: f32[4]
c: f32[N,4,5,5] = Conv(d, w, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
r: f32[N,4,5,5] = Unary(c) f=Relu
z: q8(0.05,10)[N,4,5,5] = Quantize(r) to=q8(0.05,10)
",
    );
    let want = "\
input x: f32[N,4,5,5]
q: q8(0.017,128)[N,4,5,5] = Quantize(x) to=q8(0.017,128)
weight w: s8[4,4,3,3]
statistic w.scale: f32[4]
statistic b: i32[4]
z: q8(0.05,10)[N,4,5,5] = QConv(q, w, w.scale, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.05,10) limits=[10,255]
u: f32[N,4,5,5] = Dequantize(z)
output y = u
";
    check(&text, 0.05, want);
}

/// The clamp's own rounding, the pool's and the reshape's places: all of them commute with rounding.
#[test]
fn movement_stands_aside() {
    let text = between(
        "\
weight w: f32[6,2,1,1]
c: f32[N,6,5,5] = Conv(d, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=2
m: f32[N,6,2,2] = MaxPool(c) window=[[2,2],[2,2],[0,0,0,0],[1,1]]
r: f32[N,6,2,2] = Unary(m) f=Clip(-1.0,1.0)
s: f32[N,24] = Reshape(r) shape=[N,24]
e: q8(0.02,100)[N,24] = Quantize(s) to=q8(0.02,100)
f: f32[N,24] = Dequantize(e)
g: f32[N,4,6] = Reshape(f) shape=[N,4,6]
output h = g
z: q8(0.017,128)[N,4,5,5] = Quantize(d) to=q8(0.017,128)
",
    )
    .replace("output h = g\n", "")
    .replace("output y", "output h = g\noutput y");
    let made = convert(&text, 0.02).to_string();
    for part in [
        "QConv(q, w, w.scale, w.bias)",
        "limits=[50,150]",
        "MaxPool(e.in0.in0)",
        "Dequantize(g.1)",
        "output y = u",
    ] {
        assert!(made.contains(part), "{part} in\n{made}");
    }
    assert!(!made.contains("Unary") && !made.contains("z:"), "{made}");
}

#[test]
fn a_stretch_of_one_byte_is_a_table() {
    let text = between(
        "\
a: f32[N,4,5,5] = Unary(d) f=Sigmoid
e: q8(0.004,0)[N,4,5,5] = Quantize(a) to=q8(0.004,0)
f: f32[N,4,5,5] = Dequantize(e)
g: f32[N,4,5,5] = Binary(d, f) f=Mul
h: f32[1] = Fill() shape=[1] value=0.25
i: f32[N,4,5,5] = Binary(g, h) f=Add
z: q8(0.011,20)[N,4,5,5] = Quantize(i) to=q8(0.011,20)
",
    );
    let want = "\
input x: f32[N,4,5,5]
q: q8(0.017,128)[N,4,5,5] = Quantize(x) to=q8(0.017,128)
statistic z.table: u8[256]
z: q8(0.011,20)[N,4,5,5] = Table(q, z.table) to=q8(0.011,20)
u: f32[N,4,5,5] = Dequantize(z)
output y = u
";
    check(&text, 0.011, want);
}

/// What two read as floats is computed once, as floats; a sum of different bytes is no table.
#[test]
fn what_is_shared_or_of_several_bytes() {
    let shared = between(
        "\
weight w: f32[4,4,1,1]
c: f32[N,4,5,5] = Conv(d, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
z: q8(0.05,10)[N,4,5,5] = Quantize(c) to=q8(0.05,10)
",
    )
    .replace("output", "v: f32[N,4,5,5] = Unary(c) f=Tanh\noutput v = v\noutput");
    let made = convert(&shared, 0.05).to_string();
    assert!(made.contains("c: f32[N,4,5,5] = QConv(") && made.contains("= Quantize(c)"), "{made}");
    let sum = between(
        "\
input p: f32[N,4,5,5]
e: q8(0.02,100)[N,4,5,5] = Quantize(p) to=q8(0.02,100)
f: f32[N,4,5,5] = Dequantize(e)
g: f32[N,4,5,5] = Binary(d, f) f=Add
z: q8(0.03,90)[N,4,5,5] = Quantize(g) to=q8(0.03,90)
",
    );
    assert!(convert(&sum, 0.03).to_string().contains("= QAdd(q, e)"));
}

/// A weight that floats read too is there in both forms, and nothing reads a name that is gone.
#[test]
fn weights_in_both_forms() {
    let text = between(
        "\
weight w: f32[4,4,1,1]
c: f32[N,4,5,5] = Conv(d, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1
z: q8(0.05,10)[N,4,5,5] = Quantize(c) to=q8(0.05,10)
",
    )
    .replace(
        "output",
        "v: f32[N,4,5,5] = Conv(x, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1\noutput v = v\noutput",
    );
    let made = convert(&text, 0.05);
    let text = made.to_string();
    assert!(text.contains("s8[4,4,1,1]") && text.contains("f32[4,4,1,1]"), "{text}");
    let remarks = remarks(&made).unwrap();
    let told: Vec<&str> = remarks.floats.iter().map(|f| f.reason).collect();
    assert_eq!((remarks.integers, told), (1, vec!["not all that it reads is quantized"]));
}

#[test]
fn without_bytes_nothing_changes() {
    let text = "\
input x: f32[N,3]
weight v: f32[2,3]
y: f32[N,2] = MatMul(x, v) trans_a=false trans_b=true
output y = y
";
    check(text, 0.0, text);
    assert_eq!(remarks(&parse(text)), None);
}

#[test]
fn bytes_of_another_shape_are_an_error() {
    let graph = parse(
        "input x: f32[N,3]\nweight w: f32[2,3]\ny: f32[N,2] = MatMul(x, w) trans_a=false trans_b=true\noutput y = y\n",
    );
    let wrong = ByteWeight { values: vec![1; 5], scale: vec![1.0], axis: 0 };
    let mut weights = Weights::new();
    let result = integers(&graph, &mut weights, &ByteWeights::from([("w".into(), wrong)]));
    assert!(result.unwrap_err().to_string().contains("`w` is f32[2,3], its bytes are not"));
    assert!(weights.is_empty());
}
