//! Execution providers: what computes for ONNX Runtime, by the names that its users know.

use std::fmt;
use std::str::FromStr;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch};
use serde::Deserialize;

/// Most options of one provider.
const OPTIONS_MAX: usize = 64;

/// Longest name of a provider with its options.
const LENGTH_MAX: usize = 4096;

/// The providers that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// The CPU, in every build.
    Cpu,
    /// Intel's CPUs, GPUs, VPUs and NPUs.
    OpenVino,
    /// NVIDIA's GPUs.
    Cuda,
    /// NVIDIA's GPUs, networks compiled.
    TensorRt,
    /// Qualcomm's NPUs.
    Qnn,
    /// Apple's Neural Engine and GPUs.
    CoreMl,
    /// CPUs, mostly Arm.
    Xnnpack,
}

impl ProviderKind {
    /// All, in the order of the documentation.
    pub const ALL: [ProviderKind; 7] = [
        ProviderKind::Cpu,
        ProviderKind::OpenVino,
        ProviderKind::Cuda,
        ProviderKind::TensorRt,
        ProviderKind::Qnn,
        ProviderKind::CoreMl,
        ProviderKind::Xnnpack,
    ];

    /// As configurations have it.
    pub fn name(self) -> &'static str {
        match self {
            ProviderKind::Cpu => "cpu",
            ProviderKind::OpenVino => "openvino",
            ProviderKind::Cuda => "cuda",
            ProviderKind::TensorRt => "tensorrt",
            ProviderKind::Qnn => "qnn",
            ProviderKind::CoreMl => "coreml",
            ProviderKind::Xnnpack => "xnnpack",
        }
    }

    /// As ONNX Runtime has it.
    pub(crate) fn canonical(self) -> &'static str {
        match self {
            ProviderKind::Cpu => ep::CPU::NAME,
            ProviderKind::OpenVino => ep::OpenVINO::NAME,
            ProviderKind::Cuda => ep::CUDA::NAME,
            ProviderKind::TensorRt => ep::TensorRT::NAME,
            ProviderKind::Qnn => ep::QNN::NAME,
            ProviderKind::CoreMl => ep::CoreML::NAME,
            ProviderKind::Xnnpack => ep::XNNPACK::NAME,
        }
    }

    /// Whether the loaded library was built with it.
    pub(crate) fn is_available(self) -> ort::Result<bool> {
        match self {
            ProviderKind::Cpu => ep::CPU::is_available(),
            ProviderKind::OpenVino => ep::OpenVINO::is_available(),
            ProviderKind::Cuda => ep::CUDA::is_available(),
            ProviderKind::TensorRt => ep::TensorRT::is_available(),
            ProviderKind::Qnn => ep::QNN::is_available(),
            ProviderKind::CoreMl => ep::CoreML::is_available(),
            ProviderKind::Xnnpack => ep::XNNPACK::is_available(),
        }
    }

    /// Whether it computes floats with 24 bits of precision; accelerators round them to fewer.
    pub(crate) fn is_precise(self) -> bool {
        matches!(self, ProviderKind::Cpu | ProviderKind::Xnnpack)
    }

    /// The option that says how many threads it may take, where it has threads of its own.
    fn threads(self) -> Option<&'static str> {
        match self {
            ProviderKind::OpenVino => Some("num_of_threads"),
            ProviderKind::Xnnpack => Some("intra_op_num_threads"),
            _ => None,
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A provider with its options, which are those of ONNX Runtime's documentation: `NAME`, or `NAME:KEY=VALUE:KEY=VALUE`, like
/// `openvino:device_type=NPU`. What follows a colon and has no `=` belongs to the value before it: `device_type=AUTO:GPU,CPU`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Provider {
    kind: ProviderKind,
    options: Vec<(String, String)>,
}

impl Provider {
    /// Which one.
    pub fn kind(&self) -> ProviderKind {
        self.kind
    }

    /// What ONNX Runtime registers; `None` of the CPU, which is always there.
    pub(crate) fn dispatch(&self, threads: usize) -> Option<ExecutionProviderDispatch> {
        match self.kind {
            ProviderKind::Cpu => None,
            ProviderKind::OpenVino => Some(self.configured(ep::OpenVINO::default(), threads)),
            ProviderKind::Cuda => Some(self.configured(ep::CUDA::default(), threads)),
            ProviderKind::TensorRt => Some(self.configured(ep::TensorRT::default(), threads)),
            ProviderKind::Qnn => Some(self.configured(ep::QNN::default(), threads)),
            ProviderKind::CoreMl => Some(self.configured(ep::CoreML::default(), threads)),
            ProviderKind::Xnnpack => Some(self.configured(ep::XNNPACK::default(), threads)),
        }
    }

    fn configured<E>(&self, provider: E, threads: usize) -> ExecutionProviderDispatch
    where
        E: ArbitrarilyConfigurableExecutionProvider + Into<ExecutionProviderDispatch>,
    {
        let own = self.kind.threads().filter(|key| !self.options.iter().any(|(given, _)| given == key));
        let provider = own.into_iter().fold(provider, |e, key| e.with_arbitrary_config(key, threads));
        let given = self.options.iter();
        let provider = given.fold(provider, |e, (key, value)| e.with_arbitrary_config(key, value));
        provider.into().error_on_failure()
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        self.options.iter().try_for_each(|(key, value)| write!(f, ":{key}={value}"))
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Provider, String> {
        // The library takes options as C strings.
        if text.len() > LENGTH_MAX || text.contains('\0') {
            return Err(format!("a provider is at most {LENGTH_MAX} characters, none of them NUL"));
        }
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let kind = ProviderKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = ProviderKind::ALL.map(ProviderKind::name).join(", ");
            format!("provider `{name}`: it should be one of {names}")
        })?;
        let mut options: Vec<(String, String)> = Vec::new();
        for part in parts {
            match (part.split_once('='), options.last_mut()) {
                (Some((key, value)), _) if !key.is_empty() => options.push((key.into(), value.into())),
                (None, Some((_, value))) => *value += &format!(":{part}"),
                _ => return Err(format!("provider `{text}`: `{part}` should be KEY=VALUE")),
            }
        }
        match kind {
            ProviderKind::Cpu if !options.is_empty() => {
                Err(format!("provider `{text}`: the CPU has no options, its threads are the model's"))
            }
            _ if options.len() > OPTIONS_MAX => Err(format!("a provider has at most {OPTIONS_MAX} options")),
            _ => Ok(Provider { kind, options }),
        }
    }
}

impl TryFrom<String> for Provider {
    type Error = String;

    fn try_from(text: String) -> Result<Provider, String> {
        text.parse()
    }
}
