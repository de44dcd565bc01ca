//! Logging to an MLflow server: what is sent, and that no server, however odd, stops or delays training.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{broken_off, easy, request, train};
use espalier_train::observers::mlflow::{Patience, Server};
use espalier_train::{Overrides, Request};
use serde_json::{Value, json};

const EPOCHS: usize = 4;

/// How a test's server answers.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// As MLflow does.
    Well,
    /// With status 500.
    Broken,
    /// Not at all.
    Silent,
    /// With what is no JSON.
    Garbage,
    /// With JSON of another kind.
    Strange,
    /// With an answer that breaks off.
    Short,
    /// Well after so many failed requests.
    Late(usize),
    /// Well, but for the first file.
    Dropping,
}

/// What the server was asked: method, path, body, authorization.
type Asked = Vec<(String, String, Vec<u8>, String)>;

/// As much of an MLflow server as a run needs.
struct Fake {
    url: String,
    asked: Arc<Mutex<Asked>>,
}

impl Fake {
    fn start(manner: Manner) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, server) = (asked.clone(), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (record, server) = (record.clone(), server.clone());
                std::thread::spawn(move || serve(stream, manner, &record, &server));
            }
        });
        Fake { url, asked }
    }

    fn server(&self) -> Server {
        server(&self.url)
    }

    /// Bodies of the requests to a path that ends so.
    fn bodies(&self, ending: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        let bodies = asked.iter().filter(|(_, path, ..)| path.split('?').next().unwrap().ends_with(ending));
        bodies.map(|(_, _, body, _)| serde_json::from_slice(body).unwrap_or_default()).collect()
    }

    /// How often each epoch's val loss came.
    fn epochs(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for body in self.bodies("runs/log-batch") {
            for metric in body["metrics"].as_array().into_iter().flatten().filter(|m| m["key"] == "val_loss")
            {
                *counts.entry(metric["step"].as_u64().unwrap()).or_default() += 1;
            }
        }
        counts
    }
}

/// Each once.
fn once(epochs: usize) -> BTreeMap<u64, usize> {
    (1..=epochs as u64).map(|epoch| (epoch, 1)).collect()
}

