//! Every network against PyTorch's, as `tests/golden/README.md` describes it: outputs in evaluation mode, gradients and
//! running statistics in training mode. `ESPALIER_HEAVY=1` runs every network with every instruction set.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::hash::{Hash, checksum, targets};
use espalier_graph::{Bindings, Graph, Role, Tensor, Weights};
use espalier_passes::{Optimizer, fold_batch_norm, portable};
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_train::networks::{NAMES, NetworkOptions, SMALL, build};
use espalier_train::step::{StepOptions, training_step};
use safetensors::SafeTensors;
use serde::Deserialize;

const FILE: &str = include_str!("../../../tests/golden/parity.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    network: String,
    classes: usize,
    channels: usize,
    size: [usize; 2],
    width: f32,
    batch: usize,
    seed: usize,
    state_dict: Option<String>,
    checksum: u64,
    tolerance: Tolerance,
    loss: f64,
    logits: Vec<Vec<f64>>,
    gradients: BTreeMap<String, Probes>,
    statistics: BTreeMap<String, Probes>,
}

#[derive(Deserialize)]
struct Tolerance {
    logits: f64,
    gradients: f64,
    statistics: f64,
}

/// Euclidean norm of a tensor, then its products with random vectors.
type Probes = Vec<f64>;

fn probes(name: &str, values: &[f32]) -> impl Iterator<Item = f64> {
    (0..4).map(move |k| {
        let hash = Hash::new(&format!("{name}.probe.{k}"));
        values.iter().enumerate().map(|(i, v)| f64::from(*v) * f64::from(hash.uniform(i, 1.0))).sum()
    })
}

fn golden() -> Vec<Case> {
    serde_json::from_str::<Golden>(FILE).unwrap().cases
}

/// Filters and matrices by fan-in; results of norms on both sides of the bends of the activations.
fn content(graph: &Graph, name: &str, shape: &[usize]) -> Vec<f32> {
    let is_normed = |layer: &str| graph.find(&format!("{layer}.running_mean")).is_some();
    let (middle, bound) = match name {
        _ if shape.len() >= 2 => (0.0, (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()),
        _ if name.ends_with("running_var") => (1.5, 0.5),
        _ if name.ends_with(".weight") => (1.0, 0.5),
        _ if name.strip_suffix(".bias").is_some_and(is_normed) => (2.0, 1.0),
        _ => (0.0, 1.0),
    };
    let hash = Hash::new(name);
    (0..shape.iter().product()).map(|i| middle + hash.uniform(i, bound)).collect()
}

impl Case {
    /// The network without Dropout, and its weights.
    fn network(&self) -> (Graph, Weights) {
        let Case { classes, channels, size, width, .. } = *self;
        let graph = build(&self.network, &NetworkOptions { classes, channels, size, width }).unwrap();
        let graph = portable(&graph).unwrap();
        let state = |s: &espalier_graph::State| {
            let value = graph.value(s.value);
            let shape = value.ty.shape.bind(Bindings::batch(1));
            (value.name.clone(), Tensor::f32(&shape, content(&graph, &value.name, &shape)))
        };
        let weights = graph.states().iter().map(state).collect();
        (graph, weights)
    }

    fn what(&self, isa: Isa) -> String {
        format!("{} x{} at {:?}, {isa}", self.network, self.width, self.size)
    }

    fn pictures(&self) -> Vec<f32> {
        let hash = Hash::new(&format!("x.{}", self.seed));
        let len = self.batch * self.channels * self.size[0] * self.size[1];
        (0..len).map(|i| hash.uniform(i, 2.0)).collect()
    }

    fn plan(&self, isa: Isa, graph: &Graph, weights: &Weights) -> Plan {
        let options = Options { isa, threads: 2, bindings: Bindings::batch(self.batch) };
        let mut plan = lower(graph, weights, options).unwrap();
        plan.input("x").copy_from_slice(&self.pictures());
        plan
    }

    fn check_outputs(&self, isa: Isa, graph: &Graph, weights: &Weights) {
        let mut plan = self.plan(isa, graph, weights);
        plan.run(&mut Pool::new(2));
        let (got, want) = (plan.output("logits"), self.logits.concat());
        assert_eq!(got.len(), want.len());
        let error: f64 = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
        let error = (error / want.iter().map(|w| w * w).sum::<f64>()).sqrt();
        assert!(error <= self.tolerance.logits, "{}: logits differ by {error:e}", self.what(isa));
    }

    fn check_step(&self, isa: Isa, graph: &Graph, weights: &Weights) {
        let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: false };
        let options = StepOptions { optimizer, weight_decay: 0.0, clip_norm: None, ema: false };
        let step = training_step(graph, &options, &|_| false).unwrap();
        let mut plan = self.plan(isa, &step, &with_zeros(&step, weights));
        plan.input("target").copy_from_slice(&targets(&format!("y.{}", self.seed), self.batch, self.classes));
        plan.input("lr").fill(0.0);
        plan.run(&mut Pool::new(2));
        let loss = f64::from(plan.output("loss")[0]);
        let close = (loss - self.loss).abs() <= self.tolerance.logits * self.loss;
        assert!(close, "{}: loss {loss}, PyTorch's {}", self.what(isa), self.loss);
        // After one step from a momentum of 0, the momentum is the gradient.
        let (states, what) = (plan.states(), self.what(isa));
        let gradient = |name: &str| &states[&format!("{name}.momentum")];
        check_probes(&what, "gradient of", &self.gradients, gradient, self.tolerance.gradients);
        check_probes(&what, "", &self.statistics, |name| &states[name], self.tolerance.statistics);
    }
}

