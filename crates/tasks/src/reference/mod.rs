//! Reference statistics: what a model saw and said when it was validated, in numbers, so that a device can tell whether it
//! still sees the like.
//!
//! An [`Observation`] is what one input and its answer come to: a row of numbers, one for each of the task's statistics, and
//! the classes in it. A [`Reference`] holds the rows of the validation images, each column sorted, and in how many of the
//! images each class was found. It is stored in the package as tensors.

mod look;

use std::collections::BTreeMap;

use espalier_graph::{Data, Tensor, Weights};

use crate::{Answer, Task};

pub use look::{Look, Thumbnail};

/// Most values of a column that are kept: of more, quantiles in the middles of equal shares.
pub const VALUES_MAX: usize = 256;

/// Fewer images say nothing.
pub const IMAGES_LEAST: usize = 20;

/// Name of the tensor with the images of each class.
const CLASSES: &str = "class-mix";
/// Name of the tensor with the number of images.
const IMAGES: &str = "images";

/// What one input and its answer come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// One number for each of [`statistics`].
    pub values: Vec<f32>,
    /// The classes that the answer names, each once, in order.
    pub classes: Vec<usize>,
    /// By which a picture is known again.
    pub thumbnail: Thumbnail,
}

/// The names of a task's statistics, in the order of [`Observation::values`]. The first four are [`Look`]'s. `confidence` is
/// that of the answer (Hendrycks and Gimpel 2017), of boxes their mean; `energy` the logarithm of the summed exponentials of
/// the logits, low for what the network does not know (Liu et al. 2020, without their sign); `boxes` how many there are. A
/// detector of anomalies has none: how unusual its rows are is what it says itself.
pub fn statistics(task: &Task) -> &'static [&'static str] {
    match task {
        Task::ClassifyImage(_) => &["brightness", "contrast", "sharpness", "colour", "confidence", "energy"],
        Task::Detect(_) => &["brightness", "contrast", "sharpness", "colour", "confidence", "boxes"],
        Task::Anomaly(_) => &[],
    }
}

impl Observation {
    /// Of a picture, its answer, and the outputs that this was made of.
    pub fn new(look: Look, answer: &Answer, outputs: &[&[f32]]) -> Observation {
        let Look { brightness, contrast, sharpness, colour, thumbnail } = look;
        let (said, classes) = match answer {
            Answer::Label(prediction) => {
                let energy = outputs.first().map_or(0.0, |logits| log_sum_exp(logits));
                ([prediction.confidence, energy], vec![prediction.index])
            }
            Answer::Boxes(boxes) => {
                let mut classes: Vec<usize> = boxes.iter().map(|found| found.class).collect();
                classes.sort_unstable();
                classes.dedup();
                let sum: f32 = boxes.iter().map(|found| found.confidence).sum();
                ([sum / boxes.len().max(1) as f32, boxes.len() as f32], classes)
            }
            Answer::Reading(_) => return Observation { values: Vec::new(), classes: Vec::new(), thumbnail },
        };
        let values = [brightness, contrast, sharpness, colour].into_iter().chain(said).collect();
        Observation { values, classes, thumbnail }
    }
}

/// `ln(sum exp(x))`, shifted by the maximum so that it cannot overflow.
fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|&x| (x - max).exp()).sum::<f32>().ln()
}

/// What a model saw and said when it was validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// How many images it is made of.
    pub images: usize,
    /// In how many of them each class was found, by the number of its label.
    pub classes: Vec<usize>,
    /// The values of each statistic, sorted, by its name.
    pub columns: BTreeMap<String, Vec<f32>>,
}

