//! Any bytes as a package. What is accepted is written again, and both we and the safetensors crate read that.
//! A header is rarely hit by chance, so the bytes are also tried as header and data behind a length that is right.

#![no_main]

use espalier_graph::Package;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fn check(bytes: &[u8]) {
    let Ok(package) = Package::from_bytes(bytes) else { return };
    let again = package.to_bytes().expect("what was read can be written");
    SafeTensors::deserialize(&again).expect("any safetensors reader takes it");
    let second = Package::from_bytes(&again).expect("what was written can be read");
    assert_eq!(second.to_bytes().expect("twice"), again, "the bytes are canonical");
}

/// The bytes up to the first NUL, after the old length, as a header of the right length.
fn with_right_length(bytes: &[u8]) -> Option<Vec<u8>> {
    let rest = bytes.get(8..)?;
    let header = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    Some([&(header as u64).to_le_bytes(), rest].concat())
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Some(bytes) = with_right_length(bytes) {
        check(&bytes);
    }
});
