//! States of bytes.

use std::collections::BTreeMap;

use espalier_graph::{Data, GraphError, Role, Shape, Source, Tensor, ValueId};

use super::{Made, Pass, fresh};
use crate::rewrite::Rewrite;

/// A float weight whose elements are `scale * value`.
#[derive(Clone, Debug, PartialEq)]
pub struct ByteWeight {
    /// Row-major.
    pub values: Vec<i8>,
    /// One for all, or one for each index along `axis`.
    pub scale: Vec<f32>,
    /// The axis of the scales.
    pub axis: usize,
}

/// The byte weights of a graph, by the names of their states.
pub type ByteWeights = BTreeMap<String, ByteWeight>;

impl ByteWeight {
    /// The only element.
    pub(super) fn number(&self) -> Option<f32> {
        match (&self.values[..], &self.scale[..]) {
            (&[value], &[scale]) => Some(f32::from(value) * scale),
            _ => None,
        }
    }

    /// The floats, in `shape`.
    fn floats(&self, shape: &[usize]) -> Vec<f32> {
        let (size, inner) = match self.scale.len() {
            1 => (1, 1),
            size => (size, shape[self.axis + 1..].iter().product::<usize>().max(1)),
        };
        self.values.iter().enumerate().map(|(i, &v)| f32::from(v) * self.scale[i / inner % size]).collect()
    }

    /// Whether the bytes are those of a tensor of this shape.
    fn fits(&self, shape: &[usize]) -> bool {
        let per_channel = self.scale.len() == 1 || shape.get(self.axis) == Some(&self.scale.len());
        per_channel && shape.iter().product::<usize>() == self.values.len()
    }
}

impl Pass<'_> {
    /// The byte weight that the old state `id` is, if its scales are per index along `axis`, or one for all.
    pub(super) fn byte_weight(&self, r: &Rewrite<'_>, id: ValueId, axis: usize) -> Option<&ByteWeight> {
        let weight = self.bytes.get(r.name(id))?;
        let fits = weight.fits(&sizes(r, id)) && (weight.scale.len() == 1 || weight.axis == axis);
        (fits && is_constant(r, id)).then_some(weight)
    }

    /// The old state of bytes `id` as floats.
    pub(super) fn float_state(&mut self, r: &mut Rewrite<'_>, id: ValueId, name: &str) -> Made {
        let (shape, ty) = (sizes(r, id), r.old.ty(id).clone());
        let found = self.bytes.get(r.name(id)).filter(|weight| weight.fits(&shape));
        let Some(weight) = found else {
            return Err(GraphError::Invalid(format!("`{name}` is {ty}, its bytes are not")));
        };
        let Source::State(state) = r.old.value(id).source else { unreachable!("byte weights are states") };
        self.made.insert(name.into(), Tensor::f32(&shape, weight.floats(&shape)));
        r.new.add_state(name, r.old.states()[state].role, ty)
    }

    /// The states of bytes `s8[O, rest]` and scales `f32[O]` of the weight `id`, which has the outputs on its first axis, or
    /// (`swapped`) is `[K, O]`; `shape` is that of the bytes.
    pub(super) fn byte_states(
        &mut self,
        r: &mut Rewrite<'_>,
        id: ValueId,
        swapped: bool,
        shape: &[usize],
    ) -> Result<[ValueId; 2], GraphError> {
        if let Some(&states) = self.byte_states.get(&(id, swapped)) {
            return Ok(states);
        }
        let weight = &self.bytes[r.name(id)];
        let outputs = shape[0];
        let values = match swapped {
            true => transposed(&weight.values, outputs),
            false => weight.values.clone(),
        };
        let scale = match weight.scale[..] {
            [one] => vec![one; outputs],
            _ => weight.scale.clone(),
        };
        let name = self.own_name(r, id);
        let values = self.state(r, &name, Role::Weight, Tensor::new(shape, Data::S8(values)))?;
        let scale = self.state(
            r,
            &fresh(r, &format!("{name}.scale")),
            Role::Statistic,
            Tensor::f32(&[outputs], scale),
        )?;
        self.byte_states.insert((id, swapped), [values, scale]);
        Ok([values, scale])
    }

    /// A bias of zeros beside `weight`.
    pub(super) fn zeros(&mut self, r: &mut Rewrite<'_>, weight: ValueId, outputs: usize) -> Made {
        if let Some(&zeros) = self.zeros.get(&weight) {
            return Ok(zeros);
        }
        let name = r.name(weight);
        let name = fresh(r, &format!("{}.bias", name.strip_suffix(".weight").unwrap_or(name)));
        let zeros = self.state(r, &name, Role::Statistic, Tensor::f32(&[outputs], vec![0.0; outputs]))?;
        self.zeros.insert(weight, zeros);
        Ok(zeros)
    }

    pub(super) fn table_state(&mut self, r: &mut Rewrite<'_>, name: &str, entries: &[u8; 256]) -> Made {
        let name = fresh(r, &format!("{name}.table"));
        self.state(r, &name, Role::Statistic, Tensor::new(&[256], Data::U8(entries.to_vec())))
    }

    fn state(&mut self, r: &mut Rewrite<'_>, name: &str, role: Role, content: Tensor) -> Made {
        let ty = content.ty();
        self.made.insert(name.into(), content);
        r.new.add_state(name, role, ty)
    }
}

/// `[K, O]` as `[O, K]`.
fn transposed(values: &[i8], outputs: usize) -> Vec<i8> {
    let depth = values.len() / outputs.max(1);
    (0..values.len()).map(|i| values[i % depth * outputs + i / depth]).collect()
}

/// Whether no run changes the old state `id`.
pub(super) fn is_constant(r: &Rewrite<'_>, id: ValueId) -> bool {
    match r.old.value(id).source {
        Source::State(state) => r.old.states()[state].next.is_none(),
        Source::Input | Source::Node { .. } => false,
    }
}

/// The sizes of an old state.
pub(super) fn sizes(r: &Rewrite<'_>, id: ValueId) -> Vec<usize> {
    let Shape(dims) = &r.old.ty(id).shape;
    dims.iter().map(|d| d.known().unwrap_or(0)).collect()
}
