//! Resizing with antialiasing, and bringing an image to the size a network takes.
//!
//! A separable triangle filter whose support grows when shrinking, as in Pillow's `BILINEAR` and torchvision's
//! `antialias=True`. Weights are rounded to 22-bit fixed point and sums are integers, so that every machine gives the
//! same pixels.

use serde::{Deserialize, Serialize};

use crate::image::Image;

/// How an image of another aspect ratio is brought to the wanted size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Ignore the aspect ratio.
    Stretch,
    /// Fill the wanted size and cut off evenly what sticks out: for photographs of one thing.
    #[default]
    Crop,
    /// Keep everything and fill the rest with grey.
    Letterbox,
}

/// The grey that surrounds a letterboxed image, as detectors of the YOLO family are trained with.
const LETTERBOX_GREY: u8 = 114;

/// Fixed-point bits of a weight: a sum of weights times 255 still fits into 31 bits.
const BITS: u32 = 22;

/// A rectangle of the source in pixels, from its left upper corner; it may begin and end within a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Region {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Region {
    fn whole(image: &Image) -> Self {
        Region { x: 0.0, y: 0.0, width: image.width as f64, height: image.height as f64 }
    }

    /// The largest centred rectangle of `source` (height, width) with the aspect ratio of `size`.
    fn centred(source: [usize; 2], size: [usize; 2]) -> Self {
        let [height, width] = source.map(|side| side as f64);
        let scale = (height / size[0] as f64).min(width / size[1] as f64);
        let (w, h) = (size[1] as f64 * scale, size[0] as f64 * scale);
        Region { x: (width - w) / 2.0, y: (height - h) / 2.0, width: w, height: h }
    }
}

/// Where a picture comes to lie when it is brought to another size: `target = source * scale + offset` in pixels, across
/// and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Pixels of the target for one of the source.
    pub scale: [f64; 2],
    /// The target's pixels left of and above the picture; negative where the picture is cut off.
    pub offset: [f64; 2],
}

impl Placement {
    /// Of a picture of `source` (height, width) that is brought to `size`.
    pub fn new(source: [usize; 2], size: [usize; 2], fit: Fit) -> Self {
        let [height, width] = source.map(|side| side as f64);
        match fit {
            Fit::Stretch => {
                Placement { scale: [size[1] as f64 / width, size[0] as f64 / height], offset: [0.0; 2] }
            }
            Fit::Crop => {
                let region = Region::centred(source, size);
                let scale = [size[1] as f64 / region.width, size[0] as f64 / region.height];
                Placement { scale, offset: [-region.x * scale[0], -region.y * scale[1]] }
            }
            Fit::Letterbox => {
                let inner = inside(source, size);
                let (top, left) = ((size[0] - inner[0]) / 2, (size[1] - inner[1]) / 2);
                let scale = [inner[1] as f64 / width, inner[0] as f64 / height];
                Placement { scale, offset: [left as f64, top as f64] }
            }
        }
    }

    /// The point of the source that lies at `point` (across, down) of the target.
    pub fn source(&self, point: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|i| (point[i] - self.offset[i]) / self.scale[i])
    }

    /// The point of the target where `point` (across, down) of the source lies.
    pub fn target(&self, point: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|i| point[i] * self.scale[i] + self.offset[i])
    }
}

/// Height and width of the largest picture of `source`'s aspect ratio that fits into `size`.
fn inside(source: [usize; 2], size: [usize; 2]) -> [usize; 2] {
    let scale = (size[0] as f64 / source[0] as f64).min(size[1] as f64 / source[1] as f64);
    [0, 1].map(|i| ((source[i] as f64 * scale).round() as usize).clamp(1, size[i]))
}

/// The image at `size` (height, width) with `channels` channels.
pub fn fit(image: &Image, size: [usize; 2], channels: usize, fit: Fit) -> Image {
    if image.channels > channels {
        return self::fit(&image.with_channels(channels), size, channels, fit);
    }
    let source = [image.height, image.width];
    let resized = match fit {
        Fit::Stretch => resize(image, size),
        Fit::Crop => resize_region(image, Region::centred(source, size), size),
        Fit::Letterbox => letterbox(image, size),
    };
    if resized.channels == channels { resized } else { resized.with_channels(channels) }
}

