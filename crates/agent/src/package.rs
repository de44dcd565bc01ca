//! From a package file to a model that may run here: read, lowered, within its budgets, and answering as it should.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use espalier_engines::{EngineKind, OpenError};
use espalier_graph::package::MAX_FILE;
use espalier_graph::{Golden, Op, Package, PackageError};
use espalier_runtime::Sizes;
use espalier_tasks::model::content;
use espalier_tasks::series::Follows;
use espalier_tasks::{Content, Image, Model, ModelError, Reference, Task, Window};

use crate::config::{Bytes, ModelConfig, Time};

/// Answers that are timed, at most and at least, and how long that may take.
const RUNS: usize = 21;
const LEAST: usize = 5;
const TIMING: Duration = Duration::from_secs(2);
/// As setpriority(2) counts it.
#[cfg(target_os = "linux")]
const LEAST_PRIORITY: i32 = 19;

const UNFOLDED: &str =
    "its batch normalisation is not folded, as training left it: `espalier compress` makes it faster";

/// Why a package does not run here.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is no package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Nobody knows what its numbers mean.
    #[error(
        "it has no task, so nobody knows how a picture becomes its input: make it again with `espalier import MODEL.onnx \
         --task classify-image|detect --labels FILE`"
    )]
    NoTask,
    /// Its task is not understood.
    #[error("its task: {0}")]
    Task(String),
    /// The engine does not take it.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// It does not run, or would answer differently.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It takes too much memory.
    #[error("it takes {have} of memory, {most} are allowed (max_memory)")]
    Memory {
        /// What it takes.
        have: Bytes,
        /// What is allowed.
        most: Bytes,
    },
    /// The agent ends before it was checked.
    #[error("the agent ends before it is checked")]
    Interrupted,
    /// It takes too long.
    #[error("an answer takes {:.2} ms, {most} are allowed (max_latency)", have.as_secs_f64() * 1e3)]
    Latency {
        /// What it takes: the median.
        have: Duration,
        /// What is allowed.
        most: Time,
    },
}

/// A package that was read and lowered.
pub(crate) struct Opened {
    /// Ready to answer.
    pub(crate) model: Model,
    /// Whether our own runtime computes it.
    is_own: bool,
    /// What it should answer.
    pub(crate) golden: Vec<Golden>,
    /// What its model saw when it was validated, where it tells.
    pub(crate) reference: Option<Reference>,
    /// What it is called, with its version where it has one.
    pub(crate) name: String,
    /// Memory of its values, weights and scratch; another engine does not tell.
    pub(crate) memory: Option<Bytes>,
    /// Which file it was.
    pub(crate) stamp: Stamp,
    /// What would make it better.
    pub(crate) remark: Option<&'static str>,
}

/// Tells one file from another that took its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    length: u64,
    modified: Option<std::time::SystemTime>,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Stamp {
    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The stamp of the file at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn of(path: &Path) -> io::Result<Stamp> {
        let data = path.metadata()?;
        Ok(Stamp {
            path: path.into(),
            length: data.len(),
            modified: data.modified().ok(),
            #[cfg(unix)]
            inode: (std::os::unix::fs::MetadataExt::dev(&data), std::os::unix::fs::MetadataExt::ino(&data)),
        })
    }
}

/// Takes each answer of a check, to call it when it is its turn.
pub(crate) type InTurn<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// How a package is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it goes.
    Now,
    /// Only with what others leave of the cores.
    Background,
}

