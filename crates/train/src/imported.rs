//! Networks that files bring along: a float graph that tells pictures apart becomes one that is trained, with a head for
//! any number of classes.

use espalier_graph::{
    BinaryFn, DType, Dim, Graph, GraphError, Node, Op, Shape, Source, Stage, TensorType, UnaryFn, ValueId,
    Weights, verify,
};
use espalier_passes::prune_unused;
use espalier_passes::rewrite::{Item, rewrite};

use crate::networks::cost;

/// What settings call the network of a file.
pub const NAME: &str = "imported";

/// Names of the values that a training step adds, which nodes of a file may have too.
const RESERVED: [&str; 7] = ["target", "lr", "loss", "loss.seed", "step", "rng", "ema_decay"];

/// A trainable network with input `x f32[N,C,side,side]` and output `logits f32[N,K]`.
#[derive(Clone, Debug)]
pub struct Imported {
    graph: Graph,
    tail: Tail,
    channels: usize,
    side: usize,
}

/// What a graph does from its last matrix or filter on.
#[derive(Clone, Debug, PartialEq)]
struct Tail {
    logits: ValueId,
    classes: usize,
    /// The head's states, each with its axis of classes.
    states: Vec<(ValueId, usize)>,
    /// Positions of the nodes that give the classes other axes.
    reshapes: Vec<usize>,
}

impl Imported {
    /// The network that `graph` is up to its logits; of `weights`, what it needs stays.
    ///
    /// # Errors
    /// It is not of floats, takes no square picture, or has no head; the sentence names node and reason.
    pub fn new(graph: &Graph, weights: &mut Weights) -> Result<Imported, String> {
        only_floats(graph)?;
        let (channels, side) = picture(graph)?;
        let logits = logits(graph)?;
        let graph = with_our_names(graph, logits).map_err(|error| error.to_string())?;
        let tail = Tail::of(&graph, graph.outputs()[0].1)?;
        weights.retain(|name, _| graph.find(name).is_some_and(|id| graph.is_state(id)));
        Ok(Imported { graph, tail, channels, side })
    }

    /// The number of logits.
    pub fn classes(&self) -> usize {
        self.tail.classes
    }

    /// The channels of the picture that it takes: 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width of the picture that it takes.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Whether a norm keeps its values in bounds, so that gradients stay in bounds too.
    pub fn is_normalised(&self) -> bool {
        self.graph.nodes().iter().any(|node| matches!(node.op, Op::BatchNorm { .. } | Op::LayerNorm { .. }))
    }

    /// Multiply-accumulates of a picture on its way through.
    pub fn macs(&self) -> f64 {
        cost(&self.graph).macs as f64
    }

    /// The network with a head for so many classes.
    ///
    /// # Errors
    /// Something else in the graph depends on their number.
    pub fn with_classes(&self, classes: usize) -> Result<Graph, GraphError> {
        let dim = Dim::from(classes);
        let graph = rewrite(&self.graph, |r, item| match item {
            Item::State(state) => match self.tail.states.iter().find(|(id, _)| *id == state.value) {
                Some(&(id, axis)) => {
                    let mut ty = r.old.ty(id).clone();
                    ty.shape.0[axis] = dim;
                    let name = r.name(id).to_string();
                    let new = r.new.add_state(&name, state.role, ty)?;
                    r.replace(id, new);
                    Ok(())
                }
                None => r.copy(item),
            },
            Item::Node(node) => match &node.op {
                Op::Reshape { shape } if self.tail.reshapes.contains(&position(r.old, node.outputs[0])) => {
                    let mut shape = shape.clone();
                    shape.0[1] = dim;
                    r.copy_as(node, Op::Reshape { shape })
                }
                _ => r.copy(item),
            },
            item => r.copy(item),
        })?;
        verify(&graph, Stage::Trainable)?;
        Ok(graph)
    }
}

fn only_floats(graph: &Graph) -> Result<(), String> {
    let is_integer = |node: &&Node| {
        let values = node.inputs.iter().chain(&node.outputs);
        values.into_iter().any(|&id| !matches!(graph.ty(id).dtype, DType::F32 | DType::I32))
    };
    match graph.nodes().iter().find(is_integer) {
        Some(node) => Err(format!(
            "{} computes with integers of 8 bits; training begins from the float network that it was made of",
            told(graph, node)
        )),
        None => verify(graph, Stage::Trainable).map_err(|error| error.to_string()),
    }
}

