//! multipart/x-mixed-replace, as cameras send it: a boundary, a few headers, a picture, and so on (RFC 2046, section 5.1).

use memchr::memmem::Finder;

use super::buffer::Buffer;
use crate::frame::{Fault, PICTURE_BYTES};

/// Bytes and number of a part's headers, at most.
const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 32;
/// So many bytes without a boundary are a fault.
const ASTRAY: usize = 1 << 20;

enum State {
    /// Before a boundary; so many bytes were passed over.
    Between(usize),
    Head,
    /// The length that the headers announce, and how much was searched for the next boundary.
    Body(Option<usize>, usize),
    Closed,
}

/// Splits the body of an answer into its parts. The announced length of a part is believed only as far as no boundary
/// contradicts it.
pub struct Multipart {
    /// Two dashes and the boundary.
    delimiter: Finder<'static>,
    buffer: Buffer,
    state: State,
}

impl Multipart {
    /// For the value of a Content-Type header; `None` where that is not of several parts, or names no boundary.
    pub fn new(content_type: &str) -> Option<Multipart> {
        let (kind, parameters) = content_type.split_once(';')?;
        if !kind.trim().to_ascii_lowercase().starts_with("multipart/") {
            return None;
        }
        let pairs = parameters.split(';').filter_map(|pair| pair.split_once('='));
        let (_, boundary) = pairs.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case("boundary"))?;
        let boundary = boundary.trim().trim_matches('"');
        // Many cameras count the two dashes among the boundary.
        let bare = boundary.trim_start_matches('-');
        let delimiter = format!("--{}", if bare.is_empty() { boundary } else { bare });
        let fits = (1..=200).contains(&boundary.len());
        fits.then(|| Multipart {
            delimiter: Finder::new(&delimiter).into_owned(),
            buffer: Buffer::default(),
            state: State::Between(0),
        })
    }

    /// More bytes of the body. Call [`Multipart::part`] until it gives none before pushing the next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// Whether the closing boundary was seen.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The content of the next part, or the next fault; `None` where more bytes are needed or none will come.
    pub fn part(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        loop {
            match self.state {
                State::Between(passed) => {
                    if let Some(fault) = self.between(passed)? {
                        return Some(Err(fault));
                    }
                }
                State::Head => {
                    if let Some(fault) = self.head()? {
                        return Some(Err(fault));
                    }
                }
                State::Body(length, searched) => return self.body(length, searched),
                State::Closed => {
                    self.buffer.skip(usize::MAX);
                    return None;
                }
            }
        }
    }

    /// The stream is at its end: what is left of a part is a fault, or, where no length was announced, its content.
    pub fn end(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        let rest = self.buffer.take(self.buffer.len());
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Body(None, _) if !rest.is_empty() => Some(Ok(rest)),
            State::Head if rest.is_empty() => None,
            State::Body(..) | State::Head => Some(Err(Fault::new("the stream ends within a part"))),
            State::Between(_) | State::Closed => None,
        }
    }

    /// Goes behind the next boundary, or to the end.
    fn between(&mut self, passed: usize) -> Option<Option<Fault>> {
        let Some((_, behind)) = self.boundary(0, passed == 0) else {
            // The beginning of a boundary may be here, with what has to stand before it.
            let keep = (self.delimiter.needle().len() + 8).min(self.buffer.len());
            let passed = passed + self.buffer.len() - keep;
            self.buffer.skip(self.buffer.len() - keep);
            let astray = passed > ASTRAY;
            self.state = State::Between(if astray { 1 } else { passed });
            return astray.then(|| Some(Fault::new("no part begins in a mebibyte")));
        };
        match self.buffer[behind..] {
            [b'-', b'-', ..] => self.state = State::Closed,
            [] | [b'-'] => {
                self.state = State::Between(passed);
                return None;
            }
            _ => {
                let Some(line) =
                    self.buffer[behind..].iter().take(HEAD_BYTES).position(|&byte| byte == b'\n')
                else {
                    let long = self.buffer.len() > behind + HEAD_BYTES;
                    return long.then(|| Some(self.stray("a boundary's line does not end", behind)));
                };
                self.buffer.skip(behind + line + 1);
                self.state = State::Head;
            }
        }
        Some(None)
    }

    /// Reads the headers.
    fn head(&mut self) -> Option<Option<Fault>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let (size, length) = match httparse::parse_headers(&self.buffer, &mut headers) {
            Ok(httparse::Status::Complete((size, headers))) => {
                let length = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                (size, length.and_then(|header| str::from_utf8(header.value).ok()?.trim().parse().ok()))
            }
            Ok(httparse::Status::Partial) if self.buffer.len() <= HEAD_BYTES => return None,
            Ok(httparse::Status::Partial) => {
                return Some(Some(self.stray("the headers of a part do not end", 0)));
            }
            Err(error) => return Some(Some(self.stray(&format!("the headers of a part: {error}"), 0))),
        };
        if length.is_some_and(|length: usize| length > PICTURE_BYTES) {
            return Some(Some(self.stray("a part is longer than 64 MiB", size)));
        }
        self.buffer.skip(size);
        self.state = State::Body(length, 0);
        Some(None)
    }

    /// The content, once it is whole.
    fn body(&mut self, length: Option<usize>, searched: usize) -> Option<Result<Vec<u8>, Fault>> {
        let announced = length.unwrap_or(usize::MAX);
        match self.boundary(searched, true) {
            Some((end, _)) if end < announced => return Some(Ok(self.content(end))),
            _ if self.buffer.len() >= announced => return Some(Ok(self.content(announced))),
            _ if self.buffer.len() > PICTURE_BYTES + HEAD_BYTES => {
                return Some(Err(self.stray("a part is longer than 64 MiB", self.buffer.len())));
            }
            _ => {}
        }
        // A boundary may have begun, with what stands before it.
        let searched = self.buffer.len().saturating_sub(self.delimiter.needle().len() + 8);
        self.state = State::Body(length, searched);
        None
    }

    fn content(&mut self, size: usize) -> Vec<u8> {
        self.state = State::Between(0);
        self.buffer.take(size)
    }

    fn stray(&mut self, reason: &str, size: usize) -> Fault {
        self.buffer.skip(size);
        self.state = State::Between(0);
        Fault::new(reason)
    }

    /// The first boundary that is not before `from`: where the content before it ends, and where it is over itself. It
    /// stands at the beginning of a line; `at_line` says whether the buffer begins with one.
    fn boundary(&self, from: usize, at_line: bool) -> Option<(usize, usize)> {
        let found = self.delimiter.find_iter(&self.buffer[from..]).map(|at| from + at);
        let lines = found.filter_map(|at| {
            let dashes = self.buffer[..at].iter().rev().take(4).take_while(|&&byte| byte == b'-').count();
            let line = at - dashes;
            let end = match self.buffer[..line] {
                [.., b'\r', b'\n'] => line - 2,
                [.., b'\n'] => line - 1,
                [] if at_line => 0,
                _ => return None,
            };
            Some((end, at + self.delimiter.needle().len()))
        });
        lines.into_iter().next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(content_type: &str, bytes: &[u8], piece: usize) -> (Vec<Result<Vec<u8>, Fault>>, bool) {
        let (mut parts, mut found) = (Multipart::new(content_type).unwrap(), Vec::new());
        for piece in bytes.chunks(piece) {
            parts.push(piece);
            found.extend(std::iter::from_fn(|| parts.part()));
        }
        let closed = parts.is_closed();
        found.extend(parts.end());
        (found, closed)
    }

    const TYPE: &str = "multipart/x-mixed-replace; boundary=cut";

    /// Contents and faults, the same however the bytes come.
    fn check(content_type: &str, bytes: &str, expected: &[&str], closed: bool) {
        for piece in [1, 2, 3, 5, 1000] {
            let (found, end) = stream(content_type, bytes.as_bytes(), piece);
            let text =
                |part: Result<Vec<u8>, Fault>| part.map_or_else(|f| f.0, |p| String::from_utf8(p).unwrap());
            let found: Vec<String> = found.into_iter().map(text).collect();
            assert_eq!(
                (found, end),
                (expected.iter().map(ToString::to_string).collect(), closed),
                "{piece}: {bytes:?}"
            );
        }
    }

    #[test]
    fn forms_that_cameras_use() {
        check(
            TYPE,
            "--cut\r\nContent-Type: image/jpeg\r\nContent-Length: 3\r\n\r\nabc\r\n--cut\r\nContent-Length: 0\r\n\r\n\r\n--cut--\r\n",
            &["abc", ""],
            true,
        );
        check(
            TYPE,
            "preamble\r\n--cut\r\nX: y\r\n\r\na\nb\r\n--cut\r\n\r\nc\r\n--cut--",
            &["a\nb", "c"],
            true,
        );
        check(TYPE, "\r\n--cut  \nA: b\n\none\n--cut\nA: b\n\ntwo\n--cut", &["one", "two"], false);
        let dashed = "multipart/x-mixed-replace;boundary=\"--cut\"";
        check(dashed, "--cut\r\n\r\nab\r\n--cut\r\n\r\nc\r\n--cut--", &["ab", "c"], true);
        check(dashed, "----cut\r\n\r\nab\r\n----cut\r\n\r\nc\r\n----cut--", &["ab", "c"], true);
        check(TYPE, "--cut\r\n\r\nnot --cut here\r\n--cut--", &["not --cut here"], true);
    }

    #[test]
    fn a_part_is_there_as_soon_as_its_length_is() {
        let mut parts = Multipart::new(TYPE).unwrap();
        parts.push(b"--cut\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(parts.part(), Some(Ok(b"abc".to_vec())));
    }

    #[test]
    fn lengths_that_lie_cost_one_part_at_most() {
        check(
            TYPE,
            "--cut\r\nContent-Length: 2\r\n\r\nabcd\r\n--cut\r\n\r\nnext\r\n--cut--",
            &["ab", "next"],
            true,
        );
        check(
            TYPE,
            "--cut\r\nContent-Length: 20\r\n\r\nabcd\r\n--cut\r\n\r\nnext\r\n--cut--",
            &["abcd", "next"],
            true,
        );
        check(
            TYPE,
            "--cut\r\nContent-Length: 99999999999\r\n\r\na\r\n--cut\r\n\r\nb\r\n--cut--",
            &["a part is longer than 64 MiB", "b"],
            true,
        );
        check(TYPE, "--cut\r\nContent-Length: -1\r\n\r\na\r\n--cut--", &["a"], true);
        check(
            TYPE,
            "--cut\r\nbad\0header\r\n\r\na\r\n--cut\r\n\r\nb\r\n--cut--",
            &["the headers of a part: invalid header name", "b"],
            true,
        );
        check(TYPE, "--cut\r\nContent-Length: 9\r\n\r\nabc", &["the stream ends within a part"], false);
        check(TYPE, "--cut\r\nA: ", &["the stream ends within a part"], false);
        check(TYPE, "--cut\r\n\r\nabc", &["abc"], false);
        check(TYPE, "--cut\r\n\r\nabc\r\n--cut\r\n", &["abc"], false);
    }

    #[test]
    fn content_types() {
        for wrong in
            ["image/jpeg", "multipart/x-mixed-replace", "multipart/x; boundary=", "multipart/x; a=b", ""]
        {
            assert!(Multipart::new(wrong).is_none(), "{wrong}");
        }
        assert!(Multipart::new("Multipart/Mixed; charset=x; Boundary=\"a b\"").is_some());
    }

    #[test]
    fn memory_stays_bounded() {
        let mut parts = Multipart::new(TYPE).unwrap();
        let mut faults = Vec::new();
        for _ in 0..5 {
            parts.push(&vec![b'x'; 1 << 20]);
            faults.extend(std::iter::from_fn(|| parts.part()));
            assert!(parts.buffer.len() < 100);
        }
        assert!(faults.len() >= 3 && faults.iter().all(Result::is_err));
        parts.push(&[&b"\n--cut\r\n"[..], &vec![b'h'; 20_000]].concat());
        assert!(parts.part().unwrap().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn what_was_sent_comes_out(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6), with_length: bool, piece in 1usize..80) {
            let head = |n: usize| if with_length { format!("Content-Length: {n}\r\n") } else { String::new() };
            let parts = contents.iter().flat_map(|c| [b"\r\n--cut\r\n", head(c.len()).as_bytes(), b"\r\n", c].concat());
            let bytes: Vec<u8> = parts.chain(*b"\r\n--cut--").collect();
            let (found, closed) = stream(TYPE, &bytes, piece);
            let expected: Vec<_> = contents.iter().map(|content| Ok(content.clone())).collect();
            prop_assert_eq!((found, closed), (expected, true));
        }

        #[test]
        fn damage_never_panics_and_pieces_do_not_matter(
            tokens in prop::collection::vec(prop::sample::select(vec!["--cut", "--", "\r\n", "\n", "Content-Type: x", "abc", "\0", ": ", "-"]), 0..30), piece in 1usize..20,
        ) {
            let bytes = tokens.concat();
            prop_assert_eq!(stream(TYPE, bytes.as_bytes(), piece), stream(TYPE, bytes.as_bytes(), 1 << 20));
        }
    }
}