/// The whole image at `size` (height, width).
pub fn resize(image: &Image, size: [usize; 2]) -> Image {
    resize_region(image, Region::whole(image), size)
}

fn letterbox(image: &Image, size: [usize; 2]) -> Image {
    let source = [image.height, image.width];
    let [left, top] = Placement::new(source, size, Fit::Letterbox).offset.map(|pixels| pixels as usize);
    let inner = resize(image, inside(source, size));
    let channels = image.channels;
    let mut pixels = vec![LETTERBOX_GREY; size[0] * size[1] * channels];
    for (y, row) in inner.pixels.chunks_exact(inner.width * channels).enumerate() {
        let at = ((top + y) * size[1] + left) * channels;
        pixels[at..at + row.len()].copy_from_slice(row);
    }
    Image { width: size[1], height: size[0], channels, pixels }
}

fn resize_region(image: &Image, region: Region, size: [usize; 2]) -> Image {
    if region == Region::whole(image) && [image.height, image.width] == size {
        return image.clone();
    }
    let pixels = match image.channels {
        1 => resample::<1>(image, region, size),
        3 => resample::<3>(image, region, size),
        channels => panic!("images have 1 or 3 channels, not {channels}"),
    };
    Image { width: size[1], height: size[0], channels: image.channels, pixels }
}

/// First along the rows, of which only those that the second pass reads, then down the columns.
fn resample<const C: usize>(image: &Image, region: Region, [height, width]: [usize; 2]) -> Vec<u8> {
    let columns = filter(image.width, region.x, region.width, width);
    let rows = filter(image.height, region.y, region.height, height);
    let first = rows.iter().map(|taps| taps.first).min().unwrap_or(0);
    let last = rows.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
    let (source, _) = image.pixels.as_chunks::<C>();
    let mut narrow = vec![0; (last - first) * width * C];
    for (row, out) in source.chunks_exact(image.width).skip(first).zip(narrow.chunks_exact_mut(width * C)) {
        resize_row(row, &columns, out.as_chunks_mut::<C>().0);
    }
    let mut pixels = vec![0; height * width * C];
    let mut sums = vec![0; width * C];
    for (taps, out) in rows.iter().zip(pixels.chunks_exact_mut(width * C)) {
        blend_rows(&narrow[(taps.first - first) * width * C..], taps, &mut sums, out);
    }
    pixels
}

/// The source pixels that make one target pixel: from `first` on, with these fixed-point weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of each of `target` pixels that cover `length` source pixels from `start` on, of `source` in all.
fn filter(source: usize, start: f64, length: f64, target: usize) -> Vec<Taps> {
    let scale = length / target as f64;
    let support = scale.max(1.0);
    (0..target).map(|i| taps(source, start + (i as f64 + 0.5) * scale, support)).collect()
}

/// A triangle of half-width `support` around `center`, cut off at the border and brought to the sum 1.
fn taps(source: usize, center: f64, support: f64) -> Taps {
    let first = ((center - support).round().max(0.0) as usize).min(source - 1);
    let end = ((center + support).round().max(0.0) as usize).clamp(first + 1, source);
    let triangle = |i: usize| (1.0 - ((i as f64 + 0.5 - center) / support).abs()).max(0.0);
    let sum: f64 = (first..end).map(triangle).sum();
    let unit = f64::from(1 << BITS);
    let weights = (first..end).map(|i| (triangle(i) / sum * unit).round() as i32).collect();
    Taps { first, weights }
}

fn resize_row<const C: usize>(row: &[[u8; C]], columns: &[Taps], out: &mut [[u8; C]]) {
    for (taps, out) in columns.iter().zip(out) {
        let mut sums = [0; C];
        for (&weight, pixel) in taps.weights.iter().zip(&row[taps.first..]) {
            (0..C).for_each(|c| sums[c] += weight * i32::from(pixel[c]));
        }
        *out = sums.map(round);
    }
}

/// The weighted sum of the first rows of `rows`, each as long as `out`.
fn blend_rows(rows: &[u8], taps: &Taps, sums: &mut [i32], out: &mut [u8]) {
    sums.fill(0);
    for (&weight, row) in taps.weights.iter().zip(rows.chunks_exact(out.len())) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += weight * i32::from(v));
    }
    out.iter_mut().zip(sums).for_each(|(out, &mut sum)| *out = round(sum));
}

