//! `espalier demo`: the whole cycle on this machine: train, validate, compress, and the agent on a camera that gets worse.

mod child;
mod device;
mod learn;
mod picture;
mod told;

use std::path::{Path, PathBuf};

use espalier_tasks::Limits;
use espalier_train::data::{Dataset, Split};
use espalier_train::run_folder::RunFolder;
use serde_json::{Value, json};

use crate::{open, print};
use device::{DIGITS, Scene};
use told::{All, Told};

/// Train, compress, and run the agent on a camera that gets worse: on the built-in handwritten digits, or on your folder.
#[derive(clap::Args)]
#[command(after_help = "\
The agent is a process of its own. It looks at the digits as they are, then darkened, blurred, turned and with noise, and says \
what it sees; what it kept and told is in RUN/device. The pictures of a folder of yours are played as they are.

Examples:
  espalier demo
  espalier demo photos --out runs/photos")]
pub(crate) struct Args {
    /// The data.
    #[arg(default_value = DIGITS)]
    data: String,
    /// Folder of the run; default runs/demo, runs/demo-2, ...
    #[arg(long)]
    out: Option<PathBuf>,
    /// Epochs of the training; default: 12 for the digits, else by the data.
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Seed of all random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| RunFolder::fresh("demo"));
    eprintln!("1. Training on {}", args.data);
    let data = open::dataset(&args.data)?;
    let trained = learn::train(args, out)?;
    eprintln!("\n2. Validating");
    let split = learn::held_out(&data);
    let validation = learn::validate(args, &trained.package, split)?;
    eprintln!("\n3. Compressing");
    let compressed = learn::compress(args, &trained)?;
    let scenes = scenes(args, &data, split, &trained.out)?;
    let all = device::run(&scenes, &compressed.package, &trained.out.join("device"))?;
    let mut value = measured(&scenes, &all);
    value["energy_mj"] = compressed.energy_mj.into();
    value["validation"] = validation;
    value["compress"] = compressed.value;
    value["epochs"] = trained.epochs.into();
    value["package"] = compressed.package.display().to_string().into();
    value["out"] = trained.out.display().to_string().into();
    print::result(args.json, &value, || {
        shown(&scenes, &data, &all)
            + &sentences(&value)
            + &next(&trained.package, &compressed.package, &args.data, split)
    })
}

/// What the agent will look at.
fn scenes(args: &Args, data: &Dataset, split: Split, out: &Path) -> anyhow::Result<Vec<Scene>> {
    if args.data == DIGITS {
        eprintln!(
            "\n4. The agent, on a camera that shows digits of the test split, each disturbed for a while"
        );
        return Ok(device::digits(args.seed));
    }
    eprintln!(
        "\n4. The agent, on the pictures of {split}; nothing disturbs them, so nothing is measured of that"
    );
    device::pictures(data, split, &out.join("held-out"))
}

/// The figures that scripts read. Nothing adapts to what has drifted yet, so there is no accuracy after that.
fn measured(scenes: &[Scene], all: &All) -> Value {
    let of = |scene: &Scene| all.get(scene.name).cloned().unwrap_or_default();
    let each: Vec<Told> = scenes.iter().map(of).collect();
    let (before, during) = each.split_at(1);
    let (sum, before, during) = (Told::sum(&each), Told::sum(before), Told::sum(during));
    json!({
        "accuracy": {"before": before.accuracy(), "during": during.accuracy(), "after": null},
        "bytes": {"seen": sum.seen_bytes, "sent": sum.sent_bytes},
        "latency": {"p50_ms": sum.p50_ms, "p99_ms": sum.p99_ms},
        "frames": sum.frames, "hard_samples": sum.samples,
        "scenes": scenes.iter().zip(&each).map(|(scene, told)| told.value(scene.name)).collect::<Vec<_>>(),
    })
}

/// A digit in each scene, and what the agent made of all of them.
fn shown(scenes: &[Scene], data: &Dataset, all: &All) -> String {
    let head = ["", "frames", "accuracy", "drift told", "hard samples"].map(String::from).to_vec();
    let cells = scenes.iter().filter_map(|scene| Some(all.get(scene.name)?.cells(scene.name)));
    let table = print::numbers(&std::iter::once(head).chain(cells).collect::<Vec<_>>());
    let digit = data.split(Split::Test).iter().find_map(|sample| sample.image(&Limits::default()).ok());
    match digit.filter(|_| scenes.len() > 1) {
        Some(digit) => {
            let images: Vec<_> = scenes.iter().map(|scene| scene.disturbance.apply(&digit, 0, 1)).collect();
            let names: String = scenes.iter().map(|scene| format!("{:16}", scene.name)).collect();
            format!("\n{}{}\n\n{table}\n", picture::strip(&images, "  "), names.trim_end())
        }
        None => format!("\n{table}\n"),
    }
}

/// What the figures say.
fn sentences(value: &Value) -> String {
    let number = |of: &str, name: &str| value[of][name].as_f64();
    let fall = match (number("accuracy", "before"), number("accuracy", "during")) {
        (Some(before), Some(during)) => format!(
            "accuracy  {before:.4} before, {during:.4} during the disturbances; nothing is retrained yet\n"
        ),
        _ => String::new(),
    };
    let sent = number("bytes", "sent").unwrap_or_default();
    let bytes = match number("bytes", "seen") {
        Some(seen) => {
            let share = 100.0 * sent / seen.max(1.0);
            format!("{:.1} KB seen, {:.1} KB sent ({share:.1} %)", seen / 1e3, sent / 1e3)
        }
        None => format!("{:.1} KB sent; how many were seen was not told", sent / 1e3),
    };
    format!(
        "{fall}latency   {} ms (median), {} ms (99 of 100), from a frame's last byte to its answer\n\
         bytes     {bytes}: insights and {} hard samples\n\
         energy    {}\n",
        print::cell(&value["latency"]["p50_ms"]),
        print::cell(&value["latency"]["p99_ms"]),
        value["hard_samples"],
        match value["energy_mj"].as_f64() {
            Some(mj) => format!("{} mJ an answer", print::significant(mj)),
            None => "not measured: this machine has no meter".into(),
        },
    )
}

fn next(float: &Path, package: &Path, data: &str, split: Split) -> String {
    let (float, package) = (float.display(), package.display());
    format!(
        "\nNext:\n  espalier val {package} {data} --split {split}\n  espalier inspect {package}\n  \
         espalier compress {float} {data} --prune 0.5 --int8 --out smaller.espalier\n  \
         espalier run {package} --source 0 --show   a camera of yours\n  \
         espalier train YOUR/FOLDER                 pictures in CLASS/ folders\n"
    )
}
