//! Drift on real streams: pictures that a model never saw, drawn at random as a camera would show them, undisturbed and
//! disturbed. False alarms are counted over 100 streams of 10,000 frames, delays from the first disturbed frame on.

mod common;

use std::path::Path;

use common::{fresh, run};
use espalier_agent::Disturbance;
use espalier_agent::drift::{Drift, DriftConfig};
use espalier_graph::Package;
use espalier_graph::random::Random;
use espalier_tasks::{Answer, Content, Image, Limits, Model, Observation, Recorder, Reference, Truth};
use espalier_testing::{data, soak};
use espalier_train::best;
use espalier_train::data::{Examples, Split};
use espalier_wire::{Kind, State};

const DIGITS: &str = "builtin:mnist-5k";

/// Frames of an undisturbed stream.
const FRAMES: usize = 10_000;
/// Undisturbed streams.
const STREAMS: u64 = 100;
/// Undisturbed frames before a disturbance begins, and frames within which it has to be found.
const BEFORE: usize = 1000;
const FOUND_WITHIN: usize = 500;
/// Streams of each disturbance.
const DISTURBED: u64 = 20;
/// Accuracy that a disturbance costs, at least.
const COST: f64 = 0.10;

/// Pictures with their classes.
type Pictures = Vec<(Image, usize)>;

/// What a model makes of every picture of a camera in one state.
struct Scene {
    seen: Vec<Observation>,
    accuracy: f64,
}

fn pictures(data: &str, split: Split, model: &Model) -> Pictures {
    let examples = Examples::open(data, split, model.task()).unwrap();
    let load = |example: &espalier_train::data::Example| match example.load(&Limits::default()).unwrap() {
        (Content::Image(image), Truth::Class(class)) => (image, class),
        (_, other) => panic!("{other:?}"),
    };
    examples.list.iter().map(load).collect()
}

fn scene(model: &mut Model, pictures: &Pictures, disturbance: Disturbance) -> Scene {
    let (mut seen, mut right) = (Vec::new(), 0);
    for ((image, class), number) in pictures.iter().zip(0..) {
        let (answer, observation) = model.observe(&disturbance.apply(image, 1, number)).unwrap();
        right += usize::from(matches!(answer, Answer::Label(said) if said.index == *class));
        seen.push(observation);
    }
    Scene { seen, accuracy: right as f64 / pictures.len() as f64 }
}

/// What begins in a stream of frames that are drawn from scenes: the statistic and the number of the frame.
fn begun(
    drift: &mut Drift,
    seed: u64,
    frames: usize,
    scene: impl Fn(usize) -> usize,
    scenes: &[&Scene],
) -> Vec<(String, usize)> {
    let mut random = Random::new(seed, 99);
    let mut begun = Vec::new();
    for number in 0..frames {
        let seen = &scenes[scene(number)].seen;
        for kind in drift.frame(&seen[random.below(seen.len())]) {
            if let Kind::Drift { state: State::Begins, statistic, .. } = kind {
                begun.push((statistic, number));
            }
        }
    }
    begun
}

/// The mildest of ever stronger disturbances that costs so much accuracy; the strongest where none does.
fn mildest(
    model: &mut Model,
    pictures: &Pictures,
    clean: f64,
    levels: impl Iterator<Item = Disturbance>,
) -> (Disturbance, Scene) {
    let mut last = None;
    for disturbance in levels {
        let scene = scene(model, pictures, disturbance);
        let is_found = clean - scene.accuracy >= COST;
        last = Some((disturbance, scene));
        if is_found {
            break;
        }
    }
    last.expect("there are levels")
}

/// False alarms and delays of one model on its camera, as rows of a table; whether both keep what is promised.
fn check(name: &str, model: &mut Model, reference: &Reference, pictures: &Pictures) {
    let task = model.task().clone();
    let watch = || Drift::new(&DriftConfig::default(), Some(reference), &task).unwrap();
    let none = Disturbance::default();
    let clean = scene(model, pictures, none);
    let mut alarms = Vec::new();
    for seed in 0..STREAMS {
        alarms.extend(begun(&mut watch(), seed, FRAMES, |_| 0, &[&clean]).into_iter().map(|(what, _)| what));
    }
    println!(
        "| {name} | undisturbed | accuracy {:.3} | {} false alarms in {STREAMS} streams of {FRAMES} frames {alarms:?} |",
        clean.accuracy,
        alarms.len()
    );
    let steps = |most: f32, step: f32| (1..).map(move |i| i as f32 * step).take_while(move |v| *v <= most);
    let kinds: [(&str, bool, Box<dyn Iterator<Item = Disturbance>>); 4] = [
        ("darkness", true, Box::new(steps(0.98, 0.02).map(|darkness| Disturbance { darkness, ..none }))),
        ("blur", true, Box::new(steps(8.0, 0.1).map(|blur| Disturbance { blur, ..none }))),
        ("rotation", false, Box::new(steps(180.0, 3.0).map(|rotation| Disturbance { rotation, ..none }))),
        ("noise", false, Box::new(steps(1.0, 0.02).map(|noise| Disturbance { noise, ..none }))),
    ];
    let mut late = Vec::new();
    for (kind, is_promised, levels) in kinds {
        let (disturbance, disturbed) = mildest(model, pictures, clean.accuracy, levels);
        let scenes = [&clean, &disturbed];
        let mut delays: Vec<(usize, String)> = (0..DISTURBED)
            .map(|seed| {
                let stage = |number: usize| usize::from(number >= BEFORE);
                let found = begun(&mut watch(), 1000 + seed, BEFORE + 5000, stage, &scenes);
                let first = found.into_iter().find(|(_, number)| *number >= BEFORE);
                first.map_or((usize::MAX, "nothing".into()), |(what, number)| (number - BEFORE + 1, what))
            })
            .collect();
        delays.sort();
        let (middle, worst) = (&delays[delays.len() / 2], &delays[delays.len() - 1]);
        let Disturbance { blur, darkness, rotation, noise } = disturbance;
        let level = blur + darkness + rotation + noise;
        println!(
            "| {name} | {kind} {level:.2} | accuracy {:.3} | found after {} frames (median), {} (of {DISTURBED}, the last), by {} |",
            disturbed.accuracy, middle.0, worst.0, middle.1
        );
        if is_promised && clean.accuracy - disturbed.accuracy >= COST && worst.0 > FOUND_WITHIN {
            late.push(format!("{kind} {level}: {worst:?}"));
        }
    }
    assert!(alarms.len() <= 1, "{name}: false alarms: {alarms:?}");
    assert!(late.is_empty(), "{name}: found after more than {FOUND_WITHIN} frames: {late:?}");
}

