//! report.html: one page that says how a run went.
//!
//! It is written when the run ends. What it shows of val comes from the package that was kept, answered once more, so the
//! page and `espalier val` say the same.

mod environment;
mod page;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use espalier_graph::files;
use espalier_pages::Picture;
use espalier_tasks::classification::{Metrics, argmax, softmax};
use espalier_tasks::resize::resize;
use espalier_tasks::{ClassifyImage, Image, Task};

use super::Observer;
use crate::best;
use crate::checkpoint::Epoch;
use crate::data::{Batch, Images, Loader, Split};
use crate::evaluate::answers;
use crate::run_folder::RunFolder;
use crate::trainer::{Event, Outcome, Times};

/// Mistakes and inputs that are shown.
const PICTURES: usize = 24;
/// Longest side of a picture in the page, in pixels.
const SIDE: usize = 128;

/// Writes report.html when the run ends.
pub struct Report {
    folder: RunFolder,
    run: Option<Run>,
}

/// What is known from the start.
struct Run {
    dataset: String,
    /// Images of each class in train, val and test.
    counts: [Vec<usize>; 3],
    warnings: Vec<String>,
    skipped: usize,
    settings: Vec<(String, String)>,
    parameters: usize,
    macs: usize,
    batch: usize,
    threads: usize,
}

/// Everything that the page shows.
struct Contents<'a> {
    run: &'a Run,
    outcome: &'a Outcome,
    history: &'a [Epoch],
    times: &'a Times,
    metrics: Metrics,
    labels: Vec<String>,
    mistakes: Vec<Mistake>,
    inputs: Vec<(Picture, String)>,
}

/// An image of val that is answered wrongly.
struct Mistake {
    picture: Picture,
    file: String,
    label: String,
    guess: String,
    confidence: f32,
}

impl Report {
    /// In `folder`.
    pub fn new(folder: &RunFolder) -> Self {
        Report { folder: folder.clone(), run: None }
    }

    fn path(&self) -> PathBuf {
        self.folder.report()
    }
}

impl Observer for Report {
    fn observe(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        match event {
            Event::Started { dataset, settings, cost, .. } => {
                self.run = Some(Run {
                    dataset: dataset.name.clone(),
                    counts: Split::ALL.map(|split| dataset.counts(split)),
                    warnings: dataset.warnings.clone(),
                    skipped: dataset.skipped.len(),
                    settings: settings.pairs(),
                    parameters: cost.parameters,
                    macs: cost.macs,
                    batch: settings.batch,
                    threads: settings.threads,
                });
            }
            Event::Ended { outcome, history, times, loader, val } => {
                let Some(run) = &self.run else { return Ok(()) };
                let mut model = best::open(&self.folder.best(), run.threads)?;
                let Task::ClassifyImage(task) = model.task().clone();
                let mut metrics = Metrics::new(&task.labels);
                let mut wrong = Vec::new();
                answers(&mut model, val, &mut |index, logits, label| {
                    metrics.add(logits, label)?;
                    let guess = argmax(logits);
                    if guess != label {
                        wrong.push((index, guess, softmax(logits)[guess]));
                    }
                    Ok(())
                })?;
                let contents = Contents {
                    run,
                    outcome,
                    history,
                    times,
                    metrics,
                    mistakes: mistakes(val, &task, wrong)?,
                    inputs: inputs(loader, &task)?,
                    labels: task.labels,
                };
                let text = page::page(&contents);
                files::write_atomic(self.path(), |file| file.write_all(text.as_bytes()))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The mistakes with the highest confidence; those of equal confidence in the order of the data.
fn mistakes(
    val: &Arc<Images>,
    task: &ClassifyImage,
    mut wrong: Vec<(usize, usize, f32)>,
) -> anyhow::Result<Vec<Mistake>> {
    wrong.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let mistake = |(index, guess, confidence): (usize, usize, f32)| {
        let sample = &val.samples()[index];
        let (label, guess) = (task.labels[sample.label].clone(), task.labels[guess].clone());
        let alt = format!("labelled {label}, taken for {guess}");
        let picture = picture(task, val.pixels(index)?.into_owned(), alt);
        let name = sample.name();
        let file = name.rsplit(['/', '\\']).next().unwrap_or(&name).to_string();
        Ok(Mistake { picture, file, label, guess, confidence })
    };
    wrong.into_iter().take(PICTURES).map(mistake).collect()
}

/// The first training inputs as the network saw them, with their labels.
fn inputs(loader: &Loader, task: &ClassifyImage) -> anyhow::Result<Vec<(Picture, String)>> {
    let mut batches = loader.epoch(0, 0);
    let Some(batch) = batches.next_batch() else { return Ok(Vec::new()) };
    let Batch { images, labels, .. } = batch?;
    let size = task.input_shape().iter().product();
    let shown = images.chunks_exact(size).zip(labels).take(PICTURES);
    Ok(shown
        .map(|(tensor, &label)| {
            let label = task.labels[label].clone();
            (picture(task, denormalized(task, tensor), format!("an input of class {label}")), label)
        })
        .collect())
}

/// The pixels (HWC) that an input tensor (CHW) was made of.
fn denormalized(task: &ClassifyImage, tensor: &[f32]) -> Vec<u8> {
    let plane = task.size[0] * task.size[1];
    let value = |pixel: usize, channel: usize| {
        let v = tensor[channel * plane + pixel] * task.std[channel] + task.mean[channel];
        (v * 255.0).round().clamp(0.0, 255.0) as u8
    };
    (0..plane)
        .flat_map(|pixel| (0..task.channels).map(move |channel| (pixel, channel)))
        .map(|(p, c)| value(p, c))
        .collect()
}

/// Pixels at the task's size as a picture of the page, shrunk if they are many.
fn picture(task: &ClassifyImage, pixels: Vec<u8>, alt: String) -> Picture {
    let [height, width] = task.size;
    let mut image = Image { width, height, channels: task.channels, pixels };
    let side = width.max(height);
    if side > SIDE {
        let scaled = |v: usize| (v * SIDE / side).max(1);
        image = resize(&image, [scaled(height), scaled(width)]);
    }
    Picture::pixels(image.width, image.height, image.channels, &image.pixels, alt)
        .expect("an image has its pixels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_back_as_pixels() {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        let task = ClassifyImage::new([2, 3], vec![0.1, 0.5, 0.9], vec![0.3, 0.2, 0.25], labels);
        let pixels: Vec<u8> = (0..2 * 3 * 3).map(|v| v * 14).collect();
        let mut tensor = vec![0.0; pixels.len()];
        task.normalize(&pixels, &mut tensor).unwrap();
        assert_eq!(denormalized(&task, &tensor), pixels);
    }
}
