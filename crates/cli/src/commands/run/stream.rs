//! `espalier run --source`: a stream of pictures or rows, answers as lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail};
use espalier_agent::{
    Board, Fault, Frame, Listener, Manner, Policy, Reading, Seen, Server, Source, SourceError, Stream,
    Viewer, broken,
};
use espalier_tasks::{Answer, Model};
use serde_json::{Value, json};

use crate::exit::usage;
use crate::{open, print, signals};

/// Flags of `run --source`.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Of streams")]
pub(super) struct Args {
    /// Where pictures or rows come from.
    #[arg(long, value_name = "0|FILE|URL|-")]
    pub(super) source: Option<String>,
    /// Show the newest picture with its answer, or the newest row with its score, to browsers of this machine.
    #[arg(long, requires = "source")]
    show: bool,
    /// Port of the page; default: 8484, or any that is free.
    #[arg(long, requires = "show")]
    port: Option<u16>,
    /// latest: the newest frame wins, older ones are skipped; every: the source waits. Default: latest of what is live,
    /// every of what is stored or piped.
    #[arg(long, requires = "source", value_parser = ["latest", "every"])]
    policy: Option<String>,
    /// At most so many frames (pictures, rows) a second: for playing a file at its own speed.
    #[arg(long, value_name = "FPS", requires = "source")]
    rate: Option<f64>,
}

pub(super) fn run(args: &super::Args, source: &str) -> anyhow::Result<()> {
    let flags = &args.stream;
    if flags.rate.is_some_and(|rate| !(0.001..=1000.0).contains(&rate)) {
        return Err(usage("--rate: it is not in 0.001..=1000 frames a second"));
    }
    let source = Source::new(source).map_err(source_error)?;
    let model = model(args)?;
    source.check(model.task()).map_err(source_error)?;
    let policy = match flags.policy.as_deref() {
        Some("latest") => Policy::Latest,
        Some(_) => Policy::Every,
        None => source.policy(),
    };
    let (shown, nothing) = match model.task().row_columns() {
        Some(_) => ("live values", "no line of the source is a row of what the package takes"),
        None => ("live picture", "no frame of the source is a picture"),
    };
    let stop = signals::stop()?;
    let package = args.package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let labels = model.task().labels().to_vec();
    let board = Board::new(source.to_string(), package, labels);
    let server = flags.show.then(|| show(shown, &board, flags.port)).transpose()?;
    let reading = Reading { policy, rate: flags.rate, ..Reading::usual(&source) };
    let begun = Instant::now();
    let mut viewer = Viewer::new(model, board.clone(), Manner::default());
    let stream = Stream::open(move || Ok(source.clone()), reading);
    let ended = viewer.follow(&stream, &mut Printer { json: args.json, begun, stop: stop.clone() });
    stream.close();
    viewer.count(&stream);
    if let Some(server) = server {
        board.ended(None);
        // Pages that are open hear it.
        std::thread::sleep(Duration::from_millis(200));
        drop(server);
    }
    let (summary, counts) = board.tally(|tally| (tally.summary(), tally.counts));
    let seconds = begun.elapsed().as_secs_f64();
    let rate = counts.processed as f64 / seconds.max(1e-6);
    eprintln!("{summary}; {seconds:.1} s, {rate:.1} frames/s");
    match ended? {
        Ok(()) if stop.load(Ordering::Relaxed) => Ok(()),
        Ok(()) if counts.seen() == 0 => bail!("the source gave no frame"),
        Ok(()) if counts.broken == counts.seen() => bail!("{nothing}"),
        result => result.map_err(source_error),
    }
}

/// The package's model. Without a task there is nothing that pictures could be fed to.
fn model(args: &super::Args) -> anyhow::Result<Model> {
    let shown = args.package.display();
    if open::package(&args.package)?.manifest.task.is_none() {
        return Err(usage(format!(
            "package {shown} has no task, so nobody knows how a picture becomes its input: make it again with `espalier \
             import MODEL.onnx --task classify-image|detect --labels FILE --out {shown}`, or feed tensors with --input"
        )));
    }
    args.compute.model(&args.package)
}

fn show(what: &str, board: &Arc<Board>, port: Option<u16>) -> anyhow::Result<Server> {
    let server = Server::start(board.clone(), port)
        .with_context(|| port.map_or("--show".into(), |port| format!("--port {port}")))?;
    eprintln!("{what}: {}", server.url());
    Ok(server)
}

fn source_error(error: SourceError) -> anyhow::Error {
    match error {
        SourceError::Wrong(text) | SourceError::Missing(text) => usage(format!("--source {text}")),
        SourceError::Failed(text) => anyhow::anyhow!("--source {text}"),
    }
}

/// Prints answers on stdout and everything else on stderr.
struct Printer {
    json: bool,
    begun: Instant,
    stop: Arc<AtomicBool>,
}

impl Listener for Printer {
    type Error = anyhow::Error;

    fn answered(&mut self, seen: &Seen<'_>) -> anyhow::Result<()> {
        let (frame, answer, ms) = (seen.frame, seen.answer, seen.inference.as_secs_f64() * 1e3);
        print::result(self.json, &line(frame, answer, seen.labels, ms), || {
            let seconds = frame.captured.saturating_duration_since(self.begun).as_secs_f64();
            let file = frame.file.as_ref().map(|file| format!("{}  ", print::line(file))).unwrap_or_default();
            format!(
                "{}  {seconds:.3} s  {file}{}  {ms:.2} ms\n",
                frame.number,
                print::line(&answer.summary())
            )
        })
    }

    fn broken(&mut self, frame: &Frame, fault: &Fault) {
        self.failing(&broken(frame, fault));
    }

    fn failing(&mut self, text: &str) {
        eprintln!("espalier: {}", print::line(text));
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One answer as `run --source --json` has it. `time` is in seconds since 1970.
fn line(frame: &Frame, answer: &Answer, labels: &[String], ms: f64) -> Value {
    let time = frame.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64 / 1e3;
    let mut fields = answer.fields(labels);
    let own = json!({"frame": frame.number, "time": time, "ms": (ms * 1e3).round() / 1e3});
    fields.extend(own.as_object().cloned().unwrap_or_default());
    if let Some(file) = &frame.file {
        fields.insert("file".into(), file.as_str().into());
    }
    fields.into()
}
