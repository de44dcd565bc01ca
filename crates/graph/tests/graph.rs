//! The text form, shape inference and verification, as text in, text or error out.

use espalier_graph::{Graph, Stage, verify};

const NET: &str = "\
input x: f32[N,3,8,8]
weight conv.weight: f32[4,3,3,3]
weight bn.weight: f32[4]
weight bn.bias: f32[4]
statistic bn.running_mean: f32[4]
statistic bn.running_var: f32[4]
conv: f32[N,4,4,4] = Conv(x, conv.weight) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=1
bn: f32[N,4,4,4] = BatchNorm(conv, bn.weight, bn.bias, bn.running_mean, bn.running_var) eps=1e-5 momentum=0.1
act: f32[N,4,4,4] = Unary(bn) f=Clip(0.0,6.0)
flat: f32[N,64] = Reshape(act) shape=[N,64]
output y = flat
";

fn check_error(text: &str, want: &str) {
    let error = text.parse::<Graph>().expect_err(want).to_string();
    assert!(error.contains(want), "`{error}` should say `{want}`");
}

#[test]
fn text_parses_back() {
    let graph: Graph = NET.parse().unwrap();
    assert_eq!(graph.to_string(), NET);
    assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph);
    verify(&graph, Stage::Portable).unwrap();
}

#[test]
fn several_outputs_and_updates() {
    let text = NET.replace(
        "bn: f32[N,4,4,4] = BatchNorm(",
        "bn: f32[N,4,4,4], m: f32[4], v: f32[4], bm: f32[4], br: f32[4] = BatchNormTraining(",
    ) + "update bn.running_mean = m\nupdate bn.running_var = v\n";
    let graph: Graph = text.parse().unwrap();
    assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph);
    verify(&graph, Stage::Trainable).unwrap();
    let error = verify(&graph, Stage::Portable).unwrap_err().to_string();
    assert!(error.contains("`bn` (BatchNormTraining)"), "{error}");
}

#[test]
fn errors_name_line_node_and_shapes() {
    check_error(
        &NET.replace("weight: f32[4,3,3,3]", "weight: f32[4,2,3,3]"),
        "line 7: node `conv` (Conv of x f32[N,3,8,8]",
    );
    check_error(
        &NET.replace("flat: f32[N,64]", "flat: f32[N,65]"),
        "`flat` is written as f32[N,65], it is f32[N,64]",
    );
    check_error(&NET.replace("shape=[N,64]", "shape=[N,63]"), "has other elements than [N,63]");
    check_error(&NET.replace("groups=1", "group=1"), "attribute `groups` is missing");
    check_error(&NET.replace("groups=1", "groups=1 x=2"), "attribute `x` is unknown");
    check_error(&NET.replace("Reshape", "Reshap"), "unknown op `Reshap`");
    check_error(&NET.replace("(act)", "(act2)"), "`act2` is not defined above");
    check_error(&NET.replace("[1,1,1,1]", "[1,1,1,99999999999]"), "malformed");
    check_error(&NET.replace("bn: f32", "conv: f32"), "taken twice");
    check_error(&NET.replace("output y", "output ../y"), "may hold no `/`");
    for (from, to) in [("u8", "f32"), ("f32", "u8"), ("u8", "u8")] {
        let cast = format!("input x: {from}[3]\ny: {to}[3] = Cast(x) to={to}");
        check_error(&cast, &format!("casts between f32 and i32, not {from} to {to}"));
    }
    check_error("input x: f32[1,1,1,1,1,1,1,1,1]", "is not a shape");
    check_error("weight w: f32[4294967295*4294967295]", "is not a shape");
    check_error(&NET.replace("3,8,8", "3,1,1").replace("[1,1,1,1]", "[0,0,0,0]"), "does not fit");
}

#[test]
fn layers_for_text_and_audio_compose() {
    use espalier_graph::{Dim, Shape, TensorType};
    let mut g = Graph::new();
    let tokens = g.add_input("tokens", TensorType::i32(Shape(vec![Dim::N, 12.into()]))).unwrap();
    let e = g.embedding("embed", tokens, 100, 16).unwrap();
    let n = g.layer_norm("norm", e, 1e-5).unwrap();
    let a = g.attention("attention", n, n, n).unwrap();
    let wave = g.add_input("wave", TensorType::f32(Shape(vec![Dim::N, 4.into(), 50.into()]))).unwrap();
    let c = g.conv1d("conv", wave, 8, 5, 2, 2).unwrap();
    g.add_output("a", a).unwrap();
    g.add_output("c", c).unwrap();
    assert_eq!(g.ty(c).to_string(), "f32[N,8,25]");
    assert_eq!(g.ty(a).to_string(), "f32[N,12,16]");
    verify(&g, Stage::Portable).unwrap();
    assert_eq!(g.to_string().parse::<Graph>().unwrap(), g);
}

proptest::proptest! {
    #[test]
    fn parser_never_panics(cut in 0usize..700, byte in 0u8..128, junk in ".{0,40}") {
        let mut bytes = NET.as_bytes().to_vec();
        let at = cut % bytes.len();
        bytes[at] = byte;
        let _ = String::from_utf8_lossy(&bytes).parse::<Graph>();
        let _ = NET[..at].parse::<Graph>();
        let _ = format!("{}{junk}{}", &NET[..at], &NET[at..]).parse::<Graph>();
    }
}
