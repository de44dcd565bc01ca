//! One node of a file, with typed access to its attributes.

use std::collections::BTreeMap;

use prost::bytes::Bytes;

use crate::import::fault::{Fault, ImportError, malformed};
use crate::import::tensor::shown;
use crate::proto::{AttributeProto, NodeProto, attribute, decode};

/// Most numbers in one attribute.
const MAX_NUMBERS: usize = 1 << 20;

/// What an attribute holds.
#[derive(Clone, Debug)]
enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    /// A tensor's message.
    Tensor(Bytes),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// A subgraph, texts, and the like.
    Other,
}

/// One operation of a file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its name, or that of its first output where it has none.
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) domain: String,
    /// Empty for optional inputs that are absent.
    pub(crate) inputs: Vec<String>,
    /// Empty for outputs that nobody wants.
    pub(crate) outputs: Vec<String>,
    attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// Decodes the message `bytes`.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read(bytes: &Bytes, fields: usize) -> Result<Node, ImportError> {
        let node: NodeProto = decode(bytes, fields).map_err(ImportError::Malformed)?;
        let mut attributes = BTreeMap::new();
        for bytes in &node.attribute {
            let (name, attribute) = Attribute::read(bytes).map_err(ImportError::Malformed)?;
            attributes.insert(name, attribute);
        }
        let first = node.output.first().cloned().unwrap_or_default();
        Ok(Node {
            name: if node.name.is_empty() { first } else { node.name },
            op: node.op_type,
            domain: node.domain,
            inputs: node.input,
            outputs: node.output,
            attributes,
        })
    }

    /// The number of the attribute `name`, if it is there.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Int(v)) => Ok(Some(*v)),
            Some(_) => Err(wrong(name, "an integer")),
        }
    }

    pub(crate) fn int_or(&self, name: &str, default: i64) -> Result<i64, Fault> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A flag, which ONNX writes as 0 or 1.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Fault> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }

    pub(crate) fn float(&self, name: &str) -> Result<Option<f32>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Float(v)) if v.is_nan() => {
                Err(malformed(format!("its attribute `{name}` is NaN")))
            }
            Some(Attribute::Float(v)) => Ok(Some(*v)),
            Some(_) => Err(wrong(name, "a float")),
        }
    }

    pub(crate) fn float_or(&self, name: &str, default: f32) -> Result<f32, Fault> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Text(v)) => Ok(Some(v)),
            Some(_) => Err(wrong(name, "a text")),
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<&[i64]>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(wrong(name, "a list of integers")),
        }
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Option<&[f32]>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(v)) => Ok(Some(v)),
            Some(_) => Err(wrong(name, "a list of floats")),
        }
    }

    /// The message of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<&Bytes>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(v)) => Ok(Some(v)),
            Some(_) => Err(wrong(name, "a tensor")),
        }
    }
}

fn wrong(name: &str, wanted: &str) -> Fault {
    malformed(format!("its attribute `{name}` should be {wanted}"))
}

impl Attribute {
    fn read(bytes: &Bytes) -> Result<(String, Attribute), String> {
        let a: AttributeProto = decode(bytes, MAX_NUMBERS)?;
        if a.floats.len().max(a.ints.len()) > MAX_NUMBERS {
            return Err(format!("the attribute `{}` has more than {MAX_NUMBERS} numbers", shown(&a.name)));
        }
        let value = match a.kind {
            attribute::FLOAT => Attribute::Float(a.f),
            attribute::INT => Attribute::Int(a.i),
            attribute::STRING => {
                let text = String::from_utf8(a.s.to_vec());
                Attribute::Text(text.map_err(|_| format!("the attribute `{}` is no UTF-8", shown(&a.name)))?)
            }
            attribute::TENSOR => Attribute::Tensor(a.t),
            attribute::FLOATS => Attribute::Floats(a.floats),
            attribute::INTS => Attribute::Ints(a.ints),
            _ => Attribute::Other,
        };
        Ok((a.name, value))
    }
}
