//! The agent as a program.

#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Agent, GREEN, RED, cut, jpeg, lying, package, pipeline};
use espalier_tasks::{Limits, decode};

const MODEL: &str = "path = \"a.espalier\"";

/// A folder with a package and a stream of `frames`.
fn folder(frames: &[Vec<u8>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    package(0, 1).write(folder.path().join("a.espalier")).unwrap();
    std::fs::write(folder.path().join("a.mjpeg"), frames.concat()).unwrap();
    folder
}

#[test]
fn pipelines_run_side_by_side_and_frames_add_up() {
    let folder = folder(&[jpeg(160, 120, RED), cut(), jpeg(96, 200, GREEN), jpeg(160, 120, RED)]);
    let both = pipeline("uri = \"a.mjpeg\", rate = 50, loop = true", MODEL)
        + &pipeline("uri = \"a.mjpeg\", policy = \"latest\", loop = true", MODEL).replace("\"a\"", "\"b\"");
    let mut agent = Agent::start(folder.path(), &both);
    agent.until("frames of both", || {
        let metrics = agent.metrics();
        let of = |name: &str, pipeline: &str| metrics[&format!("{name}{{pipeline=\"{pipeline}\"}}")];
        let rates =
            of("process_fps", "a") > 30.0 && of("process_fps", "a") < 40.0 && of("camera_fps", "a") > 45.0;
        (rates && of("frames_skipped_total", "b") > 0.0 && of("frames_broken_total", "b") > 9.0).then_some(())
    });
    let metrics = agent.metrics();
    let (seen, broken) =
        (metrics["frames_seen_total{pipeline=\"a\"}"], metrics["frames_broken_total{pipeline=\"a\"}"]);
    assert!((seen - 4.0 * broken).abs() <= 4.0, "one in four is broken: {broken} of {seen}");
    assert_eq!(metrics["frames_skipped_total{pipeline=\"a\"}"], 0.0, "every frame of what is stored");
    assert!(metrics["seen_bytes_total{pipeline=\"a\"}"] > 1000.0);
    assert!(metrics["inference_ms{pipeline=\"a\",quantile=\"0.99\"}"] > 0.0);
    assert!(metrics["resident_memory_bytes"] > 1e6 && metrics["cpu_seconds_total"] > 0.0);
    let (status, took) = agent.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
    let said = agent.said();
    let ends: Vec<_> = said.iter().filter(|line| line.contains(" frames seen = ")).collect();
    assert_eq!(ends.len(), 2, "{said:#?}");
    for line in ends {
        let counts = line.split(" stopped; ").nth(1).unwrap().split(';').next().unwrap();
        let counts: Vec<u64> = counts.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert_eq!(counts[0], counts[1] + counts[2] + counts[3], "{line}");
    }
    let faults = said.iter().filter(|line| line.contains("is broken: JPEG")).count();
    assert!((2..=4).contains(&faults), "broken frames are named, but not each: {said:#?}");
    assert!(
        said.iter().all(|line| line.starts_with("20") && line.contains("Z ")),
        "a line an event: {said:#?}"
    );
}

#[test]
fn what_has_ended_ends_the_agent() {
    let folder = folder(&[jpeg(160, 120, RED), jpeg(160, 120, GREEN)]);
    let mut agent = Agent::start(folder.path(), &pipeline("uri = \"a.mjpeg\"", MODEL));
    assert!(agent.child.wait().unwrap().success());
    agent.wait_for("the source has ended; 2 frames seen = 2 processed + 0 skipped + 0 broken");
    agent.wait_for("agent: all sources have ended");
}

#[test]
fn the_page_shows_every_pipeline_and_its_picture() {
    let folder = folder(&[jpeg(160, 120, RED)]);
    let agent = Agent::start(folder.path(), &pipeline("uri = \"a.mjpeg\", rate = 20, loop = true", MODEL));
    let (head, page) = agent.get("/");
    let page = String::from_utf8(page).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("Cross-Origin-Resource-Policy: same-origin"),
        "{head}"
    );
    assert!(page.contains("data-name=\"a\"") && page.contains("Content-Security-Policy"), "{page}");
    agent.until("an answer", || (agent.figures(0)["label"] == "red").then_some(()));
    let (head, bytes) = agent.get("/a/picture.jpg");
    assert!(head.contains("image/jpeg"), "{head}");
    let picture = decode(&bytes, &Limits::default()).unwrap();
    assert_eq!((picture.width, picture.height), (320, 240), "small ones are enlarged");
    assert!(picture.pixels.chunks(3).any(|p| p[0] < 150), "a label is drawn into the red");
    assert!(agent.get("/b/picture.jpg").0.contains("404") && agent.get("/a/secrets").0.contains("404"));
    let mut events = TcpStream::connect(agent.address()).unwrap();
    events.write_all(b"GET /figures HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let events = BufReader::new(events).lines().map_while(Result::ok);
    let mut events = events.filter_map(|line| line.strip_prefix("data: ").map(String::from));
    let mut frame = || {
        let event: serde_json::Value = serde_json::from_str(&events.next().unwrap()).unwrap();
        event["pipelines"][0]["frame"].as_u64().unwrap()
    };
    assert!(frame() < frame(), "figures follow the stream");
    let (head, _) = agent.get("/metrics");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
}

#[test]
fn a_source_that_fails_is_seen_and_tried_again() {
    let folder = folder(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move |listener: &TcpListener, frames: usize| {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]);
        let kind = "multipart/x-mixed-replace; boundary=f";
        let _ = write!(connection, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n--f\r\n");
        for number in 0..frames {
            // The camera changes its size.
            let bytes = jpeg(100 + 60 * (number % 2), 80, GREEN);
            let _ = write!(connection, "Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", bytes.len());
            let _ = connection.write_all(&bytes).and_then(|()| connection.write_all(b"\r\n--f\r\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let config = pipeline(&format!("uri = \"http://{address}/\", retry = \"200ms\""), MODEL);
    let mut agent = Agent::start(folder.path(), &config);
    serve(&listener, 10);
    drop(listener);
    agent.until("it fails", || (agent.figures(0)["source"] == "failing").then_some(()));
    agent.wait_for("warning a: the source is failing: the stream broke off; next attempt in ");
    assert_eq!(agent.metric("source_up"), 0.0);
    agent.until("the picture is old", || {
        let bytes = agent.get("/a/picture.jpg").1;
        let picture = decode(&bytes, &Limits::default()).ok()?;
        // The green is dark then.
        (picture.pixels[picture.pixels.len() - 2] < 100).then_some(())
    });
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || serve(&listener, 500));
    agent.until("it is back", || (agent.figures(0)["source"] == "live").then_some(()));
    agent.wait_for("info a: the source is back");
    let (status, took) = agent.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
}

#[test]
fn what_is_not_there_yet_is_waited_for() {
    let folder = folder(&[]);
    let config = pipeline("uri = \"later.mjpeg\", retry = \"100ms\", loop = true, rate = 50", MODEL);
    let agent = Agent::start(folder.path(), &config);
    agent.wait_for("later.mjpeg: there is no such file or folder; next attempt in ");
    std::fs::write(folder.path().join("later.mjpeg"), jpeg(64, 64, RED)).unwrap();
    agent.until("it is there", || (agent.metric("frames_processed_total") > 3.0).then_some(()));
}

#[test]
fn a_folder_is_watched() {
    let folder = folder(&[]);
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let put = |name: &str| std::fs::write(pictures.join(name), jpeg(64, 64, RED)).unwrap();
    ["1.jpg", "2.jpg", "note.txt"].into_iter().for_each(put);
    let agent = Agent::start(folder.path(), &pipeline("uri = \"pictures\", watch = true", MODEL));
    let processed = |count: f64| {
        agent.until("pictures", || (agent.metric("frames_processed_total") == count).then_some(()))
    };
    processed(2.0);
    put("3.jpg");
    processed(3.0);
    std::thread::sleep(Duration::from_millis(600));
    processed(3.0);
}

/// What is wrong, as `--check` and a start say it.
#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    let folder = folder(&[jpeg(64, 64, RED)]);
    lying(1).write(folder.path().join("lying.espalier")).unwrap();
    let check = |config: &str, status: i32, words: &str, starts: bool| {
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, format!("[device]\nname = \"d\"\n[status]\nenabled = false\n{config}"))
            .unwrap();
        let run = |flags: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-agent"));
            let output = command.arg("--config").arg(&path).args(flags).output().unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let (code, out, err) = run(&["--check"]);
        assert_eq!(code, Some(status), "{config}: {err}");
        assert!(out.contains(words) || err.contains(words), "{config}: {out}{err}");
        if !starts {
            let (code, _, err) = run(&[]);
            assert!(code == Some(status) && err.contains(words), "{config}: {err}");
        }
    };
    let source = "uri = \"a.mjpeg\"";
    check(&pipeline(source, MODEL), 0, "a.espalier (version 1) takes ", true);
    check(&pipeline(source, "path = \"b.espalier\""), 1, "pipeline[0].model.path = ", false);
    check(&pipeline(source, "path = \"lying.espalier\""), 1, "golden sample 1: ", true);
    check(
        &pipeline(source, &format!("{MODEL}, max_memory = \"1KB\"")),
        1,
        "1KB are allowed (max_memory)",
        false,
    );
    check(
        &pipeline(source, &format!("{MODEL}, max_latency = \"1us\"")),
        1,
        "1us are allowed (max_latency)",
        true,
    );
    check(&pipeline("uri = \"b.mjpeg\"", MODEL), 2, "pipeline[0].source.uri: ", true);
    check(
        &pipeline("uri = \"gopher://h\"", MODEL),
        2,
        "pipeline[0].source.uri: gopher://h: http, https",
        false,
    );
    check(
        &pipeline("uri = \"a.mjpeg\", rat = 1", MODEL),
        2,
        "pipeline[0].source.rat = 1: unknown field",
        false,
    );
    check("", 2, "missing field `pipeline`", false);
}

