//! What a run was made on.

use espalier_runtime::Isa;

/// Names and values for the page. They depend on the machine, so they stand nowhere else.
pub(super) fn environment(threads: usize) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    vec![
        ("processor", processor().unwrap_or_else(|| std::env::consts::ARCH.into())),
        ("cores", cores.to_string()),
        ("threads used", threads.to_string()),
        ("instruction set", Isa::best().to_string()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("espalier", env!("CARGO_PKG_VERSION").into()),
    ]
}

/// The processor's name, where the system tells it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
