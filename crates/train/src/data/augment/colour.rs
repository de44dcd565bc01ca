//! How the light fell: brightness, contrast, saturation and hue, as torchvision's `ColorJitter` defines them.
//!
//! In integers, with 16 fractional bits of a factor: within one level of torchvision's result, and the same on every
//! machine.

use espalier_graph::random::Random;
use serde::{Deserialize, Serialize};

use super::SMALL_SIDE;

/// How far colours may move. Everything zero leaves them as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jitter {
    /// All values are multiplied by 1 plus or minus up to this.
    pub brightness: f32,
    /// The distance to the mean grey value likewise.
    pub contrast: f32,
    /// The distance of each pixel to its own grey value likewise; grey pictures have none.
    pub saturation: f32,
    /// Hues turn by up to this share of the colour wheel, at most 0.5; grey pictures have none.
    pub hue: f32,
}

const BITS: u32 = 16;
const ONE: i32 = 1 << BITS;

/// Red, green and blue in a grey value (ITU-R BT.601), of [`ONE`] in all.
const GREY: [i32; 3] = [19595, 38470, 7471];

impl Jitter {
    pub(super) fn of_photographs(side: usize, strong: bool) -> Jitter {
        let amount = match (side <= SMALL_SIDE, strong) {
            (true, false) => return Jitter::default(),
            (false, false) => 0.2,
            (_, true) => 0.4,
        };
        Jitter { saturation: amount, hue: if strong { 0.05 } else { 0.0 }, ..Jitter::default().grey(amount) }
    }

    /// Of brightness and contrast, which grey pictures have too.
    pub(super) fn grey(self, amount: f32) -> Jitter {
        Jitter { brightness: amount, contrast: amount, ..self }
    }

    /// In random order, as torchvision does it.
    pub(super) fn apply<const C: usize>(&self, pixels: &mut [[u8; C]], random: &mut Random) {
        if *self == Jitter::default() {
            return;
        }
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        let mut factor = |amount: f32| fixed(random.range(1.0 - amount, 1.0 + amount).max(0.0));
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let turn = fixed(random.range(-self.hue, self.hue));
        for change in order {
            match change {
                0 => brightness(pixels, factors[0]),
                1 => contrast(pixels, factors[1]),
                2 => saturation(pixels, factors[2]),
                _ => hue(pixels, turn),
            }
        }
    }
}

fn fixed(v: f32) -> i32 {
    (f64::from(v) * f64::from(ONE)).round() as i32
}

/// `factor v + (1 - factor) other`.
fn blend(v: u8, other: i32, factor: i32) -> u8 {
    ((i32::from(v) * factor + other * (ONE - factor) + ONE / 2) >> BITS).clamp(0, 255) as u8
}

/// Every value by a table: the change is the same for all pixels.
fn blend_all<const C: usize>(pixels: &mut [[u8; C]], other: i32, factor: i32) {
    if factor != ONE {
        let table: [u8; 256] = std::array::from_fn(|v| blend(v as u8, other, factor));
        pixels.as_flattened_mut().iter_mut().for_each(|v| *v = table[usize::from(*v)]);
    }
}

fn brightness<const C: usize>(pixels: &mut [[u8; C]], factor: i32) {
    blend_all(pixels, 0, factor);
}

fn contrast<const C: usize>(pixels: &mut [[u8; C]], factor: i32) {
    if factor != ONE {
        let sum: u64 = pixels.iter().map(|pixel| grey(pixel) as u64).sum();
        let n = pixels.len().max(1) as u64;
        blend_all(pixels, ((sum + n / 2) / n) as i32, factor);
    }
}

fn grey<const C: usize>(pixel: &[u8; C]) -> i32 {
    if C == 1 {
        return i32::from(pixel[0]);
    }
    let sum: i32 = GREY.iter().zip(pixel).map(|(weight, &v)| weight * i32::from(v)).sum();
    (sum + ONE / 2) >> BITS
}

fn saturation<const C: usize>(pixels: &mut [[u8; C]], factor: i32) {
    if C == 3 && factor != ONE {
        for pixel in pixels {
            let grey = grey(pixel);
            *pixel = pixel.map(|v| blend(v, grey, factor));
        }
    }
}

/// Turns the hue by `turn` of the wheel, keeping the largest and the smallest value (HSV).
fn hue<const C: usize>(pixels: &mut [[u8; C]], turn: i32) {
    if C == 3 && turn != 0 {
        for pixel in pixels {
            let rgb = turned([0, 1, 2].map(|c| i32::from(pixel[c])), turn);
            (0..3).for_each(|c| pixel[c] = rgb[c] as u8);
        }
    }
}

