//! Ten steps of three networks against PyTorch's, as `tests/golden/README.md` describes them: everything together, from
//! the networks by name to the last update. `ESPALIER_HEAVY=1` runs every network with every instruction set.

mod common;

use std::collections::BTreeMap;

use common::hash::{Hash, checksum, targets};
use espalier_graph::{Bindings, Graph, Role, Tensor, Weights};
use espalier_passes::{Optimizer, portable};
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_train::networks::{NetworkOptions, build};
use espalier_train::step::{StepOptions, training_step};
use serde::Deserialize;

const FILE: &str = include_str!("../../../tests/golden/training.json");

#[derive(Deserialize)]
struct Golden {
    steps: usize,
    momentum: f32,
    nesterov: bool,
    decay: f32,
    hash: Samples,
    networks: BTreeMap<String, Network>,
}

#[derive(Deserialize)]
struct Samples {
    name: String,
    bits: Vec<u32>,
    below_10: Vec<u32>,
    uniform_bound: f64,
    uniform_bits: Vec<u32>,
    pictures_checksum: u64,
}

#[derive(Deserialize)]
struct Network {
    batch: usize,
    size: usize,
    classes: usize,
    bias: f32,
    lr: f32,
    weights_checksum: u64,
    losses: Losses,
    spread_max: f64,
    gradient_norms: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Losses {
    contiguous: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(FILE).unwrap()
}

fn parameter(name: &str, shape: &[usize], bias: f32) -> Vec<f32> {
    let len = shape.iter().product();
    if shape.len() < 2 {
        return vec![if name.ends_with(".bias") { bias } else { 1.0 }; len];
    }
    let fan_in: usize = shape[1..].iter().product();
    let bound = (if shape.len() == 4 { 6.0 } else { 1.0 } / fan_in as f64).sqrt();
    let hash = Hash::new(name);
    (0..len).map(|i| hash.uniform(i, bound)).collect()
}

fn pictures(step: usize, n: usize, size: usize) -> Vec<f32> {
    let cells = [1, 8, 32].map(|k| (k, Hash::new(&format!("x.{step}.{k}"))));
    let pixel = |i: usize| {
        let (plane, h, w) = (i / (size * size), i / size % size, i % size);
        let noise = |(k, hash): &(usize, Hash)| {
            let side = size / k;
            f64::from(hash.uniform((plane * side + h / k) * side + w / k, 1.0))
        };
        cells.iter().map(noise).sum::<f64>() as f32
    };
    (0..n * 3 * size * size).map(pixel).collect()
}

#[test]
fn the_hash_is_that_of_the_file() {
    let want = golden().hash;
    let hash = Hash::new(&want.name);
    for i in 0..want.bits.len() {
        assert_eq!(hash.bits(i), want.bits[i]);
        assert_eq!(hash.below(i, 10), want.below_10[i]);
        assert_eq!(hash.uniform(i, want.uniform_bound).to_bits(), want.uniform_bits[i]);
    }
    assert_eq!(checksum(&pictures(0, 2, 32)), want.pictures_checksum);
}

/// The training step of the network `name`, without Dropout, which `portable` removes.
fn step(name: &str, network: &Network, golden: &Golden) -> Graph {
    let options =
        NetworkOptions { classes: network.classes, channels: 3, size: [network.size; 2], width: 1.0 };
    let graph = portable(&build(name, &options).unwrap()).unwrap();
    let options = StepOptions {
        optimizer: Optimizer::Sgd { momentum: golden.momentum, nesterov: golden.nesterov },
        weight_decay: golden.decay,
        clip_norm: None,
        ema: false,
    };
    training_step(&graph, &options, &|_| false).unwrap()
}

fn initial(step: &Graph, network: &Network) -> Weights {
    let tensor = |s: &espalier_graph::State| {
        let value = step.value(s.value);
        let shape = value.ty.shape.bind(Bindings::batch(1));
        let data = match s.role {
            Role::Weight => parameter(&value.name, &shape, network.bias),
            Role::Statistic if value.name.ends_with("running_var") => vec![1.0; shape.iter().product()],
            Role::Statistic | Role::Optimizer => vec![0.0; shape.iter().product()],
        };
        (value.name.clone(), Tensor::f32(&shape, data))
    };
    step.states().iter().map(tensor).collect()
}

fn weights_checksum(step: &Graph, states: &Weights) -> u64 {
    let weights = step.states().iter().filter(|s| s.role == Role::Weight);
    weights.map(|s| checksum(states[&step.value(s.value).name].as_f32().unwrap())).sum()
}

fn check(name: &str, isa: Isa) {
    let golden = golden();
    let network = &golden.networks[name];
    let step = step(name, network, &golden);
    let initial = initial(&step, network);
    assert_eq!(weights_checksum(&step, &initial), network.weights_checksum, "weights of {name}");
    let options = Options { isa, threads: 2, bindings: Bindings::batch(network.batch) };
    let mut plan = lower(&step, &initial, options).unwrap();
    let mut pool = Pool::new(options.threads);
    let mut losses = Vec::new();
    for number in 0..golden.steps {
        plan.input("x").copy_from_slice(&pictures(number, network.batch, network.size));
        plan.input("target").copy_from_slice(&targets(
            &format!("y.{number}"),
            network.batch,
            network.classes,
        ));
        plan.input("lr").fill(network.lr);
        plan.run(&mut pool);
        losses.push(f64::from(plan.output("loss")[0]));
        if number == 0 {
            check_gradients(
                &format!("{name}, {isa}"),
                &plan,
                &initial,
                golden.decay,
                &network.gradient_norms,
            );
        }
    }
    check_losses(&format!("{name}, {isa}"), &losses, network);
}

/// After one step from a momentum of 0, the momentum is the gradient and the decay.
fn check_gradients(what: &str, plan: &Plan, initial: &Weights, decay: f32, want: &BTreeMap<String, f64>) {
    let states = plan.states();
    let largest = want.values().fold(0.0, |m: f64, &v| m.max(v));
    for (name, want) in want {
        let (weight, momentum) = (&initial[name], &states[&format!("{name}.momentum")]);
        let decay = if weight.shape.len() > 1 { f64::from(decay) } else { 0.0 };
        let pairs = weight.as_f32().unwrap().iter().zip(momentum.as_f32().unwrap());
        let norm = pairs.map(|(&w, &m)| (f64::from(m) - decay * f64::from(w)).powi(2)).sum::<f64>().sqrt();
        let close = (norm - want).abs() <= 3e-3 * want + 1e-6 * largest;
        assert!(close, "{what}: the gradient of `{name}` has norm {norm}, PyTorch's {want}");
    }
}

fn check_losses(what: &str, losses: &[f64], network: &Network) {
    let want = &network.losses.contiguous;
    assert_eq!(losses.len(), want.len());
    for (s, (got, want)) in losses.iter().zip(want).enumerate() {
        let early = if s < 3 { 1e-4 * want } else { f64::INFINITY };
        let tolerance = early.min(2.0 * network.spread_max);
        assert!(
            (got - want).abs() <= tolerance,
            "{what}: loss {got} in step {s}, PyTorch's {want} (all: {losses:?})"
        );
    }
}

/// With the best instruction set, and with others where it takes seconds.
fn check_all(name: &str, quick: &[&str]) {
    for isa in Isa::available() {
        let is_quick = isa == Isa::best() || quick.contains(&isa.to_string().as_str());
        if is_quick || espalier_testing::heavy(&format!("{name} with {isa}")) {
            check(name, isa);
        }
    }
}

#[test]
fn plain6_learns_as_in_pytorch() {
    check_all("plain6", &["avx2"]);
}

#[test]
fn resnet18_learns_as_in_pytorch() {
    check_all("resnet18", &[]);
}

#[test]
fn mobilenet_v2_learns_as_in_pytorch() {
    check_all("mobilenet_v2", &[]);
}
