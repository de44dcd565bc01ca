//! Decoded images, and decoding them from bytes that are not trusted.
//!
//! Every limit is checked on the header, before memory is taken. Decoders are strict: a truncated or corrupt file is
//! an error, never a half grey picture that a network would learn from.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use ::image::metadata::Orientation;
use ::image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// 8-bit pixels, row by row, the channels of a pixel side by side (HWC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 for grey, 3 for red, green, blue.
    pub channels: usize,
    /// `height * width * channels` values.
    pub pixels: Vec<u8>,
}

/// What an image may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width times height.
    pub pixels: u64,
    /// Largest sum of what decoding and conversion allocate, in bytes, as far as the header tells.
    pub bytes: u64,
}

impl Default for Limits {
    /// 64 megapixels and 256 MiB.
    fn default() -> Self {
        Limits { pixels: 64_000_000, bytes: 256 << 20 }
    }
}

/// Why bytes did not become an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The first bytes are of no known format.
    #[error("not an image; JPEG, PNG, BMP, WebP and GIF are understood")]
    UnknownFormat,
    /// No pixels.
    #[error("the image is {width}x{height}, it has no pixels")]
    Empty {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
    },
    /// Beyond [`Limits::pixels`].
    #[error("the image is {width}x{height}, more than {limit} pixels")]
    TooManyPixels {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// The limit.
        limit: u64,
    },
    /// Beyond [`Limits::bytes`].
    #[error("decoding needs {needed} bytes, more than {limit}")]
    TooLarge {
        /// What it would take.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The file ends early or contradicts itself.
    #[error("{format}: {reason}")]
    Corrupt {
        /// The format that the first bytes announce.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The format allows it, this decoder does not.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// Pixels of another number than width, height and channels say, or a number of channels other than 1 or 3.
    #[error("{found} values cannot be {width}x{height} pixels of {channels} channels")]
    Shape {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Channels.
        channels: usize,
        /// Number of values given.
        found: usize,
    },
}

impl Image {
    /// An image from its pixels (HWC); refuses a wrong number of them, no pixels, and channels other than 1 or 3.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Self, ImageError> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if expected != Some(pixels.len()) || pixels.is_empty() || ![1, 3].contains(&channels) {
            return Err(ImageError::Shape { width, height, channels, found: pixels.len() });
        }
        Ok(Image { width, height, channels, pixels })
    }

    /// The image with `channels` channels: luma by ITU-R BT.601, or grey in all three.
    pub fn with_channels(&self, channels: usize) -> Image {
        let pixels = match (self.channels, channels) {
            (1, 3) => self.pixels.iter().flat_map(|&v| [v, v, v]).collect(),
            (3, 1) => self.pixels.chunks_exact(3).map(luma).collect(),
            (a, b) if a == b => self.pixels.clone(),
            (a, b) => panic!("no conversion from {a} to {b} channels"),
        };
        Image { channels, pixels, ..*self }
    }

    /// Whether no pixel has a colour: one channel, or three equal ones.
    pub fn is_grey(&self) -> bool {
        self.channels == 1 || self.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2])
    }
}

/// `0.299 R + 0.587 G + 0.114 B` in 16-bit fixed point, rounded.
fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Decodes JPEG, PNG, BMP, WebP or the first frame of a GIF, told apart by content.
///
/// Grey stays one channel, everything else becomes RGB; 16 bits become 8, transparency is laid over white, and the
/// EXIF orientation is applied. A panic inside a decoder is an error like any other.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Image, ImageError> {
    let format = ::image::guess_format(bytes).map_err(|_| ImageError::UnknownFormat)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, limits)));
    let panicked = |_| Err(corrupt(name(format))("the decoder panicked"));
    decoded.unwrap_or_else(panicked).map(flatten)
}

fn decode_as(format: ImageFormat, bytes: &[u8], limits: &Limits) -> Result<DynamicImage, ImageError> {
    let failed = foreign(format);
    let limits_inside = limits_inside(limits);
    match format {
        ImageFormat::Jpeg => decode_jpeg(DecoderOptions::default(), bytes, limits),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits_inside).map_err(failed)?;
            read(decoder, format, limits)
        }
        ImageFormat::Bmp => read(BmpDecoder::new(Cursor::new(bytes)).map_err(failed)?, format, limits),
        ImageFormat::Gif => read(GifDecoder::new(Cursor::new(bytes)).map_err(failed)?, format, limits),
        ImageFormat::WebP => {
            check_webp(bytes, limits)?;
            read(WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?, format, limits)
        }
        _ => Err(ImageError::UnknownFormat),
    }
}

/// Whether the first bytes of a file (16 are enough) are those of an image that [`decode`] may understand.
pub fn is_image(head: &[u8]) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    ::image::guess_format(head).is_ok_and(|format| [Bmp, Gif, Jpeg, Png, WebP].contains(&format))
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        _ => "image",
    }
}

fn corrupt<E: ToString>(format: &'static str) -> impl Fn(E) -> ImageError {
    move |error| ImageError::Corrupt { format, reason: error.to_string() }
}

fn foreign(format: ImageFormat) -> impl Fn(::image::ImageError) -> ImageError {
    corrupt(name(format))
}

fn limits_inside(limits: &Limits) -> ::image::Limits {
    let mut inside = ::image::Limits::no_limits();
    inside.max_alloc = Some(limits.bytes);
    inside
}

