//! Checkpoints: what a killed run needs to end in the same bits.
//!
//! One safetensors file of all states with the run's progress as metadata and a SHA-256 over both, written beside and
//! renamed; the one before is kept. Loading walks back to the newest that is whole.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use espalier_graph::{DType, Data, Tensor, Weights, files};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::digest;

/// The newest checkpoint's file name.
pub const LAST: &str = "last.ckpt";
/// The one before.
pub const PREVIOUS: &str = "previous.ckpt";

const METADATA_KEY: &str = "espalier.progress";
const DIGEST_KEY: &str = "espalier.sha256";

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Digest of the settings that the run began with.
    pub settings: String,
    /// Epochs that are complete.
    pub epoch: usize,
    /// Batches of the current epoch that are done.
    pub batch: usize,
    /// Sum of the batches' losses in the current epoch.
    pub loss_sum: f64,
    /// Training images of the current epoch so far, and how many of them were answered rightly.
    pub seen: usize,
    /// See `seen`.
    pub right: usize,
    /// Optimizer steps done.
    pub step: usize,
    /// Best value of the primary metric so far, with its epoch.
    pub best: Option<(f64, usize)>,
    /// One row for each complete epoch.
    pub history: Vec<Epoch>,
}

/// One epoch's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over the epoch's batches.
    pub train_loss: f64,
    /// Share of its images, as they were augmented, that were answered rightly when their turn came; none where nothing says
    /// what is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Metrics on val.
    pub val: std::collections::BTreeMap<String, f64>,
}

/// Why a checkpoint could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not a whole checkpoint.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Writes a checkpoint into `run`; the newest so far becomes the one before. Durable when it returns.
///
/// # Errors
/// Any failure to write; the earlier checkpoints stay.
pub fn save(run: &Path, progress: &Progress, states: &Weights) -> Result<(), CheckpointError> {
    let last = run.join(LAST);
    let bytes = encode(progress, states);
    if last.exists() {
        // A link, so that there is no instant without a file of the last name.
        let previous = run.join(PREVIOUS);
        let linked = run.join(".previous.ckpt.link.tmp");
        let _ = fs::remove_file(&linked);
        let moved = fs::hard_link(&last, &linked).or_else(|_| fs::copy(&last, &linked).map(drop));
        moved
            .and_then(|()| fs::rename(&linked, &previous))
            .map_err(|source| CheckpointError::Io { path: previous, source })?;
        // Where both names are one file already (a kill at this instant leaves them so), renaming does nothing.
        let _ = fs::remove_file(&linked);
    }
    files::write_atomic(&last, |file| file.write_all(&bytes))
        .map_err(|e| CheckpointError::Io { path: last, source: std::io::Error::other(e.to_string()) })
}

