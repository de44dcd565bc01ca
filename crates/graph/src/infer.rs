//! Shape inference: the types of an op's outputs from those of its inputs, or what is wrong and what would be right.

mod integers;

use crate::op::{Op, ResizeMode, Window};
use crate::types::{DType, Dim, Shape, TensorType};

type Inferred = Result<Vec<TensorType>, String>;

/// The types of the outputs of `op` over inputs of these types.
///
/// # Errors
/// One sentence that names the shapes and the rule they break.
pub fn infer(op: &Op, inputs: &[&TensorType]) -> Inferred {
    let outputs = infer_any(op, inputs)?;
    match outputs.iter().find(|ty| ty.dtype.quant().is_some() && ty.shape.rank() < 2) {
        Some(ty) => Err(format!("gives {ty}; a quantized value has at least two axes, batch and channels")),
        None => Ok(outputs),
    }
}

fn infer_any(op: &Op, inputs: &[&TensorType]) -> Inferred {
    match op {
        Op::Conv { window, groups } => conv(window, *groups, inputs),
        Op::ConvInputGrad { window, groups, input } => conv_input_grad(window, *groups, *input, inputs),
        Op::ConvWeightGrad { window, groups } => conv_weight_grad(window, *groups, inputs),
        Op::MatMul { trans_a, trans_b } => matmul(*trans_a, *trans_b, inputs),
        Op::MaxPool { window } => pool(window, float_or_bytes(count(inputs)?)?),
        Op::AvgPool { window, .. } => pool(window, floats(inputs)?),
        Op::MaxPoolGrad { window } => {
            let [x, dy] = floats(inputs)?;
            same("dy", dy, &pool(window, [x])?[0])?;
            one(x.clone())
        }
        Op::AvgPoolGrad { window, input, .. } => {
            let [dy] = floats(inputs)?;
            let dx = resized(dy, *input)?;
            same("dy", dy, &pool(window, [&dx])?[0])?;
            one(dx)
        }
        Op::Resize { mode: ResizeMode::Nearest, size } => {
            let [x] = float_or_bytes(count(inputs)?)?;
            one(resized(x, *size)?)
        }
        Op::Resize { mode: ResizeMode::Linear, size } => one(resized(floats::<1>(inputs)?[0], *size)?),
        Op::ResizeGrad { input, .. } => one(resized(floats::<1>(inputs)?[0], *input)?),
        Op::BatchNorm { .. } => {
            let [x, channels @ ..] = floats::<5>(inputs)?;
            per_channel(x, &channels)?;
            one(x.clone())
        }
        Op::BatchNormTraining { .. } => {
            let [x, channels @ ..] = floats::<5>(inputs)?;
            let c = per_channel(x, &channels)?;
            Ok(vec![x.clone(), c.clone(), c.clone(), c.clone(), c])
        }
        Op::BatchNormGrad => {
            let [x, dy, channels @ ..] = floats::<5>(inputs)?;
            same("dy", dy, x)?;
            let c = per_channel(x, &channels)?;
            Ok(vec![x.clone(), c.clone(), c])
        }
        Op::LayerNorm { .. } => {
            let [x, gamma, beta] = floats(inputs)?;
            last_axis(x, &[gamma, beta])?;
            one(x.clone())
        }
        Op::LayerNormGrad { .. } => {
            let [x, dy, gamma] = floats(inputs)?;
            same("dy", dy, x)?;
            let d = last_axis(x, &[gamma])?;
            Ok(vec![x.clone(), d.clone(), d])
        }
        Op::Unary { .. } => one(floats::<1>(inputs)?[0].clone()),
        Op::UnaryGrad { .. } | Op::SoftmaxGrad { .. } => {
            let [x, dy] = floats(inputs)?;
            same("dy", dy, x)?;
            match op {
                Op::SoftmaxGrad { axis } => one(with_axis(x, *axis)?.clone()),
                _ => one(x.clone()),
            }
        }
        Op::Binary { .. } => {
            let [a, b] = floats(inputs)?;
            one(TensorType::f32(broadcast(&a.shape, &b.shape)?))
        }
        Op::Dropout { p, .. } => dropout(*p, inputs),
        Op::Fill { shape, .. } => {
            let [] = floats(inputs)?;
            one(TensorType::f32(shape.clone()))
        }
        Op::Cast { to } => cast(*to, inputs),
        Op::Reduce { axes, keep, .. } => reduce(axes, *keep, inputs),
        Op::Softmax { axis } | Op::LogSoftmax { axis } => {
            one(with_axis(floats::<1>(inputs)?[0], *axis)?.clone())
        }
        Op::CrossEntropy => {
            let [logits, target] = floats(inputs)?;
            cross_entropy(logits, target)?;
            one(scalar())
        }
        Op::CrossEntropyGrad => {
            let [logits, target, dloss] = floats(inputs)?;
            cross_entropy(logits, target)?;
            same("dloss", dloss, &scalar())?;
            one(logits.clone())
        }
        Op::Reshape { shape } => reshape(shape, inputs),
        Op::Transpose { perm } => transpose(perm, inputs),
        Op::Expand { shape } => {
            let [x] = floats(inputs)?;
            if broadcast(&x.shape, shape)? != *shape {
                return Err(format!("{} does not broadcast to {shape}", x.shape));
            }
            one(TensorType::f32(shape.clone()))
        }
        Op::Concat { axis } => concat(*axis, inputs),
        Op::Slice { axis, start, end } => {
            let [x] = float_or_bytes(count(inputs)?)?;
            let size = known_axis(x, *axis)?;
            if start >= end || *end > size {
                return Err(format!("slice {start}..{end} of axis {axis} with {size} elements"));
            }
            one(with_size(x, *axis, end - start))
        }
        Op::Pad { axis, before, after, .. } => {
            let [x] = floats(inputs)?;
            let size = known_axis(x, *axis)?;
            one(with_size(x, *axis, size.saturating_add(*before).saturating_add(*after)))
        }
        Op::Gather { axis } => gather(*axis, inputs),
        Op::GatherGrad { axis, size } => gather_grad(*axis, *size, inputs),
        Op::Quantize { .. }
        | Op::Dequantize
        | Op::QConv { .. }
        | Op::QAdd { .. }
        | Op::QMul { .. }
        | Op::QAvgPool { .. }
        | Op::Table { .. } => integers::infer(op, inputs),
        Op::GlobalNorm => {
            inputs.iter().try_for_each(|t| is_float(t))?;
            one(scalar())
        }
        Op::Sgd { .. } => {
            let [w, g, m, lr, scale] = floats(inputs)?;
            update(w, &[g, m], &[lr, scale])?;
            Ok(vec![w.clone(), w.clone()])
        }
        Op::AdamW { .. } => {
            let [w, g, m, v, lr, scale, step] = floats(inputs)?;
            update(w, &[g, m, v], &[lr, scale, step])?;
            Ok(vec![w.clone(), w.clone(), w.clone()])
        }
        Op::Ema => {
            let [average, value, decay] = floats(inputs)?;
            update(average, &[value], &[decay])?;
            one(average.clone())
        }
    }
}

