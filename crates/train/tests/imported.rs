//! Graphs of files as networks to train: where the head is, what it becomes for other classes, and what is refused.

use espalier_graph::{Graph, Tensor, Weights};
use espalier_passes::Optimizer;
use espalier_train::imported::Imported;
use espalier_train::layers::Head;
use espalier_train::networks::initial_weights;
use espalier_train::step::{StepOptions, training_step};

/// A filter, then whatever `rest` makes of `y f32[N,6,8,8]`.
fn graph(rest: &str) -> Graph {
    let text = format!(
        "input image: f32[N,3,8,8]\nweight c.weight: f32[6,3,1,1]\n\
         y: f32[N,6,8,8] = Conv(image, c.weight) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1\n{rest}\n"
    );
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

const FLAT: &str = "flat: f32[N,384] = Reshape(y) shape=[N,384]\n";
const DENSE: &str =
    "weight fc.weight: f32[4,384]\nfc: f32[N,4] = MatMul(flat, fc.weight) trans_a=false trans_b=true\n";
const FILTER: &str = "weight k.weight: f32[4,6,1,1]\nweight k.bias: f32[4]\n\
    k: f32[N,4,8,8] = Conv(y, k.weight, k.bias) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1\n";
const POOL: &str = "pool: f32[N,4,1,1] = AvgPool(r) window=[[8,8],[1,1],[0,0,0,0],[1,1]] count_pad=false\n";

fn imported(graph: &Graph) -> Result<Imported, String> {
    let mut weights: Weights = initial_weights(graph, 0);
    weights.insert("left.over".into(), Tensor::f32(&[1], vec![0.0]));
    let imported = Imported::new(graph, &mut weights)?;
    assert!(!weights.contains_key("left.over"));
    Ok(imported)
}

/// The network for 9 classes has these head states, and a step of training that changes all of its weights.
fn check(rest: &str, classes: usize, head: &[(&str, &str)]) {
    let imported = imported(&graph(rest)).unwrap_or_else(|e| panic!("{e}\n{rest}"));
    assert_eq!((imported.classes(), imported.channels(), imported.side()), (classes, 3, 8), "{rest}");
    let network = imported.with_classes(9).unwrap_or_else(|e| panic!("{e}\n{rest}"));
    let logits = network.output("logits").expect("logits");
    assert_eq!(network.ty(logits).to_string(), "f32[N,9]", "{network}");
    let found = Head::of(&network).unwrap().states;
    assert_eq!(found, head.iter().map(|(name, _)| name.to_string()).collect(), "{network}");
    for (name, ty) in head {
        assert_eq!(network.ty(network.find(name).unwrap()).to_string(), *ty, "{name} of\n{network}");
    }
    let options = StepOptions {
        optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true },
        weight_decay: 0.0,
        clip_norm: None,
        ema: true,
    };
    let step = training_step(&network, &options, &|_| false).unwrap_or_else(|e| panic!("{e}\n{network}"));
    for state in network.states() {
        let name = &network.value(state.value).name;
        let states = step.states().iter().find(|s| step.value(s.value).name == *name);
        assert!(states.is_some_and(|s| s.next.is_some()), "{name} of\n{step}");
    }
}

