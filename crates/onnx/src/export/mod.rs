//! The way out: a graph becomes an ONNX file that ONNX Runtime and OpenVINO run as it is.
//!
//! Every op of our vocabulary becomes the operator of the same meaning, or a few of them. What computes with bytes is said in
//! floats between QuantizeLinear and DequantizeLinear, in the patterns that runtimes fuse to integers and that our own
//! importer reads back to the same ops. No rounding is added or removed.

mod arithmetic;
mod draft;
mod integers;
mod movement;
mod products;
mod table;

use std::collections::{BTreeMap, HashSet};

use espalier_graph::{DType, Dim, Graph, GraphError, Node, Op, Shape, Stage, ValueId, Weights, verify};
use prost::Message;
use prost::bytes::Bytes;

use crate::MAX_FILE;
use crate::proto::{
    DimensionProto, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, data,
};
use draft::Draft;

/// The version of the operator set that is written: the first with LayerNormalization, which runtimes of 2022 read.
pub const OPSET: i64 = 17;

/// The version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;

/// What a file says about itself beside its graph.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The model's name.
    pub name: String,
    /// A sentence for people.
    pub doc: String,
    /// `metadata_props`; `Metadata::write` makes those that importers know.
    pub metadata: BTreeMap<String, String>,
}

/// A graph that became a file.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// Nodes of the file.
    pub nodes: usize,
    /// The outputs' names in the file, in the graph's order.
    pub outputs: Vec<String>,
}

/// Why a graph was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A node that ONNX has no operators for.
    #[error("node `{node}` ({op}) {reason}")]
    Node {
        /// Its name.
        node: String,
        /// Its op.
        op: &'static str,
        /// Why not.
        reason: String,
    },
    /// An input or output that ONNX cannot describe, or a weight that is not there.
    #[error("{0}")]
    Value(String),
    /// More bytes than an ONNX file without external data can have.
    #[error("the file would take {0} bytes, an ONNX file holds at most {MAX_FILE}")]
    TooLarge(u64),
    /// The graph breaks a rule of its stage.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Why one node was not exported.
type Written = Result<(), String>;

/// The ONNX file of a portable graph with the content of its states.
///
/// # Errors
/// A node that has no counterpart, weights that are not there, a file beyond 2 GiB.
pub fn export(graph: &Graph, weights: &Weights, about: &About) -> Result<Exported, ExportError> {
    verify(graph, Stage::Portable)?;
    let size = weights.values().map(|t| t.data.as_bytes().len() as u64).sum();
    if size > MAX_FILE {
        return Err(ExportError::TooLarge(size));
    }
    let mut exporter = Exporter::new(graph, weights)?;
    for node in graph.nodes() {
        exporter.write(node).map_err(|reason| ExportError::Node {
            node: graph.node_name(node).into(),
            op: node.op.name(),
            reason,
        })?;
    }
    exporter.finish(about)
}

/// A graph on its way into a file.
struct Exporter<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    draft: Draft,
    /// The name in the file, by value.
    names: Vec<String>,
    /// The outputs' names in the file.
    outputs: Vec<String>,
    /// States that are in the file.
    stored: HashSet<ValueId>,
}

impl<'a> Exporter<'a> {
    /// Gives every value its name: in a file, outputs are values.
    fn new(graph: &'a Graph, weights: &'a Weights) -> Result<Self, ExportError> {
        let mut draft = Draft::default();
        let mut names = vec![String::new(); graph.values().len()];
        for &id in graph.inputs() {
            names[id.index()] = draft.fresh(&graph.value(id).name);
        }
        let mut outputs = Vec::new();
        for (name, id) in graph.outputs() {
            let fresh = draft.fresh(name);
            if names[id.index()].is_empty() && graph.producer(*id).is_some() {
                names[id.index()] = fresh.clone();
            }
            outputs.push(fresh);
        }
        for (value, name) in graph.values().iter().zip(&mut names) {
            if name.is_empty() {
                *name = draft.fresh(&value.name);
            }
        }
        if let Some(state) = graph.states().iter().find(|s| !weights.contains_key(&graph.value(s.value).name))
        {
            let name = &graph.value(state.value).name;
            return Err(ExportError::Value(format!("the weights hold nothing called `{name}`")));
        }
        Ok(Exporter { graph, weights, draft, names, outputs, stored: HashSet::new() })
    }

