//! Augmentation: the same image, as the camera might have seen it a moment later.
//!
//! From u8 to u8 at the network's input size, in fixed-point arithmetic, so that (seed, stream) gives the same pixels on
//! every machine.

use espalier_graph::random::Random;
use serde::{Deserialize, Serialize};

use super::Statistics;

/// What may happen to a training image. Everything zero or false leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// Shift by up to this many pixels in each direction: the crop of a padded image.
    pub pad: usize,
    /// Mirror left and right, half of the time.
    pub flip: bool,
    /// Turn about the centre by up to this angle, either way.
    pub rotate_degrees: f32,
    /// Enlarge or shrink about the centre by up to this share of the size.
    pub scale: f32,
    /// What lies beyond the border.
    pub edge: Edge,
}

/// What lies beyond the border of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The image mirrored, its border pixel not repeated: for photographs.
    #[default]
    Reflect,
    /// The border pixel again: for drawings on a plain ground.
    Clamp,
}

/// 16 fractional bits of a source coordinate.
const ONE: f64 = 65536.0;

impl Augment {
    /// What suits the data: photographs are shifted, mirrored and, where they are not tiny, scaled; small grey
    /// pictures such as digits are shifted, turned and scaled a little, and never mirrored.
    pub fn for_data(statistics: &Statistics) -> Augment {
        let side = statistics.image_size();
        if statistics.grey && side <= 64 {
            return Augment {
                pad: (side / 14).max(1),
                flip: false,
                rotate_degrees: 10.0,
                scale: 0.1,
                edge: Edge::Clamp,
            };
        }
        let scale = if side <= 64 { 0.0 } else { 0.15 };
        Augment {
            pad: (side / 8).max(1),
            flip: !statistics.grey,
            rotate_degrees: 0.0,
            scale,
            edge: Edge::Reflect,
        }
    }

    /// Writes a variation of `image` (HWC) of `[channels, height, width]` to `out`, drawing from `random`.
    pub fn apply(&self, image: &[u8], shape: [usize; 3], random: &mut Random, out: &mut [u8]) {
        assert_eq!(image.len(), shape.iter().product::<usize>(), "the image has the given shape");
        assert_eq!(out.len(), image.len(), "the output has the image's shape");
        let draw = self.draw(random);
        match shape {
            [1, height, width] => self.run::<1>(image, [height, width], draw, out),
            [3, height, width] => self.run::<3>(image, [height, width], draw, out),
            _ => panic!("images have 1 or 3 channels, not {}", shape[0]),
        }
    }

    /// Always the same number of draws, so that one setting does not change what another one does.
    fn draw(&self, random: &mut Random) -> Draw {
        let mut shift = || random.below(2 * self.pad + 1) as i32 - self.pad as i32;
        let (dx, dy) = (shift(), shift());
        let mirrored = random.below(2) == 1 && self.flip;
        let angle = f64::from(random.range(-self.rotate_degrees, self.rotate_degrees)).to_radians();
        let zoom = 1.0 + f64::from(random.range(-self.scale, self.scale));
        Draw { dx, dy, mirrored, angle, zoom }
    }

    fn run<const C: usize>(&self, image: &[u8], size: [usize; 2], draw: Draw, out: &mut [u8]) {
        let (pixels, _) = image.as_chunks::<C>();
        let (out, _) = out.as_chunks_mut::<C>();
        let source = Source { pixels, size, edge: self.edge };
        if self.rotate_degrees == 0.0 && self.scale == 0.0 {
            source.shift(draw, out);
        } else {
            source.warp(draw, out);
        }
    }
}

/// What was drawn for one image. The shift is in source pixels.
#[derive(Clone, Copy)]
struct Draw {
    dx: i32,
    dy: i32,
    mirrored: bool,
    angle: f64,
    zoom: f64,
}

impl Edge {
    /// The pixel among `0..n` that stands for `i`.
    fn index(self, i: i32, n: usize) -> usize {
        let last = n as i32 - 1;
        match self {
            Edge::Clamp => i.clamp(0, last) as usize,
            Edge::Reflect if last == 0 => 0,
            Edge::Reflect => {
                let i = i.rem_euclid(2 * last);
                i.min(2 * last - i) as usize
            }
        }
    }
}

/// An image with something beyond its border.
struct Source<'a, const C: usize> {
    pixels: &'a [[u8; C]],
    size: [usize; 2],
    edge: Edge,
}

