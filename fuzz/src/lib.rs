//! What every target checks, given any bytes. `fuzz_targets/` feeds them from libFuzzer; the test `fuzz_seeds` of the
//! command's crate replays the seeds, so that the targets hold without a nightly compiler too.

use std::io::Read;
use std::time::Duration;

use espalier_agent::config::Config;
use espalier_agent::{Fault, Multipart, Rows, Splitter};
use espalier_graph::package::floats;
use espalier_graph::{Format, Graph, Manifest, Package, PackageError, Stage, Tensor, Weights, verify};
use espalier_onnx::{Options, from_bytes};
use espalier_tasks::image::{Limits, decode};
use espalier_tasks::series::{Columns, ROW_BYTES};
use espalier_tasks::{ClassifyImage, Reference, Task, TrueBox};
use espalier_train::data::{read_coco, read_idx, read_yolo};
use espalier_wire::mqtt::{Event, MqttError, Options as MqttOptions, Session};
use espalier_wire::{Ack, Batch, Message};
use flate2::read::MultiGzDecoder;
use safetensors::SafeTensors;

/// A target: panics where what it checks does not hold.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("agent_config", agent_config),
    ("boxes", boxes),
    ("graph_text", graph_text),
    ("idx", idx),
    ("image", image),
    ("mjpeg", mjpeg),
    ("mqtt", mqtt),
    ("multipart", multipart),
    ("onnx", onnx),
    ("package", package),
    ("rows", rows),
    ("wire", wire),
];

/// Any text as an agent's configuration. What is accepted keeps the limits that it names; what is not is one sentence.
pub fn agent_config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            assert!((1..=64).contains(&config.pipelines.len()));
            assert!(config.power.cpu.is_none_or(|cpu| cpu > 0.0 && cpu <= 1.0));
            for pipeline in &config.pipelines {
                assert!(pipeline.source.rate.is_none_or(|rate| (0.001..=1000.0).contains(&rate)));
                assert!((1..=64).contains(&pipeline.name.len()) && !pipeline.source.retry.0.is_zero());
            }
        }
        Err(fault) => assert!(!fault.to_string().contains('\n'), "{fault}"),
    }
}

/// Any bytes as labels with boxes, in YOLO's form and in COCO's. What is accepted has known classes, boxes of numbers that
/// are not turned over, and paths that lead nowhere else.
pub fn boxes(bytes: &[u8]) {
    const CLASSES: usize = 80;
    let fine = |b: &TrueBox, classes: usize| {
        b.class < classes
            && b.bounds.iter().all(|v| v.is_finite())
            && b.bounds[0] <= b.bounds[2]
            && b.bounds[1] <= b.bounds[3]
    };
    if let Ok(label) = read_yolo("fuzz", bytes, CLASSES) {
        assert!(label.size.is_none() && label.boxes.iter().all(|b| fine(b, CLASSES)));
        assert!(label.boxes.len() <= bytes.len() / 9, "a line has nine bytes at least");
    }
    if let Ok(read) = read_coco("fuzz", bytes) {
        for (path, label) in &read.pictures {
            assert!(path.is_relative() && !path.components().any(|part| part.as_os_str() == ".."));
            assert!(label.size.is_some() && label.boxes.iter().all(|b| fine(b, read.classes.len())));
        }
    }
}

/// Any text as a graph. What parses writes itself and parses back to an equal graph; no stage's check panics.
pub fn graph_text(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(graph) = text.parse::<Graph>() else { return };
    let written = graph.to_string();
    assert_eq!(written.parse::<Graph>().as_ref(), Ok(&graph), "{written}");
    for stage in [Stage::Trainable, Stage::Step, Stage::Portable] {
        let _ = verify(&graph, stage);
    }
}

/// A pair of IDX files: the first two bytes say where the labels begin, the third whether both are packed. What is
/// accepted has an image of the header's size for each label.
pub fn idx(bytes: &[u8]) {
    let Some((&[low, high, packed], rest)) = bytes.split_first_chunk() else { return };
    let at = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (images, labels) = rest.split_at(at);
    let reader = |bytes| -> Box<dyn Read> {
        if packed & 1 == 1 { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) }
    };
    let Ok(samples) = read_idx("fuzz", reader(images), reader(labels)) else { return };
    let size = samples[0].image(&LIMITS).map(|image| image.pixels.len());
    for sample in &samples {
        assert_eq!(sample.image(&LIMITS).map(|image| image.pixels.len()), size);
        assert!(sample.label < 256 && size != Ok(0));
    }
}

const LIMITS: Limits = Limits { pixels: 1 << 20, bytes: 16 << 20 };

