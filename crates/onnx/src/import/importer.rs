//! The importer: walks the nodes of a file, computes what is known, and maps the rest onto a graph.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use espalier_graph::{
    Bindings, DType, Dim, Graph, Op, Role, Shape, Stage, TensorType, ValueId, Weights, verify,
};
use espalier_passes::integers::{ByteWeight, ByteWeights, Remarks, integers, remarks};
use espalier_passes::{prune_unused, simplify};

use crate::MAX_FILE;
use crate::import::bytes::Bytes;
use crate::import::constant::{Constant, Elements};
use crate::import::fault::{Fault, ImportError, malformed, unsupported};
use crate::import::metadata::Metadata;
use crate::import::model::{Axis, Input, Model};
use crate::import::names::{self, Names};
use crate::import::node::Node;
use crate::import::tensor::shown;
use crate::import::{MAX_ELEMENTS, MAX_RANK, external, fold, ops};

/// What the file leaves open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Height and width of pictures; else what the file's metadata say.
    pub size: Option<[usize; 2]>,
}

/// How many samples the graph takes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Any number: the first axis of each input is N.
    Any,
    /// The file's own number, for the given reason.
    Fixed(String),
}

/// A file that became a graph.
#[derive(Debug)]
pub struct Imported {
    /// A trainable graph: batch normalisation is as the file has it. Of a quantized file, a portable graph of integers.
    pub graph: Graph,
    /// The content of its states.
    pub weights: Weights,
    /// How many samples it takes at once.
    pub batch: Batch,
    /// Version of the operator set.
    pub opset: i64,
    /// Nodes of the file that the outputs need.
    pub nodes: usize,
    /// SHA-256 of the file, external data apart.
    pub digest: String,
    /// `metadata_props` of the file.
    pub metadata: BTreeMap<String, String>,
    /// How a quantized file computes.
    pub integers: Option<Remarks>,
    /// Outputs whose name had to change: as in the file, as in the graph.
    pub renamed: Vec<(String, String)>,
}

/// Imports the file at `path`; external data is read from its folder.
///
/// # Errors
/// The file cannot be read, is malformed, or uses what is not supported; the sentence names all of that.
pub fn from_file(path: &Path, options: Options) -> Result<Imported, ImportError> {
    let at = |fault| ImportError::At { path: path.into(), fault: Box::new(fault) };
    let bytes = external::model(path, MAX_FILE).map_err(at)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    import(bytes, Some(folder), options).map_err(at)
}

/// Imports the bytes of a file without external data.
///
/// # Errors
/// As [`from_file`].
pub fn from_bytes(bytes: Vec<u8>, options: Options) -> Result<Imported, ImportError> {
    import(bytes, None, options)
}

fn import(bytes: Vec<u8>, folder: Option<&Path>, options: Options) -> Result<Imported, ImportError> {
    let model = Model::read(bytes, folder)?;
    let takes_any =
        model.inputs.iter().all(|input| matches!(input.axes.first(), Some(Axis::Open | Axis::Size(1))));
    if !takes_any || model.inputs.is_empty() {
        return build(&model, options, Batch::Fixed("the file has a fixed number of samples".into()));
    }
    build(&model, options, Batch::Any).or_else(|error| match error {
        // One sample may do where any number does not: the exporter may have written the 1 into shapes.
        ImportError::Malformed(reason) | ImportError::Unsupported(reason) => {
            build(&model, options, Batch::Fixed(reason))
        }
        other => Err(other),
    })
}

fn build(model: &Model, options: Options, batch: Batch) -> Result<Imported, ImportError> {
    let mut importer = Importer::new(model, options, &batch);
    importer.declare_inputs()?;
    importer.walk()?;
    let renamed = importer.declare_outputs()?;
    let Importer { graph, states, bytes, .. } = importer;
    let invalid = |e: espalier_graph::GraphError| ImportError::Malformed(e.to_string());
    let graph = simplify(&prune_unused(&graph).map_err(invalid)?).map_err(invalid)?;
    verify(&graph, Stage::Portable).map_err(invalid)?;
    let (mut weights, mut byte_weights) = (Weights::new(), ByteWeights::new());
    for (name, constant) in states {
        if graph.find(&name).is_none() {
            continue;
        }
        if let Some(weight) = bytes.of(&constant) {
            byte_weights.insert(name, ByteWeight::clone(weight));
            continue;
        }
        let tensor = Rc::unwrap_or_clone(constant).into_tensor();
        weights.insert(name, tensor.map_err(|fault| plain(&fault))?);
    }
    let graph = integers(&graph, &mut weights, &byte_weights).map_err(invalid)?;
    let (opset, nodes, metadata) = (model.opset, model.nodes.len(), model.metadata.clone());
    let (digest, integers) = (model.digest.clone(), remarks(&graph));
    Ok(Imported { graph, weights, batch, opset, nodes, digest, metadata, integers, renamed })
}

