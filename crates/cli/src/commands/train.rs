//! `espalier train`: from labelled data to a package.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use espalier_train::data::{Level, Sampling};
use espalier_train::networks::NAMES;
use espalier_train::observers::mlflow::Server;
use espalier_train::run_folder::RunFolder;
use espalier_train::schedule::Shape;
use espalier_train::series::FalseAlarms;
use espalier_train::{Event, OptimizerName, Outcome, Overrides, Request, Stopped, Subject, UsageError};

use crate::commands::benchmark::refuse_precision;
use crate::exit::{Ending, usage};
use crate::foreign;
use crate::progress::Progress;
use crate::{print, quantity};

/// Train a network on labelled data, or on series; writes RUN/best.espalier and RUN/report.html.
#[derive(clap::Args)]
#[command(after_help = "\
DATA is a folder with train|val|test/CLASS/PICTURES or CLASS/PICTURES, a folder with IDX files, or builtin:mnist-5k; or
series of numbers, .csv or .jsonl, from which a detector of anomalies is learned without labels (docs/anomaly.md).
What is not given is chosen from size and shape of the data and written to RUN/run.toml.

Examples:
  espalier train builtin:mnist-5k
  espalier train photos --target accuracy=0.95 --max-time 30m
  espalier train photos --model resnet18 --imgsz 224 --out runs/big
  espalier train photos --init runs/big/best.espalier       begin with weights that know something
  espalier train photos --init other.onnx --freeze backbone  begin with another tool's network, learn a new head only
  espalier train photos --out runs/big --resume           go on after a crash, to the same bits
  espalier train pump.csv --false-alarms 1/week           learn what is usual of a series")]
