//! Which columns of a line are the numbers of a row, and which one is its time.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Row, RowError, seconds};

/// Most bytes of a line.
pub const ROW_BYTES: usize = 64 << 10;
/// Most columns of a header.
pub const COLUMNS_MAX: usize = 1024;
/// So much of what is wrong is quoted.
const QUOTED: usize = 40;

/// The columns that make rows, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    /// Those of the values, in the order of a row.
    pub values: Vec<String>,
    /// That of the time.
    pub time: Option<String>,
}

/// Whether columns of this name are mostly times.
pub fn is_name_of_time(name: &str) -> bool {
    let known = ["timestamp", "time", "datetime", "date", "ts"];
    known.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The names in the first line of a CSV file.
///
/// # Errors
/// No text, two columns of one name, or too many.
pub fn header(line: &[u8]) -> Result<Vec<String>, RowError> {
    let names = fields(line, delimiter(line))?;
    let wrong = |what: String| Err(RowError::Header(what));
    if names.len() > COLUMNS_MAX {
        return wrong(format!("has {} columns, at most {COLUMNS_MAX} are read", names.len()));
    }
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => wrong(format!("names column {:?} twice", quoted(twice))),
        None => Ok(names),
    }
}

impl Columns {
    /// The row in a line of CSV under `header`, the file's first line.
    ///
    /// # Errors
    /// What the line lacks.
    pub fn of_csv(&self, header: &[String], delimiter: u8, line: &[u8]) -> Result<Row, RowError> {
        let fields = fields(line, delimiter)?;
        let field = |name: &str| -> Option<&str> {
            let at = header.iter().position(|column| column == name)?;
            fields.get(at).map(String::as_str)
        };
        self.row(|name| field(name).map(|text| text.trim().to_owned()))
    }

    /// The row in a line that holds a JSON object. Numbers may be texts too; others of its keys do not matter.
    ///
    /// # Errors
    /// What the line lacks.
    pub fn of_json(&self, line: &[u8]) -> Result<Row, RowError> {
        let object: Map<String, Value> =
            serde_json::from_str(text(line)?).map_err(|error| RowError::Json(error.to_string()))?;
        self.row(|name| {
            object.get(name).map(|value| match value {
                Value::String(text) => text.trim().to_owned(),
                other => other.to_string(),
            })
        })
    }

    fn row(&self, field: impl Fn(&str) -> Option<String>) -> Result<Row, RowError> {
        let found = |name: &String| field(name).ok_or_else(|| RowError::Missing(name.clone()));
        let number = |name: &String| {
            let text = found(name)?;
            let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| RowError::Number { column: name.clone(), found: quoted(&text) })
        };
        let time = |name: &String| {
            let text = found(name)?;
            seconds(&text).ok_or_else(|| RowError::Time { column: name.clone(), found: quoted(&text) })
        };
        Ok(Row {
            time: self.time.as_ref().map(time).transpose()?,
            values: self.values.iter().map(number).collect::<Result<_, _>>()?,
        })
    }
}

