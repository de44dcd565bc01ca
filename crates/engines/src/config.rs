//! Which engine, as configuration files have it.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::OpenError;
use crate::provider::{Provider, ProviderKind};

/// What computes networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Our own runtime: `espalier`.
    #[default]
    Espalier,
    /// A library that the user installed: `onnxruntime`.
    OnnxRuntime,
}

/// Which engine computes a package, and how.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// `"espalier"` (the default) or `"onnxruntime"`.
    pub engine: EngineKind,
    /// Execution providers of ONNX Runtime, the preferred one first: `["openvino:device_type=NPU", "cpu"]`. The CPU computes
    /// what the others do not take only where `"cpu"` is named, last; without it such a network is refused. Default: `["cpu"]`.
    pub providers: Vec<Provider>,
    /// ONNX Runtime's library, or the folder that it is in. Default: what `ORT_DYLIB_PATH` names, else the system's.
    pub library: Option<PathBuf>,
}

impl EngineConfig {
    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// Settings of ONNX Runtime for our own engine, a provider that is named twice, `cpu` before another.
    pub fn validate(&self) -> Result<(), OpenError> {
        let wrong = |text: String| Err(OpenError::Config(text));
        if self.engine == EngineKind::Espalier {
            let stray = [(!self.providers.is_empty(), "providers"), (self.library.is_some(), "library")];
            return match stray.iter().find(|(is_set, _)| *is_set) {
                Some((_, key)) => {
                    wrong(format!("`{key}` is for engine = \"onnxruntime\", the engine is \"espalier\""))
                }
                None => Ok(()),
            };
        }
        for (at, provider) in self.providers.iter().enumerate() {
            if self.providers[..at].iter().any(|earlier| earlier.kind() == provider.kind()) {
                return wrong(format!("the provider {} is named twice", provider.kind()));
            }
            if provider.kind() == ProviderKind::Cpu && at + 1 < self.providers.len() {
                return wrong(format!(
                    "`cpu` takes every node, so {} behind it would get none: name `cpu` last",
                    self.providers[at + 1].kind()
                ));
            }
        }
        Ok(())
    }
}