pub(crate) struct Args {
    /// The data.
    pub(crate) data: String,
    #[arg(long, help_heading = "Network", help = format!("Network: auto, {}", NAMES.join(", ")))]
    pub(crate) model: Option<String>,
    /// Scale of the network's channels.
    #[arg(long, help_heading = "Network", allow_negative_numbers = true)]
    pub(crate) width: Option<f32>,
    /// Height and width of the network's input in pixels.
    #[arg(long, help_heading = "Network")]
    pub(crate) imgsz: Option<usize>,
    /// Weights to begin with: a package, an ONNX file, whose network is taken too, or a safetensors file with PyTorch's
    /// names; see docs/transfer.md.
    #[arg(long, help_heading = "Network", value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,
    /// Layers that stay as they are, by name or first parts of it: layer1,layer2.0; backbone is all but the head.
    #[arg(long, help_heading = "Network", value_name = "LAYERS")]
    pub(crate) freeze: Option<String>,
    /// Mean of the pictures' channels, of values scaled to 0..1: 0.485,0.456,0.406, or one for all; default: the data's.
    #[arg(long, help_heading = "Network", allow_negative_numbers = true)]
    pub(crate) mean: Option<String>,
    /// Standard deviation of the pictures' channels likewise.
    #[arg(long, help_heading = "Network", allow_negative_numbers = true)]
    pub(crate) std: Option<String>,
    /// Epochs at most.
    #[arg(long, help_heading = "Learning")]
    pub(crate) epochs: Option<usize>,
    /// Images in a step.
    #[arg(long, help_heading = "Learning")]
    pub(crate) batch: Option<usize>,
    /// Highest learning rate.
    #[arg(long, help_heading = "Learning", allow_negative_numbers = true)]
    pub(crate) lr: Option<f32>,
    /// Optimizer.
    #[arg(long, help_heading = "Learning", value_enum)]
    pub(crate) optimizer: Option<OptimizerArg>,
    /// Shape of the learning rate over the run.
    #[arg(long, help_heading = "Learning", value_enum)]
    pub(crate) schedule: Option<ScheduleArg>,
    /// Epochs of linear warm-up (one-cycle brings its own).
    #[arg(long, help_heading = "Learning", allow_negative_numbers = true)]
    pub(crate) warmup: Option<f32>,
    /// Weight decay.
    #[arg(long, help_heading = "Learning", allow_negative_numbers = true)]
    pub(crate) weight_decay: Option<f32>,
    /// Label smoothing, 0 to 0.9.
    #[arg(long, help_heading = "Learning", allow_negative_numbers = true)]
    pub(crate) smoothing: Option<f32>,
    /// Largest norm of all gradients together; 0 for no limit.
    #[arg(long, help_heading = "Learning", allow_negative_numbers = true)]
    pub(crate) clip_norm: Option<f32>,
    /// Keep a moving average of the weights with this decay, e.g. 0.999, and validate that; 0 for none.
    #[arg(long, help_heading = "Learning", value_name = "DECAY", allow_negative_numbers = true)]
    pub(crate) ema: Option<f32>,
    /// How much training images are changed at random; default: light. run.toml says what that is for the data.
    #[arg(long, help_heading = "Pictures", value_enum)]
    pub(crate) augment: Option<AugmentArg>,
    /// Mirror training images at random; default: where they are colour photographs.
    #[arg(long, help_heading = "Pictures", overrides_with = "no_flip")]
    pub(crate) flip: bool,
    /// Never mirror training images.
    #[arg(long, help_heading = "Pictures")]
    pub(crate) no_flip: bool,
    /// Which images make an epoch: each once, or drawn so that all classes are equally likely.
    #[arg(long, help_heading = "Pictures", value_enum)]
    pub(crate) sampling: Option<SamplingArg>,
    /// Columns to learn from: temperature,pressure; default: all that hold numbers, but that of time.
    #[arg(long, help_heading = "Series", value_name = "NAMES")]
    pub(crate) columns: Option<String>,
    /// Rows that are looked at together; default: 32.
    #[arg(long, help_heading = "Series", value_name = "ROWS")]
    pub(crate) window: Option<usize>,
    /// Rows from one answer of the network to the next; default: 1.
    #[arg(long, help_heading = "Series", value_name = "ROWS")]
    pub(crate) stride: Option<usize>,
    /// False alarms that are wanted at most: 1/week, 3/day, 1/10000rows; default: 1/month, or 1/10000rows where the rows do not
    /// tell the time.
    #[arg(long, help_heading = "Series", value_name = "RATE")]
    pub(crate) false_alarms: Option<String>,
    /// Stop when the metric on val reaches this, e.g. accuracy=0.95; exit status 3 if it is missed.
    #[arg(long, help_heading = "When to stop", value_name = "METRIC=VALUE")]
    pub(crate) target: Option<String>,
    /// Stop after so many epochs without improvement on val.
    #[arg(long, help_heading = "When to stop")]
    pub(crate) patience: Option<usize>,
    /// Stop after this time, e.g. 90s, 10m, 2h; the learning rate falls in time for it.
    #[arg(long, help_heading = "When to stop")]
    pub(crate) max_time: Option<String>,
    /// Folder of the run; default runs/train, runs/train-2, ...
    #[arg(long, help_heading = "The run")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run in --out.
    #[arg(long, help_heading = "The run", requires = "out")]
    pub(crate) resume: bool,
    /// Seed of all random numbers.
    #[arg(long, help_heading = "The run")]
    pub(crate) seed: Option<u64>,
    /// Worker threads; default: one for each core.
    #[arg(long, help_heading = "The run")]
    pub(crate) threads: Option<usize>,
    /// Arithmetic; auto means f32, bf16 is not built yet.
    #[arg(long, help_heading = "The run", default_value = "auto")]
    pub(crate) precision: String,
    /// Where to train: cpu is all there is so far.
    #[arg(long, help_heading = "The run", default_value = "cpu")]
    pub(crate) device: String,
    /// Time between checkpoints at most, besides one after every epoch.
    #[arg(long, help_heading = "The run", value_name = "TIME", default_value = "30s")]
    pub(crate) checkpoint_every: String,
    /// Print one JSON object.
    #[arg(long, help_heading = "The run")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OptimizerArg {
    Sgd,
    Adamw,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AugmentArg {
    None,
    Light,
    Strong,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum SamplingArg {
    Uniform,
    Balanced,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ScheduleArg {
    Constant,
    Cosine,
    OneCycle,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (outcome, trained) = train(&request(args)?)?;
    let value = serde_json::to_value(&outcome)?;
    print::result(args.json, &value, || summary(&outcome))?;
    // A run that had ended before has nothing to miss any more.
    if trained && outcome.missed_target() {
        let (target, best) = (outcome.target.unwrap_or(0.0), outcome.metrics[&outcome.metric]);
        let text = format!("the target {}={target} was missed: the best was {best:.4}", outcome.metric);
        return Err(Ending::Missed(text).into());
    }
    Ok(())
}

/// Trains with progress on stderr. False where the run had ended before, so that nothing was done.
pub(crate) fn train(request: &Request) -> anyhow::Result<(Outcome, bool)> {
    let mut shown = Shown::default();
    let result = espalier_train::train(request, &mut |event| shown.tell(&event));
    shown.finish();
    result.map(|outcome| (outcome, !shown.had_ended)).map_err(|error| match error.downcast::<UsageError>() {
        Ok(wrong) => usage(wrong),
        Err(error) => error,
    })
}

fn request(args: &Args) -> anyhow::Result<Request> {
    refuse_precision(&args.precision)?;
    if args.device != "cpu" {
        return Err(usage(format!("--device {}: only cpu is built so far", args.device)));
    }
    if args.seed.is_some_and(|seed| i64::try_from(seed).is_err()) {
        return Err(usage("--seed: at most 9223372036854775807 (TOML holds no larger number)"));
    }
    let flip = match (args.flip, args.no_flip) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    let overrides = Overrides {
        model: args.model.clone(),
        width: args.width,
        imgsz: args.imgsz,
        epochs: args.epochs,
        batch: args.batch,
        lr: args.lr,
        optimizer: args.optimizer.map(|o| match o {
            OptimizerArg::Sgd => OptimizerName::Sgd,
            OptimizerArg::Adamw => OptimizerName::Adamw,
        }),
        schedule: args.schedule.map(|s| match s {
            ScheduleArg::Constant => Shape::Constant,
            ScheduleArg::Cosine => Shape::Cosine,
            ScheduleArg::OneCycle => Shape::OneCycle,
        }),
        warmup: args.warmup,
        weight_decay: args.weight_decay,
        smoothing: args.smoothing,
        clip_norm: args.clip_norm,
        augment: args.augment.map(|a| match a {
            AugmentArg::None => Level::None,
            AugmentArg::Light => Level::Light,
            AugmentArg::Strong => Level::Strong,
        }),
        flip,
        ema: args.ema,
        sampling: args.sampling.map(|s| match s {
            SamplingArg::Uniform => Sampling::Uniform,
            SamplingArg::Balanced => Sampling::Balanced,
        }),
        patience: args.patience,
        seed: args.seed,
        threads: args.threads,
        target: args.target.as_deref().map(target).transpose()?,
        max_time_s: args.max_time.as_deref().map(|text| quantity::seconds("--max-time", text)).transpose()?,
        init: None,
        freeze: args.freeze.as_deref().map(layers).transpose()?,
        channels: None,
        mean: args.mean.as_deref().map(|text| numbers("--mean", text)).transpose()?,
        std: args.std.as_deref().map(|text| numbers("--std", text)).transpose()?,
        bgr: false,
        fit: None,
        columns: args.columns.as_deref().map(columns).transpose()?,
        window: args.window,
        stride: args.stride,
        false_alarms: args.false_alarms.as_deref().map(false_alarms).transpose()?,
    };
    let out = args.out.clone().unwrap_or_else(|| RunFolder::fresh("train"));
    let checkpoint_every =
        Duration::from_secs_f64(quantity::seconds("--checkpoint-every", &args.checkpoint_every)?);
    let (data, init, resume, mlflow) = (args.data.clone(), args.init.clone(), args.resume, mlflow());
    Ok(Request { data, overrides, out, init, import: foreign::read, resume, checkpoint_every, mlflow })
}

/// The MLflow server that the environment names.
pub(crate) fn mlflow() -> Option<Server> {
    Server::from_environment(&|name| std::env::var(name).ok()).unwrap_or_else(|reason| {
        eprintln!("warning: {reason}");
        None
    })
}

fn target(text: &str) -> anyhow::Result<f64> {
    let wrong = || usage(format!("--target {text}: it should be like accuracy=0.95, between 0 and 1"));
    let value = text.strip_prefix("accuracy=").ok_or_else(wrong)?;
    value.parse().ok().filter(|v| (0.0..=1.0).contains(v)).ok_or_else(wrong)
}

/// Names between commas, each once and in order, so that the same layers are the same settings.
fn layers(text: &str) -> anyhow::Result<Vec<String>> {
    let names: BTreeSet<&str> = text.split(',').map(str::trim).collect();
    if names.contains("") {
        return Err(usage(format!(
            "--freeze {text}: it should be names between commas, like layer1,layer2.0"
        )));
    }
    Ok(names.into_iter().map(String::from).collect())
}

/// Columns between commas, in the order in which they are given.
fn columns(text: &str) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().any(String::is_empty) {
        true => Err(usage(format!("--columns {text}: it should be names between commas"))),
        false => Ok(names),
    }
}

fn false_alarms(text: &str) -> anyhow::Result<FalseAlarms> {
    text.parse().map_err(|reason| usage(format!("--false-alarms {reason}")))
}

/// Numbers between commas.
fn numbers(flag: &str, text: &str) -> anyhow::Result<Vec<f32>> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    values.map_err(|_| usage(format!("{flag} {text}: it should be like 0.5 or 0.485,0.456,0.406")))
}

/// What is on the screen.
#[derive(Default)]
struct Shown {
    bar: Option<Progress>,
    epochs: usize,
    had_ended: bool,
}

impl Shown {
    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { subject, cost, notes, resumed, .. } => {
                begin(subject);
                let (parameters, macs) = (millions(cost.parameters), millions(cost.macs));
                let epochs = subject.epochs();
                eprintln!(
                    "{parameters} M parameters, {macs} M multiply-accumulates; at most {epochs} epochs"
                );
                notes.iter().for_each(|note| eprintln!("  {note}"));
                if let Some((epoch, batch)) = resumed {
                    eprintln!("going on after epoch {epoch} and {batch} batches");
                }
                self.epochs = epochs;
            }
            Event::Step { epoch, batch, batches, loss, .. } => {
                let (done, all) = ((epoch * batches + batch) as u64, (self.epochs * batches) as u64);
                let bar = self
                    .bar
                    .get_or_insert_with(|| Progress::new("training", "steps", all, done.saturating_sub(1)));
                bar.set(done, &format!("epoch {}/{} loss {loss:.3}", epoch + 1, self.epochs));
            }
            Event::Epoch { row, best, .. } => {
                let (epoch, loss) = (row.epoch, row.train_loss);
                let mark = if *best { " *" } else { "" };
                let shown = ["accuracy", "f1", "loss"]
                    .into_iter()
                    .filter(|name| *name != "f1" || row.train_accuracy.is_none());
                let val = shown.filter_map(|name| Some(format!("  val {name} {:.4}", row.val.get(name)?)));
                self.say(&format!("epoch {epoch:3}  loss {loss:.4}{}{mark}", val.collect::<String>()));
            }
            Event::Warning { text } => self.say(&format!("warning: {text}")),
            Event::Ended { .. } => {}
            Event::AlreadyDone => {
                self.had_ended = true;
                eprintln!("this run has ended already; nothing to do");
            }
        }
    }

    /// A line that stays.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.say(line),
            None => eprintln!("{line}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// What there is to learn from, and by what.
fn begin(subject: &Subject<'_>) {
    let name = print::line(subject.name());
    match subject {
        Subject::Pictures { dataset, statistics, settings } => {
            let ([train, val, test], classes) = (statistics.images, dataset.classes.len());
            eprintln!("{name}: {train} train, {val} val and {test} test images in {classes} classes");
            dataset.warnings.iter().for_each(|w| eprintln!("warning: {}", print::line(w)));
            print::skipped(&dataset.skipped);
            let (model, size) = (&settings.model, settings.imgsz);
            eprintln!("{model} x{} at {size}x{size}, batch {}", settings.width, settings.batch);
        }
        Subject::Series { data, settings } => {
            let [train, val, test] = data.rows();
            eprintln!(
                "{name}: {train} train, {val} val and {test} test rows of {}",
                settings.columns.join(", ")
            );
            print::skipped(&data.skipped);
            let (model, window) = (&settings.model, settings.window);
            eprintln!("{model} of windows of {window} rows, at most {} false alarms", settings.false_alarms);
        }
    }
}

fn millions(n: usize) -> String {
    print::significant(n as f64 / 1e6)
}

/// The last lines for people: what happened, what to try, and where the results are.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let Outcome { metric, best_epoch, epochs, verdict, out, .. } = outcome;
    let why = match outcome.stopped {
        Stopped::Target => String::new(),
        Stopped::Patience => format!("no improvement on val for {} epochs; ", epochs - best_epoch),
        Stopped::Time => format!("time is up after epoch {epochs}; "),
        Stopped::Epochs => format!("all {epochs} epochs done; "),
    };
    let best = outcome.metrics[metric];
    let advice: String = verdict.advice.iter().map(|line| format!("  - {line}\n")).collect();
    let advice = if advice.is_empty() { advice } else { format!("What to try:\n{advice}") };
    let files =
        ["report.html", "best.espalier"].map(|name| format!("{}\n", out.join(name).display())).concat();
    format!("{why}best: val {metric} {best:.4} at epoch {best_epoch}\n{}\n{advice}{files}", verdict.text)
}
