//! The chunks of PNG and WebP files, walked before their decoders see them.

use super::{ImageError, Limits, check_pixels, corrupt};

/// The EXIF data of a PNG, wherever it stands (PNG specification, third edition, 11.3.4.5: also behind the pixels).
pub(super) fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (head, body) = rest.split_at_checked(8)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let data = body.get(..length)?;
        if &head[4..] == b"eXIf" {
            return Some(data);
        }
        rest = body.get(length..)?.get(4..)?;
    }
}

/// What the chunks of a WebP file say (WebP container specification, RFC 9649).
#[derive(Default)]
pub(super) struct WebP<'a> {
    /// EXIF data.
    pub(super) exif: Option<&'a [u8]>,
    /// Whether decoding needs room besides the picture: for frames, or for a plane of alpha.
    pub(super) layered: bool,
}

/// Walks the RIFF chunks, since the decoder trusts their lengths, and a picture inside may be larger than its canvas.
pub(super) fn webp<'a>(bytes: &'a [u8], limits: &Limits) -> Result<WebP<'a>, ImageError> {
    let size = bytes.get(4..8).ok_or_else(early)?;
    let end = 8usize.saturating_add(u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize);
    let mut found = WebP::default();
    for chunk in Chunks(bytes.get(12..end).ok_or_else(early)?) {
        let (name, data) = chunk?;
        match name {
            b"EXIF" => found.exif = Some(data),
            b"ANMF" => {
                found.layered = true;
                // Its place and flags, then chunks.
                Chunks(data.get(16..).ok_or_else(early)?)
                    .try_for_each(|chunk| check_picture(chunk?, limits))?;
            }
            b"ALPH" => found.layered = true,
            _ => check_picture((name, data), limits)?,
        }
    }
    Ok(found)
}

/// Name and data of each chunk.
struct Chunks<'a>(&'a [u8]);

type Chunk<'a> = (&'a [u8], &'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let chunk = self.split().ok_or_else(early);
        if chunk.is_err() {
            self.0 = &[];
        }
        Some(chunk)
    }
}

impl<'a> Chunks<'a> {
    fn split(&mut self) -> Option<Chunk<'a>> {
        let (head, body) = self.0.split_at_checked(8)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (data, after) = body.split_at_checked(length)?;
        self.0 = after.get(length % 2..).unwrap_or_default();
        Some((&head[..4], data))
    }
}

/// A lossy picture says its size itself.
fn check_picture((name, data): Chunk<'_>, limits: &Limits) -> Result<(), ImageError> {
    if name != b"VP8 " {
        return Ok(());
    }
    let size = data.get(6..10).ok_or_else(early)?;
    let side = |i| u64::from(u16::from_le_bytes([size[i], size[i + 1]]) & 0x3fff);
    check_pixels(side(0), side(2), limits).map(|_| ())
}

fn early() -> ImageError {
    corrupt("WebP")("the file ends early")
}
