//! Pictures one after another in one row of bytes: MJPEG, or any mixture of JPEG, PNG and BMP.
//!
//! Each format says itself where a picture ends, so a live one is there with its last byte. What is cut, damaged, too long
//! or no picture at all is one fault, and the next beginning of a picture is looked for behind it.

use memchr::{memchr, memchr3, memmem};

use super::buffer::Buffer;
use crate::frame::{Fault, PICTURE_BYTES};

/// Segments before a JPEG's first scan, at most; a colour profile takes 255 of them.
const SEGMENTS: usize = 512;
/// Bytes of a segment with tables, at most.
const TABLE: usize = 8192;

const JPEG: &[u8] = b"\xff\xd8\xff";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Of a BMP, up to the size of its second header.
const BMP: usize = 18;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Jpeg,
    Png,
    Bmp,
}

/// Whether bytes begin a picture.
enum Start {
    Yes(Format),
    No,
    /// More bytes will tell.
    Perhaps,
}

fn start(bytes: &[u8]) -> Start {
    for (magic, format) in [(JPEG, Format::Jpeg), (PNG, Format::Png)] {
        if bytes.starts_with(magic) {
            return Start::Yes(format);
        }
        if magic.starts_with(bytes) {
            return Start::Perhaps;
        }
    }
    if !b"BM".starts_with(&bytes[..bytes.len().min(2)]) {
        return Start::No;
    }
    let Some(head) = bytes.first_chunk::<BMP>() else { return Start::Perhaps };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (size, reserved, pixels, second) = (number(2), number(6), number(10), number(14));
    let fits =
        reserved == 0 && (26..=size).contains(&pixels) && [12, 40, 52, 56, 64, 108, 124].contains(&second);
    if fits { Start::Yes(Format::Bmp) } else { Start::No }
}

/// Where a picture ends.
enum Extent {
    /// After so many bytes.
    Whole(usize),
    /// Behind what is here.
    Further,
    /// It is broken; the search goes on after so many bytes.
    Broken(&'static str, usize),
}

/// How far a picture was followed.
#[derive(Default)]
struct Walk {
    at: usize,
    segments: usize,
    in_scan: bool,
}

impl Walk {
    fn follow(&mut self, format: Format, bytes: &[u8]) -> Extent {
        match format {
            Format::Jpeg => self.jpeg(bytes),
            Format::Png => self.png(bytes),
            Format::Bmp => bmp(bytes),
        }
    }

    /// Segment by segment to the first scan, from there on to the end marker (ITU-T T.81, annex B). A new beginning before
    /// the end means that this picture was cut.
    fn jpeg(&mut self, bytes: &[u8]) -> Extent {
        self.at = self.at.max(2);
        while !self.in_scan {
            if let Some(extent) = self.segment(bytes) {
                return extent;
            }
        }
        while let Some(found) = memchr(0xff, &bytes[self.at..]) {
            self.at += found;
            match bytes[self.at + 1..] {
                [0xd9, ..] => return Extent::Whole(self.at + 2),
                [0xd8, 0xff, ..] => return Extent::Broken("JPEG: it is cut off", self.at),
                [] | [0xd8] => return Extent::Further,
                [0xff, ..] => self.at += 1,
                _ => self.at += 2,
            }
        }
        self.at = bytes.len();
        Extent::Further
    }

    /// One segment before the first scan; `None` where the walk goes on behind it.
    fn segment(&mut self, bytes: &[u8]) -> Option<Extent> {
        let broken = Some(Extent::Broken("JPEG: its header is damaged", 2));
        let Some(&[mark, kind, high, low]) = bytes.get(self.at..).and_then(|rest| rest.first_chunk()) else {
            return Some(Extent::Further);
        };
        if [mark, kind] == [0xff; 2] {
            self.at += 1;
            return None;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Only what applications write may be long, or hold another picture: a preview.
        let of_application = matches!(kind, 0xe0..=0xef | 0xfe);
        let without_length = matches!(kind, 0 | 1 | 0xd0..=0xd9);
        let fits = (2..=TABLE).contains(&length) || of_application && length >= 2;
        if mark != 0xff || without_length || !fits || self.segments == SEGMENTS {
            return broken;
        }
        let end = self.at + 2 + length;
        let Some(content) = bytes.get(self.at..end) else { return Some(Extent::Further) };
        if !of_application && memmem::find(content, JPEG).is_some() {
            return broken;
        }
        (self.at, self.segments, self.in_scan) = (end, self.segments + 1, kind == 0xda);
        None
    }

    /// Chunk by chunk to the last (PNG specification, section 5.3).
    fn png(&mut self, bytes: &[u8]) -> Extent {
        self.at = self.at.max(PNG.len());
        while let Some(head) = bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let (length, kind) =
                (u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize, &head[4..]);
            if !kind.iter().all(u8::is_ascii_alphabetic) || length > PICTURE_BYTES {
                return Extent::Broken("PNG: a chunk is damaged", PNG.len());
            }
            let end = self.at + 12 + length;
            match kind {
                b"IEND" if end > bytes.len() => return Extent::Further,
                b"IEND" => return Extent::Whole(end),
                _ => self.at = end,
            }
        }
        Extent::Further
    }
}

/// The header says how long the file is.
fn bmp(bytes: &[u8]) -> Extent {
    let size = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
    match size {
        size if size > PICTURE_BYTES => Extent::Broken("BMP: it is too large", 2),
        size if size > bytes.len() => Extent::Further,
        size => Extent::Whole(size),
    }
}

/// Splits bytes, which may come in pieces of any size, into pictures.
#[derive(Default)]
pub struct Splitter {
    buffer: Buffer,
    /// The picture that the buffer begins with.
    picture: Option<(Format, Walk)>,
    /// Whether what stands here was counted as broken already.
    lost: bool,
}

impl Splitter {
    /// Before the first byte.
    pub fn new() -> Splitter {
        Splitter::default()
    }