/// The model of a package and the reference statistics in it.
fn opened(package: &Path) -> (Model, Reference) {
    let model = best::open(package, 1).unwrap();
    let stored = Package::read(package).unwrap().reference;
    let reference =
        Reference::read(&stored, model.task()).unwrap().expect("the package has reference statistics");
    (model, reference)
}

fn trained(name: &str, data: &str, flags: &str) -> (Model, Reference) {
    let out = fresh(name).join("run");
    let line = format!("train {data} --out {} --threads 2 {flags}", out.display());
    let said = run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(said.status, Some(0), "{}", said.err);
    opened(&out.join("best.espalier"))
}

/// The reference is of val, the camera shows the test split.
#[test]
fn digits() {
    let (mut model, reference) = trained("drift-digits", DIGITS, "--model plain6 --width 0.5 --epochs 5");
    let shown = pictures(DIGITS, Split::Test, &model);
    check("digits", &mut model, &reference, &shown);
    plays("builtin:mnist-5k?rate=1000&frames=300", 0.9, 1.0);
    plays("builtin:mnist-5k?rate=1000&frames=300&darkness=1", 0.0, 0.4);
}

/// The camera through `run --source`: the names of its frames say what is right.
fn plays(source: &str, least: f64, most: f64) {
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drift-digits/run/best.espalier");
    let said = run(&["run", package.to_str().unwrap(), "--source", source, "--policy", "every", "--json"]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let lines: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_right = |line: &&serde_json::Value| {
        let file = line["file"].as_str().unwrap().strip_prefix("builtin:mnist-5k/").unwrap();
        file.split('/').next() == line["label"].as_str()
    };
    let accuracy = lines.iter().filter(is_right).count() as f64 / lines.len() as f64;
    assert!(
        lines.len() == 300 && (least..=most).contains(&accuracy),
        "{source}: {accuracy} of {}",
        lines.len()
    );
}

/// What `compress` makes answers by other numbers, so it has statistics of its own.
#[test]
fn digits_in_int8() {
    let folder = fresh("drift-int8");
    let path = |name: &str| folder.join(name).display().to_string();
    let (run_folder, small) = (path("run"), path("small.espalier"));
    for line in [
        format!("train {DIGITS} --out {run_folder} --threads 2 --model plain6 --width 0.5 --epochs 4"),
        format!(
            "compress {run_folder}/best.espalier {DIGITS} --int8 --threads 1 --out {small} --report {}",
            path("report")
        ),
    ] {
        let said = run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(said.status, Some(0), "{line}: {}", said.err);
    }
    let float = opened(&folder.join("run/best.espalier")).1;
    let (mut model, reference) = opened(Path::new(&small));
    assert_ne!(float.columns["energy"], reference.columns["energy"]);
    assert_eq!(float.columns["brightness"], reference.columns["brightness"]);
    let shown = pictures(DIGITS, Split::Test, &model);
    check("digits in int8", &mut model, &reference, &shown);
}

/// There is no third split of the photographs: the camera shows val, whose statistics the package has; and, which is
/// harder, the half of val that the statistics are not of.
fn photographs(name: &str) {
    if !soak(&format!("drift on {name}")) {
        return;
    }
    let Some(folder) = data(name) else { return };
    let folder = folder.display().to_string();
    let (mut model, reference) = trained(name, &folder, "--model resnet18 --width 0.25 --max-time 90s");
    let all = pictures(&folder, Split::Val, &model);
    check(name, &mut model, &reference, &all);
    halves(name, &mut model, &all);
}

fn halves(name: &str, model: &mut Model, all: &Pictures) {
    let (mut shown, mut recorder) = (Vec::new(), Recorder::new(model.task()));
    for ((image, class), number) in all.iter().zip(0..) {
        match number % 2 {
            0 => recorder.add(model.observe(image).unwrap().1),
            _ => shown.push((image.clone(), *class)),
        }
    }
    check(&format!("{name}, halves"), model, &recorder.finish().unwrap(), &shown);
}

#[test]
fn dogs_cars_and_bicycles() {
    photographs("dogs-cars-bicycles");
}

#[test]
fn objects_of_the_street() {
    photographs("street-objects-6");
}
