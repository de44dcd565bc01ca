//! report.html of a compression: what was tried, what it cost, and why the answer is the answer.

use espalier_pages::{
    Axis, Chart, Table, callout, facts, number, page as shell, percent, properties, section,
};
use maud::{Markup, html};

use super::{Budget, Candidate, Choice, Figures, Outcome, Settings};

/// The page, as one file.
pub fn page(outcome: &Outcome) -> String {
    let title = format!("{}, compressed", outcome.name);
    let body = html! {
        h1 { (title) }
        p.subtitle { "Measured on " (number(outcome.images as f64)) " images of val" }
        (verdict(outcome))
        (facts(&headline(outcome)))
        (section("Accuracy against cost", PICTURE, html! { (by_latency(outcome)) (by_size(outcome)) (by_energy(outcome)) }))
        (section("Candidates", CANDIDATES, candidates(outcome)))
        (section("Layers", "What each layer of the package computes with.", layers(outcome)))
        (section("Steps", "", steps(outcome)))
        (section("Settings", "", settings(outcome)))
    };
    shell(&format!("{title} · Espalier"), body)
}

const PICTURE: &str = "Up and to the left is better. Each point was answered by the plan that a device runs, and timed in turn \
                       with the float network.";
const CANDIDATES: &str = "Recipes with all layers in int8 differ in numbers only and take the same time, so only the one \
                          nearest to float is timed.";

fn verdict(outcome: &Outcome) -> Markup {
    let name = &outcome.candidate().name;
    match &outcome.chosen {
        Choice::Kept(0) => callout(
            "note",
            "The float network is the answer.",
            "No candidate of integers keeps the budget and is faster.",
            &[],
        ),
        Choice::Kept(_) => callout("good", "The budget is kept.", &format!("{name}."), &[]),
        Choice::Missed { reason, .. } => callout(
            "bad",
            "Nothing keeps the budget, so no package was written.",
            &format!("Nearest is {reason}."),
            &[],
        ),
    }
}

fn headline(outcome: &Outcome) -> Vec<(&'static str, String, String)> {
    let (before, after) = (&outcome.before, &outcome.candidate().figures);
    let [was, is] = [before, after].map(|figures| figures.metrics[outcome.metric]);
    let share = after.size_bytes as f64 / before.size_bytes.max(1) as f64;
    let mut all = vec![
        (outcome.metric, percent(is), format!("was {}", percent(was))),
        ("file", bytes(after.size_bytes), format!("{} of {}", percent(share), bytes(before.size_bytes))),
    ];
    if let (Some(was), Some(is)) = (before.p50_ms, after.p50_ms) {
        all.push((
            "one answer",
            milliseconds(is),
            format!("was {}, {:.2} times as fast", milliseconds(was), was / is),
        ));
    }
    if let (Some((was, is_estimate)), Some((is, _))) = (before.energy(), after.energy()) {
        let label = if is_estimate { "energy, an estimate" } else { "energy of one answer" };
        all.push((label, millijoules(is), format!("was {}", millijoules(was))));
    }
    if let Some(agreement) = outcome.candidate().agreement {
        all.push(("same answers", percent(agreement), "as the float network gives".into()));
    }
    all
}

fn milliseconds(ms: f64) -> String {
    format!("{}\u{202f}ms", number(ms))
}

fn millijoules(mj: f64) -> String {
    format!("{}\u{202f}mJ", number(mj))
}

fn bytes(bytes: u64) -> String {
    match bytes {
        ..1_000 => format!("{bytes}\u{202f}B"),
        1_000..1_000_000 => format!("{}\u{202f}KB", number(bytes as f64 / 1e3)),
        _ => format!("{}\u{202f}MB", number(bytes as f64 / 1e6)),
    }
}

/// The letter that a candidate has in picture and table.
fn letter(at: usize) -> String {
    char::from_u32('A' as u32 + at as u32)
        .filter(char::is_ascii_uppercase)
        .map_or(at.to_string(), String::from)
}

fn by_latency(outcome: &Outcome) -> Chart {
    let chart = picture(outcome, "median of one answer, ms", |figures| figures.p50_ms);
    marked(chart, outcome.settings.budget.max_latency_ms)
}

fn by_size(outcome: &Outcome) -> Chart {
    let kilobytes = |bytes: u64| bytes as f64 / 1e3;
    let chart = picture(outcome, "file, KB", |figures| figures.p50_ms.map(|_| kilobytes(figures.size_bytes)));
    marked(chart, outcome.settings.budget.max_size_bytes.map(kilobytes))
}

/// Nothing where energy is not told.
fn by_energy(outcome: &Outcome) -> Markup {
    let Some((_, is_estimate)) = outcome.before.energy() else { return html! {} };
    let axis = if is_estimate { "energy of one answer, mJ, an estimate" } else { "energy of one answer, mJ" };
    let chart = picture(outcome, axis, |figures| figures.energy().map(|(mj, _)| mj));
    html! { (marked(chart, outcome.settings.budget.max_energy_mj)) }
}

