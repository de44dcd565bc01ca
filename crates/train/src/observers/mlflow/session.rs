//! One run at the server: found or made, and brought up to date.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use espalier_graph::files;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, Fault};
use super::server::{Experiment, Server};
use super::{End, Row, file_name, now_ms};

/// Rows in one request; MLflow takes 1000 metrics.
const ROWS_PER_REQUEST: usize = 50;
/// Parameters in one request, MLflow's limit.
const PARAMETERS_PER_REQUEST: usize = 100;
/// How often the end is tried: a server that is being started again is given a few seconds.
const LAST_ATTEMPTS: usize = 3;

/// The run's identity at the server, kept beside the checkpoint so that a resumed run finds it.
#[derive(Clone, Serialize, Deserialize)]
struct Identity {
    server: String,
    run_id: String,
    artifact_uri: String,
}

/// Where in a run's folder the identity stands.
pub(crate) const IDENTITY: &str = "mlflow.json";

pub(super) struct Session {
    server: Server,
    folder: PathBuf,
    parameters: Vec<(String, String)>,
    /// Made with the first request.
    open: Option<(Client, Identity)>,
    /// The last epoch that the server has.
    delivered: usize,
}

impl Session {
    pub(super) fn new(server: Server, folder: &Path, parameters: Vec<(String, String)>) -> Session {
        Session { server, folder: folder.into(), parameters, open: None, delivered: 0 }
    }

    pub(super) fn delivered(&self) -> usize {
        self.delivered
    }

    /// Brings the server up to date; rows that it has are skipped.
    pub(super) fn deliver(&mut self, rows: &[Row]) -> Result<(), Fault> {
        let (client, identity) = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let delivered = self.deliver_to(&client, &identity, rows);
        self.open = Some((client, identity));
        delivered
    }

    fn deliver_to(&mut self, client: &Client, identity: &Identity, rows: &[Row]) -> Result<(), Fault> {
        for rows in rows.chunks(ROWS_PER_REQUEST) {
            let metrics: Vec<Value> =
                rows.iter().filter(|row| row.epoch > self.delivered).flat_map(metrics).collect();
            if !metrics.is_empty() {
                client.post("runs/log-batch", &json!({"run_id": identity.run_id, "metrics": metrics}))?;
            }
            self.delivered = rows.iter().map(|row| row.epoch).fold(self.delivered, usize::max);
        }
        Ok(())
    }

    /// Everything that is left, in a few attempts; returns what could not be delivered, and why.
    pub(super) fn finish(&mut self, end: &End) -> Option<String> {
        let (start, patience) = (Instant::now(), self.server.patience);
        let (mut files, mut pause) = (end.artefacts.clone(), patience.first_pause);
        for attempt in 1.. {
            let (lacking, fault) = self.finish_once(end, &mut files).err()?;
            let is_late = start.elapsed() + pause + patience.request > patience.last;
            if attempt == LAST_ATTEMPTS || fault.is_lasting() || is_late {
                return Some(format!("MLflow: not delivered: {}: {fault}", lacking.join(", ")));
            }
            thread::sleep(pause);
            pause *= 2;
        }
        None
    }

    /// As [`Session::finish`], once; `files` are those that are left.
    fn finish_once(&mut self, end: &End, files: &mut Vec<PathBuf>) -> Result<(), (Vec<String>, Fault)> {
        let names = |files: &[PathBuf]| files.iter().map(|path| file_name(path)).collect::<Vec<_>>();
        if let Err(fault) = self.deliver(&end.rows) {
            let mut lacking = names(files);
            let last = end.rows.last().map_or(0, |row| row.epoch);
            if last > self.delivered {
                lacking.insert(0, format!("the metrics of epochs {} to {last}", self.delivered + 1));
            }
            return Err((lacking, fault));
        }
        let (client, identity) = self.open.as_ref().expect("rows were delivered");
        let mut first = None;
        files.retain(|path| {
            let failed = upload(client, identity, path).err();
            let is_left = failed.is_some();
            first = first.take().or(failed);
            is_left
        });
        let mut lacking = names(files);
        if let Err(fault) = close(client, identity, end) {
            lacking.push("that the run has ended".into());
            first = first.or(Some(fault));
        }
        first.map_or(Ok(()), |fault| Err((lacking, fault)))
    }

    /// The run that is known from before, else a new one; with its parameters.
    fn open(&mut self) -> Result<(Client, Identity), Fault> {
        let client = Client::new(self.server.clone())?;
        let identity = match self.known(&client)? {
            Some(identity) => identity,
            None => self.create(&client)?,
        };
        for parameters in self.parameters.chunks(PARAMETERS_PER_REQUEST) {
            let params: Vec<Value> = parameters.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
            client.post("runs/log-batch", &json!({"run_id": identity.run_id, "params": params}))?;
        }
        Ok((client, identity))
    }

