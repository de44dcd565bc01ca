//! Explanations as pictures.

use espalier_tasks::resize::{Placement, resize};
use espalier_tasks::{Image, PictureInput};

use super::{Active, Channel, Filters, Heat};

/// Pictures are brought to sides between these, so that places can be told apart and files stay small.
const LEAST: usize = 256;
const MOST: usize = 1024;
/// Side of a picture in a sheet, and pixels between two.
const TILE: usize = 96;
const GAP: usize = 6;
/// Filters in a row of their sheet, and channels.
const FILTER_COLUMNS: usize = 8;
const CHANNEL_COLUMNS: usize = 4;
/// How much of the colour lies over the hottest place.
const OPAQUE: f32 = 0.7;
/// What the network did not see is this much darker.
const UNSEEN: f32 = 0.35;

/// From cold to hot: violet, red, orange, yellow. Lightness rises all the way, so that it can be read without colours too.
const RAMP: [[f32; 3]; 5] = [
    [20.0, 11.0, 53.0],
    [101.0, 21.0, 110.0],
    [188.0, 55.0, 84.0],
    [242.0, 125.0, 36.0],
    [252.0, 240.0, 140.0],
];

fn ramp(share: f32) -> [f32; 3] {
    let place = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f32;
    let low = (place as usize).min(RAMP.len() - 2);
    [0, 1, 2].map(|c| RAMP[low][c] + (RAMP[low + 1][c] - RAMP[low][c]) * (place - low as f32))
}

/// `image` in colours, at a size to look at.
pub(super) fn shown(image: &Image) -> Image {
    let (longest, image) = (image.width.max(image.height), image.with_channels(3));
    if longest > MOST {
        let side = |side: usize| (side * MOST / longest).max(1);
        return resize(&image, [side(image.height), side(image.width)]);
    }
    enlarged(&image, LEAST.div_ceil(longest))
}

/// Every pixel becomes a square.
fn enlarged(image: &Image, times: usize) -> Image {
    let (width, height, channels) = (image.width * times, image.height * times, image.channels);
    let mut pixels = Vec::with_capacity(width * height * channels);
    for row in 0..height {
        for column in 0..width {
            let at = (row / times * image.width + column / times) * channels;
            pixels.extend_from_slice(&image.pixels[at..at + channels]);
        }
    }
    Image { width, height, channels, pixels }
}

/// The picture in grey with its heat laid over it, where the network saw it. Sides are brought to 256 to 1024 pixels; what `input` cuts
/// off, so that the network did not see it, is darker.
pub fn blended(image: &Image, heat: &Heat, input: &PictureInput) -> Image {
    // Colour is left to the heat.
    let mut picture = shown(&image.with_channels(1));
    let placement = Placement::new([picture.height, picture.width], input.size, input.fit);
    let width = picture.width;
    for (at, pixel) in picture.pixels.chunks_exact_mut(3).enumerate() {
        let middle = [(at % width) as f64 + 0.5, (at / width) as f64 + 0.5];
        let seen = placement.target(middle);
        let point = [seen[0] / input.size[1] as f64, seen[1] / input.size[0] as f64];
        let is_seen = point.iter().all(|v| (0.0..=1.0).contains(v));
        let share = heat.at(point);
        let (colour, cover) = (ramp(share), OPAQUE * share.sqrt());
        for (value, colour) in pixel.iter_mut().zip(colour) {
            let light = f32::from(*value) * if is_seen { 1.0 } else { UNSEEN };
            *value = (light * (1.0 - cover) + colour * cover).round() as u8;
        }
    }
    picture
}

/// The filters side by side.
pub fn filter_sheet(filters: &Filters) -> Image {
    sheet(&filters.pictures, FILTER_COLUMNS)
}

/// The channels of a layer side by side, the most active first.
pub fn activation_sheet(active: &Active) -> Image {
    let tiles: Vec<Image> = active.channels.iter().map(|channel| tile(channel, active.size)).collect();
    sheet(&tiles, CHANNEL_COLUMNS)
}