    /// More bytes of the stream. Call [`Splitter::picture`] until it gives none before pushing the next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
    }

    /// The next whole picture, or the next fault; `None` where more bytes are needed.
    pub fn picture(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        loop {
            let Some((format, walk)) = &mut self.picture else {
                match self.seek() {
                    Some(Ok(())) => continue,
                    Some(Err(fault)) => return Some(Err(fault)),
                    None => return None,
                }
            };
            match walk.follow(*format, &self.buffer) {
                Extent::Whole(size) => return Some(Ok(self.take(size))),
                Extent::Broken(reason, size) => return Some(Err(self.lose(reason, size))),
                Extent::Further if self.buffer.len() > PICTURE_BYTES => {
                    return Some(Err(self.lose("a picture is longer than 64 MiB", 2)));
                }
                Extent::Further => return None,
            }
        }
    }

    /// The stream is at its end: what is left of a picture is a fault.
    pub fn end(&mut self) -> Option<Fault> {
        let left = self.buffer.iter().any(|&byte| !is_padding(byte)) && !self.lost;
        *self = Splitter::new();
        left.then(|| Fault::new("the stream ends within a picture"))
    }

    /// Goes on to the next beginning of a picture. A fault for what is no picture before it; `None` for more bytes.
    fn seek(&mut self) -> Option<Result<(), Fault>> {
        let padding = self.buffer.iter().take_while(|&&byte| is_padding(byte)).count();
        let mut at = padding;
        loop {
            at += memchr3(JPEG[0], PNG[0], b'B', &self.buffer[at..]).unwrap_or(self.buffer.len() - at);
            let start = if at < self.buffer.len() { start(&self.buffer[at..]) } else { Start::Perhaps };
            let nothing_between = at == padding || self.lost;
            match start {
                Start::No => at += 1,
                _ if !nothing_between => return Some(Err(self.lose("bytes that are no picture", at))),
                Start::Yes(format) => {
                    self.buffer.skip(at);
                    (self.picture, self.lost) = (Some((format, Walk::default())), false);
                    return Some(Ok(()));
                }
                Start::Perhaps => {
                    self.buffer.skip(at);
                    return None;
                }
            }
        }
    }

    fn take(&mut self, size: usize) -> Vec<u8> {
        self.picture = None;
        self.buffer.take(size)
    }

    fn lose(&mut self, reason: &str, size: usize) -> Fault {
        self.buffer.skip(size);
        (self.picture, self.lost) = (None, true);
        Fault::new(reason)
    }
}

/// What stands between the pictures of some files and cameras.
fn is_padding(byte: u8) -> bool {
    matches!(byte, 0 | b'\r' | b'\n' | b' ')
}

#[cfg(test)]
mod tests {
    use espalier_tasks::image::{Image, write_jpeg, write_png};
    use proptest::prelude::*;

    use super::*;

    fn image(side: usize) -> Image {
        let pixels = (0..side * side * 3).map(|i| (i * 31 % 251) as u8).collect();
        Image::new(side, side, 3, pixels).unwrap()
    }

