//! A source, a model that answers its frames, and what becomes of the answers.

mod insights;
mod lane;
mod slot;
mod told;
mod viewer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use espalier_tasks::Task;
use espalier_wire::{Insight, Kind};

use crate::config::{Fault, PipelineConfig, SourceConfig};
use crate::figures::{Figure, Trend};
use crate::moment::{Clock, Moment};
use crate::package::Opened;
use crate::queue::{Counts, Policy};
use crate::scheduler::Scheduler;
use crate::show::Board;
use crate::sink::Sinks;
use crate::source::{Persistence, Retry, Source, SourceError};
use crate::stream::{Reading, Stream};

pub(crate) use insights::{Insights, Watch};
use lane::Lane;
pub(crate) use slot::{Fresh, Slot};
pub(crate) use told::TellFigures;
use told::Told;
pub use viewer::{Listener, Manner, Seen, Viewer, broken};

/// What a pipeline shares with who watches it.
pub(crate) struct Shared {
    pub(crate) config: PipelineConfig,
    /// Cores that one answer uses.
    pub(crate) threads: usize,
    /// Whether the source gives rows of a series, else pictures.
    pub(crate) is_series: bool,
    pub(crate) board: Arc<Board>,
    pub(crate) slot: Slot,
    told: Told,
    sinks: Arc<Sinks>,
    pub(crate) clock: Clock,
    trend: std::sync::Mutex<Trend>,
    /// Milliseconds since the start at which its thread was last seen alive.
    beat: AtomicU64,
    over: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Its thread is alive.
    fn live(&self) {
        self.beat.store(self.clock.now().since_start.as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since its thread was last seen alive; nothing once it has ended.
    pub(crate) fn silent(&self) -> Option<Duration> {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        (!self.is_over()).then(|| self.clock.now().since_start.saturating_sub(beat))
    }

    /// Whether its source has ended, and it with it.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Says something.
    fn say(&self, at: Moment, kind: Kind) {
        let insight = Insight { pipeline: self.name().to_owned(), time_ms: at.unix_ms(), kind };
        self.told.insight(self.sinks.push_weighed(&insight));
    }

    /// What became of its frames.
    fn counts(&self) -> Counts {
        self.board.tally(|tally| tally.counts)
    }

    /// To be called about once a second.
    pub(crate) fn tick(&self) {
        if let Ok(mut trend) = self.trend.lock() {
            trend.add(self.clock.now().since_start, self.counts());
        }
    }

    /// All that is counted, by the names that `/metrics` has.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let rates = self.trend.lock().map(|trend| trend.rates()).unwrap_or_default();
        let (swaps, refusals) = self.slot.counts();
        let mut figures = self.board.tally(|tally| Figure::of_tally(tally, rates));
        figures.extend(Figure::of_pipeline(
            (self.board.health(), self.board.age()),
            self.told.figures(),
            swaps,
            refusals,
        ));
        figures
    }

    /// The same as they stand in insights.
    fn counters(&self) -> BTreeMap<String, f64> {
        let known = self.figures().into_iter().filter(|figure| figure.value.is_finite());
        known.map(|figure| (figure.key(), figure.value)).collect()
    }
}

/// A pipeline that runs. Dropping it stops it.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    thread: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Begins.
    ///
    /// # Errors
    /// A source that nothing can be, or that gives other things than the package takes; a folder of hard samples that cannot
    /// be used.
    pub(crate) fn start(
        config: PipelineConfig,
        (opened, watch): (Opened, Watch),
        threads: usize,
        scheduler: &Arc<Scheduler>,
        clock: Clock,
        sinks: Arc<Sinks>,
    ) -> Result<Pipeline, Fault> {
        let task = opened.model.task().clone();
        let (title, reading, rate) = plan(&config.source, &task)?;
        let labels = task.labels().to_vec();
        let board = Board::new(title, opened.name, labels);
        let manner = Manner {
            client: Some(Arc::new(scheduler.join(threads))),
            rate,
            deadline: config.source.deadline.map(|deadline| deadline.0),
            observes: config.drift.is_some() || config.samples.is_some(),
        };
        let mut viewer = Viewer::new(opened.model, board.clone(), manner);
        let shared = Arc::new(Shared {
            threads,
            is_series: task.row_columns().is_some(),
            board,
            slot: Slot::new(config.model.clone()),
            told: Told::default(),
            sinks,
            clock,
            trend: std::sync::Mutex::default(),
            beat: AtomicU64::new(0),
            over: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            config,
        });
        let insights = Insights::new(&shared.config, watch, lane::samples(shared.clone()))?;
        shared.live();
        let source = shared.config.source.clone();
        let stream = Arc::new(Stream::open(move || resolve(&source, &task), reading));
        let thread = std::thread::Builder::new().name(shared.name().chars().take(15).collect()).spawn({
            let (shared, stream) = (shared.clone(), stream.clone());
            move || {
                let mut lane = Lane::new(shared, insights);
                let result = viewer.follow(&stream, &mut lane);
                stream.close();
                viewer.count(&stream);
                lane.end(result);
            }
        });
        let thread = Some(thread.expect("the system has threads to give"));
        Ok(Pipeline { shared, stream, thread })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Wants the end, and does not wait for it.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.stream.close();
    }

    /// Waits for the end until `deadline`; whether it came.
    pub(crate) fn join(&mut self, deadline: Instant) -> bool {
        while let Some(thread) = &self.thread {
            if thread.is_finished() {
                let _ = self.thread.take().map(JoinHandle::join);
            } else if Instant::now() >= deadline {
                return false;
            } else {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        true
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a source is called, how it is read, and how many of its frames a second are looked at, at most.
fn plan(config: &SourceConfig, task: &Task) -> Result<(String, Reading, Option<f64>), Fault> {
    let longest = config.retry.0;
    let (title, is_live, usual, retry) = match resolve(config, task) {
        Ok(Source::Input) => ("standard input".into(), false, Policy::Every, Retry::Never),
        Ok(source) => (source.to_string(), source.is_live(), source.policy(), Retry::Always { longest }),
        // A camera that is not plugged in, or a file that is still to come.
        Err(SourceError::Missing(_)) => {
            let is_camera = config.uri.starts_with("/dev/") || config.uri.bytes().all(|b| b.is_ascii_digit());
            let usual = if is_camera { Policy::Latest } else { Policy::Every };
            (config.uri.clone(), is_camera, usual, Retry::Always { longest })
        }
        Err(error) => return Err(Fault::Table { path: "source.uri".into(), right: error.to_string() }),
    };
    let policy = config.policy.map_or(usual, Policy::from);
    let persistence = Persistence { again: config.again && retry != Retry::Never, retry };
    let (played, looked) = if is_live { (None, config.rate) } else { (config.rate, None) };
    Ok((title, Reading { policy, rate: played, persistence }, looked))
}

/// What the configuration names, now; it has to give what the task takes.
pub(crate) fn resolve(config: &SourceConfig, task: &Task) -> Result<Source, SourceError> {
    let source = match Source::new(&config.uri)? {
        Source::Folder(path) if config.watch => Source::Watched(path),
        source => source,
    };
    source.check(task).map(|()| source)
}
