//! `espalier predict`: what a package says about files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context;
use espalier_graph::files::write_atomic;
use espalier_tasks::{Answer, Image, Limits, Model, decode, image};
use espalier_train::data::series::SeriesSet;
use serde_json::Value;

use crate::compute::Compute;
use crate::exit::{Ending, sentence, usage};
use crate::print;

/// Say what is in pictures, or which rows of a series are unusual.
#[derive(clap::Args)]
#[command(after_help = "\
Prints one line (with --json one JSON object) for each file; a file that cannot be read is named on stderr, the others \
are still answered, and the exit status is 1 (2 where files are missing and nothing else is wrong).

A series (.csv, .jsonl) has a line for each row, with score and alarm.

Examples:
  espalier predict runs/train/best.espalier *.jpg
  espalier predict detector.espalier street.jpg --draw drawn
  espalier predict pump.espalier pump.csv --json")]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    /// The pictures or series.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write each picture with its answer drawn in, as PNG, into this folder; made if need be.
    #[arg(long, value_name = "DIR")]
    draw: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object for each file.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut model = args.compute.model(&args.package)?;
    let mut drawn = args.draw.as_deref().map(Drawn::new).transpose()?;
    let mut faults = Vec::new();
    for file in &args.files {
        if model.task().row_columns().is_some() {
            faults.extend(
                series(&mut model, file, args).err().map(|error| error.context(file.display().to_string())),
            );
            continue;
        }
        match answer(&mut model, file, drawn.as_mut()) {
            Ok(answer) => {
                let name = file.display().to_string();
                let value = line(&name, &answer, model.task().labels());
                print::result(args.json, &value, || format!("{}\n", text(&name, &answer)))?;
            }
            Err(error) => faults.push(error.context(file.display().to_string())),
        }
    }
    ending(faults, args.files.len())
}

/// The answer for every row of a series; the lines that are no rows are named on stderr.
fn series(model: &mut Model, file: &Path, args: &Args) -> anyhow::Result<()> {
    if args.draw.is_some() {
        return Err(usage("--draw: a series has no picture to draw into"));
    }
    if !file.exists() {
        return Err(usage("there is no such file"));
    }
    let columns = model.task().row_columns().context("the task looks at series")?;
    let series = SeriesSet::file(file, &columns)?;
    print::skipped(&series.skipped);
    model.forget();
    let name = file.display().to_string();
    for (row, number) in series.rows.iter().zip(1..) {
        let answer = model.answer(row)?;
        let mut value = line(&name, &answer, &[]);
        value["row"] = number.into();
        print::result(args.json, &value, || {
            format!("{name}[{number}]  {}\n", print::line(&answer.summary()))
        })?;
    }
    Ok(())
}

fn answer(model: &mut Model, file: &Path, drawn: Option<&mut Drawn>) -> anyhow::Result<Answer> {
    if !file.exists() {
        return Err(usage("there is no such file"));
    }
    let image = decode(&std::fs::read(file)?, &Limits::default())?;
    let answer = model.answer(&image)?;
    if let Some(drawn) = drawn {
        drawn.write(file, image, &answer)?;
    }
    Ok(answer)
}

/// The folder of pictures with answers, and the names that are taken there.
struct Drawn {
    folder: PathBuf,
    taken: BTreeSet<String>,
}

impl Drawn {
    fn new(folder: &Path) -> anyhow::Result<Drawn> {
        std::fs::create_dir_all(folder).with_context(|| format!("--draw {}", folder.display()))?;
        Ok(Drawn { folder: folder.into(), taken: BTreeSet::new() })
    }

    /// Pictures of one name from several folders are numbered; a picture is never written over itself.
    fn write(&mut self, file: &Path, mut image: Image, answer: &Answer) -> anyhow::Result<()> {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let numbered = |number: u32| if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
        let name = (1..).map(numbered).find(|name| self.taken.insert(name.clone())).expect("numbers go on");
        let path = self.folder.join(format!("{name}.png"));
        if path.canonicalize().is_ok_and(|path| file.canonicalize().is_ok_and(|file| file == path)) {
            return Err(usage(format!("--draw {} would write over it", self.folder.display())));
        }
        answer.draw(&mut image);
        write_atomic(&path, |file: &mut BufWriter<File>| image::write_png(&image, file))
            .with_context(|| path.display().to_string())
    }
}

/// Names every fault on stderr; where files were only missing, the command was called wrongly.
fn ending(mut faults: Vec<anyhow::Error>, files: usize) -> anyhow::Result<()> {
    if files == 1 {
        return faults.pop().map_or(Ok(()), Err);
    }
    faults.iter().for_each(|fault| eprintln!("espalier: {}", sentence(fault)));
    let text = format!("{} of {files} files have no answer", faults.len());
    match faults.as_slice() {
        [] => Ok(()),
        faults if faults.iter().all(|fault| fault.is::<Ending>()) => Err(usage(text)),
        _ => Err(anyhow::anyhow!(text)),
    }
}

/// One answer as `predict --json` has it.
fn line(file: &str, answer: &Answer, labels: &[String]) -> Value {
    let file = [("file".to_owned(), Value::from(file))];
    file.into_iter().chain(answer.fields(labels)).collect()
}

/// One answer for people.
pub(crate) fn text(file: &str, answer: &Answer) -> String {
    format!("{file}  {}", print::line(&answer.summary()))
}