fn plain(fault: &Fault) -> ImportError {
    match fault {
        Fault::Unsupported(reason) => ImportError::Unsupported(reason.clone()),
        Fault::Malformed(reason) => ImportError::Malformed(reason.clone()),
    }
}

/// What a name of the file stands for.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Constant(Rc<Constant>),
    Flowing(ValueId),
    /// The result of a node that is not supported.
    Unknown,
}

pub(crate) type Made = Result<Vec<Value>, Fault>;

/// The state of an import.
pub(crate) struct Importer<'a> {
    model: &'a Model,
    options: Options,
    /// Height and width as the metadata have them.
    stored_size: Option<[usize; 2]>,
    /// Whether N stands where the file says 1.
    generalised: bool,
    any: bool,
    pub(crate) graph: Graph,
    values: HashMap<String, Value>,
    names: Names,
    /// Name, and what the state holds.
    states: Vec<(String, Rc<Constant>)>,
    /// The state of each constant that became one, by its address.
    state_of: HashMap<*const Constant, ValueId>,
    /// Constants of floats that the file has as bytes.
    pub(crate) bytes: Bytes,
    /// Bytes that the file has as signed ones.
    pub(crate) signed: HashSet<ValueId>,
    /// The name of the node at hand, and the one that it gives to its result.
    node: String,
    base: String,
    /// Bytes that computed constants may still take.
    budget: usize,
}

/// Bytes that computed constants may take, beyond six times the file: a byte of a weight becomes a float and a byte.
const BUDGET: usize = 32 << 20;

impl<'a> Importer<'a> {
    fn new(model: &'a Model, options: Options, batch: &Batch) -> Self {
        let constants = model.initializers.iter();
        let any = *batch == Batch::Any;
        let ones = model.inputs.iter().any(|input| input.axes.first() == Some(&Axis::Size(1)));
        Importer {
            model,
            options,
            stored_size: Metadata::read(&model.metadata).size,
            generalised: any && ones,
            any,
            graph: Graph::new(),
            values: constants.map(|(name, c)| (name.clone(), Value::Constant(c.clone()))).collect(),
            names: Names::default(),
            states: Vec::new(),
            state_of: HashMap::new(),
            bytes: Bytes::default(),
            signed: HashSet::new(),
            node: String::new(),
            base: String::new(),
            budget: BUDGET.saturating_add(model.bytes.saturating_mul(6)),
        }
    }

    pub(crate) fn opset(&self) -> i64 {
        self.model.opset
    }

    /// Whether N stands where the file says 1: then nothing may mix the samples.
    pub(crate) fn generalised(&self) -> bool {
        self.generalised
    }

    fn declare_inputs(&mut self) -> Result<(), ImportError> {
        for input in &self.model.inputs {
            let shape = self.input_shape(input)?;
            if is_too_large(&shape) {
                let name = shown(&input.name);
                return Err(ImportError::TooLarge(format!("the input `{name}` is {shape}")));
            }
            let dtype = if input.is_float { DType::F32 } else { DType::I32 };
            let name = self.names.fresh(&input.name);
            let id = self.graph.add_input(&name, TensorType { dtype, shape });
            let id = id.map_err(|e| ImportError::Malformed(e.to_string()))?;
            self.values.insert(input.name.clone(), Value::Flowing(id));
        }
        Ok(())
    }

