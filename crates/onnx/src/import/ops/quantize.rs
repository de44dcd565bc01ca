//! Rounding to bytes, and what bytes stand for. Bytes that flow are stored as unsigned ones: signed ones are shifted by 128,
//! with their zero point. Those of constants become floats at once, and are remembered as bytes.

use std::rc::Rc;

use espalier_graph::{Op, Quant, Role, ValueId};
use espalier_passes::integers::ByteWeight;

use crate::import::constant::{Constant, Elements};
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;
use crate::proto::data;

/// Scales and zero points of a node: one of each, or one for each index along an axis.
struct Scales {
    scales: Vec<f32>,
    /// As many; the type is that of the bytes.
    zeros: Elements,
    /// Where they lie one after the other.
    inner: usize,
    axis: usize,
}

impl Scales {
    /// Those of `node` over a tensor of shape `shape`; `like` is the type of the bytes where no zero point says it.
    fn read(
        im: &Importer<'_>,
        node: &Node,
        shape: &[Option<usize>],
        like: &Elements,
    ) -> Result<Scales, Fault> {
        if node.int_or("block_size", 0)? != 0 {
            return Err(unsupported("scales of blocks"));
        }
        let scale = im.constant(node, 1)?;
        let scales = scale.as_floats()?.to_vec();
        if let Some(bad) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(malformed(format!("has the scale {bad}, it should be a positive number")));
        }
        let zeros = match im.known(node, 2)? {
            Some(zero) if zero.shape.iter().product::<usize>() != scales.len() => {
                let (zeros, scales) = (zero.elements.len(), scales.len());
                return Err(malformed(format!("has {zeros} zero points and {scales} scales")));
            }
            Some(zero) => zero.elements.clone(),
            None => like.zeros(scales.len()),
        };
        if scales.len() == 1 && scale.shape.len() <= 1 {
            return Ok(Scales { scales, zeros, inner: 1, axis: 0 });
        }
        if scale.shape.len() != 1 {
            return Err(malformed(format!("has scales of shape {:?}, a vector is needed", scale.shape)));
        }
        let axis = shapes::axis(node.int_or("axis", 1)?, shape.len())?;
        if shape[axis] != Some(scales.len()) {
            return Err(malformed(format!(
                "has {} scales for axis {axis}, which has {} elements",
                scales.len(),
                shape[axis].map_or("N".into(), |size| size.to_string())
            )));
        }
        let inner = shape[axis + 1..].iter().map(|size| size.unwrap_or(1)).product::<usize>().max(1);
        Ok(Scales { scales, zeros, inner, axis })
    }

    fn at(&self, i: usize) -> usize {
        i / self.inner % self.scales.len()
    }

    /// What flowing bytes stand for: one scale for all.
    fn quant(&self) -> Result<Quant, Fault> {
        let &[scale] = &self.scales[..] else {
            return Err(unsupported("a scale for each channel of a value that flows"));
        };
        let zero = match &self.zeros {
            Elements::U8(v) => v[0],
            Elements::I8(v) => shifted(v[0]),
            _ => return Err(unsupported("of integers that are not bytes")),
        };
        Quant::new(scale, zero).map_err(malformed)
    }
}

/// A signed byte as an unsigned one of the same order.
fn shifted(v: i8) -> u8 {
    (v as u8) ^ 0x80
}

pub(super) fn quantize(im: &mut Importer<'_>, node: &Node) -> Made {
    let like = match node.int_or("output_dtype", 0)? {
        0 => Elements::U8(Vec::new()),
        code if code == i64::from(data::UINT8) => Elements::U8(Vec::new()),
        code if code == i64::from(data::INT8) => Elements::I8(Vec::new()),
        code => return Err(unsupported(format!("to {}", data::name(code as i32)))),
    };
    if let Value::Constant(c) = im.input(node, 0)? {
        let sizes: Vec<Option<usize>> = c.shape.iter().map(|&size| Some(size)).collect();
        let scales = Scales::read(im, node, &sizes, &like)?;
        return Ok(vec![Value::Constant(Rc::new(quantized(&c, &scales)?))]);
    }
    let x = im.float(node, 0)?;
    let scales = Scales::read(im, node, &known(im, x), &like)?;
    let y = im.add("", Op::Quantize { to: scales.quant()? }, &[x])?;
    if matches!(scales.zeros, Elements::I8(_)) {
        im.signed.insert(y);
    }
    Ok(vec![Value::Flowing(y)])
}

fn known(im: &Importer<'_>, x: ValueId) -> Vec<Option<usize>> {
    im.dims(x).iter().map(|d| d.known()).collect()
}

