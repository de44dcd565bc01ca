//! Decoded images, and decoding them from bytes that are not trusted.
//!
//! Every limit is checked on the header, before memory is taken. Decoders are strict: a truncated or corrupt file is
//! an error, never a half grey picture that a network would learn from.

mod chunks;
mod jpeg;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegEncoder, png::PngDecoder, png::PngEncoder, webp::WebPDecoder,
};
use ::image::metadata::Orientation;
use ::image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat};
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
    /// Most memory in bytes that the file, its decoder and the picture may take together.
    pub bytes: u64,
}

impl Default for Limits {
    /// 64 megapixels and 256 MiB.
    fn default() -> Self {
        Limits { pixels: 64_000_000, bytes: 256 << 20 }
    }
}

/// This part of [`Limits::bytes`] is left to what decoders take besides the picture.
const SPARE: u64 = 8;

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
pub(crate) fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Decodes JPEG, PNG, BMP, WebP or GIF, told apart by content; of an animation, the first frame.
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
    let (failed, file) = (corrupt(name(format)), Cursor::new(bytes));
    let reader = Reader { format, bytes, limits };
    match format {
        ImageFormat::Jpeg => jpeg::decode(DecoderOptions::default(), bytes, limits),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, spare(limits)).map_err(failed)?;
            reader.read(decoder, chunks::png_exif(bytes), 0)
        }
        ImageFormat::Bmp => reader.read(BmpDecoder::new(file).map_err(failed)?, None, 0),
        // One byte for the number of its colour.
        ImageFormat::Gif => reader.read(GifDecoder::new(file).map_err(failed)?, None, 1),
        ImageFormat::WebP => {
            let found = chunks::webp(bytes, limits)?;
            let planes = if found.layered { 8 } else { 5 };
            reader.read(WebPDecoder::new(file).map_err(failed)?, found.exif, planes)
        }
        _ => Err(ImageError::UnknownFormat),
    }
}

/// Writes an image as PNG.
///
/// # Errors
/// What `out` says.
pub fn write_png(image: &Image, out: impl std::io::Write) -> std::io::Result<()> {
    write(image, PngEncoder::new(out))
}

/// Writes an image as JPEG of a quality from 1 to 100.
///
/// # Errors
/// What `out` says; sides of more than 65,535 pixels.
pub fn write_jpeg(image: &Image, quality: u8, out: impl std::io::Write) -> std::io::Result<()> {
    write(image, JpegEncoder::new_with_quality(out, quality))
}

fn write(image: &Image, encoder: impl ImageEncoder) -> std::io::Result<()> {
    let color = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let (width, height) = (image.width as u32, image.height as u32);
    encoder.write_image(&image.pixels, width, height, color).map_err(|error| match error {
        ::image::ImageError::IoError(error) => error,
        other => std::io::Error::other(other),
    })
}

/// Endings of the names of files that [`decode`] may understand.
pub const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "webp", "gif"];

/// Whether a file's name promises an image.
pub fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
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

fn corrupt<E: ToString>(format: &'static str) -> impl Fn(E) -> ImageError + Copy {
    move |error| ImageError::Corrupt { format, reason: error.to_string().trim().to_owned() }
}

/// What a decoder may take besides its picture: rows, tables, a colour profile, a frame that does not fill the canvas.
fn spare(limits: &Limits) -> ::image::Limits {
    let mut spare = ::image::Limits::no_limits();
    spare.max_alloc = Some(limits.bytes / SPARE);
    spare
}

/// A file whose format is known.
struct Reader<'a> {
    format: ImageFormat,
    bytes: &'a [u8],
    limits: &'a Limits,
}

impl Reader<'_> {
    /// Checks the header, reads the pixels, turns them upright. `planes` is the bytes a pixel that the decoder takes for
    /// itself.
    fn read(
        &self,
        mut decoder: impl ImageDecoder,
        exif: Option<&[u8]>,
        planes: u64,
    ) -> Result<DynamicImage, ImageError> {
        let (limits, failed) = (self.limits, corrupt(name(self.format)));
        let (width, height) = decoder.dimensions();
        let pixels = check_pixels(width.into(), height.into(), limits)?;
        let orientation = orientation(exif);
        let color = decoder.color_type();
        let bytes = u64::from(color.bytes_per_pixel());
        // Turning, and bringing 16 bits to 8, takes a copy.
        let wide = color.bytes_per_pixel() > color.channel_count();
        let copy = if wide || is_turned(orientation) { bytes } else { 0 };
        check_bytes(self.bytes.len() as u64 + pixels * (bytes + planes.max(copy)), limits)?;
        decoder.set_limits(spare(limits)).map_err(failed)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        Ok(image)
    }
}

/// How the picture is to be turned (EXIF 2.32, tag 0x0112); some writers keep the marker of JPEG before the data.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    let exif = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

fn is_turned(orientation: Orientation) -> bool {
    orientation != Orientation::NoTransforms
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

/// `needed` is for the file and the picture; a decoder's own room stays free.
fn check_bytes(needed: u64, limits: &Limits) -> Result<(), ImageError> {
    let limit = limits.bytes - limits.bytes / SPARE;
    if needed > limit { Err(ImageError::TooLarge { needed, limit }) } else { Ok(()) }
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
