//! The data set that the program carries, `builtin:mnist-5k`: 5,000 handwritten digits, of each 500. Training reads it as a
//! data set, the agent plays it as a camera. `assets/LICENCE-mnist-5k.txt` says where they are from.

use std::io::Read;

use flate2::read::GzDecoder;

/// Its name behind `builtin:`.
pub const NAME: &str = "mnist-5k";

/// The pictures, as IDX files packed by gzip. The agent plays the test split alone, so it carries no more than that.
const TRAIN_IMAGES: &[u8] = include_bytes!("../assets/mnist-5k-train-images-idx3-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("../assets/mnist-5k-test-images-idx3-ubyte.gz");

/// The labels of the whole set in its order, packed likewise.
const LABELS: &[u8] = include_bytes!("../assets/mnist-5k-labels-idx1-ubyte.gz");

/// Height and width of a picture in pixels.
pub const SIDE: usize = 28;

const PIXELS: usize = SIDE * SIDE;

/// Of each digit, the last so many are the test split.
const TEST: usize = 50;

const DIGITS: usize = 10;
/// Bytes before the values, by the number of dimensions.
const IMAGES_HEADER: usize = 16;
const LABELS_HEADER: usize = 8;

/// One digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digit {
    /// Its number in the set.
    pub number: usize,
    /// What it is, 0 to 9.
    pub label: u8,
    /// Grey, row by row, [`SIDE`] x [`SIDE`].
    pub pixels: Vec<u8>,
}

/// The test split: of each digit the last 50, in the order of the set.
pub fn test() -> Vec<Digit> {
    let (labels, images) = (unpacked(LABELS, LABELS_HEADER), unpacked(TEST_IMAGES, IMAGES_HEADER));
    let held_out = held_out(&labels);
    let digits = labels.iter().zip(held_out).enumerate().filter(|(_, (_, is_test))| *is_test);
    let digit =
        |((number, (&label, _)), pixels): (_, &[u8])| Digit { number, label, pixels: pixels.to_vec() };
    digits.zip(images.chunks_exact(PIXELS)).map(digit).collect()
}

/// The pixels and the labels of the whole set, in its order.
pub fn all() -> (Vec<u8>, Vec<u8>) {
    let labels = unpacked(LABELS, LABELS_HEADER);
    let splits = [TRAIN_IMAGES, TEST_IMAGES].map(|file| unpacked(file, IMAGES_HEADER));
    let mut splits = splits.each_ref().map(|pixels| pixels.chunks_exact(PIXELS));
    let next = |is_test| splits[usize::from(is_test)].next().expect("a picture for each label");
    let pixels = held_out(&labels).into_iter().flat_map(next).copied().collect();
    (pixels, labels)
}

/// Whether each digit of the set is of the test split.
fn held_out(labels: &[u8]) -> Vec<bool> {
    let mut left = [0; DIGITS];
    labels.iter().for_each(|&label| left[usize::from(label)] += 1);
    let is_test = |&label: &u8| {
        let left = &mut left[usize::from(label)];
        *left -= 1;
        *left < TEST
    };
    labels.iter().map(is_test).collect()
}

fn unpacked(file: &[u8], header: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("the program carries a whole file");
    bytes.split_off(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn fifty_of_each_digit_are_for_tests() {
        let digits = test();
        assert_eq!(digits.len(), TEST * DIGITS);
        for label in 0..DIGITS {
            assert_eq!(digits.iter().filter(|digit| usize::from(digit.label) == label).count(), TEST);
        }
        assert!(digits.iter().all(|digit| digit.pixels.iter().any(|&v| v > 200)), "each has ink");
    }

    /// The checksums are those of the pictures and labels as they were published.
    #[test]
    fn the_whole_set_is_in_its_order() {
        let (pixels, labels) = all();
        assert_eq!((pixels.len(), labels.len()), (5000 * PIXELS, 5000));
        assert_eq!([&pixels, &labels].map(|bytes| crc(bytes)), [0xda5fc5f0, 0x6784ba2e]);
        for digit in test() {
            let n = digit.number;
            assert_eq!((digit.label, &digit.pixels[..]), (labels[n], &pixels[n * PIXELS..][..PIXELS]));
        }
    }
}
