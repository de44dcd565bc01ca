<<<<<<< HEAD
//! Any bytes as a package, and as foreign weights. A package that is accepted is written again, and both we and the
//! safetensors crate read that; weights are finite and not more than the bytes can hold.
//! A header is rarely hit by chance, so the bytes are also tried as header and data behind a length that is right.

#![no_main]

use espalier_graph::Package;
use espalier_graph::package::floats;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fn check(bytes: &[u8]) {
    check_weights(bytes);
    let Ok(package) = Package::from_bytes(bytes) else { return };
    let again = package.to_bytes().expect("what was read can be written");
    SafeTensors::deserialize(&again).expect("any safetensors reader takes it");
    let second = Package::from_bytes(&again).expect("what was written can be read");
    assert_eq!(second.to_bytes().expect("twice"), again, "the bytes are canonical");
}

fn check_weights(bytes: &[u8]) {
    let Ok(weights) = floats(bytes) else { return };
    let values: Vec<&[f32]> = weights.values().filter_map(|tensor| tensor.as_f32()).collect();
    assert_eq!(values.len(), weights.len(), "all are floats");
    assert!(values.concat().iter().all(|v| v.is_finite()), "finite");
    assert!(values.iter().map(|v| v.len()).sum::<usize>() <= bytes.len() / 2, "two bytes at least for each");
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
=======
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| espalier_fuzz::package(bytes));
>>>>>>> e217f54 (espalier data: copies, leaks, conflicts and suspicious labels; readers hardened)
