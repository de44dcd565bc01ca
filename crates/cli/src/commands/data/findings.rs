//! What is wrong with a dataset, and what to do about it: one function for each kind of finding.

use espalier_train::data::IMBALANCE;
use serde::Serialize;

use super::report::{Copies, Labelled, Report};
use crate::print;

/// Examples in the text.
const EXAMPLES: usize = 5;

/// Something a user should know.
#[derive(Serialize)]
pub(super) struct Finding {
    /// Name for programs.
    pub(super) kind: &'static str,
    /// How many.
    pub(super) n: usize,
    /// What was seen.
    pub(super) text: String,
    /// What to do about it.
    pub(super) advice: &'static str,
    /// The first few.
    #[serde(skip)]
    pub(super) examples: Vec<String>,
}

impl Finding {
    /// For people, in a few lines.
    pub(super) fn text(&self) -> String {
        let shown = self.examples.iter().take(EXAMPLES).map(|line| format!("\n    {}", print::line(line)));
        let more = match self.examples.len().saturating_sub(EXAMPLES) {
            0 => String::new(),
            n => format!("\n    and {n} more"),
        };
        let text =
            format!("* {}{}{more}\n  {}", print::line(&self.text), shown.collect::<String>(), self.advice);
        text.trim_end().to_string()
    }
}

/// The gravest first.
pub(super) fn all(report: &Report, warnings: &[String]) -> Vec<Finding> {
    let found = [
        unreadable(report),
        leaks(report),
        conflicts(report),
        suspicious(report),
        duplicates(report),
        mirrored(report),
        imbalance(report),
        ignored(report),
    ];
    found.into_iter().flatten().chain(warnings.iter().map(|text| warning(text))).collect()
}

/// `1 image`, `2 images`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn unreadable(report: &Report) -> Option<Finding> {
    let n = report.unreadable.len();
    let share = n as f64 / (n + report.total()).max(1) as f64;
    (n > 0).then(|| Finding {
        kind: "unreadable",
        n,
        text: format!("{} cannot be read ({} %).", count(n, "image"), print::significant(share * 100.0)),
        advice: "Fetch them again or remove them; training refuses a split of which more than 1 % is unreadable.",
        examples: report.unreadable.iter().map(|bad| format!("{}: {}", bad.file, bad.reason)).collect(),
    })
}

fn leaks(report: &Report) -> Option<Finding> {
    let n = report.leaks.values().sum();
    let splits: Vec<String> =
        report.leaks.iter().filter(|(_, n)| **n > 0).map(|(split, n)| format!("{n} of {split}")).collect();
    (n > 0).then(|| Finding {
        kind: "leaks",
        n,
        text: format!("{} kept for measuring are in train too: {}.", count(n, "image"), splits.join(", ")),
        advice: "Remove them from train (or from val and test): what was learned by heart is measured too well.",
        examples: examples(report, |copies| copies.leak),
    })
}

fn conflicts(report: &Report) -> Option<Finding> {
    let n = report.duplicates.iter().filter(|copies| copies.conflict).count();
    (n > 0).then(|| Finding {
        kind: "conflicts",
        n,
        text: format!("{} with more than one label.", count(n, "picture")),
        advice: "At most one of the labels is right: correct or remove the others.",
        examples: examples(report, |copies| copies.conflict),
    })
}

fn suspicious(report: &Report) -> Option<Finding> {
    let suspects = report.suspicious.as_ref().filter(|suspects| !suspects.is_empty())?;
    let example = |s: &super::report::Suspicious| {
        let Labelled { file, label, .. } = &s.image;
        format!("{file}: labelled {label}, looks like {} ({:.0} %)", s.guess, s.confidence * 100.0)
    };
    Some(Finding {
        kind: "suspicious",
        n: suspects.len(),
        text: format!("{} a network that never saw them disagrees with.", count(suspects.len(), "label")),
        advice: "Look at them, the first ones first; some are wrong labels, some only hard pictures.",
        examples: suspects.iter().map(example).collect(),
    })
}

fn duplicates(report: &Report) -> Option<Finding> {
    let within = |copies: &&Copies| !copies.leak && !copies.conflict && copies.likeness != "mirrored";
    let groups = report.duplicates.iter().filter(within);
    let n = groups.clone().map(|copies| copies.files.len() - 1).sum();
    (n > 0).then(|| Finding {
        kind: "duplicates",
        n,
        text: format!("{} of another one, the same or nearly so, with the same label.", copies_of(n)),
        advice: "Harmless in small numbers; many make a class look larger than it is. Keep one of each.",
        examples: examples(report, |copies| within(&copies)),
    })
}

fn copies_of(n: usize) -> String {
    if n == 1 { "1 image is a copy".to_string() } else { format!("{n} images are copies") }
}

fn mirrored(report: &Report) -> Option<Finding> {
    let plain = |copies: &Copies| copies.likeness == "mirrored" && !copies.leak && !copies.conflict;
    let n = report.duplicates.iter().filter(|copies| plain(copies)).count();
    (n > 0).then(|| Finding {
        kind: "mirrored",
        n,
        text: format!("{} of mirrored pictures.", count(n, "pair")),
        advice: "Somebody has augmented this data already: training does that by itself. Keep the originals.",
        examples: examples(report, plain),
    })
}

fn imbalance(report: &Report) -> Option<Finding> {
    let ratio = report.imbalance.filter(|&ratio| ratio > IMBALANCE)?;
    Some(Finding {
        kind: "imbalance",
        n: report.classes.len(),
        text: format!("The largest class has {ratio:.1} times as many images as the smallest."),
        advice: "Collect more of the small classes, or train with --sampling balanced; look at per-class figures.",
        examples: Vec::new(),
    })
}

fn ignored(report: &Report) -> Option<Finding> {
    let n = report.ignored.len();
    (n > 0).then(|| Finding {
        kind: "ignored",
        n,
        text: format!(
            "{} no image of a class, and left out.",
            if n == 1 { "1 file is".into() } else { format!("{n} files are") }
        ),
        advice: "Nothing, unless pictures are among them: each belongs into the folder of its class.",
        examples: report.ignored.iter().map(|bad| format!("{}: {}", bad.file, bad.reason)).collect(),
    })
}

fn warning(text: &str) -> Finding {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let text = first.chain(letters).chain(['.']).collect();
    Finding { kind: "warning", n: 1, text, advice: "", examples: Vec::new() }
}

/// `a (dog) = b (cat), near`.
fn examples(report: &Report, wanted: impl Fn(&Copies) -> bool) -> Vec<String> {
    let line = |copies: &Copies| {
        let files: Vec<String> =
            copies.files.iter().take(3).map(|f| format!("{} ({}, {})", f.file, f.split, f.label)).collect();
        let more = if copies.files.len() > 3 {
            format!(" = {} more", copies.files.len() - 3)
        } else {
            String::new()
        };
        format!("{}{more}: {}", files.join(" = "), copies.likeness)
    };
    report.duplicates.iter().filter(|copies| wanted(copies)).map(line).collect()
}