fn marked(chart: Chart, allowed: Option<f64>) -> Chart {
    match allowed {
        Some(allowed) => chart.mark(allowed, "allowed"),
        None => chart,
    }
}

/// The candidates that were timed, by what they cost.
fn picture(outcome: &Outcome, axis: &str, cost: impl Fn(&Figures) -> Option<f64>) -> Chart {
    let point = |(at, candidate): (usize, &Candidate)| {
        Some((cost(&candidate.figures)?, candidate.figures.metrics[outcome.metric], letter(at)))
    };
    let of = |is_float: bool| {
        let all = outcome.candidates.iter().enumerate();
        all.filter(move |(_, candidate)| candidate.recipe.is_none() == is_float)
            .filter_map(&point)
            .collect::<Vec<_>>()
    };
    Chart::new("Candidates", Axis::new(axis), Axis::new(format!("{} on val", outcome.metric)).percent())
        .points("int8", of(false))
        .points("float", of(true))
}

fn candidates(outcome: &Outcome) -> Markup {
    let mut table = Table::new()
        .text("")
        .text("candidate")
        .number(outcome.metric)
        .number("file")
        .number("one answer")
        .number("same answers");
    for (at, candidate) in outcome.candidates.iter().enumerate() {
        let Candidate { name, figures, agreement, refused, .. } = candidate;
        let verdict = match (&outcome.chosen, refused) {
            (Choice::Kept(chosen), _) if *chosen == at => html! { strong { "chosen" } },
            (_, Some(reason)) => html! { (reason) },
            (_, None) => html! { "keeps the budget, slower than the chosen one" },
        };
        table.row(vec![
            html! { (letter(at)) },
            html! { (name) br; small { (verdict) } },
            html! { (percent(figures.metrics[outcome.metric])) },
            html! { (bytes(figures.size_bytes)) },
            html! { (figures.p50_ms.map_or("–".into(), milliseconds)) },
            html! { (agreement.map_or("–".into(), percent)) },
        ]);
    }
    html! { (table) }
}

fn layers(outcome: &Outcome) -> Markup {
    let int8 = outcome.layers.iter().filter(|layer| layer.kind == "int8").count();
    let mut table = Table::new().text("layer").text("arithmetic").text("pruned").text("why float");
    for layer in &outcome.layers {
        let outputs = layer.outputs.map(|[left, all]| format!("{left} of {all} outputs"));
        let zeros = layer.zeros.map(|zeros| format!("{} zero", percent(zeros)));
        let pruned = outputs.into_iter().chain(zeros).collect::<Vec<_>>().join(", ");
        let reason = layer.reason.as_deref().unwrap_or("");
        table.row(vec![
            html! { (layer.name) },
            html! { (layer.kind) },
            html! { (pruned) },
            html! { (reason) },
        ]);
    }
    html! {
        p { (int8) " of " (outcome.layers.len()) " in int8." }
        details { summary { "All of them" } (table) }
    }
}

fn steps(outcome: &Outcome) -> Markup {
    let mut table = Table::new().text("step").text("result").number("seconds");
    for step in &outcome.steps {
        table.row(vec![
            html! { (step.step) },
            html! { (step.result) },
            html! { (format!("{:.1}", step.seconds)) },
        ]);
    }
    html! { (table) }
}

fn settings(outcome: &Outcome) -> Markup {
    let Budget { max_drop, max_size_bytes, max_latency_ms, max_energy_mj } = &outcome.settings.budget;
    let or_any = |value: Option<String>| value.unwrap_or_else(|| "any".into());
    properties(&[
        ("asked for", asked(&outcome.settings)),
        ("largest fall of the metric", max_drop.to_string()),
        ("largest file", or_any(max_size_bytes.map(bytes))),
        ("longest answer", or_any(max_latency_ms.map(milliseconds))),
        ("most energy of an answer", or_any(max_energy_mj.map(millijoules))),
        ("instructions", outcome.isa.clone()),
        ("threads", outcome.threads.to_string()),
        ("images for calibration, at most", outcome.settings.calibration_images.to_string()),
        ("seed", outcome.settings.seed.to_string()),
        ("energy", outcome.energy.clone()),
    ])
}

/// What was fixed instead of searched.
fn asked(settings: &Settings) -> String {
    let structure = settings.structure();
    let parts = [
        (!structure.is_whole(), structure.name()),
        (settings.int8, "int8".into()),
        (settings.qat, "QAT".into()),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name).collect();
    if parts.is_empty() { "the fastest that keeps the budget".into() } else { parts.join(", ") }
}
