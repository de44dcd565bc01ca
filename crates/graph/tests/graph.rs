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

const BYTES: &str = "\
input x: f32[N,3,8,8]
weight w: s8[4,3,1,1]
weight scale: f32[4]
weight bias: i32[4]
weight table: u8[256]
q: q8(0.1,3)[N,3,8,8] = Quantize(x) to=q8(0.1,3)
conv: q8(0.25,0)[N,4,8,8] = QConv(q, w, scale, bias) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1 to=q8(0.25,0) limits=[0,255]
act: q8(1e-9,255)[N,4,8,8] = Table(conv, table) to=q8(1e-9,255)
pool: q8(0.25,0)[N,4,1,1] = QAvgPool(conv) window=[[8,8],[1,1],[0,0,0,0],[1,1]] count_pad=true to=q8(0.25,0)
gated: q8(0.5,1)[N,4,8,8] = QMul(act, pool) to=q8(0.5,1) limits=[1,255]
sum: q8(0.5,1)[N,4,8,8] = QAdd(gated, conv) to=q8(0.5,1) limits=[0,255]
both: q8(0.5,1)[N,8,8,8] = Concat(sum, gated) axis=1
y: f32[N,8,8,8] = Dequantize(both)
output y = y
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
fn quantized_types_parse_back() {
    let graph: Graph = BYTES.parse().unwrap();
    assert_eq!(graph.to_string(), BYTES);
    verify(&graph, Stage::Portable).unwrap();
    let error = verify(&graph, Stage::Trainable).unwrap_err().to_string();
    assert!(error.contains("`q` (Quantize): the op does not belong into a Trainable graph"), "{error}");
    let open: Graph = BYTES.replace("output y = y", "output y = both").parse().unwrap();
    let error = verify(&open, Stage::Portable).unwrap_err().to_string();
    assert!(
        error.contains("`both` is q8(0.5,1)[N,8,8,8]: inputs, states and outputs are not quantized"),
        "{error}"
    );
}

#[test]
fn errors_of_quantized_types() {
    for wrong in
        ["q8(0.0,3)", "q8(-1.0,3)", "q8(NaN,3)", "q8(inf,3)", "q8(1e-13,3)", "q8(0.1,256)", "q8(0.1)", "q8"]
    {
        assert!(wrong.parse::<espalier_graph::DType>().is_err(), "{wrong}");
        check_error(
            &BYTES.replace("to=q8(0.1,3)", &format!("to={wrong}")),
            "attribute `to` has the malformed value",
        );
    }
    let replaced = |from: &str, to: &str| {
        assert!(BYTES.contains(from), "{from}");
        BYTES.replace(from, to)
    };
    check_error(
        &replaced("q: q8(0.1,3)", "q: q8(0.1,4)"),
        "`q` is written as q8(0.1,4)[N,3,8,8], it is q8(0.1,3)",
    );
    check_error(&replaced("w: s8[4,3,1,1]", "w: f32[4,3,1,1]"), "the weight is f32, it should be s8");
    check_error(&replaced("w: s8[4,3,1,1]", "w: s8[4,5,1,1]"), "x has 3 channels, the weight expects 5");
    check_error(&replaced("scale: f32[4]", "scale: f32[3]"), "the scale is f32[3], it should be f32[4]");
    check_error(&replaced("bias: i32[4]", "bias: f32[4]"), "the bias is f32[4], it should be i32[4]");
    check_error(&replaced("QConv(q, w", "QConv(x, w"), "takes q8 here, got f32");
    check_error(&replaced("groups=1 to=q8(0.25,0)", "groups=1 to=u8"), "gives q8 or f32, not u8");
    check_error(&replaced("limits=[1,255]", "limits=[9,7]"), "the limits are 9 and 7");
    check_error(&replaced("table: u8[256]", "table: u8[255]"), "the table is u8[255], it should be u8[256]");
    check_error(&replaced("Concat(sum, gated)", "Concat(sum, conv)"), "it should be q8(0.5,1)");
    check_error(&replaced("QMul(act, pool)", "QMul(pool, act)"), "b is [N,4,8,8], it should be [N,4,1,1]");
    check_error("input x: f32[3]\nq: q8(0.1,3)[3] = Quantize(x) to=q8(0.1,3)", "at least two axes");
    let wide = "input x: f32[N,7311,3,3]\nweight w: s8[1,7311,3,3]\nweight s: f32[1]\nweight b: i32[1]\n\
        q: q8(1.0,0)[N,7311,3,3] = Quantize(x) to=q8(1.0,0)\n\
        y: f32[N,1,1,1] = QConv(q, w, s, b) window=[[3,3],[1,1],[0,0,0,0],[1,1]] groups=1 to=f32 limits=[0,255]";
    check_error(wide, "a sum of 65799 products may leave i32, at most 65793 are safe");
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
        let at_byte = cut % BYTES.len();
        let _ = format!("{}{junk}{}", &BYTES[..at_byte], &BYTES[at_byte..]).parse::<Graph>();
        let _ = NET[..at].parse::<Graph>();
        let _ = format!("{}{junk}{}", &NET[..at], &NET[at..]).parse::<Graph>();
    }
}
