//! Plans against the reference: every op on its own, fusions, layouts, states.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::check;
use espalier_graph::{Bindings, Graph, Op, Weights};
use espalier_runtime::{Isa, Options, Pool, Repeat, lower};

/// `ty` of an input, ops on it.
fn nodes(inputs: &str, body: &str) -> String {
    let inputs = inputs.split("; ").map(|line| format!("{line}\n")).collect::<String>();
    format!("{inputs}{}\n", body.replace("; ", "\n"))
}

/// One graph for each op, or several: states, inputs, nodes, outputs.
const CASES: &[(&str, &str)] = &[
    // Convolutions in odd shapes, with what can be fused into them.
    (
        "input x: f32[N,3,9,7]; weight w: f32[5,3,3,3]",
        "y: f32[N,5,9,7] = Conv(x, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1; output y = y",
    ),
    (
        "input x: f32[N,20,9,7]; weight w: f32[17,20,3,3]; weight b: f32[17]",
        "c: f32[N,17,5,4] = Conv(x, w, b) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=1; y: f32[N,17,5,4] = Unary(c) f=Relu; output y = y",
    ),
    (
        "input x: f32[N,20,5,4]; input r: f32[N,17,5,4]; weight w: f32[17,20,1,1]",
        "c: f32[N,17,5,4] = Conv(x, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; s: f32[N,17,5,4] = Binary(r, c) f=Add; y: f32[N,17,5,4] = Unary(s) f=Clip(0.0,6.0); output y = y",
    ),
    (
        "input x: f32[N,18,6,6]; weight w: f32[18,1,3,3]",
        "c: f32[N,18,6,6] = Conv(x, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=18; y: f32[N,18,6,6] = Unary(c) f=Sigmoid; output y = y; output c = c",
    ),
    (
        "input x: f32[N,12,6,6]; weight w: f32[8,3,3,3]",
        "y: f32[N,8,4,4] = Conv(x, w) window=[[3,3],[1,1],[0,0,0,0],[1,1]] groups=4; output y = y",
    ),
    (
        "input dy: f32[N,17,5,4]; weight w: f32[17,20,3,3]",
        "y: f32[N,20,9,7] = ConvInputGrad(dy, w) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=1 input=[9,7]; output y = y",
    ),
    (
        "input x: f32[N,20,9,7]; input dy: f32[N,17,5,4]",
        "y: f32[17,20,3,3] = ConvWeightGrad(x, dy) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=1; output y = y",
    ),
    (
        "input x: f32[N,5,6,6]; weight w: s8[7,5,3,3]; weight small.scale: f32[7]; weight bias: i32[7]; weight t: u8[256]",
        "q: q8(0.01,128)[N,5,6,6] = Quantize(x) to=q8(0.01,128); c: q8(0.02,100)[N,7,6,6] = QConv(q, w, small.scale, bias) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.02,100) limits=[0,255]; l: q8(0.02,100)[N,7,6,6] = Table(c, t) to=q8(0.02,100); p: q8(0.02,90)[N,7,1,1] = QAvgPool(c) window=[[6,6],[1,1],[0,0,0,0],[1,1]] count_pad=true to=q8(0.02,90); m: q8(0.03,7)[N,7,6,6] = QMul(l, p) to=q8(0.03,7) limits=[0,255]; s: q8(0.02,128)[N,7,6,6] = QAdd(m, c) to=q8(0.02,128) limits=[3,250]; y: f32[N,7,6,6] = Dequantize(s); output y = y",
    ),
    // The weight is computed: packed in every run.
    (
        "input x: f32[N,3,4,4]; weight w: f32[4,3,1,1]",
        "v: f32[4,3,1,1] = Unary(w) f=Neg; y: f32[N,4,4,4] = Conv(x, v) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; output y = y",
    ),
    (
        "input a: f32[N,7,5]; input b: f32[N,5,6]",
        "y: f32[N,7,6] = MatMul(a, b) trans_a=false trans_b=false; output y = y",
    ),
    (
        "input a: f32[N,5,7]; input b: f32[N,6,5]",
        "y: f32[N,7,6] = MatMul(a, b) trans_a=true trans_b=true; output y = y",
    ),
    (
        "input a: f32[N,7,5]; weight w: f32[6,5]; weight b: f32[6]",
        "p: f32[N,7,6] = MatMul(a, w) trans_a=false trans_b=true; y: f32[N,7,6] = Binary(b, p) f=Add; output y = y",
    ),
    (
        "input x: f32[N,18,7,7]",
        "y: f32[N,18,4,4] = MaxPool(x) window=[[3,3],[2,2],[1,1,1,1],[1,1]]; output y = y",
    ),
    (
        "input x: f32[N,18,7,7]; input dy: f32[N,18,4,4]",
        "y: f32[N,18,7,7] = MaxPoolGrad(x, dy) window=[[3,3],[2,2],[1,1,1,1],[1,1]]; output y = y",
    ),
    (
        "input x: f32[N,18,7,7]",
        "y: f32[N,18,4,4] = AvgPool(x) window=[[3,3],[2,2],[1,1,1,1],[1,1]] count_pad=false; output y = y",
    ),
    (
        "input dy: f32[N,18,4,4]",
        "y: f32[N,18,7,7] = AvgPoolGrad(dy) window=[[3,3],[2,2],[1,1,1,1],[1,1]] count_pad=true input=[7,7]; output y = y",
    ),
    ("input x: f32[N,3,4,5]", "y: f32[N,3,7,3] = Resize(x) mode=Linear size=[7,3]; output y = y"),
    ("input dy: f32[N,3,7,3]", "y: f32[N,3,4,5] = ResizeGrad(dy) mode=Nearest input=[4,5]; output y = y"),
    (
        "input x: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3] = BatchNorm(x, g, b, m, var) eps=1e-5 momentum=0.1; y: f32[N,18,3,3] = Unary(n) f=Relu; output y = y",
    ),
    (
        "input x: f32[N,18]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "y: f32[N,18] = BatchNorm(x, g, b, m, var) eps=1e-5 momentum=0.1; output y = y",
    ),
    (
        "input x: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3], m2: f32[18], v2: f32[18], bm: f32[18], br: f32[18] = BatchNormTraining(x, g, b, m, var) eps=1e-3 momentum=0.1; y: f32[N,18,3,3] = Unary(n) f=Relu; update m = m2; update var = v2; output y = y; output bm = bm; output br = br",
    ),
    // Statistics that are not kept: the update goes into a copy.
    (
        "input x: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3], m2: f32[18], v2: f32[18], bm: f32[18], br: f32[18] = BatchNormTraining(x, g, b, m, var) eps=1e-3 momentum=0.1; output n = n; output m2 = m2; output v2 = v2",
    ),
    (
        "input x: f32[N,18,3,3]; input dy: f32[N,18,3,3]; weight g: f32[18]; weight mean: f32[18]; weight scale: f32[18]",
        "dx: f32[N,18,3,3], dg: f32[18], db: f32[18] = BatchNormGrad(x, dy, g, mean, scale); output dx = dx; output dg = dg; output db = db",
    ),
    (
        "input x: f32[N,4,19]; weight g: f32[19]; weight b: f32[19]",
        "y: f32[N,4,19] = LayerNorm(x, g, b) eps=1e-5; output y = y",
    ),
    (
        "input x: f32[N,4,19]; input dy: f32[N,4,19]; weight g: f32[19]",
        "dx: f32[N,4,19], dg: f32[19], db: f32[19] = LayerNormGrad(x, dy, g) eps=1e-5; output dx = dx; output dg = dg; output db = db",
    ),
    ("input x: f32[N,37]; input dy: f32[N,37]", "y: f32[N,37] = UnaryGrad(x, dy) f=Gelu; output y = y"),
    (
        "input positive: f32[N,37]",
        "l: f32[N,37] = Unary(positive) f=Log; e: f32[N,37] = Unary(l) f=Exp; s: f32[N,37] = Unary(e) f=Sqrt; y: f32[N,37] = Unary(s) f=Reciprocal; output y = y",
    ),
    (
        "input a: f32[N,18,3,3]; input b: f32[N,18,1,1]",
        "p: f32[N,18,3,3] = MaxPool(a) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; y: f32[N,18,3,3] = Binary(p, b) f=Mul; output y = y",
    ),
    (
        "input a: f32[N,18,3,3]; input b: f32[3]; input positive: f32[]",
        "p: f32[N,18,3,3] = MaxPool(a) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; q: f32[N,18,3,3] = Binary(p, b) f=Sub; y: f32[N,18,3,3] = Binary(q, positive) f=Div; output y = y",
    ),
    (
        "input a: f32[N,18,3,3]; input s: f32[]",
        "p: f32[N,18,3,3] = MaxPool(a) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; q: f32[N,18,3,3] = Binary(p, s) f=Max; y: f32[N,18,3,3] = Unary(q) f=HardSwish; output y = y",
    ),
    // One element: without axes, and as a whole picture.
    (
        "input a: f32[]; input positive: f32[]",
        "s: f32[] = Binary(a, positive) f=Sub; u: f32[] = Unary(s) f=Relu; r: f32[] = Reduce(u) f=Sum axes=[] keep=false; e: f32[] = Expand(r) shape=[]; t: f32[] = Transpose(e) perm=[]; m: f32[] = Binary(t, positive) f=Min; y: f32[1,1] = Reshape(m) shape=[1,1]; output y = y; output s = s",
    ),
    (
        "input x: f32[N,1,1,1]; weight w: f32[1,1,1,1]; weight v: f32[1,1,1,1]",
        "a: f32[N,1,1,1] = Conv(x, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; b: f32[N,1,1,1] = Conv(x, v) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; p: f32[N,1,1,1] = Binary(a, b) f=Mul; y: f32[N,1,1,1] = Conv(p, v) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; output y = y",
    ),
    (
        "input x: f32[N,5,7]; input rng: i32[2]",
        "y: f32[N,5,7] = Dropout(x, rng) p=0.4 stream=3; output y = y",
    ),
    (
        "input x: f32[N,3]",
        "f: f32[3] = Fill() shape=[3] value=2.5; y: f32[N,3] = Binary(x, f) f=Mul; output y = y",
    ),
    ("input i: i32[N,9]", "y: f32[N,9] = Cast(i) to=f32; output y = y"),
    (
        "input x: f32[N,18,3,3]",
        "p: f32[N,18,3,3] = MaxPool(x) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; y: f32[N,18] = Reduce(p) f=Mean axes=[2,3] keep=false; z: f32[18] = Reduce(p) f=Sum axes=[0,2,3] keep=false; k: f32[N,18,1,1] = Reduce(p) f=Max axes=[2,3] keep=true; c: f32[N,3,3] = Reduce(p) f=Sum axes=[1] keep=false; output y = y; output z = z; output k = k; output c = c",
    ),
    (
        "input x: f32[N,5,7]",
        "y: f32[N,5,7] = Softmax(x) axis=1; z: f32[N,5,7] = LogSoftmax(x) axis=2; output y = y; output z = z",
    ),
    (
        "input y: f32[N,5,7]; input dy: f32[N,5,7]",
        "dx: f32[N,5,7] = SoftmaxGrad(y, dy) axis=2; output dx = dx",
    ),
    (
        "input x: f32[N,7]; input positive: f32[N,7]",
        "l: f32[] = CrossEntropy(x, positive); d: f32[N,7] = CrossEntropyGrad(x, positive, l); output l = l; output d = d",
    ),
    (
        "input x: f32[N,16,3,3]",
        "p: f32[N,16,3,3] = MaxPool(x) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; f: f32[N,144] = Reshape(p) shape=[N,144]; y: f32[N,12,12] = Reshape(f) shape=[N,12,12]; output y = y; output same = x",
    ),
    // One memory, two shapes, each wanted in blocks.
    (
        "input x: f32[N,1,6,7]",
        "r: f32[N,21,1,2] = Reshape(x) shape=[N,21,1,2]; p: f32[N,21,1,2] = MaxPool(r) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; q: f32[N,1,5,6] = MaxPool(x) window=[[2,2],[1,1],[0,0,0,0],[1,1]]; output p = p; output q = q",
    ),
    // One weight, several convolutions.
    (
        "input x: f32[N,20,9,7]; input z: f32[N,40,5,4]; weight w: f32[20,20,3,3]",
        "a: f32[N,20,9,7] = Conv(x, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1; b: f32[N,20,4,3] = Conv(x, w) window=[[3,3],[2,2],[0,0,0,0],[1,1]] groups=1; c: f32[N,20,5,3] = Conv(x, w) window=[[3,3],[1,1],[0,0,0,0],[2,2]] groups=1; d: f32[N,20,5,4] = Conv(z, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=2; ga: f32[N,20,9,7] = ConvInputGrad(a, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 input=[9,7]; gb: f32[N,20,9,7] = ConvInputGrad(b, w) window=[[3,3],[2,2],[0,0,0,0],[1,1]] groups=1 input=[9,7]; gd: f32[N,40,5,4] = ConvInputGrad(d, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=2 input=[5,4]; output a = a; output b = b; output c = c; output d = d; output ga = ga; output gb = gb; output gd = gd",
    ),
    (
        "input x: f32[N,18,9,7]; weight w: f32[18,1,3,3]",
        "a: f32[N,18,9,7] = Conv(x, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=18; b: f32[N,18,5,4] = Conv(x, w) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=18; ga: f32[N,18,9,7] = ConvInputGrad(a, w) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=18 input=[9,7]; gb: f32[N,18,9,7] = ConvInputGrad(b, w) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=18 input=[9,7]; output ga = ga; output gb = gb",
    ),
    ("input x: f32[N,5,7]", "y: f32[7,N,5] = Transpose(x) perm=[2,0,1]; output y = y"),
    ("input x: f32[N,18,1,1]", "y: f32[N,18,3,4] = Expand(x) shape=[N,18,3,4]; output y = y"),
    ("input x: f32[N,1,7]", "y: f32[N,5,7] = Expand(x) shape=[N,5,7]; output y = y"),
    (
        "input a: f32[N,16,3,3]; input b: f32[N,32,3,3]",
        "p: f32[N,16,3,3] = MaxPool(a) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; y: f32[N,48,3,3] = Concat(p, b) axis=1; output y = y",
    ),
    (
        "input a: f32[N,3,4]; input b: f32[N,2,4]",
        "y: f32[N,5,4] = Concat(a, b) axis=1; z: f32[N,2,4] = Slice(y) axis=1 start=2 end=4; p: f32[N,2,7] = Pad(z) axis=2 before=1 after=2 value=1.5; output p = p",
    ),
    ("weight t: f32[3,6]; input i: i32[N,4]", "y: f32[N,4,6] = Gather(t, i) axis=0; output y = y"),
    (
        "input i: i32[N,4]; input dy: f32[N,4,6]",
        "y: f32[3,6] = GatherGrad(i, dy) axis=0 size=3; output y = y",
    ),
    (
        "input g: f32[5,7]; input h: f32[33]; weight w: f32[5,7]; optimizer m: f32[5,7]; input lr: f32[]; input scale: f32[]",
        "n: f32[] = GlobalNorm(g, h); w2: f32[5,7], m2: f32[5,7] = Sgd(w, g, m, lr, scale) momentum=0.9 nesterov=true decay=0.01; update w = w2; update m = m2; output n = n; output w = w2",
    ),
    (
        "input g: f32[5,7]; weight w: f32[5,7]; optimizer m: f32[5,7]; optimizer var: f32[5,7]; input lr: f32[]; input scale: f32[]; input positive: f32[]",
        "w2: f32[5,7], m2: f32[5,7], v2: f32[5,7] = AdamW(w, g, m, var, lr, scale, positive) beta1=0.9 beta2=0.99 eps=1e-8 decay=0.01; update w = w2; update m = m2; update var = v2; output w = w2",
    ),
    // What is averaged was itself updated in place.
    (
        "input g: f32[5,7]; weight w: f32[5,7]; optimizer m: f32[5,7]; optimizer a: f32[5,7]; input lr: f32[]; input scale: f32[]; input decay: f32[]",
        "w2: f32[5,7], m2: f32[5,7] = Sgd(w, g, m, lr, scale) momentum=0.9 nesterov=false decay=0.0; a2: f32[5,7] = Ema(a, w2, decay); update w = w2; update m = m2; update a = a2; output w = w2; output a = a2",
    ),
    // A recurrent state: its next value is computed, not updated in place.
    (
        "input x: f32[3,4]; statistic h: f32[3,4]",
        "n: f32[3,4] = Binary(x, h) f=Add; y: f32[3,4] = Unary(n) f=Tanh; update h = y; output y = y",
    ),
];

