//! Layers that are composed from ops. Names and shapes of their states are PyTorch's.

use crate::graph::{Graph, GraphError, Role, ValueId};
use crate::op::{BinaryFn, Op, ReduceFn, UnaryFn, Window};
use crate::types::{Dim, Shape, TensorType};

type Made = Result<ValueId, GraphError>;

impl Graph {
    fn weight(&mut self, name: &str, shape: &[usize]) -> Made {
        self.add_state(name, Role::Weight, TensorType::f32(Shape::known(shape)))
    }

    fn channels(&self, x: ValueId) -> usize {
        self.ty(x).shape.0.get(1).and_then(|d| d.known()).unwrap_or(0)
    }

    /// 2-D convolution of `x[N,C,H,W]` to `out` channels; states `name.weight` and, with `bias`, `name.bias`.
    ///
    /// # Errors
    /// The window does not fit, or channels do not divide into groups.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        window: Window,
        groups: usize,
        bias: bool,
    ) -> Made {
        let per_group = self.channels(x) / groups.max(1);
        let w =
            self.weight(&format!("{name}.weight"), &[out, per_group, window.kernel[0], window.kernel[1]])?;
        let mut inputs = vec![x, w];
        if bias {
            inputs.push(self.weight(&format!("{name}.bias"), &[out])?);
        }
        self.add(name, Op::Conv { window, groups }, &inputs)
    }

    /// 1-D convolution of `x[N,C,L]`, as a 2-D one of height 1; the weight is `[O, C/groups, 1, k]`.
    ///
    /// # Errors
    /// As [`Graph::conv2d`]; `L` must be known.
    pub fn conv1d(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> Made {
        let dims = self.ty(x).shape.0.clone();
        let [n, c, l] = dims[..] else {
            return Err(GraphError::Invalid(format!("conv1d `{name}` takes [N,C,L], got {}", self.ty(x))));
        };
        let picture = self.reshape(&format!("{name}.in"), x, Shape(vec![n, c, 1.into(), l]))?;
        let window =
            Window { kernel: [1, kernel], stride: [1, stride], pad: [0, pad, 0, pad], dilation: [1, 1] };
        let y = self.conv2d(name, picture, out, window, 1, true)?;
        let l = self.ty(y).shape.0[3];
        self.reshape(&format!("{name}.out"), y, Shape(vec![n, out.into(), l]))
    }

    /// Batch normalisation over axis 1; states `name.{weight, bias, running_mean, running_var}`.
    ///
    /// # Errors
    /// `x` has no channel axis.
    pub fn batch_norm(&mut self, name: &str, x: ValueId, eps: f32, momentum: f32) -> Made {
        let c = [self.channels(x)];
        let gamma = self.weight(&format!("{name}.weight"), &c)?;
        let beta = self.weight(&format!("{name}.bias"), &c)?;
        let ty = TensorType::f32(Shape::known(&c));
        let mean = self.add_state(&format!("{name}.running_mean"), Role::Statistic, ty.clone())?;
        let var = self.add_state(&format!("{name}.running_var"), Role::Statistic, ty)?;
        self.add(name, Op::BatchNorm { eps, momentum }, &[x, gamma, beta, mean, var])
    }

    /// Layer normalisation over the last axis; states `name.{weight, bias}`.
    ///
    /// # Errors
    /// The last axis is not a known size.
    pub fn layer_norm(&mut self, name: &str, x: ValueId, eps: f32) -> Made {
        let d = [self.ty(x).shape.0.last().and_then(|d| d.known()).unwrap_or(0)];
        let gamma = self.weight(&format!("{name}.weight"), &d)?;
        let beta = self.weight(&format!("{name}.bias"), &d)?;
        self.add(name, Op::LayerNorm { eps }, &[x, gamma, beta])
    }

    /// Fully connected layer `x[..,K] -> [..,out]`; states `name.{weight [out,K], bias [out]}`.
    ///
    /// # Errors
    /// The last axis is not a known size.
    pub fn linear(&mut self, name: &str, x: ValueId, out: usize) -> Made {
        let k = self.ty(x).shape.0.last().and_then(|d| d.known()).unwrap_or(0);
        let w = self.weight(&format!("{name}.weight"), &[out, k])?;
        let b = self.weight(&format!("{name}.bias"), &[out])?;
        let product = Op::MatMul { trans_a: false, trans_b: true };
        let y = self.add(&format!("{name}.product"), product, &[x, w])?;
        self.add(name, Op::Binary { f: BinaryFn::Add }, &[y, b])
    }

    /// Scaled dot-product attention over `q, k, v [.., L, D]` (Vaswani et al. 2017): `softmax(q kᵀ / sqrt D) v`.
    ///
    /// # Errors
    /// Shapes that do not multiply.
    pub fn attention(&mut self, name: &str, q: ValueId, k: ValueId, v: ValueId) -> Made {
        let depth = self.ty(q).shape.0.last().and_then(|d| d.known()).unwrap_or(1);
        let rank = self.ty(q).shape.rank();
        let scores =
            self.add(&format!("{name}.scores"), Op::MatMul { trans_a: false, trans_b: true }, &[q, k])?;
        let f = UnaryFn::Affine { scale: 1.0 / (depth as f32).sqrt(), offset: 0.0 };
        let scaled = self.add(&format!("{name}.scaled"), Op::Unary { f }, &[scores])?;
        let weights = self.add(&format!("{name}.weights"), Op::Softmax { axis: rank - 1 }, &[scaled])?;
        self.add(name, Op::MatMul { trans_a: false, trans_b: false }, &[weights, v])
    }

    /// Rows of a table `[entries, dim]` for `index i32[..]`; state `name.weight`.
    ///
    /// # Errors
    /// Indices that are not i32.
    pub fn embedding(&mut self, name: &str, index: ValueId, entries: usize, dim: usize) -> Made {
        let table = self.weight(&format!("{name}.weight"), &[entries, dim])?;
        self.add(name, Op::Gather { axis: 0 }, &[table, index])
    }

    /// Elementwise function.
    ///
    /// # Errors
    /// `x` is not f32.
    pub fn unary(&mut self, name: &str, f: UnaryFn, x: ValueId) -> Made {
        self.add(name, Op::Unary { f }, &[x])
    }

    /// Elementwise sum.
    ///
    /// # Errors
    /// Shapes that do not broadcast.
    pub fn sum(&mut self, name: &str, a: ValueId, b: ValueId) -> Made {
        self.add(name, Op::Binary { f: BinaryFn::Add }, &[a, b])
    }

    /// Other axes for the same elements.
    ///
    /// # Errors
    /// Another number of elements.
    pub fn reshape(&mut self, name: &str, x: ValueId, shape: Shape) -> Made {
        self.add(name, Op::Reshape { shape }, &[x])
    }

    /// Mean over height and width: `[N,C,H,W] -> [N,C]`.
    ///
    /// # Errors
    /// `x` is no picture tensor.
    pub fn global_avg_pool(&mut self, name: &str, x: ValueId) -> Made {
        self.add(name, Op::Reduce { f: ReduceFn::Mean, axes: vec![2, 3], keep: false }, &[x])
    }

    /// `[N, ...] -> [N, product]`.
    ///
    /// # Errors
    /// Only where names collide.
    pub fn flatten(&mut self, name: &str, x: ValueId) -> Made {
        let dims = &self.ty(x).shape.0;
        let rest = dims[1..].iter().fold(Dim::from(1), |product, &d| product * d);
        let shape = Shape(vec![dims[0], rest]);
        self.reshape(name, x, shape)
    }

    /// Dropout with probability `p`; declares the input `rng i32[2]` (seed, step) where the graph has none yet.
    ///
    /// # Errors
    /// `p` outside of 0..1.
    pub fn dropout(&mut self, name: &str, x: ValueId, p: f32) -> Made {
        let rng = match self.find("rng") {
            Some(rng) => rng,
            None => self.add_input("rng", TensorType::i32(Shape::known(&[2])))?,
        };
        let stream = self.nodes().len();
        self.add(name, Op::Dropout { p, stream }, &[x, rng])
    }
}
