//! `espalier data`: what is in a dataset, and what is wrong with it.

mod findings;
mod page;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use espalier_graph::files::write_atomic;
use espalier_tasks::Limits;
use espalier_train::data::{Dataset, Split, SurveyOptions};
use espalier_train::suspects::suspects;

use crate::exit::usage;
use crate::progress::Progress;
use crate::{open, print};
use report::Report;

/// Look at a dataset: counts, sizes, unreadable files, duplicates, leaks between splits, wrong labels.
#[derive(clap::Args)]
#[command(after_help = "\
Near-duplicates are found by perceptual hashes and compared as 32x32 grey thumbnails. --deep trains a small network on
three quarters of the images at a time and lets it judge the rest (confident learning); it takes some minutes.
docs/data.md says what each finding means and lists the keys of --json.

Examples:
  espalier data photos
  espalier data photos --deep --html photos.html
  espalier data builtin:mnist-5k --json")]
pub(crate) struct Args {
    /// The data.
    data: String,
    /// Look for wrong labels too, by cross-validation.
    #[arg(long)]
    deep: bool,
    /// Write a page with pictures.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Seed of the folds and the networks of --deep.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads = open::threads(args.threads)?;
    if let Some(path) = &args.html {
        refuse_lost(path)?;
    }
    let mut dataset = open::dataset(&args.data)?;
    let count = Split::ALL.map(|split| dataset.split(split).len()).iter().sum::<usize>();
    let progress = Mutex::new(Progress::new("reading", "images", count as u64, 0));
    let survey = dataset.examine(&SurveyOptions {
        limits: Limits::default(),
        threads,
        fingerprints: true,
        progress: &|done| progress.lock().expect("no holder panics").set(done as u64, ""),
    });
    progress.lock().expect("no holder panics").finish();
    let groups = survey.duplicates(threads);
    let suspects = args.deep.then(|| judge(&dataset, &survey.statistics, threads, args.seed)).transpose()?;
    let report = Report::new(&dataset, &survey, &groups, suspects.as_deref());
    if let Some(path) = &args.html {
        let text = page::page(&report, &dataset, &groups, suspects.as_deref());
        write_atomic(path, |file| file.write_all(text.as_bytes()))?;
        eprintln!("{}", path.display());
    }
    print::result(args.json, &serde_json::to_value(&report)?, || report.text(&args.data))
}

/// A page that cannot be written is better known before the work.
fn refuse_lost(page: &Path) -> anyhow::Result<()> {
    let folder = page.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => Err(usage(format!("--html: there is no folder {}", folder.display()))),
        None if page.is_dir() => Err(usage(format!("--html: {} is a folder", page.display()))),
        None => Ok(()),
    }
}

fn judge(
    dataset: &Dataset,
    statistics: &espalier_train::data::Statistics,
    threads: usize,
    seed: u64,
) -> anyhow::Result<Vec<espalier_train::suspects::Suspect>> {
    let mut progress: Option<Progress> = None;
    let found = suspects(dataset, statistics, threads, seed, &mut |done, all| {
        let bar = progress.get_or_insert_with(|| Progress::new("judging labels", "steps", all as u64, 0));
        bar.set(done as u64, "");
    });
    if let Some(bar) = progress {
        bar.finish();
    }
    found
}
