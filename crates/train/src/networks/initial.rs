//! The weights that training begins with.

use espalier_graph::random::Random;
use espalier_graph::{BinaryFn, Bindings, Graph, Node, Op, Role, State, Tensor, ValueId, Weights};

use crate::layers::Head;

/// How a state is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filler {
    Constant(f32),
    /// Of this standard deviation.
    Normal(f32),
    /// Up to this bound, on both sides of 0.
    Uniform(f32),
}

/// Random weights for every state of `graph`. Filters are normal with variance `2 / fan_out` (He et al. 2015) as in
/// torchvision; matrices uniform within `1 / sqrt(fan_in)` as in PyTorch, but normal with deviation 0.01 in mobile
/// networks, those with grouped convolutions, as in torchvision's MobileNets; tables normal; norms begin as the identity;
/// biases and optimizer states are zero. A tensor depends only on `seed`, its name and its use, not on the order.
pub fn initial_weights(graph: &Graph, seed: u64) -> Weights {
    let is_grouped = |node: &Node| matches!(node.op, Op::Conv { groups, .. } if groups > 1);
    let mobile = graph.nodes().iter().any(is_grouped);
    let head = Head::of(graph).map(|head| head.states).unwrap_or_default();
    let fill = |state: &State| {
        let value = graph.value(state.value);
        let mut random = Random::new(seed, fnv1a(&value.name));
        let shape = value.ty.shape.bind(Bindings::batch(1));
        let count = shape.iter().product();
        let filler = filler(graph, state, mobile, head.contains(&graph.value(state.value).name));
        (value.name.clone(), Tensor::f32(&shape, (0..count).map(|_| filler.draw(&mut random)).collect()))
    };
    graph.states().iter().map(fill).collect()
}

impl Filler {
    fn draw(self, random: &mut Random) -> f32 {
        match self {
            Filler::Constant(value) => value,
            Filler::Normal(deviation) => deviation * random.normal(),
            Filler::Uniform(bound) => random.range(-bound, bound),
        }
    }
}

fn filler(graph: &Graph, state: &State, mobile: bool, head: bool) -> Filler {
    let zero = Filler::Constant(0.0);
    if state.role == Role::Optimizer {
        return zero;
    }
    let reader = graph.nodes().iter().find_map(|node| {
        let position = node.inputs.iter().position(|&id| id == state.value)?;
        Some((node, position))
    });
    reader.map_or(zero, |(node, position)| by_use(graph, node, position, state.value, mobile, head))
}

/// The filler of `value`, input number `position` of `node`; `head` says that it is the head's.
fn by_use(graph: &Graph, node: &Node, position: usize, value: ValueId, mobile: bool, head: bool) -> Filler {
    let shape = graph.ty(value).shape.bind(Bindings::batch(1));
    match (&node.op, position) {
        // Filters that give logits do what a matrix does.
        (Op::Conv { .. }, 1) if head => {
            let fan_in = shape[1] * shape[2] * shape[3];
            Filler::Uniform(1.0 / (fan_in as f32).sqrt())
        }
        (Op::Conv { .. } | Op::ConvInputGrad { .. }, 1) => {
            let fan_out = shape[0] * shape[2] * shape[3];
            Filler::Normal((2.0 / fan_out as f32).sqrt())
        }
        (Op::MatMul { .. }, 1) if mobile => Filler::Normal(0.01),
        (Op::MatMul { trans_b, .. }, 1) => {
            let fan_in = shape[shape.len() - if *trans_b { 1 } else { 2 }];
            Filler::Uniform(1.0 / (fan_in as f32).sqrt())
        }
        (Op::Gather { .. }, 0) => Filler::Normal(1.0),
        // gamma and the running variance
        (Op::BatchNorm { .. } | Op::BatchNormTraining { .. }, 1 | 4) | (Op::LayerNorm { .. }, 1) => {
            Filler::Constant(1.0)
        }
        (Op::Binary { f: BinaryFn::Mul }, _) => Filler::Constant(1.0),
        _ => Filler::Constant(0.0),
    }
}

/// The FNV-1a hash of a name: its stream of random numbers.
fn fnv1a(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::{NetworkOptions, build};

    fn weights(name: &str, width: f32, seed: u64) -> Weights {
        let o = NetworkOptions { classes: 10, channels: 3, size: [32, 32], width };
        initial_weights(&build(name, &o).unwrap(), seed)
    }

    fn moments(t: &Tensor) -> (f32, f32) {
        let x = t.as_f32().unwrap();
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        (mean, (x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt())
    }

    /// Each name with the deviation that it should have; 0 mean.
    fn check_random(network: &str, want: &[(&str, f32)]) {
        let w = weights(network, 1.0, 1);
        for (name, want) in want {
            let (mean, deviation) = moments(&w[*name]);
            let close = mean.abs() <= 0.03 * want && (deviation - want).abs() <= 0.03 * want;
            assert!(close, "{network} {name}: {mean}, {deviation}, should be {want}");
        }
    }

    fn check_constant(network: &str, want: &[(&str, f32)]) {
        let w = weights(network, 1.0, 1);
        for (name, want) in want {
            assert!(w[*name].as_f32().unwrap().iter().all(|v| v == want), "{network} {name}");
        }
    }

    #[test]
    fn distributions_are_those_of_the_libraries() {
        let he = |fan_out: f32| (2.0 / fan_out).sqrt();
        check_random(
            "resnet18",
            &[
                ("layer4.1.conv2.weight", he(512.0 * 9.0)),
                ("layer2.0.downsample.0.weight", he(128.0)),
                ("fc.weight", (1.0f32 / (3.0 * 512.0)).sqrt()),
            ],
        );
        check_random(
            "mobilenet_v3_large",
            &[
                ("features.15.block.1.0.weight", he(960.0 * 25.0)),
                ("features.15.block.2.fc1.weight", he(240.0)),
                ("features.15.block.2.fc2.weight", he(960.0)),
                ("classifier.0.weight", 0.01),
                ("classifier.3.weight", 0.01),
            ],
        );
        check_random(
            "efficientnet_lite0",
            &[
                ("conv_head.weight", he(1280.0)),
                ("blocks.5.1.conv_dw.weight", he(1152.0 * 25.0)),
                ("classifier.weight", 0.01),
            ],
        );
        let norm = |name: &'static str| {
            ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{name}.{part}"))
        };
        for (network, name) in [("resnet18", "bn1"), ("mobilenet_v3_large", "features.0.1")] {
            let names = norm(name);
            let want: Vec<(&str, f32)> = names.iter().map(String::as_str).zip([1.0, 0.0, 0.0, 1.0]).collect();
            check_constant(network, &want);
        }
        check_constant("resnet18", &[("fc.bias", 0.0)]);
        check_constant("mobilenet_v3_large", &[("features.15.block.2.fc2.bias", 0.0)]);
        let bound = 1.0 / 512.0f32.sqrt();
        assert!(weights("resnet18", 1.0, 1)["fc.weight"].as_f32().unwrap().iter().all(|v| v.abs() <= bound));
    }

    #[test]
    fn a_tensor_depends_on_seed_and_name() {
        let a = weights("resnet18", 0.25, 1);
        assert_eq!(a, weights("resnet18", 0.25, 1));
        assert_eq!(a["conv1.weight"], weights("resnet34", 0.25, 1)["conv1.weight"]);
        assert_ne!(a["conv1.weight"], weights("resnet18", 0.25, 2)["conv1.weight"]);
        assert_ne!(a["layer1.0.conv1.weight"], a["layer1.0.conv2.weight"]);
    }
}
