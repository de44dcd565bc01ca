//! Flags of what computes a package, for every command that runs one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use espalier_engines::{EngineConfig, EngineKind, OpenError, Provider};
use espalier_runtime::Isa;
use espalier_tasks::Model;

use crate::exit::usage;
use crate::{open, print};

/// What computes a package.
#[derive(clap::Args)]
pub(crate) struct Compute {
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Force an instruction set: scalar; avx2, avx512 (x86-64); neon, neon-dotprod (64-bit Arm).
    #[arg(long)]
    isa: Option<String>,
    /// What computes: our own runtime, or ONNX Runtime, a library that you install (docs/engines.md).
    #[arg(long, value_enum, default_value_t = EngineArg::Espalier)]
    engine: EngineArg,
    /// Execution providers of ONNX Runtime, the preferred one first: cpu, openvino, cuda, tensorrt, qnn, coreml, xnnpack; with
    /// options like openvino:device_type=NPU. Without cpu at the end, a network that they do not take as a whole is refused.
    /// Default: cpu.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    provider: Vec<Provider>,
    /// ONNX Runtime's library, or its folder; default: what ORT_DYLIB_PATH names, else the system's.
    #[arg(long, value_name = "PATH")]
    engine_library: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum EngineArg {
    Espalier,
    Onnxruntime,
}

impl Compute {
    /// Worker threads.
    pub(crate) fn threads(&self) -> anyhow::Result<usize> {
        open::threads(self.threads)
    }

    /// Instruction set and threads of our own runtime, for what no other engine does.
    ///
    /// # Errors
    /// Another engine is asked for.
    pub(crate) fn own(&self, what: &str) -> anyhow::Result<(Isa, usize)> {
        match self.foreign()? {
            Some(_) => Err(usage(format!("{what} is for --engine espalier"))),
            None => Ok((open::isa(self.isa.as_deref())?, self.threads()?)),
        }
    }

    /// The engine beside our own runtime that is asked for.
    ///
    /// # Errors
    /// Flags of the one with the other.
    pub(crate) fn foreign(&self) -> anyhow::Result<Option<EngineConfig>> {
        let engine = match self.engine {
            EngineArg::Espalier => EngineKind::Espalier,
            EngineArg::Onnxruntime => EngineKind::OnnxRuntime,
        };
        if engine == EngineKind::Espalier && (!self.provider.is_empty() || self.engine_library.is_some()) {
            return Err(usage("--provider and --engine-library are for --engine onnxruntime"));
        }
        if engine == EngineKind::OnnxRuntime && self.isa.is_some() {
            return Err(usage("--isa is for --engine espalier"));
        }
        let config =
            EngineConfig { engine, providers: self.provider.clone(), library: self.engine_library.clone() };
        config.validate().map_err(refused)?;
        Ok(Some(config).filter(|config| config.engine == EngineKind::OnnxRuntime))
    }

    /// A model that is ready to answer: our own runtime has answered one golden sample, another engine all of them.
    pub(crate) fn model(&self, path: &Path) -> anyhow::Result<Model> {
        let Some(config) = self.foreign()? else {
            return open::model(path, open::isa(self.isa.as_deref())?, self.threads()?);
        };
        let package = open::package(path)?;
        let named = || format!("package {}", path.display());
        open::task(&package).with_context(named)?;
        let model = espalier_engines::open(&config, &package, self.threads()?);
        let mut model = model.map_err(refused).with_context(named)?;
        model.replay(&package.golden).with_context(named)?;
        eprintln!("computed by {}", model.engine());
        model.warnings().iter().for_each(|text| eprintln!("onnxruntime warns: {}", print::line(text)));
        Ok(model)
    }
}

/// With the status that it stands for.
pub(crate) fn refused(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Config(_) => usage(error),
        error => error.into(),
    }
}