#[test]
fn every_case_agrees_with_the_reference() {
    for (inputs, body) in CASES {
        check(&nodes(inputs, body));
    }
}

/// What runs as one step: inputs, nodes, and the ops of all steps but changes of layout.
const FUSED: &[(&str, &str, &[&str])] = &[
    (
        "input x: f32[N,20,5,4]; input r: f32[N,17,5,4]; weight w: f32[17,20,1,1]",
        "c: f32[N,17,5,4] = Conv(x, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; s: f32[N,17,5,4] = Binary(c, r) f=Add; y: f32[N,17,5,4] = Unary(s) f=HardSwish; output y = y",
        &["Conv"],
    ),
    (
        "input x: f32[N,18,6,6]; weight w: f32[18,1,3,3]; weight b: f32[18]",
        "c: f32[N,18,6,6] = Conv(x, w, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=18; y: f32[N,18,6,6] = Unary(c) f=HardSwish; output y = y",
        &["Conv"],
    ),
    (
        "input x: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3] = BatchNorm(x, g, b, m, var) eps=1e-5 momentum=0.1; y: f32[N,18,3,3] = Unary(n) f=HardSwish; output y = y",
        &["BatchNorm"],
    ),
    // The gradient reads the normalised value, but runs in the kernel that computes it again.
    (
        "input x: f32[N,18,3,3]; input dy: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3], m2: f32[18], v2: f32[18], bm: f32[18], br: f32[18] = BatchNormTraining(x, g, b, m, var) eps=1e-3 momentum=0.1; y: f32[N,18,3,3] = Unary(n) f=HardSwish; dn: f32[N,18,3,3] = UnaryGrad(n, dy) f=HardSwish; dx: f32[N,18,3,3], dg: f32[18], db: f32[18] = BatchNormGrad(x, dn, g, bm, br); update m = m2; update var = v2; output y = y; output dx = dx; output dg = dg; output db = db",
        &["BatchNormTraining", "BatchNormGrad"],
    ),
    // Hard swish twice: its slope at its own result is another, so only the first joins.
    (
        "input x: f32[N,18,3,3]; input dy: f32[N,18,3,3]; weight g: f32[18]; weight b: f32[18]; statistic m: f32[18]; statistic var: f32[18]",
        "n: f32[N,18,3,3], m2: f32[18], v2: f32[18], bm: f32[18], br: f32[18] = BatchNormTraining(x, g, b, m, var) eps=1e-3 momentum=0.1; h: f32[N,18,3,3] = Unary(n) f=HardSwish; y: f32[N,18,3,3] = Unary(h) f=HardSwish; dn: f32[N,18,3,3] = UnaryGrad(h, dy) f=HardSwish; dx: f32[N,18,3,3], dg: f32[18], db: f32[18] = BatchNormGrad(x, dn, g, bm, br); update m = m2; update var = v2; output y = y; output dx = dx",
        &["BatchNormTraining", "Unary", "UnaryGrad", "BatchNormGrad"],
    ),
    // Squeeze and excitation, backward: products that are only summed, and a mean's gradient that is only added.
    (
        "input x: f32[N,18,3,4]; input dy: f32[N,18,3,4]",
        "p: f32[N,18,3,4] = MaxPool(x) window=[[1,1],[1,1],[0,0,0,0],[1,1]]; m: f32[N,18,3,4] = Binary(p, dy) f=Mul; s: f32[N,18,1,1] = Reduce(m) f=Sum axes=[2,3] keep=true; e: f32[N,18,3,4] = Expand(s) shape=[N,18,3,4]; y: f32[N,18,3,4] = Binary(dy, e) f=Add; output y = y",
        &["MaxPool", "Reduce", "Binary"],
    ),
    (
        "input a: f32[N,5,7]; input b: f32[N,5,7]",
        "p: f32[N,5,7] = Binary(a, b) f=Mul; y: f32[N,5] = Reduce(p) f=Mean axes=[2] keep=false; output y = y",
        &["Reduce"],
    ),
    // Both operands are grown: one of them has to be, for the result's shape.
    (
        "input a: f32[N,18,1,1]; input b: f32[N,1,3,4]",
        "e: f32[N,18,3,4] = Expand(a) shape=[N,18,3,4]; f: f32[N,18,3,4] = Expand(b) shape=[N,18,3,4]; y: f32[N,18,3,4] = Binary(e, f) f=Sub; output y = y",
        &["Expand", "Binary"],
    ),
    // A convolution's residual is read as it is.
    (
        "input x: f32[N,20,5,4]; input r: f32[N,17,1,1]; weight w: f32[17,20,1,1]",
        "c: f32[N,17,5,4] = Conv(x, w) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1; e: f32[N,17,5,4] = Expand(r) shape=[N,17,5,4]; y: f32[N,17,5,4] = Binary(c, e) f=Add; output y = y",
        &["Conv", "Binary"],
    ),
];

