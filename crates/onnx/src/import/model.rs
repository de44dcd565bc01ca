//! A file's graph, checked and in order: what is needed for its outputs, each node after those it reads from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::import::constant::{Constant, Elements};
use crate::import::fault::ImportError;
use crate::import::node::Node;
use crate::import::tensor::{self, shown};
use crate::import::{MAX_INTS, MAX_NODES, MAX_RANK, OPSETS};
use crate::proto::{
    GraphProto, ModelProto, TensorNameProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    data, decode,
};

/// Most fields of the model's own message, and of one node or tensor name.
const MAX_FIELDS: usize = 1 << 16;

/// Most fields of the graph's message: nodes, tensors, inputs, outputs and descriptions of values.
const MAX_GRAPH_FIELDS: usize = 1 << 19;

/// One axis of a graph's input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Axis {
    Size(usize),
    /// Known when the model runs.
    Open,
}

/// An input of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    /// Floats, or else integers.
    pub(crate) is_float: bool,
    pub(crate) axes: Vec<Axis>,
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) opset: i64,
    /// `metadata_props`.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<String>,
    /// Those that the outputs need, in order.
    pub(crate) nodes: Vec<Node>,
    /// Those that the nodes need.
    pub(crate) initializers: HashMap<String, Rc<Constant>>,
    /// Size of the file.
    pub(crate) bytes: usize,
    /// SHA-256 of the file.
    pub(crate) digest: String,
}

type Read<T> = Result<T, ImportError>;

fn malformed<T>(reason: impl Into<String>) -> Read<T> {
    Err(ImportError::Malformed(reason.into()))
}

impl Model {
    /// Reads the bytes of a file; external data is looked for in `folder`.
    ///
    /// # Errors
    /// The bytes are no model of a known version, or contradict themselves.
    pub(crate) fn read(bytes: Vec<u8>, folder: Option<&Path>) -> Read<Model> {
        let size = bytes.len();
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = Bytes::from(bytes);
        let model: ModelProto = decode(&bytes, MAX_FIELDS).map_err(ImportError::Malformed)?;
        let opset = opset(&model)?;
        let Some(graph) = model.graph else { return malformed("it has no graph") };
        let graph: GraphProto = decode(&graph, MAX_GRAPH_FIELDS).map_err(ImportError::Malformed)?;
        if graph.node.len() > MAX_NODES {
            let have = graph.node.len();
            return Err(ImportError::TooLarge(format!("it has {have} nodes, at most {MAX_NODES} are read")));
        }
        if !graph.sparse_initializer.is_empty() {
            return Err(ImportError::Unsupported("sparse tensors".into()));
        }
        let nodes = graph.node.iter().map(|bytes| Node::read(bytes, MAX_FIELDS)).collect::<Read<Vec<_>>>()?;
        let outputs = names_of(&graph.output)?;
        if outputs.is_empty() {
            return malformed("its graph has no output");
        }
        let stored = stored(&graph.initializer)?;
        let inputs = inputs(&graph.input, &stored)?;
        let nodes = ordered(nodes, &outputs, &inputs, &stored)?;
        let read = nodes.iter().flat_map(|node| &node.inputs).chain(&outputs);
        let (mut initializers, mut integers) = (HashMap::new(), 0);
        for name in read {
            if let Some(bytes) = stored.get(name)
                && !initializers.contains_key(name)
            {
                let constant = tensor::constant(bytes, folder)?;
                if !matches!(constant.elements, Elements::Floats(_)) && !constant.elements.is_bytes() {
                    integers += constant.elements.len();
                }
                if integers > 4 * MAX_INTS {
                    let most = 4 * MAX_INTS;
                    return Err(ImportError::TooLarge(format!("it stores more than {most} integers")));
                }
                initializers.insert(name.clone(), Rc::new(constant));
            }
        }
        let metadata = model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
        Ok(Model { opset, metadata, inputs, outputs, nodes, initializers, bytes: size, digest })
    }
}

fn opset(model: &ModelProto) -> Read<i64> {
    let default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let version = model.opset_import.iter().find(|set| default(&set.domain)).map(|set| set.version);
    match version {
        None if model.ir_version == 0 => {
            malformed("it names neither a version of ONNX nor a set of operators")
        }
        None => malformed("it does not say which version of the operators it uses"),
        Some(version) if OPSETS.contains(&version) => Ok(version),
        Some(version) => {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            Err(ImportError::Refused(format!(
                "the operators are those of opset {version}, {first} to {last} are read; export it with opset_version={last}"
            )))
        }
    }
}

fn names_of(values: &[Bytes]) -> Read<Vec<String>> {
    let mut seen = HashSet::new();
    values
        .iter()
        .map(|bytes| {
            let value: ValueInfoProto = decode(bytes, MAX_FIELDS).map_err(ImportError::Malformed)?;
            match seen.insert(value.name.clone()) {
                true => Ok(value.name),
                false => malformed(format!("the output `{}` stands twice", shown(&value.name))),
            }
        })
        .collect()
}

/// The tensors of the file by name, not decoded yet.
fn stored(tensors: &[Bytes]) -> Read<HashMap<String, Bytes>> {
    let mut stored = HashMap::new();
    for bytes in tensors {
        // A tensor of unpacked numbers has a field for each; decoding counts them against its own limit.
        let name: TensorNameProto = decode(bytes, MAX_GRAPH_FIELDS * 2).map_err(ImportError::Malformed)?;
        let name = name.name;
        if stored.insert(name.clone(), bytes.clone()).is_some() {
            return malformed(format!("the tensor `{}` stands twice", shown(&name)));
        }
    }
    Ok(stored)
}

