//! Floats of any width, as files of other programs hold them, become f32.

use safetensors::tensor::Dtype;

/// Whether tensors of this type hold no floats.
pub(super) fn is_integer(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// The little-endian floats of `bytes`, to the nearest f32; `None` for types that are not known.
pub(super) fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |b| from_half(u16::from_le_bytes(b))),
        Dtype::BF16 => each(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        _ => return None,
    })
}

fn each<const N: usize>(bytes: &[u8], float: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| float(*chunk)).collect()
}

/// IEEE 754 binary16; every value has an equal f32.
fn from_half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dtype: Dtype, bytes: &[u8], want: &[f32]) {
        let got = decode(dtype, bytes).unwrap();
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(want), "{dtype}: {got:?}");
    }

    #[test]
    fn all_widths() {
        let halves = [0x3c00u16, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x8000, 0x7c00, 0x3555];
        let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
        let want = [
            1.0,
            -2.0,
            65504.0,
            5.960_464_5e-8,
            6.097_555e-5,
            6.103_515_6e-5,
            -0.0,
            f32::INFINITY,
            0.333_251_95,
        ];
        check(Dtype::F16, &bytes, &want);
        assert!(decode(Dtype::F16, &0x7e00u16.to_le_bytes()).unwrap()[0].is_nan());
        check(Dtype::BF16, &[0x80, 0x3f, 0x40, 0xc0, 0x00, 0x00], &[1.0, -3.0, 0.0]);
        check(Dtype::F32, &0.1f32.to_le_bytes(), &[0.1]);
        let doubles = [0.1f64, -1.0, 1e300].map(f64::to_le_bytes).concat();
        check(Dtype::F64, &doubles, &[0.1, -1.0, f32::INFINITY]);
        assert!(decode(Dtype::F8_E4M3, &[0]).is_none() && !is_integer(Dtype::F8_E4M3));
        assert!(is_integer(Dtype::I64));
    }

    /// By the definition: a half has the sign, exponent and fraction of the f32 whose bits are put together from them.
    #[test]
    fn every_normal_half() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, bits & 1023);
            if (1..31).contains(&exponent) {
                let [sign, exponent, fraction] = [sign, exponent, fraction].map(u32::from);
                let want = f32::from_bits(sign << 31 | (exponent + 112) << 23 | fraction << 13);
                assert_eq!(from_half(bits), want, "{bits:#x}");
            }
        }
    }
}