    fn input_shape(&self, input: &Input) -> Result<Shape, ImportError> {
        let rank = input.axes.len();
        let dims = input.axes.iter().enumerate().map(|(axis, size)| match size {
            _ if axis == 0 && self.any => Ok(Dim::N),
            Axis::Open if axis == 0 => Ok(Dim::from(1)),
            Axis::Size(size) => Ok(Dim::from(*size)),
            Axis::Open => match self.options.size.or(self.stored_size) {
                Some(size) if rank == 4 && axis >= 2 => Ok(Dim::from(size[axis - 2])),
                _ => Err(ImportError::Size(format!(
                    "axis {axis} of the input `{}` has no fixed size; {}",
                    shown(&input.name),
                    if rank == 4 && axis >= 2 {
                        "give height and width with --imgsz"
                    } else {
                        "export it with one"
                    }
                ))),
            },
        });
        let shape = Shape(dims.collect::<Result<_, _>>()?);
        match self.options.size {
            Some(size) if rank == 4 && shape.0[2..] != size.map(Dim::from) => {
                Err(ImportError::Size(format!(
                    "the input `{}` is {}x{}, --imgsz says {}x{}",
                    shown(&input.name),
                    shape.0[2],
                    shape.0[3],
                    size[0],
                    size[1]
                )))
            }
            _ => Ok(shape),
        }
    }

    /// Imports node after node; what is not supported is gathered, so that one error tells all of it.
    fn walk(&mut self) -> Result<(), ImportError> {
        let mut refused = Refused::default();
        for node in &self.model.nodes {
            let made = match self.node(node) {
                Ok(made) => made,
                Err(Fault::Unsupported(reason)) => {
                    refused.add(node, reason);
                    Vec::new()
                }
                Err(Fault::Malformed(reason)) => {
                    let (name, op) = (shown(&node.name), shown(&node.op));
                    return Err(ImportError::Malformed(format!("node `{name}` ({op}) {reason}")));
                }
            };
            let mut made = made.into_iter();
            for name in &node.outputs {
                let value = made.next().unwrap_or(Value::Unknown);
                if !name.is_empty() {
                    self.values.insert(name.clone(), value);
                }
            }
        }
        refused.finish()
    }

    fn node(&mut self, node: &Node) -> Made {
        let Some(rule) = ops::rule(&node.domain, &node.op) else {
            return Err(unsupported(""));
        };
        let inputs: Vec<Option<&Value>> = node.inputs.iter().map(|name| self.values.get(name)).collect();
        if inputs.iter().flatten().any(|value| matches!(value, Value::Unknown)) {
            return Ok(Vec::new());
        }
        let first = node.outputs.iter().find(|name| !name.is_empty());
        self.node = node.name.clone();
        self.base = names::allowed(first.unwrap_or(&node.name));
        if let Some(constants) = constants(&inputs)
            && let Some(made) = fold::fold(node, &constants, self.opset(), &mut self.budget)
        {
            let made: Vec<Rc<Constant>> = made?.into_iter().map(Rc::new).collect();
            if let (Some(from), Some(to)) = (constants.first().cloned().flatten(), made.first()) {
                self.bytes.moved(node, &from, to);
            }
            return Ok(made.into_iter().map(Value::Constant).collect());
        }
        rule(self, node)
    }

    /// Says what the outputs are; returns those whose name had to change.
    fn declare_outputs(&mut self) -> Result<Vec<(String, String)>, ImportError> {
        let (mut taken, mut renamed) = (HashSet::new(), Vec::new());
        for name in &self.model.outputs {
            let base = names::output(name);
            let mut fresh = base.clone();
            for number in 1.. {
                if taken.insert(fresh.clone()) {
                    break;
                }
                fresh = format!("{base}.{number}");
            }
            let value = self.values.get(name).cloned().unwrap_or(Value::Unknown);
            let id = self.output(value).map_err(|fault| match plain(&fault) {
                ImportError::Unsupported(reason) => {
                    ImportError::Unsupported(format!("the output `{}`: {reason}", shown(name)))
                }
                other => other,
            })?;
            self.graph.add_output(&fresh, id).map_err(|e| ImportError::Malformed(e.to_string()))?;
            if fresh != *name {
                renamed.push((name.clone(), fresh));
            }
        }
        Ok(renamed)
    }

