//! The data set that the program carries, `builtin:mnist-5k`: 5,000 handwritten digits, of each 500. Training reads it as a
//! data set, the agent plays it as a camera. `assets/LICENCE-mnist-5k.txt` says where they are from.

use std::io::Read;

use flate2::read::GzDecoder;

/// Its name behind `builtin:`.
pub const NAME: &str = "mnist-5k";

/// The pictures as an IDX file, packed by gzip.
pub const IMAGES: &[u8] = include_bytes!("../assets/mnist-5k-images-idx3-ubyte.gz");

/// The labels as an IDX file, packed by gzip.
pub const LABELS: &[u8] = include_bytes!("../assets/mnist-5k-labels-idx1-ubyte.gz");

/// Height and width of a picture in pixels.
pub const SIDE: usize = 28;

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
    let (images, labels) = (unpacked(IMAGES, IMAGES_HEADER), unpacked(LABELS, LABELS_HEADER));
    let mut left = [0; DIGITS];
    labels.iter().for_each(|&label| left[usize::from(label)] += 1);
    let digits = labels.iter().zip(images.chunks_exact(SIDE * SIDE)).enumerate();
    let held_out = digits.filter_map(|(number, (&label, pixels))| {
        let left = &mut left[usize::from(label)];
        *left -= 1;
        (*left < TEST).then(|| Digit { number, label, pixels: pixels.to_vec() })
    });
    held_out.collect()
}

fn unpacked(file: &[u8], header: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("the program carries a whole file");
    bytes.split_off(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_of_each_digit_are_for_tests() {
        let digits = test();
        assert_eq!(digits.len(), TEST * DIGITS);
        for label in 0..DIGITS {
            assert_eq!(digits.iter().filter(|digit| usize::from(digit.label) == label).count(), TEST);
        }
        assert!(digits.iter().all(|digit| digit.pixels.iter().any(|&v| v > 200)), "each has ink");
    }
}
