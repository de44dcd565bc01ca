//! What is kept of a picture to find its near copies.

use espalier_tasks::Image;
use espalier_tasks::resize::resize;

/// Height and width of a thumbnail.
pub(super) const SIDE: usize = 32;

/// Low frequencies along each axis.
const FREQUENCIES: usize = 8;

/// Below this standard deviation of its grey values, a picture has nothing to be recognised by.
const FLAT: f32 = 4.0;

/// A grey thumbnail and its perceptual hash.
#[derive(Debug)]
pub(super) struct Fingerprint {
    /// The signs of the low frequencies of the cosine transform (Zauner 2010, pHash; by sign instead of median, so that
    /// mirroring flips known bits), bit 8 v + u for frequency v down and u across. The mean has no bit.
    pub(super) hash: u64,
    /// Row by row.
    pub(super) thumbnail: [u8; SIDE * SIDE],
}

/// The bits of frequencies that change sign where a picture is mirrored: odd ones across.
const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;

impl Fingerprint {
    /// `None` for a picture of one shade.
    pub(super) fn of(image: &Image) -> Option<Fingerprint> {
        let small = resize(image, [SIDE; 2]).with_channels(1).pixels;
        let thumbnail: [u8; SIDE * SIDE] = small.try_into().expect("SIDE by SIDE grey values");
        (deviation(&thumbnail) >= FLAT).then(|| Fingerprint { hash: hash(&thumbnail), thumbnail })
    }

    /// The hash of the mirrored picture.
    pub(super) fn mirrored_hash(&self) -> u64 {
        self.hash ^ ODD
    }

    /// The mirrored thumbnail.
    pub(super) fn mirrored(&self) -> [u8; SIDE * SIDE] {
        let mut thumbnail = self.thumbnail;
        thumbnail.chunks_exact_mut(SIDE).for_each(<[u8]>::reverse);
        thumbnail
    }
}

fn deviation(values: &[u8]) -> f32 {
    let n = values.len() as f32;
    let mean = values.iter().map(|&v| f32::from(v)).sum::<f32>() / n;
    (values.iter().map(|&v| (f32::from(v) - mean).powi(2)).sum::<f32>() / n).sqrt()
}

fn hash(thumbnail: &[u8; SIDE * SIDE]) -> u64 {
    let waves: [[f32; SIDE]; FREQUENCIES] = std::array::from_fn(|k| std::array::from_fn(|x| wave(k, x)));
    let dot = |a: &[f32; SIDE], b: &[f32; SIDE]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    // First along the rows, then down: [u][y].
    let mut across = [[0.0; SIDE]; FREQUENCIES];
    for (y, row) in thumbnail.as_chunks::<SIDE>().0.iter().enumerate() {
        let row = row.map(f32::from);
        (0..FREQUENCIES).for_each(|u| across[u][y] = dot(&row, &waves[u]));
    }
    let mut hash = 0;
    for (bit, (v, u)) in (0..FREQUENCIES).flat_map(|v| (0..FREQUENCIES).map(move |u| (v, u))).enumerate() {
        let positive = bit > 0 && dot(&across[u], &waves[v]) > 0.0;
        hash |= u64::from(positive) << bit;
    }
    hash
}

/// The cosine transform's wave of frequency `k` (DCT-II, unscaled).
fn wave(k: usize, x: usize) -> f32 {
    (std::f32::consts::PI * (2 * x + 1) as f32 * k as f32 / (2 * SIDE) as f32).cos()
}
