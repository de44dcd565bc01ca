//! Floats between bytes become integers: what stands between Dequantize and Quantize gets the op that computes the same
//! on bytes.
//!
//! The graph that comes in says what is meant: bytes become floats (Dequantize), ops compute with floats, results are
//! rounded to bytes (Quantize). No rounding is added or removed but that of biases, which become integers in units of the
//! sums that they are added to. Four observations do the work:
//!
//! * Moving elements (Reshape, Transpose, Slice, Concat of one quantization, MaxPool, Resize to the nearest) does the same
//!   to the bytes.
//! * Rounding commutes with moving, and with clamping: a clamp before Quantize becomes limits of the byte.
//! * What depends on one byte alone is a table of 256 entries, whatever stands between, inner roundings included.
//! * Convolutions, linear layers, sums, products and averages of bytes have ops of their own.

mod compute;
mod function;
mod remarks;
mod weight;

use std::collections::HashMap;

use espalier_graph::{
    Graph, GraphError, Node, Op, Quant, ResizeMode, Stage, TensorType, ValueId, Weights, infer, verify,
};

use crate::prune_unused::prune_unused;
use crate::rewrite::{Item, Rewrite, rewrite};
use function::Function;
pub use remarks::{Remark, Remarks, remarks};
pub use weight::{ByteWeight, ByteWeights};

/// The graph with integers wherever ops of integers say exactly what floats between bytes said. `bytes` holds the float
/// states that are multiples of bytes, which `weights` need not hold; `weights` follow. Biases are rounded to multiples of
/// the scales of input and weight together, if that takes no more than 32 bits.
///
/// # Errors
/// The graph is not valid, or a state in `bytes` has not the shape that the graph says; then `weights` stay as they were.
pub fn integers(graph: &Graph, weights: &mut Weights, bytes: &ByteWeights) -> Result<Graph, GraphError> {
    let mut pass = Pass::new(graph, weights, bytes);
    let rewritten = rewrite(graph, |r, item| pass.item(r, item))?;
    let made = pass.made;
    let graph = prune_unused(&rewritten)?;
    verify(&graph, Stage::Portable)?;
    weights.extend(made);
    weights.retain(|name, _| graph.find(name).is_some_and(|id| graph.is_state(id)));
    Ok(graph)
}

/// How far a Quantize looks back for the op that makes its input.
const MAX_DEPTH: usize = 16;

/// Longest name that a new value's name begins with: graphs allow 256 letters.
const MAX_BASE: usize = 240;

type Limits = [u8; 2];

/// Every byte there is.
const ALL: Limits = [0, 255];

struct Pass<'a> {
    weights: &'a Weights,
    bytes: &'a ByteWeights,
    /// The content of new states.
    made: Weights,
    /// For old floats that are nothing but bytes: the new bytes.
    backing: HashMap<ValueId, ValueId>,
    /// For old floats that depend on one byte alone: on which, and how.
    functions: HashMap<ValueId, Function>,
    /// For new bytes that a Table makes: of which bytes, and how.
    tables: HashMap<ValueId, Function>,
    /// What a value has been rounded to already.
    rounded: HashMap<(ValueId, Quant), ValueId>,
    /// The new states of weights, by the old one and whether its axes are swapped.
    byte_states: HashMap<(ValueId, bool), [ValueId; 2]>,
    /// Biases in units of sums.
    biases: HashMap<weight::BiasOf, ValueId>,
    /// How many times each old value is read; rounding it twice to the same bytes counts once.
    readers: Vec<usize>,
}

type Made = Result<ValueId, GraphError>;

/// `None` where there is no way in integers.
type Found = Result<Option<ValueId>, GraphError>;

