//! The parts that pages are made of.

use maud::{Markup, Render, html};

/// A part with a heading, and one sentence about it (empty for none).
pub fn section(title: &str, lead: &str, body: Markup) -> Markup {
    html! {
        section {
            h2 { (title) }
            @if !lead.is_empty() { p.lead { (lead) } }
            (body)
        }
    }
}

/// A framed statement that a reader should see first: a title, a sentence, and what to do. `kind` is `good`, `note` or
/// `bad` and gives the colour of its edge.
pub fn callout(kind: &str, title: &str, text: &str, advice: &[String]) -> Markup {
    html! {
        aside.callout.(kind) {
            p.title { (title) }
            @if !text.is_empty() { p { (text) } }
            @if !advice.is_empty() { ul { @for line in advice { li { (line) } } } }
        }
    }
}

/// The few figures that matter: name, value, and a word about it (empty for none).
pub fn facts(facts: &[(&str, String, String)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value, note) in facts {
                div {
                    dt { (name) }
                    dd { (value) }
                    @if !note.is_empty() { dd.note { (note) } }
                }
            }
        }
    }
}

/// Names with their values, many and small, such as settings.
pub fn properties<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Markup {
    html! {
        dl.properties {
            @for (name, value) in pairs { div { dt { (name.as_ref()) } dd { (value.as_ref()) } } }
        }
    }
}

/// Pictures with captions, side by side.
pub fn gallery<P: Render>(pictures: &[(P, Markup)]) -> Markup {
    html! {
        div.gallery {
            @for (picture, caption) in pictures { figure { (picture) figcaption { (caption) } } }
        }
    }
}

/// Many small pictures without captions, close together.
pub fn mosaic<P: Render>(pictures: &[P]) -> Markup {
    html! { div.mosaic { @for picture in pictures { (picture) } } }
}

/// A few large pictures with captions, side by side where there is room.
pub fn pair<P: Render>(pictures: &[(P, Markup)]) -> Markup {
    html! {
        div.pair {
            @for (picture, caption) in pictures { figure { (picture) figcaption { (caption) } } }
        }
    }
}

/// A bar that fills `share` (0 to 1) of its cell.
pub fn bar(share: f64) -> Markup {
    let width = format!("{:.1}%", share.clamp(0.0, 1.0) * 100.0);
    html! { svg.bar aria-hidden="true" { rect width=(width) height="100%" rx="1.5" {} } }
}

/// A table; numeric columns are set to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Names and classes.
    columns: Vec<(String, Option<&'static str>)>,
    rows: Vec<Vec<Markup>>,
}

impl Table {
    /// Without columns yet.
    pub fn new() -> Table {
        Table::default()
    }

    /// Adds a column of words or pictures.
    pub fn text(mut self, name: impl Into<String>) -> Table {
        self.columns.push((name.into(), None));
        self
    }

    /// Adds a column of numbers.
    pub fn number(mut self, name: impl Into<String>) -> Table {
        self.columns.push((name.into(), Some("number")));
        self
    }

    /// Adds a column of [`bar`]s. It has no name, and is left out where there is no room for it.
    pub fn bars(mut self) -> Table {
        self.columns.push((String::new(), Some("bars")));
        self
    }

    /// Adds a row; it has a cell for each column.
    ///
    /// # Panics
    /// Where it has not.
    pub fn row(&mut self, cells: Vec<Markup>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }
}

impl Render for Table {
    fn render(&self) -> Markup {
        html! {
            div.scroll {
                table {
                    thead { tr { @for (name, class) in &self.columns { th class=[class] { (name) } } } }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for ((_, class), cell) in self.columns.iter().zip(row) {
                                    td class=[class] { (cell) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Four significant digits; whole numbers up to a million as they are, with thin spaces between thousands.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return grouped(value as i64);
    }
    let magnitude = value.abs().log10().floor() as i32;
    match magnitude {
        ..-4 => format!("{value:.2e}"),
        15.. => format!("{value:.3e}"),
        4.. => grouped(value.round() as i64),
        _ => format!("{value:.*}", (3 - magnitude).max(0) as usize),
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "−" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A share as percent, to a tenth.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}\u{202f}%", share * 100.0) } else { "–".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected, "{value}");
        check(0.0, "0");
        check(12.0, "12");
        check(5000.0, "5000");
        check(60000.0, "60\u{202f}000");
        check(-1234567.0, "−1\u{202f}234\u{202f}567");
        check(0.98765, "0.9877");
        check(1.5, "1.500");
        check(123.456, "123.5");
        check(98765.4, "98\u{202f}765");
        check(0.000012345, "1.23e-5");
        check(f64::NAN, "–");
        assert_eq!(
            (percent(0.98765), percent(1.0), percent(f64::NAN)),
            ("98.8\u{202f}%".into(), "100.0\u{202f}%".into(), "–".into())
        );
    }

    #[test]
    fn bars_stay_in_their_cell() {
        let width = |share| {
            bar(share).into_string().split("width=\"").nth(1).unwrap().split('"').next().unwrap().to_string()
        };
        assert_eq!([width(-1.0), width(0.25), width(7.0)], ["0.0%", "25.0%", "100.0%"]);
    }

    #[test]
    #[should_panic(expected = "a cell for each column")]
    fn rows_fit_their_table() {
        Table::new().text("a").number("b").row(vec![html! { "only one" }]);
    }
}