fn one(ty: TensorType) -> Inferred {
    Ok(vec![ty])
}

fn scalar() -> TensorType {
    TensorType::f32(Shape::default())
}

fn count<'a, const K: usize>(inputs: &[&'a TensorType]) -> Result<[&'a TensorType; K], String> {
    inputs.try_into().map_err(|_| format!("takes {K} inputs, got {}", inputs.len()))
}

fn is_float(ty: &TensorType) -> Result<(), String> {
    if ty.dtype == DType::F32 { Ok(()) } else { Err(format!("takes f32 here, got {}", ty.dtype)) }
}

fn floats<'a, const K: usize>(inputs: &[&'a TensorType]) -> Result<[&'a TensorType; K], String> {
    let all = count::<K>(inputs)?;
    all.iter().try_for_each(|t| is_float(t))?;
    Ok(all)
}

/// Inputs of an op that moves or compares elements and does not compute with them.
fn float_or_bytes<const K: usize>(inputs: [&TensorType; K]) -> Result<[&TensorType; K], String> {
    match inputs.iter().find(|ty| ty.dtype != DType::F32 && ty.dtype.quant().is_none()) {
        Some(ty) => Err(format!("takes f32 or q8 here, got {}", ty.dtype)),
        None => Ok(inputs),
    }
}