    /// The value's name in the file, where a state is stored when it is first asked for.
    fn at(&mut self, id: ValueId) -> String {
        let name = self.names[id.index()].clone();
        if self.graph.is_state(id) && self.stored.insert(id) {
            self.draft.store(&name, &self.weights[&self.graph.value(id).name]);
        }
        name
    }

    /// The value as a float: bytes are dequantized, for each reader anew, as runtimes want to find it.
    fn float(&mut self, id: ValueId) -> String {
        let name = self.at(id);
        match self.graph.ty(id).dtype {
            DType::Q8(quant) => {
                let float = self.draft.fresh(&format!("{name}.float"));
                self.draft.dequantize(&name, quant, &float);
                float
            }
            _ => name,
        }
    }

    fn dims(&self, id: ValueId) -> &'a [Dim] {
        &self.graph.ty(id).shape.0
    }

    /// Sizes that do not depend on the batch.
    fn known(&self, dims: &[Dim]) -> Result<Vec<usize>, String> {
        let known = dims.iter().map(|d| d.known()).collect::<Option<Vec<_>>>();
        known.ok_or_else(|| format!("needs known sizes, has {}", Shape(dims.to_vec())))
    }

    /// The name of the result of `node`.
    fn result(&self, node: &Node) -> String {
        self.names[node.outputs[0].index()].clone()
    }

    /// Writes one node. An op that is new has to be given its place here.
    fn write(&mut self, node: &Node) -> Written {
        match &node.op {
            Op::Conv { window, groups } => self.conv(node, window, *groups),
            Op::ConvInputGrad { window, groups, input } => self.transposed(node, window, *groups, *input),
            Op::MatMul { trans_a, trans_b } => self.matmul(node, *trans_a, *trans_b),
            Op::MaxPool { window } => self.moved(node, |e, x, y| e.max_pool(window, x, y)),
            Op::AvgPool { window, count_pad } => {
                let (x, y) = (self.at(node.inputs[0]), self.result(node));
                self.avg_pool(window, *count_pad, &x, &y);
                Ok(())
            }
            Op::Resize { mode, size } => {
                let dims = self.dims(node.inputs[0]);
                self.moved(node, |e, x, y| e.resize(*mode, *size, dims, x, y))
            }
            Op::BatchNorm { eps, .. } => self.batch_norm(node, *eps),
            Op::LayerNorm { eps } => self.layer_norm(node, *eps),
            Op::Unary { f } => {
                let (x, y) = (self.at(node.inputs[0]), self.result(node));
                self.function(*f, &x, &y);
                Ok(())
            }
            Op::Binary { f } => self.binary(node, *f),
            Op::Fill { shape, value } => self.fill(node, shape, *value),
            Op::Cast { to } => self.cast(node, *to),
            Op::Reduce { f, axes, keep } => self.reduce(node, *f, axes, *keep),
            Op::Softmax { axis } => self.along(node, "Softmax", *axis),
            Op::LogSoftmax { axis } => self.along(node, "LogSoftmax", *axis),
            Op::Reshape { shape } => {
                let shape = self.reshaped(node, shape)?;
                self.moved(node, |e, x, y| {
                    e.draft.node("Reshape", &[x, &shape], &[], y);
                    Ok(())
                })
            }
            Op::Transpose { perm } => self.moved(node, |e, x, y| {
                e.draft.node("Transpose", &[x], &[draft::ints("perm", perm)], y);
                Ok(())
            }),
            Op::Expand { shape } => self.expand(node, shape),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Slice { axis, start, end } => self.slice(node, *axis, *start, *end),
            Op::Pad { axis, before, after, value } => self.pad(node, *axis, [*before, *after], *value),
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Quantize { to } => {
                let (x, y) = (self.at(node.inputs[0]), self.result(node));
                self.draft.quantize(&x, *to, &y);
                Ok(())
            }
            Op::Dequantize => self.dequantize(node),
            Op::QConv { window, groups, to, limits } => self.qconv(node, window, *groups, *to, *limits),
            Op::QAdd { to, limits } => self.joined(node, "Add", *to, *limits),
            Op::QMul { to, limits } => self.joined(node, "Mul", *to, *limits),
            Op::QAvgPool { window, count_pad, to } => self.qavg_pool(node, window, *count_pad, *to),
            Op::Table { to } => self.table(node, *to),
            Op::ConvWeightGrad { .. }
            | Op::MaxPoolGrad { .. }
            | Op::AvgPoolGrad { .. }
            | Op::ResizeGrad { .. }
            | Op::BatchNormTraining { .. }
            | Op::BatchNormGrad
            | Op::LayerNormGrad { .. }
            | Op::UnaryGrad { .. }
            | Op::Dropout { .. }
            | Op::SoftmaxGrad { .. }
            | Op::CrossEntropy
            | Op::CrossEntropyGrad
            | Op::GatherGrad { .. }
            | Op::GlobalNorm
            | Op::Sgd { .. }
            | Op::AdamW { .. }
            | Op::Ema => Err("belongs to training and is not exported".into()),
        }
    }

    /// Writes what moves or chooses elements: of bytes, floats between roundings of one quantization.
    fn moved(&mut self, node: &Node, write: impl FnOnce(&mut Self, &str, &str) -> Written) -> Written {
        let (x, y) = (self.float(node.inputs[0]), self.result(node));
        self.ending(node, &y, |e, float| write(e, &x, float))
    }

    /// Writes a node whose result is the float `y`, or is rounded to the bytes `y` without a change of quantization.
    fn ending(&mut self, node: &Node, y: &str, write: impl FnOnce(&mut Self, &str) -> Written) -> Written {
        match self.graph.ty(node.outputs[0]).dtype {
            DType::Q8(quant) => {
                let float = self.draft.fresh(&format!("{y}.moved"));
                write(self, &float)?;
                self.draft.quantize(&float, quant, y);
                Ok(())
            }
            _ => write(self, y),
        }
    }

    fn finish(mut self, about: &About) -> Result<Exported, ExportError> {
        for ((_, id), name) in self.graph.outputs().iter().zip(self.outputs.clone()) {
            let value = self.at(*id);
            if value != name {
                self.draft.node("Identity", &[&value], &[], &name);
            }
        }
        let described = |name: &str, id: ValueId| described(name, self.graph, id);
        let inputs = self.graph.inputs().iter().map(|&id| described(&self.names[id.index()], id));
        let input = inputs.collect::<Result<_, _>>()?;
        let outputs = self.graph.outputs().iter().zip(&self.outputs);
        let output = outputs.map(|((_, id), name)| described(name, *id)).collect::<Result<_, _>>()?;
        let nodes = self.draft.nodes.len();
        let graph = GraphProto {
            node: self.draft.nodes,
            name: about.name.clone(),
            initializer: self.draft.initializers,
            input,
            output,
            sparse_initializer: Vec::new(),
        };
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "espalier".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            doc_string: about.doc.clone(),
            graph: Some(sized(&graph)?.into()),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: about
                .metadata
                .iter()
                .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
                .collect(),
        };
        Ok(Exported { bytes: sized(&model)?, nodes, outputs: self.outputs })
    }
}