#[test]
fn a_reload_changes_what_changed() {
    let folder = folder(&[jpeg(64, 64, RED)]);
    let steady = pipeline("uri = \"a.mjpeg\", rate = 50, loop = true", MODEL);
    let other = |rate: u32| {
        pipeline(&format!("uri = \"a.mjpeg\", rate = {rate}, loop = true"), MODEL).replace("\"a\"", "\"b\"")
    };
    let mut agent = Agent::start(folder.path(), &(steady.clone() + &other(10)));
    agent.until("frames", || (agent.metric("frames_processed_total") > 20.0).then_some(()));
    let before = agent.metric("frames_processed_total");
    agent.reload(&(steady.clone() + &other(40)));
    agent.wait_for("1 pipelines go on, 0 get another package, 1 begin");
    assert!(agent.metric("frames_processed_total") >= before, "what is the same goes on");
    agent.reload(&(steady.clone() + &other(0)));
    agent.wait_for("the configuration is refused, the one before stays: ");
    agent.reload(&steady);
    agent.wait_for("1 pipelines go on, 0 get another package, 0 begin");
    assert!(!agent.text("/metrics").contains("pipeline=\"b\""));
    package(0, 7).write(folder.path().join("new.espalier")).unwrap();
    agent.reload(&steady.replace("a.espalier", "new.espalier"));
    agent.until("the new package", || {
        (agent.figures(0)["package"] == "new.espalier (version 7)").then_some(())
    });
    assert!(agent.metric("frames_processed_total") > before, "it went on meanwhile");
    assert!(agent.stop().0.success());
}

