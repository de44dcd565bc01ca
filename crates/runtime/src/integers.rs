//! The rules of [`select`](crate::select) for ops of integers.

use espalier_graph::{DType, Op, Quant, ValueId, Window};
use espalier_kernels::{Layout, Rows, int8, movement};

use crate::fuse::Group;
use crate::lower::{LowerError, Lowering};
use crate::select::{Boxed, Emitted};

/// Planes for each worker that divide evenly enough.
const PLANES_FOR_EACH: usize = 8;

impl Lowering<'_> {
    /// Appends the step of `op`, with the table of its result that it applies too (QConv).
    pub(crate) fn integers(&mut self, group: &Group, op: &Op, table: Option<ValueId>) -> Emitted {
        let (isa, y) = (self.options.isa, group.outputs[0]);
        let first = group.inputs[0];
        match op {
            Op::Quantize { to } => {
                let layout = self.locate(first)?.layout;
                let kernel = int8::quantize(isa, layout, self.flat(first), to.scale(), to.zero());
                self.each(group, op, &[first], layout, Layout::Blocked, kernel)
            }
            Op::Dequantize if self.float_layout(y) == Layout::Plain && self.lies_plain(first)? => {
                self.dequantize_plain(group, op)
            }
            Op::Dequantize => {
                let (from, layout) = (self.quant(first), self.float_layout(y));
                let kernel = int8::dequantize(isa, layout, self.flat(first), from.scale(), from.zero());
                self.each(group, op, &[first], Layout::Blocked, layout, kernel)
            }
            Op::QConv { window, groups, to, limits } => {
                self.qconv(group, op, (*window, *groups), (*to, *limits), table)
            }
            Op::QAdd { to, limits } => {
                let layout = self.bytes_layout(&group.inputs)?;
                let operands = [0, 1].map(|i| self.operand_of(group.inputs[i], *to));
                let rows = self.rows_after(&group.inputs, y, layout)?;
                let kernel = int8::add(isa, rows, operands, to.zero(), *limits);
                self.each(group, op, &group.inputs, layout, layout, kernel)
            }
            Op::QMul { to, limits } => {
                let is_gate = self.dims(first) != self.dims(group.inputs[1]);
                let layout = if is_gate { Layout::Blocked } else { self.bytes_layout(&group.inputs)? };
                let kernel = self.qmul(group, layout, *to, *limits)?;
                self.each(group, op, &group.inputs, layout, layout, kernel)
            }
            Op::QAvgPool { window, count_pad, to } => {
                let from = self.quant(first);
                let average = int8::Average {
                    zero: from.zero(),
                    ratio: to.steps(&[from.scale()]),
                    bias: f32::from(to.zero()),
                    count_pad: *count_pad,
                    limits: [0, 255],
                };
                let kernel = int8::avg_pool(isa, &self.byte_pool(*window, first, y), average);
                self.in_quads(group, op, &[first], kernel)
            }
            Op::MaxPool { window } => {
                let kernel = int8::max_pool(isa, &self.byte_pool(*window, first, y));
                self.in_quads(group, op, &[first], kernel)
            }
            Op::Resize { .. } => {
                let (x, y) = (self.dims(first), self.dims(y));
                let planes = x[0] * int8::quads(x[1]);
                let kernel = int8::resize_nearest(isa, planes, [x[2], x[3]], [y[2], y[3]]);
                self.in_quads(group, op, &[first], kernel)
            }
            Op::Concat { axis } => {
                let layout = self.bytes_layout(&group.inputs)?;
                let outer = self.physical(y, layout)[..*axis].iter().product();
                let part = |&x: &ValueId| self.physical(x, layout)[*axis..].iter().product();
                let parts: Vec<usize> = group.inputs.iter().map(part).collect();
                let kernel = movement::concat::<u8>(isa, outer, &parts);
                self.each(group, op, &group.inputs, layout, layout, kernel)
            }
            Op::Slice { axis, start, end } => {
                let layout = self.bytes_layout(&[first])?;
                let physical = self.physical(first, layout);
                let (outer, inner) =
                    (physical[..*axis].iter().product(), physical[*axis + 1..].iter().product::<usize>());
                let [size, start, end] = [physical[*axis], *start, *end].map(|at| at * inner);
                let kernel = movement::slice::<u8>(isa, outer, size, start, end);
                self.each(group, op, &[first], layout, layout, kernel)
            }
            Op::Transpose { perm } => {
                let kernel = movement::transpose::<u8>(isa, &self.dims(first), perm);
                self.each(group, op, &[first], Layout::Plain, Layout::Plain, kernel)
            }
            Op::Table { .. } => {
                let (table, layout) = (self.table(group.inputs[1])?, self.bytes_layout(&[first])?);
                let kernel = int8::table(isa, table, self.bytes(y, layout));
                self.each(group, op, &[first], layout, layout, kernel)
            }
            _ => unreachable!("{} is not of integers", op.name()),
        }
    }

    /// Appends the step that takes channels from where they are.
    pub(crate) fn channels(
        &mut self,
        group: &Group,
        op: &Op,
        tables: &[Option<ValueId>],
        picks: &[int8::Pick],
    ) -> Emitted {
        let part = |(&x, table): (&ValueId, &Option<ValueId>)| {
            let table = table.map(|id| self.table(id)).transpose()?;
            Ok(int8::Part { channels: self.dims(x)[1], table })
        };
        let parts = group.inputs.iter().zip(tables).map(part).collect::<Result<Vec<_>, LowerError>>()?;
        let layout = self.bytes_layout(&group.inputs)?;
        let [n, _, spatial] = self.flat(group.outputs[0]);
        let kernel = int8::channels(self.options.isa, layout, n, spatial, &parts, picks.to_vec());
        self.each(group, op, &group.inputs, layout, layout, kernel)
    }

    /// Without spatial axes bytes lie in one order as in the other.
    fn dequantize_plain(&mut self, group: &Group, op: &Op) -> Emitted {
        let (x, y) = (group.inputs[0], group.outputs[0]);
        let (from, len) = (self.quant(x), self.elements(x));
        let kernel =
            int8::dequantize(self.options.isa, Layout::Blocked, [1, len, 1], from.scale(), from.zero());
        let input = (self.locate(x)?.storage, int8::quads_len(1, len, 1));
        let output = self.place_vector(y);
        self.step(group, op, kernel, vec![input], vec![output], 0);
        Ok(())
    }

    /// Whether all of these lie in the logical order.
    fn stay_plain(&mut self, ids: &[ValueId]) -> Result<bool, LowerError> {
        ids.iter().try_fold(true, |plain, &id| Ok(plain && self.locate(id)?.layout == Layout::Plain))
    }

    /// Whether bytes lie in the logical order, in quads or not: without spatial axes they do where channels fill them.
    fn lies_plain(&mut self, id: ValueId) -> Result<bool, LowerError> {
        let [n, c, spatial] = self.flat(id);
        let fills = spatial == 1 && (n == 1 || c.is_multiple_of(int8::QUAD));
        Ok(self.stay_plain(&[id])? || fills)
    }

    /// The rows of `like`, which is computed from `inputs` one by one; whole planes, if they are many, where none of these is
    /// made by rows, so that workers find in their caches what they made.
    fn rows_after(&mut self, inputs: &[ValueId], like: ValueId, layout: Layout) -> Result<Rows, LowerError> {
        let rows = Rows::of(&self.physical(like, layout));
        for &input in inputs {
            let from = self.get(input, layout)?;
            if self.made_by_rows(from.0) == Some(rows) {
                return Ok(rows);
            }
        }
        let planes = rows.images * rows.planes;
        let are_many = planes >= PLANES_FOR_EACH * self.options.threads;
        Ok(if are_many { Rows::of(&[planes, rows.rows * rows.bytes]) } else { rows })
    }

    /// The layout for work that is the same in any.
    fn bytes_layout(&mut self, ids: &[ValueId]) -> Result<Layout, LowerError> {
        Ok(if self.stay_plain(ids)? { Layout::Plain } else { Layout::Blocked })
    }

    fn quant(&self, id: ValueId) -> Quant {
        self.graph.ty(id).dtype.quant().expect("inference checked that it is quantized")
    }

    /// Batch, channels, and all else.
    fn flat(&self, id: ValueId) -> [usize; 3] {
        let dims = self.dims(id);
        [dims[0], dims[1], dims[2..].iter().product()]
    }

    /// What floats made of bytes are for: outputs and matrices are plain, pictures feed convolutions.
    fn float_layout(&self, id: ValueId) -> Layout {
        let is_output = self.graph.outputs().iter().any(|(_, output)| *output == id);
        if self.dims(id).len() == 4 && !is_output { Layout::Blocked } else { Layout::Plain }
    }

    fn operand_of(&self, id: ValueId, to: Quant) -> int8::Operand {
        let from = self.quant(id);
        int8::Operand { zero: from.zero(), scale: to.steps(&[from.scale()]) }
    }

    fn table(&self, id: ValueId) -> Result<int8::Table, LowerError> {
        let entries = self.content(id)?.as_u8().expect("inference checked its type");
        Ok(int8::Table::new(|q| entries[usize::from(q)]))
    }

    /// A kernel that takes and gives quads.
    fn in_quads(&mut self, group: &Group, op: &Op, inputs: &[ValueId], kernel: Boxed) -> Emitted {
        self.each(group, op, inputs, Layout::Blocked, Layout::Blocked, kernel)
    }

    fn each(
        &mut self,
        group: &Group,
        op: &Op,
        inputs: &[ValueId],
        from: Layout,
        to: Layout,
        kernel: Boxed,
    ) -> Emitted {
        let inputs = self.gets(inputs, from)?;
        let output = self.place(group.outputs[0], to);
        self.step(group, op, kernel, inputs, vec![output], 0);
        Ok(())
    }

    fn byte_pool(&self, window: Window, x: ValueId, y: ValueId) -> int8::PoolGeometry {
        let (x, y) = (self.dims(x), self.dims(y));
        int8::PoolGeometry { batch: x[0], channels: x[1], input: [x[2], x[3]], output: [y[2], y[3]], window }
    }

    fn qmul(
        &mut self,
        group: &Group,
        layout: Layout,
        to: Quant,
        limits: [u8; 2],
    ) -> Result<Boxed, LowerError> {
        let (isa, [a, b]) = (self.options.isa, [0, 1].map(|i| group.inputs[i]));
        let (zeros, bias) = ([a, b].map(|id| self.quant(id).zero()), f32::from(to.zero()));
        let scale = to.steps(&[a, b].map(|id| self.quant(id).scale()));
        let is_product = self.dims(a) == self.dims(b);
        let made: &[ValueId] = if is_product { &[a, b] } else { &[a] };
        let shape = self.rows_after(made, a, layout)?;
        Ok(match is_product {
            true => int8::multiply(isa, shape, zeros, scale, bias, limits),
            false => int8::gate(isa, shape, zeros, scale, bias, limits),
        })
    }

    fn qconv(
        &mut self,
        group: &Group,
        op: &Op,
        (window, groups): (Window, usize),
        (to, limits): (DType, [u8; 2]),
        table: Option<ValueId>,
    ) -> Emitted {
        let (x, y) = (group.inputs[0], group.outputs[0]);
        let g = self.geometry(x, y, window, groups);
        let from = self.quant(x);
        let table = table.map(|id| self.table(id)).transpose()?;
        let residual = group.inputs.get(4).map(|&r| (r, self.operand_of(r, to.quant().expect("of bytes"))));
        let result = match to {
            DType::Q8(to) => int8::Output::Quads { zero: to.zero(), lo: limits[0], hi: limits[1], table },
            _ => int8::Output::Float,
        };
        let [values, scale, bias] = [1, 2, 3].map(|i| group.inputs[i]);
        let scale = self.content(scale)?.as_f32().expect("inference checked its type");
        let bias = self.content(bias)?.as_i32().expect("inference checked its type");
        let unit = to.quant().map_or(1.0, Quant::scale);
        let scale: Vec<f32> = scale.iter().map(|&w| w * from.scale() / unit).collect();
        if !scale.iter().all(|v| v.is_finite()) {
            return Err(LowerError::Scale { name: self.graph.value(y).name.clone() });
        }
        let values = self.content(values)?.as_s8().expect("inference checked its type");
        let weights = int8::Weights { values, scale: scale.into(), bias };
        let epilogue = int8::Epilogue { residual: residual.map(|(_, operand)| operand), result };
        let prepared = int8::conv(self.options.isa, &g, from.zero(), &weights, &epilogue);
        let packed = prepared.packed;
        let packed = self.keep(packed.bytes(), Box::new(|to| packed.fill(to)));
        let mut inputs = vec![self.get(x, Layout::Blocked)?, packed];
        if let Some((r, _)) = residual {
            inputs.push(self.get(r, Layout::Blocked)?);
        }
        let output = self.place(y, Layout::Blocked);
        self.step(group, op, prepared.kernel, inputs, vec![output], prepared.macs);
        Ok(())
    }
}