/// Any bytes as a picture, within limits that a fuzzer's memory bears. What decodes keeps them, and has as many bytes as
/// its shape says.
pub fn image(bytes: &[u8]) {
    let Ok(image) = decode(bytes, &LIMITS) else { return };
    assert!((image.width * image.height) as u64 <= LIMITS.pixels);
    assert!(image.channels == 1 || image.channels == 3);
    assert_eq!(image.pixels.len(), image.width * image.height * image.channels);
    assert!(!image.pixels.is_empty());
}

/// What comes out of a splitter.
type Split = Vec<Result<Vec<u8>, Fault>>;

/// Any bytes as pictures one after another. The same comes out however the bytes come in; no byte comes out twice.
pub fn mjpeg(bytes: &[u8]) {
    let split = |piece: usize| {
        let (mut splitter, mut found) = (Splitter::new(), Split::new());
        for piece in bytes.chunks(piece) {
            splitter.push(piece);
            found.extend(std::iter::from_fn(|| splitter.picture()));
        }
        found.extend(splitter.end().map(Err));
        found
    };
    check_parts(bytes, &split(bytes.len().max(1)));
    assert_eq!(split(7), split(bytes.len().max(1)), "pieces matter");
}

/// Any bytes as the body of a multipart answer, in one piece and in small ones; no byte comes out twice.
pub fn multipart(bytes: &[u8]) {
    for piece in [7, bytes.len().max(1)] {
        let mut parts = Multipart::new("multipart/x-mixed-replace; boundary=cut").expect("a boundary");
        let mut found = Split::new();
        for piece in bytes.chunks(piece) {
            parts.push(piece);
            found.extend(std::iter::from_fn(|| parts.part()));
        }
        found.extend(parts.end());
        check_parts(bytes, &found);
    }
}

/// What was found stands in `bytes`, one behind the other; each fault took a byte at least.
fn check_parts(bytes: &[u8], found: &Split) {
    let mut rest = bytes;
    for part in found.iter().flatten().filter(|part| !part.is_empty()) {
        let at = rest.windows(part.len()).position(|window| window == part).expect("it stands there");
        rest = &rest[at + part.len()..];
    }
    assert!(found.iter().filter(|part| part.is_err()).count() <= bytes.len());
}

/// Any bytes as an ONNX model. What is accepted is a portable graph with weights that fit it: where these are finite, a
/// package of it can be written and reads back.
pub fn onnx(bytes: &[u8]) {
    let Ok(imported) = from_bytes(bytes.to_vec(), Options::default()) else { return };
    verify(&imported.graph, Stage::Portable).expect("an imported graph is portable");
    let finite = |t: &Tensor| t.as_f32().is_none_or(|v| v.iter().all(|v| v.is_finite()));
    if imported.weights.values().all(finite) {
        let manifest = Manifest { format: Format::of(&imported.graph), ..Manifest::default() };
        let golden = Vec::new();
        let package = Package {
            manifest,
            graph: imported.graph,
            weights: imported.weights,
            golden,
            reference: Weights::new(),
        };
        match package.to_bytes() {
            Ok(bytes) => {
                assert_eq!(Package::from_bytes(&bytes).expect("what was written can be read"), package)
            }
            Err(error) => assert!(matches!(error, PackageError::TooLarge { .. }), "{error}"),
        }
    }
}

/// Any bytes as the rows of a series, CSV or JSON, in one piece and in small ones. What is a row has the numbers that were
/// asked for, all of them finite; a row is not much longer than its line can be.
pub fn rows(bytes: &[u8]) {
    let columns = Columns { values: vec!["value".into()], time: Some("timestamp".into()) };
    let split = |piece: usize| {
        let (mut rows, mut found) = (Rows::new(), Split::new());
        for piece in bytes.chunks(piece) {
            rows.push(piece);
            found.extend(std::iter::from_fn(|| rows.row()));
        }
        found.extend(rows.end());
        found
    };
    let found = split(bytes.len().max(1));
    assert!(bytes.len() > ROW_BYTES || found == split(7), "pieces matter");
    assert!(found.len() <= bytes.len() / 2 + 1, "a row takes a byte and an end");
    for row in found.iter().flatten() {
        if let Ok(row) = columns.of_json(row) {
            assert!(row.values.len() == 1 && row.values[0].is_finite());
            assert!(row.time.is_some_and(f64::is_finite));
        }
    }
}

