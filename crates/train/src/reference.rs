//! The reference statistics of val that packages carry, so that devices can tell drift.

use anyhow::{Context, bail};
use espalier_graph::Weights;
use espalier_tasks::reference::{IMAGES_LEAST, Look};
use espalier_tasks::{Content, Image, Input, Limits, Model, Observation, Origin, Recorder, Task, TaskError};

use crate::data::{Examples, Images, Split, parallel};

/// Most images of val that are looked at, evenly spaced: what is wanted are their statistics.
const LOOKS_MAX: usize = 2048;

/// What the images of val look like; it does not depend on the model.
pub(crate) struct Looks(Vec<Option<(Look, Origin)>>);

impl Looks {
    /// Looks at `count` images; `read` gives the one of a number as it was, and as the network gets it.
    fn new(count: usize, threads: usize, read: impl Fn(usize) -> Option<(Origin, Image)> + Sync) -> Looks {
        let step = count.div_ceil(LOOKS_MAX).max(1);
        let numbers: Vec<usize> = (0..count).collect();
        Looks(parallel::map(threads, &numbers, |&at| {
            let (origin, image) = (at % step == 0).then(|| read(at))??;
            Some((Look::of(&image), origin))
        }))
    }

    /// Of images that are fitted already; those that cannot be read are left out.
    pub(crate) fn of_images(images: &Images, threads: usize) -> Looks {
        let [channels, height, width] = images.task().input.shape();
        Looks::new(images.len(), threads, |at| {
            let pixels = images.pixels(at).ok()?.into_owned();
            let image = Image::new(width, height, channels, pixels).ok()?;
            Some((Input::Image(&image).origin(), image))
        })
    }

    /// Of the pictures of a split; those that cannot be read are left out, and series have no looks.
    pub(crate) fn of_examples(examples: &Examples, task: &Task, threads: usize) -> Looks {
        Looks::new(examples.list.len(), threads, |at| {
            let input = task.picture_input()?;
            let (content, _) = examples.list[at].load(&Limits::default()).ok()?;
            let Content::Image(image) = &content else { return None };
            Some((content.input().origin(), input.fit(image)))
        })
    }

    /// Adds what the model gave for image `at`.
    ///
    /// # Errors
    /// Outputs that are not the task's.
    pub(crate) fn record(
        &self,
        recorder: &mut Recorder,
        task: &Task,
        at: usize,
        outputs: &[&[f32]],
    ) -> Result<(), TaskError> {
        if let Some((look, origin)) = &self.0[at] {
            let answer = task.postprocess(origin.clone(), outputs)?;
            recorder.add(Observation::new(look.clone(), &answer, outputs));
        }
        Ok(())
    }
}

/// The reference statistics of `model` on the val split of `data`, as a package stores them.
///
/// # Errors
/// A task that looks at no pictures; there is no such split, or it has too few images that can be read; a model that cannot
/// be lowered.
pub fn statistics(model: &mut Model, data: &str) -> anyhow::Result<Weights> {
    if model.task().picture_input().is_none() {
        bail!("reference statistics are those of pictures, and {} looks at series", model.task().kind());
    }
    let examples = Examples::open(data, Split::Val, model.task())?;
    let mut recorder = Recorder::new(model.task());
    let step = examples.list.len().div_ceil(LOOKS_MAX).max(1);
    for example in examples.list.iter().step_by(step) {
        if let Ok((Content::Image(image), _)) = example.load(&Limits::default()) {
            recorder.add(model.observe(&image)?.1);
        }
    }
    let reference = recorder.finish().with_context(|| {
        format!("{data}: reference statistics need {IMAGES_LEAST} images of val that can be read")
    })?;
    Ok(reference.tensors())
}
