//! Completions and manual know what the parser knows.

mod common;

use std::process::Command;

use common::{fresh, run};

const COMMANDS: [&str; 15] = [
    "agent",
    "train",
    "compress",
    "data",
    "val",
    "predict",
    "explain",
    "export",
    "run",
    "import",
    "inspect",
    "benchmark",
    "demo",
    "completions",
    "man",
];

/// The long flags that the help of `command` lists.
fn flags(command: &str) -> Vec<String> {
    let help = run(&[command, "--help"]).out;
    let words = help.split(|c: char| c.is_whitespace() || ",[]<>=".contains(c));
    let flags: Vec<String> = words.filter(|word| word.starts_with("--")).map(String::from).collect();
    assert!(flags.contains(&"--help".into()), "{command}: {help}");
    flags
}

#[test]
fn every_command_has_a_page_with_all_its_flags() {
    let folder = fresh("manual");
    let said = run(&["man", "--out", folder.to_str().unwrap()]);
    assert_eq!((said.status, said.out.as_str()), (Some(0), ""), "{}", said.err);
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.join(format!("espalier-{command}.1"))).unwrap();
        assert_eq!(run(&["man", command]).out, page, "{command}");
        for flag in flags(command) {
            assert!(page.contains(&flag.replace('-', "\\-")), "{command}: {flag} is not in its page");
        }
    }
    let written = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(written, COMMANDS.len() + 1, "a page for each command and one for all");
    let said = run(&["man", "prune"]);
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("there is no command `prune`"), "{}", said.err);
}

/// What bash would offer for the words so far; the last may be empty.
fn completed(words: &[&str]) -> Vec<String> {
    let script = run(&["completions", "bash"]).out;
    let (last, previous) = (words.last().unwrap(), words[words.len() - 2]);
    let call = format!(
        "{script}\nCOMP_WORDS=({}'{last}')\nCOMP_CWORD={}\n_espalier espalier '{last}' '{previous}'\necho \"${{COMPREPLY[@]}}\"",
        words[..words.len() - 1].iter().map(|word| format!("'{word}' ")).collect::<String>(),
        words.len() - 1,
    );
    let output = Command::new("bash").args(["-c", &call]).output().expect("bash runs");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(String::from).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("skipped: there is no bash");
        return;
    }
    assert_eq!(completed(&["espalier", "tra"]), ["train"]);
    assert_eq!(completed(&["espalier", "train", "--pat"]), ["--patience"]);
    assert_eq!(completed(&["espalier", "train", "--optimizer", ""]), ["sgd", "adamw"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).out.contains("checkpoint-every"), "{shell}");
    }
    assert_eq!(run(&["completions", "cmd"]).status, Some(2));
}