impl<const C: usize> Source<'_, C> {
    /// By whole pixels: exact, and the fast way.
    fn shift(&self, draw: Draw, out: &mut [[u8; C]]) {
        let [height, width] = self.size;
        let column = |x: usize| {
            let x = if draw.mirrored { width - 1 - x } else { x };
            self.edge.index(x as i32 + draw.dx, width)
        };
        let columns: Vec<usize> = (0..width).map(column).collect();
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let row = self.edge.index(y as i32 + draw.dy, height) * width;
            let row = &self.pixels[row..row + width];
            out.iter_mut().zip(&columns).for_each(|(out, &x)| *out = row[x]);
        }
    }

    /// Each target pixel is looked up, bilinearly, where turning, scaling, mirroring and shifting back leads.
    fn warp(&self, draw: Draw, out: &mut [[u8; C]]) {
        let [height, width] = self.size;
        let (sin, cos) = sin_cos(draw.angle);
        let (across, down) = (cos / draw.zoom, sin / draw.zoom);
        let mirror = if draw.mirrored { -1.0 } else { 1.0 };
        let (cx, cy) = ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
        // Source position: (across, down; -down, across) (p - c) + c + shift, x of p - c mirrored.
        let start_x = cx + f64::from(draw.dx) - across * mirror * cx - down * cy;
        let start_y = cy + f64::from(draw.dy) + down * mirror * cx - across * cy;
        let fixed = |v: f64| (v * ONE).round() as i32;
        let step = [fixed(across * mirror), fixed(-down * mirror)];
        let row_step = [fixed(down), fixed(across)];
        let mut row = [fixed(start_x), fixed(start_y)];
        for out in out.chunks_exact_mut(width) {
            let mut at = row;
            for out in out {
                *out = self.sample(at);
                at = [at[0] + step[0], at[1] + step[1]];
            }
            row = [row[0] + row_step[0], row[1] + row_step[1]];
        }
    }

    /// Bilinear interpolation at a 16.16 position, with 8-bit weights.
    fn sample(&self, [x, y]: [i32; 2]) -> [u8; C] {
        let [height, width] = self.size;
        let (x0, y0) = (x >> 16, y >> 16);
        let (fx, fy) = ((x as u32 >> 8) & 255, (y as u32 >> 8) & 255);
        let inside = x0 >= 0 && y0 >= 0 && x0 + 1 < width as i32 && y0 + 1 < height as i32;
        let [left, right, top, bottom] = if inside {
            [x0 as usize, x0 as usize + 1, y0 as usize, y0 as usize + 1]
        } else {
            let (x, y) = (|x| self.edge.index(x, width), |y| self.edge.index(y, height));
            [x(x0), x(x0 + 1), y(y0), y(y0 + 1)]
        };
        let pixel = |x, y| &self.pixels[y * width + x];
        let (a, b, c, d) = (pixel(left, top), pixel(right, top), pixel(left, bottom), pixel(right, bottom));
        std::array::from_fn(|i| {
            let mix = |p: &[u8; C], q: &[u8; C]| u32::from(p[i]) * (256 - fx) + u32::from(q[i]) * fx;
            ((mix(a, b) * (256 - fy) + mix(c, d) * fy + (1 << 15)) >> 16) as u8
        })
    }
}

