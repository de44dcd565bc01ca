//! Tensors of a file become constants. The number of elements is checked against the data before memory is taken.

use std::path::Path;

use half::{bf16, f16};
use prost::bytes::Bytes;

use crate::import::constant::{Constant, Elements, Int, MAX_SIZE};
use crate::import::fault::ImportError;
use crate::import::{MAX_INTS, MAX_RANK, external};
use crate::proto::{TensorProto, data, decode};

/// Most fields of a tensor's message; writers may store numbers unpacked, one field each.
const MAX_FIELDS: usize = 1 << 20;

/// Decodes the tensor `bytes`; external data is looked for in `folder`.
///
/// # Errors
/// The message is malformed, its data is not what type and shape say, or the type is not read.
pub(crate) fn constant(bytes: &Bytes, folder: Option<&Path>) -> Result<Constant, ImportError> {
    let tensor: TensorProto = decode(bytes, MAX_FIELDS).map_err(ImportError::Malformed)?;
    let name = shown(&tensor.name);
    let malformed = |reason: String| ImportError::Malformed(format!("tensor `{name}` {reason}"));
    let (shape, count) = shape(&tensor.dims).map_err(malformed)?;
    let kind = Kind::of(tensor.data_type).ok_or_else(|| {
        ImportError::Unsupported(format!("tensor `{name}` of {}", data::name(tensor.data_type)))
    })?;
    if kind.is_wide() && count > MAX_INTS {
        let reason = format!("tensor `{name}` has {count} integers, at most {MAX_INTS} are read");
        return Err(ImportError::TooLarge(reason));
    }
    let elements = if tensor.data_location == EXTERNAL {
        let want = count.checked_mul(kind.bytes()).ok_or_else(|| malformed("is endless".into()))?;
        let raw = external::read(&tensor.external_data, folder, want)?;
        kind.decode_raw(&raw)
    } else {
        match &tensor.raw_data {
            Some(raw) => {
                let want = count.checked_mul(kind.bytes());
                if want != Some(raw.len()) {
                    let have = raw.len();
                    return Err(malformed(format!("has {have} bytes, not those of its shape {shape:?}")));
                }
                kind.decode_raw(raw)
            }
            None => kind.decode_fields(&tensor).map_err(malformed)?,
        }
    };
    if elements.len() != count {
        let have = elements.len();
        return Err(malformed(format!("has {have} elements, not those of its shape {shape:?}")));
    }
    Ok(Constant::new(shape, elements).stored(&tensor.name))
}

const EXTERNAL: i32 = 1;

/// The sizes of a tensor and their product.
fn shape(dims: &[i64]) -> Result<(Vec<usize>, usize), String> {
    if dims.len() > MAX_RANK {
        return Err(format!("has {} axes, at most {MAX_RANK} are read", dims.len()));
    }
    let size = |&d: &i64| usize::try_from(d).ok().filter(|&d| d <= MAX_SIZE).ok_or(d);
    let sizes: Result<Vec<usize>, i64> = dims.iter().map(size).collect();
    let sizes = sizes.map_err(|d| format!("has an axis of size {d}"))?;
    let count = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("is endless")?;
    Ok((sizes, count))
}

/// The element types that are read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    F16,
    Bf16,
    F64,
    I64,
    I32,
    U32,
    I16,
    U16,
    I8,
    U8,
    Bool,
}

impl Kind {
    fn of(code: i32) -> Option<Kind> {
        Some(match code {
            data::FLOAT => Kind::F32,
            data::FLOAT16 => Kind::F16,
            data::BFLOAT16 => Kind::Bf16,
            data::DOUBLE => Kind::F64,
            data::INT64 => Kind::I64,
            data::INT32 => Kind::I32,
            data::UINT32 => Kind::U32,
            data::INT16 => Kind::I16,
            data::UINT16 => Kind::U16,
            data::INT8 => Kind::I8,
            data::UINT8 => Kind::U8,
            data::BOOL => Kind::Bool,
            _ => return None,
        })
    }

