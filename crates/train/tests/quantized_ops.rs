//! Op by op over whole networks: what stands between bytes, computed with floats and rounded, against the op of integers
//! that takes its place, both by plans. Given equal inputs they agree within one step of the result.

use std::collections::{BTreeMap, HashMap};

use espalier_graph::random::Random;
use espalier_graph::{Bindings, Graph, Node, Op, Quant, Shape, Source, Tensor, TensorType, ValueId, Weights};
use espalier_passes::integers::ByteWeights;
use espalier_passes::quantize::{Quantized, Ranges, Settings, observed, quantize};
use espalier_passes::{fold_batch_norm, integers, portable};
use espalier_runtime::{Isa, Options, Pool, lower};
use espalier_train::best::model_states;
use espalier_train::networks::{self, NetworkOptions};

const BATCH: usize = 2;

fn run(graph: &Graph, weights: &Weights, inputs: &BTreeMap<String, Vec<f32>>) -> BTreeMap<String, Vec<f32>> {
    let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(BATCH) };
    let mut plan = lower(graph, weights, options).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    inputs.iter().for_each(|(name, values)| plan.input(name).copy_from_slice(values));
    plan.run(&mut Pool::new(1));
    graph.outputs().iter().map(|(name, _)| (name.clone(), plan.output(name).to_vec())).collect()
}

fn random(count: usize, stream: u64, [lo, hi]: [f32; 2]) -> Vec<f32> {
    let mut random = Random::new(5, stream);
    (0..count).map(|_| random.range(lo, hi)).collect()
}

/// A network with its initial weights, its batch normalisation folded, quantized by what flows at random input.
fn quantized(name: &str) -> Quantized {
    let options = NetworkOptions { classes: 5, channels: 3, size: [32; 2], width: 0.25 };
    let network = networks::build(name, &options).unwrap();
    let graph = portable(&network).unwrap();
    let mut weights = model_states(&graph, &networks::initial_weights(&network, 1));
    // Statistics that are not those of the beginning, so that folding has something to fold.
    for (stream, (name, tensor)) in weights.iter_mut().enumerate() {
        let range = match name {
            name if name.ends_with("running_mean") => [-0.2, 0.2],
            name if name.ends_with("running_var") => [0.5, 2.0],
            _ => continue,
        };
        *tensor = Tensor::f32(&tensor.shape, random(tensor.data.len(), stream as u64, range));
    }
    let graph = fold_batch_norm(&graph, &mut weights).unwrap();
    let mut watched = graph.clone();
    let names = observed(&graph);
    for (i, name) in names.iter().enumerate() {
        watched.add_output(&format!("seen.{i}"), graph.find(name).unwrap()).unwrap();
    }
    let x = random(BATCH * 3 * 32 * 32, 0, [-2.0, 2.0]);
    let seen = run(&watched, &weights, &BTreeMap::from([(graph.value(graph.inputs()[0]).name.clone(), x)]));
    let range = |i: usize| {
        seen[&format!("seen.{i}")].iter().fold([f32::MAX, f32::MIN], |[lo, hi], &v| [lo.min(v), hi.max(v)])
    };
    let ranges: Ranges = names.iter().enumerate().map(|(i, name)| (name.clone(), range(i))).collect();
    quantize(&graph, &weights, &ranges, &Settings::default()).unwrap()
}

/// The part of a graph that makes one value, cut off at the bytes that it reads.
struct Part<'a> {
    old: &'a Graph,
    new: Graph,
    made: HashMap<ValueId, ValueId>,
    /// What the inputs stand for.
    inputs: Vec<(String, Quant)>,
}

