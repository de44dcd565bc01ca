//! Metrics of a model over a split, with the plan that answers on the device.

use std::sync::Arc;

use espalier_tasks::classification::Metrics;
use espalier_tasks::{Model, ModelError, Task};

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
    let Task::ClassifyImage(task) = model.task();
    let mut metrics = Metrics::new(&task.labels);
    let classes = task.labels.len();
    let mut batches = Batches::eval(Arc::clone(images), BATCH.min(images.len().max(1)), 1);
    while let Some(batch) = batches.next_batch() {
        let batch = batch?;
        let logits = model.infer(&batch.images, batch.labels.len())?.swap_remove(0);
        for (row, &label) in logits.chunks_exact(classes).zip(&batch.labels) {
            metrics.add(row, label).map_err(ModelError::from)?;
        }
        done(metrics.n());
    }
    Ok(metrics)
}
