//! Drawing answers into pictures: boxes, and labels on a coloured ground.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::image::Image;

/// Red, green, blue.
type Colour = [u8; 3];

const BLACK: Colour = [0; 3];
const WHITE: Colour = [255; 3];

/// A rectangle of pixels: from left and top on, up to right and bottom.
#[derive(Clone, Copy)]
struct Area {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// A colour picture that is drawn into. Whatever sticks out of it is left away.
pub(crate) struct Canvas<'a> {
    image: &'a mut Image,
    /// Width of lines in pixels.
    line: usize,
    font: RasterHeight,
}

/// Writes a line into the left upper corner of a picture, which becomes a colour picture.
pub fn note(image: &mut Image, text: &str) {
    Canvas::new(image).text(text, 0);
}

impl<'a> Canvas<'a> {
    /// Lines and letters grow with the picture, which becomes a colour picture.
    pub(crate) fn new(image: &'a mut Image) -> Self {
        if image.channels == 1 {
            *image = image.with_channels(3);
        }
        let side = (image.width + image.height) / 2;
        let font = match side {
            ..500 => RasterHeight::Size16,
            500..900 => RasterHeight::Size20,
            900..1300 => RasterHeight::Size24,
            _ => RasterHeight::Size32,
        };
        Canvas { image, line: (side / 250).max(2), font }
    }

    /// Text in the left upper corner, on the colour of number `class`.
    pub(crate) fn text(&mut self, text: &str, class: usize) {
        self.label(text, class, 0, 0);
    }

    /// A box (left, top, right, bottom in pixels) with its text, above it where there is room, else inside.
    pub(crate) fn labelled(&mut self, bounds: [f32; 4], text: &str, class: usize) {
        let [left, top, right, bottom] = bounds.map(|v| v.round().max(0.0) as usize);
        let (colour, line) = (colour(class), self.line);
        let whole = Area { left, top, right: right.max(left + line), bottom: bottom.max(top + line) };
        self.fill(Area { bottom: top + line, ..whole }, colour);
        self.fill(Area { top: whole.bottom - line, ..whole }, colour);
        self.fill(Area { right: left + line, ..whole }, colour);
        self.fill(Area { left: whole.right - line, ..whole }, colour);
        let top = top.checked_sub(self.font.val()).unwrap_or(top);
        self.label(text, class, left, top);
    }

    fn label(&mut self, text: &str, class: usize, left: usize, top: usize) {
        let advance = get_raster_width(FontWeight::Bold, self.font);
        // Moved to the left where it would stick out, as far as that goes.
        let width = text.chars().count() * advance + advance / 2;
        let left = left.min(self.image.width.saturating_sub(width));
        let ground = colour(class);
        self.fill(Area { left, top, right: left + width, bottom: top + self.font.val() }, ground);
        let ink = if luma(ground) > 140 { BLACK } else { WHITE };
        for (number, letter) in text.chars().enumerate() {
            self.letter(letter, left + advance / 4 + number * advance, top, ink);
        }
    }

    /// Letters that the font lacks become question marks.
    fn letter(&mut self, letter: char, left: usize, top: usize, ink: Colour) {
        let raster = |letter| get_raster(letter, FontWeight::Bold, self.font);
        let Some(letter) = raster(letter).or_else(|| raster('?')) else { return };
        for (y, row) in letter.rows().enumerate() {
            for (x, &share) in row.iter().enumerate() {
                self.blend(left + x, top + y, ink, share);
            }
        }
    }

    fn fill(&mut self, area: Area, colour: Colour) {
        for y in area.top..area.bottom.min(self.image.height) {
            for x in area.left..area.right.min(self.image.width) {
                self.blend(x, y, colour, 255);
            }
        }
    }

    /// Lays `share` of 255 of a colour over a pixel.
    fn blend(&mut self, x: usize, y: usize, colour: Colour, share: u8) {
        if x >= self.image.width || y >= self.image.height {
            return;
        }
        let at = (y * self.image.width + x) * 3;
        for (pixel, colour) in self.image.pixels[at..at + 3].iter_mut().zip(colour) {
            let (below, above, share) = (u32::from(*pixel), u32::from(colour), u32::from(share));
            *pixel = ((below * (255 - share) + above * share + 127) / 255) as u8;
        }
    }
}

/// A colour for each class: hues a golden ratio apart are never near for neighbours.
fn colour(class: usize) -> Colour {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let hue = (class as f64 * GOLDEN + 0.33).fract() * 6.0;
    [0.0, 4.0, 2.0].map(|shift| {
        let distance = ((hue + shift) % 6.0 - 3.0).abs() - 1.0;
        (40.0 + 200.0 * distance.clamp(0.0, 1.0)) as u8
    })
}

fn luma([red, green, blue]: Colour) -> u32 {
    (299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(channels: usize, bounds: [f32; 4]) -> Image {
        let mut image = Image::new(64, 48, channels, vec![9; 64 * 48 * channels]).unwrap();
        Canvas::new(&mut image).labelled(bounds, "dög 50%", 0);
        image
    }

    fn pixel(image: &Image, x: usize, y: usize) -> &[u8] {
        &image.pixels[(y * image.width + x) * 3..][..3]
    }

    #[test]
    fn boxes_have_borders_and_labels() {
        let image = drawn(1, [10.0, 20.0, 50.0, 40.0]);
        assert_eq!(image.channels, 3);
        let ground = colour(0);
        for (x, y) in [(10, 20), (49, 20), (10, 39), (49, 39), (48, 30), (12, 5)] {
            assert_eq!(pixel(&image, x, y), ground, "at {x},{y}");
        }
        assert_eq!(pixel(&image, 30, 30), [9; 3], "the inside stays");
        assert_eq!(pixel(&image, 51, 30), [9; 3], "the outside stays");
        let inked = image.pixels.chunks(3).filter(|p| **p == BLACK || **p == WHITE).count();
        assert!(inked > 20, "{inked} pixels of letters");
    }

    #[test]
    fn what_sticks_out_is_left_away() {
        for bounds in [[-5.0, -5.0, 3.0, 3.0], [60.0, 44.0, 90.0, 90.0], [1e9, 1e9, 2e9, 2e9], [f32::NAN; 4]]
        {
            assert_eq!(drawn(3, bounds).pixels.len(), 64 * 48 * 3);
        }
    }

    #[test]
    fn neighbours_differ_in_colour() {
        for class in 0..100 {
            let (one, next) = (colour(class), colour(class + 1));
            let distance: u32 = one.iter().zip(next).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
            assert!(distance > 150, "{class}: {one:?} {next:?}");
        }
    }
}