fn server(url: &str) -> Server {
    let variable = |name: &str| match name {
        "MLFLOW_TRACKING_URI" => Some(url.to_string()),
        "MLFLOW_EXPERIMENT_NAME" => Some("tests & more".into()),
        "MLFLOW_TRACKING_TOKEN" => Some("secret-token".into()),
        _ => None,
    };
    let patience = Patience {
        request: Duration::from_millis(300),
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(100),
        last: Duration::from_secs(1),
    };
    let mut server = Server::from_environment(&variable).unwrap().unwrap();
    server.patience = patience;
    server
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, manner: Manner, asked: &Mutex<Asked>, url: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((method, path, body, authorization)) = read_request(&mut reader) {
        let count = {
            let mut asked = asked.lock().unwrap();
            asked.push((method, path.clone(), body, authorization));
            asked.len()
        };
        let (status, text) = match manner {
            Manner::Well => answer(&path, asked),
            Manner::Dropping if files(asked) == 1 && path.contains("/mlflow-artifacts/") => {
                (500, r#"{"message": "starting again"}"#.into())
            }
            Manner::Dropping => answer(&path, asked),
            Manner::Late(n) if count > n => answer(&path, asked),
            Manner::Broken | Manner::Late(_) => (500, r#"{"message": "out of order\nand more"}"#.into()),
            Manner::Garbage => (200, "<html>hello</html>".into()),
            Manner::Strange => (200, json!({"run": [url]}).to_string()),
            Manner::Short => (200, String::new()),
            Manner::Silent => {
                std::thread::sleep(Duration::from_secs(30));
                return;
            }
        };
        let length = if manner == Manner::Short { 100 } else { text.len() };
        let sent = write!(writer, "HTTP/1.1 {status} OK\r\ncontent-length: {length}\r\n\r\n{text}");
        if sent.is_err() || manner == Manner::Short {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>, String)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split(' ').map(String::from);
    let (method, path) = (words.next()?, words.next()?);
    let (mut length, mut authorization) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = value.trim().into()
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, body, authorization))
}

/// How many files were put.
fn files(asked: &Mutex<Asked>) -> usize {
    asked.lock().unwrap().iter().filter(|(method, ..)| method == "PUT").count()
}

/// What MLflow 3 says, as far as it is looked at.
fn answer(path: &str, asked: &Mutex<Asked>) -> (u16, String) {
    let run = |steps: Vec<u64>| {
        let metrics: Vec<Value> =
            steps.into_iter().map(|step| json!({"key": "val_loss", "step": step})).collect();
        json!({"run": {
            "info": {"run_id": "r1", "artifact_uri": "mlflow-artifacts:/7/r1/artifacts"}, "data": {"metrics": metrics},
        }})
    };
    let logged = || {
        let asked = asked.lock().unwrap();
        let bodies = asked.iter().filter_map(|(_, _, body, _)| serde_json::from_slice::<Value>(body).ok());
        let metrics = bodies.flat_map(|body| body["metrics"].as_array().cloned().unwrap_or_default());
        metrics.filter_map(|metric| metric["step"].as_u64()).max().into_iter().collect()
    };
    if path.contains("/mlflow-artifacts/") {
        return (200, String::new());
    }
    let value = match path.split('?').next().unwrap().rsplit("mlflow/").next().unwrap() {
        "experiments/get-by-name" => {
            return (404, json!({"error_code": "RESOURCE_DOES_NOT_EXIST"}).to_string());
        }
        "experiments/create" => json!({"experiment_id": "7"}),
        "runs/create" => run(Vec::new()),
        "runs/get" => run(logged()),
        _ => json!({}),
    };
    (200, value.to_string())
}

fn short_run(folder: &tempfile::TempDir, server: Server) -> Request {
    let data = easy(folder.path(), 64, 16);
    let overrides = Overrides { epochs: Some(EPOCHS), patience: Some(EPOCHS), ..Overrides::default() };
    Request { mlflow: Some(server), ..request(&data, folder.path(), overrides) }
}

#[test]
fn a_run_arrives_whole() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start(Manner::Well));
    let (outcome, warnings) = train(&short_run(&folder, fake.server()));
    assert_eq!(warnings, [""; 0]);
    assert_eq!(fake.epochs(), once(EPOCHS));
    assert_eq!(fake.bodies("experiments/create"), [json!({"name": "tests & more"})]);
    assert_eq!(fake.bodies("runs/create")[0]["experiment_id"], "7");
    let bodies = fake.bodies("runs/log-batch");
    let parameters: Vec<&Value> =
        bodies.iter().filter_map(|body| body["params"].as_array()).flatten().collect();
    assert!(parameters.contains(&&json!({"key": "model", "value": "lenet"})), "{parameters:?}");
    assert!(
        parameters.contains(&&json!({"key": "augment.geometric.flip", "value": "false"})),
        "{parameters:?}"
    );
    let updates = fake.bodies("runs/update");
    assert_eq!(updates.last().unwrap()["status"], "FINISHED");
    assert_eq!(fake.bodies("runs/set-tag")[0]["value"], outcome.verdict.text);

    let asked = fake.asked.lock().unwrap();
    let query = asked.iter().find(|(_, path, ..)| path.contains("get-by-name")).unwrap();
    assert!(query.1.ends_with("experiment_name=tests%20%26%20more"), "{}", query.1);
    assert!(asked.iter().all(|(.., authorization)| authorization == "Bearer secret-token"));
    let package =
        asked.iter().find(|(method, path, ..)| method == "PUT" && path.ends_with("/best.espalier")).unwrap();
    assert_eq!(package.1, "/api/2.0/mlflow-artifacts/artifacts/7/r1/artifacts/best.espalier");
    assert_eq!(package.2, fs::read(folder.path().join("run/best.espalier")).unwrap());
    assert!(asked.iter().any(|(method, path, ..)| method == "PUT" && path.ends_with("/report.html")));
}

