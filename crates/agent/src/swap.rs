//! Takes over new packages while their pipelines run.
//!
//! A thread looks at the files. A new one is read and lowered at the lowest priority, and asked in turns as its pipeline is,
//! so what runs loses at most the time of one answer. Only what passed every check is offered to the pipeline.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::Fault;
use crate::log::{Level, event};
use crate::package::{self, Opened, Refusal, Stamp};
use crate::pipeline::{Fresh, Shared, Watch};
use crate::scheduler::{Client, Scheduler};
use crate::spare::Spare;

/// Files are looked at this far apart. One that changed is read once it has not changed between two looks.
const APART: Duration = Duration::from_millis(250);
/// Every answer of a package that is checked is followed by a pause of this many times its length.
const REST: u32 = 2;
/// For a turn there is no hurry.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pipelines, and the files that were tried for them.
#[derive(Default)]
struct Watched {
    pipelines: Vec<Arc<Shared>>,
    files: BTreeMap<String, Files>,
}

/// The files of a pipeline.
pub(crate) struct Files {
    /// The file that runs, or was refused.
    tried: Option<Stamp>,
    /// The file at the last look.
    last: Option<Stamp>,
    /// The file that passed all checks, until a copy of it is kept.
    passed: Option<Stamp>,
    spare: Spare,
}

impl Files {
    /// `tried` is the file that was looked at last, `passed` the same if it passed.
    pub(crate) fn new(tried: Option<Stamp>, passed: Option<Stamp>, spare: Spare) -> Files {
        Files { last: tried.clone(), tried, passed, spare }
    }
}

/// The thread that loads packages. Dropping it ends it.
pub(crate) struct Loader {
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    pub(crate) fn start(scheduler: Arc<Scheduler>) -> Loader {
        let (watched, stop) = (Arc::new(Mutex::new(Watched::default())), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::Builder::new().name("loader".into()).spawn({
            let (watched, stop) = (watched.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(APART);
                    look(&watched, &scheduler, &stop);
                }
            }
        });
        let thread = Some(thread.expect("the system has threads to give"));
        Loader { watched, stop, thread }
    }

    /// Watches the package of a pipeline.
    pub(crate) fn watch(&self, pipeline: Arc<Shared>, files: Files) {
        let mut watched = self.watched();
        watched.files.insert(pipeline.name().to_owned(), files);
        watched.pipelines.retain(|other| other.name() != pipeline.name());
        watched.pipelines.push(pipeline);
    }

    /// Forgets a pipeline.
    pub(crate) fn forget(&self, name: &str) {
        let mut watched = self.watched();
        watched.files.remove(name);
        watched.pipelines.retain(|other| other.name() != name);
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It may be lowering a large network; nothing is lost where it is cut off.
            drop(thread);
        }
    }
}

fn look(watched: &Mutex<Watched>, scheduler: &Arc<Scheduler>, stop: &AtomicBool) {
    let pipelines = watched.lock().unwrap_or_else(PoisonError::into_inner).pipelines.clone();
    for pipeline in pipelines.iter().filter(|pipeline| !pipeline.is_over()) {
        pipeline.slot.clear();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        keep(watched, pipeline.name());
        if has_changed(watched, pipeline) {
            let (tried, passes) = renew(pipeline, scheduler, stop);
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(files) = watched.files.get_mut(pipeline.name()) {
                files.passed = tried.clone().filter(|_| passes);
                files.tried = tried;
            }
        }
    }
}

/// Keeps a copy of the package that passed, for a start with one that does not.
fn keep(watched: &Mutex<Watched>, name: &str) {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(files) = watched.files.get_mut(name) else { return };
    let Some((passed, spare)) = files.passed.take().map(|passed| (passed, files.spare.clone())) else {
        return;
    };
    drop(watched);
    if let Err(error) = spare.keep(&passed) {
        event(Level::Warning, name, format!("no copy of its package is kept: {error}"));
    }
}

/// Whether there is another file than the one that was tried, and it stays as it is.
fn has_changed(watched: &Mutex<Watched>, pipeline: &Shared) -> bool {
    let now = Stamp::of(&pipeline.slot.wanted().path).ok();
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(files) = watched.files.get_mut(pipeline.name()) else { return false };
    let is_settled = files.last == now;
    files.last.clone_from(&now);
    is_settled && files.tried != now
}

/// Loads, checks and offers the package that a pipeline should run; the file that this was about, and whether it passes.
fn renew(pipeline: &Shared, scheduler: &Arc<Scheduler>, stop: &AtomicBool) -> (Option<Stamp>, bool) {
    let wanted = pipeline.slot.wanted();
    let stamp = Stamp::of(&wanted.path).ok();
    let (name, begun) = (pipeline.name(), Instant::now());
    let checked = catch_unwind(AssertUnwindSafe(|| check(pipeline, scheduler, stop)));
    let checked = checked.unwrap_or_else(|_| Err(Why::Panic));
    match checked {
        Ok((opened, took, watch)) => {
            let shown = opened.name.clone();
            if let Some(remark) = opened.remark {
                event(Level::Info, name, format!("{shown}: {remark}"));
            }
            let stamp = opened.stamp;
            pipeline.slot.offer(Fresh { model: opened.model, name: opened.name, watch });
            while !pipeline.slot.is_taken() && !pipeline.is_over() && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let (answer, all) = (took.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64());
            event(
                Level::Info,
                name,
                format!("{shown} answers from now on: {answer:.2} ms an answer, checked in {all:.2} s"),
            );
            (Some(stamp), true)
        }
        Err(Why::Refusal(Refusal::Interrupted)) => (stamp, false),
        Err(why) => {
            let text =
                format!("{} is refused, {} goes on: {why}", wanted.path.display(), pipeline.board.package());
            event(Level::Error, name, &text);
            pipeline.slot.refuse();
            pipeline.board.refused(text);
            (stamp, false)
        }
    }
}

/// Why a package is not taken over.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error("{0}")]
    Watch(#[from] Fault),
    #[error("its task is {0}, and the source gives {1}")]
    Input(&'static str, &'static str),
    #[error("checking it panicked")]
    Panic,
}

fn check(
    pipeline: &Shared,
    scheduler: &Arc<Scheduler>,
    stop: &AtomicBool,
) -> Result<(Opened, Duration, Watch), Why> {
    let wanted = pipeline.slot.wanted();
    let mut opened = package::open(&wanted, pipeline.threads, package::Pace::Background)?;
    let task = opened.model.task();
    if task.row_columns().is_some() != pipeline.is_series {
        return Err(Why::Input(
            task.kind(),
            if pipeline.is_series { "rows of a series" } else { "pictures" },
        ));
    }
    let client = scheduler.join_uncounted(pipeline.threads);
    let is_over = || stop.load(Ordering::Relaxed) || pipeline.is_over();
    let took = opened.check_all(wanted.max_latency, &mut |one| in_turn(&client, is_over, one))?;
    let watch = Watch::new(&pipeline.config, opened.model.task(), opened.reference.take())?;
    Ok((opened, took, watch))
}

/// One answer, and a rest.
pub(crate) fn in_turn(client: &Client, is_over: impl Fn() -> bool, one: &mut dyn FnMut()) {
    let Some(turn) = client.turn(Instant::now() + PATIENCE, is_over) else { return };
    let begun = Instant::now();
    one();
    drop(turn);
    std::thread::sleep(begun.elapsed() * REST);
}
