use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{ExtendedColorType, ImageFormat};
use proptest::prelude::*;

use super::*;

/// A picture with some structure: `width * height * channels` values.
fn pattern(width: usize, height: usize, channels: usize) -> Vec<u8> {
    (0..width * height * channels).map(|i| (i * 7 + i / 31 * 13) as u8).collect()
}

fn encode(format: ImageFormat, width: u32, height: u32, color: ExtendedColorType, pixels: &[u8]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    ::image::write_buffer_with_format(&mut out, pixels, width, height, color, format).unwrap();
    out.into_inner()
}

fn png(width: u32, height: u32, color: ExtendedColorType, pixels: &[u8]) -> Vec<u8> {
    encode(ImageFormat::Png, width, height, color, pixels)
}

fn jpeg(width: u16, height: u16, color: ExtendedColorType) -> Vec<u8> {
    let mut out = Vec::new();
    let channels = color.channel_count() as usize;
    let pixels = pattern(width.into(), height.into(), channels);
    JpegEncoder::new_with_quality(&mut out, 95).encode(&pixels, width.into(), height.into(), color).unwrap();
    out
}

/// One small file of each format.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    use ExtendedColorType::{L8, Rgb8, Rgba8};
    let rgb = pattern(20, 12, 3);
    vec![
        ("png", png(20, 12, Rgb8, &rgb)),
        ("grey png", png(20, 12, L8, &rgb[..240])),
        ("bmp", encode(ImageFormat::Bmp, 20, 12, Rgb8, &rgb)),
        ("webp", encode(ImageFormat::WebP, 20, 12, Rgb8, &rgb)),
        ("gif", encode(ImageFormat::Gif, 20, 12, Rgba8, &[[200, 200, 200, 255]; 240].concat())),
        ("jpeg", jpeg(20, 12, Rgb8)),
        ("grey jpeg", jpeg(20, 12, L8)),
    ]
}

#[test]
fn every_format_by_content() {
    for (name, bytes) in files() {
        let image = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let channels = if name.starts_with("grey") { 1 } else { 3 };
        assert_eq!((image.width, image.height, image.channels), (20, 12, channels), "{name}");
        assert!(is_image(&bytes[..16]), "{name}");
        let near = |a: u8, b: u8| a.abs_diff(b) <= if name.contains("jpeg") { 40 } else { 0 };
        let original = if name == "gif" { vec![200; 720] } else { pattern(20, 12, channels) };
        assert!(image.pixels.iter().zip(&original).all(|(&a, &b)| near(a, b)), "{name}");
    }
}

#[test]
fn sixteen_bits_and_alpha() {
    let check = |color, raw: &[u8], expected: &[u8]| {
        let image = decode(&png(1, 1, color, raw), &Limits::default()).unwrap();
        assert_eq!(image.pixels, expected, "{color:?}");
    };
    let wide = |values: &[u16]| values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>();
    check(ExtendedColorType::L16, &wide(&[0x8080]), &[0x80]);
    check(ExtendedColorType::Rgb16, &wide(&[0, 0x8080, 0xffff]), &[0, 0x80, 0xff]);
    check(ExtendedColorType::La8, &[100, 0], &[255]);
    check(ExtendedColorType::Rgba8, &[0, 100, 255, 51], &[204, 224, 255]);
    check(ExtendedColorType::Rgba8, &[1, 2, 3, 255], &[1, 2, 3]);
}

/// EXIF data with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif
}

