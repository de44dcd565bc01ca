//! Where the camera stood: shifts, mirroring, turns, scales, random resized crops.

use espalier_graph::random::Random;
use serde::{Deserialize, Serialize};

use super::{SMALL_SIDE, aspect};

/// How far a picture may be moved. Everything zero or false leaves it where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Geometric {
    /// Shift by up to this many pixels in each direction: the crop of a padded picture.
    pub pad: usize,
    /// Mirror left and right, half of the time.
    pub flip: bool,
    /// Turn about the centre by up to this angle, either way.
    pub rotate_degrees: f32,
    /// Enlarge or shrink about the centre by up to this share of the size.
    pub scale: f32,
    /// Cut away up to this share of the picture's area and bring the rest to full size: random resized crop (Szegedy et
    /// al. 2015), of proportions between 3:4 and 4:3.
    pub crop: f32,
    /// What lies beyond the border.
    pub edge: Edge,
}

/// What lies beyond the border of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The picture mirrored, its border pixel not repeated: for photographs.
    #[default]
    Reflect,
    /// The border pixel again: for drawings on a plain ground.
    Clamp,
}

/// 16 fractional bits of a source coordinate.
const ONE: f64 = 65536.0;

impl Geometric {
    /// Small photographs are shifted by whole pixels, which keeps them sharp, larger ones cropped; both are mirrored where
    /// they may be.
    pub(super) fn of_photographs(side: usize, flip: bool, strong: bool) -> Geometric {
        let (pad, crop, rotate_degrees) = match (side <= SMALL_SIDE, strong) {
            (true, _) => ((side / 8).max(1), 0.0, 0.0),
            (false, false) => (0, 0.65, 0.0),
            (false, true) => (0, 0.8, 10.0),
        };
        Geometric { pad, flip, rotate_degrees, scale: 0.0, crop, edge: Edge::Reflect }
    }

    /// Digits and drawings are shifted, turned and scaled a little, and never mirrored.
    pub(super) fn of_drawings(side: usize, strong: bool) -> Geometric {
        let (pad, rotate_degrees, scale) =
            if strong { (side / 10, 15.0, 0.15) } else { (side / 14, 10.0, 0.1) };
        Geometric { pad: pad.max(1), flip: false, rotate_degrees, scale, crop: 0.0, edge: Edge::Clamp }
    }

    /// From `image` of `from` (height, width) to `out` of `size`.
    pub(super) fn apply<const C: usize>(
        &self,
        image: &[[u8; C]],
        from: [usize; 2],
        size: [usize; 2],
        random: &mut Random,
        out: &mut [[u8; C]],
    ) {
        let draw = self.draw(random);
        let source = Source { pixels: image, size: from, edge: self.edge };
        if from == size && self.rotate_degrees == 0.0 && self.scale == 0.0 && self.crop == 0.0 {
            source.shift(draw, out);
        } else {
            source.warp(draw, size, out);
        }
    }

    /// Always the same number of draws, so that one setting does not change what another one does.
    fn draw(&self, random: &mut Random) -> Draw {
        let mut shift = || random.below(2 * self.pad + 1) as i32 - self.pad as i32;
        let (dx, dy) = (shift(), shift());
        let mirrored = random.below(2) == 1 && self.flip;
        let angle = f64::from(random.range(-self.rotate_degrees, self.rotate_degrees)).to_radians();
        let zoom = 1.0 + f64::from(random.range(-self.scale, self.scale));
        let window = Window::draw(f64::from(self.crop), random);
        Draw { dx, dy, mirrored, angle, zoom, window }
    }
}

/// What was drawn for one picture. The shift is in source pixels.
#[derive(Clone, Copy)]
struct Draw {
    dx: i32,
    dy: i32,
    mirrored: bool,
    angle: f64,
    zoom: f64,
    window: Window,
}

/// The part of a picture that is kept, in shares of its width and height.
#[derive(Clone, Copy, Debug)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    const WHOLE: Window = Window { left: 0.0, top: 0.0, width: 1.0, height: 1.0 };

    /// Draws also where nothing is cut away. A side that would be longer than the picture's is as long.
    fn draw(crop: f64, random: &mut Random) -> Window {
        let (area, aspect) = (1.0 - crop * f64::from(random.uniform()), aspect(4.0 / 3.0, random));
        let (x, y) = (f64::from(random.uniform()), f64::from(random.uniform()));
        if crop == 0.0 {
            return Window::WHOLE;
        }
        let (width, height) = ((area * aspect).sqrt().min(1.0), (area / aspect).sqrt().min(1.0));
        Window { left: x * (1.0 - width), top: y * (1.0 - height), width, height }
    }
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

/// A picture with something beyond its border.
struct Source<'a, const C: usize> {
    pixels: &'a [[u8; C]],
    size: [usize; 2],
    edge: Edge,
}

