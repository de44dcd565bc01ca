//! What `espalier data` found, as JSON and as text. docs/data.md documents the keys.

use std::collections::BTreeMap;

use espalier_train::data::duplicates::{Group, Member, leaks};
use espalier_train::data::{Dataset, Range, Split, Survey};
use espalier_train::suspects::Suspect;
use serde::Serialize;

use super::findings::{self, Finding};
use crate::{memory, print};

/// Counts by split.
type PerSplit = BTreeMap<&'static str, usize>;

#[derive(Serialize)]
pub(super) struct Report {
    pub(super) dataset: String,
    /// Readable images.
    pub(super) images: PerSplit,
    pub(super) classes: Vec<Class>,
    pub(super) width: Range,
    pub(super) height: Range,
    pub(super) grey_images: usize,
    pub(super) mean: Vec<f32>,
    pub(super) std: Vec<f32>,
    /// Largest over smallest class of train (of all where there is no train).
    pub(super) imbalance: Option<f64>,
    pub(super) unreadable: Vec<BadFile>,
    pub(super) ignored: Vec<BadFile>,
    /// Images of val and test that train has as well.
    pub(super) leaks: PerSplit,
    pub(super) duplicates: Vec<Copies>,
    /// `null` without `--deep`.
    pub(super) suspicious: Option<Vec<Suspicious>>,
    pub(super) findings: Vec<Finding>,
    pub(super) digest: String,
    pub(super) peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Class {
    pub(super) label: String,
    #[serde(flatten)]
    pub(super) images: PerSplit,
}

#[derive(Serialize)]
pub(super) struct BadFile {
    pub(super) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) split: Option<Split>,
    pub(super) reason: String,
}

#[derive(Serialize)]
pub(super) struct Copies {
    pub(super) likeness: &'static str,
    pub(super) leak: bool,
    pub(super) conflict: bool,
    pub(super) files: Vec<Labelled>,
}

#[derive(Serialize)]
pub(super) struct Labelled {
    pub(super) file: String,
    pub(super) split: Split,
    pub(super) label: String,
}

#[derive(Serialize)]
pub(super) struct Suspicious {
    #[serde(flatten)]
    pub(super) image: Labelled,
    pub(super) guess: String,
    /// Probability of the guess.
    pub(super) confidence: f32,
    /// Probability of the label.
    pub(super) label_confidence: f32,
}

fn per_split(counts: [usize; 3]) -> PerSplit {
    Split::ALL.into_iter().map(Split::name).zip(counts).collect()
}

impl Labelled {
    pub(super) fn new(dataset: &Dataset, member: Member) -> Labelled {
        let sample = dataset.sample(member);
        let label = dataset.classes[sample.label].clone();
        Labelled { file: sample.name(), split: member.split, label }
    }
}

impl Report {
    pub(super) fn new(
        dataset: &Dataset,
        survey: &Survey,
        groups: &[Group],
        suspects: Option<&[Suspect]>,
    ) -> Report {
        let statistics = &survey.statistics;
        let counts = Split::ALL.map(|split| dataset.counts(split));
        let class = |(i, label): (usize, &String)| Class {
            label: label.clone(),
            images: per_split(counts.each_ref().map(|counts| counts[i])),
        };
        let skipped = |unreadable: bool| {
            let chosen = dataset.skipped.iter().filter(move |s| s.split.is_some() == unreadable);
            chosen
                .map(|s| BadFile { file: s.name.clone(), split: s.split, reason: s.reason.clone() })
                .collect::<Vec<_>>()
        };
        let copies = |group: &Group| Copies {
            likeness: group.likeness.name(),
            leak: group.is_leak(),
            conflict: group.is_conflict(),
            files: group.members.iter().map(|&member| Labelled::new(dataset, member)).collect(),
        };
        let suspicious = |suspect: &Suspect| Suspicious {
            image: Labelled::new(dataset, suspect.member),
            guess: dataset.classes[suspect.guess].clone(),
            confidence: suspect.confidence,
            label_confidence: suspect.own,
        };
        let mut report = Report {
            dataset: dataset.name.clone(),
            images: per_split(statistics.images),
            classes: dataset.classes.iter().enumerate().map(class).collect(),
            width: statistics.width,
            height: statistics.height,
            grey_images: survey.grey_images(),
            mean: statistics.mean.clone(),
            std: statistics.std.clone(),
            imbalance: imbalance(&counts),
            unreadable: skipped(true),
            ignored: skipped(false),
            leaks: per_split(leaks(groups)),
            duplicates: groups.iter().map(copies).collect(),
            suspicious: suspects.map(|suspects| suspects.iter().map(suspicious).collect()),
            findings: Vec::new(),
            digest: statistics.digest.clone(),
            peak_rss_bytes: memory::peak_rss_bytes(),
        };
        report.findings = findings::all(&report, &dataset.warnings);
        report
    }