/// The inputs that are given at run time: old files list their tensors among the inputs too.
fn inputs(values: &[Bytes], stored: &HashMap<String, Bytes>) -> Read<Vec<Input>> {
    let mut seen = HashSet::new();
    let mut inputs = Vec::new();
    for bytes in values {
        let value: ValueInfoProto = decode(bytes, MAX_FIELDS).map_err(ImportError::Malformed)?;
        if stored.contains_key(&value.name) {
            continue;
        }
        if !seen.insert(value.name.clone()) {
            return malformed(format!("the input `{}` stands twice", shown(&value.name)));
        }
        inputs.push(input(value)?);
    }
    Ok(inputs)
}

fn input(value: ValueInfoProto) -> Read<Input> {
    let name = shown(&value.name);
    let level = |bytes: Option<Bytes>| bytes.unwrap_or_default();
    let kind: TypeProto = decode(&level(value.kind), MAX_FIELDS).map_err(ImportError::Malformed)?;
    let Some(tensor) = kind.tensor_type else {
        return Err(ImportError::Unsupported(format!("the input `{name}`, which is no tensor")));
    };
    let tensor: TensorTypeProto = decode(&tensor, MAX_FIELDS).map_err(ImportError::Malformed)?;
    let is_float = match tensor.elem_type {
        data::FLOAT | data::FLOAT16 | data::BFLOAT16 | data::DOUBLE => true,
        data::INT32 | data::INT64 => false,
        other => {
            return Err(ImportError::Unsupported(format!("the input `{name}` of {}", data::name(other))));
        }
    };
    let Some(shape) = tensor.shape else {
        return malformed(format!("the input `{name}` has no shape; export it with one"));
    };
    let shape: TensorShapeProto = decode(&shape, MAX_FIELDS).map_err(ImportError::Malformed)?;
    if shape.dim.len() > MAX_RANK {
        return malformed(format!(
            "the input `{name}` has {} axes, at most {MAX_RANK} are read",
            shape.dim.len()
        ));
    }
    let axes = shape.dim.iter().map(|dim| match dim.dim_value {
        // Some exporters write 0 or -1 for what is open.
        None | Some(0 | -1) => Ok(Axis::Open),
        Some(size) => match u32::try_from(size) {
            Ok(size) => Ok(Axis::Size(size as usize)),
            Err(_) => malformed(format!("the input `{name}` has an axis of size {size}")),
        },
    });
    Ok(Input { axes: axes.collect::<Read<_>>()?, name: value.name, is_float })
}

/// The nodes that the outputs need, each after those it reads from; in the file's order where that is one.
fn ordered(
    nodes: Vec<Node>,
    outputs: &[String],
    inputs: &[Input],
    stored: &HashMap<String, Bytes>,
) -> Read<Vec<Node>> {
    let mut given: HashSet<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    given.extend(stored.keys().map(String::as_str));
    let mut made = HashMap::new();
    for (number, node) in nodes.iter().enumerate() {
        for name in node.outputs.iter().filter(|name| !name.is_empty()) {
            if given.contains(name.as_str()) || made.insert(name.as_str(), number).is_some() {
                return malformed(format!("the value `{}` is made twice", shown(name)));
            }
        }
    }
    let mut order = depth_first(&nodes, &made, outputs, &given)?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let before = |n: usize| nodes[n].inputs.iter().all(|name| made.get(name.as_str()).is_none_or(|&p| p < n));
    if sorted.iter().all(|&n| before(n)) {
        order = sorted;
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|number| nodes[number].take()).collect())
}

/// Numbers of the nodes in an order in which each one's inputs come first, without recursion.
fn depth_first(
    nodes: &[Node],
    made: &HashMap<&str, usize>,
    outputs: &[String],
    given: &HashSet<&str>,
) -> Read<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let producer = |name: &str| match made.get(name) {
        Some(&number) => Ok(Some(number)),
        None if given.contains(name) => Ok(None),
        None => malformed(format!("the value `{}` is read but never made", shown(name))),
    };
    let (mut marks, mut order) = (vec![Mark::New; nodes.len()], Vec::new());
    for output in outputs {
        // A node, and how many of its inputs were looked at.
        let mut stack: Vec<(usize, usize)> = producer(output)?.map(|n| (n, 0)).into_iter().collect();
        while let Some((number, at)) = stack.pop() {
            if marks[number] == Mark::Done {
                continue;
            }
            marks[number] = Mark::Open;
            let inputs = &nodes[number].inputs;
            let next = inputs.iter().enumerate().skip(at).find(|(_, name)| !name.is_empty());
            let Some((position, name)) = next else {
                marks[number] = Mark::Done;
                order.push(number);
                continue;
            };
            stack.push((number, position + 1));
            match producer(name)? {
                Some(before) if marks[before] == Mark::Open => {
                    return malformed(format!(
                        "the node `{}` reads its own result: a cycle",
                        shown(&nodes[before].name)
                    ));
                }
                Some(before) if marks[before] == Mark::New => stack.push((before, 0)),
                _ => {}
            }
        }
    }
    Ok(order)
}
