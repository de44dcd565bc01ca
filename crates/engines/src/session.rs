//! A network in a session of ONNX Runtime.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use espalier_graph::{Bindings, DType, Dim, Graph, Weights};
use espalier_onnx::About;
use espalier_tasks::golden::GOLDEN_TOLERANCE;
use espalier_tasks::{Engine, EngineError};
use ort::logging::LogLevel;
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};
use ort::value::TensorRef;

use crate::config::EngineConfig;
use crate::error::OpenError;
use crate::library::{Library, complaints};
use crate::provider::{Provider, ProviderKind};

/// Of float networks where an accelerator computes, which rounds to half precision or less.
const TOLERANCE_HALF: f32 = 2e-2;

/// Of networks of bytes: engines fuse differently, so some roundings go to the neighbour, and a step grows in the layers behind.
const TOLERANCE_BYTES: f32 = 5e-2;

/// Most warnings that are kept of opening a network, and most characters of one.
const WARNINGS_MAX: usize = 8;
const WARNING_LENGTH_MAX: usize = 300;

/// How many nodes of the network, as ONNX Runtime optimised it, a provider computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The provider's name, ONNX Runtime's own where we have none.
    pub provider: String,
    /// Nodes; what a provider compiled in one piece counts as one.
    pub nodes: usize,
}

/// A network that ONNX Runtime computes.
pub struct OnnxRuntime {
    session: Session,
    options: RunOptions<NoSelectedOutputs>,
    library: Library,
    /// Of the inputs.
    shapes: Vec<Vec<usize>>,
    /// Elements of each output.
    lengths: Vec<usize>,
    placements: Vec<Placement>,
    warnings: Vec<String>,
    tolerance: f32,
}

impl OnnxRuntime {
    /// Hands `graph` with the content of its states to ONNX Runtime, for samples one by one.
    ///
    /// # Errors
    /// A library that is missing, too old or no ONNX Runtime; a provider that it does not have, that fails, or that does not
    /// take the network though the CPU may not; inputs or outputs that are not floats.
    pub fn open(
        config: &EngineConfig,
        graph: &Graph,
        weights: &Weights,
        threads: usize,
    ) -> Result<OnnxRuntime, OpenError> {
        config.validate()?;
        let library = Library::load(config.library.as_deref())?;
        check_available(&library, &config.providers)?;
        let inputs = graph.inputs().iter().map(|&id| floats(graph, &graph.value(id).name, id));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.outputs().iter().map(|(name, id)| floats(graph, name, *id));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let exported =
            espalier_onnx::export(graph, weights, &About { name: "espalier".into(), ..About::default() })?;
        let log = Arc::new(Mutex::new(Log::default()));
        complaints();
        let opened = session(&library, config, threads, &exported.bytes, log.clone());
        let (session, options) = opened.map_err(|e| refused(&library, &config.providers, e.to_string()))?;
        let Log { placements, warnings } = std::mem::take(&mut *lock(&log));
        let placements: Vec<Placement> = placements.into_values().collect();
        check_used(&config.providers, &placements)?;
        Ok(OnnxRuntime {
            session,
            options,
            library,
            shapes: inputs,
            lengths: outputs.iter().map(|shape| shape.iter().product()).collect(),
            placements,
            warnings,
            tolerance: tolerance(graph, &config.providers),
        })
    }

    /// The library's version and where it came from.
    pub fn library(&self) -> String {
        self.library.to_string()
    }

    /// Which provider computes how much; empty where this version of ONNX Runtime does not tell.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    fn compute(&mut self, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), String> {
        if inputs.len() != self.shapes.len() || outputs.len() != self.lengths.len() {
            return Err(format!(
                "the network has {} inputs and {} outputs, it got places for {} and {}",
                self.shapes.len(),
                self.lengths.len(),
                inputs.len(),
                outputs.len()
            ));
        }
        let mut tensors = Vec::new();
        for (shape, &data) in self.shapes.iter().zip(inputs) {
            let tensor = TensorRef::from_array_view((shape.as_slice(), data)).map_err(|e| e.to_string())?;
            tensors.push(SessionInputValue::from(tensor));
        }
        let computed =
            self.session.run_with_options(tensors.as_slice(), &self.options).map_err(|e| e.to_string())?;
        for ((value, to), &length) in computed.values().zip(outputs).zip(&self.lengths) {
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(|e| e.to_string())?;
            if data.len() != length {
                return Err(format!("an output has the shape {shape}, {length} elements were expected"));
            }
            to.extend_from_slice(data);
        }
        Ok(())
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> String {
        let placed = self.placements.iter().map(|Placement { provider, nodes }| match nodes {
            1 => format!("{provider} 1 node"),
            nodes => format!("{provider} {nodes} nodes"),
        });
        match placed.collect::<Vec<_>>().join(", ") {
            placed if placed.is_empty() => format!(
                "onnxruntime {} (it does not tell which provider computes what)",
                self.library.version
            ),
            placed => format!("onnxruntime {} ({placed})", self.library.version),
        }
    }