/// The newest whole checkpoint of `run`, or `None` where there is no checkpoint at all.
///
/// # Errors
/// There are checkpoints, but none is whole: the newest one's fault.
pub fn load(run: &Path) -> Result<Option<(Progress, Weights)>, CheckpointError> {
    let mut fault = None;
    for path in [run.join(LAST), run.join(PREVIOUS)] {
        match read(&path) {
            Ok(found) => return Ok(Some(found)),
            Err(CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    fault.map_or(Ok(None), Err)
}

fn read(path: &Path) -> Result<(Progress, Weights), CheckpointError> {
    let bytes = fs::read(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    decode(&bytes).map_err(|reason| CheckpointError::Damaged { path: path.into(), reason })
}

fn digest(progress: &str, states: &Weights) -> String {
    let mut hash = Sha256::new();
    hash.update(progress);
    for (name, tensor) in states {
        hash.update(name);
        hash.update(tensor.ty().to_string());
        hash.update(tensor.data.to_le_bytes());
    }
    digest::finish(hash)
}

fn encode(progress: &Progress, states: &Weights) -> Vec<u8> {
    let progress = serde_json::to_string(progress).expect("progress is plain data");
    let digest = digest(&progress, states);
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> =
        states.iter().map(|(name, t)| (name, t, t.data.to_le_bytes())).collect();
    let views = bytes.iter().map(|(name, tensor, bytes)| {
        let dtype = match tensor.data.dtype() {
            DType::F32 => safetensors::Dtype::F32,
            DType::I32 => safetensors::Dtype::I32,
            DType::U8 | DType::Q8(_) => safetensors::Dtype::U8,
            DType::S8 => safetensors::Dtype::I8,
        };
        let view = safetensors::tensor::TensorView::new(dtype, tensor.shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor has as many bytes as its type says"))
    });
    let metadata = [(METADATA_KEY.to_string(), progress), (DIGEST_KEY.to_string(), digest)].into();
    safetensors::serialize(views, Some(metadata)).expect("names are unique in a map")
}

fn decode(bytes: &[u8]) -> Result<(Progress, Weights), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let metadata = header.metadata().as_ref().ok_or("it has no metadata")?;
    let text = metadata.get(METADATA_KEY).ok_or("it is no checkpoint of ours")?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut states = Weights::new();
    for (name, view) in tensors.iter() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::I32 => DType::I32,
            safetensors::Dtype::U8 => DType::U8,
            safetensors::Dtype::I8 => DType::S8,
            other => return Err(format!("tensor `{name}` has the type {other:?}")),
        };
        states.insert(name.to_string(), Tensor::new(view.shape(), Data::from_le_bytes(dtype, view.data())));
    }
    if metadata.get(DIGEST_KEY) != Some(&digest(text, &states)) {
        return Err("its checksum does not fit its content".into());
    }
    Ok((serde_json::from_str(text).map_err(|e| e.to_string())?, states))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(step: usize) -> (Progress, Weights) {
        let history = vec![Epoch {
            epoch: 1,
            train_loss: 0.1 + 0.2,
            train_accuracy: Some(1.0 / 3.0),
            lr: 0.05,
            val: [("accuracy".into(), 0.5)].into(),
        }];
        let best = Some((0.5, 1));
        let progress = Progress {
            settings: "abc".into(),
            epoch: 1,
            batch: 3,
            loss_sum: 1.25,
            seen: 48,
            right: 20,
            step,
            best,
            history,
        };
        let data = (0..6).map(|i| i as f32 / 3.0).collect();
        (progress, [("w".to_string(), Tensor::f32(&[2, 3], data))].into())
    }

    /// As a kill leaves it between the two renames of a save.
    #[test]
    fn one_file_under_both_names_leaves_nothing_behind() {
        let run = tempfile::tempdir().unwrap();
        let (first, second) = (sample(7), sample(8));
        save(run.path(), &first.0, &first.1).unwrap();
        fs::hard_link(run.path().join(LAST), run.path().join(PREVIOUS)).unwrap();
        save(run.path(), &second.0, &second.1).unwrap();
        assert_eq!(load(run.path()).unwrap().unwrap(), second);
        assert_eq!(read(&run.path().join(PREVIOUS)).unwrap(), first);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 2);
    }

    #[test]
    fn walks_back_to_the_newest_whole_one() {
        let run = tempfile::tempdir().unwrap();
        assert!(load(run.path()).unwrap().is_none());
        let (first, second) = (sample(7), sample(8));
        save(run.path(), &first.0, &first.1).unwrap();
        save(run.path(), &second.0, &second.1).unwrap();
        assert_eq!(load(run.path()).unwrap().unwrap(), second);
        let last = run.path().join(LAST);
        let bytes = fs::read(&last).unwrap();
        for at in [0, 9, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&last, &damaged).unwrap();
            assert_eq!(load(run.path()).unwrap().unwrap(), first, "byte {at} damaged");
            fs::write(&last, &bytes[..at]).unwrap();
            assert_eq!(load(run.path()).unwrap().unwrap(), first, "cut at {at}");
        }
        fs::write(run.path().join(PREVIOUS), b"junk").unwrap();
        assert!(load(run.path()).is_err());
    }
}
