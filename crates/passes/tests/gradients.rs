//! Every gradient rule against central finite differences, in f64, over odd shapes and several batch sizes.

use std::collections::{BTreeMap, BTreeSet};

use espalier_graph::{Bindings, DType, Graph, Op, Role, ValueId, random};
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_passes::differentiate;

/// Ops that `differentiate` refuses: gradients and updates.
const WITHOUT_GRADIENT: &[&str] = &[
    "ConvWeightGrad",
    "MaxPoolGrad",
    "AvgPoolGrad",
    "ResizeGrad",
    "BatchNormGrad",
    "LayerNormGrad",
    "UnaryGrad",
    "SoftmaxGrad",
    "CrossEntropyGrad",
    "GatherGrad",
    "GlobalNorm",
    "Sgd",
    "AdamW",
    "Ema",
    "Quantize",
    "Dequantize",
    "QConv",
    "QAdd",
    "QMul",
    "QAvgPool",
    "Table",
];

/// A range for the inputs, and a graph with output `y`. Inputs and weights get gradients, statistics are constants.
type Case = ((f32, f32), &'static str);

const ANY: (f32, f32) = (-1.0, 1.0);
const POSITIVE: (f32, f32) = (0.5, 2.0);

const CASES: &[Case] = &[
    (
        ANY,
        "input x: f32[N,4,7,5]
           weight w: f32[6,2,3,3]
           weight b: f32[6]
           y: f32[N,6,4,3] = Conv(x, w, b) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=2",
    ),
    (
        ANY,
        "input x: f32[N,3,6,7]
           weight w: f32[5,3,2,3]
           y: f32[N,5,5,4] = Conv(x, w) window=[[2,3],[1,2],[0,2,1,1],[2,1]] groups=1",
    ),
    (
        ANY,
        "input x: f32[N,3,5,5]
           weight w: f32[3,1,3,3]
           y: f32[N,3,3,3] = Conv(x, w) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=3",
    ),
    (
        ANY,
        "input x: f32[N,4,3,2]
           weight w: f32[4,3,3,2]
           y: f32[N,6,6,5] = ConvInputGrad(x, w) window=[[3,2],[2,3],[1,0,1,1],[1,1]] groups=2 input=[6,5]",
    ),
    (
        ANY,
        "input a: f32[N,3]
           weight b: f32[3,5]
           y: f32[N,5] = MatMul(a, b) trans_a=false trans_b=false",
    ),
    (
        ANY,
        "input a: f32[N,3]
           weight b: f32[5,3]
           y: f32[N,5] = MatMul(a, b) trans_a=false trans_b=true",
    ),
    (
        ANY,
        "input a: f32[3,N]
           weight b: f32[3,5]
           y: f32[N,5] = MatMul(a, b) trans_a=true trans_b=false",
    ),
    (
        ANY,
        "input a: f32[3,N]
           weight b: f32[5,3]
           y: f32[N,5] = MatMul(a, b) trans_a=true trans_b=true",
    ),
    (
        ANY,
        "input a: f32[N,2,4,3]
           input b: f32[N,2,3,5]
           y: f32[N,2,4,5] = MatMul(a, b) trans_a=false trans_b=false",
    ),
    (
        ANY,
        "input a: f32[N,2,4,3]
           input b: f32[N,2,5,3]
           y: f32[N,2,4,5] = MatMul(a, b) trans_a=false trans_b=true",
    ),
    (
        ANY,
        "input a: f32[N,3,4]
           input b: f32[N,3,5]
           y: f32[N,4,5] = MatMul(a, b) trans_a=true trans_b=false",
    ),
    (
        ANY,
        "input a: f32[N,3,4]
           input b: f32[N,5,3]
           y: f32[N,4,5] = MatMul(a, b) trans_a=true trans_b=true",
    ),
    (
        ANY,
        "input a: f32[N,2,4,3]
           weight b: f32[3,5]
           y: f32[N,2,4,5] = MatMul(a, b) trans_a=false trans_b=false",
    ),
    (
        ANY,
        "input a: f32[N,4,3]
           weight b: f32[5,3]
           y: f32[N,4,5] = MatMul(a, b) trans_a=false trans_b=true",
    ),
    (
        ANY,
        "input a: f32[N,3,4]
           weight b: f32[3,5]
           y: f32[N,4,5] = MatMul(a, b) trans_a=true trans_b=false",
    ),
    (
        ANY,
        "input a: f32[N,2,3,4]
           weight b: f32[5,3]
           y: f32[N,2,4,5] = MatMul(a, b) trans_a=true trans_b=true",
    ),
    (
        ANY,
        "input x: f32[N,3,7,5]
           y: f32[N,3,4,3] = MaxPool(x) window=[[3,3],[2,2],[1,1,1,1],[1,1]]",
    ),
    (
        ANY,
        "input x: f32[N,3,7,5]
           y: f32[N,3,4,3] = AvgPool(x) window=[[3,3],[2,2],[1,1,1,1],[1,1]] count_pad=true",
    ),
    (
        ANY,
        "input x: f32[N,1,6,5]
           y: f32[N,1,3,4] = AvgPool(x) window=[[2,3],[2,1],[0,1,0,0],[1,1]] count_pad=false",
    ),
    (
        ANY,
        "input x: f32[N,2,3,5]
           y: f32[N,2,7,4] = Resize(x) mode=Nearest size=[7,4]",
    ),
    (
        ANY,
        "input x: f32[N,2,3,5]
           y: f32[N,2,7,4] = Resize(x) mode=Linear size=[7,4]",
    ),
    (
        POSITIVE,
        "input x: f32[N,3,2,3]
                weight gamma: f32[3]
                weight beta: f32[3]
                statistic mean: f32[3]
                statistic var: f32[3]
                y: f32[N,3,2,3] = BatchNorm(x, gamma, beta, mean, var) eps=1e-3 momentum=0.1",
    ),
    (
        POSITIVE,
        "input x: f32[N,3]
                weight gamma: f32[3]
                weight beta: f32[3]
                statistic mean: f32[3]
                statistic var: f32[3]
                y: f32[N,3] = BatchNorm(x, gamma, beta, mean, var) eps=1e-3 momentum=0.1",
    ),
    (
        POSITIVE,
        "input x: f32[N,3,2,3]
                weight gamma: f32[3]
                weight beta: f32[3]
                statistic mean: f32[3]
                statistic var: f32[3]
                y: f32[N,3,2,3], m: f32[3], v: f32[3], bm: f32[3], br: f32[3] = \
                    BatchNormTraining(x, gamma, beta, mean, var) eps=1e-2 momentum=0.1",
    ),
    (
        ANY,
        "input x: f32[N,2,7]
           weight gamma: f32[7]
           weight beta: f32[7]
           y: f32[N,2,7] = LayerNorm(x, gamma, beta) eps=1e-2",
    ),
    (
        ANY,
        "input a: f32[N,3,2]
           input b: f32[N,3,2]
           y: f32[N,3,2] = Binary(a, b) f=Add",
    ),
    (
        ANY,
        "input a: f32[N,3,2]
           weight b: f32[3,1]
           y: f32[N,3,2] = Binary(a, b) f=Add",
    ),
    (
        ANY,
        "weight a: f32[2]
           input b: f32[N,3,1]
           y: f32[N,3,2] = Binary(a, b) f=Sub",
    ),
    (
        ANY,
        "input a: f32[N,1,2]
           weight b: f32[3,1]
           y: f32[N,3,2] = Binary(a, b) f=Mul",
    ),
    (
        POSITIVE,
        "weight a: f32[]
                input b: f32[N,3]
                y: f32[N,3] = Binary(a, b) f=Div",
    ),
    (
        ANY,
        "input a: f32[N,3]
           weight b: f32[1,3]
           y: f32[N,3] = Binary(a, b) f=Max",
    ),
    (
        ANY,
        "input a: f32[N,3]
           weight b: f32[3]
           y: f32[N,3] = Binary(a, b) f=Min",
    ),
    (
        POSITIVE,
        "input a: f32[N,3]
                weight b: f32[3]
                y: f32[N,3] = Binary(a, b) f=Pow",
    ),
    (
        ANY,
        "input x: f32[N,5]
           input rng: i32[2]
           y: f32[N,5] = Dropout(x, rng) p=0.4 stream=3",
    ),
    (
        ANY,
        "input x: f32[N,5]
           c: f32[N,1] = Fill() shape=[N,1] value=1.5
           y: f32[N,5] = Binary(x, c) f=Mul",
    ),
    (
        ANY,
        "input x: f32[N,5]
           y: f32[N,5] = Cast(x) to=f32",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[N,4] = Reduce(x) f=Sum axes=[1] keep=false",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[1,3,1] = Reduce(x) f=Sum axes=[0,2] keep=true",
    ),
    (
        ANY,
        "input x: f32[N,3,2,2]
           y: f32[N,3] = Reduce(x) f=Mean axes=[2,3] keep=false",
    ),
    (
        ANY,
        "input x: f32[N,4,2]
           y: f32[2] = Reduce(x) f=Mean axes=[0,1] keep=false",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[1,3,1] = Reduce(x) f=Max axes=[0,2] keep=true",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[] = Reduce(x) f=Max axes=[0,1,2] keep=false",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[N,3,4] = Softmax(x) axis=1",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[N,3,4] = LogSoftmax(x) axis=1",
    ),
    (
        POSITIVE,
        "input logits: f32[N,5]
                statistic target: f32[N,5]
                y: f32[] = CrossEntropy(logits, target)",
    ),
    (
        ANY,
        "input x: f32[N,3,4]
           y: f32[3*N,4] = Reshape(x) shape=[3*N,4]",
    ),
    (
        ANY,
        "input x: f32[N,3,4,2]
           y: f32[4,N,2,3] = Transpose(x) perm=[2,0,3,1]",
    ),
    (
        ANY,
        "weight x: f32[3,1]
           y: f32[N,3,5] = Expand(x) shape=[N,3,5]",
    ),
    (
        ANY,
        "input a: f32[N,3,2]
           input b: f32[N,1,2]
           input c: f32[N,4,2]
           y: f32[N,8,2] = Concat(a, b, c) axis=1",
    ),
    (
        ANY,
        "input x: f32[N,7,2]
           y: f32[N,3,2] = Slice(x) axis=1 start=2 end=5",
    ),
    (
        ANY,
        "input x: f32[N,3,2]
           y: f32[N,6,2] = Pad(x) axis=1 before=1 after=2 value=0.5",
    ),
    (
        ANY,
        "weight table: f32[3,4]
           input index: i32[N,5]
           y: f32[N,5,4] = Gather(table, index) axis=0",
    ),
    (
        ANY,
        "input table: f32[N,3,2]
           input index: i32[5]
           y: f32[N,5,2] = Gather(table, index) axis=1",
    ),
    // Values that are used several times, and a path that goes around a step without gradient.
    (
        POSITIVE,
        "input x: f32[N,3]
                a: f32[N,3] = Unary(x) f=Exp
                b: f32[N,3] = Binary(a, x) f=Mul
                c: f32[N,3] = Binary(b, a) f=Div
                s: f32[N,3] = Binary(a, b) f=Step
                d: f32[N,3] = Binary(s, c) f=Add
                y: f32[N,3] = Binary(d, d) f=Mul",
    ),
];

const UNARY: &[&str] = &[
    "Relu",
    "Clip(-0.25,0.5)",
    "LeakyRelu(0.1)",
    "Sigmoid",
    "Silu",
    "HardSwish",
    "HardSigmoid(0.7,0.5)",
    "Gelu",
    "Erf",
    "Tanh",
    "Exp",
    "Abs",
    "Neg",
    "Affine(-1.5,0.25)",
];

const UNARY_POSITIVE: &[&str] = &["Log", "Sqrt", "Reciprocal"];

fn parse(text: &str) -> Graph {
    let mut graph: Graph = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
    let y = graph.find("y").expect("a case has a value y");
    graph.add_output("y", y).unwrap();
    graph
}

fn tensor(graph: &Graph, id: ValueId, (lo, hi): (f32, f32), bindings: Bindings) -> RefTensor {
    let value = graph.value(id);
    let stream = id.index() as u64;
    RefTensor::from_fn(&value.ty.shape.bind(bindings), |i| {
        let u = random::uniform(7, stream, i as u64);
        if value.ty.dtype == DType::I32 {
            f64::from((u * 3.0).floor())
        } else {
            f64::from(lo + (hi - lo) * u)
        }
    })
}

type Values = BTreeMap<String, RefTensor>;

fn loss(graph: &Graph, bindings: Bindings, given: &Values) -> f64 {
    let values = interpret(graph, bindings, given);
    values["y"].data.iter().zip(&given["dy"].data).map(|(y, dy)| y * dy).sum()
}

fn finite_differences(graph: &Graph, bindings: Bindings, given: &Values, name: &str) -> Vec<f64> {
    let step = 1e-5;
    let mut given = given.clone();
    let mut at = |i: usize, shift: f64| {
        let before = given[name].data[i];
        given.get_mut(name).unwrap().data[i] = before + shift;
        let loss = loss(graph, bindings, &given);
        given.get_mut(name).unwrap().data[i] = before;
        loss
    };
    let count = graph.ty(graph.find(name).unwrap()).shape.elements().bind(bindings);
    (0..count).map(|i| (at(i, step) - at(i, -step)) / (2.0 * step)).collect()
}

fn check(range: (f32, f32), text: &str, batch: usize) {
    let forward = parse(text);
    let bindings = Bindings::batch(batch);
    let mut graph = forward.clone();
    let y = graph.find("y").unwrap();
    let dy = graph.add_input("dy", graph.ty(y).clone()).unwrap();
    let statistics = graph.states().iter().filter(|s| s.role == Role::Statistic).map(|s| s.value);
    let constants: Vec<ValueId> = statistics.chain([dy]).collect();
    let states = graph.states().iter().map(|s| s.value);
    let given: Vec<ValueId> = graph.inputs().iter().copied().chain(states).collect();
    let is_learned = |id: &ValueId| graph.ty(*id).dtype == DType::F32 && !constants.contains(id);
    let wrt: Vec<ValueId> = given.iter().copied().filter(is_learned).collect();
    let values: Values = (given.iter())
        .map(|&id| (graph.value(id).name.clone(), tensor(&graph, id, range, bindings)))
        .collect();
    let grads = differentiate(&mut graph, &[(y, dy)], &wrt).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let results = interpret(&graph, bindings, &values);
    for (id, grad) in wrt.into_iter().zip(grads) {
        let name = &graph.value(id).name;
        let grad = grad.unwrap_or_else(|| panic!("`{name}` has no gradient in\n{text}"));
        assert_eq!(graph.ty(grad), graph.ty(id), "type of the gradient of `{name}` in\n{text}");
        let have = &results[&graph.value(grad).name].data;
        let want = finite_differences(&forward, bindings, &values, name);
        for (i, (have, want)) in have.iter().zip(&want).enumerate() {
            let error = (have - want).abs() / want.abs().max(1.0);
            assert!(error < 1e-6, "gradient {i} of `{name}` is {have}, differences say {want}, in\n{graph}");
        }
    }
}

#[test]
fn rules_agree_with_finite_differences() {
    for &(range, text) in CASES {
        [1, 3].into_iter().for_each(|batch| check(range, text, batch));
    }
}

#[test]
fn elementwise_rules_agree_with_finite_differences() {
    let text = |f: &str| format!("input x: f32[N,7]\ny: f32[N,7] = Unary(x) f={f}");
    UNARY.iter().for_each(|f| check((-2.0, 2.0), &text(f), 5));
    UNARY_POSITIVE.iter().for_each(|f| check(POSITIVE, &text(f), 5));
}

#[test]
fn every_op_is_covered() {
    let mut covered: BTreeSet<&str> = WITHOUT_GRADIENT.iter().copied().collect();
    for (_, text) in CASES {
        let graph = parse(text);
        covered.extend(graph.nodes().iter().map(|node| node.op.name()));
    }
    assert_eq!(covered, Op::NAMES.iter().copied().collect());
}
