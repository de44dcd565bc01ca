//! The container: a safetensors file, <https://huggingface.co/docs/safetensors>. It is read here more strictly than by
//! the crate of that name, which takes headers of 100 MB and lets the last of two equal names win.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, TensorInfo, View};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::package::{MAX_HEADER, PackageError, floats, shown};
use crate::types::DType;
use crate::weights::{Data, Tensor, Weights};

/// Bytes of the header's length.
const LENGTH: usize = 8;

/// Most axes of a tensor.
const MAX_RANK: usize = 8;

const METADATA: &str = "__metadata__";

/// The manifest's text and all tensors: in `file` where `bytes` are those of one, else copied out of them. The copies
/// together are no longer than `bytes`.
pub(super) fn read(bytes: &[u8], file: Option<&Arc<Mmap>>) -> Result<(String, Weights), PackageError> {
    let (header, data) = parse(bytes)?;
    let manifest = header.metadata.espalier.ok_or(PackageError::NoManifest)?;
    let tensors = header.tensors.into_iter().map(|(name, info)| {
        let tensor = tensor(&name, info, data, file)?;
        Ok((name, tensor))
    });
    Ok((manifest, tensors.collect::<Result<_, PackageError>>()?))
}

/// All float tensors, copied out of `bytes` as f32: together no more than twice as long as `bytes`. Tensors of
/// integers, such as counters, are left out.
pub(super) fn read_floats(bytes: &[u8]) -> Result<Weights, PackageError> {
    let (header, data) = parse(bytes)?;
    let floats = header.tensors.into_iter().filter(|(_, info)| !floats::is_integer(info.dtype));
    let tensors = floats.map(|(name, info)| {
        let data = floats::decode(info.dtype, content(&name, &info, data)?).ok_or_else(|| {
            let reason = format!("has element type {}; F64, F32, F16 and BF16 are known", info.dtype);
            PackageError::tensor(&name, reason)
        })?;
        Ok((name, Tensor { data: Data::F32(data.into()), shape: info.shape }))
    });
    tensors.collect()
}

/// The header, checked against the data, and the data.
fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), PackageError> {
    let (header, data) = split(bytes)?;
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| PackageError::Container(format!("its header does not parse: {e}")))?;
    tile(&header.tensors, data.len())?;
    Ok((header, data))
}

/// The bytes of a file of `tensors`; the same for the same content.
pub(super) fn write<'a>(
    manifest: String,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
) -> Result<Vec<u8>, PackageError> {
    let tensors = tensors.into_iter().map(|(name, tensor)| (name, Borrowed(tensor)));
    let metadata = HashMap::from([("espalier".to_string(), manifest)]);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| PackageError::Container(e.to_string()))?;
    split(&bytes)?;
    Ok(bytes)
}

/// Header and data.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), PackageError> {
    let short = |want: u64| {
        let have = bytes.len();
        PackageError::Container(format!("it ends after {have} bytes, its header alone would take {want}"))
    };
    let (length, rest) = bytes.split_first_chunk::<LENGTH>().ok_or_else(|| short(LENGTH as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(PackageError::TooLarge { what: "the header", have: length, limit: MAX_HEADER as u64 });
    }
    rest.split_at_checked(length as usize).ok_or_else(|| short(LENGTH as u64 + length))
}

/// The header's JSON.
struct Header {
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
}

/// The metadata key that is ours; others are ignored.
#[derive(Default, serde::Deserialize)]
struct Metadata {
    espalier: Option<String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut metadata, mut tensors) = (None, BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    let fresh = match name.as_str() {
                        METADATA => metadata.replace(map.next_value()?).is_none(),
                        _ => tensors.insert(name.clone(), map.next_value()?).is_none(),
                    };
                    if !fresh {
                        return Err(A::Error::custom(format!("`{}` stands twice", shown(&name))));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks that the tensors cover the data, each byte once, and that each is as long as type and shape say.
fn tile(tensors: &BTreeMap<String, TensorInfo>, data: usize) -> Result<(), PackageError> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in order {
        let (start, stop) = info.data_offsets;
        if start != end || stop < start {
            let reason = format!("lies at bytes {start}..{stop} of the data, it should begin at {end}");
            return Err(PackageError::tensor(name, reason));
        }
        if size(info) != Some(stop - start) {
            let TensorInfo { dtype, shape, .. } = info;
            let shape = &shape[..shape.len().min(MAX_RANK)];
            let reason = format!("has {} bytes, which {dtype} of shape {shape:?} has not", stop - start);
            return Err(PackageError::tensor(name, reason));
        }
        end = stop;
    }
    if end != data {
        let reason = format!("its tensors take {end} bytes, it holds {data}");
        return Err(PackageError::Container(reason));
    }
    Ok(())
}

/// Bytes of a tensor, or `None` where they are too many to count or do not fill the last one.
fn size(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

fn tensor(
    name: &str,
    info: TensorInfo,
    data: &[u8],
    file: Option<&Arc<Mmap>>,
) -> Result<Tensor, PackageError> {
    let dtype = known(info.dtype).ok_or_else(|| {
        PackageError::tensor(name, format!("has element type {}; F32, I32, U8 and I8 are known", info.dtype))
    })?;
    let bytes = content(name, &info, data)?;
    let data = match file {
        Some(file) => Data::in_file(dtype, bytes, file),
        None => Data::from_le_bytes(dtype, bytes),
    };
    Ok(Tensor { data, shape: info.shape })
}

/// The bytes of a tensor whose place was checked.
fn content<'a>(name: &str, info: &TensorInfo, data: &'a [u8]) -> Result<&'a [u8], PackageError> {
    if info.shape.len() > MAX_RANK {
        let reason = format!("has {} axes, at most {MAX_RANK} are allowed", info.shape.len());
        return Err(PackageError::tensor(name, reason));
    }
    Ok(&data[info.data_offsets.0..info.data_offsets.1])
}

fn known(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::I32 => Some(DType::I32),
        Dtype::U8 => Some(DType::U8),
        Dtype::I8 => Some(DType::S8),
        _ => None,
    }
}

/// A tensor on its way into the file.
struct Borrowed<'a>(&'a Tensor);

impl View for Borrowed<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.data.dtype() {
            DType::F32 => Dtype::F32,
            DType::I32 => Dtype::I32,
            DType::U8 | DType::Q8(_) => Dtype::U8,
            DType::S8 => Dtype::I8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.data.to_le_bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.data.len() * self.0.data.dtype().bytes()
    }
}