fn with_zeros(step: &Graph, weights: &Weights) -> Weights {
    let state = |s: &espalier_graph::State| {
        let value = step.value(s.value);
        let shape = value.ty.shape.bind(Bindings::batch(1));
        let zeros = || Tensor::f32(&shape, vec![0.0; shape.iter().product()]);
        (value.name.clone(), weights.get(&value.name).cloned().unwrap_or_else(zeros))
    };
    step.states().iter().map(state).collect()
}

fn check_probes<'a>(
    what: &str,
    of: &str,
    want: &BTreeMap<String, Probes>,
    got: impl Fn(&str) -> &'a Tensor,
    tolerance: f64,
) {
    let mut norms: Vec<f64> = want.values().map(|probes| probes[0]).collect();
    norms.sort_unstable_by(f64::total_cmp);
    for (name, want) in want {
        let (norm, want) = want.split_first().unwrap();
        let norm = norm.max(median(&norms));
        assert_eq!(want.len(), 4, "probes of `{name}`");
        for (want, got) in want.iter().zip(probes(name, got(name).as_f32().unwrap())) {
            let error = (got - want).abs() / norm;
            assert!(
                error <= tolerance,
                "{what}: {of} `{name}` differs by {error:e}, allowed is {tolerance:e}"
            );
        }
    }
}

/// Of sorted numbers, at least one.
fn median(sorted: &[f64]) -> f64 {
    (sorted[sorted.len() / 2] + sorted[(sorted.len() - 1) / 2]) / 2.0
}

fn names(graph: &Graph, role: Role) -> Vec<&str> {
    let states = graph.states().iter().filter(|s| s.role == role);
    let mut names: Vec<&str> = states.map(|s| &*graph.value(s.value).name).collect();
    names.sort_unstable();
    names
}

fn check(case: &Case, isa: Isa) {
    let (graph, weights) = case.network();
    assert_eq!(names(&graph, Role::Weight), case.gradients.keys().collect::<Vec<_>>(), "{}", case.network);
    assert_eq!(
        names(&graph, Role::Statistic),
        case.statistics.keys().collect::<Vec<_>>(),
        "{}",
        case.network
    );
    let sum = weights.values().map(|t| checksum(t.as_f32().unwrap())).sum::<u64>();
    assert_eq!(sum, case.checksum, "weights of {}", case.network);
    case.check_outputs(isa, &graph, &weights);
    let mut folded_weights = weights.clone();
    let folded = fold_batch_norm(&graph, &mut folded_weights).unwrap();
    case.check_outputs(isa, &folded, &folded_weights);
    case.check_step(isa, &graph, &weights);
}

/// All cases of `network`: with the best instruction set, and with others where it takes seconds.
fn check_all(network: &str, quick: &[&str]) {
    for isa in Isa::available() {
        let is_quick = isa == Isa::best() || quick.contains(&isa.to_string().as_str());
        if is_quick || espalier_testing::heavy(&format!("{network} with {isa}")) {
            golden().iter().filter(|case| case.network == network).for_each(|case| check(case, isa));
        }
    }
}

#[test]
fn lenet_is_pytorchs() {
    check_all("lenet", &["scalar", "avx2"]);
}

#[test]
fn plain6_is_pytorchs() {
    check_all("plain6", &["scalar", "avx2"]);
}

#[test]
fn resnets_are_torchvisions() {
    ["resnet18", "resnet34", "resnet50"].iter().for_each(|name| check_all(name, &[]));
}

#[test]
fn mobilenets_are_torchvisions() {
    ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"].iter().for_each(|name| check_all(name, &[]));
}

#[test]
fn efficientnet_is_timms() {
    check_all("efficientnet_lite0", &[]);
}

#[test]
fn every_network_has_a_case_with_either_stem() {
    let cases = golden();
    for name in NAMES {
        for small in [true, false] {
            let fits = |c: &Case| c.network == *name && c.size.iter().all(|&s| s <= SMALL) == small;
            // LeNet has no stem that the size changes.
            assert!(*name == "lenet" || cases.iter().any(fits), "{name}, small: {small}");
        }
    }
}

/// The files are PyTorch's own `state_dict`s: their names and shapes are ours, and their content is what the cases use.
#[test]
fn state_dicts_load_by_name() {
    let kept = golden().into_iter().filter_map(|case| Some((case.state_dict.clone()?, case)));
    let mut files = 0;
    for (file, case) in kept {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(&file);
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let is_counter = |name: &str| name.ends_with("num_batches_tracked");
        let loaded: Weights = tensors
            .iter()
            .filter(|(name, _)| !is_counter(name))
            .map(|(name, view)| {
                assert_eq!(view.dtype(), safetensors::Dtype::F32, "{file}: {name}");
                let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                (name.to_string(), Tensor::f32(view.shape(), numbers.collect()))
            })
            .collect();
        assert_eq!(loaded, case.network().1, "{file}");
        files += 1;
    }
    assert!(files >= 2, "{files} files");
}
