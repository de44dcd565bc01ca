//! What tests of the agent share: small packages, streams of pictures, and the program itself.
#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use espalier_graph::{Format, Graph, Manifest, Package, Tensor, Weights};
use espalier_runtime::Isa;
use espalier_tasks::image::write_jpeg;
use espalier_tasks::{ClassifyImage, Image, Model, Task};

pub const RED: [u8; 3] = [230, 20, 20];
pub const GREEN: [u8; 3] = [20, 230, 20];

/// Pixels of one side of what [`package`] takes.
const SIDE: usize = 64;
/// Channels of the layers that only cost time.
const WIDE: usize = 32;

/// A classifier of colours, called red and green. `layers` convolutions before it cost time (a few milliseconds each) and
/// change nothing.
fn network(layers: usize) -> Graph {
    let mut text = format!("input x: f32[N,3,{SIDE},{SIDE}]\nweight head: f32[2,3,{SIDE},{SIDE}]\n");
    let (mut before, mut channels, mut ops, mut weights) = ("x".to_owned(), 3, String::new(), String::new());
    for layer in 0..layers {
        let _ = writeln!(weights, "weight w{layer}: f32[{WIDE},{channels},3,3]");
        let _ = writeln!(
            ops,
            "l{layer}: f32[N,{WIDE},{SIDE},{SIDE}] = Conv({before}, w{layer}) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1"
        );
        (before, channels) = (format!("l{layer}"), WIDE);
    }
    if layers > 0 {
        let _ = writeln!(weights, "weight tail: f32[3,{WIDE},1,1]");
        let _ = writeln!(
            ops,
            "tail_out: f32[N,3,{SIDE},{SIDE}] = Conv({before}, tail) window=[[1,1],[1,1],[0,0,0,0],[1,1]] groups=1"
        );
        before = "tail_out".into();
    }
    let _ = write!(
        ops,
        "c: f32[N,2,1,1] = Conv({before}, head) window=[[{SIDE},{SIDE}],[1,1],[0,0,0,0],[1,1]] groups=1\n\
         y: f32[N,2] = Reshape(c) shape=[N,2]\noutput y = y\n"
    );
    text += &(weights + &ops);
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Red is red less green; layers hand the first three channels on.
fn weights(layers: usize) -> Weights {
    let pixels = SIDE * SIDE;
    let plane = |value: f32| vec![value / pixels as f32; pixels];
    let head = [1.0, -1.0, 0.0, -1.0, 1.0, 0.0].map(plane).concat();
    let mut all = Weights::from([("head".to_owned(), Tensor::f32(&[2, 3, SIDE, SIDE], head))]);
    let mut channels = 3;
    for layer in 0..layers {
        let mut data = vec![0.0; WIDE * channels * 9];
        (0..3).for_each(|c| data[(c * channels + c) * 9 + 4] = 1.0);
        all.insert(format!("w{layer}"), Tensor::f32(&[WIDE, channels, 3, 3], data));
        channels = WIDE;
    }
    if layers > 0 {
        let mut data = vec![0.0; 3 * WIDE];
        (0..3).for_each(|c| data[c * WIDE + c] = 1.0);
        all.insert("tail".into(), Tensor::f32(&[3, WIDE, 1, 1], data));
    }
    all
}

/// A package that tells red from green; with layers that cost time, and a version.
pub fn package(layers: usize, version: u64) -> Package {
    labelled(layers, version, ["red", "green"])
}

pub fn labelled(layers: usize, version: u64, labels: [&str; 2]) -> Package {
    let (graph, weights) = (network(layers), weights(layers));
    let labels = labels.map(String::from).to_vec();
    let task = Task::ClassifyImage(ClassifyImage::new([SIDE; 2], vec![0.5; 3], vec![0.25; 3], labels));
    let mut model = Model::new(graph.clone(), weights.clone(), task.clone(), Isa::best(), 1).unwrap();
    let golden = [RED, GREEN].map(|colour| model.golden(&picture(80, 70, colour)).unwrap()).to_vec();
    let task = serde_json::to_value(&task).ok();
    let manifest =
        Manifest { format: Format::of(&graph), name: "colours".into(), task, version, ..Manifest::default() };
    Package { manifest, graph, weights, golden, reference: Weights::new() }
}

/// The same, but with golden samples that no machine answers.
pub fn lying(version: u64) -> Package {
    let mut package = package(0, version);
    for output in &mut package.golden[1].outputs {
        *output = Tensor::f32(&[2], vec![0.5, 0.25]);
    }
    package
}

pub fn picture(width: usize, height: usize, colour: [u8; 3]) -> Image {
    Image::new(width, height, 3, colour.repeat(width * height)).unwrap()
}

pub fn jpeg(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_jpeg(&picture(width, height, colour), 90, &mut bytes).unwrap();
    bytes
}

/// A JPEG that ends in the middle.
pub fn cut() -> Vec<u8> {
    let whole = jpeg(160, 120, RED);
    whole[..whole.len() - 20].to_vec()
}

/// The program with a configuration, and what it says.
pub struct Agent {
    pub child: Child,
    pub config: PathBuf,
    port: u16,
    said: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    /// Starts it in `folder` and waits for its status page. `config` is put behind `[status]`, which listens at any port.
    pub fn start(folder: &Path, config: &str) -> Agent {
        Agent::start_with(folder, config, |command| command)
    }

    pub fn start_with(folder: &Path, config: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> Agent {
        let path = folder.join("agent.toml");
        std::fs::write(&path, whole(config)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-agent"));
        command.arg("--config").arg(&path).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = with(&mut command).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, collected) = (BufReader::new(child.stderr.take().unwrap()).lines(), said.clone());
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| collected.lock().unwrap().push(line));
        });
        let mut agent = Agent { child, config: path, port: 0, said };
        let line = agent.wait_for("status page and metrics: ");
        agent.port = line.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap();
        agent
    }

    /// Where its status page is.
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// Everything that it said.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// The first line with these words; waits for it.
    pub fn wait_for(&self, words: &str) -> String {
        self.until(words, || self.said().into_iter().find(|line| line.contains(words)))
    }

    /// Waits until `found` finds something, up to 20 seconds.
    pub fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(found) = found() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(40));
        }
        panic!("{what}: not within 20 s; it said {:#?}", self.said());
    }

    /// Another configuration, read by SIGHUP.
    pub fn reload(&self, config: &str) {
        std::fs::write(&self.config, whole(config)).unwrap();
        self.signal("-HUP");
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// What is at `path`: head and body. Where too many look already, because those before have not been missed yet, it is
    /// asked again.
    pub fn get(&self, path: &str) -> (String, Vec<u8>) {
        let bytes = self.until(path, || {
            let mut connection = TcpStream::connect(self.address()).ok()?;
            connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            connection
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                .ok()?;
            let mut bytes = Vec::new();
            connection.read_to_end(&mut bytes).ok().filter(|length| *length > 0)?;
            Some(bytes)
        });
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end..].to_vec())
    }

    pub fn text(&self, path: &str) -> String {
        String::from_utf8(self.get(path).1).unwrap()
    }

    /// The metrics by name and labels, without the prefix; frames always add up.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.text("/metrics");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let metrics: BTreeMap<String, f64> = lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.trim_start_matches("espalier_").to_owned(), value.parse().unwrap()))
            .collect();
        for (name, seen) in metrics.iter().filter(|(name, _)| name.starts_with("frames_seen_total")) {
            let of = |word: &str| metrics[&name.replace("seen", word)];
            assert_eq!(*seen, of("processed") + of("skipped") + of("broken"), "{text}");
        }
        metrics
    }

    /// The newest figures of a pipeline.
    pub fn figures(&self, pipeline: usize) -> serde_json::Value {
        let text = self.text("/figures.json");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pipelines"][pipeline].take()
    }

    /// One figure of the pipeline `a`.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics()[&format!("{name}{{pipeline=\"a\"}}")]
    }

    /// Asks for the end, and how long that took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.signal("-TERM");
        let status = self.child.wait().unwrap();
        (status, begun.elapsed())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whole(config: &str) -> String {
    format!("[device]\nname = \"device\"\n[status]\nlisten = \"127.0.0.1:0\"\n{config}")
}

/// A pipeline called `a`, whose source and model have these keys.
pub fn pipeline(source: &str, model: &str) -> String {
    format!("[[pipeline]]\nname = \"a\"\nsource = {{ {source} }}\nmodel = {{ {model} }}\n")
}
