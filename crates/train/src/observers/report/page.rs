//! What the report looks like.

use espalier_pages::{
    Axis, Chart, Heat, Table, bar, callout, facts, gallery, number, page as shell, percent, properties,
    section,
};
use maud::{Markup, Render, html};

use super::environment::environment;
use super::{Contents, Mistake};
use crate::diagnosis::Kind;
use crate::event::Outcome;

/// Up to so many classes the confusion matrix is shown whole; of more, those with the most mistakes.
const CLASSES_MAX: usize = 100;
/// Pairs of classes in the list of confusions.
const PAIRS_MAX: usize = 10;
/// From this ratio between the most and the least frequent class on, the imbalance is named.
const IMBALANCE: usize = 3;

pub(super) fn page(c: &Contents<'_>) -> String {
    let title = format!("{} on {}", c.outcome.model, c.run.dataset);
    let body = html! {
        h1 { (title) }
        p.subtitle { "How the training run " (c.outcome.out.display()) " went" }
        (verdict(c.outcome))
        (headline(c))
        (curves(c))
        (confusion(c))
        (classes(c))
        (mistakes(c))
        (inputs(c))
        (throughput(c))
        (settings(c))
    };
    shell(&format!("{title} · Espalier"), body)
}

pub(super) fn verdict(outcome: &Outcome) -> Markup {
    let verdict = &outcome.verdict;
    let kind = match verdict.kind {
        Kind::Target => "good",
        Kind::StillImproving | Kind::Plateau | Kind::Short => "note",
        Kind::Overfitting | Kind::NothingLearned => "bad",
    };
    let lead = if verdict.advice.is_empty() { "" } else { "What to try:" };
    callout(kind, &verdict.text, lead, &verdict.advice)
}

fn headline(c: &Contents<'_>) -> Markup {
    let n = c.metrics.n();
    let accuracy = c.metrics.accuracy();
    let [low, high] = interval(accuracy, n).map(|share| format!("{:.1}", 100.0 * share));
    let train: usize = c.run.counts[0].iter().sum();
    facts(&[
        ("val accuracy", percent(accuracy), format!("95\u{202f}% sure: {low} to {high}\u{202f}%")),
        ("val loss", number(c.metrics.loss()), format!("on {} images", number(n as f64))),
        ("best epoch", c.outcome.best_epoch.to_string(), format!("of {}", c.outcome.epochs)),
        ("training images", number(train as f64), format!("{} classes", c.labels.len())),
        ("parameters", short(c.run.parameters), format!("{} multiply-adds", short(c.run.macs))),
        ("time", duration(c.times.total.as_secs_f64()), rate(c)),
    ])
}

/// Where a share that was measured on `n` images truly lies, with 95 % confidence (Wilson 1927).
fn interval(share: f64, n: usize) -> [f64; 2] {
    const Z: f64 = 1.96;
    let n = n.max(1) as f64;
    let (shrink, middle) = (1.0 + Z * Z / n, share + Z * Z / (2.0 * n));
    let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(middle - reach) / shrink, (middle + reach) / shrink]
}

fn rate(c: &Contents<'_>) -> String {
    c.outcome
        .images_per_second
        .map_or(String::new(), |rate| format!("{} images/s in training", number(rate.round())))
}

fn curves(c: &Contents<'_>) -> Markup {
    let over = |value: &dyn Fn(&crate::checkpoint::Epoch) -> f64| -> Vec<(f64, f64)> {
        c.history.iter().map(|row| (row.epoch as f64, value(row))).collect()
    };
    let epochs = || Axis::new("epoch").whole();
    let best = c.outcome.best_epoch;
    let mark = |chart: Chart| chart.mark(best as f64, format!("epoch {best} was kept"));
    let loss = Chart::new("Loss", epochs(), Axis::new("cross-entropy"))
        .line("val", over(&|row| row.val["loss"]))
        .line("train", over(&|row| row.train_loss));
    let accuracy =
        Chart::new("Accuracy", epochs(), Axis::new("share of the images that are right").percent())
            .line("val", over(&|row| row.val["accuracy"]))
            .line("train", over(&|row| row.train_accuracy.unwrap_or(f64::NAN)));
    let lr = Chart::new("Learning rate", epochs(), Axis::new("at the end of the epoch"))
        .line("rate", over(&|row| row.lr));
    let last = c.history.last().expect("a run has epochs");
    let lead = if last.val["loss"] < last.train_loss {
        "Training is measured on augmented images with smoothed labels and by weights that still change, so that val is \
         often the better of the two; their trends are what counts."
    } else {
        "Training is measured on augmented images with smoothed labels and by weights that still change."
    };
    section("Curves", lead, html! { div.columns { (mark(loss)) (mark(accuracy)) (lr) } })
}

