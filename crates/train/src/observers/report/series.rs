//! The page of a run on series: the curves of the loss, and what the package says about rows that it did not learn from.

use espalier_pages::{Axis, Chart, Table, callout, facts, number, page as shell, properties, section};
use espalier_tasks::{Answer, Model};
use maud::{Markup, Render, html};

use super::environment::environment;
use super::page::{duration, short, verdict};
use crate::checkpoint::Epoch;
use crate::data::Split;
use crate::data::series::{Series, SeriesSet};
use crate::event::{Outcome, Times};
use crate::networks::Cost;

/// Series that are drawn, and points of each curve.
const SERIES_MAX: usize = 6;
const POINTS_MAX: usize = 1500;
/// Alarms in the table.
const ALARMS_MAX: usize = 50;

/// What the page shows.
pub(super) struct Contents<'a> {
    pub(super) data: &'a SeriesSet,
    pub(super) outcome: &'a Outcome,
    pub(super) history: &'a [Epoch],
    pub(super) times: &'a Times,
    pub(super) settings: &'a [(String, String)],
    pub(super) cost: Cost,
    pub(super) threads: usize,
}

/// One row that was answered.
struct Point {
    at: f64,
    value: f64,
    score: Option<f64>,
    alarm: bool,
}

pub(super) fn page(c: &Contents<'_>, model: &mut Model) -> anyhow::Result<String> {
    let title = format!("{} on {}", c.outcome.model, c.data.name);
    let mut charts = Vec::new();
    for (split, series) in shown(c.data) {
        charts.push(drawn(split, series, model)?);
    }
    let body = html! {
        h1 { (title) }
        p.subtitle { "How the training run " (c.outcome.out.display()) " went" }
        (verdict(c.outcome))
        (headline(c))
        (curves(c))
        (section("Alarms", "Rows that nothing was learned from, by the package that was kept.", html! { @for chart in &charts { (chart) } }))
        (section("Settings", "As in run.toml.", properties(c.settings)))
        (section("Machine", "", properties(&environment(c.threads))))
        @if c.data.broken > 0 { (callout("note", &format!("{} lines of the files are no rows; they were left out.", c.data.broken), "", &[])) }
    };
    Ok(shell(&format!("{title} · Espalier"), body))
}

/// Val, and test where there is one.
fn shown(data: &SeriesSet) -> impl Iterator<Item = (Split, &Series)> {
    let of = |split| data.split(split).iter().map(move |series| (split, &**series));
    of(Split::Val).chain(of(Split::Test)).take(SERIES_MAX)
}

fn headline(c: &Contents<'_>) -> Markup {
    let metric = |name: &str| c.outcome.metrics.get(name).map_or("-".to_owned(), |&value| number(value));
    let [train, val, test] = c.data.rows().map(|rows| number(rows as f64));
    facts(&[
        ("val loss", metric("loss"), "mean square error of a window".into()),
        ("alarms on val", metric("alarms"), format!("of {val} rows")),
        ("F1 on val", metric("f1"), "of labelled windows".into()),
        ("best epoch", c.outcome.best_epoch.to_string(), format!("of {}", c.outcome.epochs)),
        ("training rows", train, format!("{test} rows are left for test")),
        ("parameters", short(c.cost.parameters), format!("{} multiply-adds", short(c.cost.macs))),
        ("time", duration(c.times.total.as_secs_f64()), String::new()),
    ])
}

fn curves(c: &Contents<'_>) -> Markup {
    let over = |value: &dyn Fn(&Epoch) -> f64| -> Vec<(f64, f64)> {
        c.history.iter().map(|row| (row.epoch as f64, value(row))).collect()
    };
    let best = c.outcome.best_epoch;
    let loss = Chart::new("Loss", Axis::new("epoch").whole(), Axis::new("mean square error").log())
        .line("val", over(&|row| row.val["loss"]))
        .line("train", over(&|row| row.train_loss))
        .mark(best as f64, format!("epoch {best} was kept"));
    let lr = Chart::new("Learning rate", Axis::new("epoch").whole(), Axis::new("at the end of the epoch"))
        .line("rate", over(&|row| row.lr));
    section("Curves", "", html! { div.columns { (loss) (lr) } })
}

/// Points in alarm; the first of each run says so in words.
fn alarmed<'a>(points: &'a [&Point]) -> impl Iterator<Item = (f64, f64, &'static str)> + 'a {
    let before = [None].into_iter().chain(points.iter().map(Some));
    let pairs = points.iter().zip(before).filter(|(point, _)| point.alarm);
    pairs.map(|(point, before)| {
        let begins = before.is_none_or(|before| !before.alarm);
        (point.at, point.value, if begins { "alarm" } else { "" })
    })
}

/// A series with its scores and alarms.
fn drawn(split: Split, series: &Series, model: &mut Model) -> anyhow::Result<Markup> {
    model.forget();
    let (mut points, mut alarms, mut threshold) = (Vec::new(), Vec::new(), 0.0);
    for (row, number) in series.rows.iter().zip(0..) {
        let Answer::Reading(reading) = model.answer(row)? else {
            anyhow::bail!("training on series makes detectors of anomalies, and best.espalier is none")
        };
        let at = row.time.unwrap_or(f64::from(number));
        let value = f64::from(row.values[0]);
        let point = Point { at, value, score: reading.score, alarm: reading.alarm };
        if point.alarm && points.last().is_none_or(|last: &Point| !last.alarm) {
            alarms.push((number, reading.score, reading.column));
        }
        threshold = reading.threshold;
        points.push(point);
    }
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    // Of each stretch the highest score is drawn: no alarm is left out.
    let thinned: Vec<&Point> = points
        .chunks(step)
        .filter_map(|part| {
            part.iter().max_by(|a, b| a.score.unwrap_or(-1.0).total_cmp(&b.score.unwrap_or(-1.0)))
        })
        .collect();
    let name = series.name.rsplit(['/', '\\']).next().unwrap_or(&series.name);
    let axis = || match series.rows.first().and_then(|row| row.time) {
        Some(_) => Axis::new("").time(),
        None => Axis::new("row").whole(),
    };
    let values = Chart::new(format!("{name}, {split}"), axis(), Axis::new("value"))
        .line("value", thinned.iter().map(|point| (point.at, point.value)))
        .points("alarm", alarmed(&thinned));
    let scores = Chart::new("Score", axis(), Axis::new("standard deviations of the usual error"))
        .line("score", thinned.iter().filter_map(|point| Some((point.at, point.score?))))
        .line("threshold", thinned.iter().map(|point| (point.at, threshold)));
    let mut table = Table::new().number("row").number("score").text("column");
    for (row, score, column) in alarms.iter().take(ALARMS_MAX) {
        let score = score.map_or_else(String::new, number);
        table.row(vec![html! { (row) }, html! { (score) }, html! { (column.clone().unwrap_or_default()) }]);
    }
    let count = alarms.len();
    Ok(html! {
        (values) (scores)
        p { (count) @if count == 1 { " alarm." } @else { " alarms." } }
        @if count > 0 { (table.render()) }
    })
}
