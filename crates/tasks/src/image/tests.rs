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

#[test]
fn exif_orientation_is_applied() {
    let upright = decode(&jpeg(16, 8, ExtendedColorType::L8), &Limits::default()).unwrap();
    let mut bytes = jpeg(16, 8, ExtendedColorType::L8);
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut segment = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
    segment.extend(exif);
    bytes.splice(2..2, segment);
    let turned = decode(&bytes, &Limits::default()).unwrap();
    assert_eq!((turned.width, turned.height), (8, 16));
    // 6: rotated by 90 degrees clockwise, so the left column becomes the top row, bottom first.
    let left: Vec<u8> = (0..8).rev().map(|y| upright.pixels[y * 16]).collect();
    assert_eq!(turned.pixels[..8], left);
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

/// The first 33 bytes of a PNG of this size, checksum included.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    bytes.extend([8, 2, 0, 0, 0]);
    let crc = !bytes[12..].iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    bytes.extend(crc.to_be_bytes());
    bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    bytes
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
fn lying_webp_lengths() {
    let mut bytes = files().swap_remove(3).1;
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&bytes, &Limits::default()).unwrap_err();
    assert_eq!(error, ImageError::Corrupt { format: "WebP", reason: "the file ends early".into() });
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

/// The folder of larger data sets, if this machine has one.
fn data() -> Option<PathBuf> {
    let found = std::env::var_os("ESPALIER_DATA").map(PathBuf::from).or_else(|| {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        above.map(|folder| folder.join("../shared/data")).find(|folder| folder.is_dir())
    });
    if found.is_none() {
        eprintln!("skipped: neither ESPALIER_DATA nor ../shared/data is there");
    }
    found
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
    let Some(data) = data() else { return };
    for set in ["coco128", "dogs-cars-bicycles", "camvid-street"] {
        let files = jpegs(&data.join(set), 20);
        assert!(files.len() >= 20, "{set} has {} photographs", files.len());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let plain = DecoderOptions::default().set_use_unsafe(false);
            let fast = decode(&bytes, &Limits::default());
            let slow = decode_jpeg(plain, &bytes, &Limits::default()).map(flatten);
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