impl Reference {
    /// The statistics that a package holds for its task; `None` where it holds none.
    ///
    /// # Errors
    /// In words: what cannot be the statistics of this task.
    pub fn read(stored: &Weights, task: &Task) -> Result<Option<Reference>, String> {
        if stored.is_empty() {
            return Ok(None);
        }
        let counts = |name: &str| match stored.get(name).map(|tensor| &tensor.data) {
            Some(Data::I32(counts)) => {
                Ok(counts.iter().map(|&n| usize::try_from(n).ok()).collect::<Vec<_>>())
            }
            _ => Err(format!("the reference statistics lack `{name}`, a row of i32")),
        };
        let images = match counts(IMAGES)?[..] {
            [Some(images)] if images >= IMAGES_LEAST => images,
            _ => {
                return Err(format!(
                    "`{IMAGES}` of the reference statistics is not one number from {IMAGES_LEAST} on"
                ));
            }
        };
        let labels = task.labels().len();
        let classes: Option<Vec<usize>> = counts(CLASSES)?.into_iter().collect();
        let classes = classes.filter(|counts| counts.len() == labels && counts.iter().all(|&n| n <= images));
        let classes = classes.ok_or_else(|| {
            format!("`{CLASSES}` of the reference statistics is not {labels} counts of {images} images")
        })?;
        let mut columns = BTreeMap::new();
        for name in statistics(task) {
            // What another version did not measure is not compared.
            let Some(tensor) = stored.get(*name) else { continue };
            let column = tensor.as_f32().filter(|values| is_column(values, images));
            let column = column.ok_or_else(|| {
                format!("`{name}` of the reference statistics is not a sorted row of the values of {images} images")
            })?;
            columns.insert((*name).to_owned(), column.to_vec());
        }
        Ok(Some(Reference { images, classes, columns }))
    }

    /// As a package stores it.
    pub fn tensors(&self) -> Weights {
        let counts = |counts: Vec<usize>| {
            let counts: Vec<i32> = counts.into_iter().map(|n| n.min(i32::MAX as usize) as i32).collect();
            Tensor::new(&[counts.len()], Data::I32(counts.into()))
        };
        let columns = self
            .columns
            .iter()
            .map(|(name, values)| (name.clone(), Tensor::f32(&[values.len()], values.clone())));
        let rest = [
            (IMAGES.to_owned(), counts(vec![self.images])),
            (CLASSES.to_owned(), counts(self.classes.clone())),
        ];
        columns.chain(rest).collect()
    }
}

fn is_column(values: &[f32], images: usize) -> bool {
    (IMAGES_LEAST..=images.min(VALUES_MAX)).contains(&values.len()) && values.is_sorted()
}

/// Gathers the observations that a [`Reference`] is made of.
#[derive(Debug)]
pub struct Recorder {
    names: &'static [&'static str],
    classes: Vec<usize>,
    rows: Vec<Vec<f32>>,
}

impl Recorder {
    /// Nothing gathered yet.
    pub fn new(task: &Task) -> Recorder {
        Recorder { names: statistics(task), classes: vec![0; task.labels().len()], rows: Vec::new() }
    }

    /// Adds one; an observation with a number that is not finite is none.
    pub fn add(&mut self, observation: Observation) {
        if observation.values.iter().all(|v| v.is_finite()) {
            observation.classes.iter().for_each(|&class| self.classes[class] += 1);
            self.rows.push(observation.values);
        }
    }

