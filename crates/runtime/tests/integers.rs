//! Random graphs of integer ops: every instruction set and number of workers gives the bits of the reference.
//! `ESPALIER_HEAVY=1` takes many more graphs.

mod common;

use common::check_for;
use common::growing::bytes::grown;
use espalier_graph::{Bindings, DType, Graph, Op, Stage, verify};
use espalier_kernels::reference::interpret;
use espalier_runtime::{Isa, Options, Plan, lower};

#[test]
fn every_form_gives_the_bits_of_the_reference() {
    let graphs =
        if espalier_testing::heavy("3,000 random graphs of integers instead of 150") { 3_000 } else { 150 };
    let (mut inner, mut sparse, mut joined) = (0.0, 0, 0);
    for seed in 0..graphs {
        let graph = grown(seed);
        verify(&graph, Stage::Portable).unwrap_or_else(|e| panic!("{e}\n{graph}"));
        assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph, "the text form");
        check_for(&Isa::available(), &graph, 0.0);
        inner += share_of_inner(&graph) / graphs as f64;
        sparse += plan(&graph, 1).steps().filter(|step| step.kernel.contains("sparse")).count();
        let two = plan(&graph, 2);
        joined += two.steps().count() - two.supersteps();
    }
    let graphs = graphs as usize;
    assert!(sparse > graphs / 6, "only {sparse} convolutions of {graphs} graphs skip zeros");
    assert!(joined > graphs / 2, "only {joined} steps of {graphs} graphs follow without a wait");
    assert!(inner > 0.5, "only {inner} of the results of convolutions are not at the ends of their range");
}

fn plan(graph: &Graph, threads: usize) -> Plan {
    let bindings = Bindings::batch(1);
    let options = Options { isa: Isa::best(), threads, bindings };
    lower(graph, &common::tensors(graph, bindings), options).unwrap()
}

/// How many results of convolutions are neither the least nor the greatest byte.
fn share_of_inner(graph: &Graph) -> f64 {
    let bindings = Bindings::batch(1);
    let values = interpret(graph, bindings, &common::reference(&common::tensors(graph, bindings)));
    let convs = graph.nodes().iter().filter(|n| matches!(n.op, Op::QConv { to: DType::Q8(_), .. }));
    let bytes = convs.flat_map(|n| &values[graph.node_name(n)].data);
    let (inner, all) =
        bytes.fold((0, 0), |(inner, all), &q| (inner + usize::from(q > 0.0 && q < 255.0), all + 1));
    if all == 0 { 1.0 } else { inner as f64 / all as f64 }
}

#[test]
fn what_cannot_be_prepared_is_refused() {
    let text = "\
input x: f32[N,3,4,4]
weight w: s8[2,3,1,1]
weight scale: f32[2]
weight s: f32[2]
weight b: i32[2]
q: q8(0.1,3)[N,3,4,4] = Quantize(x) to=q8(0.1,3)
y: f32[N,2,4,4] = QConv(q, w, scale, b) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1 to=f32 limits=[0,255]
update scale = s
output y = y
";
    let graph: Graph = text.parse().unwrap();
    let bindings = Bindings::batch(1);
    let mut given = common::tensors(&graph, bindings);
    let options = Options { isa: Isa::available()[0], threads: 1, bindings };
    let error = lower(&graph, &given, options).map(drop).unwrap_err().to_string();
    assert!(error.contains("`scale` should be a state that never changes"), "{error}");

    let graph: Graph =
        text.replace("update scale = s\n", "").replace("q8(0.1,3)", "q8(1e10,3)").parse().unwrap();
    given.insert("scale".into(), espalier_graph::Tensor::f32(&[2], vec![1.0, 3e38]));
    let error = lower(&graph, &given, options).map(drop).unwrap_err().to_string();
    assert!(error.contains("`y`: its scales"), "{error}");
}
