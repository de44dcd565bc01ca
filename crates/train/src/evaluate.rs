//! Metrics of a model over a split, with the plan that answers on the device.

use std::sync::Arc;

use espalier_tasks::classification::Metrics;
use espalier_tasks::{Model, ModelError, TaskError};

use crate::data::{Batches, DataError, Images};

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
