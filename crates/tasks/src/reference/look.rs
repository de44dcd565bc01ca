//! What a picture looks like, in a few numbers.

use crate::image::{Image, luma};

/// Sides of a [`Look::thumbnail`] in cells.
const CELLS: usize = 8;

/// At most about so many rows of a picture are looked at, evenly spaced: what is wanted are statistics.
const ROWS: usize = 96;

/// Length of the deviations of a thumbnail's cells below which it counts as empty.
const CONTRAST_LEAST: f32 = 0.5;

/// Statistics of a picture as the network gets it, at its size but not normalised yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Mean luma, 0 to 255.
    pub brightness: f32,
    /// Standard deviation of luma.
    pub contrast: f32,
    /// How sharp bends are next to slopes: the mean absolute second difference of luma in parts of the first. Blur lowers it,
    /// noise raises it, a change of light leaves it; it is 0 without any slope.
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
        let (mut slopes, mut bends) = (0u64, 0u64);
        let mut cells = [(0u64, 0u64); CELLS * CELLS];
        let [mut row, mut second, mut third] = [(); 3].map(|()| vec![0u8; width]);
        for y in (0..height).step_by(step) {
            colour += brightness_of(image, y, &mut row);
            let cells = &mut cells[y * CELLS / height * CELLS..][..CELLS];
            for (x, &v) in row.iter().enumerate() {
                let v = u64::from(v);
                (sum, squares) = (sum + v, squares + v * v);
                let (total, count) = &mut cells[x * CELLS / width];
                (*total, *count) = (*total + v, *count + 1);
            }
            let mut add = |a: u8, b: u8, c: u8| {
                slopes += u64::from(a.abs_diff(b));
                bends += u64::from((i16::from(a) + i16::from(c) - 2 * i16::from(b)).unsigned_abs());
            };
            row.windows(3).for_each(|three| add(three[0], three[1], three[2]));
            if y + 2 < height {
                brightness_of(image, y + 1, &mut second);
                brightness_of(image, y + 2, &mut third);
                row.iter().zip(&second).zip(&third).for_each(|((&a, &b), &c)| add(a, b, c));
            }
            n += width as u64;
        }
        let mean = |total: u64, count: u64| total as f64 / count.max(1) as f64;
        let brightness = mean(sum, n);
        let contrast = (mean(squares, n) - brightness * brightness).max(0.0).sqrt() as f32;
        Look {
            brightness: brightness as f32,
            contrast,
            sharpness: mean(bends, slopes) as f32,
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
    /// How alike two pictures are, whatever the light: the correlation of their cells, -1 to 1. A picture without any contrast
    /// is like none: a lens that is covered is no scene that lasts, but something to be told.
    pub fn correlation(&self, other: &Thumbnail) -> f32 {
        let centred = |thumbnail: &Thumbnail| {
            let mean = thumbnail.0.iter().sum::<f32>() / thumbnail.0.len() as f32;
            thumbnail.0.map(|v| v - mean)
        };
        let (a, b) = (centred(self), centred(other));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (own, others) = (dot(&a, &a).sqrt(), dot(&b, &b).sqrt());
        if own.min(others) < CONTRAST_LEAST { 0.0 } else { dot(&a, &b) / (own * others) }
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
        // Neighbours in a row differ by 100, up and down in turns; those in a column by nothing.
        assert_eq!(stripes.sharpness, 2.0);
        assert_eq!(Look::of(&picture(|x, y| (3 * x + 2 * y) as u8)).sharpness, 0.0);
        assert_eq!(Look::of(&picture(|_, _| 9)).sharpness, 0.0);
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
        assert_eq!((flat.correlation(&grey), flat.correlation(&rising)), (0.0, 0.0));
    }

    #[test]
    fn large_and_narrow_pictures_are_looked_at_too() {
        let large = Image::new(1, 4000, 1, (0..4000).map(|y| (y % 256) as u8).collect()).unwrap();
        let look = Look::of(&large);
        assert!((look.brightness - 127.0).abs() < 4.0 && look.sharpness.is_finite(), "{look:?}");
    }
}
