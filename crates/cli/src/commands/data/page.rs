//! What `espalier data` found, as a page with pictures.

use espalier_pages::{Picture, Table, bar, callout, facts, gallery, number, page as shell, percent, section};
use espalier_tasks::resize::resize;
use espalier_tasks::{Image, Limits};
use espalier_train::data::duplicates::{Group, Likeness, Member};
use espalier_train::data::{Dataset, Range, Split};
use espalier_train::suspects::Suspect;
use maud::{Markup, html};

use super::report::{BadFile, Report};

/// Longest side of a picture in the page, in pixels.
const SIDE: usize = 96;
/// Samples of each class.
const SAMPLES: usize = 8;
/// Classes that are shown with samples.
const CLASSES: usize = 50;
/// Groups of copies, and suspicious labels, that are shown.
const FINDS: usize = 40;
/// Pictures of one group.
const COPIES: usize = 4;
/// Files that are listed.
const FILES: usize = 200;

pub(super) fn page(
    report: &Report,
    dataset: &Dataset,
    groups: &[Group],
    suspects: Option<&[Suspect]>,
) -> String {
    let album = Album { dataset };
    let (graver, others): (Vec<&Group>, Vec<&Group>) =
        groups.iter().partition(|group| group.is_leak() || group.is_conflict());
    let body = html! {
        header {
            h1 { (report.dataset) }
            p.lead { "What is in this dataset, and what is wrong with it." }
        }
        (facts(&overview(report)))
        @if report.findings.is_empty() {
            (callout("good", "Nothing is wrong with it that could be seen.", "", &[]))
        }
        @for finding in &report.findings {
            (callout(colour(finding.kind), &finding.text, finding.advice, &[]))
        }
        (section("Classes", "", classes(report)))
        @if let Some(suspects) = suspects {
            (section("Suspicious labels", "Judged by networks that learned from the other images.",
                suspicious(&album, suspects)))
        }
        @if !graver.is_empty() {
            (section("Leaks and conflicts", "The same picture in train and in another split, or under several labels.",
                copies(&album, &graver)))
        }
        @if !others.is_empty() {
            (section("Copies", "The same picture more than once.", copies(&album, &others)))
        }
        (section("Samples", "", samples(&album, report)))
        @if !report.unreadable.is_empty() {
            (section("Unreadable", "", files(&report.unreadable)))
        }
        @if !report.ignored.is_empty() {
            (section("Left out", "", files(&report.ignored)))
        }
    };
    shell(&report.dataset, body)
}

/// The colour of a finding's edge.
fn colour(kind: &str) -> &'static str {
    match kind {
        "unreadable" | "leaks" | "conflicts" => "bad",
        _ => "note",
    }
}

fn overview(report: &Report) -> Vec<(&'static str, String, String)> {
    let side = |range: &Range| match range.max - range.min {
        0 => range.min.to_string(),
        _ => format!("{}–{}", range.min, range.max),
    };
    let medians = format!("pixels; medians {} and {}", report.width.median, report.height.median);
    let filled = Split::ALL.iter().map(|s| (s, report.images[s.name()])).filter(|(_, n)| *n > 0);
    let splits: Vec<String> = filled.map(|(split, n)| format!("{} {split}", number(n as f64))).collect();
    let list = |values: &[f32]| values.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" ");
    vec![
        ("images", number(report.total() as f64), splits.join(", ")),
        ("classes", number(report.classes.len() as f64), String::new()),
        ("width × height", format!("{} × {}", side(&report.width), side(&report.height)), medians),
        ("grey", number(report.grey_images as f64), "images without colour".into()),
        ("mean of channels", list(&report.mean), format!("deviation {}", list(&report.std))),
    ]
}

/// A histogram as a table: it reads on paper, on a phone, and aloud.
fn classes(report: &Report) -> Markup {
    let splits: Vec<&str> =
        Split::ALL.into_iter().map(Split::name).filter(|split| report.images[split] > 0).collect();
    let total = |class: &super::report::Class| class.images.values().sum::<usize>();
    let most = report.classes.iter().map(total).max().unwrap_or(0).max(1);
    let mut table =
        splits.iter().fold(Table::new().text("class"), |table, split| table.number(*split)).bars();
    for class in &report.classes {
        let mut cells = vec![html! { (class.label) }];
        cells.extend(splits.iter().map(|split| html! { (number(class.images[split] as f64)) }));
        cells.push(bar(total(class) as f64 / most as f64));
        table.row(cells);
    }
    html! { (table) }
}

