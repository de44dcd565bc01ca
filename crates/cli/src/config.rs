//! `--config FILE.toml` and `--set key=value`, for every command: both become flags before the command line is parsed,
//! so there is one definition of every flag. A config's keys are flags without dashes; flags win over the config, and
//! `--set` wins over both. Of `espalier agent`, `--config` is what to run, and is left alone.

use std::ffi::OsString;

use anyhow::{Context, anyhow, bail};

/// A flag without dashes and its value.
type Pair = (String, String);

/// Flags that are off where they are not given, but have an opposite.
const OPPOSITES: [(&str, &str); 1] = [("flip", "no-flip")];

/// The command line with configs and sets turned into flags. What stands behind `--` is left alone.
///
/// # Errors
/// A config that cannot be read or is no flat table; a set without `=`.
pub(crate) fn expand(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let (mut rest, mut config, mut sets) = (Vec::new(), Vec::new(), Vec::new());
    let own = args.get(1).is_some_and(|command| command == "agent");
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next_if(|arg| arg != "--") {
        match split(&arg) {
            Some(("--config", value)) if !own => {
                let path = value.or_else(|| args.next()).context("--config needs a file")?;
                config.extend(read(&path)?);
            }
            Some(("--set", value)) => {
                let pair = value.or_else(|| args.next()).context("--set needs key=value")?;
                sets.push(set(&pair)?);
            }
            _ => rest.push(arg),
        }
    }
    config.retain(|(key, _)| sets.iter().all(|(set, _)| set != key));
    // The program and its command stay in front.
    let tail = rest.split_off(rest.len().min(2));
    let (config, sets) = (config.iter().filter_map(flag), sets.iter().filter_map(flag));
    Ok(rest.into_iter().chain(config).chain(tail).chain(sets).chain(args).collect())
}

/// `--flag` or `--flag=value`.
fn split(arg: &OsString) -> Option<(&str, Option<OsString>)> {
    let text = arg.to_str()?;
    Some(match text.split_once('=') {
        Some((flag, value)) => (flag, Some(value.into())),
        None => (text, None),
    })
}

fn set(pair: &OsString) -> anyhow::Result<Pair> {
    let text = pair.to_str().context("--set takes text")?;
    let (key, value) =
        text.split_once('=').with_context(|| format!("--set {text}: it should be key=value"))?;
    Ok((name(key), value.to_string()))
}

fn name(key: &str) -> String {
    key.trim().replace('_', "-")
}

fn flag((name, value): &Pair) -> Option<OsString> {
    let opposite = || OPPOSITES.iter().find(|(on, _)| on == name).map(|(_, off)| format!("--{off}").into());
    match value.as_str() {
        "true" => Some(format!("--{name}").into()),
        "false" => opposite(),
        _ => Some(format!("--{name}={value}").into()),
    }
}

fn read(path: &OsString) -> anyhow::Result<Vec<Pair>> {
    let shown = path.to_string_lossy();
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {shown}"))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = 1 + text[..e.span().map_or(0, |span| span.start)].matches('\n').count();
        anyhow!("--config {shown}: line {line}: {}", e.message())
    })?;
    let pair = |(key, value): (&String, &toml::Value)| {
        let text = match value {
            toml::Value::String(s) => s.clone(),
            toml::Value::Integer(i) => i.to_string(),
            toml::Value::Float(f) => f.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            _ => bail!("--config {shown}: `{key}` should be a text, a number or true/false"),
        };
        Ok((name(key), text))
    };
    table.iter().map(pair).collect()
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
                "--no-flip",
                "--json",
                "--max-time=10m",
                "D",
                "--epochs=4",
                "--lr=0.1",
            ],
        );
        check(&["e"], &["e"]);
        check(&["e", "agent", &config, "--check"], &["e", "agent", &config, "--check"]);
        check(
            &["e", "train", &config, "--set", "json=false", "--set=max_time=9s", "--", "--set", "D"],
            &["e", "train", "--epochs=3", "--no-flip", "--lr=0.5", "--max-time=9s", "--", "--set", "D"],
        );
    }

    #[test]
    fn faults_are_named() {
        let error =
            |args: &[&str]| expand(args.iter().map(OsString::from).collect()).unwrap_err().to_string();
        assert!(error(&["e", "train", "--set", "lr"]).contains("key=value"));
        assert!(error(&["e", "train", "--config", "/no/such.toml"]).contains("/no/such.toml"));
    }
}
