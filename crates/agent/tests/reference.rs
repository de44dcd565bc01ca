//! docs/agent.md, the pages that it refers to, and the parser know the same keys.

use std::collections::BTreeSet;

use espalier_agent::config::Config;
use toml::{Table, Value};

const DOCS: &str = include_str!("../../../docs/agent.md");

/// A key that no table has.
const NO_KEY: &str = "no-such-key";

const INSIGHTS: &str = include_str!("../../../docs/insights.md");
const DRIFT: &str = include_str!("../../../docs/drift.md");
const MESSAGES: &str = include_str!("../../../docs/messages.md");

/// Tables whose keys are on pages of their own.
const ELSEWHERE: [(&str, &str); 5] = [
    ("pipeline.rule", INSIGHTS),
    ("pipeline.smooth", INSIGHTS),
    ("pipeline.samples", INSIGHTS),
    ("pipeline.drift", DRIFT),
    ("sink", MESSAGES),
];

/// Whether the first cell of one of a page's rows has a key.
fn has_row(page: &str, key: &str) -> bool {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.into_iter().any(|cell| cell.contains(&format!("`{key}`")))
}

/// The configurations that the page shows.
fn examples() -> Vec<Table> {
    let blocks = DOCS.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|text| text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

/// The keys of the page's tables: `a.b`.
fn documented() -> BTreeSet<String> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 4);
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).filter(|key| is_key(key)).collect()
}

/// Metrics stand in a table too; `sink` is a table of the file itself.
fn is_key(text: &str) -> bool {
    text.contains('.') || text == "sink"
}

/// The keys that the parser has in the table at `path` of an example, as it says itself when it gets another.
fn keys_at(example: &Table, path: &[String]) -> Vec<String> {
    let mut changed = example.clone();
    let table = path.iter().fold(&mut changed, |table, key| match &mut table[key] {
        Value::Table(table) => table,
        Value::Array(list) => list[0].as_table_mut().unwrap(),
        other => panic!("{key} is {other}"),
    });
    table.insert(NO_KEY.into(), true.into());
    let error = Config::parse(&changed.to_string()).expect_err("it has no such key").to_string();
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{path:?}: {error}"));
    expected.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// The tables of an example, as paths.
fn tables(table: &Table, path: Vec<String>, found: &mut Vec<Vec<String>>) {
    for (key, value) in table {
        let inner = match value {
            Value::Table(inner) => inner,
            Value::Array(list) => match list.first() {
                Some(Value::Table(inner)) => inner,
                _ => continue,
            },
            _ => continue,
        };
        tables(inner, [path.clone(), vec![key.clone()]].concat(), found);
    }
    found.push(path);
}

/// Whether a key of the parser is a table in an example, whose own keys are documented.
fn is_table(example: &Table, path: &[String]) -> bool {
    let mut found = Vec::new();
    tables(example, Vec::new(), &mut found);
    found.iter().any(|table| table == path)
}

#[test]
fn what_the_page_shows_is_understood() {
    let examples = examples();
    assert!(examples.len() >= 2);
    for example in examples {
        Config::parse(&example.to_string()).unwrap_or_else(|fault| panic!("{fault}: {example}"));
    }
}

#[test]
fn every_key_is_on_the_page_and_every_key_of_the_page_is_one() {
    let mut understood = BTreeSet::new();
    for example in examples() {
        let mut paths = Vec::new();
        tables(&example, Vec::new(), &mut paths);
        for path in paths {
            let at = path.join(".");
            if let Some((_, page)) = ELSEWHERE.iter().find(|(table, _)| *table == at) {
                let missing: Vec<_> =
                    keys_at(&example, &path).into_iter().filter(|key| !has_row(page, key)).collect();
                assert!(missing.is_empty(), "{at}: its page lacks {missing:?}");
                understood.insert(at);
                continue;
            }
            if ELSEWHERE.iter().any(|(table, _)| at.starts_with(&format!("{table}."))) {
                continue;
            }
            for key in keys_at(&example, &path) {
                let whole = [path.clone(), vec![key]].concat();
                // A table that is in no example would hide its keys, so it has to be in one.
                if !examples().iter().any(|example| is_table(example, &whole)) {
                    understood.insert(whole.join("."));
                }
            }
        }
    }
    assert!(understood.len() > 15, "the parser says its keys: {understood:?}");
    assert_eq!(understood, documented(), "the keys of the parser, and those of docs/agent.md");
}

/// Every kind of sink, with what it needs.
#[test]
fn every_key_of_every_sink_is_on_its_page() {
    let needed = [
        ("hub", "broker = \"mqtt://h\""),
        ("mqtt", "broker = \"mqtt://h\""),
        ("webhook", "url = \"https://h\""),
        ("folder", "path = \"p\""),
        ("stdout", ""),
    ];
    let small = "[device]\nname = \"d\"\n[[pipeline]]\nname = \"a\"\nsource = { uri = \"0\" }\nmodel = { path = \"m\" }\n";
    for (kind, keys) in needed {
        let text = format!("{small}[[sink]]\ntype = \"{kind}\"\n{keys}\n");
        let example: Table = text.parse().unwrap();
        Config::parse(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        let keys = keys_at(&example, &["sink".to_owned()]);
        let missing: Vec<_> = keys.iter().filter(|key| !has_row(MESSAGES, key)).collect();
        assert!(!keys.is_empty() && missing.is_empty(), "{kind}: docs/messages.md lacks {missing:?}");
    }
}
