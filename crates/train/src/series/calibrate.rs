//! The usual error of a network, and the threshold that follows from it.

use espalier_tasks::anomaly::Calibration;
use espalier_tasks::{Anomaly, Model};

use super::BATCH;
use crate::data::Examples;

/// Windows that are looked at, at most: the newest.
const WINDOWS_MAX: usize = 20_000;

/// `task` with the calibration of `model`, from its errors on train and val: val shows errors on what was not learned from,
/// train makes them many.
///
/// # Errors
/// The model cannot be lowered.
pub(crate) fn calibrated(
    model: &mut Model,
    task: &Anomaly,
    train: &Examples,
    val: &Examples,
) -> anyhow::Result<Anomaly> {
    let all = train.list.len() + val.list.len();
    let newest = train.list.iter().chain(&val.list).skip(all.saturating_sub(WINDOWS_MAX));
    let windows: Vec<_> = newest.filter_map(|example| example.window()).collect();
    let [len] = task.shape();
    let mut errors = Vec::with_capacity(windows.len());
    for batch in windows.chunks(BATCH) {
        let mut inputs = vec![0.0; batch.len() * len];
        for (input, window) in inputs.chunks_exact_mut(len).zip(batch) {
            task.preprocess(window, input)?;
        }
        let outputs = model.infer(&inputs, batch.len())?.swap_remove(0);
        for (input, output) in inputs.chunks_exact(len).zip(outputs.chunks_exact(len)) {
            errors.push(task.error(&task.column_errors(input, output)?)?);
        }
    }
    let answers = |rows: usize| rows.div_ceil(task.stride).max(1);
    let rate = task.false_alarms * task.stride as f64;
    let calibration = Calibration::new(&errors, answers(task.hold), rate);
    Ok(Anomaly { calibration, ..task.clone() })
}