fn same(what: &str, have: &TensorType, want: &TensorType) -> Result<(), String> {
    if have == want { Ok(()) } else { Err(format!("{what} is {have}, it should be {want}")) }
}

fn dims<const R: usize>(what: &str, ty: &TensorType) -> Result<[Dim; R], String> {
    let shape = &ty.shape;
    <[Dim; R]>::try_from(shape.0.as_slice())
        .map_err(|_| format!("{what} has shape {shape}, it should have {R} axes"))
}

fn known(what: &str, dim: Dim) -> Result<usize, String> {
    dim.known().ok_or_else(|| format!("{what} is {dim}, it should be a known size"))
}

/// Batch, channels, height and width of a picture tensor, all but the batch known.
fn nchw(what: &str, ty: &TensorType) -> Result<(Dim, usize, [usize; 2]), String> {
    let [n, c, h, w] = dims::<4>(what, ty)?;
    Ok((n, known("the channel axis", c)?, [known("the height", h)?, known("the width", w)?]))
}

fn picture(n: Dim, c: usize, hw: [usize; 2]) -> TensorType {
    TensorType::f32(Shape(vec![n, c.into(), hw[0].into(), hw[1].into()]))
}

fn resized(x: &TensorType, size: [usize; 2]) -> Result<TensorType, String> {
    let (n, c, _) = nchw("x", x)?;
    if size.contains(&0) {
        return Err("the size must not be 0".into());
    }
    Ok(TensorType { dtype: x.dtype, ..picture(n, c, size) })
}

fn window_output(window: &Window, hw: [usize; 2]) -> Result<[usize; 2], String> {
    if window.kernel.contains(&0) || window.stride.contains(&0) || window.dilation.contains(&0) {
        return Err("kernel, stride and dilation must be at least 1".into());
    }
    window.output(hw).ok_or_else(|| {
        format!(
            "a {}x{} kernel does not fit {}x{} with this padding",
            window.kernel[0], window.kernel[1], hw[0], hw[1]
        )
    })
}

/// Output and input channels of a weight, checked against kernel size and groups.
fn conv_weight(window: &Window, groups: usize, w: &TensorType) -> Result<(usize, usize), String> {
    let (o, per_group, kernel) = nchw("the weight", w)?;
    let o = known("the number of output channels", o)?;
    if kernel != window.kernel {
        return Err(format!("the weight's kernel is {kernel:?}, the window's {:?}", window.kernel));
    }
    if groups == 0 || o % groups != 0 || per_group == 0 || o == 0 {
        return Err(format!("{o} output channels cannot be split in {groups} groups"));
    }
    let channels = per_group.checked_mul(groups).ok_or("the number of input channels overflows")?;
    Ok((o, channels))
}

fn conv(window: &Window, groups: usize, inputs: &[&TensorType]) -> Inferred {
    let (&[x, w], bias) = inputs
        .split_first_chunk::<2>()
        .ok_or_else(|| format!("takes 2 or 3 inputs, got {}", inputs.len()))?;
    inputs.iter().try_for_each(|t| is_float(t))?;
    let (y, per_channel) = convolved(window, groups, x, w)?;
    match bias {
        [] => {}
        [b] => same("the bias", b, &per_channel)?,
        _ => return Err(format!("takes 2 or 3 inputs, got {}", inputs.len())),
    }
    one(y)
}

/// The f32 result of a convolution, and the type of what it has once for each output channel.
fn convolved(
    window: &Window,
    groups: usize,
    x: &TensorType,
    w: &TensorType,
) -> Result<(TensorType, TensorType), String> {
    let (n, c, hw) = nchw("x", x)?;
    let (o, channels) = conv_weight(window, groups, w)?;
    if c != channels {
        return Err(format!("x has {c} channels, the weight expects {channels}"));
    }
    Ok((picture(n, o, window_output(window, hw)?), TensorType::f32(Shape::known(&[o]))))
}

