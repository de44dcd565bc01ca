//! The agent as a service: starts what a configuration names, keeps it, reloads it, and stops it.

mod check;
mod notify;
mod signals;
mod site;

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use espalier_runtime::energy::cpu_seconds;

use crate::config::{Config, ConfigError, Fault, PipelineConfig, StatusConfig};
use crate::log::{Level, event};
use crate::machine::{Machine, give_memory_back};
use crate::moment::Clock;
use crate::package::{self, InTurn, Opened, Pace, Refusal, Stamp};
use crate::pipeline::{Pipeline, Shared, Watch};
use crate::scheduler::Scheduler;
use crate::show::Server;
use crate::sink::{SinkError, Sinks};
use crate::spare::Spare;
use crate::swap::{Files, Loader, in_turn};

pub use check::check;
use notify::Notifier;
use signals::Signals;
use site::Overview;

/// Events that are of no pipeline.
const SELF: &str = "agent";
/// Figures of the machine, and rates, are looked at this far apart.
const TICK: Duration = Duration::from_secs(1);
/// For pipelines to end when they are asked to; what takes longer is cut off.
const FAREWELL: Duration = Duration::from_millis(500);
/// A pipeline whose thread was silent that long hangs; systemd is then no longer told that all is well.
const HANGS: Duration = Duration::from_secs(30);

