//! The rules of ops that only training has: gradients, losses and updates.

use espalier_graph::{Op, Source, ValueId, Window};
use espalier_kernels::{
    Activation, Layout, conv, elementwise, movement, norm, pool, resize, softmax, update,
};

use crate::fuse::Group;
use crate::lower::{Located, LowerError, Lowering};
use crate::select::{Boxed, Emitted, Place, macs};

impl Lowering<'_> {
    pub(crate) fn training(&mut self, group: &Group, op: &Op, activation: Activation) -> Emitted {
        let isa = self.options.isa;
        let (x, y) = (group.inputs.first().copied(), group.outputs[0]);
        let first = || x.expect("inference checked the number of inputs");
        match op {
            Op::ConvWeightGrad { window, groups } => self.conv_weight_grad(group, op, *window, *groups),
            Op::MaxPoolGrad { window } => {
                self.pool(group, op, *window, y, group.inputs[1], pool::max_pool_grad)
            }
            Op::AvgPoolGrad { window, count_pad, .. } => {
                self.pool(group, op, *window, y, first(), |isa, g| pool::avg_pool_grad(isa, g, *count_pad))
            }
            Op::ResizeGrad { mode, .. } => {
                self.resize(group, op, |isa, planes, dy, dx| resize::resize_grad(isa, planes, dx, dy, *mode))
            }
            Op::BatchNormTraining { eps, momentum } => {
                self.batch_norm_training(group, op, *eps, *momentum, activation)
            }
            Op::BatchNormGrad => self.batch_norm_grad(group, op, activation),
            Op::LayerNormGrad { eps } => {
                let (rows, dim) = self.rows(first());
                self.plain(group, op, norm::layer_norm_grad(isa, rows, dim, *eps))
            }
            Op::UnaryGrad { f } => {
                self.unary(group, op, *f, |isa, len| elementwise::unary_grad(isa, *f, len))
            }
            Op::Dropout { p, stream } => {
                let len = self.elements(first());
                self.plain(group, op, elementwise::dropout(isa, *p, *stream, len))
            }
            Op::SoftmaxGrad { axis } => self.over_axis(group, op, *axis, softmax::softmax_grad),
            Op::CrossEntropy => {
                let (rows, classes) = self.rows(first());
                self.plain(group, op, softmax::cross_entropy(isa, rows, classes))
            }
            Op::CrossEntropyGrad => {
                let (rows, classes) = self.rows(first());
                self.plain(group, op, softmax::cross_entropy_grad(isa, rows, classes))
            }
            Op::GatherGrad { axis, .. } => {
                let (outer, size, inner) = self.around(y, *axis);
                let indices = self.elements(first());
                self.plain(group, op, movement::gather_grad(isa, outer, size, inner, indices))
            }
            Op::GlobalNorm => {
                let lens: Vec<usize> = group.inputs.iter().map(|&id| self.elements(id)).collect();
                self.plain(group, op, update::global_norm(isa, &lens))
            }
            Op::Sgd { momentum, nesterov, decay } => {
                let kernel = update::sgd(isa, *momentum, *nesterov, *decay, self.elements(y));
                self.update(group, op, kernel, &[0, 2])
            }
            Op::AdamW { beta1, beta2, eps, decay } => {
                let kernel = update::adamw(isa, *beta1, *beta2, *eps, *decay, self.elements(y));
                self.update(group, op, kernel, &[0, 2, 3])
            }
            Op::Ema => self.update(group, op, update::ema(isa, self.elements(y)), &[0]),
            _ => unreachable!("{} is not of training", op.name()),
        }
    }

    fn conv_weight_grad(&mut self, group: &Group, op: &Op, window: Window, groups: usize) -> Emitted {
        let (x, dy, dw) = (group.inputs[0], group.inputs[1], group.outputs[0]);
        let g = self.geometry(x, dy, window, groups);
        let (layout, x) = self.conv_input(x, &g)?;
        let inputs = vec![x, self.get(dy, Layout::Blocked)?];
        let output = self.place(dw, Layout::Plain);
        self.step(group, op, conv::weight_grad(self.options.isa, &g, layout), inputs, vec![output], macs(&g));
        Ok(())
    }

    fn batch_norm_training(
        &mut self,
        group: &Group,
        op: &Op,
        eps: f32,
        momentum: f32,
        activation: Activation,
    ) -> Emitted {
        let g = self.norm_geometry(group.inputs[0]);
        let mut inputs = vec![self.get(group.inputs[0], g.layout)?];
        inputs.extend(self.gets(&group.inputs[1..3], Layout::Plain)?);
        let mut outputs = vec![self.place(group.outputs[0], g.layout)];
        for i in [1, 2] {
            outputs.push(self.in_place(group.inputs[2 + i], group.outputs[i])?);
        }
        outputs.extend(group.outputs[3..].iter().map(|&id| self.place(id, Layout::Plain)));
        let kernel = norm::batch_norm_training(self.options.isa, g, eps, momentum, activation);
        self.step(group, op, kernel, inputs, outputs, 0);
        Ok(())
    }

    /// Inputs are `x, dy, gamma, mean, rstd`, or with an activation `x, dy, gamma, beta, mean, rstd`.
    fn batch_norm_grad(&mut self, group: &Group, op: &Op, activation: Activation) -> Emitted {
        let g = self.norm_geometry(group.inputs[0]);
        let mut inputs = self.gets(&group.inputs[..2], g.layout)?;
        let vectors = self.gets(&group.inputs[2..], Layout::Plain)?;
        inputs.push(vectors[0]);
        // The kernel reads beta only to find the slope of an activation; gamma stands in where there is none.
        inputs.push(if activation == Activation::Identity { vectors[0] } else { vectors[1] });
        inputs.extend(&vectors[vectors.len() - 2..]);
        let mut outputs = vec![self.place(group.outputs[0], g.layout)];
        outputs.extend(group.outputs[1..].iter().map(|&id| self.place(id, Layout::Plain)));
        let kernel = norm::batch_norm_grad(self.options.isa, g, activation);
        self.step(group, op, kernel, inputs, outputs, 0);
        Ok(())
    }

    /// Inputs `in_place` (by number) are updated where they lie and become the outputs; the others are read.
    fn update(&mut self, group: &Group, op: &Op, kernel: Boxed, in_place: &[usize]) -> Emitted {
        let read: Vec<ValueId> = group
            .inputs
            .iter()
            .enumerate()
            .filter(|(i, _)| !in_place.contains(i))
            .map(|(_, &id)| id)
            .collect();
        let inputs = self.gets(&read, Layout::Plain)?;
        let mut outputs = Vec::new();
        for (&i, &output) in in_place.iter().zip(&group.outputs) {
            outputs.push(self.in_place(group.inputs[i], output)?);
        }
        self.step(group, op, kernel, inputs, outputs, 0);
        Ok(())
    }

    /// Output `output` of a kernel that updates `input` in place. Where that is how the state changes, the state's own
    /// memory; else a copy.
    fn in_place(&mut self, input: ValueId, output: ValueId) -> Result<Place, LowerError> {
        let bytes = self.bytes(input, Layout::Plain);
        let next = match self.graph.value(input).source {
            Source::State(i) => self.graph.states()[i].next,
            Source::Input | Source::Node { .. } => None,
        };
        let storage = if next == Some(output) {
            let storage = self.locate(input)?.storage;
            self.updated.push(input);
            storage
        } else {
            let from = self.get(input, Layout::Plain)?;
            let copy = self.temporary(bytes);
            self.copy(input, from, (copy, bytes));
            copy
        };
        self.alias(output, Located { storage, layout: Layout::Plain });
        Ok((storage, bytes))
    }
}
