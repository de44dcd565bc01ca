//! Ops that compute with several bytes.

use espalier_graph::{BinaryFn, DType, Dim, Node, Op, ReduceFn, Shape, UnaryFn, ValueId, Window};

use super::function::Function;
use super::weight::{BiasOf, sizes};
use super::{ALL, Found, Pass, Rounding, fresh, quant, try_add};
use crate::layer::is_constant;
use crate::rewrite::Rewrite;

impl Rounding {
    /// With the clamp `f` before it; `None` where `f` is no clamp.
    pub(super) fn clamped(self, f: UnaryFn) -> Option<Rounding> {
        let (lo, hi) = match f {
            UnaryFn::Relu => (0.0, f32::INFINITY),
            UnaryFn::Clip { lo, hi } => (lo.min(hi), hi),
            _ => return None,
        };
        let limits = [lo, hi].map(|bound| self.to.quantize(bound).clamp(self.limits[0], self.limits[1]));
        Some(Rounding { limits, ..self })
    }
}

/// A Conv, or a matrix product with or without its bias, of bytes and a constant weight of bytes.
struct Product {
    /// New bytes.
    x: ValueId,
    /// Old state.
    weight: ValueId,
    /// Old state.
    bias: Option<ValueId>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Conv { window: Window, groups: usize },
    Linear { trans_b: bool },
}

const PIXEL: Window = Window { kernel: [1; 2], stride: [1; 2], pad: [0; 4], dilation: [1; 2] };

/// How a product becomes bytes.
#[derive(Clone, Copy)]
struct Ending {
    how: Rounding,
    /// New bytes that are added before rounding.
    residual: Option<ValueId>,
}

