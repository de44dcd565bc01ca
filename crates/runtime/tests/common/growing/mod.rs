//! Graphs that grow by random nodes: of floats, or of bytes.
#![allow(dead_code)] // Each test uses a part of it.

pub(crate) mod bytes;
pub(crate) mod floats;

use espalier_graph::random::Random;
use espalier_graph::{Dim, Graph, GraphError, Op, Shape, TensorType, ValueId};

pub(crate) type Made = Result<ValueId, GraphError>;

/// A graph on its way.
pub(crate) struct Growing {
    pub(crate) graph: Graph,
    pub(crate) random: Random,
    /// What new nodes may read.
    pub(crate) values: Vec<ValueId>,
}

impl Growing {
    /// One picture `x` of up to 9 x 9 pixels, with one of these numbers of channels.
    pub(crate) fn new(seed: u64, channels: &[usize]) -> Self {
        let mut random = Random::new(seed, 0);
        let mut graph = Graph::new();
        let sizes = [channels[random.below(channels.len())], 1 + random.below(9), 1 + random.below(9)];
        let x = graph.add_input("x", TensorType::f32(Shape::batched(&sizes))).unwrap();
        Growing { graph, random, values: vec![x] }
    }

    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random.below(list.len())]
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.random.below(2) == 0
    }

    /// Mostly one of the last values, so that chains grow; sometimes any, so that they fork and join.
    pub(crate) fn value(&mut self) -> ValueId {
        let n = self.values.len();
        let from = if self.coin() { n - 1 } else { self.random.below(n) };
        self.values[from]
    }

    /// Sizes without the batch.
    pub(crate) fn sizes(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).shape.0[1..].iter().map(|d| d.known().expect("only the batch is open")).collect()
    }

    /// Broadcasting `[N]` against `[N,1]` would make `[N,N]`.
    fn only_the_batch_is_open(&self, id: ValueId) -> bool {
        let dims = &self.graph.ty(id).shape.0;
        dims[0] == Dim::N && dims[1..].iter().all(|d| d.known().is_some())
    }

    pub(crate) fn fresh(&self) -> String {
        format!("v{}", self.graph.values().len())
    }

    pub(crate) fn add(&mut self, op: Op, inputs: &[ValueId]) -> Made {
        let name = self.fresh();
        self.graph.add(&name, op, inputs)
    }

    /// Tries random nodes behind random values until `nodes` of them fit.
    pub(crate) fn grow(&mut self, nodes: usize, node: fn(&mut Self, ValueId) -> Made) {
        let mut grown = 0;
        while grown < nodes {
            let x = self.value();
            if let Ok(y) = node(self, x)
                && self.only_the_batch_is_open(y)
            {
                self.values.push(y);
                grown += 1;
            }
        }
    }
}