fn told(graph: &Graph, node: &Node) -> String {
    format!("node `{}` ({})", graph.node_name(node), node.op.name())
}

/// Channels and side of the one picture that the graph takes.
fn picture(graph: &Graph) -> Result<(usize, usize), String> {
    if let &[x] = graph.inputs()
        && let TensorType { dtype: DType::F32, shape } = graph.ty(x)
        && let [Dim::N, rest @ ..] = &shape.0[..]
        && let [Some(channels @ (1 | 3)), Some(height), Some(width)] =
            rest.iter().map(|dim| dim.known()).collect::<Vec<_>>()[..]
        && height == width
    {
        return Ok((channels, height));
    }
    let name = |id: &ValueId| format!("`{}` {}", graph.value(*id).name, graph.ty(*id));
    let inputs: Vec<String> = graph.inputs().iter().map(name).collect();
    Err(format!(
        "training takes networks of one square picture f32[N,1 or 3,side,side], the input is {}",
        inputs.join(", ")
    ))
}

/// The value that the one head gives.
fn logits(graph: &Graph) -> Result<ValueId, String> {
    let tails: Vec<_> = graph.outputs().iter().map(|(name, id)| (name, Tail::of(graph, *id))).collect();
    let mut found: Vec<(&String, ValueId)> = Vec::new();
    for (name, tail) in &tails {
        if let Ok(tail) = tail
            && found.iter().all(|(_, logits)| *logits != tail.logits)
        {
            found.push((name, tail.logits));
        }
    }
    match (&found[..], &tails[..]) {
        ([(_, logits)], _) => Ok(*logits),
        ([], [(name, Err(reason)), ..]) => {
            Err(format!("there is no head to replace: output `{name}`: {reason}"))
        }
        _ => {
            let names: Vec<String> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
            Err(format!("it has several heads ({}); training takes one", names.join(", ")))
        }
    }
}

/// The graph up to `logits`, whose input is `x` and whose output is `logits f32[N,K]`. States keep their names.
///
/// # Errors
/// A state has a name that a training step needs.
pub(crate) fn with_our_names(graph: &Graph, logits: ValueId) -> Result<Graph, GraphError> {
    let mut renamed = rewrite(graph, |r, item| match item {
        Item::Input(id) => {
            let x = r.new.add_input("x", r.old.ty(id).clone())?;
            r.replace(id, x);
            Ok(())
        }
        Item::Node(node) => {
            let inputs = r.all(&node.inputs)?;
            let names: Vec<String> = node.outputs.iter().map(|&id| own_name(r.old, r.name(id))).collect();
            let made = r.new.add_named(&names, node.op.clone(), &inputs)?;
            node.outputs.iter().zip(made).for_each(|(&old, new)| r.replace(old, new));
            Ok(())
        }
        Item::Output(..) if r.new.outputs().is_empty() => r.new.add_output("logits", r.at(logits)?),
        Item::Output(..) => Ok(()),
        item => r.copy(item),
    })?;
    let (_, id) = renamed.outputs()[0];
    if renamed.ty(id).shape.rank() > 2 {
        let shape = Shape(renamed.ty(id).shape.0[..2].to_vec());
        let flat = renamed.reshape(&renamed.fresh("logits"), id, shape)?;
        renamed = rewrite(&renamed.clone(), |r, item| match item {
            Item::Output(name, _) => r.new.add_output(name, r.at(flat)?),
            item => r.copy(item),
        })?;
    }
    prune_unused(&renamed)
}

/// The name of a node's result, other than those of a step.
fn own_name(graph: &Graph, name: &str) -> String {
    if name == "x" || RESERVED.contains(&name) { graph.fresh(&format!("{name}.result")) } else { name.into() }
}

fn position(graph: &Graph, id: ValueId) -> usize {
    match graph.value(id).source {
        Source::Node { node, .. } => node,
        Source::Input | Source::State(_) => unreachable!("only nodes are asked for"),
    }
}

