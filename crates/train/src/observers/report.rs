//! report.html: one page that says how a run went.
//!
//! It is written when the run ends. What it shows of val comes from the package that was kept, answered once more, so the
//! page and `espalier val` say the same.

mod environment;
mod page;
mod series;

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
use crate::event::{Event, Learned, Outcome, Subject, Times};
use crate::networks::Cost;
use crate::run_folder::RunFolder;

/// Mistakes and inputs that are shown.
const PICTURES: usize = 24;
/// Longest side of a picture in the page, in pixels.
const SIDE: usize = 128;

/// Writes report.html when the run ends.
pub struct Report {
    folder: RunFolder,
    run: Option<Begun>,
}

/// What is known from the start.
enum Begun {
    Pictures(Run),
    Series { settings: Vec<(String, String)>, cost: Cost, threads: usize },
}

/// What is known of a run on pictures from the start.
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
            Event::Started { subject: Subject::Series { settings, .. }, cost, .. } => {
                let (settings, threads) = (settings.pairs(), settings.threads);
                self.run = Some(Begun::Series { settings, cost: *cost, threads });
            }
            Event::Started { subject: Subject::Pictures { dataset, settings, .. }, cost, .. } => {
                self.run = Some(Begun::Pictures(Run {
                    dataset: dataset.name.clone(),
                    counts: Split::ALL.map(|split| dataset.counts(split)),
                    warnings: dataset.warnings.clone(),
                    skipped: dataset.skipped.len(),
                    settings: settings.pairs(),
                    parameters: cost.parameters,
                    macs: cost.macs,
                    batch: settings.batch,
                    threads: settings.threads,
                }));
            }
            Event::Ended { outcome, history, times, learned: Learned::Series { data } } => {
                let Some(Begun::Series { settings, cost, threads }) = &self.run else { return Ok(()) };
                let (cost, threads) = (*cost, *threads);
                let contents = series::Contents { data, outcome, history, times, settings, cost, threads };
                let text = series::page(&contents, &mut best::open(&self.folder.best(), threads)?)?;
                files::write_atomic(self.path(), |file| file.write_all(text.as_bytes()))?;
            }
            Event::Ended { outcome, history, times, learned: Learned::Pictures { loader, val } } => {
                let Some(Begun::Pictures(run)) = &self.run else { return Ok(()) };
                let mut model = best::open(&self.folder.best(), run.threads)?;
                let Task::ClassifyImage(task) = model.task().clone() else {
                    anyhow::bail!("training makes classifiers, and best.espalier is none")
                };
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
        let [height, width] = task.input.size;
        let pixels = val.pixels(index)?.into_owned();
        let picture = picture(Image { width, height, channels: task.input.channels, pixels }, alt);
        let name = sample.name();
        let file = name.rsplit(['/', '\\']).next().unwrap_or(&name).to_string();
        Ok(Mistake { picture, file, label, guess, confidence })
    };
    wrong.into_iter().take(PICTURES).map(mistake).collect()
}

/// The first training inputs as the network saw them, with what it was told of them.
fn inputs(loader: &Loader, task: &ClassifyImage) -> anyhow::Result<Vec<(Picture, String)>> {
    let mut batches = loader.epoch(0, 0);
    let Some(batch) = batches.next_batch() else { return Ok(Vec::new()) };
    let Batch { images, targets, .. } = batch?;
    let size = task.input.shape().iter().product();
    let shown = images.chunks_exact(size).zip(targets.chunks_exact(task.labels.len())).take(PICTURES);
    let input = |(tensor, target): (&[f32], &[f32])| {
        let label = told(target, &task.labels);
        (picture(task.input.denormalize(tensor), format!("an input of class {label}")), label)
    };
    Ok(shown.map(input).collect())
}

/// The class of a soft target; of two mixed images both, with their shares. What label smoothing gives to every class
/// does not count.
fn told(target: &[f32], labels: &[String]) -> String {
    let base = target.iter().copied().fold(f32::MAX, f32::min);
    let shares: Vec<f32> = target.iter().map(|share| share - base).collect();
    let sum: f32 = shares.iter().sum();
    let mut classes: Vec<usize> = (0..shares.len()).filter(|&i| shares[i] > 0.01 * sum).collect();
    classes.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
    match classes[..] {
        [one] => labels[one].clone(),
        _ => {
            let share = |i: usize| format!("{} {:.0}\u{202f}%", labels[i], 100.0 * shares[i] / sum);
            classes.into_iter().map(share).collect::<Vec<_>>().join(", ")
        }
    }
}

/// A picture of the page, shrunk if it is large.
fn picture(mut image: Image, alt: String) -> Picture {
    let side = image.width.max(image.height);
    if side > SIDE {
        let scaled = |v: usize| (v * SIDE / side).max(1);
        image = resize(&image, [scaled(image.height), scaled(image.width)]);
    }
    Picture::pixels(image.width, image.height, image.channels, &image.pixels, alt)
        .expect("an image has its pixels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_network_was_told() {
        let labels = ["cat", "dog", "fox"].map(String::from);
        let check = |target: [f32; 3], expected: &str| assert_eq!(told(&target, &labels), expected);
        check([0.0, 1.0, 0.0], "dog");
        check([0.05, 0.05, 0.9], "fox");
        check([0.3, 0.7, 0.0], "dog 70\u{202f}%, cat 30\u{202f}%");
        check([0.35, 0.05, 0.6], "fox 65\u{202f}%, cat 35\u{202f}%");
    }
}
