//! Pruning of neurons: which channels depend on each other, and a network without some of them.
//!
//! Channels are followed through the graph one by one. Where an op needs two channels to be the same one (a residual sum,
//! what a depthwise convolution reads and gives, a batch normalisation and its states) they become one *unit*, which stays or
//! goes as a whole. Thus concatenations and slices need no special care: their channels are those of their inputs, in another
//! order. This finds what DepGraph (Fang et al. 2023, "DepGraph: towards any structural pruning") calls groups. What an op
//! without a rule touches stays, and so do the graph's inputs and outputs.

mod remove;
mod trace;

use std::collections::BTreeMap;

use espalier_graph::{Graph, ValueId};

use trace::Trace;

/// The units of a graph that can go, and where they lie in its states.
#[derive(Clone, Debug)]
pub struct Channels {
    trace: Trace,
    /// What can go.
    pub units: Vec<Unit>,
    /// Numbers of units that lie side by side: pruning compares them, and leaves some of each.
    pub groups: Vec<Vec<usize>>,
}

/// Channels that stay or go together.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Slices of states that make them: those with the outputs of layers, and the states of norms.
    pub makers: Vec<Slice>,
    /// Slices of states that multiply them: the inputs of layers.
    pub readers: Vec<Slice>,
    /// Identifies it in the trace.
    root: u32,
}

/// All elements of a state at one place of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slice {
    /// The state.
    pub state: ValueId,
    /// The axis.
    pub axis: usize,
    /// The place.
    pub index: usize,
}

impl Slice {
    /// Where its elements lie in a state with these sizes.
    pub fn elements(self, sizes: &[usize]) -> impl Iterator<Item = usize> {
        let inner: usize = sizes[self.axis + 1..].iter().product();
        let (outer, step) = (sizes[..self.axis].iter().product::<usize>(), sizes[self.axis] * inner);
        (0..outer).flat_map(move |o| o * step + self.index * inner..o * step + (self.index + 1) * inner)
    }
}

impl Channels {
    /// Follows the channels of `graph`, of floats and without what only training has.
    pub fn of(graph: &Graph) -> Channels {
        let mut trace = Trace::of(graph);
        let mut units: BTreeMap<u32, Unit> = BTreeMap::new();
        let mut sides: Vec<Vec<u32>> = Vec::new();
        for (state, axis, makes, labels) in trace.axes.clone() {
            let roots: Vec<u32> = labels.iter().map(|&label| trace.root(label)).collect();
            for (index, &root) in roots.iter().enumerate().filter(|(_, root)| !trace.is_fixed(**root)) {
                let new = || Unit { makers: Vec::new(), readers: Vec::new(), root };
                let unit = units.entry(root).or_insert_with(new);
                let slices = if makes { &mut unit.makers } else { &mut unit.readers };
                slices.push(Slice { state, axis, index });
            }
            sides.push(roots);
        }
        // Of a channel that nothing makes, or nothing reads, there is nothing to learn.
        units.retain(|_, unit| !unit.makers.is_empty() && !unit.readers.is_empty());
        let numbers: BTreeMap<u32, usize> = units.keys().copied().zip(0..).collect();
        let mut channels = Channels { trace, units: units.into_values().collect(), groups: Vec::new() };
        channels.groups = groups(&sides, &numbers);
        channels
    }

    /// Why channels of the value called `name` stay; `None` where they can go, or there is no such value.
    pub fn reason(&self, graph: &Graph, name: &str) -> Option<&str> {
        self.trace.reason(graph.find(name)?)
    }
}

/// Units that lie along one axis of a state belong together, and so do those of two axes that share one.
fn groups(sides: &[Vec<u32>], numbers: &BTreeMap<u32, usize>) -> Vec<Vec<usize>> {
    let mut group: Vec<usize> = (0..numbers.len()).collect();
    let find = |group: &Vec<usize>, mut at: usize| {
        while group[at] != at {
            at = group[at];
        }
        at
    };
    for side in sides {
        let mut units = side.iter().filter_map(|root| numbers.get(root).copied());
        let Some(first) = units.next() else { continue };
        for unit in units {
            let (a, b) = (find(&group, first), find(&group, unit));
            group[a.max(b)] = a.min(b);
        }
    }
    let mut all: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    (0..group.len()).for_each(|unit| all.entry(find(&group, unit)).or_default().push(unit));
    all.into_values().collect()
}
