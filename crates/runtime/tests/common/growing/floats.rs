//! Chains and diamonds of all kinds of float ops in odd shapes.

use espalier_graph::{
    BinaryFn, Bindings, Graph, Op, ReduceFn, ResizeMode, Role, Shape, TensorType, UnaryFn, ValueId, Window,
};

use super::{Growing, Made};

const CHANNELS: [usize; 8] = [1, 3, 5, 15, 16, 17, 32, 33];

impl Growing {
    fn weight(&mut self, shape: &[usize]) -> Made {
        let name = self.fresh();
        self.graph.add_state(&name, Role::Weight, TensorType::f32(Shape::known(shape)))
    }

    fn node(&mut self, x: ValueId) -> Made {
        match self.graph.ty(x).shape.rank() {
            4 => self.on_picture(x),
            _ => self.on_any(x),
        }
    }

    fn on_picture(&mut self, x: ValueId) -> Made {
        match self.random.below(14) {
            0..=3 => self.conv(x),
            4 | 5 => {
                let name = self.fresh();
                self.graph.batch_norm(&name, x, 1e-2, 0.1)
            }
            6 => self.pool(x),
            7 => self.global(x),
            8 => self.resize(x),
            _ => self.on_any(x),
        }
    }

    fn on_any(&mut self, x: ValueId) -> Made {
        match self.random.below(14) {
            0..=2 => self.unary(x),
            3 | 4 => self.join(x),
            5 => self.binary_with_weight(x),
            6 => self.reduce(x),
            7 => self.reshape(x),
            8 => self.transpose(x),
            9 => self.concat(x),
            10 => self.cut(x),
            11 => self.softmax(x),
            12 => self.linear(x),
            _ => {
                let name = self.fresh();
                self.graph.layer_norm(&name, x, 1e-2)
            }
        }
    }

    /// With a clamp, a residual, both or neither behind it.
    fn conv(&mut self, x: ValueId) -> Made {
        let channels = self.sizes(x)[0];
        let (out, groups) = match self.random.below(4) {
            0 => (channels, channels),
            1 if channels.is_multiple_of(3) => (6, 3),
            _ => (self.pick(&CHANNELS), 1),
        };
        let mut window = Window::square(1, 1, 0);
        for axis in 0..2 {
            window.kernel[axis] = self.pick(&[1, 2, 3, 3, 5]);
            window.stride[axis] = self.pick(&[1, 1, 2]);
            window.dilation[axis] = self.pick(&[1, 1, 1, 2]);
            window.pad[axis] = self.random.below(window.kernel[axis]);
            window.pad[axis + 2] = self.random.below(window.kernel[axis]);
        }
        let (name, bias) = (self.fresh(), self.coin());
        match self.shared_weight() {
            Some(w) if self.coin() => {
                let [o, per_group, kh, kw] = self.graph.ty(w).shape.bind(Bindings::batch(1))[..] else {
                    unreachable!("a weight of a convolution")
                };
                window.kernel = [kh, kw];
                let groups = channels / per_group;
                self.add(Op::Conv { window, groups: if o == channels { groups } else { 1 } }, &[x, w])
            }
            _ => self.graph.conv2d(&name, x, out, window, groups, bias),
        }
    }