/// Any bytes as a package, and as foreign weights. A package that is accepted is written again, and both we and the
/// safetensors crate read that; weights are finite and not more than the bytes can hold.
/// A header is rarely hit by chance, so the bytes are also tried as header and data behind a length that is right.
pub fn package(bytes: &[u8]) {
    check_package(bytes);
    if let Some(bytes) = with_right_length(bytes) {
        check_package(&bytes);
    }
}

fn check_weights(bytes: &[u8]) {
    let Ok(weights) = floats(bytes) else { return };
    let values: Vec<&[f32]> = weights.values().filter_map(|tensor| tensor.as_f32()).collect();
    assert_eq!(values.len(), weights.len(), "all are floats");
    assert!(values.concat().iter().all(|v| v.is_finite()), "finite");
    assert!(values.iter().map(|v| v.len()).sum::<usize>() <= bytes.len() / 2, "two bytes at least for each");
}

fn check_package(bytes: &[u8]) {
    check_weights(bytes);
    let Ok(package) = Package::from_bytes(bytes) else { return };
    let again = package.to_bytes().expect("what was read can be written");
    SafeTensors::deserialize(&again).expect("any safetensors reader takes it");
    let second = Package::from_bytes(&again).expect("what was written can be read");
    assert_eq!(second.to_bytes().expect("twice"), again, "the bytes are canonical");
    let labels = ["a", "b"].map(String::from).to_vec();
    let task = Task::ClassifyImage(ClassifyImage::new([4, 4], vec![0.5], vec![0.5], labels));
    if let Ok(Some(reference)) = Reference::read(&package.reference, &task) {
        assert!(
            reference.columns.values().all(|column| column.is_sorted() && column.len() <= reference.images)
        );
        assert!(reference.classes.len() == 2 && reference.classes.iter().all(|&n| n <= reference.images));
    }
}

/// The bytes up to the first NUL, after the old length, as a header of the right length.
fn with_right_length(bytes: &[u8]) -> Option<Vec<u8>> {
    let rest = bytes.get(8..)?;
    let header = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    Some([&(header as u64).to_le_bytes(), rest].concat())
}

/// Any bytes as what a broker sends, from its first one on, in one piece and in small ones: no more comes out than went in,
/// nothing larger than was said, and pieces do not matter.
pub fn mqtt(bytes: &[u8]) {
    const MAX_PACKET: u32 = 4096;
    let options = MqttOptions {
        host: "localhost".into(),
        port: 1883,
        tls: None,
        client_id: "fuzz".into(),
        login: None,
        will: None,
        keep_alive: Duration::from_secs(30),
        max_packet_bytes: MAX_PACKET,
        patience: Duration::from_secs(5),
    };
    let hear = |piece: usize| -> (Vec<Event>, Option<MqttError>) {
        let mut session = Session::new(&options, Duration::ZERO).expect("the options are fine");
        let mut events = Vec::new();
        for piece in bytes.chunks(piece) {
            session.receive(piece, Duration::ZERO);
            events.extend(std::iter::from_fn(|| session.event()));
        }
        session.tick(Duration::from_secs(3600));
        (events, session.fault().cloned())
    };
    let whole = hear(bytes.len().max(1));
    let sizes = whole.0.iter().map(|event| match event {
        Event::Message { payload, .. } => payload.len(),
        _ => 0,
    });
    assert!(sizes.clone().all(|size| size < MAX_PACKET as usize) && sizes.sum::<usize>() <= bytes.len());
    assert_eq!(hear(3), whole, "pieces matter");
}

/// Any bytes as a batch, an acknowledgement and a message. What is accepted says so of itself again, and accounts for every
/// number.
pub fn wire(bytes: &[u8]) {
    if let Ok(batch) = Batch::from_json(bytes) {
        let numbers = batch.entries.len() as u64 + batch.dropped_counts().total();
        assert_eq!(numbers, batch.last - batch.first + 1);
        assert_eq!(Batch::from_json(batch.to_json().as_bytes()).as_ref(), Ok(&batch));
        for message in Message::of(&batch) {
            // A single message is held to a limit that a batch is not.
            match Message::from_json(message.to_json().as_bytes()) {
                Ok(again) => assert_eq!(again, message),
                Err(error) => assert!(message.to_json().len() > espalier_wire::MAX_INSIGHT_BYTES, "{error}"),
            }
        }
    }
    if let Ok(ack) = Ack::from_json(bytes) {
        assert_eq!(Ack::from_json(ack.to_json().as_bytes()), Ok(ack));
    }
    if let Ok(message) = Message::from_json(bytes) {
        let _ = message.entry.parsed();
        assert_eq!(Message::from_json(message.to_json().as_bytes()), Ok(message));
    }
}
