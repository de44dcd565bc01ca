//! Durable writing: the old content or the new one, and never a temporary file left behind.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use espalier_graph::files::{remove_leftovers, write_atomic};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn content_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    for content in [&b"old"[..], b"", &[7; 100_000]] {
        write_atomic(&path, |w| w.write_all(content)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn a_failed_write_leaves_the_old_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let full = |w: &mut io::BufWriter<fs::File>| {
        w.write_all(&[1; 100_000])?;
        Err(io::ErrorKind::StorageFull.into())
    };
    write_atomic(&path, full).unwrap_err();
    assert!(names(folder.path()).is_empty());

    write_atomic(&path, |w| w.write_all(b"old")).unwrap();
    let error = write_atomic(&path, full).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn a_panicking_writer_leaves_the_old_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    write_atomic(&path, |w| w.write_all(b"old")).unwrap();
    std::panic::catch_unwind(|| write_atomic(&path, |_| panic!("on purpose"))).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn impossible_places_are_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("file"), "x").unwrap();
    let places = [
        folder.path().join("missing/a.bin"),
        taken.join("file/a.bin"),
        taken.clone(),
        "/proc/a.bin".into(),
        "..".into(),
        "".into(),
    ];
    for path in places {
        let error = write_atomic(&path, |w| w.write_all(b"new")).unwrap_err();
        assert_eq!(error.path, path);
        assert!(!path.is_file());
    }
    assert_eq!(names(folder.path()), ["taken"]);
    assert_eq!(names(&taken), ["file"]);
}

#[test]
fn several_writers_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    std::thread::scope(|scope| {
        for byte in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..10 {
                    write_atomic(path, |w| w.write_all(&[byte; 20_000])).unwrap();
                }
            });
        }
    });
    let content = fs::read(&path).unwrap();
    assert_eq!(content, vec![content[0]; 20_000]);
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn leftovers_of_this_file_alone_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let kept = [".a.bin", ".a.bin.old", ".a.bin2.1-0.tmp", "a.bin"];
    for name in kept.iter().chain(&[".a.bin.1-0.tmp", ".a.bin.99-3.tmp"]) {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    assert_eq!(remove_leftovers(&path).unwrap(), 2);
    assert_eq!(names(folder.path()), kept);
}
