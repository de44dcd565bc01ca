//! What the kernel says about this process's memory.

/// The field `name` of /proc/self/status in bytes; `None` where there is no such file.
fn status_bytes(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Largest resident size so far.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    status_bytes("VmHWM")
}

/// Resident size now.
pub(crate) fn rss_bytes() -> Option<u64> {
    status_bytes("VmRSS")
}
