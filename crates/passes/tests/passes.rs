//! Each pass as text in, text out.

use std::collections::BTreeMap;

use espalier_graph::{Bindings, Graph, GraphError, Shape, Tensor, TensorType, ValueId, Weights};
use espalier_kernels::reference::{RefTensor, interpret};
use espalier_passes::{
    Optimizer, decays_by_default, differentiate, ema, fold_batch_norm, portable, prune_unused, simplify,
    training, update,
};

const NET: &str = "\
input x: f32[N,2,4,4]
weight conv.weight: f32[3,2,3,3]
conv: f32[N,3,4,4] = Conv(x, conv.weight) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
weight bn.weight: f32[3]
weight bn.bias: f32[3]
statistic bn.running_mean: f32[3]
statistic bn.running_var: f32[3]
bn: f32[N,3,4,4] = BatchNorm(conv, bn.weight, bn.bias, bn.running_mean, bn.running_var) eps=1e-5 momentum=0.1
relu: f32[N,3,4,4] = Unary(bn) f=Relu
flat: f32[N,48] = Reshape(relu) shape=[N,48]
input rng: i32[2]
drop: f32[N,48] = Dropout(flat, rng) p=0.2 stream=4
output y = drop
";

fn parse(text: &str) -> Graph {
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn check(have: Result<Graph, GraphError>, want: &str) {
    let have = have.unwrap().to_string();
    assert_eq!(have, want, "the pass gave\n{have}");
}

fn check_error<T: std::fmt::Debug>(result: Result<T, GraphError>, want: &str) {
    let error = result.expect_err(want).to_string();
    assert!(error.contains(want), "`{error}` should say `{want}`");
}

#[test]
fn training_updates_running_statistics() {
    let trained = NET
        .replace(
            "bn: f32[N,3,4,4] = BatchNorm(",
            "bn: f32[N,3,4,4], bn:1: f32[3], bn:2: f32[3], bn:3: f32[3], bn:4: f32[3] = BatchNormTraining(",
        )
        .replace("output", "update bn.running_mean = bn:1\nupdate bn.running_var = bn:2\noutput");
    check(training(&parse(NET), &|_| false), &trained);
    check(training(&parse(NET), &|name| name == "bn.weight"), NET);
}

const PORTABLE: &str = "\
input x: f32[N,2,4,4]
weight conv.weight: f32[3,2,3,3]
conv: f32[N,3,4,4] = Conv(x, conv.weight) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
weight bn.weight: f32[3]
weight bn.bias: f32[3]
statistic bn.running_mean: f32[3]
statistic bn.running_var: f32[3]
bn: f32[N,3,4,4] = BatchNorm(conv, bn.weight, bn.bias, bn.running_mean, bn.running_var) eps=1e-5 momentum=0.1
relu: f32[N,3,4,4] = Unary(bn) f=Relu
flat: f32[N,48] = Reshape(relu) shape=[N,48]
output y = flat
";

#[test]
fn portable_undoes_training() {
    check(portable(&parse(NET)), PORTABLE);
    check(portable(&training(&parse(NET), &|_| false).unwrap()), PORTABLE);
    check(portable(&step(None)), PORTABLE);
}

#[test]
fn portable_refuses_a_loss() {
    let text = "input x: f32[N,3]\ninput t: f32[N,3]\nloss: f32[] = CrossEntropy(x, t)\noutput loss = loss\n";
    check_error(portable(&parse(text)), "node `loss` (CrossEntropy)");
}

/// A whole training step of `NET`, the loss being given by its gradient.
fn step(clip_norm: Option<f32>) -> Graph {
    let mut graph = training(&parse(NET), &|_| false).unwrap();
    let y = graph.output("y").unwrap();
    let dy = graph.add_input("dy", graph.ty(y).clone()).unwrap();
    let names = ["conv.weight", "bn.weight", "bn.bias"];
    let states: Vec<ValueId> = names.iter().map(|name| graph.find(name).unwrap()).collect();
    let grads = differentiate(&mut graph, &[(y, dy)], &states).unwrap();
    let grads: Vec<_> = states.into_iter().zip(grads.into_iter().map(Option::unwrap)).collect();
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    update(&mut graph, &grads, sgd, 0.01, &decays_by_default, clip_norm).unwrap();
    graph
}

#[test]
fn averages_follow_what_the_step_learns() {
    let mut graph = step(None);
    let before = graph.to_string();
    ema(&mut graph).unwrap();
    let text = graph.to_string();
    let averaged = |name: &str| {
        let node = format!("{name}.ema.next: f32[3] = Ema({name}.ema, ");
        text.contains(&format!("optimizer {name}.ema: f32[3]\n"))
            && text.contains(&node)
            && text.contains(&format!("update {name}.ema = {name}.ema.next\n"))
    };
    assert!(
        ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"].into_iter().all(averaged),
        "{text}"
    );
    assert!(text.contains("Ema(bn.weight.ema, bn.weight.next, ema_decay)"), "{text}");
    assert!(text.contains("Ema(bn.running_mean.ema, bn:1, ema_decay)"), "{text}");
    assert_eq!(text.matches("= Ema(").count(), 5, "{text}");
    assert!(before.lines().all(|line| text.contains(line)), "nothing else changed");
    check(portable(&graph), PORTABLE);
    check_error(ema(&mut graph), "ema_decay");
}

const BACKWARD_AND_UPDATE: &str = "\
input dy: f32[N,48]
flat.grad: f32[N,48] = Dropout(dy, rng) p=0.2 stream=4
relu.grad: f32[N,3,4,4] = Reshape(flat.grad) shape=[N,3,4,4]
bn.grad: f32[N,3,4,4] = UnaryGrad(relu, relu.grad) f=Relu
conv.grad: f32[N,3,4,4], conv.grad:1: f32[3], conv.grad:2: f32[3] = BatchNormGrad(conv, bn.grad, bn.weight, bn:3, bn:4)
conv.weight.grad: f32[3,2,3,3] = ConvWeightGrad(x, conv.grad) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
input lr: f32[]
grad_norm: f32[] = GlobalNorm(conv.weight.grad, conv.grad:1, conv.grad:2)
clip.excess: f32[] = Unary(grad_norm) f=Affine(0.5,5e-7)
clip.shrink: f32[] = Unary(clip.excess) f=Reciprocal
clip.one: f32[] = Fill() shape=[] value=1.0
clip.scale: f32[] = Binary(clip.shrink, clip.one) f=Min
optimizer conv.weight.momentum: f32[3,2,3,3]
conv.weight.next: f32[3,2,3,3], conv.weight.momentum.next: f32[3,2,3,3] = \
Sgd(conv.weight, conv.weight.grad, conv.weight.momentum, lr, clip.scale) momentum=0.9 nesterov=true decay=0.01
optimizer bn.weight.momentum: f32[3]
bn.weight.next: f32[3], bn.weight.momentum.next: f32[3] = \
Sgd(bn.weight, conv.grad:1, bn.weight.momentum, lr, clip.scale) momentum=0.9 nesterov=true decay=0.0
optimizer bn.bias.momentum: f32[3]
bn.bias.next: f32[3], bn.bias.momentum.next: f32[3] = \
Sgd(bn.bias, conv.grad:2, bn.bias.momentum, lr, clip.scale) momentum=0.9 nesterov=true decay=0.0
update conv.weight = conv.weight.next
";

#[test]
fn a_step_is_forward_backward_clip_update() {
    let text = step(Some(2.0)).to_string();
    assert!(text.contains(BACKWARD_AND_UPDATE), "the passes gave\n{text}");
    let unclipped = step(None).to_string();
    assert!(
        unclipped.contains("clip.scale: f32[] = Fill() shape=[] value=1.0")
            && !unclipped.contains("GlobalNorm")
    );
}

#[test]
fn adamw_has_two_moments_and_a_step() {
    let mut graph =
        parse("input x: f32[2]\nweight w: f32[2]\ny: f32[2] = Binary(x, w) f=Mul\noutput y = y\n");
    let (w, y) = (graph.find("w").unwrap(), graph.find("y").unwrap());
    let grads = differentiate(&mut graph, &[(y, y)], &[w]).unwrap();
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    update(&mut graph, &[(w, grads[0].unwrap())], adamw, 0.01, &|name, _| name == "w", None).unwrap();
    let text = graph.to_string();
    let want = "\
input lr: f32[]
clip.scale: f32[] = Fill() shape=[] value=1.0
input step: f32[]
optimizer w.exp_avg: f32[2]
optimizer w.exp_avg_sq: f32[2]
w.next: f32[2], w.exp_avg.next: f32[2], w.exp_avg_sq.next: f32[2] = \
AdamW(w, w.grad, w.exp_avg, w.exp_avg_sq, lr, clip.scale, step) beta1=0.9 beta2=0.999 eps=1e-8 decay=0.01
update w = w.next
update w.exp_avg = w.exp_avg.next
update w.exp_avg_sq = w.exp_avg_sq.next
";
    assert!(text.contains(want), "the passes gave\n{text}");
    check_error(update(&mut graph, &[(w, grads[0].unwrap())], adamw, 0.0, &|_, _| true, None), "taken twice");
    check_error(
        update(&mut graph, &[(w, grads[0].unwrap())], adamw, 0.0, &|_, _| true, Some(0.0)),
        "norm to clip",
    );
}

#[test]
fn gradients_only_where_wanted() {
    let text = "\
input x: f32[N,2]
input k: i32[N]
weight a: f32[2,2]
weight b: f32[2,2]
weight c: f32[]
h: f32[N,2] = MatMul(x, a) trans_a=false trans_b=true
y: f32[N,2] = MatMul(h, b) trans_a=false trans_b=true
z: f32[N,2] = Binary(y, c) f=Step
i: i32[N,2] = Cast(h) to=i32
j: f32[N,2] = Cast(i) to=f32
output y = y
output z = z
output j = j
";
    let forward = parse(text);
    let mut graph = forward.clone();
    let find = |name| forward.find(name).unwrap();
    let dy = graph.add_input("dy", TensorType::f32(Shape::batched(&[2]))).unwrap();
    let seeds = [(find("y"), dy), (find("z"), dy), (find("j"), dy)];
    let wrt = ["b", "c", "k", "h"].map(find);
    let grads = differentiate(&mut graph, &seeds, &wrt).unwrap();
    let added: Vec<_> = graph.nodes()[forward.nodes().len()..].iter().map(|n| graph.node_name(n)).collect();
    assert_eq!(added, ["h.grad", "b.grad"]);
    assert_eq!(grads.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true]);
}

