//! `--config FILE.toml` and `--set key=value`, for every command: both become flags before the command line is parsed,
//! so there is one definition of every flag. A config's keys are flags without dashes; flags win over the config, and
//! `--set` wins over both.

use std::ffi::OsString;

use anyhow::{Context, bail};

/// The command line with configs and sets turned into flags.
///
/// # Errors
/// A config that cannot be read or is no flat table; a set without `=`.
pub(crate) fn expand(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let (mut rest, mut from_config, mut sets) = (Vec::new(), Vec::new(), Vec::new());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match split(&arg) {
            Some(("--config", value)) => {
                let path = value.or_else(|| args.next()).context("--config needs a file")?;
                from_config.extend(read(&path)?);
            }
            Some(("--set", value)) => {
                let pair = value.or_else(|| args.next()).context("--set needs key=value")?;
                sets.extend(set(&pair)?);
            }
            _ => rest.push(arg),
        }
    }
    // The program and its command stay in front.
    let at = rest.len().min(2);
    let tail = rest.split_off(at);
    Ok(rest.into_iter().chain(from_config).chain(tail).chain(sets).collect())
}

/// `--flag` or `--flag=value`.
fn split(arg: &OsString) -> Option<(&str, Option<OsString>)> {
    let text = arg.to_str()?;
    Some(match text.split_once('=') {
        Some((flag, value)) => (flag, Some(value.into())),
        None => (text, None),
    })
}

fn set(pair: &OsString) -> anyhow::Result<Vec<OsString>> {
    let text = pair.to_str().context("--set takes text")?;
    let (key, value) =
        text.split_once('=').with_context(|| format!("--set {text}: it should be key=value"))?;
    Ok(flag(key, value))
}

fn flag(key: &str, value: &str) -> Vec<OsString> {
    let name = format!("--{}", key.trim().replace('_', "-"));
    match value {
        "true" => vec![name.into()],
        "false" => Vec::new(),
        _ => vec![format!("{name}={value}").into()],
    }
}

fn read(path: &OsString) -> anyhow::Result<Vec<OsString>> {
    let shown = path.to_string_lossy();
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {shown}"))?;
    let table: toml::Table = text.parse().with_context(|| format!("--config {shown}"))?;
    let mut flags = Vec::new();
    for (key, value) in &table {
        let text = match value {
            toml::Value::String(s) => s.clone(),
            toml::Value::Integer(i) => i.to_string(),
            toml::Value::Float(f) => f.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            _ => bail!("--config {shown}: `{key}` should be a text, a number or true/false"),
        };
        flags.extend(flag(key, &text));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], want: &[&str]) {
        let args = args.iter().map(OsString::from).collect();
        assert_eq!(expand(args).unwrap(), want.iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn order_is_config_flags_sets() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "epochs = 3\nmax_time = \"10m\"\njson = true\nflip = false\nlr = 0.5\n")
            .unwrap();
        let config = format!("--config={}", file.path().display());
        check(
            &["e", "train", "D", "--epochs=4", &config, "--set", "lr=0.1"],
            &[
                "e",
                "train",
                "--epochs=3",
                "--json",
                "--lr=0.5",
                "--max-time=10m",
                "D",
                "--epochs=4",
                "--lr=0.1",
            ],
        );
        check(&["e"], &["e"]);
    }

    #[test]
    fn faults_are_named() {
        let error =
            |args: &[&str]| expand(args.iter().map(OsString::from).collect()).unwrap_err().to_string();
        assert!(error(&["e", "train", "--set", "lr"]).contains("key=value"));
        assert!(error(&["e", "train", "--config", "/no/such.toml"]).contains("/no/such.toml"));
    }
}