fn conv_input_grad(window: &Window, groups: usize, input: [usize; 2], inputs: &[&TensorType]) -> Inferred {
    let [dy, w] = floats(inputs)?;
    let (o, channels) = conv_weight(window, groups, w)?;
    let (n, _, _) = nchw("dy", dy)?;
    same("dy", dy, &picture(n, o, window_output(window, input)?))?;
    one(picture(n, channels, input))
}

fn conv_weight_grad(window: &Window, groups: usize, inputs: &[&TensorType]) -> Inferred {
    let [x, dy] = floats(inputs)?;
    let (n, c, hw) = nchw("x", x)?;
    let (_, o, _) = nchw("dy", dy)?;
    same("dy", dy, &picture(n, o, window_output(window, hw)?))?;
    if groups == 0 || c % groups != 0 || o % groups != 0 {
        return Err(format!("{c} input and {o} output channels cannot be split in {groups} groups"));
    }
    let [kh, kw] = window.kernel;
    one(TensorType::f32(Shape::known(&[o, c / groups, kh, kw])))
}

fn matmul(trans_a: bool, trans_b: bool, inputs: &[&TensorType]) -> Inferred {
    let [a, b] = floats(inputs)?;
    let rows_columns = |ty: &TensorType, trans: bool| match ty.shape.0.as_slice() {
        [lead @ .., r, c] => Ok((lead.to_vec(), if trans { (*c, *r) } else { (*r, *c) })),
        _ => Err(format!("{} has fewer than 2 axes", ty.shape)),
    };
    let (lead, (m, k)) = rows_columns(a, trans_a)?;
    let (lead_b, (k_b, n)) = rows_columns(b, trans_b)?;
    if k != k_b {
        return Err(format!("the inner sizes differ: {k} and {k_b}"));
    }
    if !lead_b.is_empty() && lead_b != lead {
        return Err(format!("the leading axes of {} and {} differ", a.shape, b.shape));
    }
    one(TensorType::f32(Shape(lead.into_iter().chain([m, n]).collect())))
}

fn pool(window: &Window, [x]: [&TensorType; 1]) -> Inferred {
    let (n, c, hw) = nchw("x", x)?;
    let too_wide = (0..2).any(|a| window.pad[a] >= window.kernel[a] || window.pad[a + 2] >= window.kernel[a]);
    if too_wide || window.dilation != [1, 1] {
        return Err("pooling needs padding smaller than its kernel, and no dilation".into());
    }
    one(TensorType { dtype: x.dtype, ..picture(n, c, window_output(window, hw)?) })
}

fn per_channel(x: &TensorType, channels: &[&TensorType]) -> Result<TensorType, String> {
    if x.shape.rank() < 2 {
        return Err(format!("x has shape {}, it should have a channel axis 1", x.shape));
    }
    let want = TensorType::f32(Shape(vec![x.shape.0[1]]));
    channels.iter().try_for_each(|c| same("a per-channel input", c, &want))?;
    Ok(want)
}

fn last_axis(x: &TensorType, vectors: &[&TensorType]) -> Result<TensorType, String> {
    let last = x.shape.0.last().ok_or("x has no axis")?;
    let want = TensorType::f32(Shape(vec![*last]));
    vectors.iter().try_for_each(|v| same("gamma or beta", v, &want))?;
    Ok(want)
}

/// NumPy's broadcasting of two shapes.
pub(crate) fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.rank().max(b.rank());
    let at = |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(Dim::from(1), |j| s.0[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == Dim::from(1) => Ok(x),
            (x, y) if x == Dim::from(1) => Ok(y),
            _ => Err(format!("{a} and {b} do not broadcast")),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Shape)
}

fn dropout(p: f32, inputs: &[&TensorType]) -> Inferred {
    let [x, rng] = count(inputs)?;
    is_float(x)?;
    same("rng", rng, &TensorType::i32(Shape::known(&[2])))?;
    if !(0.0..1.0).contains(&p) {
        return Err(format!("p is {p}, it should be in 0..1"));
    }
    one(x.clone())
}

fn cast(to: DType, inputs: &[&TensorType]) -> Inferred {
    let [x] = count(inputs)?;
    if ![x.dtype, to].iter().all(|dtype| matches!(dtype, DType::F32 | DType::I32)) {
        return Err(format!("casts between f32 and i32, not {} to {to}: bytes are only carried", x.dtype));
    }
    one(TensorType { dtype: to, shape: x.shape.clone() })
}