fn confusion(c: &Contents<'_>) -> Markup {
    let counts = c.metrics.confusion();
    let errors = |i: usize| -> u64 {
        (0..counts.len()).filter(|&j| j != i).map(|j| counts[i][j] + counts[j][i]).sum()
    };
    let mut shown: Vec<usize> = (0..counts.len()).collect();
    if shown.len() > CLASSES_MAX {
        shown.sort_by_key(|&i| std::cmp::Reverse(errors(i)));
        shown.truncate(CLASSES_MAX);
        shown.sort_unstable();
    }
    let names = shown.iter().map(|&i| c.labels[i].clone()).collect();
    let cells = shown.iter().map(|&i| shown.iter().map(|&j| counts[i][j]).collect()).collect();
    let lead = if shown.len() < counts.len() {
        format!(
            "Val, the {} of {} classes with the most mistakes. Rows are labels, columns guesses.",
            shown.len(),
            counts.len()
        )
    } else {
        "Val. Rows are labels, columns guesses; colour is the share of the row.".into()
    };
    let body = html! {
        (Heat::new(names, cells, "label", "guess"))
        (pairs(c))
    };
    section("Confusion", &lead, body)
}

/// The most frequent confusions, by number.
fn pairs(c: &Contents<'_>) -> Markup {
    let counts = c.metrics.confusion();
    let all = (0..counts.len()).flat_map(|i| (0..counts.len()).map(move |j| (i, j)));
    let mut pairs: Vec<(u64, usize, usize)> =
        all.filter(|(i, j)| i != j && counts[*i][*j] > 0).map(|(i, j)| (counts[i][j], i, j)).collect();
    pairs.sort_by_key(|&(n, i, j)| (std::cmp::Reverse(n), i, j));
    if pairs.is_empty() {
        return html! { p { "No image of val is answered wrongly." } };
    }
    let mut table = Table::new().text("label").text("taken for").number("images").number("of its class");
    for &(n, i, j) in pairs.iter().take(PAIRS_MAX) {
        let share = n as f64 / counts[i].iter().sum::<u64>() as f64;
        table.row(vec![
            html! { (c.labels[i]) },
            html! { (c.labels[j]) },
            html! { (n) },
            html! { (percent(share)) },
        ]);
    }
    html! { h3 { "Most frequent confusions" } (table) }
}

fn classes(c: &Contents<'_>) -> Markup {
    let [train, val, _] = &c.run.counts;
    let most = *train.iter().max().unwrap_or(&1);
    let mut table = Table::new()
        .text("class")
        .number("train")
        .bars()
        .number("val")
        .number("precision")
        .number("recall")
        .number("F1");
    for (i, class) in c.metrics.per_class().iter().enumerate() {
        table.row(vec![
            html! { (class.label) },
            html! { (number(train[i] as f64)) },
            bar(train[i] as f64 / most as f64),
            html! { (number(val[i] as f64)) },
            html! { (percent(class.precision)) },
            html! { (percent(class.recall)) },
            html! { (percent(class.f1)) },
        ]);
    }
    let lead = format!("{} Precision, recall and F1 are those of val.", balance(train, &c.labels));
    section("Classes", &lead, table.render())
}

/// Whether the classes are equally frequent, in a sentence.
fn balance(train: &[usize], labels: &[String]) -> String {
    let by_count = |&i: &usize| train[i];
    let (most, least) = ((0..train.len()).max_by_key(by_count), (0..train.len()).min_by_key(by_count));
    let (Some(most), Some(least)) = (most, least) else { return String::new() };
    if train[most] < IMBALANCE * train[least].max(1) {
        return "The classes are balanced.".into();
    }
    format!(
        "The classes are not balanced: {} has {} training images, {} only {}.",
        labels[most],
        number(train[most] as f64),
        labels[least],
        number(train[least] as f64)
    )
}

fn mistakes(c: &Contents<'_>) -> Markup {
    let wrong = c.metrics.n() as u64 - (0..c.labels.len()).map(|i| c.metrics.confusion()[i][i]).sum::<u64>();
    let shown = |m: &Mistake| {
        let caption = html! {
            b.wrong { (m.guess) } " " (percent(f64::from(m.confidence)))
            span { "labelled " (m.label) }
            span { (m.file) }
        };
        (m.picture.clone(), caption)
    };
    let pictures: Vec<_> = c.mistakes.iter().map(shown).collect();
    let lead = match (wrong, pictures.len() as u64) {
        (0, _) => "No image of val is answered wrongly.".to_string(),
        (1, _) => {
            "The one image of val that is answered wrongly. Such mistakes are often wrong labels.".into()
        }
        (n, shown) if n == shown => {
            format!("All {n} mistakes on val, the most confident first. They are often wrong labels.")
        }
        (n, shown) => {
            format!("The {shown} most confident of {n} mistakes on val. They are often wrong labels.")
        }
    };
    section("Mistakes", &lead, gallery(&pictures))
}