#[test]
fn heads_are_found_and_replaced() {
    let dense = [("fc.weight", "f32[9,384]")];
    check(&format!("{FLAT}{DENSE}output scores = fc"), 4, &dense);
    let softmax = "s: f32[N,4] = Softmax(fc) axis=1\n";
    check(&format!("{FLAT}{DENSE}{softmax}output scores = s"), 4, &dense);
    check(&format!("{FLAT}{DENSE}{softmax}output scores = s\noutput logits = fc"), 4, &dense);
    let log = "l: f32[N,4] = Unary(s) f=Log\n";
    check(&format!("{FLAT}{DENSE}{softmax}{log}output scores = l"), 4, &dense);

    let bias = "weight fc.bias: f32[1,4]\nb: f32[N,4] = Binary(fc, fc.bias) f=Add\n";
    let both = [("fc.weight", "f32[9,384]"), ("fc.bias", "f32[1,9]")];
    check(&format!("{FLAT}{DENSE}{bias}output scores = b"), 4, &both);
    // What stands on the other side, as exporters of TensorFlow have it, and a factor for all classes.
    let other = DENSE.replace("f32[4,384]", "f32[384,4]").replace("trans_b=true", "trans_b=false");
    let factor = "weight t: f32[1]\nl: f32[N,4] = Binary(t, fc) f=Mul\n";
    check(&format!("{FLAT}{other}output scores = fc"), 4, &[("fc.weight", "f32[384,9]")]);
    check(
        &format!("{FLAT}{DENSE}{factor}output scores = l"),
        4,
        &[("fc.weight", "f32[9,384]"), ("t", "f32[1]")],
    );
    // One class, a sigmoid, and names that a step gives to values of its own.
    let one = DENSE.replace("[4,", "[1,").replace("[N,4]", "[N,1]");
    let sigmoid = "x: f32[N,1] = Unary(fc) f=Sigmoid\n";
    check(&format!("{FLAT}{one}{sigmoid}output scores = x"), 1, &dense);
    check(&format!("{FLAT}{DENSE}output lr = fc").replace("flat", "loss"), 4, &dense);

    // As in SqueezeNet: a filter, a function, the mean, other axes.
    let relu = "r: f32[N,4,8,8] = Unary(k) f=Relu\n";
    let flat = "f: f32[N,4] = Reshape(pool) shape=[N,4]\n";
    let filter = [("k.weight", "f32[9,6,1,1]"), ("k.bias", "f32[9]")];
    check(&format!("{FILTER}{relu}{POOL}{flat}output scores = f"), 4, &filter);
    check(&format!("{FILTER}{relu}{POOL}output scores = pool"), 4, &filter);
}

fn refused(rest: &str, words: &str) {
    let error = imported(&graph(rest)).map(|_| ()).unwrap_err();
    assert!(error.contains(words), "{error:?} should say {words:?}");
}

#[test]
fn what_cannot_be_trained_is_told_by_node() {
    refused(
        "output z = y",
        "there is no head to replace: output `z`: `y` is f32[N,6,8,8], it should hold a number for each class",
    );
    let sum = "weight a: f32[6,384]\nm: f32[N,6] = MatMul(flat, a) trans_a=false trans_b=true\n\
        cut: f32[N,3] = Slice(m) axis=1 start=0 end=3\noutput z = cut";
    refused(&format!("{FLAT}{sum}"), "node `cut` (Slice) stands between it and the last matrix or filter");
    let aux =
        "weight g.weight: f32[5,384]\ng: f32[N,5] = MatMul(flat, g.weight) trans_a=false trans_b=true\n";
    refused(&format!("{FLAT}{DENSE}{aux}output a = fc\noutput b = g"), "several heads (`a`, `b`)");
    let twice = "e: f32[N,4] = MatMul(flat, fc.weight) trans_a=false trans_b=true\n";
    refused(
        &format!("{FLAT}{DENSE}{twice}output a = fc\noutput b = e"),
        "`fc.weight` is not a weight of the head alone",
    );
    let bytes =
        "q: q8(0.1,128)[N,4] = Quantize(fc) to=q8(0.1,128)\nd: f32[N,4] = Dequantize(q)\noutput z = d";
    refused(&format!("{FLAT}{DENSE}{bytes}"), "node `q` (Quantize) computes with integers of 8 bits");
    let takes = |input: &str| format!("input image: {input}\nweight w: f32[4,3]\n");
    for (input, rest) in [
        ("f32[1,3]", "y: f32[1,4] = MatMul(image, w) trans_a=false trans_b=true\noutput z = y\n"),
        ("f32[N,3]", "y: f32[N,4] = MatMul(image, w) trans_a=false trans_b=true\noutput z = y\n"),
    ] {
        let error = imported(&format!("{}{rest}", takes(input)).parse().unwrap()).map(|_| ()).unwrap_err();
        let words = format!("one square picture f32[N,1 or 3,side,side], the input is `image` {input}");
        assert!(error.contains(&words), "{error:?} should say {words:?}");
    }
}