/// A constant rounded to bytes.
fn quantized(c: &Constant, scales: &Scales) -> Result<Constant, Fault> {
    let steps =
        c.as_floats()?.iter().enumerate().map(|(i, v)| (v / scales.scales[scales.at(i)]).round_ties_even());
    let elements = match &scales.zeros {
        // The conversion saturates.
        Elements::U8(zeros) => {
            Elements::U8(steps.enumerate().map(|(i, v)| (v + f32::from(zeros[scales.at(i)])) as u8).collect())
        }
        Elements::I8(zeros) => {
            Elements::I8(steps.enumerate().map(|(i, v)| (v + f32::from(zeros[scales.at(i)])) as i8).collect())
        }
        _ => return Err(unsupported("to integers that are not bytes")),
    };
    Ok(Constant { elements, ..c.clone() })
}

pub(super) fn dequantize(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = match im.input(node, 0)? {
        Value::Constant(c) => return constant(im, node, &c),
        Value::Flowing(x) => x,
        Value::Unknown => return Err(malformed("reads what was never made")),
    };
    let Some(have) = im.ty(x).dtype.quant() else {
        return Err(unsupported(format!("of {}", im.ty(x))));
    };
    let signed = im.signed.contains(&rounded_at(im, x));
    let like = if signed { Elements::I8(Vec::new()) } else { Elements::U8(Vec::new()) };
    let scales = Scales::read(im, node, &known(im, x), &like)?;
    if std::mem::discriminant(&scales.zeros) != std::mem::discriminant(&like) {
        return Err(malformed("has a zero point of another type than its bytes"));
    }
    let quant = scales.quant()?;
    // Bytes that were rounded by one scale and are read by another: the same bytes, of another type.
    let x = match quant == have {
        true => x,
        false => {
            let same = Constant::new(vec![256], Elements::U8((0..=255).collect()));
            let table = im.own_state(Rc::new(same), "table", Role::Statistic)?;
            im.add("read", Op::Table { to: quant }, &[x, table])?
        }
    };
    Ok(vec![Value::Flowing(im.add("", Op::Dequantize, &[x])?)])
}

/// The value that became the bytes `x`, which may have been given other axes since.
fn rounded_at(im: &Importer<'_>, mut x: ValueId) -> ValueId {
    while let Some(node) = im.graph.producer(x)
        && let Op::Reshape { .. } = node.op
    {
        x = node.inputs[0];
    }
    x
}

/// The floats that the integers of a constant stand for.
fn constant(im: &mut Importer<'_>, node: &Node, c: &Rc<Constant>) -> Made {
    let sizes: Vec<Option<usize>> = c.shape.iter().map(|&size| Some(size)).collect();
    let like = c.elements.take(std::iter::empty());
    let scales = Scales::read(im, node, &sizes, &like)?;
    if std::mem::discriminant(&scales.zeros) != std::mem::discriminant(&like) {
        return Err(malformed("has a zero point of another type than its integers"));
    }
    im.pay(c.elements.len().saturating_mul(size_of::<f32>() + size_of::<i8>()))?;
    let (floats, bytes) = match (&c.elements, &scales.zeros) {
        (Elements::I8(v), Elements::I8(z)) => dequantized(v, z, &scales),
        (Elements::U8(v), Elements::U8(z)) => dequantized(v, z, &scales),
        (Elements::Ints(_), Elements::Ints(_)) => {
            let zeros = Constant::new(vec![scales.scales.len()], scales.zeros.clone()).known_ints()?;
            (dequantized(&c.known_ints()?, &zeros, &scales).0, None)
        }
        _ => return Err(malformed("takes integers")),
    };
    let name = own_name(&c.name).to_string();
    let floats = Rc::new(Constant { elements: Elements::Floats(floats), name, ..Constant::clone(c) });
    if let Some(values) = bytes {
        let weight = ByteWeight { values, scale: scales.scales, axis: scales.axis };
        im.bytes.remember(&floats, Rc::new(weight));
    }
    Ok(vec![Value::Constant(floats)])
}

/// The floats; and what is multiplied by the scales, where that fits signed bytes.
fn dequantized<T: Copy + Into<i64>>(
    values: &[T],
    zeros: &[T],
    scales: &Scales,
) -> (Vec<f32>, Option<Vec<i8>>) {
    let centred = |i: usize| values[i].into().saturating_sub(zeros[scales.at(i)].into());
    let floats = (0..values.len()).map(|i| centred(i) as f32 * scales.scales[scales.at(i)]).collect();
    (floats, (0..values.len()).map(|i| i8::try_from(centred(i)).ok()).collect())
}

/// The name that a weight had before ONNX Runtime quantized it.
fn own_name(name: &str) -> &str {
    name.strip_suffix("_quantized").unwrap_or(name)
}