/// Why an agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A package does not run here.
    #[error("pipeline[{index}].model.path = {path:?}: {refusal}")]
    Package {
        /// The pipeline's number in the configuration.
        index: usize,
        /// The package.
        path: PathBuf,
        /// Why it does not run.
        refusal: Box<Refusal>,
    },
    /// The status page has no place.
    #[error("status.listen = \"{listen}\": {error}")]
    Status {
        /// The address.
        listen: std::net::SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// A sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Signals cannot be heard.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

impl AgentError {
    /// Whether the configuration is to be changed, rather than the machine.
    pub fn is_usage(&self) -> bool {
        matches!(self, AgentError::Config(_))
    }
}

/// Runs the agent until it is asked to end, or all its sources have ended.
///
/// # Errors
/// The configuration, a package or the status page's address is wrong: nothing has started then.
pub fn run(path: &Path) -> Result<(), AgentError> {
    give_memory_back();
    let notifier = Notifier::from_environment();
    let mut signals = Signals::listen().map_err(AgentError::Signals)?;
    let config = Config::load(path)?;
    let mut agent = Agent::start(path, config)?;
    notifier.tell("READY=1");
    agent.follow(&mut signals, &notifier);
    notifier.tell("STOPPING=1");
    agent.stop();
    Ok(())
}

/// Cores of this machine, as far as this process may use them.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Cores that one answer of a pipeline uses. A core is left for what reads and decodes: workers that wait for one another
/// suffer more than others where somebody takes a core away.
fn threads(config: &Config, pipeline: &PipelineConfig) -> usize {
    let usual = if config.pipelines.len() == 1 { (cores() - 1).max(1) } else { 1 };
    pipeline.model.threads.unwrap_or(usual).min(cores())
}

fn open(config: &Config, index: usize) -> Result<Opened, AgentError> {
    let pipeline = &config.pipelines[index];
    let opened = package::open(&pipeline.model, threads(config, pipeline), Pace::Now);
    opened.map_err(|refusal| refused(config, index, refusal))
}

fn refused(config: &Config, index: usize, refusal: Refusal) -> AgentError {
    AgentError::Package { index, path: config.pipelines[index].model.path.clone(), refusal: refusal.into() }
}

/// What the pages show: the pipelines that run, in their order.
type Pipelines = Arc<RwLock<Vec<Arc<Shared>>>>;

struct Agent {
    path: PathBuf,
    config: Config,
    clock: Clock,
    scheduler: Arc<Scheduler>,
    pipelines: Vec<Pipeline>,
    shown: Pipelines,
    sinks: Arc<Sinks>,
    overview: Arc<Overview>,
    server: Option<Server>,
    loader: Loader,
}

impl Agent {
    fn start(path: &Path, config: Config) -> Result<Agent, AgentError> {
        let scheduler = Scheduler::new(cores(), config.power());
        let (clock, shown) = (Clock::start(), Pipelines::default());
        let device = config.device.name.parse().expect("a device's name was checked");
        let sinks = Arc::new(Sinks::open(&config.sinks, &config.device.data, &device)?);
        let machine = Machine::new(cores());
        let overview = Arc::new(Overview::new(&config.device.name, shown.clone(), sinks.clone(), machine));
        let server = serve(&config.status, &overview)?;
        let loader = Loader::start(scheduler.clone());
        let (path, pipelines) = (path.to_owned(), Vec::new());
        let mut agent =
            Agent { path, config, clock, scheduler, pipelines, shown, sinks, overview, server, loader };
        let config = agent.config.clone();
        let opened = (0..config.pipelines.len())
            .map(|index| checked_or_spare(&agent.path, &config, index))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, opened) in opened.into_iter().enumerate() {
            let pipeline = agent.pipeline(&config, index, opened)?;
            agent.pipelines.push(pipeline);
        }
        agent.show();
        let (count, cores) = (agent.pipelines.len(), agent.scheduler.cores());
        event(Level::Info, SELF, format!("{} runs {count} pipelines on {cores} cores", config.device.name));
        if let Some(server) = &agent.server {
            event(Level::Info, SELF, format!("status page and metrics: {}", server.url()));
        }
        if config.power.cpu.is_some() && cpu_seconds().is_none() {
            event(
                Level::Warning,
                SELF,
                "power.cpu: this system does not tell CPU seconds, so there is no ceiling",
            );
        }
        Ok(agent)
    }

    /// Starts a pipeline whose package was opened.
    fn pipeline(
        &self,
        config: &Config,
        index: usize,
        Ready { opened, watch, tried, refused }: Ready,
    ) -> Result<Pipeline, AgentError> {
        let pipeline = config.pipelines[index].clone();
        let passed = refused.is_none().then(|| opened.stamp.clone());
        let files = Files::new(tried, passed, Spare::new(&config.device.data, &pipeline.name));
        let (name, threads) = (pipeline.name.clone(), threads(config, &pipeline));
        if let Some(remark) = opened.remark {
            event(Level::Info, &name, format!("{}: {remark}", opened.name));
        }
        let started = Pipeline::start(
            pipeline,
            (opened, watch),
            threads,
            &self.scheduler,
            self.clock,
            self.sinks.clone(),
        );
        let pipeline = started.map_err(|fault| within(&self.path, index, fault))?;
        if let Some(refused) = refused {
            event(Level::Error, &name, &refused);
            pipeline.shared().slot.refuse();
            pipeline.shared().board.refused(refused);
        }
        self.loader.watch(pipeline.shared().clone(), files);
        Ok(pipeline)
    }

    fn show(&self) {
        let shared = self.pipelines.iter().map(|pipeline| pipeline.shared().clone()).collect();
        *self.shown.write().unwrap_or_else(std::sync::PoisonError::into_inner) = shared;
    }

    /// Until the end is wanted, or every source has ended.
    fn follow(&mut self, signals: &mut Signals, notifier: &Notifier) {
        let pace = notifier.watchdog().map_or(TICK, |watchdog| (watchdog / 3).min(TICK));
        let mut tick = Instant::now();
        loop {
            signals.wait(pace.min(tick.saturating_duration_since(Instant::now())));
            if signals.wants_end() {
                return event(Level::Info, SELF, "the end is wanted");
            }
            if signals.wants_reload() {
                notifier.reloading();
                self.reload();
                notifier.tell("READY=1");
            }
            if self.pipelines.iter().all(|pipeline| pipeline.shared().is_over()) {
                return event(Level::Info, SELF, "all sources have ended");
            }
            if Instant::now() >= tick {
                tick += TICK;
                tick = tick.max(Instant::now());
                self.overview.tick();
            }
            self.tell_watchdog(notifier);
        }
    }

    fn tell_watchdog(&self, notifier: &Notifier) {
        let hangs = |pipeline: &&Pipeline| pipeline.shared().silent().is_some_and(|silent| silent > HANGS);
        match self.pipelines.iter().find(hangs) {
            None if notifier.watchdog().is_some() => notifier.tell("WATCHDOG=1"),
            None => {}
            Some(pipeline) => {
                event(
                    Level::Error,
                    pipeline.shared().name(),
                    "hangs: the watchdog is not told that all is well",
                );
            }
        }
    }

    /// Reads the configuration again. What is wrong with it is said, and nothing changes.
    fn reload(&mut self) {
        let begun = Instant::now();
        let done = Config::load(&self.path).map_err(AgentError::from).and_then(|config| self.adopt(config));
        match done {
            Ok(changes) => event(
                Level::Info,
                SELF,
                format!("reloaded in {:.2} s: {changes}", begun.elapsed().as_secs_f64()),
            ),
            Err(error) => event(
                Level::Error,
                SELF,
                format!("the configuration is refused, the one before stays: {error}"),
            ),
        }
    }

    /// Becomes what another configuration says. Pipelines that are the same go on; where only the package or its budgets
    /// are others, it is swapped under them; others begin anew. Everything that can fail comes before anything ends.
    fn adopt(&mut self, config: Config) -> Result<String, AgentError> {
        if config.device != self.config.device {
            let right = "it cannot change while the agent runs: start it anew".into();
            let fault = Fault::Table { path: "device".into(), right };
            return Err(ConfigError { file: self.path.clone(), fault }.into());
        }
        let fates: Vec<Fate> = config.pipelines.iter().map(|new| self.fate(&config, new)).collect();
        let mut opened = Vec::new();
        for (index, fate) in fates.iter().enumerate() {
            opened.push(if *fate == Fate::New { Some(self.checked(&config, index)?) } else { None });
        }
        if config.status != self.config.status {
            // The address may be the same, under other names.
            self.server = None;
            let server = serve(&config.status, &self.overview);
            self.server = match server {
                Ok(server) => server,
                Err(error) => {
                    self.server = serve(&self.config.status, &self.overview)?;
                    return Err(error);
                }
            };
        }
        self.scheduler.limit(config.power());
        if config.sinks != self.config.sinks
            && let Err(errors) = self.sinks.reconfigure(&config.sinks)
        {
            errors.iter().for_each(|error| event(Level::Error, SELF, format!("it is left out: {error}")));
        }
        let mut before = std::mem::take(&mut self.pipelines);
        let count = |fate| fates.iter().filter(|other| **other == fate).count();
        let changes = format!(
            "{} pipelines go on, {} get another package, {} begin",
            count(Fate::Same),
            count(Fate::Swap),
            count(Fate::New)
        );
        let mut after = Vec::new();
        for (index, opened) in opened.into_iter().enumerate() {
            let new = &config.pipelines[index];
            let at = before.iter().position(|old| old.shared().name() == new.name);
            let old = at.map(|at| before.remove(at));
            match (opened, old) {
                (Some(opened), old) => {
                    old.into_iter().for_each(|old| self.end(old));
                    match self.pipeline(&config, index, opened) {
                        Ok(pipeline) => after.push(pipeline),
                        Err(error) => event(Level::Error, &new.name, format!("it does not begin: {error}")),
                    }
                }
                (None, Some(old)) => {
                    old.shared().slot.want(new.model.clone());
                    after.push(old);
                }
                (None, None) => {}
            }
        }
        before.into_iter().for_each(|old| self.end(old));
        (self.pipelines, self.config) = (after, config);
        self.show();
        Ok(changes)
    }

    /// Checks a package beside the pipelines that run.
    fn checked(&self, config: &Config, index: usize) -> Result<Ready, AgentError> {
        let client = self.scheduler.join_uncounted(threads(config, &config.pipelines[index]));
        checked(&self.path, config, index, &mut |one| in_turn(&client, || false, one))
    }

    fn fate(&self, config: &Config, new: &PipelineConfig) -> Fate {
        let runs = |old: &&Pipeline| old.shared().name() == new.name && !old.shared().is_over();
        let Some(old) = self.pipelines.iter().find(runs) else { return Fate::New };
        let shared = old.shared();
        let wanted = PipelineConfig { model: shared.slot.wanted(), ..shared.config.clone() };
        let mut alike = wanted.clone();
        (alike.model.path, alike.model.max_latency, alike.model.max_memory) =
            (new.model.path.clone(), new.model.max_latency, new.model.max_memory);
        match threads(config, new) == shared.threads {
            true if wanted == *new => Fate::Same,
            true if alike == *new => Fate::Swap,
            _ => Fate::New,
        }
    }

    fn end(&self, mut pipeline: Pipeline) {
        self.loader.forget(pipeline.shared().name());
        pipeline.stop();
        pipeline.join(Instant::now() + FAREWELL);
    }

    /// Ends everything, within a second.
    fn stop(mut self) {
        let deadline = Instant::now() + FAREWELL;
        self.pipelines.iter().for_each(Pipeline::stop);
        for pipeline in &mut self.pipelines {
            if !pipeline.join(deadline) {
                event(Level::Warning, pipeline.shared().name(), "it does not end in time and is cut off");
            }
        }
        self.sinks.close();
        event(Level::Info, SELF, "ended");
    }
}

