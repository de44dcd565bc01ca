//! What a picture looks like, in a few numbers.

use crate::image::{Image, luma};

/// Sides of a [`Look::thumbnail`] in cells.
const CELLS: usize = 8;

/// At most about so many rows of a picture are looked at, evenly spaced: what is wanted are statistics.
const ROWS: usize = 96;

/// Contrast below which a picture counts as empty, in steps of luma: nothing in it could be sharp.
const CONTRAST_LEAST: f32 = 0.5;

/// Statistics of a picture as the network gets it, at its size but not normalised yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Mean luma, 0 to 255.
    pub brightness: f32,
    /// Standard deviation of luma.
    pub contrast: f32,
    /// Mean absolute difference of luma between neighbours, in parts of the contrast: blur lowers it, noise raises it, and a
    /// change of light leaves it.
    pub sharpness: f32,
    /// Mean difference between the largest and the smallest channel of a pixel: 0 where all is grey.
    pub colour: f32,
    /// Mean luma of 8 x 8 cells, by which a picture is known again.
    pub thumbnail: Thumbnail,
}

/// A picture of 8 x 8 cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Thumbnail([f32; CELLS * CELLS]);

impl Look {
    /// Looks at `image`.
    pub fn of(image: &Image) -> Look {
        let Image { width, height, .. } = *image;
        let step = height.div_ceil(ROWS);
        let (mut sum, mut squares, mut colour, mut n) = (0u64, 0u64, 0u64, 0u64);
        let (mut steps, mut neighbours) = (0u64, 0u64);
        let mut cells = [(0u64, 0u64); CELLS * CELLS];
        let (mut row, mut below) = (vec![0u8; width], vec![0u8; width]);
        for y in (0..height).step_by(step) {
            colour += brightness_of(image, y, &mut row);
            let cells = &mut cells[y * CELLS / height * CELLS..][..CELLS];
            for (x, &v) in row.iter().enumerate() {
                let v = u64::from(v);
                (sum, squares) = (sum + v, squares + v * v);
                let (total, count) = &mut cells[x * CELLS / width];
                (*total, *count) = (*total + v, *count + 1);
            }
            steps += row.windows(2).map(|pair| u64::from(pair[0].abs_diff(pair[1]))).sum::<u64>();
            neighbours += width as u64 - 1;
            if y + 1 < height {
                brightness_of(image, y + 1, &mut below);
                steps += row.iter().zip(&below).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
                neighbours += width as u64;
            }
            n += width as u64;
        }
        let mean = |total: u64, count: u64| total as f64 / count.max(1) as f64;
        let brightness = mean(sum, n);
        let contrast = (mean(squares, n) - brightness * brightness).max(0.0).sqrt() as f32;
        Look {
            brightness: brightness as f32,
            contrast,
            sharpness: mean(steps, neighbours) as f32 / contrast.max(CONTRAST_LEAST),
            colour: mean(colour, n) as f32,
            thumbnail: Thumbnail(cells.map(|(total, count)| mean(total, count) as f32)),
        }
    }
}

/// Writes the luma of row `y`; the sum of its pixels' differences between channels.
fn brightness_of(image: &Image, y: usize, out: &mut [u8]) -> u64 {
    let pixels = &image.pixels[y * image.width * image.channels..][..image.width * image.channels];
    if image.channels == 1 {
        out.copy_from_slice(pixels);
        return 0;
    }
    let mut colour = 0;
    for (out, pixel) in out.iter_mut().zip(pixels.as_chunks::<3>().0) {
        let [r, g, b] = *pixel;
        colour += u64::from(r.max(g).max(b) - r.min(g).min(b));
        *out = luma(pixel);
    }
    colour
}

impl Thumbnail {
    /// How alike two pictures are, whatever the light: the correlation of their cells, -1 to 1. Two pictures without any
    /// contrast are alike.
    pub fn correlation(&self, other: &Thumbnail) -> f32 {
        let centred = |thumbnail: &Thumbnail| {
            let mean = thumbnail.0.iter().sum::<f32>() / thumbnail.0.len() as f32;
            thumbnail.0.map(|v| v - mean)
        };
        let (a, b) = (centred(self), centred(other));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (own, others) = (dot(&a, &a).sqrt(), dot(&b, &b).sqrt());
        match own.min(others) < CONTRAST_LEAST {
            true if own.max(others) < CONTRAST_LEAST => 1.0,
            true => 0.0,
            false => dot(&a, &b) / (own * others),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(f: impl Fn(usize, usize) -> u8) -> Image {
        let pixels = (0..32 * 32).map(|i| f(i % 32, i / 32)).collect();
        Image::new(32, 32, 1, pixels).unwrap()
    }

    #[test]
    fn by_hand() {
        let stripes = Look::of(&picture(|x, _| if x % 2 == 0 { 50 } else { 150 }));
        assert_eq!((stripes.brightness, stripes.contrast, stripes.colour), (100.0, 50.0, 0.0));
        // Neighbours in a row differ by 100, those in a column by nothing.
        let pairs = (31 * 32, 31 * 32);
        let wanted = 100.0 * pairs.0 as f32 / (pairs.0 + pairs.1) as f32 / 50.0;
        assert!((stripes.sharpness - wanted).abs() < 1e-5, "{stripes:?}");
        let red = Image::new(1, 1, 3, vec![200, 20, 50]).unwrap();
        assert_eq!(Look::of(&red).colour, 180.0);
    }

    #[test]
    fn light_changes_brightness_and_not_sharpness() {
        let bright = Look::of(&picture(|x, y| (8 * x as u8) / 2 + (y as u8 % 4) * 20));
        let dark = Look::of(&picture(|x, y| ((8 * x as u8) / 2 + (y as u8 % 4) * 20) / 2));
        assert!(dark.brightness < 0.6 * bright.brightness);
        assert!((dark.sharpness / bright.sharpness - 1.0).abs() < 0.03);
        assert!(dark.thumbnail.correlation(&bright.thumbnail) > 0.99);
    }

    #[test]
    fn other_pictures_are_not_alike() {
        let look = |f: fn(usize, usize) -> u8| Look::of(&picture(f)).thumbnail;
        let (rising, falling) = (look(|x, _| x as u8 * 8), look(|x, _| 248 - x as u8 * 8));
        let (flat, grey) = (look(|_, _| 7), look(|_, _| 99));
        assert!((rising.correlation(&rising) - 1.0).abs() < 1e-5);
        assert!((rising.correlation(&falling) + 1.0).abs() < 1e-5);
        assert_eq!((flat.correlation(&grey), flat.correlation(&rising)), (1.0, 0.0));
    }

    #[test]
    fn large_and_narrow_pictures_are_looked_at_too() {
        let large = Image::new(1, 4000, 1, (0..4000).map(|y| (y % 256) as u8).collect()).unwrap();
        let look = Look::of(&large);
        assert!((look.brightness - 127.0).abs() < 4.0 && look.sharpness.is_finite(), "{look:?}");
    }
}
