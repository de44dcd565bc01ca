//! Element types, symbolic dimensions and shapes.

use std::fmt;
use std::str::FromStr;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 32-bit signed integer: labels, indices, counters.
    I32,
    /// Byte: raw pixels.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::I32 => "i32",
            DType::U8 => "u8",
        })
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(DType::F32),
            "i32" => Ok(DType::I32),
            "u8" => Ok(DType::U8),
            _ => Err(format!("unknown element type `{s}`: f32, i32 and u8 are known")),
        }
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
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