    fn output(&mut self, value: Value) -> Result<ValueId, Fault> {
        let id = match value {
            Value::Flowing(id) => id,
            Value::Constant(c) => self.state(&c, "output", Role::Statistic)?,
            Value::Unknown => return Err(malformed("an output is never made")),
        };
        match self.graph.ty(id).dtype {
            DType::F32 => Ok(id),
            other => Err(unsupported(format!("an output of {other}"))),
        }
    }
}

/// How the rules read a node's inputs and make its results.
impl Importer<'_> {
    /// Input `at`, if it is there.
    pub(crate) fn optional(&self, node: &Node, at: usize) -> Option<Value> {
        let name = node.inputs.get(at).filter(|name| !name.is_empty())?;
        self.values.get(name).cloned()
    }

    pub(crate) fn input(&self, node: &Node, at: usize) -> Result<Value, Fault> {
        self.optional(node, at).ok_or_else(|| malformed(format!("lacks input {at}")))
    }

    /// Input `at` as a value that flows; a constant becomes a state.
    pub(crate) fn flowing(&mut self, node: &Node, at: usize) -> Result<ValueId, Fault> {
        match self.input(node, at)? {
            Value::Flowing(id) => Ok(id),
            Value::Constant(c) => self.operand(&c),
            Value::Unknown => Err(malformed("reads what was never made")),
        }
    }

    /// Input `at` as floats that flow.
    pub(crate) fn float(&mut self, node: &Node, at: usize) -> Result<ValueId, Fault> {
        let id = self.flowing(node, at)?;
        match self.graph.ty(id).dtype {
            DType::F32 => Ok(id),
            other => Err(unsupported(format!("of {other}"))),
        }
    }

    /// Input `at` as a learned weight; `part` names it where the file does not.
    pub(crate) fn parameter(&mut self, node: &Node, at: usize, part: &str) -> Result<ValueId, Fault> {
        match self.input(node, at)? {
            Value::Constant(c) if c.as_floats().is_ok() => self.state(&c, part, Role::Weight),
            _ => self.float(node, at),
        }
    }

    /// Input `at`, which must be known.
    pub(crate) fn constant(&self, node: &Node, at: usize) -> Result<Rc<Constant>, Fault> {
        self.known(node, at)?.ok_or_else(|| malformed(format!("lacks input {at}")))
    }

    /// Input `at`, which must be known if it is there.
    pub(crate) fn known(&self, node: &Node, at: usize) -> Result<Option<Rc<Constant>>, Fault> {
        match self.optional(node, at) {
            None => Ok(None),
            Some(Value::Constant(c)) => Ok(Some(c)),
            Some(_) => Err(unsupported(format!("input {at} is computed from the data"))),
        }
    }

    /// A list of integers that older versions have as the attribute `name`, newer ones as input `at`.
    pub(crate) fn list(&self, node: &Node, name: &str, at: usize) -> Result<Option<Vec<i64>>, Fault> {
        if let Some(list) = node.ints(name)? {
            return Ok(Some(list.to_vec()));
        }
        self.known(node, at)?.map(|c| c.known_ints()).transpose()
    }

    pub(crate) fn ty(&self, id: ValueId) -> &TensorType {
        self.graph.ty(id)
    }

    pub(crate) fn dims(&self, id: ValueId) -> Vec<Dim> {
        self.graph.ty(id).shape.0.clone()
    }

    /// The sizes of `id`, none of which may be N.
    pub(crate) fn known_dim(&self, id: ValueId, axis: usize) -> Result<usize, Fault> {
        let dim = self.graph.ty(id).shape.0.get(axis).copied();
        let size = dim.ok_or_else(|| malformed(format!("has no axis {axis}")))?.known();
        size.ok_or_else(|| {
            unsupported(format!("axis {axis} of `{}` depends on the batch size", self.graph.value(id).name))
        })
    }

    /// A step on the way to the node's result, called after it and `part`; the result itself has no part.
    pub(crate) fn add(&mut self, part: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, Fault> {
        let wanted = if part.is_empty() { self.base.clone() } else { format!("{}.{part}", self.base) };
        let name = self.names.fresh(&wanted);
        let y = self.graph.add(&name, op, inputs)?;
        let shape = &self.graph.ty(y).shape;
        match is_too_large(shape) {
            true => Err(malformed(format!("gives {shape}, which is too large"))),
            false => Ok(y),
        }
    }

    /// Other axes for the same elements, where they are other ones.
    pub(crate) fn reshaped(&mut self, part: &str, x: ValueId, shape: Shape) -> Result<ValueId, Fault> {
        if self.graph.ty(x).shape == shape { Ok(x) } else { self.add(part, Op::Reshape { shape }, &[x]) }
    }

    /// Takes what computed constants of so many bytes need from the budget.
    pub(crate) fn pay(&mut self, bytes: usize) -> Result<(), Fault> {
        let left = self.budget.checked_sub(bytes);
        self.budget =
            left.ok_or_else(|| unsupported("what is computed at import would take too much memory"))?;
        Ok(())
    }

    /// A constant that takes part in arithmetic. What the file stores may be learned, what was computed may not.
    pub(crate) fn operand(&mut self, c: &Rc<Constant>) -> Result<ValueId, Fault> {
        let learned = c.stored && matches!(c.elements, Elements::Floats(_));
        let role = if learned { Role::Weight } else { Role::Statistic };
        self.state(c, "constant", role)
    }

    /// The state that holds `c`: one for each constant, however often it is read.
    pub(crate) fn state(&mut self, c: &Rc<Constant>, part: &str, role: Role) -> Result<ValueId, Fault> {
        if let Some(&id) = self.state_of.get(&Rc::as_ptr(c)) {
            return Ok(id);
        }
        let id = self.own_state(c.clone(), part, role)?;
        self.state_of.insert(Rc::as_ptr(c), id);
        Ok(id)
    }

    /// A state of its own for this use of `c`, as batch normalisations need, which move theirs.
    pub(crate) fn own_state(&mut self, c: Rc<Constant>, part: &str, role: Role) -> Result<ValueId, Fault> {
        let dtype = match c.elements {
            Elements::Floats(_) => DType::F32,
            Elements::Ints(_) => DType::I32,
            Elements::Bools(_) => return Err(unsupported("truth values at run time")),
            Elements::I8(_) => DType::S8,
            Elements::U8(_) => DType::U8,
        };
        let name = self.names.fresh(&names::weight(&c.name, &self.node, part));
        let ty = TensorType { dtype, shape: Shape::known(&c.shape) };
        let id = self.graph.add_state(&name, role, ty)?;
        self.states.push((name, c));
        Ok(id)
    }
}

