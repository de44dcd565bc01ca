//! A queue on real disks: full ones at every page, damaged ones at every byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use espalier_agent::outbox::{Handover, Limits, Outbox, Sqlite, Storage, StorageError};
use espalier_agent::{SinkConfig, Sinks};
use espalier_wire::{Counts, Device, Insight, Kind, Message, Priority};

const LIMITS: Limits = Limits { count: 10_000, bytes: 10 << 20 };
const PAGE: u64 = 4096;

fn device() -> Device {
    "gate-7".parse().unwrap()
}

fn open(path: &Path) -> Outbox<Sqlite> {
    Outbox::open(Sqlite::open(path, &device()).unwrap(), device(), LIMITS).unwrap()
}

fn push(handover: &mut Handover, number: u64, size: usize) {
    let json = format!(r#"{{"number":{number},"padding":"{}"}}"#, "x".repeat(size));
    handover.push(Priority::ALL[number as usize % 3], json.into());
}

/// Writes all that waits, as far as the disk takes it.
fn flush(outbox: &mut Outbox<Sqlite>, handover: &mut Handover) -> Result<(), StorageError> {
    while !handover.is_empty() {
        let group = handover.take(8);
        if let Err(error) = outbox.commit(&group) {
            handover.put_back(group);
            return Err(error);
        }
    }
    Ok(())
}

/// Everything in the queue, in order: numbers of insights by sequence, and what was dropped.
fn drain(outbox: &mut Outbox<Sqlite>) -> (BTreeMap<u64, u64>, Counts, u64) {
    let (mut numbers, mut dropped, mut accounted) = (BTreeMap::new(), Counts::default(), 0);
    while let Some(batch) = outbox.batch().unwrap() {
        for entry in &batch.entries {
            let json: serde_json::Value = serde_json::from_str(entry.insight.get()).unwrap();
            numbers.insert(entry.sequence, json["number"].as_u64().unwrap());
        }
        dropped += batch.dropped_counts();
        accounted += batch.last - batch.first + 1;
        assert!(outbox.acknowledge(batch.epoch, batch.last));
        outbox.commit(&[]).unwrap();
    }
    (numbers, dropped, accounted)
}

/// A small disk of its own, in memory.
struct Disk(PathBuf);

impl Disk {
    /// None, with a word on it, where this user may not mount one.
    fn mount(folder: &Path, bytes: u64, what: &str) -> Option<Disk> {
        let path = folder.join("disk");
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk(path));
        }
        espalier_testing::skip(&format!("{what} (mounting a small disk needs root)"));
        None
    }

    /// Fills it up to `left` pages.
    fn fill(&self, left: u64) {
        let filler = self.0.join("filler");
        let mut size = 0;
        let write = |bytes: u64| {
            use std::io::Write;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&filler);
            file.and_then(|mut file| file.write_all(&vec![1; bytes as usize])).is_ok()
        };
        while write(PAGE) {
            size += PAGE;
        }
        let file = std::fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(size.saturating_sub(left * PAGE)).unwrap();
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Done-when 3: a disk that is full at every write. It is filled up to 0, 1, 2, ... pages, so that SQLite meets its end in
/// every write that a commit consists of.
#[test]
fn a_full_disk_corrupts_nothing_and_every_insight_is_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let what = "a disk that is full at every write";
    let Some(disk) = Disk::mount(scratch.path(), 4 << 20, what) else { return };
    let pages =
        if espalier_testing::heavy("a disk full at each of 300 pages, in place of 60") { 300 } else { 60 };
    let (mut refused, mut written, mut dropped_in_memory, mut acknowledged_when_full) = (0, 0, 0, 0);
    for left in 0..pages {
        let path = disk.0.join(format!("{left}.queue"));
        let (mut outbox, mut handover) = (open(&path), Handover::new(40, 1 << 20));
        // Small ones find room in what the file claimed beforehand, large ones do not.
        let size = if left % 2 == 0 { 400 } else { 8000 };
        (0..20).for_each(|number| push(&mut handover, number, size));
        flush(&mut outbox, &mut handover).unwrap();
        disk.fill(left);
        for number in 20..100 {
            push(&mut handover, number, size);
            match flush(&mut outbox, &mut handover) {
                Ok(()) => written += 1,
                Err(StorageError::Unavailable(_)) => refused += 1,
                Err(other) => panic!("{left} pages left: {other}"),
            }
        }
        dropped_in_memory += handover.counts().1.total();
        // What is there can be sent, and what was acknowledged is not sent again.
        let batch = outbox.batch().unwrap().expect("twenty at least");
        assert!(batch.last >= 20);
        assert!(outbox.acknowledge(batch.epoch, batch.last));
        acknowledged_when_full += u64::from(outbox.commit(&[]).is_ok());
        let sent = batch.entries.len() as u64;
        disk.clear();
        flush(&mut outbox, &mut handover).unwrap();
        drop(outbox);
        let mut outbox = open(&path);
        assert!(outbox.renewals().is_empty(), "{left} pages left: {:?}", outbox.renewals());
        assert_eq!(outbox.next(), 101, "{left} pages left: every insight has a number");
        let (numbers, dropped, accounted) = drain(&mut outbox);
        assert_eq!(accounted + batch.last, 100, "{left} pages left");
        assert_eq!(numbers.len() as u64 + dropped.total() + sent + batch.dropped_counts().total(), 100);
        assert!(
            numbers.iter().all(|(sequence, number)| *number == sequence - 1),
            "in their places: {numbers:?}"
        );
        drop(outbox);
        for suffix in ["", "-wal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
    println!(
        "{pages} sizes: {written} commits taken, {refused} refused; {dropped_in_memory} dropped in memory; {acknowledged_when_full} acknowledgements written to a full disk"
    );
    assert!(refused > 0 && written > 0 && dropped_in_memory > 0, "{refused}, {written}, {dropped_in_memory}");
    assert!(
        acknowledged_when_full >= pages / 2,
        "the reserve takes acknowledgements: {acknowledged_when_full}"
    );
}

/// The same through the threads of a sink: it goes on, says what is wrong, and counts exactly.
#[test]
fn a_sink_survives_a_full_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(scratch.path(), 2 << 20, "a sink on a full disk") else { return };
    let out = scratch.path().join("out");
    let config: SinkConfig =
        toml::from_str(&format!("type = \"folder\"\npath = {:?}", out.display().to_string())).unwrap();
    let sinks = Sinks::open(&[config], &disk.0, &device()).unwrap();
    disk.fill(0);
    let insight = |number| Insight {
        pipeline: "p".repeat(8_000),
        time_ms: number,
        kind: Kind::Health { source: "streaming".into(), counters: Default::default() },
    };
    const PUSHED: u64 = 6000;
    // Room that is given back ends the trouble, perhaps before all is pushed.
    let names_trouble = || sinks.counters()[0].state.contains("full");
    let is_named = (0..PUSHED).fold(false, |named, number| {
        sinks.push(&insight(number));
        named || names_trouble()
    });
    let patience = |what: &str, so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", sinks.counters());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    patience("the trouble is named", &|| is_named || names_trouble());
    disk.clear();
    patience("it goes on", &|| {
        let counters = &sinks.counters()[0];
        counters.waiting == 0 && counters.state == "ok"
    });
    let dropped = sinks.counters()[0].dropped.total();
    sinks.close();
    let (mut received, mut declared, mut last) = (0, 0, None);
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for line in files
        .iter()
        .flat_map(|path| std::fs::read_to_string(path).unwrap().lines().map(String::from).collect::<Vec<_>>())
    {
        match Message::from_json(line.as_bytes()) {
            Ok(message) => {
                received += 1;
                let number = message.entry.parsed().unwrap().time_ms;
                assert!(last.is_none_or(|last| last < number), "in order");
                last = Some(number);
            }
            Err(_) => {
                let lost: serde_json::Value = serde_json::from_str(&line).unwrap();
                declared += lost["dropped"]["normal"].as_u64().unwrap();
            }
        }
    }
    assert_eq!((received + declared, declared), (PUSHED, dropped), "received + dropped = produced");
    assert!(declared > 0, "more was pushed than memory holds");
}

