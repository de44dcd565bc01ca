//! Tensors that are known when a file is imported: weights, and the sizes that exported graphs compute with.

use espalier_graph::{Data, Dim, Tensor};

use crate::import::fault::{Fault, unsupported};

/// An integer of a constant: a number, or a size that holds the batch N.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Int {
    Known(i64),
    Size(Dim),
}

impl From<Dim> for Int {
    fn from(dim: Dim) -> Self {
        dim.known().map_or(Int::Size(dim), |size| Int::Known(size as i64))
    }
}

impl Int {
    /// The number, or `None` where it depends on the batch.
    pub(crate) fn known(self) -> Option<i64> {
        match self {
            Int::Known(v) => Some(v),
            Int::Size(_) => None,
        }
    }

    /// As a dimension, where it can be one.
    pub(crate) fn dim(self) -> Option<Dim> {
        match self {
            Int::Known(v) => usize::try_from(v).ok().filter(|&v| v <= MAX_SIZE).map(Dim::from),
            Int::Size(dim) => Some(dim),
        }
    }

    pub(crate) fn add(self, other: Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => a.checked_add(b).map(Int::Known),
            (Int::Known(0), size) | (size, Int::Known(0)) => Some(size),
            _ => None,
        }
    }

    pub(crate) fn sub(self, other: Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => a.checked_sub(b).map(Int::Known),
            (size, Int::Known(0)) => Some(size),
            (a, b) if a == b => Some(Int::Known(0)),
            _ => None,
        }
    }

    pub(crate) fn mul(self, other: Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => a.checked_mul(b).map(Int::Known),
            (Int::Known(0), _) | (_, Int::Known(0)) => Some(Int::Known(0)),
            (a, b) => Some(Int::from(a.dim()? * b.dim()?)),
        }
    }

    /// Toward zero, as ONNX divides integers.
    pub(crate) fn div(self, other: Int) -> Option<Int> {
        match (self, other) {
            (Int::Known(a), Int::Known(b)) => a.checked_div(b).map(Int::Known),
            (a, b) => quotient(a.dim()?, b.dim()?).map(Int::from),
        }
    }
}

/// `a / b` where it is a whole size for every batch.
pub(crate) fn quotient(a: Dim, b: Dim) -> Option<Dim> {
    let factor = a.factor.checked_div(b.factor).filter(|q| q * b.factor == a.factor)?;
    Some(Dim { factor, batch: a.batch.checked_sub(b.batch)?, time: a.time.checked_sub(b.time)? })
}

/// Largest size of an axis; the text form of a graph holds no larger one.
pub(crate) const MAX_SIZE: usize = u32::MAX as usize;

/// The elements of a constant. All float types are read as f32, all integers but bytes as 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elements {
    Floats(Vec<f32>),
    Ints(Vec<Int>),
    Bools(Vec<bool>),
    I8(Vec<i8>),
    U8(Vec<u8>),
}

impl Elements {
    pub(crate) fn len(&self) -> usize {
        match self {
            Elements::Floats(v) => v.len(),
            Elements::Ints(v) => v.len(),
            Elements::Bools(v) => v.len(),
            Elements::I8(v) => v.len(),
            Elements::U8(v) => v.len(),
        }
    }

    /// Bytes of memory that `count` elements of this kind take.
    pub(crate) fn bytes(&self, count: usize) -> usize {
        let size = match self {
            Elements::Floats(_) => size_of::<f32>(),
            Elements::Ints(_) => size_of::<Int>(),
            Elements::Bools(_) | Elements::I8(_) | Elements::U8(_) => 1,
        };
        count.saturating_mul(size)
    }

    /// The elements at `positions`, in their order.
    pub(crate) fn take(&self, positions: impl Iterator<Item = usize>) -> Elements {
        match self {
            Elements::Floats(v) => Elements::Floats(positions.map(|i| v[i]).collect()),
            Elements::Ints(v) => Elements::Ints(positions.map(|i| v[i]).collect()),
            Elements::Bools(v) => Elements::Bools(positions.map(|i| v[i]).collect()),
            Elements::I8(v) => Elements::I8(positions.map(|i| v[i]).collect()),
            Elements::U8(v) => Elements::U8(positions.map(|i| v[i]).collect()),
        }
    }