#[test]
fn equal_maxima_share_the_gradient() {
    let text = "input x: f32[5]\ny: f32[] = Reduce(x) f=Max axes=[0] keep=false\noutput y = y\n";
    let mut graph = parse(text);
    let (x, y) = (graph.find("x").unwrap(), graph.find("y").unwrap());
    let dy = graph.add_input("dy", graph.ty(y).clone()).unwrap();
    let grad = differentiate(&mut graph, &[(y, dy)], &[x]).unwrap()[0].unwrap();
    let given = BTreeMap::from([
        ("x".to_string(), RefTensor::new(&[5], vec![1.0, 7.0, -2.0, 7.0, 6.0])),
        ("dy".to_string(), RefTensor::new(&[], vec![3.0])),
    ]);
    let values = interpret(&graph, Bindings::batch(1), &given);
    assert_eq!(values[&graph.value(grad).name].data, [0.0, 1.5, 0.0, 1.5, 0.0]);
}

#[test]
fn differentiate_names_what_has_no_gradient() {
    let text = "input x: f32[3]\ninput dy: f32[3]\ny: f32[3] = UnaryGrad(x, dy) f=Tanh\noutput y = y\n";
    let mut graph = parse(text);
    let [x, dy, y] = ["x", "dy", "y"].map(|name| graph.find(name).unwrap());
    check_error(differentiate(&mut graph, &[(y, dy)], &[x]), "node `y` (UnaryGrad of f32[3], f32[3])");
    let lr = graph.add_input("lr", TensorType::f32(Shape::default())).unwrap();
    check_error(differentiate(&mut graph, &[(y, lr)], &[x]), "the gradient `lr` of `y` is f32[]");
    let mut graph = training(&parse(NET), &|_| false).unwrap();
    let [mean, gamma] = ["bn:3", "bn.weight"].map(|name| graph.find(name).unwrap());
    check_error(
        differentiate(&mut graph, &[(mean, gamma)], &[gamma]),
        "(BatchNormTraining): only its first output",
    );
}

