//! Bytes whose channels only change their place: what Concat, Slice and the shuffle of ShuffleNet (Reshape, Transpose,
//! Reshape) do one after another becomes one step that takes each channel from where it was computed. Results that nothing
//! else reads are never written.

use std::collections::HashMap;

use espalier_graph::{Graph, Node, Op, Shape, Source, ValueId};
use espalier_kernels::int8::Pick;

/// A tensor that channels are taken from: what is read, and the table that its bytes go through.
pub type Origin = (ValueId, Option<ValueId>);

/// What each node does to channels of bytes.
pub(crate) struct Movers {
    of: Vec<Mover>,
    /// Where the channels of results come from that are never written.
    views: HashMap<ValueId, Vec<(Origin, usize)>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mover {
    None,
    Concat,
    /// From this channel on.
    Slice(usize),
    /// The last Reshape of a shuffle of so many groups.
    Shuffle(usize),
    /// The first two nodes of a shuffle.
    Within,
}

impl Movers {
    /// `readers` are the numbers of the nodes that read each value, beyond the last one for outputs.
    pub(crate) fn new(graph: &Graph, readers: &[Vec<usize>]) -> Movers {
        let mut of = vec![Mover::None; graph.nodes().len()];
        for (n, node) in graph.nodes().iter().enumerate() {
            if graph.ty(node.outputs[0]).dtype.quant().is_none() {
                continue;
            }
            match node.op {
                Op::Concat { axis: 1 } => of[n] = Mover::Concat,
                Op::Slice { axis: 1, start, .. } => of[n] = Mover::Slice(start),
                Op::Reshape { .. } => {
                    if let Some((groups, within)) = shuffle(graph, readers, node) {
                        within.into_iter().for_each(|n| of[n] = Mover::Within);
                        of[n] = Mover::Shuffle(groups);
                    }
                }
                _ => {}
            }
        }
        Movers { of, views: HashMap::new() }
    }

    /// Whether node `n` only takes channels from elsewhere.
    pub(crate) fn moves(&self, n: usize) -> bool {
        self.of.get(n).is_some_and(|&mover| mover != Mover::None)
    }

    /// Whether node `n` is the last of those that move channels together.
    pub(crate) fn ends(&self, n: usize) -> bool {
        self.moves(n) && self.of[n] != Mover::Within
    }

    /// What node `n` reads, where its own step begins.
    pub(crate) fn inputs(&self, graph: &Graph, n: usize) -> Vec<ValueId> {
        let node = &graph.nodes()[n];
        let input = |node: &Node| node.inputs[0];
        let before = |id: ValueId| graph.producer(id).map(input).expect("a shuffle has three nodes");
        match self.of[n] {
            Mover::Shuffle(_) => vec![before(before(input(node)))],
            _ => node.inputs.clone(),
        }
    }

    /// Where each channel of the result of node `n` comes from; `tabled` says which values are a table of others that is
    /// applied on the way.
    pub(crate) fn view(
        &self,
        graph: &Graph,
        n: usize,
        tabled: &HashMap<ValueId, [ValueId; 2]>,
    ) -> Vec<(Origin, usize)> {
        let view = |id: ValueId| match (self.views.get(&id), tabled.get(&id)) {
            (Some(view), _) => view.clone(),
            (_, Some(&[x, table])) => (0..channels(graph, x)).map(|c| ((x, Some(table)), c)).collect(),
            _ => (0..channels(graph, id)).map(|c| ((id, None), c)).collect(),
        };
        let y = graph.nodes()[n].outputs[0];
        let x: Vec<_> = self.inputs(graph, n).into_iter().flat_map(view).collect();
        match self.of[n] {
            Mover::Slice(start) => x[start..start + channels(graph, y)].to_vec(),
            Mover::Shuffle(groups) => {
                (0..x.len()).map(|i| x[i % groups * (x.len() / groups) + i / groups]).collect()
            }
            _ => x,
        }
    }

    /// Says that the result `id` with this view is never written.
    pub(crate) fn pass_on(&mut self, id: ValueId, view: Vec<(Origin, usize)>) {
        self.views.insert(id, view);
    }
}

/// The sources of a view, each once, and the channels as numbers of them.
pub(crate) fn picks(view: &[(Origin, usize)]) -> (Vec<Origin>, Vec<Pick>) {
    let (mut sources, mut numbers) = (Vec::new(), HashMap::new());
    let pick = |&(source, channel): &(Origin, usize)| {
        let number = *numbers.entry(source).or_insert_with(|| {
            sources.push(source);
            sources.len() - 1
        });
        (number, channel)
    };
    let picks = view.iter().map(pick).collect();
    (sources, picks)
}

fn channels(graph: &Graph, id: ValueId) -> usize {
    graph.ty(id).shape.0[1].known().expect("inference checked the axis that is joined or cut")
}

/// Where `last` ends `[N, g * k, ..] -> [N, g, k, ..] -> [N, k, g, ..] -> [N, k * g, ..]`, and nothing else reads what is
/// between: `g`, and the numbers of the two nodes before it.
fn shuffle(graph: &Graph, readers: &[Vec<usize>], last: &Node) -> Option<(usize, [usize; 2])> {
    let only = |id: ValueId| readers[id.index()].len() == 1;
    let turned = last.inputs[0];
    let turn = graph.producer(turned).filter(|_| only(turned))?;
    let split = turn.inputs[0];
    let first = graph.producer(split).filter(|_| only(split))?;
    let (Op::Transpose { perm }, Op::Reshape { .. }) = (&turn.op, &first.op) else { return None };
    let shape = |id: ValueId| &graph.ty(id).shape;
    let [n, groups, each, rest @ ..] = &shape(split).0[..] else { return None };
    let swapped = perm.iter().enumerate().all(|(i, &axis)| axis == [0, 2, 1].get(i).copied().unwrap_or(i));
    let whole = Shape([&[*n, *groups * *each][..], rest].concat());
    let fits = swapped && *shape(first.inputs[0]) == whole && *shape(last.outputs[0]) == whole;
    let groups = groups.known().filter(|&groups| fits && groups > 0 && each.known().is_some())?;
    let number = |id: ValueId| match graph.value(id).source {
        Source::Node { node, .. } => Some(node),
        _ => None,
    };
    Some((groups, [number(split)?, number(turned)?]))
}
