//! Roundings that can be trained: quantization-aware training (Jacob et al. 2018, "Quantization and training of neural
//! networks for efficient integer-arithmetic-only inference").
//!
//! Where [`quantize`](crate::quantize()) rounds a value to bytes, here it is rounded in floats to the same numbers, by ops that
//! have gradients: `round(clip(x / scale)) * scale`. Gradients pass straight through the rounding, so that of the scale is what
//! LSQ defines (Esser et al. 2020, "Learned step size quantization"): the scale is learned, the byte that stands for zero
//! stays. Weights are rounded to 127 steps of their largest magnitude, as they will be in bytes, whatever they become.

use std::collections::BTreeMap;

use espalier_graph::{
    BinaryFn, Graph, GraphError, Node, Op, Quant, ReduceFn, Role, Shape, Stage, Tensor, TensorType, UnaryFn,
    ValueId, Weights, verify,
};

use crate::layer::layers;
use crate::quantize::{Quantized, Ranges, Settings, quants_by_name};
use crate::rewrite::{Item, Rewrite, rewrite};

/// The least scale of a weight: that of an output without weights.
const SMALLEST_SCALE: f32 = 1e-12;

/// A graph whose roundings can be trained.
#[derive(Clone, Debug)]
pub struct FakeQuantized {
    /// Floats throughout.
    pub graph: Graph,
    /// Its states.
    pub weights: Weights,
    scales: Vec<Scale>,
}

/// A scale that is learned: `begin + step * state`.
#[derive(Clone, Debug)]
struct Scale {
    quant: Quant,
    state: String,
    /// Makes the rate that suits weights suit scales: the root of LSQ's factor for gradients, which acts twice.
    step: f32,
}

/// What `quantized` rounds, rounded so that it can be trained. It was made of a graph with the states `weights` and with
/// `settings`.
///
/// # Errors
/// `weights` lack a state.
pub fn fake_quant(
    quantized: &Quantized,
    weights: &Weights,
    settings: &Settings,
) -> Result<FakeQuantized, GraphError> {
    let old = &quantized.graph;
    let mut axes: BTreeMap<ValueId, usize> = BTreeMap::new();
    for layer in
        layers(old).iter().filter(|layer| quantized.bytes.contains_key(&old.value(layer.weight).name))
    {
        axes.insert(layer.weight, layer.axis);
    }
    let mut scales: Vec<Scale> = Vec::new();
    let graph = rewrite(old, |r, item| match item {
        Item::State(state) if axes.contains_key(&state.value) => {
            r.copy(item)?;
            let axis = (!settings.per_tensor).then_some(axes[&state.value]);
            round_weight(r, state.value, axis)
        }
        Item::Node(node) => match node.op {
            // Rounded where it becomes a float again.
            Op::Quantize { .. } => {
                let x = r.at(node.inputs[0])?;
                r.replace(node.outputs[0], x);
                Ok(())
            }
            Op::Dequantize => round_value(r, node, &mut scales),
            _ => r.copy(item),
        },
        item => r.copy(item),
    })?;
    verify(&graph, Stage::Trainable)?;
    let mut all = weights.clone();
    all.extend(scales.iter().map(|scale| (scale.state.clone(), Tensor::f32(&[], vec![0.0]))));
    let is_state = |name: &str| graph.find(name).is_some_and(|id| graph.is_state(id));
    all.retain(|name, _| is_state(name));
    Ok(FakeQuantized { graph, weights: all, scales })
}

impl FakeQuantized {
    /// The ranges that `trained`, the states of [`FakeQuantized::graph`] after training, give the values of `graph`, which
    /// had `ranges` before.
    ///
    /// # Errors
    /// `ranges` or `trained` lack something.
    pub fn ranges(
        &self,
        graph: &Graph,
        ranges: &Ranges,
        settings: &Settings,
        trained: &Weights,
    ) -> Result<Ranges, GraphError> {
        let mut learned = ranges.clone();
        for (name, quant) in quants_by_name(graph, ranges, settings)? {
            let Some(scale) = self.scales.iter().find(|scale| scale.quant == quant) else { continue };
            let state = trained.get(&scale.state).and_then(|tensor| tensor.as_f32()).ok_or_else(|| {
                GraphError::Invalid(format!("the weights lack the state `{}`", scale.state))
            })?;
            let step = scale.value(state[0]);
            let bytes = |q: u8| (f32::from(q) - f32::from(quant.zero())) * step;
            learned.insert(name, [bytes(0), bytes(255)]);
        }
        Ok(learned)
    }
}

