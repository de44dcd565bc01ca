//! What an agent is to do, as one TOML file says it. `docs/agent.md` is the reference of its keys.

mod fault;
mod pipeline;
mod quantity;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use fault::{ConfigError, Fault};
pub use pipeline::{AggregateConfig, ModelConfig, PipelineConfig, PolicyConfig, SourceConfig};
pub use quantity::{Bytes, Time};

use crate::scheduler::Power;
use crate::sink::{SinkConfig, check as check_sinks};

/// Bytes of a configuration, at most.
const FILE_BYTES: u64 = 1 << 20;
/// Pipelines of one agent, at most.
const PIPELINES: usize = 64;

/// All that an agent is to do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The machine.
    pub device: DeviceConfig,
    /// Ceilings on what all pipelines together use.
    #[serde(default)]
    pub power: PowerConfig,
    /// The status page and `/metrics`.
    #[serde(default)]
    pub status: StatusConfig,
    /// What is looked at by what.
    #[serde(rename = "pipeline")]
    pub pipelines: Vec<PipelineConfig>,
    /// Where insights go; nowhere without any.
    #[serde(default, rename = "sink")]
    pub sinks: Vec<SinkConfig>,
}

/// `[device]`: the machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its name in everything that it says.
    pub name: String,
    /// Folder for what has to outlive a restart; default: what systemd gives in `$STATE_DIRECTORY`, or `data` beside the
    /// configuration.
    #[serde(default)]
    pub data: PathBuf,
}

/// `[power]`: ceilings on what all pipelines together use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerConfig {
    /// Share of the CPU time of all cores, above 0, up to 1.
    pub cpu: Option<f64>,
    /// Frames processed a second.
    pub rate: Option<f64>,
}

/// `[status]`: the page for browsers, and `/metrics` for Prometheus.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Address and port to listen at; 127.0.0.1 is this machine alone.
    pub listen: SocketAddr,
    /// Names, beside `localhost` and addresses, by which this machine may be asked.
    pub names: Vec<String>,
}

impl Default for StatusConfig {
    fn default() -> Self {
        StatusConfig { enabled: true, listen: ([127, 0, 0, 1], 8484).into(), names: Vec::new() }
    }
}

