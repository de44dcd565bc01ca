//! What decoding takes stays below `Limits::bytes`, file included, for every format: a bomb is an error, not a swap
//! storm. Alone in its program, since the allocator counts everything.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use espalier_tasks::image::ImageError;
use espalier_tasks::{Limits, decode};
use image::codecs::{gif::GifEncoder, jpeg::JpegEncoder};
use image::{ExtendedColorType, ImageFormat};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is the system allocator's; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The answer, and the most bytes that were held besides the file.
fn measured(bytes: &[u8], limits: &Limits) -> (Result<(), ImageError>, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = decode(bytes, limits).map(drop);
    (result, PEAK.load(Ordering::Relaxed) - before)
}

const WIDTH: u32 = 1500;
const HEIGHT: u32 = 1000;

fn encoded(format: ImageFormat, color: ExtendedColorType) -> Vec<u8> {
    let n = (WIDTH * HEIGHT) as usize * usize::from(color.bits_per_pixel() / 8);
    let pixels: Vec<u8> = (0..n).map(|i| (i / 7 % 251) as u8).collect();
    let mut out = Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut out, &pixels, WIDTH, HEIGHT, color, format).unwrap();
    out.into_inner()
}

/// With an EXIF segment that asks for a quarter turn.
fn turned(mut jpeg: Vec<u8>) -> Vec<u8> {
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut segment = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
    segment.extend(exif);
    jpeg.splice(2..2, segment);
    jpeg
}

fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    use ExtendedColorType::{L8, La8, Rgb8, Rgb16, Rgba8, Rgba16};
    let mut jpeg = Vec::new();
    let pixels = vec![99; (WIDTH * HEIGHT * 3) as usize];
    JpegEncoder::new(&mut jpeg).encode(&pixels, WIDTH, HEIGHT, Rgb8).unwrap();
    let mut gif = Vec::new();
    GifEncoder::new(&mut gif).encode(&[7; (WIDTH * HEIGHT * 4) as usize], WIDTH, HEIGHT, Rgba8).unwrap();
    vec![
        ("grey png", encoded(ImageFormat::Png, L8)),
        ("rgb png", encoded(ImageFormat::Png, Rgb8)),
        ("grey-alpha png", encoded(ImageFormat::Png, La8)),
        ("rgba png", encoded(ImageFormat::Png, Rgba8)),
        ("rgb16 png", encoded(ImageFormat::Png, Rgb16)),
        ("rgba16 png", encoded(ImageFormat::Png, Rgba16)),
        ("bmp", encoded(ImageFormat::Bmp, Rgb8)),
        ("webp", encoded(ImageFormat::WebP, Rgb8)),
        ("webp with alpha", encoded(ImageFormat::WebP, Rgba8)),
        ("gif", gif),
        ("turned jpeg", turned(jpeg.clone())),
        ("jpeg", jpeg),
    ]
}

fn check_limits(name: &str, bytes: &[u8]) {
    let mut decoded = 0;
    // From far too little to plenty.
    for half_megabytes in (1..100).step_by(2) {
        let limits = Limits { bytes: half_megabytes << 19, ..Limits::default() };
        let (result, held) = measured(bytes, &limits);
        let all = held + bytes.len();
        assert!(
            all as u64 <= limits.bytes || result.is_err() && held < 1 << 19,
            "{name}: {all} bytes of {}, {result:?}",
            limits.bytes
        );
        decoded += usize::from(result.is_ok());
    }
    assert!(decoded > 10, "{name} is decoded where memory suffices");
}

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pictures");
    std::fs::read(folder.join(name)).unwrap()
}

fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()[..]].concat()
}

fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes()[..], &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunks.concat()].concat()
}

fn zeros(megabytes: usize) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    (0..megabytes).for_each(|_| out.write_all(&vec![0; 1 << 20]).unwrap());
    out.finish().unwrap()
}

/// A few kilobytes that unpack to far more than the header says, or to a profile of a hundred megabytes.
fn check_bombs() {
    let limits = Limits { bytes: 16 << 20, ..Limits::default() };
    let profile = [b"icc\0\0".to_vec(), zeros(128)].concat();
    let pixels = chunk(b"IDAT", &zeros(128));
    let end = chunk(b"IEND", b"");
    let bombs = [
        ("pixels", png(100, 100, &[pixels.clone(), end.clone()])),
        ("profile", png(100, 100, &[chunk(b"iCCP", &profile), pixels, end])),
    ];
    for (name, bytes) in bombs {
        let start = Instant::now();
        let (_, held) = measured(&bytes, &limits);
        assert!(held as u64 <= limits.bytes, "{name}: {held} bytes");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
    }
}

/// A grey progressive JPEG of 64 megapixels whose every scan says "nothing here" in a few bytes.
fn scans(count: usize) -> Vec<u8> {
    let side = 8000u16;
    let blocks = (usize::from(side) / 8).pow(2);
    let segment = |marker: u8, data: &[u8]| {
        [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
    };
    let mut bytes = vec![0xff, 0xd8];
    bytes.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    let [high, low] = side.to_be_bytes();
    bytes.extend(segment(0xc2, &[8, high, low, high, low, 1, 1, 0x11, 0]));
    // One code of one bit each: "difference 0", and "no coefficients in the next 16,384 to 32,767 blocks".
    let table = |class: u8, symbol: u8| [&[class, 1][..], &[0; 15], &[symbol]].concat();
    bytes.extend(segment(0xc4, &[table(0x00, 0), table(0x10, 0xe0)].concat()));
    bytes.extend(segment(0xda, &[1, 1, 0, 0, 0, 0]));
    bytes.extend(vec![0; blocks.div_ceil(8)]);
    for _ in 0..count {
        // Refining every coefficient: the slowest of scans.
        bytes.extend(segment(0xda, &[1, 1, 0, 1, 63, 0x10]));
        // A 0 bit and 14 of the run's, again and again.
        let mut bits: Vec<bool> = Vec::new();
        (0..blocks.div_ceil(16_384)).for_each(|_| bits.extend([false; 15]));
        bits.resize(bits.len().next_multiple_of(8), false);
        bytes.extend(bits.chunks_exact(8).map(|b| b.iter().fold(0u8, |v, &bit| v << 1 | u8::from(bit))));
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

fn check_scans() {
    let timed = |bytes: &[u8]| {
        let start = Instant::now();
        let result = measured(bytes, &Limits::default()).0;
        (result, start.elapsed())
    };
    let (result, some) = timed(&scans(10));
    assert_eq!(result, Ok(()), "ten scans are usual");
    let (result, many) = timed(&scans(90));
    println!("64 megapixels: {some:?} for 10 scans, {many:?} to refuse 90");
    assert!(
        matches!(&result, Err(ImageError::Corrupt { reason, .. }) if reason.contains("too many")),
        "{result:?}"
    );
    assert!(many < some, "refused before any work");
}

#[test]
fn memory_and_time_stay_within_limits() {
    pictures().iter().for_each(|(name, bytes)| check_limits(name, bytes));
    check_bombs();
    check_scans();
    for name in ["animated.webp", "alpha.webp", "animated.gif", "cmyk-progressive.jpg"] {
        let (result, held) = measured(&golden(name), &Limits { bytes: 1 << 20, ..Limits::default() });
        assert!(result.is_ok() && held < 1 << 20, "{name}: {result:?}, {held} bytes");
    }
}
