//! Series: lines of CSV under a header, or of JSON objects, become frames of one JSON object each.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use espalier_tasks::image::is_image;
use espalier_tasks::series::{ROW_BYTES, RowError, delimiter, fields, header};
use serde_json::{Map, Value};

use super::buffer::Buffer;
use super::feed::End;
use super::{Feed, SourceError};
use crate::frame::Fault;

/// Bytes at the beginning that tell rows from pictures.
const HEAD: usize = 16;

/// Finds rows in bytes that come in pieces of any size. A line that begins with `{` where the first row should be makes all of
/// them JSON; anything else is the header of CSV.
#[derive(Default)]
pub struct Rows {
    buffer: Buffer,
    /// Bytes of the buffer that hold no end of a line.
    searched: usize,
    form: Option<Form>,
    /// The rest of a line that was too long is left out.
    skipping: bool,
}

enum Form {
    Json,
    Csv { names: Vec<String>, delimiter: u8 },
}

impl Rows {
    /// Nothing read yet.
    pub fn new() -> Rows {
        Rows::default()
    }

    /// Takes the next bytes. All rows in them are to be fetched before more come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// The next whole row as a JSON object, or what is wrong with its line.
    pub fn row(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return self.too_long();
            };
            let line = self.buffer.take(self.searched + end + 1);
            self.searched = 0;
            if !std::mem::take(&mut self.skipping)
                && let Some(row) = self.line(line.trim_ascii())
            {
                return Some(row);
            }
        }
    }

    /// Says that nothing follows: the row in a last line without an end.
    pub fn end(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        let line = self.buffer.take(self.buffer.len());
        self.searched = 0;
        if std::mem::take(&mut self.skipping) { None } else { self.line(line.trim_ascii()) }
    }

    /// A line without an end in sight is a fault, once.
    fn too_long(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        let held = self.buffer.len();
        if held <= ROW_BYTES {
            return None;
        }
        self.buffer.skip(held);
        self.searched = 0;
        (!std::mem::replace(&mut self.skipping, true)).then(|| Err(fault(RowError::Long(held))))
    }

    /// The row in a line; none in an empty one and in a header.
    fn line(&mut self, line: &[u8]) -> Option<Result<Vec<u8>, Fault>> {
        if line.is_empty() {
            return None;
        }
        match &self.form {
            Some(Form::Json) => Some(Ok(line.to_vec())),
            Some(Form::Csv { names, delimiter }) => Some(object(names, *delimiter, line)),
            None if line.first() == Some(&b'{') => {
                self.form = Some(Form::Json);
                Some(Ok(line.to_vec()))
            }
            None => match header(line) {
                Ok(names) => {
                    self.form = Some(Form::Csv { names, delimiter: delimiter(line) });
                    None
                }
                Err(error) => Some(Err(fault(error))),
            },
        }
    }
}

fn fault(error: RowError) -> Fault {
    Fault::new(error.to_string())
}

/// The fields of a line by their names.
fn object(names: &[String], delimiter: u8, line: &[u8]) -> Result<Vec<u8>, Fault> {
    let fields = fields(line, delimiter).map_err(fault)?;
    let pairs = names.iter().cloned().zip(fields.into_iter().map(Value::String));
    Ok(Value::Object(pairs.collect::<Map<_, _>>()).to_string().into_bytes())
}

/// A file of rows.
pub(super) fn file(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    let file = File::open(path).map_err(super::files::named(path))?;
    read(file, feed).map(drop)
}

fn read(mut reader: impl Read, feed: &mut Feed) -> Result<End, SourceError> {
    let mut rows = Rows::new();
    let end = feed.chunks(&mut reader, |feed, bytes| {
        rows.push(bytes);
        std::iter::from_fn(|| rows.row()).all(|row| feed.frame(None, row))
    })?;
    if let (End::Cut, Some(row)) = (&end, rows.end()) {
        feed.frame(None, row);
    }
    Ok(end)
}

/// Standard input: pictures, or rows where it begins with text.
pub(super) fn input(mut reader: impl Read, feed: &mut Feed) -> Result<End, SourceError> {
    let mut head = [0; HEAD];
    let held = reader.read(&mut head).map_err(SourceError::failed)?;
    let head = &head[..held];
    let all = Cursor::new(head.to_vec()).chain(reader);
    let is_text = head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    match is_text && !head.is_empty() && !is_image(head) {
        true => read(all, feed),
        false => feed.pictures(all),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of `text`, given in pieces of `piece` bytes.
    fn rows(text: &[u8], piece: usize) -> Vec<Result<String, String>> {
        let (mut rows, mut found) = (Rows::new(), Vec::new());
        for bytes in text.chunks(piece.max(1)) {
            rows.push(bytes);
            found.extend(std::iter::from_fn(|| rows.row()));
        }
        found.extend(rows.end());
        let text = |row: Result<Vec<u8>, Fault>| {
            row.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|fault| fault.to_string())
        };
        found.into_iter().map(text).collect()
    }

    fn check(text: &str, expected: &[&str]) {
        for piece in [1, 3, 1000] {
            let found = rows(text.as_bytes(), piece);
            let shown: Vec<&str> =
                found.iter().map(|row| row.as_deref().unwrap_or_else(|fault| fault)).collect();
            assert_eq!(shown, expected, "{text:?} in pieces of {piece}");
        }
    }

    #[test]
    fn lines_become_objects() {
        check("t,v\n1,2\r\n\n3,4", &[r#"{"t":"1","v":"2"}"#, r#"{"t":"3","v":"4"}"#]);
        check("t;v\n1;\"2;5\"\n", &[r#"{"t":"1","v":"2;5"}"#]);
        check("t,v\n1\n2,3,4\n", &[r#"{"t":"1"}"#, r#"{"t":"2","v":"3"}"#]);
        check("\n{\"v\": 1}\nnot json\n", &[r#"{"v": 1}"#, "not json"]);
        check("v,v\nt,v\n1,2\n", &["the header names column \"v\" twice", r#"{"t":"1","v":"2"}"#]);
        check("", &[]);
        check("t,v", &[]);
    }

    #[test]
    fn a_line_without_end_is_one_fault() {
        let long = "9".repeat(3 * ROW_BYTES);
        for piece in [1000, 1 << 20] {
            let found = rows(format!("v\n1\n{long}\n2\n").as_bytes(), piece);
            assert_eq!(found.len(), 3, "{piece}");
            assert!(found[1].as_ref().is_err_and(|fault| fault.contains("a line has")), "{piece}");
            assert_eq!(found[2].as_deref(), Ok(r#"{"v":"2"}"#));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// How bytes are cut into pieces does not matter.
        #[test]
        fn pieces_do_not_matter(text in "[ab,;\"{}\n0-9é]{0,200}", piece in 1usize..20) {
            prop_assert_eq!(rows(text.as_bytes(), piece), rows(text.as_bytes(), 10_000));
        }
    }
}