    /// As many zeros of this kind.
    pub(crate) fn zeros(&self, count: usize) -> Elements {
        match self {
            Elements::Floats(_) => Elements::Floats(vec![0.0; count]),
            Elements::Ints(_) => Elements::Ints(vec![Int::Known(0); count]),
            Elements::Bools(_) => Elements::Bools(vec![false; count]),
            Elements::I8(_) => Elements::I8(vec![0; count]),
            Elements::U8(_) => Elements::U8(vec![0; count]),
        }
    }

    /// Bytes as integers of 64 bits, which arithmetic takes; others as they are.
    pub(crate) fn widened(&self) -> Elements {
        match self {
            Elements::I8(v) => Elements::Ints(v.iter().map(|&v| Int::Known(v.into())).collect()),
            Elements::U8(v) => Elements::Ints(v.iter().map(|&v| Int::Known(v.into())).collect()),
            other => other.clone(),
        }
    }

    /// Whether they are signed or unsigned bytes.
    pub(crate) fn is_bytes(&self) -> bool {
        matches!(self, Elements::I8(_) | Elements::U8(_))
    }
}

/// A tensor that is known, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    /// Its name in the file; empty where it was computed.
    pub(crate) name: String,
    /// Whether the file stores it, so that it may be something learned.
    pub(crate) stored: bool,
    pub(crate) shape: Vec<usize>,
    pub(crate) elements: Elements,
}

impl Constant {
    /// A computed one. Panics where shape and elements do not agree.
    pub(crate) fn new(shape: Vec<usize>, elements: Elements) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of a constant {shape:?}");
        Constant { name: String::new(), stored: false, shape, elements }
    }

    pub(crate) fn floats(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Constant::new(shape, Elements::Floats(values))
    }

    /// A vector of integers.
    pub(crate) fn ints(values: Vec<Int>) -> Self {
        Constant::new(vec![values.len()], Elements::Ints(values))
    }

    /// The same, as the file stores it.
    pub(crate) fn stored(self, name: &str) -> Self {
        Constant { name: name.into(), stored: true, ..self }
    }

    pub(crate) fn as_floats(&self) -> Result<&[f32], Fault> {
        match &self.elements {
            Elements::Floats(v) => Ok(v),
            _ => Err(unsupported("a constant of integers or truth values where floats are needed")),
        }
    }

    pub(crate) fn as_ints(&self) -> Result<&[Int], Fault> {
        match &self.elements {
            Elements::Ints(v) => Ok(v),
            _ => Err(unsupported("a constant that is not of integers where integers are needed")),
        }
    }

    pub(crate) fn as_bools(&self) -> Result<&[bool], Fault> {
        match &self.elements {
            Elements::Bools(v) => Ok(v),
            _ => Err(unsupported("a constant that is not of truth values where these are needed")),
        }
    }

    /// The integers, none of which may depend on the batch.
    pub(crate) fn known_ints(&self) -> Result<Vec<i64>, Fault> {
        let known = |v: &Int| v.known().ok_or_else(|| unsupported("a number that depends on the batch size"));
        self.as_ints()?.iter().map(known).collect()
    }

    /// The only element as a float.
    pub(crate) fn scalar(&self) -> Option<f32> {
        match &self.elements {
            Elements::Floats(v) if v.len() == 1 => Some(v[0]),
            Elements::Ints(v) if v.len() == 1 => v[0].known().map(|v| v as f32),
            _ => None,
        }
    }

    /// As the content of a state.
    pub(crate) fn into_tensor(self) -> Result<Tensor, Fault> {
        let data = match self.elements {
            Elements::Floats(v) => Data::F32(v.into()),
            Elements::Ints(v) => {
                let narrow = |v: &Int| v.known().and_then(|v| i32::try_from(v).ok());
                let narrowed: Option<Vec<i32>> = v.iter().map(narrow).collect();
                Data::I32(narrowed.ok_or_else(|| unsupported("integers beyond 32 bits at run time"))?.into())
            }
            Elements::Bools(_) => return Err(unsupported("truth values at run time")),
            Elements::I8(v) => Data::S8(v.into()),
            Elements::U8(v) => Data::U8(v.into()),
        };
        Ok(Tensor::new(&self.shape, data))
    }
}