impl Scale {
    /// The scale that it stands for; as the graph computes it.
    fn value(&self, state: f32) -> f32 {
        state.mul_add(self.step, self.quant.scale()).abs().max(SMALLEST_SCALE)
    }
}

/// Whoever reads the weight from now on reads it rounded; with one scale for each index of `axis`, or one.
fn round_weight(r: &mut Rewrite<'_>, weight: ValueId, axis: Option<usize>) -> Result<(), GraphError> {
    let (name, w) = (r.name(weight).to_string(), r.at(weight)?);
    let named = |r: &Rewrite<'_>, end: &str| r.new.fresh(&r.old.fresh(&format!("{name}.{end}")));
    let axes = (0..r.old.ty(weight).shape.rank()).filter(|&at| Some(at) != axis).collect();
    let magnitude = r.new.unary(&named(r, "magnitude"), UnaryFn::Abs, w)?;
    let largest = Op::Reduce { f: ReduceFn::Max, axes, keep: true };
    let largest = r.new.add(&named(r, "largest"), largest, &[magnitude])?;
    let scale = UnaryFn::Affine { scale: 1.0 / 127.0, offset: 0.0 };
    let scale = r.new.unary(&named(r, "scale"), scale, largest)?;
    let least = Op::Fill { shape: Shape::default(), value: SMALLEST_SCALE };
    let least = r.new.add(&named(r, "scale.least"), least, &[])?;
    let scale = r.new.add(&named(r, "scale.used"), Op::Binary { f: BinaryFn::Max }, &[scale, least])?;
    let steps = r.new.add(&named(r, "steps"), Op::Binary { f: BinaryFn::Div }, &[w, scale])?;
    let whole = r.new.unary(&named(r, "whole"), UnaryFn::Round, steps)?;
    let rounded = r.new.add(&named(r, "rounded"), Op::Binary { f: BinaryFn::Mul }, &[whole, scale])?;
    r.replace(weight, rounded);
    Ok(())
}

/// What `node` makes of bytes, made of the floats before they were bytes.
fn round_value(r: &mut Rewrite<'_>, node: &Node, scales: &mut Vec<Scale>) -> Result<(), GraphError> {
    let (bytes, y) = (node.inputs[0], node.outputs[0]);
    let quant = r.old.ty(bytes).dtype.quant().expect("Dequantize reads bytes");
    let (x, name) = (r.at(bytes)?, r.name(y).to_string());
    let named = |r: &Rewrite<'_>, end: &str| r.new.fresh(&r.old.fresh(&format!("{name}.{end}")));
    let scale = match scales.iter().find(|scale| scale.quant == quant) {
        Some(scale) => scale.clone(),
        None => {
            let state = named(r, "scale");
            let elements = r.old.ty(y).shape.elements().factor as f32;
            let scale = Scale { quant, state, step: (elements * 255.0).powf(-0.25) };
            r.new.add_state(&scale.state, Role::Weight, TensorType::f32(Shape::default()))?;
            scales.push(scale.clone());
            scale
        }
    };
    let state = r.new.find(&scale.state).expect("just made");
    let moved = UnaryFn::Affine { scale: scale.step, offset: quant.scale() };
    let used = r.new.unary(&named(r, "scale.moved"), moved, state)?;
    let used = r.new.unary(&named(r, "scale.used"), UnaryFn::Abs, used)?;
    let steps = r.new.add(&named(r, "steps"), Op::Binary { f: BinaryFn::Div }, &[x, used])?;
    let zero = f32::from(quant.zero());
    let clip = UnaryFn::Clip { lo: -zero, hi: 255.0 - zero };
    let clipped = r.new.unary(&named(r, "clipped"), clip, steps)?;
    let whole = r.new.unary(&named(r, "whole"), UnaryFn::Round, clipped)?;
    let rounded = r.new.add(&name, Op::Binary { f: BinaryFn::Mul }, &[whole, used])?;
    r.replace(y, rounded);
    Ok(())
}
