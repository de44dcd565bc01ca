//! How a picture becomes the input tensor of a network, for every task that looks at pictures.

use espalier_graph::Quant;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::resize::{Fit, fit};
use crate::{TaskError, check_length, ensure};

/// Largest accepted height and width.
const SIDE_MAX: usize = 4096;

/// Size, channels and normalisation of the input tensor, and how pictures are brought to its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureInput {
    /// Height and width of the input in pixels.
    pub size: [usize; 2],
    /// 1 for grey, 3 for red, green, blue.
    pub channels: usize,
    /// Subtracted from each channel, of values scaled to 0..1.
    pub mean: Vec<f32>,
    /// Each channel is divided by it, of values scaled to 0..1.
    pub std: Vec<f32>,
    /// The planes of the input are blue, green, red; `mean` and `std` are in that order then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bgr: bool,
    /// How an image of another size is brought to `size`.
    #[serde(default)]
    pub fit: Fit,
}

/// For each plane of the input, where a pixel has its byte, and what that becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct ByteTables(Vec<(usize, [u8; 256])>);

impl ByteTables {
    /// Planes.
    pub fn channels(&self) -> usize {
        self.0.len()
    }

    /// From pixels as [`PictureInput::fit`] leaves them (HWC) to quads: four bytes a pixel, of which those past the last
    /// plane are 0.
    ///
    /// # Errors
    /// There are not as many pixels as quads.
    pub fn apply(&self, pixels: &[u8], quads: &mut [u8]) -> Result<(), TaskError> {
        check_length("the pixels", pixels.len(), self.channels() * quads.len() / 4)?;
        let quads = quads.as_chunks_mut::<4>().0;
        match &self.0[..] {
            [(at, table)] => {
                let pixels = pixels.as_chunks::<1>().0;
                quads.iter_mut().zip(pixels).for_each(|(q, p)| *q = [table[usize::from(p[*at])], 0, 0, 0]);
            }
            [(a, first), (b, second), (c, third)] => {
                for (q, p) in quads.iter_mut().zip(pixels.as_chunks::<3>().0) {
                    let [x, y, z] = [p[*a], p[*b], p[*c]].map(usize::from);
                    *q = [first[x], second[y], third[z], 0];
                }
            }
            planes => unreachable!("{} planes: validation admits 1 and 3", planes.len()),
        }
        Ok(())
    }
}

impl PictureInput {
    /// Settings with the default fit; there are as many channels as means.
    pub fn new(size: [usize; 2], mean: Vec<f32>, std: Vec<f32>) -> Self {
        PictureInput { size, channels: mean.len(), mean, std, bgr: false, fit: Fit::default() }
    }

