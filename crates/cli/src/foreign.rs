//! Networks of ONNX files for `train --init`.

use std::path::Path;

use anyhow::bail;
use espalier_onnx::{Batch, ImportError, Metadata, Options};
use espalier_train::init::Foreign;

use crate::exit::usage;

/// The network at `path` with what its metadata say, for pictures of `side` pixels where that is given.
pub(crate) fn read(path: &Path, side: Option<usize>) -> anyhow::Result<Foreign> {
    let imported = espalier_onnx::from_file(path, Options { size: side.map(|side| [side; 2]) });
    let imported = imported.map_err(|error| match error {
        // Who asks names the file.
        ImportError::At { fault, .. } => or_usage(*fault),
        other => or_usage(other),
    })?;
    if let Batch::Fixed(reason) = &imported.batch {
        bail!("it takes one number of samples only, training takes batches: {reason}");
    }
    let Metadata { labels, mean, std, .. } = Metadata::read(&imported.metadata);
    let normalisation = mean.zip(std).map(|(mean, std)| [mean, std]);
    let (digest, graph, weights) = (imported.digest, imported.graph, imported.weights);
    Ok(Foreign { digest, graph, weights, labels, normalisation })
}

/// A size that the file lacks or contradicts is for the user to give.
pub(crate) fn or_usage(error: ImportError) -> anyhow::Error {
    let is_usage = match &error {
        ImportError::At { fault, .. } => matches!(**fault, ImportError::Size(_)),
        ImportError::Size(_) => true,
        _ => false,
    };
    if is_usage { usage(error) } else { error.into() }
}