/// Checks the header, reads the pixels, turns them upright.
fn read(
    mut decoder: impl ImageDecoder,
    format: ImageFormat,
    limits: &Limits,
) -> Result<DynamicImage, ImageError> {
    let (width, height) = decoder.dimensions();
    let pixels = check_pixels(width.into(), height.into(), limits)?;
    let orientation = decoder.orientation().map_err(foreign(format))?;
    // Turning, and bringing 16 bits to 8, takes a copy.
    let color = decoder.color_type();
    let wide = color.bytes_per_pixel() > color.channel_count();
    let copies = u64::from(orientation != Orientation::NoTransforms) + u64::from(wide);
    check_bytes(pixels * u64::from(color.bytes_per_pixel()) * (1 + copies), limits)?;
    decoder.set_limits(limits_inside(limits)).map_err(foreign(format))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(foreign(format))?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn check_pixels(width: u64, height: u64, limits: &Limits) -> Result<u64, ImageError> {
    match width.saturating_mul(height) {
        0 => Err(ImageError::Empty { width, height }),
        pixels if pixels > limits.pixels => {
            Err(ImageError::TooManyPixels { width, height, limit: limits.pixels })
        }
        pixels => Ok(pixels),
    }
}

fn check_bytes(needed: u64, limits: &Limits) -> Result<(), ImageError> {
    let limit = limits.bytes;
    if needed > limit { Err(ImageError::TooLarge { needed, limit }) } else { Ok(()) }
}

fn decode_jpeg(options: DecoderOptions, bytes: &[u8], limits: &Limits) -> Result<DynamicImage, ImageError> {
    let options = options.set_strict_mode(true).set_max_width(65535).set_max_height(65535);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt("JPEG"))?;
    let info = decoder.info().ok_or_else(|| corrupt("JPEG")("no header"))?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    check_jpeg(bytes, &info, limits)?;
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
    image.apply_orientation(jpeg_orientation(decoder.exif()));
    Ok(image)
}

fn jpeg_orientation(exif: Option<&Vec<u8>>) -> Orientation {
    exif.and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms)
}

/// Checks sizes, and that the file goes on to its end marker: the decoder itself overlooks a cut in the last rows.
fn check_jpeg(bytes: &[u8], info: &zune_jpeg::ImageInfo, limits: &Limits) -> Result<(), ImageError> {
    let pixels = check_pixels(info.width.into(), info.height.into(), limits)?;
    let values = pixels * u64::from(info.components.max(1));
    // Every block of 8x8 pixels takes at least one bit; the decoder would paint what is missing grey.
    if (bytes.len() as u64) * 8 < pixels / 64 {
        return Err(corrupt("JPEG")("less data than the image has blocks"));
    }
    let scans = jpeg_scans(bytes).ok_or_else(|| corrupt("JPEG")("the file ends early"))?;
    // Pixels are final after the one scan of an interleaved sequential image; all others keep every coefficient
    // (16 bits) until the last scan.
    let one_scan =
        info.sof.is_sequential_dct() && scans.iter().all(|&components| components == info.components);
    let coefficients = if one_scan { 0 } else { 2 * values };
    let upright = jpeg_orientation(info.exif_data.as_ref()) == Orientation::NoTransforms;
    let turned = if upright { 0 } else { values };
    check_bytes(values + coefficients + turned, limits)
}

/// The number of components in each scan; `None` where the end marker is missing (ITU-T T.81, annex B).
fn jpeg_scans(bytes: &[u8]) -> Option<Vec<u8>> {
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

/// Walks the RIFF chunks, since the decoder trusts their lengths, and a picture inside may be larger than its canvas.
fn check_webp(bytes: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let early = || corrupt("WebP")("the file ends early");
    let mut rest = bytes.get(12..).ok_or_else(early)?;
    while !rest.is_empty() {
        let (head, body) = rest.split_at_checked(8).ok_or_else(early)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (data, after) = body.split_at_checked(length).ok_or_else(early)?;
        match &head[..4] {
            b"ANIM" | b"ANMF" => return Err(ImageError::Unsupported("animated WebP")),
            b"VP8 " => check_vp8(data.get(6..10).ok_or_else(early)?, limits)?,
            _ => {}
        }
        rest = after.get(length % 2..).unwrap_or_default();
    }
    Ok(())
}

fn check_vp8(size: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
    check_pixels(side(size[0], size[1]), side(size[2], size[3]), limits).map(|_| ())
}

/// Brings any pixel layout to grey or RGB of 8 bits.
fn flatten(image: DynamicImage) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, pixels) = match image {
        DynamicImage::ImageLuma8(grey) => (1, grey.into_raw()),
        DynamicImage::ImageRgb8(rgb) => (3, rgb.into_raw()),
        DynamicImage::ImageLuma16(_) => (1, image.into_luma8().into_raw()),
        DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLumaA16(_) => {
            (1, over_white(image.into_luma_alpha8().into_raw(), 1))
        }
        _ if image.color().has_alpha() => (3, over_white(image.into_rgba8().into_raw(), 3)),
        _ => (3, image.into_rgb8().into_raw()),
    };
    Image { width, height, channels, pixels }
}

/// Lays `channels` + alpha over white, in place.
fn over_white(mut pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    let count = pixels.len() / (channels + 1);
    for pixel in 0..count {
        let from = pixel * (channels + 1);
        let alpha = u32::from(pixels[from + channels]);
        for c in 0..channels {
            let value = u32::from(pixels[from + c]) * alpha + 255 * (255 - alpha);
            pixels[pixel * channels + c] = ((value + 127) / 255) as u8;
        }
    }
    pixels.truncate(count * channels);
    pixels
}

#[cfg(test)]
mod tests;
