//! JPEG (ITU-T T.81), by zune-jpeg, behind checks that the decoder does not make.

use ::image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;
use zune_jpeg::{ImageInfo, JpegDecoder};

use super::{ImageError, Limits, check_bytes, check_pixels, corrupt, is_turned, orientation};

/// Scans of one picture of [`Limits::pixels`]; smaller pictures may have more. Every scan of a progressive file visits
/// every coefficient, so a file of some kilobytes could keep the decoder busy for minutes. Encoders make about ten.
const SCANS_MAX: u64 = 16;

/// Grey stays grey, everything else becomes RGB: also CMYK and YCCK, which are taken as Adobe's inverted ones, as
/// other readers do.
pub(super) fn decode(
    options: DecoderOptions,
    bytes: &[u8],
    limits: &Limits,
) -> Result<DynamicImage, ImageError> {
    let options = options.set_strict_mode(true).set_max_width(65535).set_max_height(65535);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt("JPEG"))?;
    let info = decoder.info().ok_or_else(|| corrupt("JPEG")("no header"))?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    check(bytes, &info, limits)?;
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let pixels = decoder.decode().map_err(corrupt("JPEG"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let image = if grey {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    };
    let mut image = image.ok_or_else(|| corrupt("JPEG")("the pixels do not fill the image"))?;
    image.apply_orientation(orientation(decoder.exif().map(Vec::as_slice)));
    Ok(image)
}

/// Checks sizes, and that the file goes on to its end marker: the decoder itself overlooks a cut in the last rows.
fn check(bytes: &[u8], info: &ImageInfo, limits: &Limits) -> Result<(), ImageError> {
    let pixels = check_pixels(info.width.into(), info.height.into(), limits)?;
    let components = u64::from(info.components.max(1));
    // Every block of 8x8 pixels takes at least one bit; the decoder would paint what is missing grey.
    if (bytes.len() as u64) * 8 < pixels / 64 {
        return Err(corrupt("JPEG")("less data than the image has blocks"));
    }
    let scans = scans(bytes).ok_or_else(|| corrupt("JPEG")("the file ends early"))?;
    let scans_max = SCANS_MAX.saturating_mul(limits.pixels) / pixels;
    if scans.len() as u64 > scans_max {
        return Err(corrupt("JPEG")(format!("{} scans are too many for its size", scans.len())));
    }
    // Pixels are final after the one scan of an interleaved sequential image; all others keep every coefficient
    // (16 bits) until the last scan.
    let one_scan =
        info.sof.is_sequential_dct() && scans.iter().all(|&components| components == info.components);
    let coefficients = if one_scan { 0 } else { 2 * components * pixels };
    let values = if components == 1 { pixels } else { 3 * pixels };
    let turned = if is_turned(orientation(info.exif_data.as_deref())) { values } else { 0 };
    check_bytes(bytes.len() as u64 + values + coefficients.max(turned), limits)
}

/// The number of components in each scan; `None` where the end marker is missing (annex B).
fn scans(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut scans = Vec::new();
    let mut rest = bytes.get(2..)?;
    loop {
        let at = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xff | 0xd0..=0xd7))?;
        rest = &rest[at..];
        match rest[1] {
            0xd9 => return Some(scans),
            0xda => scans.push(*rest.get(4)?),
            _ => {}
        }
        let length = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]);
        rest = rest.get(2 + usize::from(length)..)?;
    }
}
