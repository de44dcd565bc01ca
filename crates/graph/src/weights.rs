//! Tensors on the host, in the logical layout: what states hold between runs, and what files carry.

use std::collections::BTreeMap;
use std::sync::Arc;

use memmap2::Mmap;

use crate::types::{DType, Shape, TensorType};
use crate::values::{Plain, Values};

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Values<f32>),
    /// 32-bit integers.
    I32(Values<i32>),
    /// Bytes.
    U8(Values<u8>),
    /// Signed bytes.
    S8(Values<i8>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::S8(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Data::F32(_) => DType::F32,
            Data::I32(_) => DType::I32,
            Data::U8(_) => DType::U8,
            Data::S8(_) => DType::S8,
        }
    }

    /// Their bytes, in this machine's order.
    pub fn as_bytes(&self) -> &[u8] {
        fn bytes<T: Plain>(v: &[T]) -> &[u8] {
            // SAFETY: plain numbers have no padding, and bytes need no alignment.
            unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), size_of_val(v)) }
        }
        match self {
            Data::F32(v) => bytes(v),
            Data::I32(v) => bytes(v),
            Data::U8(v) => bytes(v),
            Data::S8(v) => bytes(v),
        }
    }

    /// Their bytes, little-endian.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::U8(v) => v.to_vec(),
            Data::S8(v) => v.iter().map(|&x| x as u8).collect(),
        }
    }

    /// As [`Data::from_le_bytes`], without a copy where the bytes lie in `file` as this machine has them.
    pub(crate) fn in_file(dtype: DType, bytes: &[u8], file: &Arc<Mmap>) -> Data {
        let mapped = match dtype {
            DType::F32 => Values::mapped(file, bytes).map(Data::F32),
            DType::I32 => Values::mapped(file, bytes).map(Data::I32),
            DType::U8 | DType::Q8(_) => Values::mapped(file, bytes).map(Data::U8),
            DType::S8 => Values::mapped(file, bytes).map(Data::S8),
        };
        mapped.unwrap_or_else(|| Data::from_le_bytes(dtype, bytes))
    }

    /// From little-endian bytes; a rest shorter than an element is ignored. Quantized elements come as bare bytes.
    pub fn from_le_bytes(dtype: DType, bytes: &[u8]) -> Data {
        let words = || bytes.chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]);
        match dtype {
            DType::F32 => Data::F32(words().map(f32::from_le_bytes).collect()),
            DType::I32 => Data::I32(words().map(i32::from_le_bytes).collect()),
            DType::U8 | DType::Q8(_) => Data::U8(bytes.to_vec().into()),
            DType::S8 => Data::S8(bytes.iter().map(|&x| x as i8).collect()),
        }
    }
}

/// A tensor with known sizes, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Data,
}

impl Tensor {
    /// An f32 tensor. Panics where shape and elements do not agree.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        Tensor::new(shape, Data::F32(data.into()))
    }

    /// A tensor. Panics where shape and elements do not agree.
    pub fn new(shape: &[usize], data: Data) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of a tensor {shape:?}");
        Tensor { shape: shape.to_vec(), data }
    }

    /// Its type.
    pub fn ty(&self) -> TensorType {
        TensorType { dtype: self.data.dtype(), shape: Shape::known(&self.shape) }
    }

    /// The floats, or `None` for other element types.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The integers of 32 bits, or `None` for other element types.
    pub fn as_i32(&self) -> Option<&[i32]> {
        match &self.data {
            Data::I32(v) => Some(v),
            _ => None,
        }
    }

    /// The signed bytes, or `None` for other element types.
    pub fn as_s8(&self) -> Option<&[i8]> {
        match &self.data {
            Data::S8(v) => Some(v),
            _ => None,
        }
    }

    /// The bytes, or `None` for other element types.
    pub fn as_u8(&self) -> Option<&[u8]> {
        match &self.data {
            Data::U8(v) => Some(v),
            _ => None,
        }
    }
}

/// The content of a graph's states, by name.
pub type Weights = BTreeMap<String, Tensor>;
