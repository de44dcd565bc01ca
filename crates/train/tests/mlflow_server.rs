//! A real MLflow server takes what is logged.

mod common;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{broken_off, easy, request, train};
use espalier_testing::{heavy, python};
use espalier_train::observers::mlflow::Server;
use espalier_train::{Overrides, Request};
use serde_json::{Value, json};

const EPOCHS: usize = 3;

/// A server that ends with its test.
struct Mlflow {
    process: Child,
    url: String,
}

impl Mlflow {
    fn start(python: &str, folder: &Path) -> Mlflow {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(python)
            .args([
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--workers",
                "1",
                "--port",
                &port.to_string(),
            ])
            .args(["--backend-store-uri", &format!("sqlite:///{}/mlflow.db", folder.display())])
            .args(["--artifacts-destination", folder.join("artifacts").to_str().unwrap()])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Mlflow { process, url: format!("http://127.0.0.1:{port}") };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(120), "the server does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        // Its workers end when it does.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").arg(&id).status();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_server_takes_a_resumed_run() {
    if !heavy("a real MLflow server") {
        return;
    }
    let Some(python) = python("mlflow.server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mlflow = Mlflow::start(&python, folder.path());
    let variable = |name: &str| match name {
        "MLFLOW_TRACKING_URI" => Some(mlflow.url.clone()),
        "MLFLOW_EXPERIMENT_NAME" => Some("quarters".into()),
        "MLFLOW_RUN_NAME" => Some("first".into()),
        _ => None,
    };
    let server = Server::from_environment(&variable).unwrap();
    let data = easy(folder.path(), 64, 16);
    let overrides = Overrides { epochs: Some(EPOCHS), patience: Some(EPOCHS), ..Overrides::default() };
    let request = Request { mlflow: server, ..request(&data, folder.path(), overrides) };
    broken_off(&request, 6);
    let (outcome, warnings) = train(&Request { resume: true, ..request.clone() });
    assert_eq!(warnings, [""; 0]);

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mlflow_runs.py");
    let output = Command::new(&python).arg(script).args([&mlflow.url, "quarters"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let runs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 1, "the resumed run is the same run");
    let run = &runs[0];
    assert_eq!((&run["name"], &run["status"]), (&json!("first"), &json!("FINISHED")));
    assert_eq!((&run["params"]["model"], &run["params"]["batch"]), (&json!("lenet"), &json!("16")));
    let accuracy: Vec<Value> = run["metrics"]["val_accuracy"].as_array().unwrap().clone();
    assert_eq!(accuracy.iter().map(|m| m[0].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    let csv = std::fs::read_to_string(request.out.join("metrics.csv")).unwrap();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "val_accuracy").unwrap();
    let written: Vec<f64> =
        csv.lines().skip(1).map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect();
    assert_eq!(accuracy.iter().map(|m| m[1].as_f64().unwrap()).collect::<Vec<_>>(), written);
    assert_eq!(run["note"], outcome.verdict.text);
    assert_eq!(run["artifacts"], json!(["best.espalier", "report.html"]));
    let package: Vec<u8> = serde_json::from_value(run["package"].clone()).unwrap();
    assert!(
        package == std::fs::read(request.out.join("best.espalier")).unwrap(),
        "the package came back as it was"
    );
}
