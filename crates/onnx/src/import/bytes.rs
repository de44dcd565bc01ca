//! Which constants of floats the file has as bytes.

use std::collections::HashMap;
use std::rc::Rc;

use espalier_passes::integers::ByteWeight;

use crate::import::constant::Constant;
use crate::import::node::Node;

/// Constants that are made of bytes, by their address, which lives as long as its entry.
#[derive(Default)]
pub(crate) struct Bytes(HashMap<*const Constant, (Rc<Constant>, Rc<ByteWeight>)>);

impl Bytes {
    /// What `c` is made of.
    pub(crate) fn of(&self, c: &Rc<Constant>) -> Option<&Rc<ByteWeight>> {
        self.0.get(&Rc::as_ptr(c)).map(|(_, bytes)| bytes)
    }

    /// Says what `c` is made of.
    pub(crate) fn remember(&mut self, c: &Rc<Constant>, bytes: Rc<ByteWeight>) {
        self.0.insert(Rc::as_ptr(c), (c.clone(), bytes));
    }

    /// Says that `to` is `from` with other axes behind the first.
    pub(crate) fn reshaped(&mut self, from: &Rc<Constant>, to: &Rc<Constant>) {
        if let Some(bytes) = self.of(from).filter(|bytes| bytes.axis == 0).cloned() {
            self.remember(to, bytes);
        }
    }

    /// Says that `node` made `to` of `from`: what moves a constant as a whole moves its bytes. Exporters turn matrices round.
    pub(crate) fn moved(&mut self, node: &Node, from: &Rc<Constant>, to: &Rc<Constant>) {
        let Some(bytes) = self.of(from).cloned() else { return };
        match (node.op.as_str(), &from.shape[..]) {
            ("Identity", _) => self.remember(to, bytes),
            ("Reshape" | "Flatten" | "Squeeze" | "Unsqueeze", [first, ..])
                if to.shape.first() == Some(first) =>
            {
                self.reshaped(from, to);
            }
            ("Transpose", &[rows, columns]) if turns(node) => {
                self.remember(to, Rc::new(transposed(&bytes, rows, columns)));
            }
            _ => {}
        }
    }
}

/// Whether a Transpose of a matrix swaps its axes.
fn turns(node: &Node) -> bool {
    node.ints("perm").is_ok_and(|perm| perm.is_none_or(|perm| perm == [1, 0]))
}

fn transposed(bytes: &ByteWeight, rows: usize, columns: usize) -> ByteWeight {
    let at = |i: usize| i % rows * columns + i / rows;
    let values = (0..bytes.values.len()).map(|i| bytes.values[at(i)]).collect();
    let axis = if bytes.scale.len() == 1 { 0 } else { 1 - bytes.axis };
    ByteWeight { values, scale: bytes.scale.clone(), axis }
}