impl Pass<'_> {
    /// The result of a product as a float, computed of bytes.
    pub(super) fn product(&mut self, r: &mut Rewrite<'_>, node: &Node) -> Found {
        let Some(product) = self.as_product(r, node) else { return Ok(None) };
        let name = self.own_name(r, node.outputs[0]);
        self.emit(r, &name, &product, None)
    }

    /// The result of `node`, of bytes, in bytes; the last op is called `name`.
    pub(super) fn computed(&mut self, r: &mut Rewrite<'_>, name: &str, node: &Node, how: Rounding) -> Found {
        if let Some(product) = self.as_product(r, node) {
            return self.emit(r, name, &product, Some(Ending { how, residual: None }));
        }
        let bytes: Vec<Option<ValueId>> =
            node.inputs.iter().map(|id| self.backing.get(id).copied()).collect();
        match (&node.op, &bytes[..]) {
            (Op::Binary { f: BinaryFn::Add }, &[Some(a), Some(b)]) => {
                try_add(r, name, &Op::QAdd { to: how.to, limits: how.limits }, &[a, b])
            }
            (Op::Binary { f: BinaryFn::Add }, _) => self.residual(r, name, node, how),
            (Op::Binary { f: BinaryFn::Mul }, &[Some(a), Some(b)]) => {
                let op = Op::QMul { to: how.to, limits: how.limits };
                match try_add(r, name, &op, &[a, b])? {
                    Some(y) => Ok(Some(y)),
                    None => try_add(r, name, &op, &[b, a]),
                }
            }
            (Op::AvgPool { window, count_pad }, &[Some(x)]) => {
                self.average(r, name, x, (*window, *count_pad), how)
            }
            (Op::Reduce { f: ReduceFn::Mean, axes, keep }, &[Some(x)]) if axes[..] == [2, 3] => {
                self.mean(r, name, x, *keep, how)
            }
            _ => Ok(None),
        }
    }

    /// A sum of a convolution, which is not rounded itself, and bytes.
    fn residual(&mut self, r: &mut Rewrite<'_>, name: &str, node: &Node, how: Rounding) -> Found {
        for (conv, other) in [(0, 1), (1, 0)].map(|(a, b)| (node.inputs[a], node.inputs[b])) {
            let (Some(maker), Some(&residual)) = (r.old.producer(conv), self.backing.get(&other)) else {
                continue;
            };
            if self.readers[conv.index()] == 1
                && matches!(maker.op, Op::Conv { .. })
                && let Some(product) = self.as_product(r, maker)
            {
                return self.emit(r, name, &product, Some(Ending { how, residual: Some(residual) }));
            }
        }
        Ok(None)
    }

    fn average(
        &mut self,
        r: &mut Rewrite<'_>,
        name: &str,
        x: ValueId,
        (window, count_pad): (Window, bool),
        how: Rounding,
    ) -> Found {
        let op = Op::QAvgPool { window, count_pad, to: how.to };
        if how.limits == ALL {
            return try_add(r, name, &op, &[x]);
        }
        let part = fresh(r, &format!("{name}.mean"));
        match try_add(r, &part, &op, &[x])? {
            Some(mean) => self.table(r, name, &Function::identity(mean, how.to), how).map(Some),
            None => Ok(None),
        }
    }

    /// The mean over height and width.
    fn mean(&mut self, r: &mut Rewrite<'_>, name: &str, x: ValueId, keep: bool, how: Rounding) -> Found {
        let [n, c, h, w] = r.new.ty(x).shape.0[..] else { return Ok(None) };
        let (Some(h), Some(w)) = (h.known(), w.known()) else { return Ok(None) };
        let window = Window { kernel: [h, w], ..PIXEL };
        let part = if keep { name.to_string() } else { fresh(r, &format!("{name}.mean")) };
        match self.average(r, &part, x, (window, false), how)? {
            Some(mean) if !keep => r.new.reshape(name, mean, Shape(vec![n, c])).map(Some),
            mean => Ok(mean),
        }
    }

    fn as_product(&self, r: &Rewrite<'_>, node: &Node) -> Option<Product> {
        // The weight's number of axes, and which of them are the outputs.
        let (rank, axis, kind) = match node.op {
            Op::Conv { window, groups } => (4, 0, Kind::Conv { window, groups }),
            Op::MatMul { trans_a: false, trans_b } => (2, usize::from(!trans_b), Kind::Linear { trans_b }),
            Op::Binary { f: BinaryFn::Add } => return self.biased(r, node),
            _ => return None,
        };
        let (x, weight) = (*self.backing.get(&node.inputs[0])?, node.inputs[1]);
        let bias = node.inputs.get(2).copied();
        self.byte_weight(r, weight, axis)?;
        let fits = sizes(r, weight).len() == rank && bias.is_none_or(|bias| is_constant(r.old, bias));
        fits.then_some(Product { x, weight, bias, kind })
    }

    /// A matrix product to which a constant vector is added.
    fn biased(&self, r: &Rewrite<'_>, sum: &Node) -> Option<Product> {
        [(0, 1), (1, 0)].into_iter().find_map(|(a, b)| {
            let (product, bias) = (sum.inputs[a], vector(r, sum.inputs[b])?);
            let node = r.old.producer(product).filter(|node| matches!(node.op, Op::MatMul { .. }))?;
            let product = (self.readers[product.index()] == 1).then(|| self.as_product(r, node))??;
            Some(Product { bias: Some(bias), ..product })
        })
    }

    fn emit(&mut self, r: &mut Rewrite<'_>, name: &str, product: &Product, ending: Option<Ending>) -> Found {
        match product.kind {
            Kind::Conv { window, groups } => {
                let shape = sizes(r, product.weight);
                self.qconv(r, name, product, (window, groups), &shape, ending)
            }
            Kind::Linear { trans_b } => self.linear(r, name, product, trans_b, ending),
        }
    }

    /// `[.., K]` times a matrix: a convolution of pictures of one pixel.
    fn linear(
        &mut self,
        r: &mut Rewrite<'_>,
        name: &str,
        product: &Product,
        trans_b: bool,
        ending: Option<Ending>,
    ) -> Found {
        let (size, one) = (sizes(r, product.weight), Dim::from(1));
        let [depth, outputs] = if trans_b { [size[1], size[0]] } else { [size[0], size[1]] };
        let mut dims = r.new.ty(product.x).shape.0.clone();
        let Some(last) = dims.pop().filter(|_| !dims.is_empty()) else { return Ok(None) };
        let rows = dims.iter().fold(one, |rows, &d| rows * d);
        let part = fresh(r, &format!("{name}.in"));
        let x = r.new.reshape(&part, product.x, Shape(vec![rows, last, one, one]))?;
        let pixels = Product { x, ..*product };
        let part = fresh(r, &format!("{name}.product"));
        let made = self.qconv(r, &part, &pixels, (PIXEL, 1), &[outputs, depth, 1, 1], ending)?;
        let Some(made) = made else { return Ok(None) };
        dims.push(outputs.into());
        r.new.reshape(name, made, Shape(dims)).map(Some)
    }

    /// The QConv of weights of the given shape.
    fn qconv(
        &mut self,
        r: &mut Rewrite<'_>,
        name: &str,
        product: &Product,
        (window, groups): (Window, usize),
        shape: &[usize],
        ending: Option<Ending>,
    ) -> Found {
        let swapped = matches!(product.kind, Kind::Linear { trans_b: false });
        let [values, scale] = self.byte_states(r, product.weight, swapped, shape)?;
        let bias_of = BiasOf { bias: product.bias, weight: product.weight, x: quant(&r.new, product.x) };
        let Some(bias) = self.byte_bias(r, bias_of, shape[0])? else { return Ok(None) };
        let (to, limits) = ending.map_or((DType::F32, ALL), |e| (DType::Q8(e.how.to), e.how.limits));
        let mut inputs = vec![product.x, values, scale, bias];
        inputs.extend(ending.and_then(|e| e.residual));
        try_add(r, name, &Op::QConv { window, groups, to, limits }, &inputs)
    }
}

/// The constant vector that is added along the last axis where `id` is, which may have axes of size 1 in front.
fn vector(r: &Rewrite<'_>, id: ValueId) -> Option<ValueId> {
    let state = match r.old.producer(id) {
        Some(Node { op: Op::Reshape { shape }, inputs, .. }) => {
            let (_, front) = shape.0.split_last()?;
            inputs.first().copied().filter(|_| front.iter().all(|&d| d == Dim::from(1)))?
        }
        _ => id,
    };
    (is_constant(r.old, state) && sizes(r, state).len() == 1).then_some(state)
}