    /// The run named by the user or by the folder, where the server still has it.
    fn known(&mut self, client: &Client) -> Result<Option<Identity>, Fault> {
        let run_id = match (&self.server.run_id, self.stored()) {
            (Some(id), _) => id.clone(),
            (None, Some(identity)) => identity.run_id,
            (None, None) => return Ok(None),
        };
        let answer = match client.get("runs/get", ("run_id", &run_id)) {
            Err(fault) if fault.status == Some(404) && self.server.run_id.is_none() => return Ok(None),
            answer => answer?,
        };
        let run = &answer["run"];
        let metrics = run["data"]["metrics"].as_array();
        let steps = metrics.into_iter().flatten().filter_map(|metric| number(&metric["step"]));
        self.delivered = steps.max().unwrap_or(0);
        client.post("runs/update", &json!({"run_id": run_id, "status": "RUNNING"}))?;
        self.remember(run).map(Some)
    }

    fn create(&mut self, client: &Client) -> Result<Identity, Fault> {
        let experiment = match &self.server.experiment {
            Experiment::Default => "0".to_string(),
            Experiment::Id(id) => id.clone(),
            Experiment::Name(name) => experiment_named(client, name)?,
        };
        let name = self.server.run_name.clone().unwrap_or_else(|| file_name(&self.folder));
        let tags = [("mlflow.source.name", "espalier train"), ("mlflow.source.type", "LOCAL")];
        let tags = tags.map(|(key, value)| json!({"key": key, "value": value}));
        let request =
            json!({"experiment_id": experiment, "start_time": now_ms(), "run_name": name, "tags": tags});
        let answer = client.post("runs/create", &request)?;
        self.remember(&answer["run"])
    }

    /// Keeps the identity of a run as the server describes it.
    fn remember(&self, run: &Value) -> Result<Identity, Fault> {
        let text = |name: &str| {
            let value = run["info"][name].as_str().map(String::from);
            value.ok_or_else(|| Fault::new(format!("{} describes a run without {name}", self.server.url)))
        };
        let identity = Identity {
            server: self.server.url.clone(),
            run_id: text("run_id")?,
            artifact_uri: text("artifact_uri")?,
        };
        let json = serde_json::to_string(&identity).expect("an identity is plain data");
        files::write_atomic(self.folder.join(IDENTITY), |file| file.write_all(json.as_bytes()))
            .map_err(|e| Fault::new(e.to_string()))?;
        Ok(identity)
    }

    fn stored(&self) -> Option<Identity> {
        let text = std::fs::read_to_string(self.folder.join(IDENTITY)).ok()?;
        serde_json::from_str::<Identity>(&text).ok().filter(|identity| identity.server == self.server.url)
    }
}

fn metrics(row: &Row) -> Vec<Value> {
    let one = |(key, value): &(String, f64)| json!({"key": key, "value": value, "timestamp": row.time_ms, "step": row.epoch});
    row.metrics.iter().map(one).collect()
}

/// A number that the server may have written as text.
fn number(value: &Value) -> Option<usize> {
    value.as_u64().map(|n| n as usize).or_else(|| value.as_str()?.parse().ok())
}

fn experiment_named(client: &Client, name: &str) -> Result<String, Fault> {
    let id = |value: &Value| value.as_str().map(String::from);
    let none = || Fault::new(format!("no id came for the experiment {name:?}"));
    match client.get("experiments/get-by-name", ("experiment_name", name)) {
        Err(fault) if fault.status == Some(404) => {
            let answer = client.post("experiments/create", &json!({"name": name}))?;
            id(&answer["experiment_id"]).ok_or_else(none)
        }
        answer => id(&answer?["experiment"]["experiment_id"]).ok_or_else(none),
    }
}

/// Through the server, which keeps artefacts wherever it likes.
fn upload(client: &Client, identity: &Identity, path: &Path) -> Result<(), Fault> {
    let Identity { server, artifact_uri, .. } = identity;
    let folder = match artifact_uri.strip_prefix("mlflow-artifacts:/").filter(|rest| !rest.starts_with('/')) {
        Some(rest) => format!("{server}/api/2.0/mlflow-artifacts/artifacts/{rest}"),
        None if artifact_uri.starts_with(&format!("{server}/")) => artifact_uri.clone(),
        None => {
            let place = artifact_uri.split(':').next().unwrap_or_default();
            return Err(Fault::lasting(format!(
                "{server} wants its clients to write to {place}: themselves; one started with --serve-artifacts takes files"
            )));
        }
    };
    let bytes = std::fs::read(path).map_err(|e| Fault::new(e.to_string()))?;
    client.put(&format!("{folder}/{}", file_name(path)), &bytes)
}

/// Tells the server how the run ended.
fn close(client: &Client, identity: &Identity, end: &End) -> Result<(), Fault> {
    let run_id = &identity.run_id;
    if !end.note.is_empty() {
        let tag = json!({"run_id": run_id, "key": "mlflow.note.content", "value": end.note});
        client.post("runs/set-tag", &tag)?;
    }
    client
        .post("runs/update", &json!({"run_id": run_id, "status": end.status, "end_time": now_ms()}))
        .map(drop)
}