impl Config {
    /// The file at `path`, checked; its relative paths are taken from its folder.
    ///
    /// # Errors
    /// Names the file, the key, its value and what would be right.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let within = |fault| ConfigError { file: path.into(), fault };
        let text = read(path).map_err(within)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut config = Config::parse(&text).map_err(within)?;
        config.resolve(folder, std::env::var_os("STATE_DIRECTORY").map(PathBuf::from));
        Ok(config)
    }

    /// A text of TOML, checked.
    ///
    /// # Errors
    /// Names the key, its value and what would be right.
    pub fn parse(text: &str) -> Result<Config, Fault> {
        let config: Config = fault::parse(text)?;
        config.validate()?;
        Ok(config)
    }

    /// Turns relative paths into those that the configuration means.
    fn resolve(&mut self, folder: &Path, state: Option<PathBuf>) {
        let data = &mut self.device.data;
        *data = match data.as_os_str().is_empty() {
            true => state.unwrap_or_else(|| folder.join("data")),
            false => folder.join(&*data),
        };
        self.pipelines.iter_mut().for_each(|pipeline| pipeline.resolve(folder));
        self.sinks.iter_mut().for_each(|sink| sink.resolve(folder));
    }

    fn validate(&self) -> Result<(), Fault> {
        name("device.name", &self.device.name)?;
        let cpu = self.power.cpu.filter(|cpu| !(*cpu > 0.0 && *cpu <= 1.0));
        Fault::of("power.cpu", cpu, "it should be a share of all cores, above 0 and up to 1")?;
        fault::rate("power.rate", self.power.rate)?;
        let foreign = self.status.names.iter().find(|name| name.parse::<IpAddr>().is_ok() || !is_host(name));
        Fault::of("status.names", foreign, "it should be the name of this machine, like \"gate-3.local\"")?;
        let (count, right) = (self.pipelines.len(), format!("there should be 1 to {PIPELINES}"));
        Fault::of("pipeline", Some(count).filter(|count| !(1..=PIPELINES).contains(count)), &right)?;
        let mut names = BTreeSet::new();
        for (index, pipeline) in self.pipelines.iter().enumerate() {
            let path = format!("pipeline[{index}]");
            pipeline.validate(&path)?;
            let again = Some(&pipeline.name).filter(|name| !names.insert(name.as_str()));
            Fault::of(format!("{path}.name"), again, "each pipeline should have a name of its own")?;
        }
        check_sinks(&self.sinks).map_err(|error| Fault::Text(error.to_string()))
    }

    /// Ceilings on what all pipelines together use.
    pub fn power(&self) -> Power {
        Power { cpu: self.power.cpu, rate: self.power.rate }
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    let failed = |error: std::io::Error| Fault::Text(error.to_string());
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES {
        return Err(Fault::Text("it should be a file of at most 1 MiB".into()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Names stand in topics, paths, addresses and labels.
fn name(path: &str, name: &str) -> Result<(), Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = (1..=64).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('.');
    let right = "it should have 1 to 64 letters a to z, digits, and `-`, `_` or `.`, and not begin with `.`";
    Fault::of(path, Some(name).filter(|_| !is_name), right)
}

fn is_host(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    (1..=253).contains(&name.len()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [device]
        name = "gate-3"
        [[pipeline]]
        name = "gate"
        source = { uri = "a.mp4" }
        model = { path = "a.espalier" }
    "#;

    #[test]
    fn little_is_enough() {
        let mut config = Config::parse(SMALL).unwrap();
        assert_eq!(config.status.listen.to_string(), "127.0.0.1:8484");
        config.resolve(Path::new("/etc/espalier"), None);
        assert_eq!(config.device.data, Path::new("/etc/espalier/data"));
        let pipeline = &config.pipelines[0];
        assert_eq!(pipeline.model.path, Path::new("/etc/espalier/a.espalier"));
        assert_eq!(pipeline.source.uri, "/etc/espalier/a.mp4");
    }

    #[test]
    fn faults_name_key_value_and_what_would_be_right() {
        let check = |from: &str, to: &str, words: &[&str]| {
            assert!(SMALL.contains(from), "{from}");
            let fault = Config::parse(&SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            words.iter().for_each(|word| assert!(fault.contains(word), "{to}: {fault}"));
        };
        let after = "name = \"gate\"";
        check("gate-3", "gate 3", &["device.name = \"gate 3\": ", "letters"]);
        check(after, "name = \"..\"", &["pipeline[0].name = \"..\": "]);
        check(after, "name = 3", &["pipeline[0].name = 3: ", "expected a string"]);
        check(after, "name = \"g\"\nnmae = 1", &["pipeline[0].nmae = 1: ", "unknown field", "`name`"]);
        check(after, "", &["pipeline[0]: missing field `name`"]);
        check("[device]", "[device]\nname = 1", &["duplicate key"]);
        check("[device]", "[power]\ncpu = 1.5\n[device]", &["power.cpu = 1.5: it should be a share"]);
        check("[device]", "[power]\nrate = nan\n[device]", &["power.rate = NaN: "]);
        check("[device]", "[status]\nlisten = \"here\"\n[device]", &["status.listen = \"here\": "]);
        check("[device]", "[status]\nnames = [\"a b\"]\n[device]", &["status.names = \"a b\": "]);
        check("uri = \"a.mp4\"", "uri = \"\"", &["pipeline[0].source.uri = \"\": "]);
        check("uri", "policy = \"newest\", uri", &["source.policy = \"newest\": ", "`latest`", "`every`"]);
        check("uri", "rate = 0, uri", &["pipeline[0].source.rate = 0.0: ", "0.001 to 1000"]);
        check("uri", "retry = \"soon\", uri", &["pipeline[0].source.retry = \"soon\": ", "\"200ms\""]);
        check("path", "threads = 0, path", &["pipeline[0].model.threads = 0: "]);
        check("path", "isa = \"mmx\", path", &["pipeline[0].model.isa = \"mmx\": "]);
        check("path", "max_memory = \"much\", path", &["pipeline[0].model.max_memory = \"much\": ", "32MB"]);
        let other = "max_memory = \"32MB\", engine = \"onnxruntime\", path";
        check("path", other, &["pipeline[0].model.max_memory = ", "for the engine \"espalier\""]);
        check("path = \"a.espalier\"", "path = \"\"", &["pipeline[0].model.path = \"\": "]);
        let twice =
            format!("{SMALL}{}", SMALL.split_once("[[").map(|(_, rest)| format!("[[{rest}")).unwrap());
        let fault = Config::parse(&twice).unwrap_err().to_string();
        assert!(fault.contains("pipeline[1].name = \"gate\": each pipeline"), "{fault}");
        let fault = Config::parse("[device]\nname = \"a\"\n").unwrap_err().to_string();
        assert!(fault.contains("missing field `pipeline`"), "{fault}");
    }
}