/// The picture as EXIF's orientations (1 to 8) want it shown.
fn upright(image: &Image, orientation: u8) -> Image {
    let (w, h, c) = (image.width, image.height, image.channels);
    let (width, height) = if orientation > 4 { (h, w) } else { (w, h) };
    let source = |x: usize, y: usize| match orientation {
        1 => (x, y),
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels = places.flat_map(|(x, y)| {
        let (x, y) = source(x, y);
        image.pixels[(y * w + x) * c..][..c].to_vec()
    });
    Image { width, height, channels: c, pixels: pixels.collect() }
}

fn jpeg_with(mut bytes: Vec<u8>, exif: &[u8]) -> Vec<u8> {
    let data = [b"Exif\0\0", exif].concat();
    let length = (data.len() as u16 + 2).to_be_bytes();
    bytes.splice(2..2, [&[0xff, 0xe1][..], &length, &data].concat());
    bytes
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [name, data].concat();
    let crc = !body.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
}

/// Behind the header, or before the end.
fn png_with(mut bytes: Vec<u8>, exif: &[u8], early: bool) -> Vec<u8> {
    let at = if early { 33 } else { bytes.len() - 12 };
    bytes.splice(at..at, png_chunk(b"eXIf", exif));
    bytes
}

/// The simple file in an extended one, whose flags announce EXIF data.
fn webp_with(bytes: &[u8], exif: &[u8]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let padding = vec![0; data.len() % 2];
        [name, &(data.len() as u32).to_le_bytes()[..], data, &padding].concat()
    };
    let extended = chunk(b"VP8X", &[8, 0, 0, 0, 19, 0, 0, 11, 0, 0]);
    let body = [b"WEBP", &extended[..], &bytes[12..], &chunk(b"EXIF", exif)].concat();
    chunk(b"RIFF", &body)
}

#[test]
fn exif_orientation_is_applied() {
    let plain: BTreeMap<_, _> = files().into_iter().collect();
    for orientation in 1..=8 {
        let exif = exif(orientation);
        let prefixed = [b"Exif\0\0", &exif[..]].concat();
        let check = |name: &str, bytes: Vec<u8>| {
            let original = decode(&plain[name], &Limits::default()).unwrap();
            let found = decode(&bytes, &Limits::default()).unwrap();
            assert!(found == upright(&original, orientation), "{name}, orientation {orientation}");
        };
        check("jpeg", jpeg_with(plain["jpeg"].clone(), &exif));
        check("grey jpeg", jpeg_with(plain["grey jpeg"].clone(), &exif));
        check("png", png_with(plain["png"].clone(), &exif, true));
        check("png", png_with(plain["png"].clone(), &exif, false));
        check("webp", webp_with(&plain["webp"], &exif));
        check("webp", webp_with(&plain["webp"], &prefixed));
    }
    let nonsense = decode(&jpeg_with(plain["jpeg"].clone(), &exif(9)), &Limits::default());
    assert_eq!(nonsense, decode(&plain["jpeg"], &Limits::default()), "no such orientation");
}

#[test]
fn every_truncation_is_an_error() {
    for (name, bytes) in files() {
        // PNG and GIF may lack what follows the pixels; an encoder's padding may be cut as well.
        let tail = if name.contains("png") { 16 } else { 3 };
        for end in 0..bytes.len() - tail {
            assert!(
                decode(&bytes[..end], &Limits::default()).is_err(),
                "{name} cut at {end} of {}",
                bytes.len()
            );
        }
    }
}

/// The beginning of a PNG of this size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &png_chunk(b"IHDR", &header)[..], &png_chunk(b"IDAT", b"")].concat()
}

#[test]
fn limits_hold_before_memory_is_taken() {
    let huge = decode(&png_header(60_000, 60_000), &Limits::default()).unwrap_err();
    assert!(matches!(huge, ImageError::TooManyPixels { width: 60_000, height: 60_000, .. }), "{huge}");
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        assert!(decode(&png_header(width, height), &Limits::default()).is_err());
    }
    for (name, bytes) in files() {
        let few = Limits { pixels: 239, ..Limits::default() };
        assert!(matches!(decode(&bytes, &few), Err(ImageError::TooManyPixels { .. })), "{name}");
        let small = Limits { bytes: 100, ..Limits::default() };
        assert!(decode(&bytes, &small).is_err(), "{name}");
        assert!(decode(&bytes, &Limits { pixels: 240, ..Limits::default() }).is_ok(), "{name}");
    }
}

#[test]
fn a_jpeg_without_pixels_and_one_with_too_many() {
    let bytes = jpeg(20, 12, ExtendedColorType::Rgb8);
    let sof = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let with_size = |height: u16, width: u16| {
        let mut bytes = bytes.clone();
        bytes[sof + 5..sof + 7].copy_from_slice(&height.to_be_bytes());
        bytes[sof + 7..sof + 9].copy_from_slice(&width.to_be_bytes());
        decode(&bytes, &Limits::default())
    };
    assert!(with_size(0, 20).is_err());
    assert!(matches!(with_size(60_000, 60_000), Err(ImageError::TooManyPixels { .. })));
    assert!(with_size(2_000, 2_000).is_err(), "far more blocks than data");
}