#[test]
fn systemd_hears_how_it_is() {
    let folder = folder(&[jpeg(64, 64, RED)]);
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let config = pipeline("uri = \"a.mjpeg\", rate = 20, loop = true", MODEL);
    let mut agent = Agent::start_with(folder.path(), &config, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "300000")
            .env_remove("WATCHDOG_PID")
            .env("JOURNAL_STREAM", "1:2")
    });
    let hear = || {
        let mut bytes = [0; 256];
        let size = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    };
    assert_eq!(hear(), "READY=1");
    let begun = Instant::now();
    (0..10).for_each(|_| assert_eq!(hear(), "WATCHDOG=1"));
    assert!(begun.elapsed() < Duration::from_secs(2), "ten in {:?}, each is due in 0.3 s", begun.elapsed());
    agent.signal("-HUP");
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "READY=1") {
        heard.push(hear());
    }
    assert!(heard.iter().any(|state| state.starts_with("RELOADING=1\nMONOTONIC_USEC=")), "{heard:?}");
    assert!(agent.stop().0.success());
    assert!(std::iter::repeat_with(hear).take(100).any(|state| state == "STOPPING=1"));
    assert!(agent.said().iter().all(|line| line.starts_with('<')), "{:?}", agent.said());
}

/// Prometheus's own parser reads the metrics (its Python client's, which is strict).
#[test]
fn prometheus_reads_the_metrics() {
    let Some(python) = espalier_testing::python("prometheus_client") else { return };
    let folder = folder(&[jpeg(64, 64, RED)]);
    let agent = Agent::start(folder.path(), &pipeline("uri = \"a.mjpeg\", rate = 50, loop = true", MODEL));
    agent.until("frames", || (agent.metric("frames_processed_total") > 5.0).then_some(()));
    let script = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as read\n\
                  for family in read(sys.stdin.read()):\n    print(family.name, family.type, len(family.samples))";
    let mut reader = Command::new(python)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(agent.text("/metrics").as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    let families = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{families}");
    for line in
        ["espalier_frames_seen counter 1", "espalier_inference_ms summary 4", "espalier_cpu_share gauge 1"]
    {
        assert!(families.lines().any(|family| family == line), "{line}: {families}");
    }
}

/// Everybody who looks gets an answer, or is turned away; the agent goes on.
#[test]
fn many_who_look_do_no_harm() {
    let folder = folder(&[jpeg(160, 120, RED)]);
    let mut agent =
        Agent::start(folder.path(), &pipeline("uri = \"a.mjpeg\", rate = 50, loop = true", MODEL));
    let lookers: Vec<_> = (0..40).filter_map(|_| TcpStream::connect(agent.address()).ok()).collect();
    lookers.iter().for_each(|mut looker| {
        let _ = looker.write_all(b"GET /a/picture.mjpeg HTTP/1.1\r\nHost: localhost\r\n\r\n");
    });
    std::thread::sleep(Duration::from_secs(1));
    drop(lookers);
    agent.until("frames", || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent.metric("process_fps")))
            .ok()
            .filter(|fps| *fps > 40.0)
    });
    let (status, took) = agent.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
}