fn with_axis(x: &TensorType, axis: usize) -> Result<&TensorType, String> {
    if axis < x.shape.rank() { Ok(x) } else { Err(format!("axis {axis} of shape {}", x.shape)) }
}

fn known_axis(x: &TensorType, axis: usize) -> Result<usize, String> {
    known(&format!("axis {axis}"), with_axis(x, axis)?.shape.0[axis])
}

fn with_size(x: &TensorType, axis: usize, size: usize) -> TensorType {
    let mut ty = x.clone();
    ty.shape.0[axis] = size.into();
    ty
}

fn reduce(axes: &[usize], keep: bool, inputs: &[&TensorType]) -> Inferred {
    let [x] = floats(inputs)?;
    axes.iter().try_for_each(|&axis| with_axis(x, axis).map(drop))?;
    if !axes.is_sorted_by(|a, b| a < b) {
        return Err(format!("axes {axes:?} should be ascending"));
    }
    let dims = x.shape.0.iter().enumerate().filter_map(|(axis, &dim)| match axes.contains(&axis) {
        true => keep.then_some(Dim::from(1)),
        false => Some(dim),
    });
    one(TensorType::f32(Shape(dims.collect())))
}

fn cross_entropy(logits: &TensorType, target: &TensorType) -> Result<(), String> {
    dims::<2>("logits", logits)?;
    same("the target", target, logits)
}

fn reshape(shape: &Shape, inputs: &[&TensorType]) -> Inferred {
    let [x] = count(inputs)?;
    if x.shape.elements() != shape.elements() {
        return Err(format!("{} has other elements than {shape}", x.shape));
    }
    one(TensorType { dtype: x.dtype, shape: shape.clone() })
}

fn transpose(perm: &[usize], inputs: &[&TensorType]) -> Inferred {
    let [x] = float_or_bytes(count(inputs)?)?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted != (0..x.shape.rank()).collect::<Vec<_>>() {
        return Err(format!("{perm:?} is no permutation of the axes of {}", x.shape));
    }
    let shape = Shape(perm.iter().map(|&p| x.shape.0[p]).collect());
    one(TensorType { dtype: x.dtype, shape })
}

fn concat(axis: usize, inputs: &[&TensorType]) -> Inferred {
    let first = *inputs.first().ok_or("takes at least 1 input")?;
    let mut total = 0usize;
    for &ty in inputs {
        float_or_bytes([ty])?;
        let size = known_axis(ty, axis)?;
        same("an input (its joined axis apart)", &with_size(ty, axis, 0), &with_size(first, axis, 0))?;
        total = total.saturating_add(size);
    }
    one(with_size(first, axis, total))
}

fn gather(axis: usize, inputs: &[&TensorType]) -> Inferred {
    let [table, index] = count(inputs)?;
    is_float(table)?;
    known_axis(table, axis)?;
    if index.dtype != DType::I32 {
        return Err(format!("indices are i32, got {}", index.dtype));
    }
    let (before, after) = (&table.shape.0[..axis], &table.shape.0[axis + 1..]);
    one(TensorType::f32(Shape([before, &index.shape.0, after].concat())))
}

fn gather_grad(axis: usize, size: usize, inputs: &[&TensorType]) -> Inferred {
    let [index, dy] = count(inputs)?;
    is_float(dy)?;
    let rank = index.shape.rank();
    if index.dtype != DType::I32 || dy.shape.0.get(axis..axis + rank) != Some(&index.shape.0[..]) {
        return Err(format!("dy {dy} does not hold i32 indices {index} at axis {axis}"));
    }
    let (before, after) = (&dy.shape.0[..axis], &dy.shape.0[axis + rank..]);
    one(TensorType::f32(Shape([before, &[size.into()], after].concat())))
}

fn update(w: &TensorType, like: &[&TensorType], scalars: &[&TensorType]) -> Result<(), String> {
    like.iter().try_for_each(|t| same("gradient or moment", t, w))?;
    scalars.iter().try_for_each(|t| same("learning rate, scale or step", t, &scalar()))
}
