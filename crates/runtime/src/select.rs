//! One rule per op: which layouts its kernel wants, and which kernel that is. The match is exhaustive, so a new op
//! without a rule does not compile.

use espalier_graph::{BinaryFn, DType, Op, ReduceFn, UnaryFn, ValueId, Window};
use espalier_kernels::{
    Activation, Isa, Kernel, LANES, Layout, conv, elementwise, matmul, movement, norm, pool, reduce, resize,
    softmax,
};

use crate::fuse::{Group, Work};
use crate::lower::{Draft, Located, LowerError, Lowering, Storage};

pub(crate) type Emitted = Result<(), LowerError>;
pub(crate) type Place = (Storage, usize);
pub(crate) type Boxed = Box<dyn Kernel>;

impl Lowering<'_> {
    /// Appends the steps of `group`.
    pub(crate) fn emit(&mut self, group: &Group) -> Emitted {
        match &group.work {
            Work::Conv { op, bias, residual, activation } => {
                let (bias, residual, activation) = (*bias, *residual, *activation);
                self.conv(group, op, conv::Epilogue { bias, residual, activation })
            }
            Work::MatMulBias(op) => self.matmul(group, op, true),
            Work::ReduceProducts(op) => self.op(group, op, Activation::Identity),
            Work::Op(op, activation) => self.op(group, op, *activation),
            Work::Tabled(op, table) => self.integers(group, op, Some(*table)),
            Work::Channels { op, tables, picks } => self.channels(group, op, tables, picks),
        }
    }

    fn op(&mut self, group: &Group, op: &Op, activation: Activation) -> Emitted {
        let isa = self.options.isa;
        let (x, y) = (group.inputs.first().copied(), group.outputs[0]);
        let first = || x.expect("inference checked the number of inputs");
        match op {
            Op::Conv { .. } => unreachable!("fuse makes Work::Conv of it"),
            Op::ConvInputGrad { window, groups, .. } => self.conv_input_grad(group, op, *window, *groups),
            Op::MatMul { .. } => self.matmul(group, op, false),
            Op::MaxPool { .. }
            | Op::Resize { .. }
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Transpose { .. }
                if self.graph.ty(y).dtype.quant().is_some() =>
            {
                self.integers(group, op, None)
            }
            Op::Quantize { .. }
            | Op::Dequantize
            | Op::QConv { .. }
            | Op::QAdd { .. }
            | Op::QMul { .. }
            | Op::QAvgPool { .. }
            | Op::Table { .. } => self.integers(group, op, None),
            Op::MaxPool { window } => self.pool(group, op, *window, first(), y, pool::max_pool),
            Op::AvgPool { window, count_pad } => {
                self.pool(group, op, *window, first(), y, |isa, g| pool::avg_pool(isa, g, *count_pad))
            }
            Op::Resize { mode, .. } => {
                self.resize(group, op, |isa, planes, x, y| resize::resize(isa, planes, x, y, *mode))
            }
            Op::BatchNorm { eps, .. } => {
                let g = self.norm_geometry(first());
                self.normalise(group, op, g, norm::batch_norm(isa, g, *eps, activation))
            }
            Op::LayerNorm { eps } => {
                let (rows, dim) = self.rows(first());
                self.plain(group, op, norm::layer_norm(isa, rows, dim, *eps))
            }
            Op::Unary { f } => self.unary(group, op, *f, |isa, len| elementwise::unary(isa, *f, len)),
            Op::Binary { f } => self.binary(group, op, *f, activation),
            Op::Fill { value, .. } => {
                let len = self.elements(y);
                self.plain(group, op, elementwise::fill(isa, *value, len))
            }
            Op::Cast { to } => self.cast(group, op, *to),
            Op::Reduce { f, axes, keep } => self.reduce(group, op, *f, axes, *keep),
            Op::Softmax { axis } => self.over_axis(group, op, *axis, softmax::softmax),
            Op::LogSoftmax { axis } => self.over_axis(group, op, *axis, softmax::log_softmax),
            Op::Reshape { .. } => self.reshape(first(), y),
            Op::Transpose { perm } => {
                let kernel = movement::transpose::<f32>(isa, &self.dims(first()), perm);
                self.plain(group, op, kernel)
            }
            Op::Expand { .. } => self.expand(group, op),
            Op::Concat { axis } => self.concat(group, op, *axis),
            Op::Slice { axis, start, end } => {
                let (outer, size, inner) = self.around(first(), *axis);
                let kernel = movement::slice::<f32>(isa, outer, size * inner, start * inner, end * inner);
                self.plain(group, op, kernel)
            }
            Op::Pad { axis, before, after, value } => {
                let (outer, size, inner) = self.around(first(), *axis);
                self.plain(
                    group,
                    op,
                    movement::pad(isa, outer, before * inner, size * inner, after * inner, *value),
                )
            }
            Op::Gather { axis } => {
                let (outer, size, inner) = self.around(first(), *axis);
                let indices = self.elements(group.inputs[1]);
                self.plain(group, op, movement::gather(isa, outer, size, inner, indices))
            }
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
            | Op::Ema => self.training(group, op, activation),
        }
    }

    pub(crate) fn elements(&self, id: ValueId) -> usize {
        self.dims(id).iter().product()
    }

    /// All axes but the last, and the last.
    pub(crate) fn rows(&self, id: ValueId) -> (usize, usize) {
        let dims = self.dims(id);
        let last = dims.last().copied().unwrap_or(1);
        (dims[..dims.len().saturating_sub(1)].iter().product(), last)
    }

    /// Elements before, along and after `axis`.
    pub(crate) fn around(&self, id: ValueId, axis: usize) -> (usize, usize, usize) {
        let dims = self.dims(id);
        (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
    }

    pub(crate) fn gets(&mut self, ids: &[ValueId], layout: Layout) -> Result<Vec<Place>, LowerError> {
        ids.iter().map(|&id| self.get(id, layout)).collect()
    }

    pub(crate) fn step(
        &mut self,
        group: &Group,
        op: &Op,
        kernel: Boxed,
        inputs: Vec<Place>,
        outputs: Vec<Place>,
        macs: usize,
    ) {
        let node = self.graph.value(group.outputs[0]).name.clone();
        self.push(Draft { kernel, inputs, outputs, node, op: op.name(), macs });
    }

    /// A kernel over row-major values throughout.
    pub(crate) fn plain(&mut self, group: &Group, op: &Op, kernel: Boxed) -> Emitted {
        let inputs = self.gets(&group.inputs, Layout::Plain)?;
        let outputs = group.outputs.iter().map(|&id| self.place(id, Layout::Plain)).collect();
        self.step(group, op, kernel, inputs, outputs, 0);
        Ok(())
    }

    pub(crate) fn geometry(
        &self,
        x: ValueId,
        y: ValueId,
        window: Window,
        groups: usize,
    ) -> conv::ConvGeometry {
        let (x, y) = (self.dims(x), self.dims(y));
        conv::ConvGeometry {
            batch: x[0],
            channels_in: x[1],
            channels_out: y[1],
            groups,
            input: [x[2], x[3]],
            output: [y[2], y[3]],
            window,
        }
    }

    /// Pictures come in plain and have few channels: the convolution reads them as they are.
    pub(crate) fn conv_input(
        &mut self,
        x: ValueId,
        g: &conv::ConvGeometry,
    ) -> Result<(Layout, Place), LowerError> {
        let plain = self.locate(x)?.layout == Layout::Plain && g.channels_in < LANES && g.groups == 1;
        let layout = if plain { Layout::Plain } else { Layout::Blocked };
        Ok((layout, self.get(x, layout)?))
    }

    fn conv(&mut self, group: &Group, op: &Op, epilogue: conv::Epilogue) -> Emitted {
        let Op::Conv { window, groups } = *op else { unreachable!("fuse puts a Conv here") };
        let (isa, x, w, y) = (self.options.isa, group.inputs[0], group.inputs[1], group.outputs[0]);
        let g = self.geometry(x, y, window, groups);
        let (layout, x) = self.conv_input(x, &g)?;
        let form = ("forward", groups, window);
        let mut inputs = vec![x, self.packed(w, form, conv::packed_len(&g), conv::pack_weights(isa, &g))?];
        let mut rest = group.inputs[2..].iter();
        if epilogue.bias {
            inputs.push(self.get(*rest.next().expect("the bias"), Layout::Plain)?);
        }
        if epilogue.residual {
            inputs.push(self.get(*rest.next().expect("the residual"), Layout::Blocked)?);
        }
        let output = self.place(y, Layout::Blocked);
        self.step(group, op, conv::forward(isa, &g, layout, epilogue), inputs, vec![output], macs(&g));
        Ok(())
    }

    fn conv_input_grad(&mut self, group: &Group, op: &Op, window: Window, groups: usize) -> Emitted {
        let (isa, dy, w, dx) = (self.options.isa, group.inputs[0], group.inputs[1], group.outputs[0]);
        let g = self.geometry(dx, dy, window, groups);
        let pack = conv::pack_weights_input_grad(isa, &g);
        let packed = self.packed(w, ("input_grad", groups, window), conv::packed_len_input_grad(&g), pack)?;
        let inputs = vec![self.get(dy, Layout::Blocked)?, packed];
        let output = self.place(dx, Layout::Blocked);
        self.step(group, op, conv::input_grad(isa, &g), inputs, vec![output], macs(&g));
        Ok(())
    }

    fn matmul(&mut self, group: &Group, op: &Op, bias: bool) -> Emitted {
        let Op::MatMul { trans_a, trans_b } = *op else { unreachable!("fuse puts a MatMul here") };
        let (a, b, y) = (self.dims(group.inputs[0]), self.dims(group.inputs[1]), self.dims(group.outputs[0]));
        let rank = a.len();
        let k = if trans_a { a[rank - 2] } else { a[rank - 1] };
        let (mut batch, mut m, n) = (a[..rank - 2].iter().product(), y[rank - 2], y[rank - 1]);
        let shared_b = b.len() == 2 && rank > 2;
        if shared_b && !trans_a {
            // One tall product instead of many small ones.
            (batch, m) = (1, batch * m);
        }
        let g = matmul::MatMulGeometry { batch, m, k, n, trans_a, trans_b, shared_b };
        let inputs = self.gets(&group.inputs, Layout::Plain)?;
        let output = self.place(group.outputs[0], Layout::Plain);
        self.step(
            group,
            op,
            matmul::matmul(self.options.isa, g, bias),
            inputs,
            vec![output],
            batch * m * k * n,
        );
        Ok(())
    }

    /// `x` and `y` are the larger and the smaller picture, whichever way the kernel goes.
    pub(crate) fn pool(
        &mut self,
        group: &Group,
        op: &Op,
        window: Window,
        x: ValueId,
        y: ValueId,
        make: impl Fn(Isa, pool::PoolGeometry) -> Boxed,
    ) -> Emitted {
        let (x, y) = (self.dims(x), self.dims(y));
        let layout = Layout::Blocked;
        let (input, output) = ([x[2], x[3]], [y[2], y[3]]);
        let g = pool::PoolGeometry { batch: x[0], channels: x[1], input, output, window, layout };
        let inputs = self.gets(&group.inputs, layout)?;
        let out = self.place(group.outputs[0], layout);
        self.step(group, op, make(self.options.isa, g), inputs, vec![out], 0);
        Ok(())
    }

    pub(crate) fn resize(
        &mut self,
        group: &Group,
        op: &Op,
        make: impl Fn(Isa, usize, [usize; 2], [usize; 2]) -> Boxed,
    ) -> Emitted {
        let (from, to) = (self.dims(group.inputs[0]), self.dims(group.outputs[0]));
        let kernel = make(self.options.isa, from[0] * from[1], [from[2], from[3]], [to[2], to[3]]);
        self.plain(group, op, kernel)
    }

    pub(crate) fn norm_geometry(&self, x: ValueId) -> norm::NormGeometry {
        let dims = self.dims(x);
        let layout = if dims.len() == 4 { Layout::Blocked } else { Layout::Plain };
        norm::NormGeometry { batch: dims[0], channels: dims[1], spatial: dims[2..].iter().product(), layout }
    }

    fn normalise(&mut self, group: &Group, op: &Op, g: norm::NormGeometry, kernel: Boxed) -> Emitted {
        let mut inputs = vec![self.get(group.inputs[0], g.layout)?];
        inputs.extend(self.gets(&group.inputs[1..], Layout::Plain)?);
        let y = self.place(group.outputs[0], g.layout);
        self.step(group, op, kernel, inputs, vec![y], 0);
        Ok(())
    }

    /// The layout for elementwise work: that of the operands that are blocked already, if the function keeps the unused
    /// lanes of the last block finite.
    fn elementwise_layout(&mut self, ids: &[ValueId], keeps_finite: bool) -> Result<Layout, LowerError> {
        let mut layout = Layout::Plain;
        for &id in ids {
            if keeps_finite && self.locate(id)?.layout == Layout::Blocked {
                layout = Layout::Blocked;
            }
        }
        Ok(layout)
    }

    pub(crate) fn unary(
        &mut self,
        group: &Group,
        op: &Op,
        f: UnaryFn,
        make: impl Fn(Isa, usize) -> Boxed,
    ) -> Emitted {
        let layout = self.elementwise_layout(&group.inputs, keeps_finite(f))?;
        let inputs = self.gets(&group.inputs, layout)?;
        let output = self.place(group.outputs[0], layout);
        let kernel = make(self.options.isa, output.1 / size_of::<f32>());
        self.step(group, op, kernel, inputs, vec![output], 0);
        Ok(())
    }

    fn binary(&mut self, group: &Group, op: &Op, f: BinaryFn, activation: Activation) -> Emitted {
        let [a, b] = group.inputs[..] else { unreachable!("inference checked the number of inputs") };
        let y = group.outputs[0];
        let finite = !matches!(f, BinaryFn::Div | BinaryFn::Pow);
        let blockable =
            finite && self.elements(y) > 1 && self.blocked_broadcast(a, y) && self.blocked_broadcast(b, y);
        let layout = self.elementwise_layout(&group.inputs, blockable)?;
        let [a_dims, b_dims, y_dims] = [a, b, y].map(|id| self.operand(id, layout));
        let inputs = vec![self.get_operand(a, layout)?, self.get_operand(b, layout)?];
        let output = self.place(y, layout);
        let kernel = elementwise::binary(self.options.isa, f, &a_dims, &b_dims, &y_dims, activation);
        self.step(group, op, kernel, inputs, vec![output], 0);
        Ok(())
    }

    /// Whether broadcasting `id` to `y` is broadcasting in the blocked layout too: a scalar, or as many axes and channels.
    fn blocked_broadcast(&self, id: ValueId, y: ValueId) -> bool {
        let (dims, y) = (self.dims(id), self.dims(y));
        dims.iter().product::<usize>() == 1 || (y.len() == 4 && dims.len() == 4 && dims[1] == y[1])
    }

    /// Physical sizes of an operand or a result; one element is one element in any layout.
    fn operand(&self, id: ValueId, layout: Layout) -> Vec<usize> {
        if self.elements(id) == 1 { vec![1] } else { self.physical(id, layout) }
    }

    fn get_operand(&mut self, id: ValueId, layout: Layout) -> Result<Place, LowerError> {
        self.get(id, if self.elements(id) == 1 { Layout::Plain } else { layout })
    }

    fn cast(&mut self, group: &Group, op: &Op, to: DType) -> Emitted {
        let (x, isa) = (group.inputs[0], self.options.isa);
        let len = self.elements(x);
        let kernel = match (self.graph.ty(x).dtype, to) {
            (DType::F32, DType::I32) => elementwise::cast_f32_to_i32(isa, len),
            (DType::I32, DType::F32) => elementwise::cast_i32_to_f32(isa, len),
            // Equal types: shape inference refuses bytes.
            _ => movement::copy(isa, len),
        };
        self.plain(group, op, kernel)
    }

    /// Over height and width (and the batch) a blocked picture is reduced as it lies; other axes want the plain order.
    fn reduce(&mut self, group: &Group, op: &Op, f: ReduceFn, axes: &[usize], keep: bool) -> Emitted {
        let (x, y) = (group.inputs[0], group.outputs[0]);
        let blockable = self.dims(x).len() == 4 && (axes == [2, 3] || axes == [0, 2, 3]);
        let layout = self.elementwise_layout(&group.inputs, blockable)?;
        let blocked = layout == Layout::Blocked;
        let make = if group.inputs.len() == 2 { reduce::reduce_products } else { reduce::reduce };
        let kernel = make(self.options.isa, f, &self.physical(x, layout), axes);
        let inputs = self.gets(&group.inputs, layout)?;
        let output = match (blocked, axes.len(), keep) {
            (true, 3, false) => self.place_vector(y),
            (true, ..) => self.place(y, Layout::Blocked),
            (false, ..) => self.place(y, Layout::Plain),
        };
        self.step(group, op, kernel, inputs, vec![output], 0);
        Ok(())
    }

    /// A vector of channels that a blocked kernel writes: whole blocks are written, the channels come first.
    pub(crate) fn place_vector(&mut self, id: ValueId) -> Place {
        let bytes = self.elements(id).next_multiple_of(LANES) * size_of::<f32>();
        let storage = self.temporary(bytes);
        self.alias(id, Located { storage, layout: Layout::Plain });
        (storage, bytes)
    }

    pub(crate) fn over_axis(
        &mut self,
        group: &Group,
        op: &Op,
        axis: usize,
        make: impl Fn(Isa, usize, usize, usize) -> Boxed,
    ) -> Emitted {
        let (outer, size, inner) = self.around(group.inputs[0], axis);
        let kernel = make(self.options.isa, outer, size, inner);
        self.plain(group, op, kernel)
    }

    /// No copy: the result is the same memory. Between `[N,C]` and `[N,C,1,1]` even in the blocked layout.
    fn reshape(&mut self, x: ValueId, y: ValueId) -> Emitted {
        let located = self.locate(x)?;
        let vector = |dims: &[usize]| dims.len() >= 2 && dims[2..].iter().product::<usize>() == 1;
        let (from, to) = (self.dims(x), self.dims(y));
        let keeps = located.layout == Layout::Blocked && vector(&from) && vector(&to) && from[..2] == to[..2];
        let located = if keeps || located.layout == Layout::Plain {
            located
        } else {
            Located { storage: self.get(x, Layout::Plain)?.0, layout: Layout::Plain }
        };
        self.alias(y, located);
        Ok(())
    }

    /// A picture grown from `[N,C,1,1]` feeds convolutions and normalisations: it is made in their layout.
    fn expand(&mut self, group: &Group, op: &Op) -> Emitted {
        let (x, y) = (group.inputs[0], group.outputs[0]);
        let (from, to) = (self.dims(x), self.dims(y));
        let blocked = from.len() == 4 && to.len() == 4 && from[1] == to[1] && from[2..] == [1, 1];
        let layout = if blocked { Layout::Blocked } else { Layout::Plain };
        let kernel = movement::expand(self.options.isa, &self.physical(x, layout), &self.physical(y, layout));
        let input = self.get(x, layout)?;
        let output = self.place(y, layout);
        self.step(group, op, kernel, vec![input], vec![output], 0);
        Ok(())
    }

    /// Joining channels in whole blocks is joining block planes.
    fn concat(&mut self, group: &Group, op: &Op, axis: usize) -> Emitted {
        let whole = |dims: Vec<usize>| dims.len() == 4 && dims[1].is_multiple_of(LANES);
        let blocked = axis == 1 && group.inputs.iter().all(|&id| whole(self.dims(id)));
        let layout = self.elementwise_layout(&group.inputs, blocked)?;
        let outer = self.dims(group.outputs[0])[..axis].iter().product();
        let parts: Vec<usize> =
            group.inputs.iter().map(|&id| self.physical(id, layout)[axis..].iter().product()).collect();
        let inputs = self.gets(&group.inputs, layout)?;
        let output = self.place(group.outputs[0], layout);
        self.step(
            group,
            op,
            movement::concat::<f32>(self.options.isa, outer, &parts),
            inputs,
            vec![output],
            0,
        );
        Ok(())
    }
}

pub(crate) fn macs(g: &conv::ConvGeometry) -> usize {
    let taps = g.window.kernel[0] * g.window.kernel[1];
    g.batch * g.channels_out * g.output[0] * g.output[1] * taps * (g.channels_in / g.groups)
}

/// Whether a finite argument gives a finite result, so that meaningless lanes stay harmless.
fn keeps_finite(f: UnaryFn) -> bool {
    match f {
        UnaryFn::Relu
        | UnaryFn::Clip { .. }
        | UnaryFn::LeakyRelu { .. }
        | UnaryFn::Sigmoid
        | UnaryFn::Silu
        | UnaryFn::HardSwish
        | UnaryFn::HardSigmoid { .. }
        | UnaryFn::Gelu
        | UnaryFn::Erf
        | UnaryFn::Tanh
        | UnaryFn::Abs
        | UnaryFn::Neg
        | UnaryFn::Affine { .. }
        | UnaryFn::Round => true,
        UnaryFn::Exp | UnaryFn::Log | UnaryFn::Sqrt | UnaryFn::Reciprocal => false,
    }
}
