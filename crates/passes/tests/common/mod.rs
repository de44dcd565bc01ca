//! Graphs as text, and what the f64 reference computes of them.
#![allow(dead_code)] // Each test uses a part of it.

use std::collections::BTreeMap;

use espalier_graph::random::Random;
use espalier_graph::{Bindings, Graph, Weights};
use espalier_kernels::reference::{RefTensor, interpret};

pub(crate) const BATCH: usize = 2;

pub(crate) fn parse(text: &str) -> Graph {
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

pub(crate) fn sizes(graph: &Graph, name: &str) -> Vec<usize> {
    let id = graph.find(name).unwrap_or_else(|| panic!("no `{name}`"));
    graph.ty(id).shape.bind(Bindings::batch(BATCH))
}

/// All values of a run on random input between -2 and 2.
pub(crate) fn values(graph: &Graph, weights: &Weights) -> BTreeMap<String, RefTensor> {
    let mut given: BTreeMap<String, RefTensor> =
        weights.iter().map(|(name, tensor)| (name.clone(), tensor.into())).collect();
    for (&id, stream) in graph.inputs().iter().zip(100..) {
        let (name, mut random) = (graph.value(id).name.clone(), Random::new(2, stream));
        let x = RefTensor::from_fn(&sizes(graph, &name), |_| f64::from(random.uniform() * 4.0 - 2.0));
        given.insert(name, x);
    }
    interpret(graph, Bindings::batch(BATCH), &given)
}
