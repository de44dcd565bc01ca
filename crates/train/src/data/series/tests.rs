//! Series from files.

use std::fs;
use std::path::PathBuf;

use super::*;

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// `n` rows, one a minute, of which `value` is counted.
fn csv(n: usize) -> String {
    let rows = (0..n).map(|i| format!("1970-01-01 {:02}:{:02}:00,{i},word\n", i / 60, i % 60));
    format!("timestamp,value,note\n{}", rows.collect::<String>())
}

fn open(path: &Path) -> Result<SeriesSet, String> {
    SeriesSet::open(path, None, None).map_err(|error| error.to_string())
}

#[test]
fn one_file_is_cut_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.csv", &csv(100));
    write(folder.path(), "labels.json", r#"{"a.csv": [[300, 600], ["1970-01-01 01:25:00", 5399]]}"#);
    assert!(is_series(&path) && is_series(folder.path()) && !is_series(&folder.path().join("labels.json")));
    for path in [path.as_path(), folder.path()] {
        let set = open(path).unwrap();
        assert_eq!((set.rows(), set.interval_s), ([80, 10, 10], Some(60.0)));
        assert_eq!(set.columns, Columns { values: vec!["value".into()], time: Some("timestamp".into()) });
        let labels = Split::ALL.map(|split| set.split(split)[0].labels.clone().unwrap().len());
        assert_eq!(labels, [1, 1, 0]);
        let val = &set.split(Split::Val)[0];
        assert_eq!((val.label(val.rows[5].time), val.label(val.rows[4].time)), (Some(0), None));
    }
}

#[test]
fn folders_of_splits_and_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let json =
        |n: usize| (0..n).map(|i| format!("{{\"a\": {i}, \"b\": 1.5, \"c\": \"x\"}}\n")).collect::<String>();
    write(folder.path(), "train/1.jsonl", &json(50));
    write(folder.path(), "train/2.jsonl", &json(30));
    let set = open(folder.path()).unwrap();
    assert_eq!((set.rows(), set.interval_s), ([72, 8, 0], None));
    assert_eq!(set.columns, Columns { values: vec!["a".into(), "b".into()], time: None });
    write(folder.path(), "test/3.jsonl", &json(7));
    write(folder.path(), "val/3.jsonl", &json(5));
    assert_eq!(open(folder.path()).unwrap().rows(), [80, 5, 7]);
    let one = SeriesSet::open(folder.path(), None, Some(&["b".into()])).unwrap();
    assert_eq!((one.columns.values.len(), one.require(Split::Test).unwrap()[0].rows[0].values[0]), (1, 1.5));
    assert_ne!(one.digest(), set.digest());
}

#[test]
fn lines_that_are_no_rows_are_named_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let text = csv(50).replace(",7,", ",NaN,").replace(",9,word", "").replace(",11,", ",,");
    let set = open(&write(folder.path(), "a.csv", &text)).unwrap();
    assert_eq!((set.broken, set.rows().iter().sum::<usize>()), (3, 47));
    let said: Vec<String> = set.skipped.iter().map(|skipped| skipped.reason.clone()).collect();
    assert_eq!(said[0], "column `value` is \"NaN\", a number is needed");
    assert_eq!(said[1], "column `value` is missing");
    assert!(set.skipped[0].name.ends_with("a.csv:9"), "{:?}", set.skipped[0]);
}

#[test]
fn what_is_no_series_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str, words: &str| {
        let error = open(&write(folder.path(), name, text)).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    check("empty.csv", "", "it is empty");
    check("words.csv", "a,b\nx,y\n", "no column holds numbers; there are a, b");
    check("twice.csv", "a,a\n1,2\n", "names column \"a\" twice");
    check(
        "long.csv",
        &format!("a\n{}\n1\n1\n", "1".repeat(1 << 17)),
        "1 of its 3 lines are no rows; line 2: a line has 65537 bytes",
    );
    check("text.jsonl", "hello\n", "no column holds numbers");
    let bad = SeriesSet::open(&write(folder.path(), "a.csv", "a\n1\n"), None, Some(&["b".into()]));
    assert!(bad.unwrap_err().to_string().contains("there is no column `b`; there are a"));
    assert!(SeriesSet::open(&folder.path().join("nowhere.csv"), None, None).unwrap_err().is_usage());
}