impl<'a> Pass<'a> {
    fn new(graph: &Graph, weights: &'a Weights, bytes: &'a ByteWeights) -> Self {
        let mut readers = graph.uses();
        let mut seen = HashMap::new();
        for node in graph.nodes() {
            if let Op::Quantize { to } = node.op
                && seen.insert((node.inputs[0], to), ()).is_some()
            {
                readers[node.inputs[0].index()] -= 1;
            }
        }
        Pass {
            weights,
            bytes,
            made: Weights::new(),
            backing: HashMap::new(),
            functions: HashMap::new(),
            tables: HashMap::new(),
            rounded: HashMap::new(),
            byte_states: HashMap::new(),
            biases: HashMap::new(),
            readers,
        }
    }

    fn item(&mut self, r: &mut Rewrite<'_>, item: Item<'_>) -> Result<(), GraphError> {
        match item {
            // Made when somebody reads it, in the form that is read.
            Item::State(state) if state.next.is_none() => Ok(()),
            Item::Node(node) => self.node(r, node),
            Item::Output(_, id) => {
                self.float(r, id)?;
                r.copy(item)
            }
            item => r.copy(item),
        }
    }

    fn node(&mut self, r: &mut Rewrite<'_>, node: &Node) -> Result<(), GraphError> {
        let y = node.outputs[0];
        match &node.op {
            Op::Dequantize => {
                let x = r.at(node.inputs[0])?;
                self.backed(r, y, x);
                return Ok(());
            }
            Op::Quantize { to } => {
                let bytes = self.quantize(r, node, *to)?;
                r.replace(y, bytes);
                return Ok(());
            }
            op if moves(op) => {
                if let Some(moved) = self.moved(r, node)? {
                    self.backed(r, y, moved);
                    return Ok(());
                }
            }
            _ => {
                if let Some(made) = self.product(r, node)? {
                    r.replace(y, made);
                    return Ok(());
                }
            }
        }
        if let Some(function) = self.function_of(r.old, node) {
            self.functions.insert(y, function);
        }
        for &id in &node.inputs {
            self.float(r, id)?;
        }
        r.copy(Item::Node(node))?;
        if let Op::Table { to } = node.op
            && let Some(entries) = self.weights.get(r.name(node.inputs[1])).and_then(|table| table.as_u8())
            && let Ok(entries) = entries.try_into()
        {
            self.tables.insert(r.at(y)?, Function::of_bytes(r.at(node.inputs[0])?, entries, to));
        }
        Ok(())
    }

    /// Says that the old float `y` is what the new bytes `x` stand for.
    fn backed(&mut self, r: &Rewrite<'_>, y: ValueId, x: ValueId) {
        let function = match self.tables.get(&x) {
            Some(function) => function.clone(),
            None => Function::identity(x, quant(&r.new, x)),
        };
        self.backing.insert(y, x);
        self.functions.insert(y, function);
    }

    /// The new form of an old value that something reads as it was: a float, or a state.
    fn float(&mut self, r: &mut Rewrite<'_>, id: ValueId) -> Made {
        if let Ok(new) = r.at(id) {
            return Ok(new);
        }
        let name = self.own_name(r, id);
        let new = match self.backing.get(&id) {
            Some(&x) => r.new.add(&name, Op::Dequantize, &[x])?,
            None => self.old_state(r, id, &name)?,
        };
        r.replace(id, new);
        Ok(new)
    }

    /// A name for what takes the place of an old value: its own, unless that is taken.
    fn own_name(&self, r: &Rewrite<'_>, id: ValueId) -> String {
        let name = r.name(id);
        if r.new.find(name).is_none() { name.to_string() } else { fresh(r, name) }
    }

    /// A node that only moves bytes, over bytes.
    fn moved(&mut self, r: &mut Rewrite<'_>, node: &Node) -> Found {
        let inputs: Option<Vec<ValueId>> =
            node.inputs.iter().map(|id| self.backing.get(id).copied()).collect();
        let Some(inputs) = inputs else { return Ok(None) };
        let name = fresh(r, r.name(node.outputs[0]));
        try_add(r, &name, &node.op, &inputs)
    }

