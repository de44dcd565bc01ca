//! Our networks against PyTorch's: names and shapes of all states, and multiply-adds, which tell strides and padding.

use espalier_graph::{Graph, Role, Stage, verify};
use espalier_train::networks::{NAMES, NetworkOptions, build, cost};

const EXPECTED: &str = include_str!("data/networks.txt");

fn states(graph: &Graph) -> Vec<String> {
    let line = |s: &espalier_graph::State| {
        let value = graph.value(s.value);
        let sizes = value.ty.shape.0.iter().map(|dim| format!(" {dim}"));
        format!("{}{}", value.name, sizes.collect::<String>())
    };
    let mut lines: Vec<String> = graph.states().iter().map(line).collect();
    lines.sort();
    lines
}

/// `header` is `name classes channels size width multiply-adds`; `want` are names with sizes.
fn check(header: &str, mut want: Vec<&str>) {
    let fields: Vec<&str> = header.split(' ').collect();
    let number = |i: usize| fields[i].parse::<usize>().unwrap();
    let width = fields[4].parse().unwrap();
    let o = NetworkOptions { classes: number(1), channels: number(2), size: [number(3); 2], width };
    let graph = build(fields[0], &o).unwrap();
    want.sort_unstable();
    assert_eq!(states(&graph), want, "{header}");
    assert_eq!(cost(&graph).macs, number(5), "{header}");
    let logits = graph.output("logits").unwrap();
    assert_eq!(graph.ty(logits).to_string(), format!("f32[N,{}]", o.classes), "{header}");
}

#[test]
fn states_and_multiply_adds_are_those_of_pytorch() {
    let networks: Vec<&str> = EXPECTED.split("network ").skip(1).collect();
    for network in &networks {
        let mut lines = network.lines();
        check(lines.next().unwrap(), lines.collect());
    }
    for name in NAMES {
        assert!(networks.iter().any(|n| n.starts_with(name)), "`{name}` is not compared with PyTorch");
    }
}

const SMALL: NetworkOptions = NetworkOptions { classes: 2, channels: 1, size: [17, 23], width: 1.0 };

#[test]
fn all_sizes_and_widths_build() {
    for name in NAMES {
        for size in [[16, 16], [17, 23], [64, 65], [128, 96]] {
            for width in [0.01, 0.3, 1.0, 2.0] {
                let o = NetworkOptions { size, width, ..SMALL };
                let graph = build(name, &o).unwrap_or_else(|e| panic!("{name} {o:?}: {e}"));
                verify(&graph, Stage::Trainable).unwrap();
                assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph, "{name} {o:?}");
            }
        }
    }
}

#[test]
fn width_scales_to_multiples_of_eight() {
    let half = build("resnet50", &NetworkOptions { width: 0.3, ..SMALL }).unwrap();
    let ty = |name: &str| half.ty(half.find(name).unwrap()).to_string();
    assert_eq!(ty("conv1.weight"), "f32[16,1,3,3]");
    assert_eq!(ty("layer4.2.conv3.weight"), "f32[608,152,1,1]");
    assert_eq!(ty("fc.weight"), "f32[2,608]");
}

#[test]
fn parameters_are_weights_only() {
    let graph = build("resnet18", &NetworkOptions { classes: 1000, channels: 3, size: [224; 2], width: 1.0 })
        .unwrap();
    assert_eq!(cost(&graph).parameters, 11_689_512);
    assert!(graph.states().iter().any(|s| s.role == Role::Statistic));
}

#[test]
fn impossible_options_are_named() {
    let cases = [
        ("alexnet", SMALL, "unknown network `alexnet`: there are lenet, plain6"),
        ("lenet", NetworkOptions { size: [28, 15], ..SMALL }, "pictures of 28x15 pixels: 16 to 16384"),
        ("plain6", NetworkOptions { classes: 0, ..SMALL }, "`plain6` with 0 classes: at least 1"),
        ("plain6", NetworkOptions { channels: 0, ..SMALL }, "0 channels"),
        ("plain6", NetworkOptions { width: f32::NAN, ..SMALL }, "width NaN"),
        ("plain6", NetworkOptions { width: 0.0, ..SMALL }, "width 0"),
    ];
    for (name, o, want) in cases {
        let error = build(name, &o).expect_err(want).to_string();
        assert!(error.contains(want), "`{error}` should say `{want}`");
    }
}