/// A channel in colours, from 0 (or its minimum, if that is lower) to its maximum.
pub(super) fn tile(channel: &Channel, [height, width]: [usize; 2]) -> Image {
    let low = channel.values.iter().copied().fold(0.0, f32::min);
    let high = channel.values.iter().copied().fold(low, f32::max);
    let share = |v: f32| if high > low { (v - low) / (high - low) } else { 0.0 };
    let pixels = channel.values.iter().flat_map(|&v| ramp(share(v)).map(|c| c.round() as u8)).collect();
    Image { width, height, channels: 3, pixels }
}

/// Small pictures of one size in rows, each enlarged; on white.
fn sheet(tiles: &[Image], columns: usize) -> Image {
    let first = &tiles[0];
    let times = (TILE / first.width.max(first.height)).max(1);
    let [down, across] = [first.height, first.width].map(|side| side * times + GAP);
    let columns = columns.min(tiles.len());
    let (width, height) = (columns * across + GAP, tiles.len().div_ceil(columns) * down + GAP);
    let mut pixels = vec![255; width * height * 3];
    for (number, tile) in tiles.iter().enumerate() {
        let tile = enlarged(&tile.with_channels(3), times);
        let (top, left) = (number / columns * down + GAP, number % columns * across + GAP);
        for (row, line) in tile.pixels.chunks_exact(tile.width * 3).enumerate() {
            let at = ((top + row) * width + left) * 3;
            pixels[at..at + line.len()].copy_from_slice(line);
        }
    }
    Image { width, height, channels: 3, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_tasks::Fit;

    /// Heat at the left edge of the network's input, over a wide picture of mid grey.
    fn check(fit: Fit, coloured: &[usize], darkened: &[usize]) {
        let image = Image::new(800, 400, 1, vec![128; 800 * 400]).unwrap();
        let heat = Heat { layer: "map".into(), size: [1, 4], values: vec![1.0, 0.0, 0.0, 0.0] };
        let input = PictureInput { fit, ..PictureInput::new([32, 32], vec![0.0], vec![1.0]) };
        let picture = blended(&image, &heat, &input);
        assert_eq!((picture.width, picture.height, picture.channels), (800, 400, 3));
        for x in [10, 210, 410, 790] {
            let pixel = &picture.pixels[(200 * 800 + x) * 3..][..3];
            let found = (pixel[0] != pixel[2], pixel[0] < 100 && pixel[0] == pixel[2]);
            assert_eq!(
                found,
                (coloured.contains(&x), darkened.contains(&x)),
                "{fit:?}, column {x}: {pixel:?}"
            );
        }
    }

    #[test]
    fn heat_lies_where_the_network_looked() {
        check(Fit::Stretch, &[10, 210], &[]);
        check(Fit::Letterbox, &[10, 210], &[]);
        // The middle 400 columns are seen.
        check(Fit::Crop, &[210], &[10, 790]);
    }

    #[test]
    fn sizes_are_brought_into_bounds() {
        let size = |width, height| {
            let picture = shown(&Image::new(width, height, 1, vec![7; width * height]).unwrap());
            (picture.width, picture.height)
        };
        assert_eq!(size(28, 28), (280, 280));
        assert_eq!(size(300, 200), (300, 200));
        assert_eq!(size(2048, 1000), (1024, 500));
        assert_eq!(size(3000, 1), (1024, 1));
    }

    #[test]
    fn sheets_hold_every_tile() {
        let tiles: Vec<Image> = (0..5).map(|i| Image::new(2, 3, 1, vec![i * 40; 6]).unwrap()).collect();
        let sheet = sheet(&tiles, 4);
        assert_eq!((sheet.width, sheet.height), (4 * (64 + GAP) + GAP, 2 * (96 + GAP) + GAP));
        let shade = |x: usize, y: usize| sheet.pixels[(y * sheet.width + x) * 3];
        assert_eq!((shade(0, 0), shade(GAP + 70, GAP), shade(GAP, 2 * GAP + 96)), (255, 40, 160));
    }
}
