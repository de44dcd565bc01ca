//! Pictures in a terminal: letters of braille, which have 2 by 4 dots.

use espalier_tasks::Image;

/// Ordered dithering (Bayer 1973): a dot is set where the pixel is brighter than its place asks for.
const PLACES: [[u16; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// The bit of each dot in a letter, by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Grey pictures of one size side by side.
pub(super) fn strip(images: &[Image], gap: &str) -> String {
    let rows = images.first().map_or(0, |image| image.height.div_ceil(4));
    let line = |row: usize| images.iter().map(|image| letters(image, row)).collect::<Vec<_>>().join(gap);
    (0..rows).map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

fn letters(image: &Image, row: usize) -> String {
    (0..image.width.div_ceil(2)).map(|column| letter(image, row * 4, column * 2)).collect()
}

fn letter(image: &Image, top: usize, left: usize) -> char {
    let is_set = |y: usize, x: usize| {
        y < image.height
            && x < image.width
            && u16::from(image.pixels[(y * image.width + x) * image.channels]) > PLACES[y % 4][x % 4] * 16 + 8
    };
    let dots = (0..4).flat_map(|y| [(y, 0), (y, 1)]).filter(|(y, x)| is_set(top + y, left + x));
    char::from_u32(0x2800 + dots.map(|(y, x)| DOTS[y][x]).sum::<u32>()).unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_is_a_pixel() {
        let mut image = Image::new(4, 5, 1, vec![0; 20]).unwrap();
        (image.pixels[0], image.pixels[7], image.pixels[16]) = (255, 255, 255);
        assert_eq!(strip(&[image.clone(), image], " "), "⠁⠐ ⠁⠐\n⠁⠀ ⠁\n".replace("⠁\n", "⠁⠀\n"));
    }
}