impl<const C: usize> Source<'_, C> {
    /// By whole pixels, to the same size: exact, and the fast way.
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

    /// Each target pixel is looked up, bilinearly, where mirroring, turning, scaling, cropping and shifting back leads.
    fn warp(&self, draw: Draw, size: [usize; 2], out: &mut [[u8; C]]) {
        let [height, width] = self.size.map(|side| side as f64);
        let (sin, cos) = sin_cos(draw.angle);
        // Source pixels for one target pixel, before the turn.
        let window = draw.window;
        let across = window.width * width / size[1] as f64 / draw.zoom;
        let down = window.height * height / size[0] as f64 / draw.zoom;
        let mirrored = if draw.mirrored { -across } else { across };
        let step = [cos * mirrored, -sin * mirrored];
        let row_step = [sin * down, cos * down];
        let centre = [
            (window.left + window.width / 2.0) * width - 0.5 + f64::from(draw.dx),
            (window.top + window.height / 2.0) * height - 0.5 + f64::from(draw.dy),
        ];
        // From the centre of the target to the centre of its first pixel.
        let (back, up) = ((size[1] as f64 - 1.0) / 2.0, (size[0] as f64 - 1.0) / 2.0);
        let fixed = |v: f64| (v * ONE).round() as i32;
        let mut row = [0, 1].map(|axis| fixed(centre[axis] - step[axis] * back - row_step[axis] * up));
        let (step, row_step) = (step.map(fixed), row_step.map(fixed));
        for out in out.chunks_exact_mut(size[1]) {
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

    const STILL: Draw = Draw { dx: 0, dy: 0, mirrored: false, angle: 0.0, zoom: 1.0, window: Window::WHOLE };

    fn grey(size: [usize; 2], pixels: &[u8]) -> Source<'_, 1> {
        Source { pixels: pixels.as_chunks().0, size, edge: Edge::Clamp }
    }

    fn warped(source: &Source<'_, 1>, draw: Draw, size: [usize; 2]) -> Vec<u8> {
        let mut out = vec![[0; 1]; size[0] * size[1]];
        source.warp(draw, size, &mut out);
        out.into_flattened()
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
    fn shifts_and_mirrors_by_hand() {
        let source = grey([2, 3], &[1, 2, 3, 4, 5, 6]);
        let check = |draw: Draw, expected: [u8; 6]| {
            let mut out = [[0; 1]; 6];
            source.shift(draw, &mut out);
            assert_eq!(out.as_flattened(), expected);
            assert_eq!(warped(&source, draw, [2, 3]), expected, "bilinear");
        };
        let draw = Draw { dx: 1, ..STILL };
        check(draw, [2, 3, 3, 5, 6, 6]);
        check(Draw { mirrored: true, ..draw }, [3, 3, 2, 6, 6, 5]);
        check(Draw { dx: 0, dy: -1, ..draw }, [1, 2, 3, 1, 2, 3]);
        check(Draw { dx: 0, mirrored: true, ..draw }, [3, 2, 1, 6, 5, 4]);
    }

    #[test]
    fn turns_scales_and_crops_by_hand() {
        let nine = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let quarter = Draw { angle: std::f64::consts::FRAC_PI_2, ..STILL };
        assert_eq!(warped(&grey([3, 3], &nine), quarter, [3, 3]), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
        let ramp = [0, 100, 200, 0, 100, 200, 0, 100, 200];
        let doubled = Draw { zoom: 2.0, ..STILL };
        assert_eq!(warped(&grey([3, 3], &ramp), doubled, [3, 3]), [50, 100, 150, 50, 100, 150, 50, 100, 150]);
        // The right half of four columns, two pixels wide again and then four.
        let row = grey([1, 4], &[0, 40, 80, 120]);
        let right = Draw { window: Window { left: 0.5, width: 0.5, ..Window::WHOLE }, ..STILL };
        assert_eq!(warped(&row, right, [1, 2]), [80, 120]);
        assert_eq!(warped(&row, right, [1, 4]), [70, 90, 110, 120]);
        // Half the size: each target pixel lies between two source pixels.
        assert_eq!(warped(&row, STILL, [1, 2]), [20, 100]);
    }

    #[test]
    fn crops_keep_their_area_and_stay_inside() {
        let (mut smallest, mut area) = (1.0f64, 0.0);
        for stream in 0..2000 {
            let w = Window::draw(0.6, &mut Random::new(3, stream));
            assert!(w.left >= 0.0 && w.left + w.width <= 1.0 + 1e-12, "{w:?}");
            assert!(w.top >= 0.0 && w.top + w.height <= 1.0 + 1e-12, "{w:?}");
            assert!((0.74..1.34).contains(&(w.width / w.height)), "{w:?}");
            smallest = smallest.min(w.width * w.height);
            area += w.width * w.height / 2000.0;
        }
        assert!((0.4..0.42).contains(&smallest) && (0.65..0.7).contains(&area), "{smallest} {area}");
    }
}
