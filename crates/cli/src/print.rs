//! Results on stdout: one JSON object on the last line with `--json`, else text for people.

use std::io::{self, Write};

use espalier_train::data::Skipped;
use serde_json::Value;

/// Prints `value` as one line of JSON, or what `text` makes.
pub(crate) fn result(json: bool, value: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if json { format!("{value}\n") } else { text() };
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// Keys with their values, aligned; a list of objects becomes a table with the columns `keys`.
pub(crate) fn table(value: &Value, keys: &[&str]) -> String {
    let Value::Object(map) = value else { return format!("{value}\n") };
    let width = map.keys().map(String::len).max().unwrap_or(0);
    let scalars =
        map.iter().filter(|(_, v)| !v.is_array()).map(|(k, v)| format!("{k:width$}  {}\n", cell(v)));
    let lists = map.values().filter_map(Value::as_array).map(|rows| format!("\n{}", columns(rows, keys)));
    scalars.chain(lists).collect()
}

/// Numbers to 4 digits, texts bare.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => significant(n.as_f64().unwrap_or(f64::NAN)),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// Four significant digits without an exponent.
pub(crate) fn significant(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return v.to_string();
    }
    let digits = (3 - v.abs().log10().floor() as i32).clamp(0, 9) as usize;
    format!("{v:.digits$}")
}

/// The values of `keys` in every object, as an aligned table.
pub(crate) fn columns(rows: &[Value], keys: &[&str]) -> String {
    let head = keys.iter().map(|key| key.to_string()).collect();
    let cells = rows.iter().map(|row| keys.iter().map(|&key| cell(&row[key])).collect());
    grid(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}

/// Lines with as many cells each, aligned to the left.
pub(crate) fn grid(lines: &[Vec<String>]) -> String {
    aligned(lines, |_, cell, width| format!("{cell:width$}"))
}

/// Names in the first column, numbers in the others, which are aligned to the right.
pub(crate) fn numbers(lines: &[Vec<String>]) -> String {
    aligned(lines, |c, cell, width| if c == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") })
}

fn aligned(lines: &[Vec<String>], pad: impl Fn(usize, &str, usize) -> String) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |c: usize| lines.iter().map(|line| line[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let row = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).enumerate().map(|(c, (cell, &width))| pad(c, cell, width));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(row).collect()
}

/// Says on stderr which files take no part, and why: the first few, and how many more.
pub(crate) fn skipped(skipped: &[Skipped]) {
    const MOST: usize = 5;
    skipped
        .iter()
        .take(MOST)
        .for_each(|s| eprintln!("skipped {}", line(&format!("{}: {}", s.name, s.reason))));
    if skipped.len() > MOST {
        eprintln!("skipped {} more files", skipped.len() - MOST);
    }
}

/// Text of others (file names, labels) as part of one line: what would move the cursor is escaped.
pub(crate) fn line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(visible).collect()
}
