//! Element types, symbolic dimensions and shapes.

use std::fmt;
use std::str::FromStr;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 32-bit signed integer: labels, indices, counters.
    I32,
    /// Byte: raw pixels, tables.
    U8,
    /// Signed byte: weights of integer layers.
    S8,
    /// Byte that stands for a real number.
    Q8(Quant),
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::U8 | DType::S8 | DType::Q8(_) => 1,
        }
    }

    /// What the bytes of a quantized type stand for.
    pub fn quant(self) -> Option<Quant> {
        match self {
            DType::Q8(quant) => Some(quant),
            DType::F32 | DType::I32 | DType::U8 | DType::S8 => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::F32 => f.write_str("f32"),
            DType::I32 => f.write_str("i32"),
            DType::U8 => f.write_str("u8"),
            DType::S8 => f.write_str("s8"),
            DType::Q8(quant) => write!(f, "{quant}"),
        }
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(DType::F32),
            "i32" => Ok(DType::I32),
            "u8" => Ok(DType::U8),
            "s8" => Ok(DType::S8),
            _ if s.starts_with("q8(") => s.parse().map(DType::Q8),
            _ => Err(format!("unknown element type `{s}`: f32, i32, u8, s8 and q8(scale,zero) are known")),
        }
    }
}

/// Affine quantization: the byte `q` stands for `scale * (q - zero)` (Jacob et al. 2018, "Quantization and training of
/// neural networks for efficient integer-arithmetic-only inference"). Being of such a type is being rounded to it.
#[derive(Clone, Copy, Debug)]
pub struct Quant {
    scale: f32,
    zero: u8,
}

impl Quant {
    /// The quantization with this step between neighbouring bytes, and the byte that stands for 0.
    ///
    /// # Errors
    /// The scale is not positive, or so small or large that quotients of scales could leave f32.
    pub fn new(scale: f32, zero: u8) -> Result<Quant, String> {
        if (1e-12..=1e12).contains(&scale) {
            return Ok(Quant { scale, zero });
        }
        Err(format!("the scale of a quantization is {scale:?}, it should lie in 1e-12..=1e12"))
    }

    /// What the step from a byte to the next stands for.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// The byte that stands for 0.
    pub fn zero(self) -> u8 {
        self.zero
    }

    /// The product of `scales` in steps of this quantization: computed in f64, rounded once, so for one scale the quotient
    /// in f32.
    pub fn steps(self, scales: &[f32]) -> f32 {
        (scales.iter().map(|&scale| f64::from(scale)).product::<f64>() / f64::from(self.scale)) as f32
    }

    /// The byte nearest to `x`, as ONNX's QuantizeLinear has it; NaN gives 0.
    pub fn quantize(self, x: f32) -> u8 {
        ((x / self.scale).round_ties_even() + f32::from(self.zero)) as u8
    }

    /// What `q` stands for.
    pub fn dequantize(self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero)) * self.scale
    }
}

impl PartialEq for Quant {
    fn eq(&self, other: &Quant) -> bool {
        (self.scale.to_bits(), self.zero) == (other.scale.to_bits(), other.zero)
    }
}

impl Eq for Quant {}

impl std::hash::Hash for Quant {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.scale.to_bits(), self.zero).hash(state);
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q8({:?},{})", self.scale, self.zero)
    }
}

impl FromStr for Quant {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parts = s.strip_prefix("q8(").and_then(|s| s.strip_suffix(')')).and_then(|s| s.split_once(','));
        let (scale, zero) = parts.ok_or_else(|| format!("`{s}` is not q8(scale,zero)"))?;
        let wrong = |what: &str| format!("`{s}` has a malformed {what}");
        Quant::new(scale.parse().map_err(|_| wrong("scale"))?, zero.parse().map_err(|_| wrong("zero point"))?)
    }
}

/// One dimension: `factor * N^batch * T^time`, where N is the batch size and T a length in time, both bound by `lower`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    /// The known factor.
    pub factor: usize,
    /// Power of N.
    pub batch: u8,
    /// Power of T.
    pub time: u8,
}