/// The wheel has six sectors; in each, one channel is the largest, one the smallest, and one goes from the one to the
/// other. A position is counted in steps of `1 / (6 chroma)` of the wheel, so that it is whole where a pixel's values are.
fn turned([r, g, b]: [i32; 3], turn: i32) -> [i32; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = max - min;
    if chroma == 0 {
        return [r, g, b];
    }
    let position = if max == r {
        g - b
    } else if max == g {
        2 * chroma + b - r
    } else {
        4 * chroma + r - g
    };
    let sector = i64::from(chroma) << BITS;
    let moved = (i64::from(position) << BITS) + 6 * i64::from(chroma) * i64::from(turn);
    let moved = moved.rem_euclid(6 * sector);
    let within = (((moved % sector) + i64::from(ONE / 2)) >> BITS) as i32;
    let (rising, falling) = (min + within, max - within);
    match moved / sector {
        0 => [max, rising, min],
        1 => [falling, max, min],
        2 => [min, max, rising],
        3 => [min, falling, max],
        4 => [rising, min, max],
        _ => [max, min, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Colours, a grey and the extremes.
    const PIXELS: [[u8; 3]; 6] =
        [[200, 100, 50], [10, 20, 250], [128, 128, 128], [0, 0, 0], [255, 255, 255], [40, 180, 90]];

    #[test]
    fn as_torchvision_has_it() {
        type Change = fn(&mut [[u8; 3]], i32);
        let check = |change: Change, amount: f32, expected: [[u8; 3]; 6]| {
            let mut pixels = PIXELS;
            change(&mut pixels, fixed(amount));
            for (found, expected) in pixels.as_flattened().iter().zip(expected.as_flattened()) {
                assert!(found.abs_diff(*expected) <= 1, "{amount}: {pixels:?}");
            }
        };
        // From torchvision 0.29's functions of these names.
        check(brightness, 0.6, [[120, 60, 30], [6, 12, 150], [76; 3], [0; 3], [153; 3], [24, 108, 54]]);
        check(brightness, 1.3, [[255, 130, 65], [13, 26, 255], [166; 3], [0; 3], [255; 3], [52, 233, 116]]);
        check(contrast, 0.6, [[165, 105, 75], [51, 57, 195], [121; 3], [45; 3], [198; 3], [69, 153, 99]]);
        check(contrast, 1.4, [[235, 95, 25], [0, 0, 255], [134; 3], [0; 3], [255; 3], [11, 207, 81]]);
        check(saturation, 0.5, [[162, 112, 87], [26, 31, 146], [127; 3], [0; 3], [254; 3], [83, 153, 108]]);
        check(saturation, 1.4, [[230, 90, 20], [0, 10, 255], [128; 3], [0; 3], [255; 3], [5, 201, 75]]);
        check(hue, 0.1, [[200, 190, 50], [144, 10, 250], [128; 3], [0; 3], [255; 3], [40, 180, 174]]);
        check(hue, -0.25, [[175, 50, 200], [10, 250, 120], [128; 3], [0; 3], [255; 3], [180, 160, 40]]);
        check(hue, 0.4, [[50, 200, 160], [250, 96, 10], [128; 3], [0; 3], [255; 3], [146, 40, 180]]);
    }

    #[test]
    fn a_whole_turn_and_no_change_change_nothing() {
        for r in (0..256).step_by(15) {
            for g in (0..256).step_by(17) {
                for b in (0..256).step_by(5) {
                    assert_eq!(turned([r, g, b], ONE), [r, g, b]);
                    let third = turned([r, g, b], ONE / 3);
                    assert!(
                        third.iter().zip([b, r, g]).all(|(a, b)| (a - b).abs() <= 1),
                        "{r} {g} {b}: {third:?}"
                    );
                }
            }
        }
        let mut pixels = PIXELS;
        Jitter::default().apply(&mut pixels, &mut Random::new(1, 1));
        assert_eq!(pixels, PIXELS);
    }

    #[test]
    fn grey_pictures_have_no_colour() {
        let colourful = Jitter { saturation: 0.9, hue: 0.5, ..Jitter::default() };
        let mut pixels = [[3], [200]];
        colourful.apply(&mut pixels, &mut Random::new(1, 1));
        assert_eq!(pixels, [[3], [200]]);
        Jitter::default().grey(0.9).apply(&mut pixels, &mut Random::new(1, 1));
        assert_ne!(pixels, [[3], [200]]);
    }
}