    pub(super) fn total(&self) -> usize {
        self.images.values().sum()
    }

    /// Range of width and height, in words.
    pub(super) fn sizes(&self) -> String {
        let side = |range: &Range| match range.max - range.min {
            0 => range.min.to_string(),
            _ => format!("{} to {} (median {})", range.min, range.max, range.median),
        };
        format!("{} wide, {} high", side(&self.width), side(&self.height))
    }

    /// Channel statistics, in words.
    pub(super) fn colours(&self) -> String {
        let list = |values: &[f32]| {
            values.iter().map(|v| print::significant(f64::from(*v))).collect::<Vec<_>>().join(" ")
        };
        let kind = match self.grey_images {
            0 => "all in colour".to_string(),
            n if n == self.total() => "all grey".to_string(),
            n => format!("{n} grey, {} in colour", self.total() - n),
        };
        format!("{kind}; mean {}, deviation {} (of 1)", list(&self.mean), list(&self.std))
    }

    /// For people; files are named from `data`, the folder, on.
    pub(super) fn text(&self, data: &str) -> String {
        let head = format!("{}: {} images in {} classes", self.dataset, self.total(), self.classes.len());
        let properties = format!("size    {}\ncolour  {}", self.sizes(), self.colours());
        let findings: Vec<String> = self.findings.iter().map(Finding::text).collect();
        let findings = match findings.as_slice() {
            [] => "Nothing is wrong with it that could be seen.".to_string(),
            findings => findings.join("\n\n"),
        };
        let deep = match self.suspicious.as_deref() {
            None => "\nWrong labels were not looked for: --deep does.\n",
            Some([]) => "",
            Some(_) => "\nTo see the pictures: --html FILE.\n",
        };
        let findings = findings.replace(&format!("{}/", data.trim_end_matches('/')), "");
        format!("{head}\n\n{}\n{properties}\n\n{findings}\n{deep}", self.table())
    }

    /// Classes and splits.
    fn table(&self) -> String {
        const MOST: usize = 40;
        let splits: Vec<&str> =
            Split::ALL.into_iter().map(Split::name).filter(|s| self.images[s] > 0).collect();
        let row = |name: &str, images: &PerSplit| {
            let cells = splits.iter().map(|split| images[split].to_string());
            std::iter::once(print::line(name)).chain(cells).collect::<Vec<_>>()
        };
        let head = std::iter::once("class").chain(splits.iter().copied()).map(String::from).collect();
        let classes = self.classes.iter().take(MOST).map(|class| row(&class.label, &class.images));
        let all = row("all", &self.images);
        let more = match self.classes.len().saturating_sub(MOST) {
            0 => String::new(),
            n => format!("({n} more classes: see --json or --html)\n"),
        };
        let lines = std::iter::once(head).chain(classes).chain(std::iter::once(all)).collect::<Vec<_>>();
        print::numbers(&lines) + &more
    }
}

/// Largest over smallest class, of train where there is one; `None` where a class is empty.
fn imbalance(counts: &[Vec<usize>; 3]) -> Option<f64> {
    let counts = counts.iter().find(|counts| counts.iter().any(|&n| n > 0))?;
    let (least, most) = (counts.iter().min()?, counts.iter().max()?);
    (*least > 0).then(|| *most as f64 / *least as f64)
}