impl Tail {
    /// What leads to `output`, up to the matrix or filter that is met first on the way back.
    fn of(graph: &Graph, output: ValueId) -> Result<Tail, String> {
        let logits = before_activation(graph, output);
        let mut tail = Tail { logits, classes: 0, states: Vec::new(), reshapes: Vec::new() };
        let mut at = logits;
        let head = loop {
            let node = graph.producer(at).ok_or("no matrix or filter leads to it")?;
            if matches!(node.op, Op::Conv { .. } | Op::MatMul { .. }) {
                break node;
            }
            at = tail.back(graph, node)?;
        };
        let (matrix, axis) = match head.op {
            Op::Conv { groups: 1, .. } => (head.inputs[1], 0),
            Op::MatMul { trans_a: false, trans_b } => (head.inputs[1], usize::from(!trans_b)),
            _ => return Err(format!("{} gives no class for each picture", told(graph, head))),
        };
        tail.classes = graph.ty(matrix).shape.0[axis].factor;
        // What holds one number for all classes stays as it is.
        tail.states.retain(|&(id, axis)| tail.classes == 1 || graph.ty(id).shape.0[axis] != Dim::from(1));
        tail.states.push((matrix, axis));
        tail.states.extend(head.inputs.get(2).map(|&bias| (bias, 0)));
        tail.check(graph, at)?;
        Ok(tail)
    }

    /// Over `node`, which leaves classes what they are, to what it reads.
    fn back(&mut self, graph: &Graph, node: &Node) -> Result<ValueId, String> {
        let (states, others): (Vec<ValueId>, Vec<ValueId>) =
            node.inputs.iter().partition(|&&id| graph.is_state(id));
        let rank = |id: ValueId| graph.ty(id).shape.rank();
        let stays = match (&node.op, &states[..]) {
            (Op::Reshape { .. }, _) => {
                self.reshapes.push(position(graph, node.outputs[0]));
                true
            }
            (Op::Binary { f: BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul }, &[state]) => {
                // Axes are counted from the last one.
                let axis = (rank(state) + 1).checked_sub(rank(node.outputs[0]));
                self.states.extend(axis.filter(|&axis| axis < rank(state)).map(|axis| (state, axis)));
                true
            }
            (Op::BatchNorm { .. }, _) => {
                self.states.extend(states.iter().map(|&id| (id, 0)));
                true
            }
            (Op::Reduce { axes, .. }, _) => axes.iter().all(|&axis| axis > 1),
            (Op::Unary { .. } | Op::AvgPool { .. } | Op::MaxPool { .. }, _) => true,
            _ => false,
        };
        match others[..] {
            [x] if stays => Ok(x),
            _ => Err(format!("{} stands between it and the last matrix or filter", told(graph, node))),
        }
    }

    /// Whether classes lie in axis 1 from `head` on, with one number for each in the end, and the states are the head's
    /// alone.
    fn check(&self, graph: &Graph, head: ValueId) -> Result<(), String> {
        let reshaped = self.reshapes.iter().map(|&node| graph.nodes()[node].outputs[0]);
        for id in reshaped.chain([head, self.logits]) {
            let dims = &graph.ty(id).shape.0[..];
            let classes = dims.starts_with(&[Dim::N, self.classes.into()]);
            let single = id != self.logits || dims[2..].iter().all(|dim| *dim == Dim::from(1));
            if !classes || !single {
                let name = &graph.value(id).name;
                return Err(format!("`{name}` is {}, it should hold a number for each class", graph.ty(id)));
            }
        }
        let uses = graph.uses();
        let is_own = |&&(id, axis): &&(ValueId, usize)| {
            graph.is_state(id) && uses[id.index()] == 1 && graph.ty(id).shape.0[axis] == self.classes.into()
        };
        match self.states.iter().find(|state| !is_own(state)) {
            Some(&(id, _)) => Err(format!("`{}` is not a weight of the head alone", graph.value(id).name)),
            None => Ok(()),
        }
    }
}

/// What `output` is before softmax or sigmoid, which the loss and answers apply themselves.
fn before_activation(graph: &Graph, output: ValueId) -> ValueId {
    let (mut before, mut at) = (output, output);
    while let Some(node) = graph.producer(at) {
        at = node.inputs.first().copied().unwrap_or(at);
        match node.op {
            Op::Softmax { axis: 1 } | Op::LogSoftmax { axis: 1 } | Op::Unary { f: UnaryFn::Sigmoid } => {
                before = at
            }
            Op::Reshape { .. } | Op::Unary { f: UnaryFn::Log } => {}
            _ => break,
        }
    }
    before
}