    /// Refuses settings that contradict themselves, saying which and why; `kind` is the task's.
    pub(crate) fn validate(&self, kind: &'static str) -> Result<(), TaskError> {
        let sides = self.size.iter().all(|side| (1..=SIDE_MAX).contains(side));
        ensure(kind, sides, || format!("size is {:?}, each side must be 1 to {SIDE_MAX}", self.size))?;
        let channels = [1, 3].contains(&self.channels);
        ensure(kind, channels, || format!("channels is {}, must be 1 or 3", self.channels))?;
        ensure(kind, !self.bgr || self.channels == 3, || "bgr is set for grey images".to_owned())?;
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            let (found, expected) = (values.len(), self.channels);
            ensure(kind, found == expected, || format!("{name} has {found} values for {expected} channels"))?;
            let finite = values.iter().all(|v| v.is_finite());
            ensure(kind, finite, || format!("{name} is {values:?}, must be finite"))?;
        }
        let positive = self.std.iter().all(|&v| v > 0.0);
        ensure(kind, positive, || format!("std is {:?}, must be above 0", self.std))
    }

    /// Channels, height, width.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.size[0], self.size[1]]
    }

    /// The image at this size and these channels, before normalisation. Training augments here.
    pub fn fit(&self, image: &Image) -> Image {
        fit(image, self.size, self.channels, self.fit)
    }

    /// `(v / 255 - mean) / std`, from pixels as [`fit`](Self::fit) leaves them (HWC) to the input tensor (CHW, f32).
    pub fn normalize(&self, pixels: &[u8], out: &mut [f32]) -> Result<(), TaskError> {
        let elements = self.shape().iter().product();
        check_length("the pixels", pixels.len(), elements)?;
        check_length("the input tensor", out.len(), elements)?;
        for (channel, plane) in out.chunks_exact_mut(self.size[0] * self.size[1]).enumerate() {
            let value = self.value(channel);
            let pixels = pixels.iter().skip(self.place(channel)).step_by(self.channels);
            plane.iter_mut().zip(pixels).for_each(|(out, &v)| *out = value(v));
        }
        Ok(())
    }

    /// What a byte of plane `channel` becomes.
    fn value(&self, channel: usize) -> impl Fn(u8) -> f32 {
        let scale = 1.0 / (255.0 * self.std[channel]);
        let bias = -self.mean[channel] / self.std[channel];
        move |v| f32::from(v) * scale + bias
    }

    /// [`normalize`](Self::normalize) and then rounding to `quant`, which together are a function of one byte for each plane.
    pub fn byte_tables(&self, quant: Quant) -> ByteTables {
        let table = |channel: usize| {
            let value = self.value(channel);
            (self.place(channel), std::array::from_fn(|v| quant.quantize(value(v as u8))))
        };
        ByteTables((0..self.channels).map(table).collect())
    }

    /// Where a pixel has the value of plane `channel`.
    fn place(&self, channel: usize) -> usize {
        if self.bgr { self.channels - 1 - channel } else { channel }
    }

    /// The picture of an input tensor: [`normalize`](Self::normalize) the other way round, rounded. Panics where `input`
    /// is not of this shape.
    pub fn denormalize(&self, input: &[f32]) -> Image {
        let [channels, height, width] = self.shape();
        assert_eq!(input.len(), channels * height * width, "the input tensor has the task's shape");
        let mut pixels = vec![0; input.len()];
        for (channel, plane) in input.chunks_exact(height * width).enumerate() {
            let pixels = pixels.iter_mut().skip(self.place(channel)).step_by(channels);
            // Casts saturate.
            let value = |v: f32| ((v * self.std[channel] + self.mean[channel]) * 255.0).round() as u8;
            pixels.zip(plane).for_each(|(pixel, &v)| *pixel = value(v));
        }
        Image { width, height, channels, pixels }
    }

    /// From a decoded image of any size to the input tensor (CHW, f32).
    pub fn preprocess(&self, image: &Image, out: &mut [f32]) -> Result<(), TaskError> {
        self.normalize(&self.fit(image).pixels, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> PictureInput {
        PictureInput::new([1, 2], vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 0.25])
    }

    #[test]
    fn channels_are_planes_and_normalised() {
        let image = Image::new(2, 1, 3, vec![255, 255, 255, 51, 0, 255]).unwrap();
        let mut out = [0.0; 6];
        input().preprocess(&image, &mut out).unwrap();
        for (found, expected) in out.iter().zip([1.0, 0.2, 1.0, -1.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn inputs_become_pictures_again() {
        let image = Image::new(2, 1, 3, vec![255, 128, 255, 51, 0, 9]).unwrap();
        let mut out = [0.0; 6];
        input().preprocess(&image, &mut out).unwrap();
        assert_eq!(input().denormalize(&out), image);
        assert_eq!(input().denormalize(&[9.0; 6]).pixels, [255; 6]);
    }

    #[test]
    fn planes_may_begin_with_blue() {
        let image = Image::new(2, 1, 3, vec![0, 51, 255, 255, 102, 0]).unwrap();
        let mut out = [0.0; 6];
        let input = PictureInput { bgr: true, ..input() };
        input.preprocess(&image, &mut out).unwrap();
        assert_eq!(input.denormalize(&out), image);
        for (found, expected) in out.iter().zip([1.0, 0.0, -0.6, -0.2, -4.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn grey_images_feed_colour_networks_and_the_other_way_round() {
        let grey = Image::new(2, 1, 1, vec![10, 20]).unwrap();
        assert_eq!(input().fit(&grey).pixels, [10, 10, 10, 20, 20, 20]);
        let colour = Image::new(2, 1, 3, vec![255, 0, 0, 7, 7, 7]).unwrap();
        assert_eq!(PictureInput::new([1, 2], vec![0.0], vec![1.0]).fit(&colour).pixels, [76, 7]);
    }

    #[test]
    fn contradictions_are_named() {
        type Edit = fn(&mut PictureInput);
        let check = |edit: Edit, words: &str| {
            let mut input = input();
            edit(&mut input);
            let error = input.validate("look").unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("task look"), "{error:?} should say {words:?}");
        };
        assert_eq!(input().validate("look"), Ok(()));
        check(|t| t.size = [0, 3], "size is [0, 3]");
        check(|t| t.size = [1, 5000], "size");
        check(|t| t.channels = 2, "channels is 2");
        check(|t| t.mean = vec![0.5], "mean has 1 values for 3 channels");
        check(|t| t.std[1] = 0.0, "std");
        check(|t| t.std[1] = f32::NAN, "finite");
    }
}