/// The bytes of a message, if a file can hold them.
fn sized(message: &impl Message) -> Result<Vec<u8>, ExportError> {
    match message.encoded_len() as u64 {
        bytes if bytes > MAX_FILE => Err(ExportError::TooLarge(bytes)),
        _ => Ok(message.encode_to_vec()),
    }
}

/// Name, element type and shape of an input or output.
fn described(name: &str, graph: &Graph, id: ValueId) -> Result<Bytes, ExportError> {
    let ty = graph.ty(id);
    let elem_type = match ty.dtype {
        DType::F32 => data::FLOAT,
        DType::I32 => data::INT32,
        other => {
            return Err(ExportError::Value(format!("`{name}` is of {other}, floats or i32 are exported")));
        }
    };
    let mut dim = Vec::new();
    for &size in &ty.shape.0 {
        dim.push(match size.known() {
            Some(known) => DimensionProto { dim_value: Some(known as i64), dim_param: None },
            None if size.time > 0 => {
                return Err(ExportError::Value(format!(
                    "`{name}` is {ty}: lengths in time are not exported"
                )));
            }
            None => DimensionProto { dim_value: None, dim_param: Some(size.to_string()) },
        });
    }
    let shape = Some(TensorShapeProto { dim }.encode_to_vec().into());
    let tensor = TensorTypeProto { elem_type, shape };
    let kind = TypeProto { tensor_type: Some(tensor.encode_to_vec().into()) };
    let info = ValueInfoProto { name: name.into(), kind: Some(kind.encode_to_vec().into()) };
    Ok(info.encode_to_vec().into())
}