/// Whether a value of this shape is beyond what is read.
fn is_too_large(shape: &Shape) -> bool {
    shape.elements().bind(Bindings::batch(1)) > MAX_ELEMENTS || shape.rank() > MAX_RANK
}

/// The constants among `inputs` with their absent ones, if all are known and there is one.
fn constants(inputs: &[Option<&Value>]) -> Option<Vec<Option<Rc<Constant>>>> {
    let known = inputs.iter().map(|value| match value {
        None => Some(None),
        Some(Value::Constant(c)) => Some(Some(c.clone())),
        Some(_) => None,
    });
    known.collect()
}

/// What was not supported, by operator.
#[derive(Default)]
struct Refused(BTreeMap<String, Uses>);

struct Uses {
    count: usize,
    /// Name of the first node, and why it was refused.
    first: String,
    reason: String,
}

/// Most operators that one error tells.
const MAX_TOLD: usize = 40;

impl Refused {
    fn add(&mut self, node: &Node, reason: String) {
        let op = match node.domain.as_str() {
            "" | "ai.onnx" => shown(&node.op),
            domain => format!("{}.{}", shown(domain), shown(&node.op)),
        };
        let new = || Uses { count: 0, first: shown(&node.name), reason };
        self.0.entry(op).or_insert_with(new).count += 1;
    }

    fn finish(self) -> Result<(), ImportError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let told = self.0.iter().take(MAX_TOLD).map(|(op, uses)| {
            let colon = if uses.reason.is_empty() { "" } else { ": " };
            format!("{op} ({} times, first `{}`{colon}{})", uses.count, uses.first, uses.reason)
        });
        let mut told: Vec<String> = told.collect();
        if self.0.len() > MAX_TOLD {
            told.push(format!("and {} more operators", self.0.len() - MAX_TOLD));
        }
        Err(ImportError::Unsupported(told.join(", ")))
    }
}
