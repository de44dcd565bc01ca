//! Reading a hostile package takes little memory: an allocator that counts watches.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use espalier_graph::Package;
use serde_json::json;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

fn check(what: &str, bytes: &[u8], allowed: usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let start = Instant::now();
    let error = Package::from_bytes(bytes).expect_err(what).to_string();
    let (taken, seconds) = (PEAK.load(Relaxed) - before, start.elapsed().as_secs_f64());
    println!(
        "{what}: {:.1} MiB of {} bytes in {seconds:.3} s: {:.90}",
        taken as f64 / MIB as f64,
        bytes.len(),
        error
    );
    assert!(taken <= allowed, "{what} took {taken} bytes");
    assert!(error.len() < 2000, "{what}: a message of {} bytes", error.len());
    assert!(seconds < 10.0, "{what} took {seconds} s");
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A manifest as long as a header can hold: `before`, then `piece` again and again, then `after`.
fn manifest(before: &str, piece: &str, after: &str) -> Vec<u8> {
    let header = |times| {
        let text = format!("{before}{}{after}", piece.repeat(times));
        json!({"__metadata__": {"espalier": text}}).to_string()
    };
    let (empty, one) = (header(0).len(), header(1).len());
    file(&header((MIB - empty) / (one - empty)), 0)
}

fn network(piece: &str, after: &str) -> Vec<u8> {
    manifest(r#"{"format":{"major":1},"name":"","graph":"","network":["#, piece, &format!("{after}]}}"))
}

fn graph(before: &str, piece: &str, after: &str) -> Vec<u8> {
    let before = format!(r#"{{"format":{{"major":1}},"name":"","graph":"{before}"#);
    manifest(&before, piece, &format!(r#"{after}"}}"#))
}

/// One test alone in its process, so that nobody else allocates.
#[test]
fn hostile_packages_take_little_memory_and_time() {
    check("a length of 2^63", &(1u64 << 63).to_le_bytes(), MIB / 16);
    check("a length beyond the file", &1000u64.to_le_bytes(), MIB / 16);
    let lie = r#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    check("a tensor beyond the file", &file(lie, 4), MIB / 16);
    let axes =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(500_000));
    check("a million axes", &file(&axes, 4), 16 * MIB);
    let zeros =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{}0],"data_offsets":[0,4]}}}}"#, "1,".repeat(500_000));
    check("a wrong tensor of a million axes", &file(&zeros, 4), 16 * MIB);
    let tensors: Vec<_> = (0..16_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    check("many tensors", &file(&format!("{{{}}}", tensors.join(",")), 16_000), 16 * MIB);
    let weight = r#"{"a":{"dtype":"U8","shape":[67108864],"data_offsets":[0,67108864]},"__metadata__":{"espalier":""}}"#;
    check("one large tensor", &file(weight, 64 * MIB), 65 * MIB);

    check("a flat array", &network("0,", "0"), 48 * MIB);
    check("nested arrays", &network("[0],", "0"), 64 * MIB);
    check("objects", &network(r#"{"":0},"#, "0"), 16 * MIB);
    check("strings", &network(r#""","#, "0"), 48 * MIB);
    check("metrics", &manifest(r#"{"metrics":{"#, r#""a":1,"#, r#""b":1},"format":{"major":1}}"#), 16 * MIB);
    check("a name of a MiB", &graph("input ", "x", ": f32[N]"), 16 * MIB);
    check("a rank of 500 000", &graph("input x: f32[", "1,", "1]"), 64 * MIB);
    check("a dimension of 500 000 factors", &graph("input x: f32[", "N*", "1]"), 16 * MIB);
    check("a line of commas", &graph("y: f32[N] = Concat(", "x,", "x)"), 48 * MIB);
    check("lines", &graph("input x: f32[1]", r"\n", ""), 16 * MIB);
}