fn inputs(c: &Contents<'_>) -> Markup {
    let pictures: Vec<_> =
        c.inputs.iter().map(|(picture, label)| (picture.clone(), html! { (label) })).collect();
    let lead =
        "The first training images, augmented as the network saw them. They should still be easy to name.";
    section("Inputs", lead, gallery(&pictures))
}

fn throughput(c: &Contents<'_>) -> Markup {
    let t = c.times;
    let total = t.total.as_secs_f64();
    let parts = [
        ("training steps", t.steps),
        ("waiting for data", t.data),
        ("validation", t.validation),
        ("checkpoints", t.checkpoints),
    ];
    let named: f64 = parts.iter().map(|(_, time)| time.as_secs_f64()).sum();
    let rest = ("everything else", (total - named).max(0.0));
    let mut table = Table::new().text("").number("time").number("share").bars();
    for (name, seconds) in parts.map(|(name, time)| (name, time.as_secs_f64())).into_iter().chain([rest]) {
        let share = seconds / total.max(1e-9);
        table.row(vec![
            html! { (name) },
            html! { (duration(seconds)) },
            html! { (percent(share)) },
            bar(share),
        ]);
    }
    let lead = match t.count {
        0 => "No step was made since the run was resumed.".to_string(),
        n => format!(
            "{} steps of {} images, {} ms each{}. A resumed run counts from its last start.",
            number(n as f64),
            c.run.batch,
            number(t.steps.as_secs_f64() * 1e3 / n as f64),
            c.outcome
                .images_per_second
                .map_or(String::new(), |rate| format!(": {} images/s", number(rate.round()))),
        ),
    };
    section("Time", &lead, table.render())
}

fn settings(c: &Contents<'_>) -> Markup {
    let notes = c
        .run
        .warnings
        .iter()
        .cloned()
        .chain((c.run.skipped > 0).then(|| format!("{} files were skipped", c.run.skipped)));
    let notes: Vec<String> = notes.collect();
    html! {
        (section("Settings", "As in run.toml.", properties(&c.run.settings)))
        (section("Machine", "", properties(&environment(c.run.threads))))
        @if !notes.is_empty() { (section("Notes on the data", "", html! { ul { @for note in &notes { li { (note) } } } })) }
    }
}

/// 1234567 as 1.23 M.
pub(super) fn short(n: usize) -> String {
    let n = n as f64;
    let (value, unit) = match n {
        1e9.. => (n / 1e9, " G"),
        1e6.. => (n / 1e6, " M"),
        1e3.. => (n / 1e3, " k"),
        _ => return number(n),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$}{unit}")
}

pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        3600.0.. => format!("{} h {:02} min", seconds as u64 / 3600, seconds as u64 % 3600 / 60),
        60.0.. => format!("{} min {:02} s", seconds as u64 / 60, seconds as u64 % 60),
        10.0.. => format!("{seconds:.0} s"),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        let check = |share, n, expected: [f64; 2]| {
            let found = interval(share, n);
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 5e-4),
                "{share} of {n}: {found:?}"
            );
        };
        check(0.9, 100, [0.8256, 0.9448]);
        check(1.0, 24, [0.8620, 1.0]);
        check(0.0, 10, [0.0, 0.2775]);
    }

    #[test]
    fn sizes_and_times_for_people() {
        let sizes = [7, 4321, 12_345, 2_279_999, 123_456_789, 4_000_000_000].map(short);
        assert_eq!(sizes, ["7", "4.32 k", "12.3 k", "2.28 M", "123 M", "4.00 G"]);
        let times = [0.25, 9.0, 59.0, 61.0, 3599.0, 7260.0].map(duration);
        assert_eq!(times, ["0.2 s", "9.0 s", "59 s", "1 min 01 s", "59 min 59 s", "2 h 01 min"]);
    }

    #[test]
    fn imbalance_is_named() {
        let labels = ["cat", "dog", "fox"].map(String::from);
        assert_eq!(balance(&[10, 20, 29], &labels), "The classes are balanced.");
        let text = balance(&[10, 20, 30], &labels);
        assert_eq!(text, "The classes are not balanced: fox has 30 training images, cat only 10.");
    }
}
