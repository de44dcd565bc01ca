//! One split at a task's input size.

use std::borrow::Cow;
use std::sync::Mutex;

use espalier_tasks::{ClassifyImage, Limits};

use super::{DataError, Sample, parallel};

/// A usual budget for decoded images: 1 GiB.
pub const CACHE_BYTES: u64 = 1 << 30;

/// The images of a split, fitted to a task's input size but not yet normalised (HWC, u8).
///
/// They are kept in memory where they fit the budget; else each is read and decoded again whenever it is asked for.
#[derive(Debug)]
pub struct Images {
    samples: Vec<Sample>,
    task: ClassifyImage,
    limits: Limits,
    cached: Option<Vec<u8>>,
}

impl Images {
    /// Fits `samples` to `task` on `threads` threads, keeping at most `budget_bytes` of pixels.
    pub fn load(
        samples: &[Sample],
        task: &ClassifyImage,
        limits: &Limits,
        budget_bytes: u64,
        threads: usize,
    ) -> Result<Images, DataError> {
        task.validate()?;
        let mut images =
            Images { samples: samples.to_vec(), task: task.clone(), limits: *limits, cached: None };
        if samples.len() as u64 * images.image_bytes() as u64 <= budget_bytes {
            images.cached = Some(images.decode_all(threads)?);
        }
        Ok(images)
    }

    fn decode_all(&self, threads: usize) -> Result<Vec<u8>, DataError> {
        let mut pixels = vec![0; self.samples.len() * self.image_bytes()];
        let failed = Mutex::new(None);
        let places = pixels.chunks_exact_mut(self.image_bytes()).enumerate();
        parallel::for_each(threads, places, |(i, place)| match self.decode(i) {
            Ok(image) => place.copy_from_slice(&image),
            Err(error) => *failed.lock().expect("no holder panics") = Some(error),
        });
        match failed.into_inner().expect("no holder panics") {
            Some(error) => Err(error),
            None => Ok(pixels),
        }
    }

    fn decode(&self, index: usize) -> Result<Vec<u8>, DataError> {
        Ok(self.task.input.fit(&self.samples[index].image(&self.limits)?).pixels)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Whether all images are in memory.
    pub fn is_cached(&self) -> bool {
        self.cached.is_some()
    }

    /// The task that the images are fitted to.
    pub fn task(&self) -> &ClassifyImage {
        &self.task
    }

    /// The samples, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Bytes of one image: height times width times channels.
    pub fn image_bytes(&self) -> usize {
        self.task.input.shape().iter().product()
    }

    /// The pixels of an image (HWC).
    pub fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        let size = self.image_bytes();
        match &self.cached {
            Some(pixels) => Ok(Cow::Borrowed(&pixels[index * size..(index + 1) * size])),
            None => self.decode(index).map(Cow::Owned),
        }
    }
}