/// The dataset's pictures, read again where they are shown.
struct Album<'a> {
    dataset: &'a Dataset,
}

impl Album<'_> {
    /// The picture at a size for the page; `None` where it can no longer be read.
    fn picture(&self, member: Member) -> Option<Picture> {
        let sample = self.dataset.sample(member);
        let image = shrunk(&sample.image(&Limits::default()).ok()?);
        Picture::pixels(image.width, image.height, image.channels, &image.pixels, sample.name()).ok()
    }

    fn label(&self, member: Member) -> &str {
        &self.dataset.classes[member.label]
    }

    fn name(&self, member: Member) -> String {
        let name = self.dataset.sample(member).name();
        name.rsplit('/').next().unwrap_or(&name).to_string()
    }

    fn figure(&self, member: Member, caption: Markup) -> Option<(Picture, Markup)> {
        let caption = html! { (caption) span { (member.split) " · " (self.name(member)) } };
        self.picture(member).map(|picture| (picture, caption))
    }
}

/// Large pictures at `SIDE`; small ones as they are.
fn shrunk(image: &Image) -> Image {
    let longest = image.width.max(image.height);
    if longest <= SIDE {
        return image.clone();
    }
    let side = |n: usize| (n * SIDE / longest).max(1);
    resize(image, [side(image.height), side(image.width)])
}

fn suspicious(album: &Album<'_>, suspects: &[Suspect]) -> Markup {
    let shown = suspects.iter().take(FINDS).filter_map(|suspect| {
        let (label, guess) = (album.label(suspect.member), &album.dataset.classes[suspect.guess]);
        let sure = percent(f64::from(suspect.confidence));
        let caption = html! { "labelled " span.wrong { (label) } "looks like " (guess) ", " (sure) };
        album.figure(suspect.member, caption)
    });
    html! { (gallery(&shown.collect::<Vec<_>>())) (more(suspects.len(), FINDS)) }
}

fn copies(album: &Album<'_>, groups: &[&Group]) -> Markup {
    html! {
        div.matches {
            @for group in groups.iter().take(FINDS) {
                div {
                    div.pictures {
                        @for picture in group.members.iter().take(COPIES).filter_map(|m| album.picture(*m)) { (picture) }
                    }
                    p {
                        (likeness(group.likeness))
                        @if group.is_leak() { ", " span.wrong { "leak" } }
                        @if group.is_conflict() { ", " span.wrong { "labels differ" } }
                    }
                    ul {
                        @for member in group.members.iter().take(COPIES) {
                            li { (member.split) " · " (album.label(*member)) " · " (album.name(*member)) }
                        }
                        @if group.members.len() > COPIES { li { "and " (group.members.len() - COPIES) " more" } }
                    }
                }
            }
        }
        (more(groups.len(), FINDS))
    }
}

fn likeness(likeness: Likeness) -> &'static str {
    match likeness {
        Likeness::Exact => "same bytes",
        Likeness::Near => "nearly the same",
        Likeness::Mirrored => "mirrored",
    }
}

/// Some of each class, evenly spaced.
fn samples(album: &Album<'_>, report: &Report) -> Markup {
    let mut of_class = vec![Vec::new(); report.classes.len()];
    for split in Split::ALL {
        for (index, sample) in album.dataset.split(split).iter().enumerate() {
            of_class[sample.label].push(Member { split, index, label: sample.label });
        }
    }
    let shown = |members: &[Member]| {
        let count = members.len().min(SAMPLES);
        let chosen = (0..count).map(|i| members[i * members.len() / count]);
        gallery(&chosen.filter_map(|member| album.figure(member, html! {})).collect::<Vec<_>>())
    };
    html! {
        @for (class, members) in report.classes.iter().zip(&of_class).take(CLASSES) {
            h3 { (class.label) }
            (shown(members))
        }
        (more(report.classes.len(), CLASSES))
    }
}

fn files(files: &[BadFile]) -> Markup {
    let mut table = Table::new().text("file").text("why");
    files.iter().take(FILES).for_each(|bad| table.row(vec![html! { (bad.file) }, html! { (bad.reason) }]));
    html! { (table) (more(files.len(), FILES)) }
}

fn more(all: usize, shown: usize) -> Markup {
    html! { @if all > shown { p.lead { "and " (all - shown) " more; --json lists them all" } } }
}