#[test]
fn what_can_runs_as_one_step() {
    for (inputs, body, want) in FUSED {
        let text = nodes(inputs, body);
        check(&text);
        let graph: Graph = text.parse().unwrap();
        let bindings = Bindings::batch(2);
        let options = Options { isa: Isa::best(), threads: 1, bindings };
        let plan = lower(&graph, &common::tensors(&graph, bindings), options).unwrap();
        let ops: Vec<&str> =
            plan.steps().map(|s| s.op).filter(|op| !["Reorder", "Copy"].contains(op)).collect();
        assert_eq!(ops, *want, "{text}");
    }
}

/// The sum takes the memory of the input, so that a run leaves nothing of that.
#[test]
fn repeated_runs_have_the_same_inputs() {
    let body = "a: f32[4,5] = Unary(x) f=Tanh; b: f32[5] = Reduce(x) f=Sum axes=[0] keep=false; c: f32[4,5] = Expand(b) shape=[4,5]; \
                y: f32[4,5] = Binary(a, c) f=Div; z: f32[4,5] = Unary(y) f=Exp; output z = z";
    let graph: Graph = nodes("input x: f32[4,5]", body).parse().unwrap();
    let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(1) };
    let mut plan = lower(&graph, &Weights::new(), options).unwrap();
    let given: Vec<f32> = (1..=20).map(|i| i as f32 / 7.0).collect();
    plan.input("x").copy_from_slice(&given);
    let (mut repeat, mut pool) = (Repeat::new(&mut plan), Pool::new(1));
    repeat.run(&mut pool);
    let first = repeat.output("z").to_vec();
    repeat.run(&mut pool);
    assert_eq!(repeat.output("z"), first);
    let mut times = vec![Duration::ZERO; repeat.steps().count()];
    repeat.run_profiled(&mut pool, &mut times);
    assert_eq!(repeat.output("z"), first);
    assert_ne!(plan.input("x"), given, "the input's memory is not used again, so this shows nothing");
}

#[test]
fn bytes_are_refused() {
    let graph: Graph = "input x: u8[N,3]\ny: u8[3*N] = Reshape(x) shape=[3*N]\noutput y = y".parse().unwrap();
    let options = Options { isa: Isa::SCALAR, threads: 1, bindings: Bindings::batch(2) };
    let error = lower(&graph, &Weights::new(), options).err().unwrap().to_string();
    assert_eq!(error, "value `x` is u8[N,3]: plans compute with f32, i32 and q8; bytes are states only");
}

#[test]
fn every_op_has_a_case() {
    let mut seen = BTreeSet::new();
    for (inputs, body) in CASES {
        let graph: Graph = nodes(inputs, body).parse().unwrap();
        seen.extend(graph.nodes().iter().map(|n| n.op.name()));
    }
    let missing: Vec<_> = Op::NAMES.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