/// Sine and cosine by their power series, since those of C libraries differ in the last bits; exact to 1e-9 up to a
/// right angle.
fn sin_cos(x: f64) -> (f64, f64) {
    let square = x * x;
    let series = |first: f64| {
        (0..8).rev().fold(1.0, |sum, k| {
            let n = f64::from(2 * k) + first;
            1.0 - sum * square / (n * (n + 1.0))
        })
    };
    (x * series(2.0), series(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(augment: &Augment, image: &[u8], shape: [usize; 3], stream: u64) -> Vec<u8> {
        let mut out = vec![0; image.len()];
        augment.apply(image, shape, &mut Random::new(7, stream), &mut out);
        out
    }

    fn everything() -> Augment {
        Augment { pad: 4, flip: true, rotate_degrees: 15.0, scale: 0.2, edge: Edge::Reflect }
    }

    #[test]
    fn series() {
        for degrees in -90..=90 {
            let x = f64::from(degrees).to_radians();
            let (sin, cos) = sin_cos(x);
            assert!((sin - x.sin()).abs() < 1e-9 && (cos - x.cos()).abs() < 1e-9, "{degrees}");
        }
    }

    #[test]
    fn edges() {
        let check = |edge: Edge, n, expected: &[usize]| {
            let found: Vec<usize> = (-3..6).map(|i| edge.index(i, n)).collect();
            assert_eq!(found, expected);
        };
        check(Edge::Clamp, 3, &[0, 0, 0, 0, 1, 2, 2, 2, 2]);
        check(Edge::Reflect, 3, &[1, 2, 1, 0, 1, 2, 1, 0, 1]);
        check(Edge::Reflect, 1, &[0; 9]);
    }

    #[test]
    fn nothing_to_do_changes_nothing() {
        let image: Vec<u8> = (0..5 * 4 * 3).collect();
        assert_eq!(run(&Augment::default(), &image, [3, 5, 4], 1), image);
        // The bilinear way as well, where angle and scale are practically zero.
        let tiny = Augment { rotate_degrees: 1e-6, ..Augment::default() };
        assert_eq!(run(&tiny, &image, [3, 5, 4], 1), image);
    }

    #[test]
    fn shifts_and_mirrors_by_hand() {
        let image = [1, 2, 3, 4, 5, 6];
        let source = Source::<1> { pixels: image.as_chunks().0, size: [2, 3], edge: Edge::Clamp };
        let draw = Draw { dx: 1, dy: 0, mirrored: false, angle: 0.0, zoom: 1.0 };
        let check = |draw: Draw, expected: [u8; 6]| {
            let mut out = [[0; 1]; 6];
            source.shift(draw, &mut out);
            assert_eq!(out.as_flattened(), expected);
            source.warp(draw, &mut out);
            assert_eq!(out.as_flattened(), expected, "bilinear");
        };
        check(draw, [2, 3, 3, 5, 6, 6]);
        check(Draw { mirrored: true, ..draw }, [3, 3, 2, 6, 6, 5]);
        check(Draw { dx: 0, dy: -1, ..draw }, [1, 2, 3, 1, 2, 3]);
        check(Draw { dx: 0, mirrored: true, ..draw }, [3, 2, 1, 6, 5, 4]);
    }

    #[test]
    fn a_quarter_turn_and_doubling_by_hand() {
        let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let source = Source::<1> { pixels: image.as_chunks().0, size: [3, 3], edge: Edge::Clamp };
        let draw = Draw { dx: 0, dy: 0, mirrored: false, angle: std::f64::consts::FRAC_PI_2, zoom: 1.0 };
        let mut out = [[0; 1]; 9];
        source.warp(draw, &mut out);
        assert_eq!(out.as_flattened(), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
        let image = [0, 100, 200, 0, 100, 200, 0, 100, 200];
        let source = Source::<1> { pixels: image.as_chunks().0, size: [3, 3], edge: Edge::Clamp };
        source.warp(Draw { angle: 0.0, zoom: 2.0, ..draw }, &mut out);
        assert_eq!(out.as_flattened(), [50, 100, 150, 50, 100, 150, 50, 100, 150]);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let image: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let outputs: Vec<_> = (0..20).map(|stream| run(&everything(), &image, [3, 32, 32], stream)).collect();
        for (stream, output) in outputs.iter().enumerate() {
            assert_eq!(*output, run(&everything(), &image, [3, 32, 32], stream as u64));
            assert!(outputs[..stream].iter().all(|other| other != output), "stream {stream}");
        }
    }

    #[test]
    fn any_shape_and_flat_images_stay_flat() {
        for (height, width) in [(1, 1), (1, 9), (9, 1), (2, 3), (17, 31)] {
            for edge in [Edge::Clamp, Edge::Reflect] {
                let augment = Augment { pad: 40, edge, ..everything() };
                let image = vec![77; height * width];
                (0..20).for_each(|s| assert_eq!(run(&augment, &image, [1, height, width], s), image));
            }
        }
    }

    #[test]
    fn fast_enough_for_small_images() {
        let image = vec![9; 32 * 32 * 3];
        let mut out = image.clone();
        for augment in [everything(), Augment { rotate_degrees: 0.0, scale: 0.0, ..everything() }] {
            let round = |stream| {
                let start = std::time::Instant::now();
                (0..50)
                    .for_each(|_| augment.apply(&image, [3, 32, 32], &mut Random::new(1, stream), &mut out));
                start.elapsed() / 50
            };
            let best = (0..40).map(round).min().unwrap();
            println!("{augment:?}: {best:?} an image");
            assert!(best.as_micros() < 20, "{best:?}");
        }
    }
}