#[test]
fn pictures_without_pixels() {
    let files: BTreeMap<_, _> = files().into_iter().collect();
    // Where width and height stand, and how wide they are.
    for (name, at, bytes) in [("bmp", 18, 4), ("gif", 6, 2)] {
        for side in [0, 1] {
            let mut file = files[name].clone();
            file[at + side * bytes..][..bytes].fill(0);
            let result = decode(&file, &Limits::default());
            assert!(
                matches!(&result, Err(ImageError::Empty { .. } | ImageError::Corrupt { .. })),
                "{name}: {result:?}"
            );
        }
    }
}

#[test]
fn lying_webp_lengths() {
    let mut bytes = files().swap_remove(3).1;
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&bytes, &Limits::default()).unwrap_err();
    assert_eq!(error, ImageError::Corrupt { format: "WebP", reason: "the file ends early".into() });
}

#[test]
fn a_large_picture_in_a_small_webp_canvas() {
    // A lossy picture's header says 16383x16383; around it stand one or sixty thousand frames, or none.
    let lossy = b"\x30\x01\x00\x9d\x01\x2a\xff\x3f\xff\x3f";
    let chunk = |name: &[u8; 4], data: &[u8]| [name, &(data.len() as u32).to_le_bytes()[..], data].concat();
    let picture = chunk(b"VP8 ", lossy);
    let frame = chunk(b"ANMF", &[&[0; 16][..], &picture].concat());
    let small = chunk(b"VP8X", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for body in [picture, frame.clone(), frame.repeat(60_000)] {
        let file = chunk(b"RIFF", &[&b"WEBP"[..], &small, &body].concat());
        let error = decode(&file, &Limits::default()).unwrap_err();
        assert!(matches!(error, ImageError::TooManyPixels { width: 16383, .. }), "{error}");
    }
}

#[test]
fn a_motion_photo_is_its_photo() {
    let mut bytes = jpeg(20, 12, ExtendedColorType::Rgb8);
    let photo = decode(&bytes, &Limits::default()).unwrap();
    bytes.extend(b"....ftypmp42 \xff\xda\x00\x08 and so on");
    assert_eq!(decode(&bytes, &Limits::default()), Ok(photo));
}

#[test]
fn wrong_shapes_are_refused() {
    for (width, height, channels, n) in [(2, 2, 1, 3), (2, 2, 2, 8), (0, 2, 1, 0), (usize::MAX, 2, 3, 6)] {
        assert!(Image::new(width, height, channels, vec![0; n]).is_err());
    }
}

/// The JPEG files below `folder`, at most `max` of each folder.
fn jpegs(folder: &Path, max: usize) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    files.truncate(max);
    files.extend(folders.iter().flat_map(|folder| jpegs(folder, max)));
    files
}

#[test]
fn photographs_are_the_same_with_and_without_simd() {
    for set in ["coco128", "dogs-cars-bicycles", "camvid-street"] {
        let Some(folder) = espalier_testing::data(set) else { continue };
        let files = jpegs(&folder, 20);
        assert!(files.len() >= 20, "{set} has {} photographs", files.len());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let plain = DecoderOptions::default().set_use_unsafe(false);
            let fast = decode(&bytes, &Limits::default());
            let slow = jpeg::decode(plain, &bytes, &Limits::default()).map(flatten);
            assert!(fast == slow && fast.is_ok(), "{}: {:?}", file.display(), fast.err());
        }
    }
}

/// Never a panic: not even one that `decode` would catch.
fn check_decode(bytes: &[u8]) {
    let limits = Limits { pixels: 1 << 20, bytes: 16 << 20 };
    match decode(bytes, &limits) {
        Ok(image) => assert_eq!(image.pixels.len(), image.width * image.height * image.channels),
        Err(error) => assert!(!error.to_string().contains("panicked"), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_decode(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_start_never_panics(
        file in 0usize..7, keep in 4usize..200, tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = files().swap_remove(file).1;
        bytes.truncate(keep);
        bytes.extend(tail);
        check_decode(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(
        file in 0usize..7, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = files().swap_remove(file).1;
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        check_decode(&bytes);
    }
}