    /// Whether each element becomes an integer of 64 bits, or one that may hold the batch.
    fn is_wide(self) -> bool {
        !matches!(self, Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::F64 | Kind::I8 | Kind::U8)
    }

    fn bytes(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
            Kind::F16 | Kind::Bf16 | Kind::I16 | Kind::U16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }

    /// From little-endian bytes.
    fn decode_raw(self, raw: &[u8]) -> Elements {
        fn each<const W: usize, T>(raw: &[u8], read: impl Fn([u8; W]) -> T) -> Vec<T> {
            raw.as_chunks::<W>().0.iter().map(|&word| read(word)).collect()
        }
        let int = |v: i64| Int::Known(v);
        match self {
            Kind::F32 => Elements::Floats(each(raw, f32::from_le_bytes)),
            Kind::F16 => Elements::Floats(each(raw, |b| f16::from_le_bytes(b).to_f32())),
            Kind::Bf16 => Elements::Floats(each(raw, |b| bf16::from_le_bytes(b).to_f32())),
            Kind::F64 => Elements::Floats(each(raw, |b| f64::from_le_bytes(b) as f32)),
            Kind::I64 => Elements::Ints(each(raw, |b| int(i64::from_le_bytes(b)))),
            Kind::I32 => Elements::Ints(each(raw, |b| int(i32::from_le_bytes(b).into()))),
            Kind::U32 => Elements::Ints(each(raw, |b| int(u32::from_le_bytes(b).into()))),
            Kind::I16 => Elements::Ints(each(raw, |b| int(i16::from_le_bytes(b).into()))),
            Kind::U16 => Elements::Ints(each(raw, |b| int(u16::from_le_bytes(b).into()))),
            Kind::I8 => Elements::I8(each(raw, i8::from_le_bytes)),
            Kind::U8 => Elements::U8(raw.to_vec()),
            Kind::Bool => Elements::Bools(each(raw, |[b]: [u8; 1]| b != 0)),
        }
    }

    /// From the typed field that belongs to the element type.
    fn decode_fields(self, tensor: &TensorProto) -> Result<Elements, String> {
        let narrow = |v: &i32| u16::try_from(*v).map_err(|_| format!("holds {v} as a 16-bit float"));
        Ok(match self {
            Kind::F32 => Elements::Floats(tensor.float_data.clone()),
            Kind::F64 => Elements::Floats(tensor.double_data.iter().map(|&v| v as f32).collect()),
            Kind::F16 => {
                let halves = tensor.int32_data.iter().map(|v| Ok(f16::from_bits(narrow(v)?).to_f32()));
                Elements::Floats(halves.collect::<Result<_, String>>()?)
            }
            Kind::Bf16 => {
                let halves = tensor.int32_data.iter().map(|v| Ok(bf16::from_bits(narrow(v)?).to_f32()));
                Elements::Floats(halves.collect::<Result<_, String>>()?)
            }
            Kind::I64 => Elements::Ints(tensor.int64_data.iter().map(|&v| Int::Known(v)).collect()),
            Kind::U32 => return Err("holds unsigned integers in a field that is not read".into()),
            Kind::Bool => Elements::Bools(tensor.int32_data.iter().map(|&v| v != 0).collect()),
            Kind::I8 => Elements::I8(bytes(&tensor.int32_data, "a signed byte")?),
            Kind::U8 => Elements::U8(bytes(&tensor.int32_data, "a byte")?),
            Kind::I32 | Kind::I16 | Kind::U16 => {
                Elements::Ints(tensor.int32_data.iter().map(|&v| Int::Known(v.into())).collect())
            }
        })
    }
}

fn bytes<T: TryFrom<i32>>(numbers: &[i32], what: &str) -> Result<Vec<T>, String> {
    numbers.iter().map(|&v| T::try_from(v).map_err(|_| format!("holds {v} as {what}"))).collect()
}

/// A name from a foreign file as a message shows it: on one line, and not endless.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}
