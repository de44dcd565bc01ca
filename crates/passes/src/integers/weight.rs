//! States of bytes.

use std::collections::BTreeMap;

use espalier_graph::{Data, GraphError, Quant, Role, Shape, Source, Tensor, ValueId};

use super::{Found, Made, Pass, fresh};
use crate::layer::is_constant;
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
    pub fn floats(&self, shape: &[usize]) -> Vec<f32> {
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

/// What a bias in units of sums depends on: the old states of bias and weight, and the bytes that are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BiasOf {
    pub(super) bias: Option<ValueId>,
    pub(super) weight: ValueId,
    pub(super) x: Quant,
}

impl Pass<'_> {
    /// The byte weight that the old state `id` is, if its scales are per index along `axis`, or one for all.
    pub(super) fn byte_weight(&self, r: &Rewrite<'_>, id: ValueId, axis: usize) -> Option<&ByteWeight> {
        let weight = self.bytes.get(r.name(id))?;
        let fits = weight.fits(&sizes(r, id)) && (weight.scale.len() == 1 || weight.axis == axis);
        (fits && is_constant(r.old, id)).then_some(weight)
    }

    /// The constant old state `id` as it was, bytes as floats.
    pub(super) fn old_state(&mut self, r: &mut Rewrite<'_>, id: ValueId, name: &str) -> Made {
        let (shape, ty) = (sizes(r, id), r.old.ty(id).clone());
        let Source::State(state) = r.old.value(id).source else {
            unreachable!("only states are not made yet")
        };
        let content = match self.bytes.get(r.name(id)) {
            Some(weight) if !weight.fits(&shape) => {
                return Err(GraphError::Invalid(format!("`{name}` is {ty}, its bytes are not")));
            }
            Some(weight) => Some(Tensor::f32(&shape, weight.floats(&shape))),
            None => self.weights.get(r.name(id)).cloned(),
        };
        self.made.extend(content.map(|content| (name.to_string(), content)));
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
        let values = self.state(r, &name, Role::Weight, Tensor::new(shape, Data::S8(values.into())))?;
        let scale = self.state(
            r,
            &fresh(r, &format!("{name}.scale")),
            Role::Statistic,
            Tensor::f32(&[outputs], scale),
        )?;
        self.byte_states.insert((id, swapped), [values, scale]);
        Ok([values, scale])
    }

    /// The state of the bias `i32[outputs]` in units of the sums; `None` where some of it is not finite or beyond 32 bits.
    pub(super) fn byte_bias(&mut self, r: &mut Rewrite<'_>, of: BiasOf, outputs: usize) -> Found {
        if let Some(&state) = self.biases.get(&of) {
            return Ok(Some(state));
        }
        let weight_name = r.name(of.weight);
        let name = match of.bias {
            Some(bias) => self.own_name(r, bias),
            None => fresh(r, &format!("{}.bias", weight_name.strip_suffix(".weight").unwrap_or(weight_name))),
        };
        let scales = &self.bytes[weight_name].scale;
        let values = match of.bias {
            Some(bias) => self.floats(r, bias)?,
            None => vec![0.0; outputs],
        };
        let steps = |(o, &b): (usize, &f32)| {
            let unit = scales[o % scales.len()] * of.x.scale();
            let steps = (f64::from(b) / f64::from(unit)).round_ties_even();
            (steps.abs() <= f64::from(i32::MAX)).then_some(steps as i32)
        };
        let Some(steps) = values.iter().enumerate().map(steps).collect::<Option<Vec<i32>>>() else {
            return Ok(None);
        };
        let state =
            self.state(r, &name, Role::Statistic, Tensor::new(&[outputs], Data::I32(steps.into())))?;
        self.biases.insert(of, state);
        Ok(Some(state))
    }

    /// The content of a constant old state as floats.
    fn floats(&self, r: &Rewrite<'_>, id: ValueId) -> Result<Vec<f32>, GraphError> {
        let name = r.name(id);
        let given = self.weights.get(name).and_then(Tensor::as_f32).map(<[f32]>::to_vec);
        given
            .or_else(|| self.bytes.get(name).map(|weight| weight.floats(&sizes(r, id))))
            .ok_or_else(|| GraphError::Invalid(format!("the weights hold no floats called `{name}`")))
    }

    pub(super) fn table_state(&mut self, r: &mut Rewrite<'_>, name: &str, entries: &[u8; 256]) -> Made {
        let name = fresh(r, &format!("{name}.table"));
        self.state(r, &name, Role::Statistic, Tensor::new(&[256], Data::U8(entries.to_vec().into())))
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

/// The sizes of an old state.
pub(super) fn sizes(r: &Rewrite<'_>, id: ValueId) -> Vec<usize> {
    let Shape(dims) = &r.old.ty(id).shape;
    dims.iter().map(|d| d.known().unwrap_or(0)).collect()
}
