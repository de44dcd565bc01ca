//! An ONNX graph under construction: nodes, constants and names, each once.

use std::collections::{HashMap, HashSet};

use espalier_graph::{Data, Quant, Tensor};
use prost::Message;
use prost::bytes::Bytes;

use crate::proto::{AttributeProto, NodeProto, TensorProto, attribute, data};

/// Nodes and constants on their way into a file.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) nodes: Vec<Bytes>,
    pub(super) initializers: Vec<Bytes>,
    taken: HashSet<String>,
    /// The last number given to each base.
    numbers: HashMap<String, usize>,
    /// Scale and zero point of each quantization.
    quants: HashMap<Quant, [String; 2]>,
}

impl Draft {
    /// `base`, or, where that is taken, `base` with a number.
    pub(super) fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        while !self.taken.insert(name.clone()) {
            let number = self.numbers.entry(base.into()).or_default();
            *number += 1;
            name = format!("{base}.{number}");
        }
        name
    }

    /// Appends a node that makes `output`, after which it is called.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attributes: &[AttributeProto], output: &str) {
        let node = NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op.into(),
            attribute: attributes.iter().map(encoded).collect(),
            domain: String::new(),
        };
        self.nodes.push(encoded(&node));
    }

    /// Appends a node on the way to `base`, whose own part is called `part`; returns what it makes.
    pub(super) fn step(
        &mut self,
        base: &str,
        part: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[AttributeProto],
    ) -> String {
        let name = self.fresh(&format!("{base}.{part}"));
        self.node(op, inputs, attributes, &name);
        name
    }

    /// Stores `tensor` under `name`, which has to be free.
    pub(super) fn store(&mut self, name: &str, tensor: &Tensor) {
        let dims = tensor.shape.iter().map(|&d| d as i64).collect();
        let kind = match tensor.data {
            Data::F32(_) => data::FLOAT,
            Data::I32(_) => data::INT32,
            Data::U8(_) => data::UINT8,
            Data::S8(_) => data::INT8,
        };
        self.raw(name, dims, kind, tensor.data.to_le_bytes());
    }

    fn raw(&mut self, name: &str, dims: Vec<i64>, data_type: i32, bytes: Vec<u8>) {
        let raw_data = Some(bytes.into());
        let tensor = TensorProto { dims, data_type, name: name.into(), raw_data, ..TensorProto::default() };
        self.initializers.push(encoded(&tensor));
    }

    /// A constant tensor called after `base`.
    pub(super) fn constant(&mut self, base: &str, tensor: &Tensor) -> String {
        let name = self.fresh(base);
        self.store(&name, tensor);
        name
    }

    /// A constant number of no axes.
    pub(super) fn number(&mut self, base: &str, value: f32) -> String {
        self.constant(base, &Tensor::f32(&[], vec![value]))
    }

    /// A constant list of sizes, axes or indices.
    pub(super) fn list(&mut self, base: &str, values: &[i64]) -> String {
        let name = self.fresh(base);
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(&name, vec![values.len() as i64], data::INT64, bytes);
        name
    }

    /// Scale and zero point of a value that flows.
    fn quant(&mut self, quant: Quant) -> [String; 2] {
        if let Some(names) = self.quants.get(&quant) {
            return names.clone();
        }
        let scale = self.number("scale", quant.scale());
        let zero = self.constant("zero", &Tensor::new(&[], Data::U8(vec![quant.zero()].into())));
        let names = [scale, zero];
        self.quants.insert(quant, names.clone());
        names
    }

    /// Rounds the float `x` to the bytes `output`.
    pub(super) fn quantize(&mut self, x: &str, to: Quant, output: &str) {
        let [scale, zero] = self.quant(to);
        self.node("QuantizeLinear", &[x, &scale, &zero], &[], output);
    }

    /// Makes of the bytes `x` the float `output`.
    pub(super) fn dequantize(&mut self, x: &str, from: Quant, output: &str) {
        let [scale, zero] = self.quant(from);
        self.node("DequantizeLinear", &[x, &scale, &zero], &[], output);
    }
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, kind: attribute::INT, ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, list: &[usize]) -> AttributeProto {
    let ints = list.iter().map(|&v| v as i64).collect();
    AttributeProto { name: name.into(), ints, kind: attribute::INTS, ..AttributeProto::default() }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, kind: attribute::FLOAT, ..AttributeProto::default() }
}

pub(super) fn text(name: &str, s: &str) -> AttributeProto {
    let s = Bytes::copy_from_slice(s.as_bytes());
    AttributeProto { name: name.into(), s, kind: attribute::STRING, ..AttributeProto::default() }
}

/// A tensor of one element, as ConstantOfShape takes it.
pub(super) fn value(name: &str, v: f32) -> AttributeProto {
    let raw_data = Some(Bytes::copy_from_slice(&v.to_le_bytes()));
    let tensor = TensorProto { dims: vec![1], data_type: data::FLOAT, raw_data, ..TensorProto::default() };
    AttributeProto {
        name: name.into(),
        t: encoded(&tensor),
        kind: attribute::TENSOR,
        ..AttributeProto::default()
    }
}
