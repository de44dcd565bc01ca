//! Any bytes as a picture, within limits that a fuzzer's memory bears. What decodes keeps them, and has as many bytes
//! as its shape says.

#![no_main]

use espalier_tasks::image::{Limits, decode};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { pixels: 1 << 20, bytes: 16 << 20 };

// A panic inside a foreign decoder is caught by `decode` and is an error. The fuzzer's own hook would end the process
// there; without it, panics that leave the target still do.
fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| {
        let Ok(image) = decode(bytes, &LIMITS) else { return };
        assert!((image.width * image.height) as u64 <= LIMITS.pixels);
        assert!(image.channels == 1 || image.channels == 3);
        assert_eq!(image.pixels.len(), image.width * image.height * image.channels);
        assert!(!image.pixels.is_empty());
    }
);
