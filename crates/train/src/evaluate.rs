//! Metrics of a model over a split, with the plan that answers on the device.

use std::sync::Arc;

use espalier_tasks::classification::Metrics;
use espalier_tasks::{self as tasks, Limits, Model, ModelError, Origin, Slot, Task, TaskError, Truth};

use crate::data::{Batches, DataError, Example, Examples, Images, Skipped, parallel};

/// Images in a batch of an evaluation; the last, smaller one has a plan of its own.
pub const BATCH: usize = 32;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// An image could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model could not answer.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Elements of input tensors in a batch of [`measure`], at least one input and at most [`BATCH`].
const BATCH_ELEMENTS: usize = BATCH * 3 * 224 * 224;

/// The metrics of a model's own kind, and what could not be read.
#[derive(Debug)]
pub struct Measured {
    /// Over all examples that could be read.
    pub metrics: tasks::Metrics,
    /// The others.
    pub skipped: Vec<Skipped>,
}

/// Runs all examples through `model`, whatever its task; inputs are read on `threads` threads. `done` is told how many
/// are.
///
/// # Errors
/// More than 1 % of the examples cannot be read; a model that cannot be lowered.
pub fn measure(
    model: &mut Model,
    examples: &Examples,
    threads: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Measured, EvaluateError> {
    measure_each(model, examples, threads, &mut |_, _| Ok(()), done)
}

/// Takes an input's number, and its outputs.
pub type EachOutputs<'a> = dyn FnMut(usize, &[&[f32]]) -> Result<(), TaskError> + 'a;

/// As [`measure`]; `each` is told the number of every example that could be read, and its outputs.
///
/// # Errors
/// As [`measure`].
pub fn measure_each(
    model: &mut Model,
    examples: &Examples,
    threads: usize,
    each: &mut EachOutputs<'_>,
    done: &mut dyn FnMut(usize),
) -> Result<Measured, EvaluateError> {
    let batch = if model.takes_batches() { (BATCH_ELEMENTS / model.input_len()).clamp(1, BATCH) } else { 1 };
    let (mut metrics, mut skipped, mut seen) = (model.task().metrics(), Vec::new(), 0);
    for batch in examples.list.chunks(batch) {
        model.run(
            batch.len(),
            |task, slots| Ok(load(task, batch, slots, threads)),
            |_, loaded, outputs| {
                for (at, (example, loaded)) in batch.iter().zip(loaded).enumerate() {
                    let row = |output: &&'_ [f32]| output.len() / batch.len();
                    let rows: Vec<&[f32]> = outputs.iter().map(|o| &o[at * row(o)..][..row(o)]).collect();
                    match loaded {
                        Ok((origin, truth)) => {
                            metrics.add(origin, &rows, &truth)?;
                            each(seen + at, &rows)?;
                        }
                        Err(error) => skipped.push(Skipped {
                            name: example.name(),
                            split: Some(examples.split),
                            reason: DataError::reason(error),
                        }),
                    }
                }
                Ok(())
            },
        )?;
        seen += batch.len();
        done(seen);
    }
    examples.check_readable(&skipped)?;
    Ok(Measured { metrics, skipped })
}

/// Reads a batch into `slots`; that of an example that cannot be read is cleared.
fn load(
    task: &Task,
    batch: &[Example],
    slots: Vec<Slot<'_>>,
    threads: usize,
) -> Vec<Result<(Origin, Truth), DataError>> {
    let mut loaded: Vec<Option<Result<(Origin, Truth), DataError>>> = batch.iter().map(|_| None).collect();
    parallel::for_each(threads, batch.iter().zip(slots).zip(&mut loaded), |((example, mut slot), loaded)| {
        let read = example.load(&Limits::default()).and_then(|(content, truth)| {
            let input = content.input();
            slot.fill(task, input)?;
            Ok((input.origin(), truth))
        });
        if read.is_err() {
            slot.clear();
        }
        *loaded = Some(read);
    });
    loaded.into_iter().map(|read| read.expect("every example was visited")).collect()
}

/// Runs all images through `model`; `done` is told how many are.
///
/// # Errors
/// An image that cannot be read; a model that cannot be lowered.
pub fn evaluate(
    model: &mut Model,
    images: &Arc<Images>,
    done: &mut dyn FnMut(usize),
) -> Result<Metrics, EvaluateError> {
    let mut metrics = Metrics::new(model.task().labels());
    answers(model, images, &mut |_, logits, label| {
        metrics.add(logits, label)?;
        done(metrics.n());
        Ok(())
    })?;
    Ok(metrics)
}

/// Takes an image's number, its logits and its true class.
pub type Each<'a> = dyn FnMut(usize, &[f32], usize) -> Result<(), TaskError> + 'a;

/// Runs all images through `model`; `each` is told the image's number, its logits and its true class.
///
/// # Errors
/// An image that cannot be read; a model that cannot be lowered; what `each` says.
pub fn answers(model: &mut Model, images: &Arc<Images>, each: &mut Each<'_>) -> Result<(), EvaluateError> {
    let classes = model.task().labels().len();
    let mut batches = Batches::eval(Arc::clone(images), BATCH.min(images.len().max(1)), 1);
    while let Some(batch) = batches.next_batch() {
        let batch = batch?;
        let logits = model.infer(&batch.images, batch.labels.len())?.swap_remove(0);
        for ((row, &index), &label) in logits.chunks_exact(classes).zip(&batch.indices).zip(&batch.labels) {
            each(index, row, label).map_err(ModelError::from)?;
        }
    }
    Ok(())
}
