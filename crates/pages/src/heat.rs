//! Heat tables: a matrix of counts, such as a confusion matrix.

use maud::{Markup, Render, html};

/// Steps of colour.
const LEVELS: f64 = 10.0;
/// Up to so many columns, cells are wide enough for their counts.
const ROOMY: usize = 25;

/// A square matrix of counts with names: rows what is true, columns what was guessed. The colour of a cell is its share
/// of the row; the diagonal, what is right, has a colour of its own.
#[derive(Clone, Debug)]
pub struct Heat {
    names: Vec<String>,
    counts: Vec<Vec<u64>>,
    row: String,
    column: String,
}

impl Heat {
    /// `counts[row][column]`; `row` and `column` say what the two sides mean.
    ///
    /// # Panics
    /// The matrix has not a row and a column for each name.
    pub fn new(
        names: Vec<String>,
        counts: Vec<Vec<u64>>,
        row: impl Into<String>,
        column: impl Into<String>,
    ) -> Heat {
        let fits = counts.len() == names.len() && counts.iter().all(|row| row.len() == names.len());
        assert!(fits, "a heat table has a row and a column for each name");
        Heat { names, counts, row: row.into(), column: column.into() }
    }

    fn row(&self, at: usize) -> Markup {
        let (name, counts) = (&self.names[at], &self.counts[at]);
        let sum: u64 = counts.iter().sum();
        let title = |column: usize, n: u64| format!("{name} taken for {}: {n} of {sum}", self.names[column]);
        html! {
            tr {
                th scope="row" { (name) }
                @for (column, &n) in counts.iter().enumerate() {
                    @let right = if column == at { "right" } else { "other" };
                    @if n == 0 {
                        td.(right) {}
                    } @else {
                        td.(right).(level(n, sum)) title=(title(column, n)) { (n) }
                    }
                }
            }
        }
    }
}

/// The class of a cell that holds `n` of `sum`, which is not 0: even one is seen.
fn level(n: u64, sum: u64) -> String {
    format!("h{}", (n as f64 / sum as f64 * LEVELS).ceil().clamp(1.0, LEVELS))
}

impl Render for Heat {
    fn render(&self) -> Markup {
        html! {
            div.scroll {
                table.heat.dense[self.names.len() > ROOMY] {
                    thead {
                        tr {
                            th { (self.row) " \u{2193} " (self.column) " \u{2192}" }
                            @for name in &self.names { th scope="col" { span { (name) } } }
                        }
                    }
                    tbody { @for at in 0..self.names.len() { (self.row(at)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_shares_of_the_row() {
        let check = |n, sum, expected: &str| assert_eq!(level(n, sum), expected, "{n} of {sum}");
        check(1, 10_000, "h1");
        check(10, 100, "h1");
        check(11, 100, "h2");
        check(100, 100, "h10");
    }

    #[test]
    fn every_count_stands_in_its_cell() {
        let heat = Heat::new(vec!["cat".into(), "dog".into()], vec![vec![7, 1], vec![0, 5]], "true", "guess");
        let text = heat.render().into_string();
        assert!(text.contains("title=\"cat taken for dog: 1 of 8\">1</td>"), "{text}");
        assert!(
            text.contains("<td class=\"right h10\" title=\"dog taken for dog: 5 of 5\">5</td>"),
            "{text}"
        );
        assert_eq!(text.matches("<td").count(), 4);
    }
}