#[test]
fn unused_parts_vanish() {
    let text = "\
input x: f32[N,2]
input unused: f32[2]
weight w: f32[2]
weight dead: f32[2]
statistic count: f32[2]
y: f32[N,2] = Binary(x, w) f=Mul
d: f32[N,2] = Binary(y, dead) f=Add
more: f32[2] = Unary(count) f=Affine(1.0,1.0)
update count = more
output y = y
";
    let removed = ["unused:", "dead:", "d: "];
    let kept: Vec<&str> = text.lines().filter(|l| !removed.iter().any(|r| l.contains(r))).collect();
    check(prune_unused(&parse(text)), &(kept.join("\n") + "\n"));
}

const LINEAR: &str = "\
input x: f32[N,4]
weight a.weight: f32[3,4]
weight a.bias: f32[3]
a.product: f32[N,3] = MatMul(x, a.weight) trans_a=false trans_b=true
a: f32[N,3] = Binary(a.product, a.bias) f=Add
weight n.weight: f32[3]
weight n.bias: f32[3]
statistic n.running_mean: f32[3]
statistic n.running_var: f32[3]
n: f32[N,3] = BatchNorm(a, n.weight, n.bias, n.running_mean, n.running_var) eps=1e-3 momentum=0.1
weight b.weight: f32[3,2]
b: f32[N,2] = MatMul(n, b.weight) trans_a=false trans_b=false
weight m.weight: f32[2]
weight m.bias: f32[2]
statistic m.running_mean: f32[2]
statistic m.running_var: f32[2]
m: f32[N,2] = BatchNorm(b, m.weight, m.bias, m.running_mean, m.running_var) eps=1e-3 momentum=0.1
output y = m
";