    /// A weight of another convolution.
    fn shared_weight(&mut self) -> Option<ValueId> {
        let convs = self.graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv { .. }));
        let weights: Vec<ValueId> = convs.map(|n| n.inputs[1]).collect();
        if weights.is_empty() { None } else { Some(self.pick(&weights)) }
    }

    fn pool(&mut self, x: ValueId) -> Made {
        let kernel = self.pick(&[1, 2, 3]);
        let (stride, pad) = (self.pick(&[1, 2]), self.random.below(kernel));
        let window = Window::square(kernel, stride, pad);
        let count_pad = self.coin();
        let op = if self.coin() { Op::MaxPool { window } } else { Op::AvgPool { window, count_pad } };
        self.add(op, &[x])
    }

    /// Global pooling, then back to the picture: squeeze and excitation.
    fn global(&mut self, x: ValueId) -> Made {
        let f = self.pick(&[ReduceFn::Mean, ReduceFn::Sum, ReduceFn::Max]);
        let small = self.add(Op::Reduce { f, axes: vec![2, 3], keep: true }, &[x])?;
        let small = self.unary(small)?;
        if self.coin() {
            return self.add(Op::Binary { f: BinaryFn::Mul }, &[x, small]);
        }
        let shape = self.graph.ty(x).shape.clone();
        self.add(Op::Expand { shape }, &[small])
    }

    fn resize(&mut self, x: ValueId) -> Made {
        let size = [1 + self.random.below(9), 1 + self.random.below(9)];
        let mode = self.pick(&[ResizeMode::Nearest, ResizeMode::Linear]);
        self.add(Op::Resize { mode, size }, &[x])
    }

    fn unary(&mut self, x: ValueId) -> Made {
        let f = self.pick(&[
            UnaryFn::Relu,
            UnaryFn::Relu,
            UnaryFn::Clip { lo: 0.0, hi: 6.0 },
            UnaryFn::Clip { lo: -0.5, hi: 0.75 },
            UnaryFn::LeakyRelu { slope: 0.1 },
            UnaryFn::Sigmoid,
            UnaryFn::Silu,
            UnaryFn::HardSwish,
            UnaryFn::HardSigmoid { alpha: 0.2, beta: 0.5 },
            UnaryFn::Gelu,
            UnaryFn::Erf,
            UnaryFn::Tanh,
            UnaryFn::Abs,
            UnaryFn::Neg,
            UnaryFn::Affine { scale: -0.5, offset: 0.25 },
            UnaryFn::Exp,
            UnaryFn::Log,
            UnaryFn::Sqrt,
            UnaryFn::Reciprocal,
        ]);
        let x = match f {
            UnaryFn::Exp | UnaryFn::Log | UnaryFn::Sqrt | UnaryFn::Reciprocal => self.positive(x)?,
            _ => x,
        };
        self.add(Op::Unary { f }, &[x])
    }

    /// Into 1..3.
    fn positive(&mut self, x: ValueId) -> Made {
        let x = self.add(Op::Unary { f: UnaryFn::Tanh }, &[x])?;
        self.add(Op::Unary { f: UnaryFn::Affine { scale: 1.0, offset: 2.0 } }, &[x])
    }

    /// Closes a diamond: with another value of the same shape, or one that broadcasts.
    fn join(&mut self, x: ValueId) -> Made {
        let other = self.value();
        let mut f = self.pick(&[BinaryFn::Add, BinaryFn::Add, BinaryFn::Sub, BinaryFn::Max, BinaryFn::Min]);
        let mut pair = if self.coin() { [x, other] } else { [other, x] };
        if self.random.below(4) == 0 {
            f = self.pick(&[BinaryFn::Div, BinaryFn::Pow, BinaryFn::Mul]);
            pair = [self.positive(pair[0])?, self.positive(pair[1])?];
        }
        self.add(Op::Binary { f }, &pair)
    }

    fn binary_with_weight(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        let shape = match self.random.below(3) {
            0 => vec![],
            1 => sizes.last().map(|&last| vec![last]).unwrap_or_default(),
            _ => sizes.iter().enumerate().map(|(i, &s)| if i == 0 { s } else { 1 }).collect(),
        };
        let w = self.weight(&shape)?;
        let f = self.pick(&[BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Max]);
        let pair = if self.coin() { [x, w] } else { [w, x] };
        self.add(Op::Binary { f }, &pair)
    }

    /// Over some axes, never the batch.
    fn reduce(&mut self, x: ValueId) -> Made {
        let axes: Vec<usize> =
            (1..self.graph.ty(x).shape.rank()).filter(|_| self.random.below(2) == 0).collect();
        let f = self.pick(&[ReduceFn::Sum, ReduceFn::Mean, ReduceFn::Max]);
        let keep = self.coin();
        self.add(Op::Reduce { f, axes, keep }, &[x])
    }

    fn reshape(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        let all: usize = sizes.iter().product();
        let split = (2..=all).find(|d| all.is_multiple_of(*d)).unwrap_or(1);
        let sizes = match self.random.below(4) {
            0 => vec![all],
            1 => vec![all, 1, 1],
            2 => vec![split, all / split],
            _ => vec![all / split, 1, split],
        };
        self.add(Op::Reshape { shape: Shape::batched(&sizes) }, &[x])
    }

    fn transpose(&mut self, x: ValueId) -> Made {
        let mut rest: Vec<usize> = (1..self.graph.ty(x).shape.rank()).collect();
        self.random.shuffle(&mut rest);
        self.add(Op::Transpose { perm: [vec![0], rest].concat() }, &[x])
    }

    fn concat(&mut self, x: ValueId) -> Made {
        let axis = 1 + self.random.below(self.graph.ty(x).shape.rank());
        let other = self.value();
        let mut inputs = vec![x, other, x];
        inputs.truncate(1 + self.random.below(3));
        self.add(Op::Concat { axis }, &inputs)
    }

    /// Slices or pads.
    fn cut(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        if sizes.is_empty() {
            return self.unary(x);
        }
        let at = self.random.below(sizes.len());
        let (axis, before, after) = (at + 1, self.random.below(3), self.random.below(3));
        if self.coin() {
            return self.add(Op::Pad { axis, before, after, value: 0.5 }, &[x]);
        }
        self.add(Op::Slice { axis, start: before, end: sizes[at].saturating_sub(after) }, &[x])
    }

    fn softmax(&mut self, x: ValueId) -> Made {
        let axis = 1 + self.random.below(self.graph.ty(x).shape.rank());
        let op = if self.coin() { Op::Softmax { axis } } else { Op::LogSoftmax { axis } };
        self.add(op, &[x])
    }

    fn linear(&mut self, x: ValueId) -> Made {
        let out = self.pick(&CHANNELS);
        let name = self.fresh();
        self.graph.linear(&name, x, out)
    }

    /// What nothing reads becomes an output, and one value more, which may lie inside of what would be fused.
    fn finish(mut self) -> Graph {
        let read: Vec<ValueId> = self.graph.nodes().iter().flat_map(|n| n.inputs.clone()).collect();
        let extra = self.value();
        for &id in &self.values {
            let name = self.graph.value(id).name.clone();
            if !read.contains(&id) || id == extra {
                self.graph.add_output(&name, id).unwrap();
            }
        }
        self.graph
    }
}

/// A graph of up to ten nodes.
pub(crate) fn grown(seed: u64) -> Graph {
    let mut growing = Growing::new(seed, &CHANNELS);
    let nodes = 2 + growing.random.below(9);
    growing.grow(nodes, Growing::node);
    growing.finish()
}
