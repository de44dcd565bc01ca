//! What may go wrong between a scene and its picture: blur, darkness, a turned camera, noise.

use espalier_graph::random::Random;
use espalier_tasks::Image;

/// How much a picture is disturbed; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disturbance {
    /// Standard deviation of a Gaussian blur in pixels, 0 to 20.
    pub blur: f32,
    /// Share of the light that is missing, 0 to 1.
    pub darkness: f32,
    /// Degrees by which the picture is turned counter-clockwise around its middle, -180 to 180.
    pub rotation: f32,
    /// Standard deviation of Gaussian noise on each value, of values from 0 to 1; 0 to 1.
    pub noise: f32,
}

/// Values are finite once they are validated.
impl Eq for Disturbance {}

impl Disturbance {
    /// The names of what can be set.
    pub(super) const KEYS: [&str; 4] = ["blur", "darkness", "rotation", "noise"];

    /// The value of the key `name`; `None` of another name.
    pub(super) fn key(&mut self, name: &str) -> Option<&mut f32> {
        Some(match name {
            "blur" => &mut self.blur,
            "darkness" => &mut self.darkness,
            "rotation" => &mut self.rotation,
            "noise" => &mut self.noise,
            _ => return None,
        })
    }

    /// Refuses what cannot be done.
    ///
    /// # Errors
    /// Names the key, its value and what would be right.
    pub fn validate(&self) -> Result<(), String> {
        let ranges = [
            (self.blur, 0.0, 20.0),
            (self.darkness, 0.0, 1.0),
            (self.rotation, -180.0, 180.0),
            (self.noise, 0.0, 1.0),
        ];
        for (name, (value, least, most)) in Self::KEYS.iter().zip(ranges) {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}, it should be {least} to {most}"));
            }
        }
        Ok(())
    }

    /// The picture as a camera in this state gives it; the noise is a function of `seed` and `number`.
    pub fn apply(&self, image: &Image, seed: u64, number: u64) -> Image {
        let mut image = image.clone();
        if self.rotation != 0.0 {
            image = rotated(&image, self.rotation);
        }
        if self.blur > 0.0 {
            image = blurred(&image, self.blur);
        }
        if self.darkness > 0.0 {
            image.pixels.iter_mut().for_each(|v| *v = (f32::from(*v) * (1.0 - self.darkness)).round() as u8);
        }
        if self.noise > 0.0 {
            let mut random = Random::new(seed, number);
            let scale = 255.0 * self.noise;
            image
                .pixels
                .iter_mut()
                .for_each(|v| *v = (f32::from(*v) + scale * normal(&mut random)).round() as u8);
        }
        image
    }
}

/// Normally distributed (Box and Muller 1958).
fn normal(random: &mut Random) -> f32 {
    let (a, b) = (1.0 - random.uniform(), random.uniform());
    (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
}

/// Turned around its middle, bilinear; what was outside is like the nearest edge.
fn rotated(image: &Image, degrees: f32) -> Image {
    let Image { width, height, channels, .. } = *image;
    let (sin, cos) = degrees.to_radians().sin_cos();
    let middle = |side: usize| (side as f32 - 1.0) / 2.0;
    let (cx, cy) = (middle(width), middle(height));
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (x as f32 - cx, y as f32 - cy);
            let at = [cx + cos * dx - sin * dy, cy + sin * dx + cos * dy];
            pixels.extend((0..channels).map(|channel| between(image, at, channel)));
        }
    }
    Image { pixels, ..*image }
}

/// The value of `channel` at a point between pixels.
fn between(image: &Image, [x, y]: [f32; 2], channel: usize) -> u8 {
    let inside = |v: f32, side: usize| v.clamp(0.0, side as f32 - 1.0);
    let (x, y) = (inside(x, image.width), inside(y, image.height));
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(image.width - 1), (top + 1).min(image.height - 1));
    let value =
        |x: usize, y: usize| f32::from(image.pixels[(y * image.width + x) * image.channels + channel]);
    let row = |y: usize| value(left, y) + (value(right, y) - value(left, y)) * x.fract();
    (row(top) + (row(bottom) - row(top)) * y.fract()).round() as u8
}

