//! Charts of lines and points, drawn by uPlot.

use maud::{Markup, Render, html};
use serde::Serialize;

use crate::parts::number;

/// The attribute that holds a chart's description; the script draws what it finds in it.
pub(crate) const CHART_ATTRIBUTE: &str = " data-chart=\"";

/// One axis: what it counts, and how it is divided.
#[derive(Clone, Debug, Serialize)]
pub struct Axis {
    label: String,
    log: bool,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Number,
    Whole,
    Percent,
    Time,
}

impl Axis {
    /// A linear axis of numbers. `label` names quantity and unit.
    pub fn new(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), log: false, form: Form::Number }
    }

    /// Divided by powers of ten; values must be above 0, others are left out.
    pub fn log(self) -> Axis {
        Axis { log: true, ..self }
    }

    /// Whole numbers only, such as epochs.
    pub fn whole(self) -> Axis {
        Axis { form: Form::Whole, ..self }
    }

    /// Shares from 0 to 1, shown as percent.
    pub fn percent(self) -> Axis {
        Axis { form: Form::Percent, ..self }
    }

    /// Seconds since 1970, shown as date and time of the reader.
    pub fn time(self) -> Axis {
        Axis { form: Form::Time, ..self }
    }

    fn show(&self, value: f64) -> String {
        match self.form {
            Form::Percent => crate::parts::percent(value),
            _ => number(value),
        }
    }
}

/// A chart: lines over a common x, points with labels, or both.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    marks: Vec<Mark>,
}

#[derive(Clone, Debug)]
struct Series {
    label: String,
    line: bool,
    points: Vec<(f64, f64, String)>,
}

#[derive(Clone, Debug, Serialize)]
struct Mark {
    x: f64,
    label: String,
}

impl Chart {
    /// An empty chart.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Chart {
        Chart { title: title.into(), x, y, series: Vec::new(), marks: Vec::new() }
    }

    /// Adds a line through points (x, y). The colour follows from the order of the series.
    pub fn line(self, label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Chart {
        let points = points.into_iter().map(|(x, y)| (x, y, String::new())).collect();
        self.add(Series { label: label.into(), line: true, points })
    }

    /// Adds single points (x, y, label); an empty label is not drawn.
    pub fn points<L: Into<String>>(
        self,
        label: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64, L)>,
    ) -> Chart {
        let points = points.into_iter().map(|(x, y, label)| (x, y, label.into())).collect();
        self.add(Series { label: label.into(), line: false, points })
    }

    /// Adds a vertical line at `x` with a label, e.g. the best epoch.
    pub fn mark(mut self, x: f64, label: impl Into<String>) -> Chart {
        self.marks.push(Mark { x, label: label.into() });
        self
    }

    fn add(mut self, series: Series) -> Chart {
        self.series.push(series);
        self
    }

    fn drawable(&self, x: f64, y: f64) -> bool {
        let fits = |axis: &Axis, v: f64| v.is_finite() && (!axis.log || v > 0.0);
        fits(&self.x, x) && fits(&self.y, y)
    }

    /// The points of a series that can be drawn.
    fn drawn<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = &'a (f64, f64, String)> {
        series.points.iter().filter(|(x, y, _)| self.drawable(*x, *y))
    }

    /// Rows of one x and a value for each series, by ascending x. Lines share the rows of equal x; every point has a row
    /// of its own, so that its label has a place.
    fn rows(&self) -> Vec<Row<'_>> {
        let empty = |x: f64| Row { x, y: vec![None; self.series.len()], label: "" };
        let lines = self.series.iter().filter(|s| s.line);
        let mut xs: Vec<f64> = lines.flat_map(|s| self.drawn(s)).map(|p| p.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let mut rows: Vec<Row<'_>> = xs.iter().map(|&x| empty(x)).collect();
        for (at, series) in self.series.iter().enumerate() {
            for (x, y, label) in self.drawn(series) {
                let row = match xs.binary_search_by(|other| other.total_cmp(x)) {
                    Ok(row) if series.line => &mut rows[row],
                    _ => {
                        rows.push(Row { label, ..empty(*x) });
                        rows.last_mut().expect("just pushed")
                    }
                };
                row.y[at] = Some(*y);
            }
        }
        rows.sort_by(|a, b| a.x.total_cmp(&b.x));
        rows
    }

    /// What the script needs to know.
    fn description(&self, rows: &[Row<'_>]) -> String {
        let column = |at: usize| rows.iter().map(|row| row.y[at]).collect();
        let series = self.series.iter().enumerate();
        let description = Description {
            x: &self.x,
            y: &self.y,
            at: rows.iter().map(|row| row.x).collect(),
            series: series.map(|(i, s)| Drawn { label: &s.label, line: s.line, values: column(i) }).collect(),
            labels: rows.iter().map(|row| row.label).collect(),
            marks: &self.marks,
        };
        serde_json::to_string(&description).expect("a chart is plain data")
    }

    /// The same as numbers: for readers without eyes or scripts, and for copying.
    fn table(&self, rows: &[Row<'_>]) -> Markup {
        let labelled = rows.iter().any(|row| !row.label.is_empty());
        html! {
            table {
                thead {
                    tr {
                        @if labelled { th {} }
                        th.number { (self.x.label) }
                        @for series in &self.series { th.number { (series.label) } }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            @if labelled { th { (row.label) } }
                            td.number { (self.x.show(row.x)) }
                            @for y in &row.y { td.number { @if let Some(y) = y { (self.y.show(*y)) } } }
                        }
                    }
                }
            }
        }
    }
}

