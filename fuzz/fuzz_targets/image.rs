#![no_main]

// A panic inside a foreign decoder is caught by `decode` and is an error. The fuzzer's own hook would end the process
// there; without it, panics that leave the target still do.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| espalier_fuzz::image(bytes)
);