fn text(line: &[u8]) -> Result<&str, RowError> {
    match line.len() {
        ..=ROW_BYTES => std::str::from_utf8(line).map_err(|_| RowError::Text),
        long => Err(RowError::Long(long)),
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// What separates the fields of a file with this header: the most frequent of comma, semicolon and tab.
pub fn delimiter(header: &[u8]) -> u8 {
    let count = |&delimiter: &u8| header.iter().filter(|byte| **byte == delimiter).count();
    // Of equals the last one wins, so the comma comes last.
    [b'\t', b';', b','].into_iter().max_by_key(count).unwrap_or(b',')
}

/// The fields of one line of CSV, quotes taken away; none of a line that ends within quotes.
///
/// # Errors
/// A line that is too long, or no text.
pub fn fields(line: &[u8], delimiter: u8) -> Result<Vec<String>, RowError> {
    let line = [text(line)?.trim_start_matches('\u{feff}').as_bytes(), b"\n"].concat();
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    // Each field needs a separator or the end of the line, and none is longer than the line.
    let (mut text, mut ends) = (vec![0; line.len()], vec![0; line.len() + 1]);
    let (result, _, _, count) = reader.read_record(&line, &mut text, &mut ends);
    if !matches!(result, csv_core::ReadRecordResult::Record) {
        return Ok(Vec::new());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let pieces = starts.zip(&ends[..count]);
    Ok(pieces.map(|(start, &end)| String::from_utf8_lossy(&text[start..end]).trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns { values: vec!["b".into(), "a".into()], time: Some("t".into()) }
    }

    #[test]
    fn lines_and_their_rows() {
        let check = |header_line: &str, line: &str, expected: Result<[f32; 2], &str>| {
            let names = header(header_line.as_bytes()).unwrap();
            let row = columns().of_csv(&names, delimiter(header_line.as_bytes()), line.as_bytes());
            let expected = expected.map(|values| Row { time: Some(60.0), values: values.to_vec() });
            assert_eq!(row.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{line}");
        };
        check("t,a,b", "1970-01-01 00:01:00,1,2.5", Ok([2.5, 1.0]));
        check("\u{feff}t,a,b", "60, 1 ,2.5\r", Ok([2.5, 1.0]));
        check("\"t\";\"a\";b;c", "60;\"1\";2.5", Ok([2.5, 1.0]));
        check("a\tt\tb", "1\t60\t2e0", Ok([2.0, 1.0]));
        check("t,a,b", "60,1", Err("column `b` is missing"));
        check("t,a,b", "60,1,", Err("column `b` is \"\", a number is needed"));
        check("t,a,b", "60,1,NaN", Err("column `b` is \"NaN\", a number is needed"));
        check("t,a,b", "60,1,1e999", Err("column `b` is \"1e999\", a number is needed"));
        check("t,a,b", "60,x,1", Err("column `a` is \"x\", a number is needed"));
        check("t,a", "60,1,1", Err("column `b` is missing"));
        check(
            "t,a,b",
            "noon,1,1",
            Err("column `t` is \"noon\", a time is needed: 2026-11-30 12:00:00, or seconds since 1970"),
        );
        check("t,a,b", "60,\"1,1", Err("column `t` is missing"));
        check("t,a,b", "", Err("column `t` is missing"));
    }

    #[test]
    fn objects_and_their_rows() {
        let check = |line: &str, expected: Result<[f32; 2], &str>| {
            let row = columns().of_json(line.as_bytes());
            let expected = expected.map(|values| Row { time: Some(60.0), values: values.to_vec() });
            assert_eq!(row.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{line}");
        };
        check(r#"{"t":60,"a":1,"b":2.5,"c":[1]}"#, Ok([2.5, 1.0]));
        check(r#"{"t":"1970-01-01T00:01:00Z","a":"1","b":2.5}"#, Ok([2.5, 1.0]));
        check(r#"{"t":60,"a":1}"#, Err("column `b` is missing"));
        check(r#"{"t":60,"a":1,"b":null}"#, Err("column `b` is \"null\", a number is needed"));
        check(r#"{"t":60,"a":1,"b":{}}"#, Err("column `b` is \"{}\", a number is needed"));
        check("[]", Err("it is no JSON object: invalid type: sequence, expected a map at line 1 column 0"));
    }

    #[test]
    fn headers_that_are_none() {
        assert_eq!(header(b"a,b,a").unwrap_err().to_string(), "the header names column \"a\" twice");
        assert_eq!(header(b"\xff").unwrap_err(), RowError::Text);
        let many = ["x"; COLUMNS_MAX + 1].join(",");
        assert!(header(many.as_bytes()).unwrap_err().to_string().contains("has 1025 columns"));
        assert_eq!(header(&vec![b'a'; ROW_BYTES + 1]).unwrap_err(), RowError::Long(ROW_BYTES + 1));
    }
}
