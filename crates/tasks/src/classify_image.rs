//! The task classify-image: one label for one image.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::classification::{self, Prediction};
use crate::image::Image;
use crate::resize::{Fit, fit};
use crate::{TaskError, check_length};

pub(crate) const KIND: &str = "classify-image";

/// Largest accepted height and width.
const SIDE_MAX: usize = 4096;

/// How an image becomes the input tensor, and which class each logit stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyImage {
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
    /// The class names, in the order of the logits.
    pub labels: Vec<String>,
}

impl ClassifyImage {
    /// Settings with the default fit; there are as many channels as means.
    pub fn new(size: [usize; 2], mean: Vec<f32>, std: Vec<f32>, labels: Vec<String>) -> Self {
        ClassifyImage { size, channels: mean.len(), mean, std, bgr: false, fit: Fit::default(), labels }
    }

    /// Refuses settings that contradict themselves, saying which and why.
    pub fn validate(&self) -> Result<(), TaskError> {
        let sides = self.size.iter().all(|side| (1..=SIDE_MAX).contains(side));
        ensure(sides, || format!("size is {:?}, each side must be 1 to {SIDE_MAX}", self.size))?;
        ensure([1, 3].contains(&self.channels), || format!("channels is {}, must be 1 or 3", self.channels))?;
        ensure(!self.bgr || self.channels == 3, || "bgr is set for grey images".to_owned())?;
        self.validate_normalisation()?;
        self.validate_labels()
    }

    fn validate_normalisation(&self) -> Result<(), TaskError> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            let (found, expected) = (values.len(), self.channels);
            ensure(found == expected, || format!("{name} has {found} values for {expected} channels"))?;
            ensure(values.iter().all(|v| v.is_finite()), || format!("{name} is {values:?}, must be finite"))?;
        }
        ensure(self.std.iter().all(|&v| v > 0.0), || format!("std is {:?}, must be above 0", self.std))
    }

    fn validate_labels(&self) -> Result<(), TaskError> {
        ensure(self.labels.len() >= 2, || format!("{} labels, at least 2 are needed", self.labels.len()))?;
        let mut seen = BTreeSet::new();
        let repeated = self.labels.iter().find(|label| !seen.insert(*label));
        ensure(repeated.is_none(), || format!("label {:?} occurs twice", repeated.unwrap()))?;
        ensure(!seen.contains(&String::new()), || "a label is empty".to_owned())
    }

    /// Channels, height, width.
    pub fn input_shape(&self) -> [usize; 3] {
        [self.channels, self.size[0], self.size[1]]
    }

    /// The image at this task's size and channels, before normalisation. Training augments here.
    pub fn fit(&self, image: &Image) -> Image {
        fit(image, self.size, self.channels, self.fit)
    }

    /// `(v / 255 - mean) / std`, from pixels as [`fit`](Self::fit) leaves them (HWC) to the input tensor (CHW, f32).
    pub fn normalize(&self, pixels: &[u8], out: &mut [f32]) -> Result<(), TaskError> {
        let elements = self.input_shape().iter().product();
        check_length("the pixels", pixels.len(), elements)?;
        check_length("the input tensor", out.len(), elements)?;
        for (channel, plane) in out.chunks_exact_mut(self.size[0] * self.size[1]).enumerate() {
            let scale = 1.0 / (255.0 * self.std[channel]);
            let bias = -self.mean[channel] / self.std[channel];
            let pixels = pixels.iter().skip(self.place(channel)).step_by(self.channels);
            plane.iter_mut().zip(pixels).for_each(|(out, &v)| *out = f32::from(v) * scale + bias);
        }
        Ok(())
    }

    /// Where a pixel has the value of plane `channel`.
    fn place(&self, channel: usize) -> usize {
        if self.bgr { self.channels - 1 - channel } else { channel }
    }

    /// The picture of an input tensor: [`normalize`](Self::normalize) the other way round, rounded. Panics where `input`
    /// is not of this task's shape.
    pub fn denormalize(&self, input: &[f32]) -> Image {
        let [channels, height, width] = self.input_shape();
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

    /// Writes the soft target of class `label`; `out` has one element a label.
    pub fn target(&self, label: usize, smoothing: f32, out: &mut [f32]) -> Result<(), TaskError> {
        classification::target(label, self.labels.len(), smoothing, out)
    }

    /// The answer that one row of logits gives.
    pub fn postprocess(&self, logits: &[f32]) -> Result<Prediction, TaskError> {
        Prediction::new(logits, &self.labels)
    }
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Result<(), TaskError> {
    if condition { Ok(()) } else { Err(TaskError::Invalid { kind: KIND, reason: reason() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> ClassifyImage {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        ClassifyImage::new([1, 2], vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 0.25], labels)
    }

    #[test]
    fn channels_are_planes_and_normalised() {
        let image = Image::new(2, 1, 3, vec![255, 255, 255, 51, 0, 255]).unwrap();
        let mut out = [0.0; 6];
        task().preprocess(&image, &mut out).unwrap();
        for (found, expected) in out.iter().zip([1.0, 0.2, 1.0, -1.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn inputs_become_pictures_again() {
        let image = Image::new(2, 1, 3, vec![255, 128, 255, 51, 0, 9]).unwrap();
        let mut input = [0.0; 6];
        task().preprocess(&image, &mut input).unwrap();
        assert_eq!(task().denormalize(&input), image);
        assert_eq!(task().denormalize(&[9.0; 6]).pixels, [255; 6]);
    }

    #[test]
    fn planes_may_begin_with_blue() {
        let image = Image::new(2, 1, 3, vec![0, 51, 255, 255, 102, 0]).unwrap();
        let mut out = [0.0; 6];
        let task = ClassifyImage { bgr: true, ..task() };
        task.preprocess(&image, &mut out).unwrap();
        assert_eq!(task.denormalize(&out), image);
        for (found, expected) in out.iter().zip([1.0, 0.0, -0.6, -0.2, -4.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn grey_images_feed_colour_networks_and_the_other_way_round() {
        let grey = Image::new(2, 1, 1, vec![10, 20]).unwrap();
        assert_eq!(task().fit(&grey).pixels, [10, 10, 10, 20, 20, 20]);
        let colour = Image::new(2, 1, 3, vec![255, 0, 0, 7, 7, 7]).unwrap();
        let labels = task().labels;
        assert_eq!(ClassifyImage::new([1, 2], vec![0.0], vec![1.0], labels).fit(&colour).pixels, [76, 7]);
    }

    #[test]
    fn contradictions_are_named() {
        type Edit = fn(&mut ClassifyImage);
        let check = |edit: Edit, words: &str| {
            let mut task = task();
            edit(&mut task);
            let error = task.validate().unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        assert_eq!(task().validate(), Ok(()));
        check(|t| t.size = [0, 3], "size is [0, 3]");
        check(|t| t.size = [1, 5000], "size");
        check(|t| t.channels = 2, "channels is 2");
        check(|t| t.mean = vec![0.5], "mean has 1 values for 3 channels");
        check(|t| t.std[1] = 0.0, "std");
        check(|t| t.std[1] = f32::NAN, "finite");
        check(|t| t.labels = vec!["a".into()], "at least 2");
        check(|t| t.labels[1] = "cat".into(), "\"cat\" occurs twice");
        check(|t| t.labels[1].clear(), "empty");
    }
}
