//! Random erasing (Zhong et al. 2020): a rectangle of noise hides part of the picture, so that no single part decides.

use espalier_graph::random::Random;

use super::aspect;

/// Shares of the picture's area, the bounds of torchvision and timm.
const AREA: [f32; 2] = [0.02, 1.0 / 3.0];
/// The rectangle is at most this much longer than high, or the other way round.
const LONGEST: f64 = 10.0 / 3.0;
/// Rectangles that do not fit are drawn again, so many times.
const TRIES: usize = 10;

/// Erases a rectangle of `pixels`, in rows of `width`, with this probability.
pub(super) fn erase<const C: usize>(
    probability: f32,
    pixels: &mut [[u8; C]],
    width: usize,
    random: &mut Random,
) {
    if random.uniform() >= probability {
        return;
    }
    let height = pixels.len() / width;
    let mut fitting = (0..TRIES).map(|_| extent(pixels.len(), random));
    let Some([h, w]) = fitting.find(|&[h, w]| (1..=height).contains(&h) && (1..=width).contains(&w)) else {
        return;
    };
    let (top, left) = (random.below(height - h + 1), random.below(width - w + 1));
    for row in pixels.chunks_exact_mut(width).skip(top).take(h) {
        for eight in row[left..left + w].as_flattened_mut().chunks_mut(8) {
            eight.copy_from_slice(&random.bits().to_le_bytes()[..eight.len()]);
        }
    }
}

/// Height and width of a rectangle in a picture of so many pixels.
fn extent(pixels: usize, random: &mut Random) -> [usize; 2] {
    let area = f64::from(random.range(AREA[0], AREA[1])) * pixels as f64;
    let aspect = aspect(LONGEST, random);
    [area / aspect, area * aspect].map(|square| square.sqrt().round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_of_noise() {
        let (mut erased, mut area) = (0, 0);
        for stream in 0..400 {
            let mut pixels = [[7u8; 3]; 24 * 20];
            erase(0.5, &mut pixels, 20, &mut Random::new(2, stream));
            let changed: Vec<usize> = (0..pixels.len()).filter(|&i| pixels[i] != [7; 3]).collect();
            let (Some(first), Some(last)) = (changed.first(), changed.last()) else { continue };
            let columns = changed.iter().map(|i| i % 20);
            let (left, right) = (columns.clone().min().unwrap(), columns.max().unwrap());
            // Noise that happens to be 7, 7, 7 is one in 16 million.
            assert_eq!(changed.len(), (last / 20 - first / 20 + 1) * (right - left + 1), "a full rectangle");
            erased += 1;
            area += changed.len();
        }
        assert!((160..240).contains(&erased), "{erased} of 400");
        let share = area as f64 / (erased * 24 * 20) as f64;
        assert!((0.14..0.21).contains(&share), "{share}");
    }

    #[test]
    fn tiny_pictures_and_never() {
        for stream in 0..100 {
            let mut pixels = [[1u8]];
            erase(1.0, &mut pixels, 1, &mut Random::new(2, stream));
            let mut pixels = [[7u8; 1]; 40];
            erase(0.0, &mut pixels, 8, &mut Random::new(2, stream));
            assert_eq!(pixels, [[7]; 40]);
        }
    }
}