fn random_weights(graph: &Graph) -> Weights {
    let tensor = |id: ValueId| {
        let shape = graph.ty(id).shape.bind(Bindings::batch(1));
        let element = |i| 0.25 + espalier_graph::random::uniform(3, id.index() as u64, i as u64);
        Tensor::f32(&shape, (0..shape.iter().product()).map(element).collect())
    };
    graph.states().iter().map(|s| (graph.value(s.value).name.clone(), tensor(s.value))).collect()
}

fn output(graph: &Graph, weights: &Weights) -> Vec<f64> {
    let mut given: BTreeMap<String, RefTensor> = weights
        .iter()
        .map(|(name, t)| {
            let data = t.as_f32().unwrap().iter().map(|&v| f64::from(v)).collect();
            (name.clone(), RefTensor::new(&t.shape, data))
        })
        .collect();
    let bindings = Bindings::batch(2);
    for &id in graph.inputs() {
        let value = graph.value(id);
        let element = |i| f64::from(espalier_graph::random::uniform(5, 0, i as u64));
        given.insert(value.name.clone(), RefTensor::from_fn(&value.ty.shape.bind(bindings), element));
    }
    let y = &graph.value(graph.output("y").unwrap()).name;
    interpret(graph, bindings, &given).remove(y).unwrap().data
}