    fn tolerance(&self) -> f32 {
        self.tolerance
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn run(&mut self, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), EngineError> {
        self.compute(inputs, outputs).map_err(|reason| EngineError { engine: self.name(), reason })
    }
}

/// The sizes of an input or output for one sample; only floats are handed over.
fn floats(graph: &Graph, name: &str, id: espalier_graph::ValueId) -> Result<Vec<usize>, OpenError> {
    let ty = graph.ty(id);
    match ty.dtype {
        DType::F32 => Ok(ty.shape.bind(Bindings::batch(1))),
        _ => Err(OpenError::Graph(format!(
            "`{name}` is {ty}: onnxruntime is handed floats only, use engine espalier"
        ))),
    }
}

/// A session for the file `bytes`, and how it runs. Its log is read while it opens: nothing else tells, in every version, which
/// provider computes what. Runs say only what is wrong.
fn session(
    library: &Library,
    config: &EngineConfig,
    threads: usize,
    bytes: &[u8],
    log: Arc<Mutex<Log>>,
) -> ort::Result<(Session, RunOptions<NoSelectedOutputs>)> {
    let providers = config.providers.iter().filter_map(|provider| provider.dispatch(threads));
    let mut builder = Session::builder(&library.environment)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Threads of several models share the cores.
        .with_intra_op_spinning(false)?
        // Accelerators want to know all sizes.
        .with_dimension_override(Dim::N.to_string(), 1)?
        .with_log_level(LogLevel::Verbose)?
        .with_logger(Arc::new(move |level, _: &str, _: &str, _: &str, message: &str| {
            lock(&log).add(level, message);
        }))?
        .with_execution_providers(providers.collect::<Vec<_>>())?;
    if !falls_back(&config.providers) {
        builder = builder.with_disable_cpu_fallback()?;
    }
    let session = builder.commit_from_memory(bytes)?;
    let mut options = RunOptions::new()?;
    options.set_log_level(LogLevel::Error)?;
    Ok((session, options))
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the CPU may compute what nobody else takes.
fn falls_back(providers: &[Provider]) -> bool {
    providers.last().is_none_or(|last| last.kind() == ProviderKind::Cpu)
}

fn tolerance(graph: &Graph, providers: &[Provider]) -> f32 {
    if graph.values().iter().any(|value| value.ty.dtype.quant().is_some()) {
        TOLERANCE_BYTES
    } else if providers.iter().all(|provider| provider.kind().is_precise()) {
        GOLDEN_TOLERANCE
    } else {
        TOLERANCE_HALF
    }
}

/// Refuses providers that the library was built without.
fn check_available(library: &Library, providers: &[Provider]) -> Result<(), OpenError> {
    let failed = |e: ort::Error| OpenError::Session { library: library.to_string(), reason: e.to_string() };
    for provider in providers {
        if !provider.kind().is_available().map_err(failed)? {
            let available = ProviderKind::ALL.into_iter().filter(|kind| kind.is_available().unwrap_or(false));
            return Err(OpenError::Provider {
                library: library.to_string(),
                asked: provider.kind().to_string(),
                available: available.map(|kind| kind.to_string()).collect(),
            });
        }
    }
    Ok(())
}

/// Refuses a network of which the CPU computes everything though others were asked for.
fn check_used(providers: &[Provider], placements: &[Placement]) -> Result<(), OpenError> {
    let is_other = |name: &str| name != ProviderKind::Cpu.name();
    let is_asked = providers.iter().any(|provider| is_other(provider.kind().name()));
    let is_used = placements.iter().any(|placement| is_other(&placement.provider));
    match !is_asked || placements.is_empty() || is_used {
        true => Ok(()),
        false => Err(OpenError::Placement(format!(
            "{} took no node of the network, the CPU would compute all of it: ask for `cpu` alone if that is wanted",
            names(providers)
        ))),
    }
}

/// What a session that does not open means.
fn refused(library: &Library, providers: &[Provider], reason: String) -> OpenError {
    match is_incomplete(providers, &reason) {
        true => OpenError::Placement(format!(
            "{} did not take all nodes of the network, and the CPU was not asked for: add `cpu` behind to let it compute the rest",
            names(providers)
        )),
        false => {
            let reason = std::iter::once(reason).chain(complaints()).collect::<Vec<_>>().join(": ");
            OpenError::Session { library: library.to_string(), reason }
        }
    }
}

/// Whether ONNX Runtime says that nodes were left to the CPU, which may not take them.
fn is_incomplete(providers: &[Provider], reason: &str) -> bool {
    !falls_back(providers) && reason.contains("fallback to CPU EP")
}

fn names(providers: &[Provider]) -> String {
    let others = providers.iter().filter(|provider| provider.kind() != ProviderKind::Cpu);
    others.map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// What is read of a session's log.
#[derive(Default)]
struct Log {
    /// By provider: it may be told twice.
    placements: BTreeMap<String, Placement>,
    warnings: Vec<String>,
}

impl Log {
    fn add(&mut self, level: LogLevel, message: &str) {
        if let Some(placement) = placement(message) {
            self.placements.insert(placement.provider.clone(), placement);
        } else if level >= LogLevel::Warning && self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(message.chars().take(WARNING_LENGTH_MAX).collect());
        }
    }
}

/// What ` All nodes placed on [CPUExecutionProvider]. Number of nodes: 7` and
/// ` Node(s) placed on [...]. Number of nodes: 7` say, which ONNX Runtime 1.17 to 1.32 write.
fn placement(message: &str) -> Option<Placement> {
    let (_, rest) =
        message.split_once("odes placed on [").or_else(|| message.split_once("ode(s) placed on ["))?;
    let (provider, rest) = rest.split_once(']')?;
    let (_, nodes) = rest.split_once("Number of nodes: ")?;
    let nodes = nodes.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let known = ProviderKind::ALL.into_iter().find(|kind| kind.canonical() == provider);
    Some(Placement { provider: known.map_or_else(|| provider.to_owned(), |kind| kind.to_string()), nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_are_read() {
        let check = |message: &str, expected: Option<(&str, usize)>| {
            let expected = expected.map(|(provider, nodes)| Placement { provider: provider.into(), nodes });
            assert_eq!(placement(message), expected, "{message}");
        };
        check(" All nodes placed on [CPUExecutionProvider]. Number of nodes: 7", Some(("cpu", 7)));
        check(" Node(s) placed on [OpenVINOExecutionProvider]. Number of nodes: 1", Some(("openvino", 1)));
        check(
            " Node(s) placed on [AzureExecutionProvider]. Number of nodes: 12\n",
            Some(("AzureExecutionProvider", 12)),
        );
        check("Node placements", None);
        check(" Node(s) placed on [CPUExecutionProvider]. Number of nodes: ", None);
        check(" Node(s) placed on [CPUExecutionProvider", None);
    }

    fn providers(names: &[&str]) -> Vec<Provider> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_cpu_takes_nothing_unasked() {
        let check = |asked: &[&str], placed: &[&str], is_refused: bool| {
            let placed: Vec<Placement> =
                placed.iter().map(|&name| Placement { provider: name.into(), nodes: 3 }).collect();
            assert_eq!(check_used(&providers(asked), &placed).is_err(), is_refused, "{asked:?}, {placed:?}");
        };
        check(&[], &["cpu"], false);
        check(&["cpu"], &["cpu"], false);
        check(&["openvino", "cpu"], &["cpu"], true);
        check(&["openvino", "cpu"], &["cpu", "openvino"], false);
        check(&["tensorrt", "cuda", "cpu"], &["tensorrt"], false);
        // What does not tell is not refused.
        check(&["openvino", "cpu"], &[], false);
        let said = check_used(
            &providers(&["cuda:device_id=1", "qnn", "cpu"]),
            &[Placement { provider: "cpu".into(), nodes: 1 }],
        );
        assert!(said.unwrap_err().to_string().starts_with("cuda:device_id=1 and qnn took no node"));
    }

    #[test]
    fn an_incomplete_provider_is_told_from_other_failures() {
        let text = "nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled";
        assert!(is_incomplete(&providers(&["openvino"]), text));
        assert!(!is_incomplete(&providers(&["openvino"]), "the device is not there"));
        assert!(!is_incomplete(&providers(&["openvino", "cpu"]), text));
    }

    #[test]
    fn tolerances_are_those_of_the_documentation() {
        let graph = Graph::new();
        for (asked, expected) in [(&[][..], 1e-3), (&["xnnpack", "cpu"], 1e-3), (&["cuda", "cpu"], 0.02)] {
            assert_eq!(tolerance(&graph, &providers(asked)), expected, "{asked:?}");
        }
    }
}