impl Pace {
    fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        if self == Pace::Now {
            return work();
        }
        let in_background = || {
            // Where the system has no such thing, it is done at the usual priority.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(None, LEAST_PRIORITY);
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(in_background).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Reads the package and lowers it for `threads` cores; it is not asked yet. The file is copied first, not mapped: who
/// writes to it in place does no harm to what runs.
///
/// # Errors
/// What is wrong with it; a budget of memory that it does not keep.
pub(crate) fn open(config: &ModelConfig, threads: usize, pace: Pace) -> Result<Opened, Refusal> {
    let stamp = Stamp::of(&config.path)?;
    let package = pace.run(|| Ok::<_, Refusal>(Package::from_bytes(&read(&config.path)?)?))?;
    let task: Task = serde_json::from_value(package.manifest.task.clone().ok_or(Refusal::NoTask)?)
        .map_err(|error| Refusal::Task(error.to_string()))?;
    let reference = Reference::read(&package.reference, &task).map_err(Refusal::Task)?;
    let is_unfolded = package.graph.nodes().iter().any(|node| matches!(node.op, Op::BatchNorm { .. }));
    let remark = is_unfolded.then_some(UNFOLDED);
    // Its helpers are made here, since they inherit the priority of who makes them.
    let (mut model, manifest, golden) = match config.engine {
        EngineKind::Espalier => {
            let Package { manifest, graph, weights, golden, .. } = package;
            let isa = config.isa().map_err(Refusal::Task)?;
            (Model::new(graph, weights, task, isa, threads)?, manifest, golden)
        }
        EngineKind::OnnxRuntime => {
            let model = espalier_engines::open(&config.engine(), &package, threads)?;
            (model, package.manifest, package.golden)
        }
    };
    let sizes = pace.run(|| model.prepare(1))?;
    model.keep_prepared();
    let whole = |sizes: Sizes| sizes.arena_bytes + sizes.weight_bytes + sizes.scratch_bytes * sizes.threads;
    let memory = sizes.map(|sizes| Bytes(whole(sizes) as u64));
    if let Some((have, most)) = memory.zip(config.max_memory).filter(|(have, most)| have.0 > most.0) {
        return Err(Refusal::Memory { have, most });
    }
    let name = config.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = if manifest.version > 0 { format!("{name} (version {})", manifest.version) } else { name };
    let is_own = config.engine == EngineKind::Espalier;
    Ok(Opened { model, golden, is_own, reference, name, memory, stamp, remark })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
    // Before opening: that would wait for ever on a pipe.
    if !path.metadata()?.is_file() {
        return Err(wrong("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(wrong("it is longer than 4 GiB")) } else { Ok(bytes) }
}

impl Opened {
    /// One golden sample, as at every start; of other engines all, since their tolerance is a share of what all span.
    ///
    /// # Errors
    /// This machine answers differently.
    pub(crate) fn check_one(&mut self) -> Result<(), Refusal> {
        let count = if self.is_own { self.golden.len().min(1) } else { self.golden.len() };
        Ok(self.model.replay(&self.golden[..count])?)
    }

    /// All golden samples, and the budget of latency, if there is one: a start should not take longer than it must.
    ///
    /// # Errors
    /// This machine answers differently, or too slowly.
    pub(crate) fn check_start(&mut self, most: Option<Time>, turn: InTurn<'_>) -> Result<(), Refusal> {
        match most {
            Some(_) => self.check_all(most, turn).map(drop),
            None => Ok(self.model.replay_in_turns(&self.golden, turn)?),
        }
    }

    /// All golden samples, and the budget of latency; the median of what answers took.
    ///
    /// # Errors
    /// This machine answers differently, or too slowly.
    pub(crate) fn check_all(&mut self, most: Option<Time>, turn: InTurn<'_>) -> Result<Duration, Refusal> {
        let took = self.time(most, turn)?;
        self.model.replay_in_turns(&self.golden, turn)?;
        match most.filter(|most| took > most.0) {
            Some(most) => Err(Refusal::Latency { have: took, most }),
            None => Ok(took),
        }
    }

    /// The median time of an answer. What is far too slow is not asked often.
    fn time(&mut self, most: Option<Time>, turn: InTurn<'_>) -> Result<Duration, Refusal> {
        let input = self.input()?;
        let (mut times, mut failed, begun) = (Vec::new(), None, Instant::now());
        while times.len() < LEAST || times.len() < RUNS && begun.elapsed() < TIMING {
            let before = times.len();
            turn(&mut || {
                let begun = Instant::now();
                failed = self.model.answer(input.input()).err();
                times.push(begun.elapsed());
            });
            if let Some(error) = failed.take() {
                return Err(error.into());
            }
            if times.len() == before {
                return Err(Refusal::Interrupted);
            }
            let best = times.iter().min().copied().unwrap_or_default();
            if let Some(most) = most.filter(|most| times.len() >= 3 && best > most.0 * 2) {
                return Err(Refusal::Latency { have: best, most });
            }
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// Of the first golden sample; without any, one in which nothing is.
    fn input(&self) -> Result<Content, ModelError> {
        if let Some(input) = self.golden.first().and_then(|sample| sample.inputs.first()) {
            return content(input);
        }
        let Some(input) = self.model.task().picture_input() else {
            let values = vec![0.0; self.model.input_len()];
            return Ok(Content::Window(Window { values, follows: Follows::Nothing }));
        };
        let [channels, height, width] = input.shape();
        Ok(Content::Image(Image::new(width, height, channels, vec![128; width * height * channels])?))
    }
}