/// Folds, compares outputs and that graph and weights hold the same states, and returns the folded text.
fn check_fold(text: &str) -> String {
    let graph = parse(text);
    let mut weights = random_weights(&graph);
    let want = output(&graph, &weights);
    let folded = fold_batch_norm(&graph, &mut weights).unwrap();
    for (have, want) in output(&folded, &weights).iter().zip(want) {
        assert!((have - want).abs() < 1e-5 * want.abs().max(1.0), "{have} is not {want} in\n{folded}");
    }
    let mut states: Vec<_> = folded.states().iter().map(|s| folded.value(s.value).name.clone()).collect();
    states.sort();
    assert_eq!(states, weights.into_keys().collect::<Vec<_>>());
    folded.to_string()
}

#[test]
fn batch_norm_folds_into_a_convolution() {
    let want = "\
input x: f32[N,2,4,4]
weight conv.weight: f32[3,2,3,3]
weight conv.bias: f32[3]
conv: f32[N,3,4,4] = Conv(x, conv.weight, conv.bias) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
relu: f32[N,3,4,4] = Unary(conv) f=Relu
flat: f32[N,48] = Reshape(relu) shape=[N,48]
output y = flat
";
    assert_eq!(check_fold(PORTABLE), want);
    let biased = PORTABLE
        .replace("conv: f32", "weight conv.bias: f32[3]\nconv: f32")
        .replace("Conv(x, conv.weight)", "Conv(x, conv.weight, conv.bias)");
    assert_eq!(check_fold(&biased), want);
}

#[test]
fn batch_norm_folds_into_linear_layers() {
    let want = "\
input x: f32[N,4]
weight a.weight: f32[3,4]
weight a.bias: f32[3]
a.product: f32[N,3] = MatMul(x, a.weight) trans_a=false trans_b=true
a: f32[N,3] = Binary(a.product, a.bias) f=Add
weight b.weight: f32[3,2]
weight b.bias: f32[2]
b.product: f32[N,2] = MatMul(a, b.weight) trans_a=false trans_b=false
b: f32[N,2] = Binary(b.product, b.bias) f=Add
output y = b
";
    assert_eq!(check_fold(LINEAR), want);
}

#[test]
fn what_is_shared_or_changing_is_not_folded() {
    let shared = PORTABLE.to_string() + "output z = conv\n";
    assert_eq!(check_fold(&shared), shared);
    let tied = "input x2: f32[N,2,4,4]\n".to_string()
        + &PORTABLE.replace(
            "output y",
            "z: f32[N,3,4,4] = Conv(x2, conv.weight) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1\noutput z = z\noutput y",
        );
    assert_eq!(check_fold(&tied), tied);
    let changing = PORTABLE.replace("output", "update bn.running_mean = bn.bias\noutput");
    let graph = parse(&changing);
    check(fold_batch_norm(&graph, &mut random_weights(&graph)), &changing);
}

#[test]
fn a_fold_names_the_weight_it_lacks() {
    let graph = parse(PORTABLE);
    let mut weights = random_weights(&graph);
    weights.remove("bn.running_var");
    let before = weights.clone();
    check_error(fold_batch_norm(&graph, &mut weights), "lack the state `bn.running_var`");
    weights.insert("bn.running_var".into(), Tensor::f32(&[2], vec![1.0; 2]));
    check_error(
        fold_batch_norm(&graph, &mut weights),
        "hold `bn.running_var` as f32[2], the graph has f32[3]",
    );
    weights.remove("bn.running_var");
    assert_eq!(weights, before);
}