    fn encoded(write: impl Fn(&Image, &mut Vec<u8>) -> std::io::Result<()>, side: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&image(side), &mut bytes).unwrap();
        bytes
    }

    fn jpeg(side: usize) -> Vec<u8> {
        encoded(|image, out| write_jpeg(image, 80, out), side)
    }

    fn png(side: usize) -> Vec<u8> {
        encoded(|image, out| write_png(image, out), side)
    }

    fn bmp(side: usize) -> Vec<u8> {
        let row = (side * 3).next_multiple_of(4);
        let mut bytes = b"BM".to_vec();
        for v in [54 + row * side, 0, 54, 40, side, side] {
            bytes.extend((v as u32).to_le_bytes());
        }
        bytes.extend([1, 0, 24, 0]);
        bytes.resize(54, 0);
        bytes.resize(54 + row * side, 77);
        bytes
    }

    /// All pictures and faults, the bytes pushed in pieces.
    fn split(bytes: &[u8], piece: usize) -> Vec<Result<Vec<u8>, Fault>> {
        let (mut splitter, mut found) = (Splitter::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            splitter.push(piece);
            found.extend(std::iter::from_fn(|| splitter.picture()));
        }
        found.extend(splitter.end().map(Err));
        found
    }

    fn reasons(bytes: &[u8]) -> Vec<String> {
        let name = |one: Result<Vec<u8>, Fault>| one.map_or_else(|fault| fault.0, |_| "picture".into());
        split(bytes, 7).into_iter().map(name).collect()
    }

    /// A JPEG with another one, a preview, in a segment of an application.
    fn with_preview(side: usize) -> Vec<u8> {
        let (outer, preview) = (jpeg(side), jpeg(8));
        let length = (preview.len() as u16 + 2).to_be_bytes();
        [&outer[..2], b"\xff\xe1", &length, &preview, &outer[2..]].concat()
    }

    #[test]
    fn pictures_of_every_kind_and_size() {
        let pictures = [jpeg(16), png(9), bmp(5), with_preview(16), jpeg(40), png(3)];
        for piece in [1, 2, 3, 100, 1 << 20] {
            let found = split(&pictures.concat(), piece);
            assert!(found.iter().eq(pictures.iter().cloned().map(Ok).collect::<Vec<_>>().iter()), "{piece}");
        }
        let padded = [&b"\0\0"[..], &pictures[0], b"\r\n", &pictures[1], b"\0"].concat();
        assert_eq!(reasons(&padded), ["picture", "picture"]);
        assert!(split(b"", 1).is_empty());
    }

    #[test]
    fn a_picture_is_there_with_its_last_byte() {
        for picture in [jpeg(16), png(9), bmp(5)] {
            let mut splitter = Splitter::new();
            splitter.push(&picture[..picture.len() - 1]);
            assert_eq!(splitter.picture(), None);
            splitter.push(&picture[picture.len() - 1..]);
            assert_eq!(splitter.picture(), Some(Ok(picture)));
        }
    }

    #[test]
    fn faults_are_counted_once_and_nothing_behind_them_is_lost() {
        let whole = jpeg(16);
        let check = |bad: &[u8], reason: &str| {
            assert_eq!(reasons(&[&whole, bad, &whole].concat()), ["picture", reason, "picture"]);
        };
        check(&whole[..whole.len() - 30], "JPEG: it is cut off");
        for cut in [10, 25, 100, 200] {
            check(&whole[..cut], "JPEG: its header is damaged");
        }
        check(b"HTTP/1.1 500 and so on B \x89 \xff", "bytes that are no picture");
        check(&png(9)[..30], "PNG: a chunk is damaged");
        assert_eq!(reasons(&whole[..50]), ["the stream ends within a picture"]);
        assert_eq!(reasons(b"nothing"), ["bytes that are no picture"]);
        assert_eq!(reasons(b"B"), ["the stream ends within a picture"]);
    }

    #[test]
    fn what_does_not_end_is_given_up() {
        let mut splitter = Splitter::new();
        let whole = jpeg(16);
        splitter.push(&whole[..whole.len() - 2]);
        let piece = vec![7; 1 << 20];
        let mut faults = Vec::new();
        for _ in 0..100 {
            splitter.push(&piece);
            faults.extend(std::iter::from_fn(|| splitter.picture()));
            assert!(splitter.buffer.len() <= PICTURE_BYTES + piece.len());
        }
        assert_eq!(faults, [Err(Fault::new("a picture is longer than 64 MiB"))]);
        splitter.push(&whole);
        assert_eq!(splitter.picture(), Some(Ok(whole)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn pieces_do_not_matter(
            order in prop::collection::vec(0usize..5, 0..6), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            piece in 1usize..300,
        ) {
            let kinds = [jpeg(16), png(9), bmp(5), with_preview(8), b"noise".to_vec()];
            let mut bytes: Vec<u8> = order.iter().flat_map(|&kind| kinds[kind].clone()).collect();
            for (at, value) in edits.iter().filter(|_| !order.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let found = split(&bytes, piece);
            prop_assert_eq!(&found, &split(&bytes, 1 << 20));
            let taken: usize = found.iter().flatten().map(Vec::len).sum();
            prop_assert!(taken <= bytes.len());
        }

        #[test]
        fn whole_pictures_between_noise_are_all_found(noise in prop::collection::vec(prop::collection::vec(1u8..0x42, 0..40), 1..6)) {
            let picture = jpeg(16);
            let bytes: Vec<u8> = noise.iter().flat_map(|noise| [&noise[..], &picture].concat()).collect();
            let found = split(&bytes, 64).into_iter().flatten().count();
            prop_assert_eq!(found, noise.len());
        }
    }
}
