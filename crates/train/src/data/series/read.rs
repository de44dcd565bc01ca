//! Files of rows.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use espalier_tasks::Row;
use espalier_tasks::series::{Columns, ROW_BYTES, delimiter, header, is_name_of_time, seconds};
use serde_json::{Map, Value};

use super::super::{DataError, unreadable};

/// Most rows of a file.
const ROWS_MAX: usize = 20_000_000;
/// Faults that are kept by name.
const NAMED: usize = 20;
/// Lines that are looked at to find the columns.
const LOOKED_AT: usize = 100;
/// More lines than this share that are no rows, and the file is refused.
const BROKEN_MAX: f64 = 0.2;

/// What is in a file.
pub(super) struct File {
    pub(super) rows: Vec<Row>,
    /// Number and reason of the first few lines that are no rows.
    pub(super) faults: Vec<(usize, String)>,
    /// How many there are.
    pub(super) broken: usize,
}

/// Lines of a file, each at most a little longer than a row may be, without their ends.
struct Lines<R> {
    reader: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> std::io::Result<Option<(usize, Vec<u8>)>> {
        loop {
            let mut line = Vec::new();
            let limit = ROW_BYTES as u64 + 1;
            if self.reader.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() as u64 == limit && line.last() != Some(&b'\n') {
                // The rest of a line that is too long.
                self.reader.skip_until(b'\n')?;
            }
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.number, line)));
            }
        }
    }
}

fn lines(path: &Path) -> Result<Lines<BufReader<std::fs::File>>, DataError> {
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, error))?;
    Ok(Lines { reader: BufReader::new(file), number: 0 })
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// The rows of a file.
pub(super) fn rows(path: &Path, columns: &Columns) -> Result<File, DataError> {
    let mut lines = lines(path)?;
    let mut next = || lines.next().map_err(|error| unreadable(path, error));
    let named = match is_csv(path) {
        true => Some(head(path, next()?)?),
        false => None,
    };
    if let Some((names, _)) = &named
        && let Some(absent) = columns.values.iter().chain(&columns.time).find(|name| !names.contains(name))
    {
        return Err(unreadable(
            path,
            format!("its header has no column `{absent}`; it has {}", names.join(", ")),
        ));
    }
    let mut file = File { rows: Vec::new(), faults: Vec::new(), broken: 0 };
    while let Some((number, line)) = next()? {
        let row = match &named {
            Some((names, delimiter)) => columns.of_csv(names, *delimiter, &line),
            None => columns.of_json(&line),
        };
        match row {
            Ok(_) if file.rows.len() == ROWS_MAX => {
                return Err(unreadable(path, format!("it has more than {ROWS_MAX} rows")));
            }
            Ok(row) => file.rows.push(row),
            Err(fault) => {
                file.broken += 1;
                if file.faults.len() < NAMED {
                    file.faults.push((number, fault.to_string()));
                }
            }
        }
    }
    let all = file.rows.len() + file.broken;
    if file.broken as f64 > BROKEN_MAX * all as f64 || file.rows.is_empty() {
        let first = file.faults.first().map(|(line, reason)| format!("; line {line}: {reason}"));
        let (broken, first) = (file.broken, first.unwrap_or_default());
        return Err(unreadable(path, format!("{broken} of its {all} lines are no rows{first}")));
    }
    Ok(file)
}

/// Names and delimiter of a CSV file.
fn head(path: &Path, line: Option<(usize, Vec<u8>)>) -> Result<(Vec<String>, u8), DataError> {
    let (_, line) = line.ok_or_else(|| unreadable(path, "it is empty"))?;
    let names = header(&line).map_err(|error| unreadable(path, error))?;
    Ok((names, delimiter(&line)))
}

/// The columns of a file: `names`, or all whose first lines hold numbers but the one of time.
pub(super) fn columns(path: &Path, names: Option<&[String]>) -> Result<Columns, DataError> {
    let mut lines = lines(path)?;
    let mut next = || lines.next().map_err(|error| unreadable(path, error));
    let named = match is_csv(path) {
        true => Some(head(path, next()?)?),
        false => None,
    };
    let mut looked_at = Vec::new();
    while looked_at.len() < LOOKED_AT
        && let Some((_, line)) = next()?
    {
        looked_at.push(line);
    }
    let all = match &named {
        Some((names, _)) => names.clone(),
        None => keys(&looked_at),
    };
    let holds = |column: &String, time: bool| {
        let one = match time {
            true => Columns { values: Vec::new(), time: Some(column.clone()) },
            false => Columns { values: vec![column.clone()], time: None },
        };
        let fits = |line: &&Vec<u8>| match &named {
            Some((names, delimiter)) => one.of_csv(names, *delimiter, line).is_ok(),
            None => one.of_json(line).is_ok(),
        };
        2 * looked_at.iter().filter(fits).count() > looked_at.len()
    };
    let is_stamp =
        |column: &&String| holds(column, true) && (is_name_of_time(column) || !holds(column, false));
    let time = all.iter().find(is_stamp).cloned();
    let values = match names {
        Some(names) => names.to_vec(),
        None => all
            .iter()
            .filter(|column| Some(*column) != time.as_ref() && holds(column, false))
            .cloned()
            .collect(),
    };
    if let Some(absent) = values.iter().find(|name| !all.contains(name)) {
        return Err(unreadable(path, format!("there is no column `{absent}`; there are {}", all.join(", "))));
    }
    match values.is_empty() {
        true => Err(unreadable(path, format!("no column holds numbers; there are {}", all.join(", ")))),
        false => Ok(Columns { values, time }),
    }
}

/// The keys of the first object.
fn keys(lines: &[Vec<u8>]) -> Vec<String> {
    let objects = lines.iter().filter_map(|line| serde_json::from_slice::<Map<String, Value>>(line).ok());
    objects.into_iter().next().map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

/// The time of a label: a stamp, or a number.
pub(super) fn stamp(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => seconds(text),
        Value::Number(number) => number.as_f64(),
        _ => None,
    }
}