/// `nodes` over `x`, of which the last makes `y`, become `want`; and a second run changes nothing.
fn check_simplify(nodes: &[&str], want: &[&str]) {
    let text = |nodes: &[&str]| format!("input x: f32[N,2,4,4]\n{}\noutput y = y\n", nodes.join("\n"));
    let simpler = simplify(&parse(&text(nodes)));
    check(simpler, &text(want));
    check(simplify(&parse(&text(want))), &text(want));
}

#[test]
fn steps_get_their_name_back() {
    let ty = "f32[N,2,4,4]";
    let unary = |name: &str, x: &str, f: &str| format!("{name}: {ty} = Unary({x}) f={f}");
    let mul = |name: &str, a: &str, b: &str| format!("{name}: {ty} = Binary({a}, {b}) f=Mul");
    let one = |nodes: &[String], f: &str| {
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        check_simplify(&nodes, &[&unary("y", "x", f)]);
    };
    one(&[unary("s", "x", "Sigmoid"), mul("y", "s", "x")], "Silu");
    let ramp = [unary("a", "x", "Affine(1.0,3.0)"), unary("c", "a", "Clip(0.0,6.0)")];
    let six = |name: &str, x: &str| unary(name, x, "Affine(0.16666667,0.0)");
    one(&[ramp[0].clone(), ramp[1].clone(), six("d", "c"), mul("y", "x", "d")], "HardSwish");
    one(&[ramp[0].clone(), ramp[1].clone(), mul("m", "x", "c"), six("y", "m")], "HardSwish");
    let erf = [
        unary("z", "x", "Affine(0.70710677,0.0)"),
        unary("e", "z", "Erf"),
        unary("p", "e", "Affine(1.0,1.0)"),
    ];
    let gelu = [
        erf[0].clone(),
        erf[1].clone(),
        erf[2].clone(),
        mul("m", "x", "p"),
        unary("y", "m", "Affine(0.5,0.0)"),
    ];
    one(&gelu, "Gelu");
    one(&[unary("r", "x", "Relu"), unary("y", "r", "Clip(-inf,6.0)")], "Clip(0.0,6.0)");
    one(&[unary("a", "x", "Affine(2.0,1.0)"), unary("y", "a", "Affine(-1.0,3.0)")], "Affine(-2.0,2.0)");
    // Another argument, another number: nothing is recognised.
    for nodes in [
        [unary("a", "x", "Relu"), unary("s", "a", "Sigmoid"), mul("y", "x", "s")],
        [unary("a", "x", "Affine(1.0,2.0)"), unary("c", "a", "Clip(0.0,6.0)"), mul("y", "x", "c")],
        [unary("z", "x", "Affine(0.75,0.0)"), unary("e", "z", "Erf"), mul("y", "x", "e")],
    ] {
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        check_simplify(&nodes, &nodes);
    }
}

#[test]
fn zeros_around_become_padding() {
    let weight = "weight w: f32[1,2,3,3]";
    let pads = [
        "p: f32[N,2,7,4] = Pad(x) axis=2 before=1 after=2 value=0.0",
        "q: f32[N,2,7,6] = Pad(p) axis=3 before=2 after=0 value=0.0",
    ];
    let conv = |x: &str, pad: &str| {
        format!("y: f32[N,1,5,4] = Conv({x}, w) window=[[3,3],[1,1],{pad},[1,1]] groups=1")
    };
    check_simplify(&[weight, pads[0], pads[1], &conv("q", "[0,0,0,0]")], &[weight, &conv("x", "[1,2,2,0]")]);
    let ones = [
        "p: f32[N,2,7,4] = Pad(x) axis=2 before=1 after=2 value=1.0",
        "q: f32[N,2,7,6] = Pad(p) axis=3 before=2 after=0 value=1.0",
    ];
    let kept = conv("q", "[0,0,0,0]");
    check_simplify(&[weight, ones[0], ones[1], &kept], &[weight, ones[0], ones[1], &kept]);
}
