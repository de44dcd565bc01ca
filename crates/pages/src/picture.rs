//! Pictures that stand in the page itself.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageFormat};
use maud::{Markup, Render, html};

/// A picture inside the page.
#[derive(Clone, Debug)]
pub struct Picture {
    kind: &'static str,
    bytes: Vec<u8>,
    alt: String,
}

/// Why bytes are no picture for a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Neither PNG nor JPEG, by their first bytes.
    #[error("a picture in a page is a PNG or a JPEG file")]
    Form,
    /// The pixels do not fill the picture, or it has another number of channels than 1 or 3.
    #[error("a picture has height × width × channels pixels, and 1 or 3 channels")]
    Pixels,
}

impl Picture {
    /// An encoded PNG or JPEG file. `alt` says what is seen, for those who cannot see it.
    ///
    /// # Errors
    /// It is neither.
    pub fn file(bytes: Vec<u8>, alt: impl Into<String>) -> Result<Picture, PictureError> {
        let kind = match &bytes[..] {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            _ => return Err(PictureError::Form),
        };
        Ok(Picture { kind, bytes, alt: alt.into() })
    }

    /// Pixels in rows (height, width, channels: 1 grey, 3 red, green, blue), as PNG.
    ///
    /// # Errors
    /// Another number of pixels or channels.
    pub fn pixels(
        width: usize,
        height: usize,
        channels: usize,
        pixels: &[u8],
        alt: impl Into<String>,
    ) -> Result<Picture, PictureError> {
        let color = match channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            _ => return Err(PictureError::Pixels),
        };
        if width == 0 || height == 0 || pixels.len() != width * height * channels {
            return Err(PictureError::Pixels);
        }
        let mut bytes = Cursor::new(Vec::new());
        image::write_buffer_with_format(
            &mut bytes,
            pixels,
            width as u32,
            height as u32,
            color,
            ImageFormat::Png,
        )
        .map_err(|_| PictureError::Pixels)?;
        Ok(Picture { kind: "image/png", bytes: bytes.into_inner(), alt: alt.into() })
    }
}

impl Render for Picture {
    fn render(&self) -> Markup {
        let source = format!("data:{};base64,{}", self.kind, STANDARD.encode(&self.bytes));
        html! { img src=(source) alt=(self.alt); }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_come_back_from_the_page() {
        let pixels: Vec<u8> = (0..2 * 3 * 3).map(|v| v * 13).collect();
        let text = Picture::pixels(3, 2, 3, &pixels, "six dots").unwrap().render().into_string();
        let encoded = text.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let image = image::load_from_memory(&STANDARD.decode(encoded).unwrap()).unwrap();
        assert_eq!((image.width(), image.height(), image.into_rgb8().into_raw()), (3, 2, pixels));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let refused = |w, h, c, n: usize| {
            assert_eq!(Picture::pixels(w, h, c, &vec![0; n], "").err(), Some(PictureError::Pixels))
        };
        refused(0, 1, 1, 0);
        refused(2, 2, 1, 3);
        refused(2, 2, 2, 8);
        assert_eq!(Picture::file(b"GIF89a".to_vec(), "").err(), Some(PictureError::Form));
        assert!(Picture::file(vec![0xff, 0xd8, 0xff, 0xe0], "").is_ok());
    }
}