/// Bytes of a file, each damaged in turn: what is read is what was written, or is said to be damaged.
#[test]
fn a_damaged_file_is_noticed_or_harmless() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.queue");
    let mut handover = Handover::new(100, 1 << 20);
    let mut outbox = open(&path);
    (0..12).for_each(|number| push(&mut handover, number, 400));
    flush(&mut outbox, &mut handover).unwrap();
    let epoch = outbox.epoch();
    drop(outbox);
    let whole = std::fs::read(&path).unwrap();
    let heavy = espalier_testing::heavy("each byte of a queue's file damaged, in place of every 41st");
    // What was claimed beforehand and is not used is zeros.
    let used = (0..whole.len()).filter(|&at| whole[at] != 0);
    let (mut renewed, mut lost, mut harmless) = (0, 0, 0);
    for at in used.step_by(if heavy { 1 } else { 41 }) {
        let folder = tempfile::tempdir_in(scratch.path()).unwrap();
        let path = folder.path().join("a.queue");
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let storage = match Sqlite::open(&path, &device()) {
            Ok(storage) => storage,
            Err(error) => {
                assert!(error.to_string().contains("the queue of device"), "byte {at}: {error}");
                continue;
            }
        };
        let mut outbox = Outbox::open(storage, device(), LIMITS).unwrap();
        push(&mut handover, 12, 400);
        flush(&mut outbox, &mut handover).unwrap();
        let (numbers, dropped, _) = drain(&mut outbox);
        if outbox.renewals().is_empty() {
            lost += dropped.total();
            harmless += u64::from(dropped.total() == 0);
            assert!(
                numbers.iter().all(|(sequence, number)| *number == sequence - 1),
                "byte {at}: {numbers:?}"
            );
        } else {
            renewed += 1;
            assert!(outbox.epoch() != epoch, "byte {at}: a queue that was lost has another epoch");
            assert!(numbers.values().all(|number| *number <= 12), "byte {at}: {numbers:?}");
            let aside = std::fs::read_dir(folder.path()).unwrap();
            let names: Vec<_> =
                aside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            assert!(names.iter().any(|name| name.starts_with("a.queue.corrupt-")), "byte {at}: {names:?}");
        }
    }
    println!("{renewed} begun anew, {lost} insights lost and counted, {harmless} harmless");
    assert!(renewed > 0 && harmless > 0);
    // An insight whose text is damaged where SQLite does not look is dropped, and counted.
    let (mut bytes, text) = (whole.clone(), br#""number":5,"padding":"x"#);
    // Pages that were split keep what was there before.
    for at in (0..whole.len() - text.len()).filter(|&at| whole[at..].starts_with(text)) {
        bytes[at + text.len()] ^= 1;
    }
    let path = scratch.path().join("b.queue");
    std::fs::write(&path, &bytes).unwrap();
    let (numbers, dropped, accounted) = drain(&mut open(&path));
    assert_eq!((numbers.len(), dropped.total(), accounted), (11, 1, 12));
}

/// The storage that a simulation uses and that in a file are asked the same.
#[test]
fn the_queue_of_another_device_and_one_in_use_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a.queue");
    let outbox = open(&path);
    let second = Sqlite::open(&path, &device()).and_then(|mut storage| storage.contents().map(drop));
    assert!(matches!(&second, Err(StorageError::Unavailable(why)) if why.contains("locked")), "{second:?}");
    drop(outbox);
    let other = Sqlite::open(&path, &"yard".parse().unwrap()).map(drop).unwrap_err();
    assert!(other.to_string().contains("it is the queue of device \"gate-7\", not of \"yard\""), "{other}");
}
