//! Prometheus's text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::fmt::Write;

use super::{Figure, Kind, Part};

/// Figures with the labels of whom they are of.
pub(crate) type Labelled<'a> = (Vec<(&'a str, &'a str)>, Vec<Figure>);

/// All figures, each with the labels of whom it is of. Figures of one metric stand together, as the format demands.
pub(crate) fn exposition(of: &[Labelled<'_>]) -> String {
    let mut names: Vec<&'static str> = Vec::new();
    of.iter().flat_map(|(_, figures)| figures).for_each(|figure| {
        if !names.contains(&figure.name) {
            names.push(figure.name);
        }
    });
    let mut text = String::new();
    for name in names {
        let mut is_first = true;
        for (labels, figure) in of.iter().flat_map(|(labels, all)| all.iter().map(move |one| (labels, one))) {
            if figure.name == name {
                if std::mem::take(&mut is_first) {
                    head(&mut text, figure);
                }
                line(&mut text, labels, figure);
            }
        }
    }
    text
}

fn head(text: &mut String, figure: &Figure) {
    let kind = match figure.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Summary => "summary",
    };
    let Figure { name, help, .. } = figure;
    let _ = writeln!(text, "# HELP espalier_{name} {help}\n# TYPE espalier_{name} {kind}");
}

fn line(text: &mut String, labels: &[(&str, &str)], figure: &Figure) {
    let (suffix, quantile) = match figure.part {
        Part::Whole => ("", None),
        Part::Sum => ("_sum", None),
        Part::Count => ("_count", None),
        Part::Quantile(quantile) => ("", Some(("quantile", quantile))),
    };
    let labels: Vec<String> = labels
        .iter()
        .copied()
        .chain(quantile)
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(text, "espalier_{}{suffix}{labels} {}", figure.name, figure.value);
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_stand_together_under_their_help() {
        let figure = |part, value| Figure { name: "ms", kind: Kind::Summary, help: "Time.", part, value };
        let pipeline = |name| {
            (
                vec![("pipeline", name)],
                vec![figure(Part::Quantile("0.5"), f64::NAN), figure(Part::Count, 3.0)],
            )
        };
        let up = Figure { name: "up", kind: Kind::Gauge, help: "Up.", part: Part::Whole, value: 0.25 };
        let text = exposition(&[pipeline("a"), (vec![], vec![up]), pipeline("b\"\\\n")]);
        let expected = "\
# HELP espalier_ms Time.
# TYPE espalier_ms summary
espalier_ms{pipeline=\"a\",quantile=\"0.5\"} NaN
espalier_ms_count{pipeline=\"a\"} 3
espalier_ms{pipeline=\"b\\\"\\\\\\n\",quantile=\"0.5\"} NaN
espalier_ms_count{pipeline=\"b\\\"\\\\\\n\"} 3
# HELP espalier_up Up.
# TYPE espalier_up gauge
espalier_up 0.25
";
        assert_eq!(text, expected);
    }
}