impl Part<'_> {
    fn take(&mut self, id: ValueId) -> ValueId {
        if let Some(&made) = self.made.get(&id) {
            return made;
        }
        let (value, name) = (self.old.value(id), self.old.value(id).name.clone());
        let made = match (value.source, self.old.producer(id).cloned()) {
            (Source::State(state), _) => {
                self.new.add_state(&name, self.old.states()[state].role, value.ty.clone()).unwrap()
            }
            (_, Some(Node { op: Op::Dequantize, inputs, .. })) => {
                let to = self.old.ty(inputs[0]).dtype.quant().unwrap();
                let input = format!("{name}.input");
                let x = self.new.add_input(&input, TensorType::f32(value.ty.shape.clone())).unwrap();
                self.inputs.push((input, to));
                let bytes = self.new.add(&format!("{name}.bytes"), Op::Quantize { to }, &[x]).unwrap();
                self.new.add(&name, Op::Dequantize, &[bytes]).unwrap()
            }
            (_, Some(node)) => {
                let inputs: Vec<ValueId> = node.inputs.iter().map(|&id| self.take(id)).collect();
                self.new.add(&name, node.op, &inputs).unwrap()
            }
            (_, None) => self.new.add_input(&name, value.ty.clone()).unwrap(),
        };
        self.made.insert(id, made);
        made
    }
}

/// The contents of the states that `graph` has.
fn of(graph: &Graph, q: &Quantized) -> (Weights, Weights, ByteWeights) {
    let (mut floats, mut weights, mut bytes) = (Weights::new(), Weights::new(), ByteWeights::new());
    for state in graph.states() {
        let name = &graph.value(state.value).name;
        match q.bytes.get(name) {
            Some(weight) => {
                let Shape(dims) = &graph.ty(state.value).shape;
                let shape: Vec<usize> = dims.iter().map(|d| d.factor).collect();
                floats.insert(name.clone(), Tensor::f32(&shape, weight.floats(&shape)));
                bytes.insert(name.clone(), weight.clone());
            }
            None => {
                floats.insert(name.clone(), q.weights[name].clone());
                weights.insert(name.clone(), q.weights[name].clone());
            }
        }
    }
    (floats, weights, bytes)
}

fn check(name: &str, least: usize) {
    let q = quantized(name);
    let mut ops = BTreeMap::<&str, usize>::new();
    let roundings: Vec<&Node> =
        q.graph.nodes().iter().filter(|node| matches!(node.op, Op::Quantize { .. })).collect();
    for (stream, rounding) in roundings.iter().enumerate() {
        let mut part = Part { old: &q.graph, new: Graph::new(), made: HashMap::new(), inputs: Vec::new() };
        let y = part.take(rounding.outputs[0]);
        let Part { mut new, inputs: quants, .. } = part;
        let to = new.ty(y).dtype.quant().unwrap();
        let float = new.add("result", Op::Dequantize, &[y]).unwrap();
        new.add_output("y", float).unwrap();
        let inputs: BTreeMap<String, Vec<f32>> = new
            .inputs()
            .iter()
            .map(|&id| {
                let name = new.value(id).name.clone();
                let range = quants
                    .iter()
                    .find(|(input, _)| *input == name)
                    .map_or([-2.0, 2.0], |(_, quant)| [quant.dequantize(0), quant.dequantize(255)]);
                let count = new.ty(id).shape.bind(Bindings::batch(BATCH)).iter().product();
                (name, random(count, 1000 + stream as u64, range))
            })
            .collect();
        let (floats, mut weights, bytes) = of(&new, &q);
        let made = integers(&new, &mut weights, &bytes).unwrap();
        made.nodes().iter().for_each(|node| *ops.entry(node.op.name()).or_default() += 1);
        let (want, got) = (run(&new, &floats, &inputs), run(&made, &weights, &inputs));
        for (want, got) in want["y"].iter().zip(&got["y"]) {
            let off = (want - got).abs();
            assert!(
                off <= 1.001 * to.scale(),
                "{}: {got}, not {want}, by\n{made}",
                q.graph.node_name(rounding)
            );
        }
    }
    let made: usize =
        ops.iter().filter(|(op, _)| op.starts_with('Q') && **op != "Quantize").map(|(_, n)| n).sum();
    assert!(made >= least, "{name}: only {ops:?}");
    assert!(!ops.contains_key("Conv") && !ops.contains_key("Binary"), "{name}: {ops:?}");
}

#[test]
fn residual_networks() {
    check("resnet18", 19);
}

#[test]
fn depthwise_networks() {
    check("mobilenet_v2", 52);
}

#[test]
fn gates_and_hard_swish() {
    check("mobilenet_v3_small", 60);
}

#[test]
fn small_networks() {
    check("lenet", 3);
    check("plain6", 6);
}