#[test]
fn a_broken_off_run_goes_on_in_the_same_run() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start(Manner::Well));
    let request = short_run(&folder, fake.server());
    broken_off(&request, 10);
    assert_eq!(fake.bodies("runs/update").last().unwrap()["status"], "FAILED");
    let (_, warnings) = train(&Request { resume: true, ..request });
    assert_eq!(warnings, [""; 0]);
    assert_eq!(fake.bodies("runs/create").len(), 1);
    assert_eq!(fake.epochs(), once(EPOCHS));
    let states: Vec<Value> = fake.bodies("runs/update").iter().map(|body| body["status"].clone()).collect();
    assert_eq!(states, ["FAILED", "RUNNING", "FINISHED"]);
}

#[test]
fn a_server_that_comes_late_gets_everything() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start(Manner::Late(2)));
    let (_, warnings) = train(&short_run(&folder, fake.server()));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("status 500: out of order; training goes on"), "{warnings:?}");
    assert_eq!(fake.epochs(), once(EPOCHS));
}

#[test]
fn a_file_that_is_dropped_is_sent_again() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start(Manner::Dropping));
    let (_, warnings) = train(&short_run(&folder, fake.server()));
    assert_eq!(warnings, [""; 0]);
    let asked = fake.asked.lock().unwrap();
    let puts = |name: &str| {
        asked.iter().filter(|(method, path, ..)| method == "PUT" && path.ends_with(name)).count()
    };
    assert_eq!([puts("/best.espalier"), puts("/report.html")], [2, 1], "the one that failed");
}

/// Training ends as it does without a server, in the same bits and about the same time, with one warning while it goes
/// on and one about what did not arrive.
fn check_fault(url: &str, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let request = short_run(&folder, server(url));
    let start = Instant::now();
    let (_, warnings) = train(&Request { mlflow: None, ..request.clone() });
    let alone = start.elapsed();
    let best = fs::read(request.out.join("best.espalier")).unwrap();
    fs::remove_dir_all(&request.out).unwrap();
    assert_eq!(warnings, [""; 0]);

    let start = Instant::now();
    let (_, warnings) = train(&request);
    // The last attempts may take a second and a request's time; the rest is for machines that are busy.
    assert!(start.elapsed() < alone * 3 + Duration::from_secs(3), "{:?}, alone {alone:?}", start.elapsed());
    assert!(fs::read(request.out.join("best.espalier")).unwrap() == best, "the same bits");
    let (last, before) = warnings.split_last().expect("a warning");
    assert!(before.len() <= 1 && before.iter().all(|w| w.contains("training goes on")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains(words)), "{warnings:?} should say {words:?}");
    let lacking = last.contains("not delivered") && last.contains("best.espalier");
    assert!(lacking || last.contains("did not answer"), "{warnings:?}");
    assert!(warnings.iter().all(|w| !w.contains("secret-token") && w.lines().count() == 1), "{warnings:?}");
    assert!(!request.out.join("mlflow.json").exists());
}

#[test]
fn no_server_stops_training() {
    // A port that nobody listens to.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    check_fault(&away, "does not answer");
    for (manner, words) in [
        (Manner::Broken, "status 500: out of order"),
        (Manner::Silent, "does not answer"),
        (Manner::Garbage, "does not answer like an MLflow server"),
        (Manner::Strange, "no id came for the experiment"),
        (Manner::Short, "breaks off"),
    ] {
        check_fault(&Fake::start(manner).url, words);
    }
    check_fault("http://no.such.host.invalid", "does not answer");
}