#[derive(Serialize)]
struct Description<'a> {
    x: &'a Axis,
    y: &'a Axis,
    at: Vec<f64>,
    series: Vec<Drawn<'a>>,
    labels: Vec<&'a str>,
    marks: &'a [Mark],
}

#[derive(Serialize)]
struct Drawn<'a> {
    label: &'a str,
    line: bool,
    values: Vec<Option<f64>>,
}

struct Row<'a> {
    x: f64,
    y: Vec<Option<f64>>,
    label: &'a str,
}

impl Render for Chart {
    fn render(&self) -> Markup {
        let rows = self.rows();
        html! {
            figure.chart {
                figcaption { b { (self.title) } " " span { (self.y.label) } }
                div.plot data-chart=(self.description(&rows)) {}
                details { summary { "Numbers" } div.scroll { (self.table(&rows)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart::new("t", Axis::new("x"), Axis::new("y").log())
    }

    fn check(chart: &Chart, expected: &[(f64, &[Option<f64>], &str)]) {
        let rows = chart.rows();
        let found: Vec<_> = rows.iter().map(|row| (row.x, &row.y[..], row.label)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_share_rows_and_points_do_not() {
        let lines = chart().line("a", [(3.0, 1.0), (1.0, 2.0)]).line("b", [(1.0, 5.0), (2.0, 6.0)]);
        check(
            &lines,
            &[
                (1.0, &[Some(2.0), Some(5.0)], ""),
                (2.0, &[None, Some(6.0)], ""),
                (3.0, &[Some(1.0), None], ""),
            ],
        );
        let points = chart().points("p", [(2.0, 1.0, "first"), (2.0, 3.0, "second")]);
        check(&points, &[(2.0, &[Some(1.0)], "first"), (2.0, &[Some(3.0)], "second")]);
        let both = chart().line("l", [(2.0, 1.0)]).points("p", [(2.0, 3.0, "on it")]);
        check(&both, &[(2.0, &[Some(1.0), None], ""), (2.0, &[None, Some(3.0)], "on it")]);
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out() {
        let odd = [(1.0, 0.0), (2.0, -1.0), (3.0, f64::NAN), (f64::INFINITY, 1.0), (4.0, 0.5)];
        check(&chart().line("a", odd), &[(4.0, &[Some(0.5)], "")]);
    }

    #[test]
    fn the_description_is_json_in_an_attribute() {
        let chart = chart().line("\"a\" & <b>", [(1.0, 2.0)]).mark(1.0, "best");
        let text = chart.render().into_string();
        let attribute = text.split(CHART_ATTRIBUTE).nth(1).unwrap().split('"').next().unwrap();
        let json =
            attribute.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["series"][0]["label"], "\"a\" & <b>");
        assert_eq!(
            (&value["at"][0], &value["marks"][0]["x"], &value["y"]["log"]),
            (&1.0.into(), &1.0.into(), &true.into())
        );
    }
}
