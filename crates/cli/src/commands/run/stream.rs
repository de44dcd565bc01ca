//! `espalier run --source`: a stream of pictures or rows, answers as lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context;
use espalier_agent::{Board, Event, Fault, Frame, Policy, Server, Shot, Source, SourceError, Stream, Tally};
use espalier_tasks::{Answer, Content, Model};
use serde_json::{Value, json};

use crate::exit::usage;
use crate::{open, print};

/// Longest wait before a look at whether the stream is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Flags of `run --source`.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Of streams")]
pub(super) struct Args {
    /// Where pictures or rows come from.
    #[arg(long, value_name = "0|FILE|URL|-")]
    pub(super) source: Option<String>,
    /// Show the newest picture with its answer to browsers of this machine.
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
    let (isa, threads) = (open::isa(args.isa.as_deref())?, open::threads(args.threads)?);
    if flags.rate.is_some_and(|rate| !(0.001..=1000.0).contains(&rate)) {
        return Err(usage("--rate: it is not in 0.001..=1000 frames a second"));
    }
    let source = Source::new(source).map_err(source_error)?;
    let model = model(args, isa, threads)?;
    source.check(model.task()).map_err(source_error)?;
    if flags.show && model.task().picture_input().is_none() {
        return Err(usage("--show: a series has no picture; its answers are the lines of the output"));
    }
    let shown = flags.show.then(|| show(args, &source, &model)).transpose()?;
    let policy = match flags.policy.as_deref() {
        Some("latest") => Policy::Latest,
        Some(_) => Policy::Every,
        None => source.policy(),
    };
    let stop = stop()?;
    let board = shown.as_ref().map(|(board, _)| board.clone());
    let mut run = Run { model, board, json: args.json, tally: Tally::default(), begun: Instant::now() };
    let stream = Stream::open(source, policy, flags.rate);
    let result = run.follow(&stream, &stop);
    stream.close();
    stream.count(&mut run.tally);
    if let Some((board, server)) = shown {
        board.ended(&run.tally);
        // Pages that are open hear it.
        std::thread::sleep(Duration::from_millis(200));
        drop(server);
    }
    eprintln!("{}", run.summary());
    result
}

/// The package's model. Without a task there is nothing that pictures could be fed to.
fn model(args: &super::Args, isa: espalier_runtime::Isa, threads: usize) -> anyhow::Result<Model> {
    let shown = args.package.display();
    if open::package(&args.package)?.manifest.task.is_none() {
        return Err(usage(format!(
            "package {shown} has no task, so nobody knows how a picture becomes its input: make it again with `espalier \
             import MODEL.onnx --task classify-image|detect --labels FILE --out {shown}`, or feed tensors with --input"
        )));
    }
    open::model(&args.package, isa, threads)
}

fn show(args: &super::Args, source: &Source, model: &Model) -> anyhow::Result<(Arc<Board>, Server)> {
    let package = args.package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let board = Board::new(source.to_string(), package, model.task().labels().to_vec());
    let port = args.stream.port;
    let server = Server::start(board.clone(), port)
        .with_context(|| port.map_or("--show".into(), |port| format!("--port {port}")))?;
    eprintln!("live picture: {}", server.url());
    Ok((board, server))
}

fn source_error(error: SourceError) -> anyhow::Error {
    match error {
        SourceError::Wrong(text) => usage(format!("--source {text}")),
        SourceError::Failed(text) => anyhow::anyhow!("--source {text}"),
    }
}

/// Is set by the first Ctrl-C or SIGTERM; a second one ends the program at once.
fn stop() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

struct Run {
    model: Model,
    board: Option<Arc<Board>>,
    json: bool,
    tally: Tally,
    begun: Instant,
}

impl Run {
    /// Answers frame after frame, until the stream ends or is to be ended.
    fn follow(&mut self, stream: &Stream, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let event = stream.next(PATIENCE);
            stream.count(&mut self.tally);
            match event {
                Event::Frame(frame) => self.frame(frame)?,
                Event::Trouble(text) => self.trouble(&text),
                Event::Ended(Ok(())) if self.tally.seen == 0 => anyhow::bail!("the source gave no frame"),
                Event::Ended(Ok(())) if self.tally.broken == self.tally.seen => {
                    anyhow::bail!("no frame of the source is what the package takes")
                }
                Event::Ended(result) => return result.map_err(source_error),
                Event::Nothing => {}
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> anyhow::Result<()> {
        match frame.content(self.model.task()) {
            Ok(content) => self.answer(&frame, content),
            Err(fault) => {
                self.broken(&frame, &fault);
                Ok(())
            }
        }
    }

    fn answer(&mut self, frame: &Frame, content: Content) -> anyhow::Result<()> {
        let begun = Instant::now();
        let answer = self.model.answer(content.input())?;
        let (inference, latency) = (begun.elapsed(), frame.captured.elapsed());
        self.tally.processed(inference, latency);
        let (inference_ms, latency_ms) = (inference.as_secs_f64() * 1e3, latency.as_secs_f64() * 1e3);
        self.print(frame, &answer, inference_ms)?;
        if let (Some(board), Content::Image(image)) = (&self.board, content) {
            let (number, captured) = (frame.number, frame.captured);
            board.shot(Shot { number, image, answer, inference_ms, latency_ms, captured }, &self.tally);
        }
        Ok(())
    }

    fn print(&self, frame: &Frame, answer: &Answer, ms: f64) -> anyhow::Result<()> {
        let value = line(frame, answer, self.model.task().labels(), ms);
        print::result(self.json, &value, || {
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
        self.tally.broken += 1;
        let file = frame.file.as_ref().map(|file| format!(" ({file})")).unwrap_or_default();
        self.trouble(&format!("frame {}{file} is broken: {fault}", frame.number));
    }

    fn trouble(&self, text: &str) {
        eprintln!("espalier: {}", print::line(text));
        if let Some(board) = &self.board {
            board.trouble(text, &self.tally);
        }
    }

    fn summary(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = self.tally.processed as f64 / seconds.max(1e-6);
        format!("{}; {seconds:.1} s, {rate:.1} frames/s", self.tally.summary())
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