    /// The statistics; `None` of fewer than [`IMAGES_LEAST`] observations.
    pub fn finish(self) -> Option<Reference> {
        let Recorder { names, classes, rows } = self;
        let images = rows.len();
        if images < IMAGES_LEAST {
            return None;
        }
        let column = |at: usize| {
            let mut values: Vec<f32> = rows.iter().map(|row| row[at]).collect();
            values.sort_by(f32::total_cmp);
            let kept = images.min(VALUES_MAX);
            (0..kept).map(|i| values[(2 * i + 1) * images / (2 * kept)]).collect()
        };
        let columns = names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), column(at))).collect();
        Some(Reference { images, classes, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClassifyImage, Image};

    fn task() -> Task {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        Task::ClassifyImage(ClassifyImage::new([4, 4], vec![0.5], vec![0.5], labels))
    }

    fn observation(i: usize) -> Observation {
        let task = task();
        let image = Image::new(4, 4, 1, (0..16).map(|p| (p * i % 251) as u8).collect()).unwrap();
        let logits: &[&[f32]] = &[&[i as f32 % 7.0, 3.0]];
        let answer = task.postprocess(crate::Input::Image(&image).origin(), logits).unwrap();
        Observation::new(Look::of(&image), &answer, logits)
    }

    fn reference(images: usize) -> Option<Reference> {
        let mut recorder = Recorder::new(&task());
        (0..images).for_each(|i| recorder.add(observation(i)));
        recorder.finish()
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        assert_eq!(reference(IMAGES_LEAST - 1), None);
        for images in [IMAGES_LEAST, 100, 1000] {
            let reference = reference(images).unwrap();
            assert_eq!((reference.images, reference.classes.iter().sum::<usize>()), (images, images));
            assert_eq!(reference.columns.len(), statistics(&task()).len());
            assert!(reference.columns.values().all(|column| column.len() == images.min(VALUES_MAX)));
            assert_eq!(Reference::read(&reference.tensors(), &task()), Ok(Some(reference)));
        }
        assert_eq!(Reference::read(&Weights::new(), &task()), Ok(None));
    }

    #[test]
    fn few_values_of_many_are_spread_evenly() {
        let mut recorder = Recorder::new(&task());
        for i in 0..5 * VALUES_MAX {
            recorder.add(Observation { values: vec![i as f32; 6], ..observation(1) });
        }
        let column = &recorder.finish().unwrap().columns["energy"];
        assert!(column.windows(2).all(|pair| pair[1] - pair[0] == 5.0), "{column:?}");
        assert_eq!((column[0], column[VALUES_MAX - 1]), (2.0, 5.0 * VALUES_MAX as f32 - 3.0));
    }

    #[test]
    fn energy_is_that_of_the_logits() {
        let known = observation(3);
        assert!((known.values[5] - (3f32.exp() * 2.0).ln()).abs() < 1e-5, "{known:?}");
        assert_eq!(log_sum_exp(&[1e30, 0.0]), 1e30);
        let mut recorder = Recorder::new(&task());
        recorder.add(Observation { values: vec![f32::NAN; 6], ..known });
        assert!(recorder.rows.is_empty());
    }

    #[test]
    fn statistics_that_are_none_are_named() {
        type Edit = fn(&mut Weights);
        let check = |edit: Edit, words: &str| {
            let mut stored = reference(30).unwrap().tensors();
            edit(&mut stored);
            let error = Reference::read(&stored, &task()).unwrap_err();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        check(|s| drop(s.remove("images")), "lack `images`");
        check(|s| drop(s.insert("images".into(), Tensor::f32(&[1], vec![30.0]))), "lack `images`");
        check(
            |s| drop(s.insert("images".into(), Tensor::new(&[1], Data::I32(vec![-30].into())))),
            "`images` of the reference statistics is not one number from 20 on",
        );
        check(
            |s| drop(s.insert("class-mix".into(), Tensor::new(&[3], Data::I32(vec![1; 3].into())))),
            "`class-mix` of the reference statistics is not 2 counts of 30 images",
        );
        check(
            |s| drop(s.insert("class-mix".into(), Tensor::new(&[2], Data::I32(vec![1, 31].into())))),
            "not 2 counts of 30",
        );
        check(|s| drop(s.insert("energy".into(), Tensor::f32(&[31], vec![0.5; 31]))), "`energy`");
        check(
            |s| {
                drop(s.insert("colour".into(), Tensor::f32(&[30], (0..30).rev().map(|v| v as f32).collect())))
            },
            "`colour` of the reference statistics is not a sorted row",
        );
    }
}
