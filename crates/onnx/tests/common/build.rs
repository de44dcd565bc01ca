//! Writes ONNX messages byte by byte, right and wrong ones.
#![allow(dead_code)] // Each test uses a part of it.

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    fn varint(mut self, mut v: u64) -> Self {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
        self
    }

    pub(crate) fn int(self, tag: u64, v: i64) -> Self {
        self.varint(tag << 3).varint(v as u64)
    }

    pub(crate) fn bytes(self, tag: u64, bytes: &[u8]) -> Self {
        let mut message = self.varint(tag << 3 | 2).varint(bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    pub(crate) fn text(self, tag: u64, text: &str) -> Self {
        self.bytes(tag, text.as_bytes())
    }

    pub(crate) fn message(self, tag: u64, inner: Message) -> Self {
        self.bytes(tag, &inner.0)
    }
}

pub(crate) fn message() -> Message {
    Message::default()
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(message(), |m, name| m.text(1, name));
    outputs.iter().fold(node, |m, name| m.text(2, name)).text(3, outputs.first().unwrap_or(&"")).text(4, op)
}

pub(crate) fn int_attribute(name: &str, v: i64) -> Message {
    message().text(1, name).int(3, v).int(20, 2)
}

pub(crate) fn ints_attribute(name: &str, list: &[i64]) -> Message {
    list.iter().fold(message().text(1, name), |m, &v| m.int(8, v)).int(20, 7)
}

/// A tensor of floats with its raw bytes.
pub(crate) fn tensor(name: &str, dims: &[i64], raw: &[u8]) -> Message {
    dims.iter().fold(message(), |m, &d| m.int(1, d)).int(2, 1).text(8, name).bytes(9, raw)
}

/// A tensor of bytes: type 2 for unsigned, 3 for signed ones.
pub(crate) fn bytes(name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> Message {
    dims.iter().fold(message(), |m, &d| m.int(1, d)).int(2, kind).text(8, name).bytes(9, raw)
}

/// A tensor of 64-bit integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    message().int(1, values.len() as i64).int(2, 7).text(8, name).bytes(9, &raw)
}

/// A tensor of floats whose bytes lie in another file.
pub(crate) fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Message {
    let tensor = dims.iter().fold(message(), |m, &d| m.int(1, d)).int(2, 1).text(8, name).int(14, 1);
    entries.iter().fold(tensor, |m, (key, value)| m.message(13, message().text(1, key).text(2, value)))
}

/// An input or output of floats.
pub(crate) fn value(name: &str, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(message(), |m, &d| m.message(1, message().int(1, d)));
    let tensor = message().int(1, 1).message(2, shape);
    message().text(1, name).message(2, message().message(1, tensor))
}

/// A graph from `x` f32[1,4] to `y`.
pub(crate) fn graph(nodes: &[Message], tensors: &[Message]) -> Message {
    let graph = nodes.iter().fold(message(), |m, node| m.message(1, node.clone()));
    let graph = tensors.iter().fold(graph, |m, tensor| m.message(5, tensor.clone()));
    graph.message(11, value("x", &[1, 4])).message(12, value("y", &[1, 4]))
}

pub(crate) fn model(graph: Message) -> Vec<u8> {
    message().int(1, 8).message(7, graph).message(8, message().int(2, 13)).0
}

/// The smallest whole model: `y = relu(x) + w`.
pub(crate) fn small() -> Vec<u8> {
    let nodes = [node("Relu", &["x"], &["r"]), node("Add", &["r", "w"], &["y"])];
    model(graph(&nodes, &[tensor("w", &[4], &[0; 16])]))
}