/// Blurred along rows, then along columns; edges go on as they are.
fn blurred(image: &Image, sigma: f32) -> Image {
    let reach = (3.0 * sigma).ceil() as usize;
    let bell = |i: usize| {
        let x = i as f32 - reach as f32;
        (-x * x / (2.0 * sigma * sigma)).exp()
    };
    let weights: Vec<f32> = (0..=2 * reach).map(bell).collect();
    let sum: f32 = weights.iter().sum();
    let Image { width, height, channels, .. } = *image;
    let pass = |from: &[f32], side: usize, stride: usize| {
        let value = |i: usize| {
            let at = i / stride % side;
            let line = i - at * stride;
            let near = |k: usize| (at + k).saturating_sub(reach).min(side - 1);
            let total: f32 = weights.iter().enumerate().map(|(k, w)| w * from[line + near(k) * stride]).sum();
            total / sum
        };
        (0..from.len()).map(value).collect::<Vec<f32>>()
    };
    let floats: Vec<f32> = image.pixels.iter().map(|&v| f32::from(v)).collect();
    let floats = pass(&pass(&floats, width, channels), height, width * channels);
    Image { pixels: floats.into_iter().map(|v| v.round() as u8).collect(), ..*image }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot() -> Image {
        let mut pixels = vec![0; 15 * 15 * 3];
        (0..3).for_each(|channel| pixels[(7 * 15 + 11) * 3 + channel] = 200);
        Image::new(15, 15, 3, pixels).unwrap()
    }

    fn check(disturbance: Disturbance, holds: impl Fn(&Image) -> bool) {
        assert_eq!(disturbance.validate(), Ok(()));
        let image = disturbance.apply(&dot(), 1, 2);
        assert!(holds(&image), "{disturbance:?}: {:?}", image.pixels);
        assert_eq!(image, disturbance.apply(&dot(), 1, 2), "it is repeatable");
    }

    fn at(image: &Image, x: usize, y: usize) -> u8 {
        image.pixels[(y * 15 + x) * 3 + 1]
    }

    #[test]
    fn each_does_its_own() {
        let none = Disturbance::default();
        check(none, |image| *image == dot());
        check(Disturbance { darkness: 0.6, ..none }, |image| at(image, 11, 7) == 80);
        check(Disturbance { rotation: 90.0, ..none }, |image| {
            at(image, 7, 3) == 200 && at(image, 11, 7) == 0
        });
        check(Disturbance { rotation: -90.0, ..none }, |image| at(image, 7, 11) == 200);
        // The middle of a bell of deviation 1 is 1/(2 pi) in two dimensions.
        check(Disturbance { blur: 1.0, ..none }, |image| {
            at(image, 11, 7).abs_diff(32) <= 1 && at(image, 10, 7) > 10
        });
        check(Disturbance { noise: 0.1, ..none }, |image| {
            let sum: u32 = image.pixels.iter().map(|&v| u32::from(v)).sum();
            let mean = f64::from(sum) / image.pixels.len() as f64;
            // Half of a normal distribution is cut off at black: mean 25.5 / sqrt(2 pi), and the dot's own.
            (mean - 10.2 - 0.9).abs() < 1.5
        });
        let other = Disturbance { noise: 0.1, ..none };
        assert_ne!(other.apply(&dot(), 1, 2), other.apply(&dot(), 1, 3));
        assert_ne!(other.apply(&dot(), 1, 2), other.apply(&dot(), 2, 2));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = Disturbance { darkness: 1.5, ..Disturbance::default() }.validate().unwrap_err();
        assert_eq!(error, "darkness is 1.5, it should be 0 to 1");
        assert!(Disturbance { blur: f32::NAN, ..Disturbance::default() }.validate().is_err());
    }
}