    /// The bytes of `node`, a Quantize.
    fn quantize(&mut self, r: &mut Rewrite<'_>, node: &Node, to: Quant) -> Made {
        let (x, y) = (node.inputs[0], node.outputs[0]);
        if let Some(&same) = self.rounded.get(&(x, to)) {
            return Ok(same);
        }
        let name = self.own_name(r, y);
        let bytes = match self.rounded(r, &name, x, Rounding { to, limits: ALL }, MAX_DEPTH)? {
            Some(bytes) => bytes,
            None => {
                let x = self.float(r, x)?;
                r.new.add(&name, Op::Quantize { to }, &[x])?
            }
        };
        self.rounded.insert((x, to), bytes);
        Ok(bytes)
    }

    /// The old value `v` in bytes, computed without floats; the last op is called `name`.
    fn rounded(&mut self, r: &mut Rewrite<'_>, name: &str, v: ValueId, how: Rounding, depth: usize) -> Found {
        if let Some(&x) = self.backing.get(&v)
            && how == (Rounding { to: quant(&r.new, x), limits: ALL })
        {
            return Ok(Some(x));
        }
        if let Some(function) = self.functions.get(&v).cloned() {
            return self.table(r, name, &function, how).map(Some);
        }
        let Some(node) = r.old.producer(v) else { return Ok(None) };
        // What others read as floats is computed as floats anyway.
        if depth == 0 || self.readers[v.index()] != 1 {
            return Ok(None);
        }
        let node = node.clone();
        match &node.op {
            Op::Unary { f } => match how.clamped(*f) {
                Some(how) => self.rounded(r, name, node.inputs[0], how, depth - 1),
                None => Ok(None),
            },
            op if moves(op) => {
                let mut inputs = Vec::new();
                for (at, &id) in node.inputs.iter().enumerate() {
                    let part = fresh(r, &format!("{name}.in{at}"));
                    let Some(bytes) = self.rounded(r, &part, id, how, depth - 1)? else { return Ok(None) };
                    inputs.push(bytes);
                }
                try_add(r, name, op, &inputs)
            }
            _ => self.computed(r, name, &node, how),
        }
    }

    /// Bytes by the table of a function; those that it begins with, where it changes nothing.
    fn table(&mut self, r: &mut Rewrite<'_>, name: &str, function: &Function, how: Rounding) -> Made {
        let entries = function.entries(how);
        let is_identity = (0..=255).eq(entries.iter().copied());
        if is_identity && quant(&r.new, function.root) == how.to {
            return Ok(function.root);
        }
        let table = self.table_state(r, name, &entries)?;
        let y = r.new.add(name, Op::Table { to: how.to }, &[function.root, table])?;
        self.tables.insert(y, Function::of_bytes(function.root, &entries, how.to));
        Ok(y)
    }
}

/// To which bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rounding {
    to: Quant,
    limits: Limits,
}

/// Ops that move or choose elements: they do the same to bytes, and rounding before or after is the same.
pub(crate) fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. }
            | Op::MaxPool { .. }
            | Op::Resize { mode: ResizeMode::Nearest, .. }
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Transpose { .. }
    )
}

fn quant(graph: &Graph, id: ValueId) -> Quant {
    graph.ty(id).dtype.quant().expect("made of bytes")
}

/// The node, where the op takes inputs of these types.
fn try_add(r: &mut Rewrite<'_>, name: &str, op: &Op, inputs: &[ValueId]) -> Found {
    let types: Vec<&TensorType> = inputs.iter().map(|&id| r.new.ty(id)).collect();
    match infer(op, &types) {
        Ok(_) => r.new.add(name, op.clone(), inputs).map(Some),
        Err(_) => Ok(None),
    }
}

/// A name that neither the old graph nor the new one has.
fn fresh(r: &Rewrite<'_>, base: &str) -> String {
    let base = &base[..base.len().min(MAX_BASE)];
    let is_free = |name: &String| r.old.find(name).is_none() && r.new.find(name).is_none();
    (0..)
        .map(|i| if i == 0 { base.to_string() } else { format!("{base}.{i}") })
        .find(is_free)
        .expect("names are endless")
}