/// What a new configuration means for a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Same,
    Swap,
    New,
}

/// A package that may run, and what watches its answers.
struct Ready {
    opened: Opened,
    watch: Watch,
    /// The file that the configuration names.
    tried: Option<Stamp>,
    /// Why another one runs in its place.
    refused: Option<String>,
}

/// Opens a package, replays golden samples at it, and looks whether it has what the configuration asks for. One that has not
/// run here before is checked as in a swap.
fn checked(path: &Path, config: &Config, index: usize, turn: InTurn<'_>) -> Result<Ready, AgentError> {
    let pipeline = &config.pipelines[index];
    let mut opened = open(config, index)?;
    let is_known = Spare::new(&config.device.data, &pipeline.name).is_copy_of(&pipeline.model.path);
    let done = match is_known {
        true => opened.check_one(),
        false => opened.check_start(pipeline.model.max_latency, turn),
    };
    done.map_err(|refusal| refused(config, index, refusal))?;
    let watch = watch(path, config, index, &mut opened)?;
    Ok(Ready { tried: Some(opened.stamp.clone()), opened, watch, refused: None })
}

/// The same; where the package is refused, the last one that was good, if there is one.
fn checked_or_spare(path: &Path, config: &Config, index: usize) -> Result<Ready, AgentError> {
    let pipeline = &config.pipelines[index];
    let tried = Stamp::of(&pipeline.model.path).ok();
    let error = match checked(path, config, index, &mut |one| one()) {
        Err(error) => error,
        ready => return ready,
    };
    let mut other = config.clone();
    other.pipelines[index].model.path = Spare::new(&config.device.data, &pipeline.name).path().into();
    let Ok(mut ready) = checked(path, &other, index, &mut |one| one()) else { return Err(error) };
    ready.opened.name += ", the last good one";
    ready.refused = Some(format!("{error}; {}, answers instead", ready.opened.name));
    Ok(Ready { tried, ..ready })
}

fn watch(path: &Path, config: &Config, index: usize, opened: &mut Opened) -> Result<Watch, AgentError> {
    let reference = opened.reference.take();
    let watch = Watch::new(&config.pipelines[index], opened.model.task(), reference);
    watch.map_err(|fault| within(path, index, fault))
}

fn serve(config: &StatusConfig, overview: &Arc<Overview>) -> Result<Option<Server>, AgentError> {
    let StatusConfig { enabled, listen, names } = config.clone();
    let server = enabled.then(|| Server::at(listen, overview.clone(), names)).transpose();
    server.map_err(|error| AgentError::Status { listen, error })
}

/// A fault of a pipeline, as one of the configuration.
fn within(file: &Path, index: usize, fault: Fault) -> AgentError {
    let fault = match fault {
        Fault::Table { path, right } => Fault::Table { path: format!("pipeline[{index}].{path}"), right },
        Fault::Value { path, value, right } => {
            Fault::Value { path: format!("pipeline[{index}].{path}"), value, right }
        }
        Fault::Text(right) => Fault::Table { path: format!("pipeline[{index}]"), right },
    };
    ConfigError { file: file.into(), fault }.into()
}