fn round(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, pixels: &[u8]) -> Image {
        Image::new(width, pixels.len() / width, 1, pixels.to_vec()).unwrap()
    }

    #[test]
    fn hand_computed_values() {
        let check = |image: Image, size, expected: &[u8]| assert_eq!(resize(&image, size).pixels, expected);
        check(grey(3, &[1, 2, 3]), [1, 3], &[1, 2, 3]);
        // Enlarging 2 to 4: centres at 0.25, 0.75, 1.25, 1.75 source pixels.
        check(grey(2, &[0, 100]), [1, 4], &[0, 25, 75, 100]);
        // Halving: taps 1/8, 3/8, 3/8, 1/8, at the left border 3/7, 3/7, 1/7.
        check(grey(4, &[0, 70, 140, 210]), [1, 2], &[50, 160]);
        check(grey(1, &[0, 70, 140, 210]), [2, 1], &[50, 160]);
        check(grey(2, &[0, 255, 255, 0]), [1, 1], &[128]);
        check(grey(1, &[9]), [2, 3], &[9; 6]);
    }

    #[test]
    fn colour_channels_do_not_mix() {
        let image = Image::new(2, 1, 3, vec![0, 10, 20, 100, 110, 120]).unwrap();
        assert_eq!(resize(&image, [1, 4]).pixels, [0, 10, 20, 25, 35, 45, 75, 85, 95, 100, 110, 120]);
    }

    #[test]
    fn a_flat_image_stays_flat() {
        for (size, target) in
            [([7, 5], [3, 11]), ([64, 48], [5, 1]), ([1, 300], [32, 32]), ([33, 31], [32, 32])]
        {
            for value in [0, 1, 127, 255] {
                let image = Image::new(size[1], size[0], 1, vec![value; size[0] * size[1]]).unwrap();
                assert!(resize(&image, target).pixels.iter().all(|&v| v == value), "{size:?} to {target:?}");
                assert!(fit(&image, target, 1, Fit::Crop).pixels.iter().all(|&v| v == value));
            }
        }
    }

    #[test]
    fn fits() {
        let image = grey(4, &[1, 2, 3, 4, 1, 2, 3, 4]);
        assert_eq!(fit(&image, [2, 2], 1, Fit::Crop).pixels, [2, 3, 2, 3]);
        assert_eq!(fit(&image, [2, 4], 1, Fit::Crop), image);
        let boxed = fit(&image, [4, 4], 1, Fit::Letterbox);
        assert_eq!(boxed.pixels[..4], [LETTERBOX_GREY; 4]);
        assert_eq!(boxed.pixels[4..12], image.pixels);
        assert_eq!(boxed.pixels[12..], [LETTERBOX_GREY; 4]);
        assert_eq!(fit(&image, [2, 4], 3, Fit::Stretch), image.with_channels(3));
    }

    /// What lies at a pixel of the source is found again at its place in the target.
    #[test]
    fn placements_lead_back() {
        let check = |source, size, fit, target, want: [f64; 2]| {
            let found = Placement::new(source, size, fit).source(target);
            let close = found.iter().zip(want).all(|(found, want)| (found - want).abs() < 1e-9);
            assert!(close, "{source:?} to {size:?}, {fit:?}: {found:?}, not {want:?}");
        };
        check([480, 640], [352, 352], Fit::Stretch, [176.0, 352.0], [320.0, 480.0]);
        check([480, 640], [640, 640], Fit::Letterbox, [0.0, 80.0], [0.0, 0.0]);
        check([480, 640], [320, 320], Fit::Letterbox, [320.0, 280.0], [640.0, 480.0]);
        check([640, 480], [320, 320], Fit::Letterbox, [40.0, 0.0], [0.0, 0.0]);
        // 333 pixels become 208.125, which are 208; the 112 that are left lie evenly.
        check([333, 1024], [320, 640], Fit::Letterbox, [0.0, 264.0], [0.0, 333.0]);
        check([100, 300], [50, 50], Fit::Crop, [0.0, 50.0], [100.0, 100.0]);
    }

    #[test]
    fn a_sliver_costs_no_more_than_its_target() {
        let image = grey(60_000, &[5; 60_000]);
        for fit in [Fit::Crop, Fit::Stretch, Fit::Letterbox] {
            assert_eq!(self::fit(&image, [224, 224], 3, fit).pixels.len(), 224 * 224 * 3);
        }
    }
}