impl Dim {
    /// The batch size, N.
    pub const N: Dim = Dim { factor: 1, batch: 1, time: 0 };
    /// The length in time, T.
    pub const T: Dim = Dim { factor: 1, batch: 0, time: 1 };

    /// The size where it does not depend on N or T.
    pub fn known(self) -> Option<usize> {
        (self.batch == 0 && self.time == 0).then_some(self.factor)
    }

    /// The size for the given bindings; saturates, so that limits downstream catch absurd products.
    pub fn bind(self, bindings: Bindings) -> usize {
        let n = bindings.batch.saturating_pow(self.batch.into());
        let t = bindings.time.saturating_pow(self.time.into());
        self.factor.saturating_mul(n).saturating_mul(t)
    }
}

impl std::ops::Mul for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        Dim {
            factor: self.factor.saturating_mul(other.factor),
            batch: self.batch.saturating_add(other.batch),
            time: self.time.saturating_add(other.time),
        }
    }
}

impl From<usize> for Dim {
    fn from(factor: usize) -> Self {
        Dim { factor, batch: 0, time: 0 }
    }
}

impl fmt::Display for Dim {
    /// Factors joined by `*`: `3`, `N`, `2*N*T`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.factor != 1 || (self.batch == 0 && self.time == 0) {
            parts.push(self.factor.to_string());
        }
        parts.extend(std::iter::repeat_n("N".to_string(), self.batch.into()));
        parts.extend(std::iter::repeat_n("T".to_string(), self.time.into()));
        f.write_str(&parts.join("*"))
    }
}

impl FromStr for Dim {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.split('*').try_fold(Dim::from(1), |dim, part| {
            let next = match part {
                "N" => Dim::N,
                "T" => Dim::T,
                number => Dim::from(number.parse::<u32>().map_err(|_| format!("`{s}` is not a dimension"))? as usize),
            };
            // No real size comes near 2^32, and below it products of two do not overflow.
            Ok(dim * next).and_then(|dim: Dim| match u32::try_from(dim.factor) {
                Ok(_) => Ok(dim),
                Err(_) => Err(format!("`{s}` is too large")),
            })
        })
    }
}

/// The values of the symbols N and T in one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bindings {
    /// N, the batch size.
    pub batch: usize,
    /// T, the length in time.
    pub time: usize,
}

impl Bindings {
    /// Batch size `n`, time 1.
    pub fn batch(n: usize) -> Self {
        Bindings { batch: n, time: 1 }
    }
}

/// The dimensions of a tensor, outermost first; empty for a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// Most axes that are read from text.
    pub const MAX_RANK: usize = 8;

    /// A shape of known sizes.
    pub fn known(dims: &[usize]) -> Self {
        Shape(dims.iter().map(|&d| d.into()).collect())
    }

    /// `[N, dims...]`.
    pub fn batched(dims: &[usize]) -> Self {
        Shape(std::iter::once(Dim::N).chain(dims.iter().map(|&d| d.into())).collect())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements, with N and T as factors.
    pub fn elements(&self) -> Dim {
        self.0.iter().fold(Dim::from(1), |product, &dim| product * dim)
    }

    /// The sizes for the given bindings.
    pub fn bind(&self, bindings: Bindings) -> Vec<usize> {
        self.0.iter().map(|d| d.bind(bindings)).collect()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::attr::Attr::write(self))
    }
}

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
}

impl TensorType {
    /// An f32 tensor.
    pub fn f32(shape: Shape) -> Self {
        TensorType { dtype: DType::F32, shape }
    }

    /// An i32 tensor.
    pub fn i32(shape: Shape) -> Self {
        TensorType { dtype: DType::I32, shape }
    }

    /// A quantized tensor.
    pub fn q8(quant: Quant, shape: Shape) -> Self {
        TensorType { dtype: DType::Q8(quant), shape }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
