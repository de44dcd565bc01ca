//! `train --init` and `--freeze` through the real binary: from package to package, after a crash, and whether it helps.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Said, fresh, pictures, run};
use espalier_graph::{Graph, Op, Package};
use espalier_testing::{data, heavy};
use espalier_train::init::Init;
use serde_json::Value;

/// Runs `line`, in which {} is `folder`.
fn at(folder: &Path, line: &str) -> Said {
    let words: Vec<String> =
        line.split_whitespace().map(|word| word.replace("{}", folder.to_str().unwrap())).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn good(folder: &Path, line: &str) -> Said {
    let said = at(folder, line);
    assert_eq!(said.status, Some(0), "{line}: {}", said.err);
    said
}

fn answer(said: &Said) -> Value {
    serde_json::from_str(said.out.lines().last().expect("an answer")).expect("JSON on the last line")
}

/// Data of two classes in `two`, of three in `three`, and a package that was trained on the two.
fn fixture(name: &str) -> PathBuf {
    let folder = fresh(name);
    for (data, classes) in [("two", &["left", "right"][..]), ("three", &["left", "low", "right"])] {
        for class in classes {
            pictures(&folder.join(data).join("train"), class, 24);
            pictures(&folder.join(data).join("val"), class, 4);
        }
    }
    good(
        &folder,
        "train {}/two --out {}/parent --model plain6 --width 0.25 --epochs 1 --batch 16 --threads 2",
    );
    folder
}

const CHILD: &str = "train {}/three --epochs 2 --batch 16 --threads 2 --json --init {}/parent/best.espalier";

fn best(folder: &Path, name: &str) -> Package {
    Package::read(folder.join(name).join("best.espalier")).unwrap()
}

fn says(said: &Said, lines: &[&str]) {
    lines.iter().for_each(|line| assert!(said.err.contains(line), "{:?} should say {line:?}", said.err));
}

#[test]
fn packages_begin_from_packages() {
    let folder = fixture("transfer-chain");
    let said = good(&folder, &format!("{CHILD} --out {{}}/child --freeze 0,1,3,4"));
    says(
        &said,
        &[
            "30 tensors from ",
            "head 20: 2 classes in ",
            "best.espalier, 3 here: begins anew",
            "0, 1, 3, 4 stay as they are: 1416 of ",
            "plain6 x0.25 at 16x16",
        ],
    );
    let (parent, child) = (best(&folder, "parent"), best(&folder, "child"));
    let digest = Init::read(&folder.join("parent/best.espalier")).unwrap().digest().to_string();
    assert_eq!(child.manifest.lineage.parent, Some(digest.clone()));
    assert_eq!(answer(&said)["init"], digest);
    assert_eq!(child.manifest.network.as_ref().unwrap()["width"], 0.25);
    assert_eq!(child.manifest.task.as_ref().unwrap()["mean"], parent.manifest.task.as_ref().unwrap()["mean"]);
    for (name, tensor) in &child.weights {
        let frozen = ["0.", "1.", "3.", "4."].iter().any(|layer| name.starts_with(layer));
        assert_eq!(parent.weights[name] == *tensor, frozen, "{name}");
    }

    let said = good(
        &folder,
        "train {}/three --epochs 1 --batch 16 --threads 2 --init {}/child/best.espalier --out {}/grand",
    );
    says(&said, &["32 tensors from ", "head 20 goes on from there"]);
    // The same number of classes with other names.
    fs::rename(folder.join("two/train/left"), folder.join("two/train/above")).unwrap();
    fs::rename(folder.join("two/val/left"), folder.join("two/val/above")).unwrap();
    let said = good(
        &folder,
        "train {}/two --epochs 1 --batch 16 --threads 2 --init {}/parent/best.espalier --out {}/named",
    );
    says(&said, &["head 20: left, right in ", "best.espalier, above, right here: begins anew"]);
}

#[test]
fn a_run_that_has_begun_needs_the_file_no_more() {
    let folder = fixture("transfer-resume");
    let child = format!("{CHILD} --freeze 0,1 --resume --out {{}}/child");
    good(&folder, &child);
    let bits = || fs::read(folder.join("child/best.espalier")).unwrap();
    let whole = bits();
    let (parent, away) = (folder.join("parent/best.espalier"), folder.join("away"));
    let forget =
        |names: &[&str]| names.iter().for_each(|name| drop(fs::remove_file(folder.join("child").join(name))));

    // Its last epoch again, from the checkpoint before.
    forget(&["result.json", "last.ckpt", "best.espalier"]);
    fs::rename(&parent, &away).unwrap();
    says(&good(&folder, &child), &["going on after epoch 1"]);
    assert!(bits() == whole, "the file was away");

    // All of it again: that needs the file.
    forget(&["result.json", "last.ckpt", "previous.ckpt", "best.espalier"]);
    for line in [&child, &child.replace("--init {}/parent/best.espalier", "")] {
        let said = at(&folder, line);
        assert_eq!(said.status, Some(2), "{}", said.err);
        says(&said, &["has no checkpoint yet, so the weights that it begins with are needed"]);
    }
    fs::rename(&away, &parent).unwrap();
    good(&folder, &child);
    assert!(bits() == whole, "from the file again");

    let said = at(&folder, &child.replace("parent/best", "child/best"));
    assert_eq!(said.status, Some(2), "{}", said.err);
    says(&said, &["--resume: init differs from "]);
    let said = at(&folder, &child.replace("--freeze 0,1", "--freeze 0"));
    says(&said, &["--resume: freeze differs from "]);
}

#[test]
fn wrong_beginnings_are_refused() {
    let folder = fixture("transfer-wrong");
    fs::write(folder.join("torch.pth"), b"PK\x03\x04").unwrap();
    let bytes = fs::read(folder.join("parent/best.espalier")).unwrap();
    fs::write(folder.join("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    const PACKAGE: &str = "--init {}/parent/best.espalier";
    let table = [
        ("--init {}/none", 2, "there is no such file"),
        ("--init {}/torch.pth", 2, "save_file(model.state_dict()"),
        ("--init {}/cut.safetensors", 1, "not a valid safetensors file"),
        ("--init {}/two", 1, "not a regular file"),
        ("PACKAGE --model resnet18", 2, "--model resnet18: the weights in "),
        ("PACKAGE --width 0.5", 2, "are for 0.25"),
        (
            "PACKAGE --freeze layer1",
            2,
            "--freeze: there is no layer `layer1`; there are backbone, 0, 1, 3, 4, 6",
        ),
        ("PACKAGE --freeze backbone,20", 2, "--freeze: it holds every layer"),
        ("PACKAGE --freeze 0,,1", 2, "--freeze 0,,1: it should be names between commas"),
        ("--mean 0.5", 2, "--mean and --std belong together"),
        ("--mean 0.5,0.5 --std 0.5", 2, "2 values for 3 channels"),
        ("--mean 0.5 --std 0", 2, "above 0"),
        ("--mean half --std 0.5", 2, "--mean half: it should be like"),
    ];
    for (flags, status, words) in table {
        let said =
            at(&folder, &format!("train {{}}/three --out {{}}/new {}", flags.replace("PACKAGE", PACKAGE)));
        assert_eq!(said.status, Some(status), "{flags}: {}", said.err);
        says(&said, &[words]);
        assert_eq!(said.err.lines().count(), 1, "{flags}: {}", said.err);
        assert!(!folder.join("new").exists(), "{flags} left a folder");
    }
    let said = good(
        &folder,
        "train {}/two --model plain6 --width 0.25 --freeze 0 --epochs 1 --batch 16 --out {}/random",
    );
    says(&said, &["0 stay as they are: 216 of ", "at random values: there is no --init"]);
}

/// plain6 at half its width, trained by PyTorch on bicycle, bus and car (bench/golden/street_plain6.py).
const STREET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/street-plain6.onnx");

#[test]
fn onnx_files_bring_their_network_along() {
    let folder = fixture("transfer-onnx");
    fs::copy(STREET, folder.join("street.onnx")).unwrap();
    let line = "train {}/three --epochs 2 --batch 16 --threads 2 --json --init {}/street.onnx --out {}/child \
                --freeze backbone --resume";
    let said = good(&folder, line);
    says(
        &said,
        &[
            "imported x1 at 32x32",
            "30 tensors from ",
            "head 20: bicycle, bus, car in ",
            "left, low, right here: begins anew",
            "backbone stay as they are: 143952 of 144339 parameters",
        ],
    );
    let (parent, child) =
        (espalier_onnx::from_file(Path::new(STREET), Default::default()).unwrap(), best(&folder, "child"));
    assert_eq!(answer(&said)["model"], "imported");
    assert_eq!(child.manifest.lineage.parent, Some(parent.digest));
    assert_eq!(child.manifest.task.as_ref().unwrap()["std"][0], 0.25);
    let norms = |graph: &Graph| graph.nodes().iter().filter(|n| matches!(n.op, Op::BatchNorm { .. })).count();
    assert_eq!((norms(&parent.graph), norms(&child.graph)), (6, 6), "what comes in unfolded stays so");
    for (name, tensor) in &child.weights {
        assert_eq!(parent.weights[name] == *tensor, !name.starts_with("20."), "{name}");
    }

    // Its last epoch again: the network is the file's, which is needed for that.
    let whole = fs::read(folder.join("child/best.espalier")).unwrap();
    ["result.json", "last.ckpt", "best.espalier"]
        .iter()
        .for_each(|name| fs::remove_file(folder.join("child").join(name)).unwrap());
    let said = at(&folder, &line.replace("--init {}/street.onnx", ""));
    assert_eq!(said.status, Some(2), "{}", said.err);
    says(&said, &["is that of the file which it began with; give that by --init FILE"]);
    says(&good(&folder, line), &["going on after epoch 1"]);
    assert!(fs::read(folder.join("child/best.espalier")).unwrap() == whole);

    // From that package, which is of no network of ours, and from one of `import`, whose BatchNorm is folded.
    let said =
        good(&folder, "train {}/three --epochs 1 --threads 2 --init {}/child/best.espalier --out {}/grand");
    says(&said, &["32 tensors from ", "head 20 goes on from there"]);
    good(&folder, "import {}/street.onnx --out {}/street.espalier --task classify-image");
    let said =
        good(&folder, "train {}/three --epochs 1 --threads 2 --init {}/street.espalier --out {}/folded");
    says(&said, &["12 tensors from ", "head 20: bicycle, bus, car in "]);
    assert_eq!(norms(&best(&folder, "folded").graph), 0);
}

#[test]
fn onnx_files_that_cannot_be_trained_are_refused() {
    let folder = fixture("transfer-onnx-wrong");
    let bytes = fs::read(STREET).unwrap();
    fs::write(folder.join("street.onnx"), &bytes).unwrap();
    fs::write(folder.join("cut.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    let networks = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/integer-networks.safetensors");
    let networks = fs::read(networks).unwrap();
    let networks = safetensors::SafeTensors::deserialize(&networks).unwrap();
    fs::write(folder.join("int8.onnx"), networks.tensor("plain6/model").unwrap().data()).unwrap();
    let table = [
        ("none.onnx", 2, "there is no such file"),
        ("cut.onnx", 1, "not a valid ONNX model"),
        ("int8.onnx", 1, "computes with integers of 8 bits; training begins from the float network"),
        ("street.onnx --model resnet18", 2, "--model resnet18: the weights in "),
        ("street.onnx --width 0.5", 2, "are for 1"),
        ("street.onnx --imgsz 64", 2, "the input `image` is 32x32, --imgsz says 64x64"),
        ("street.onnx --mean 0.5", 2, "--mean and --std belong together"),
    ];
    for (flags, status, words) in table {
        let said = at(&folder, &format!("train {{}}/three --out {{}}/new --init {{}}/{flags}"));
        assert_eq!(said.status, Some(status), "{flags}: {}", said.err);
        says(&said, &[words]);
        assert_eq!(said.err.lines().count(), 1, "{flags}: {}", said.err);
        assert_eq!(said.err.matches("street.onnx").count().max(1), 1, "told twice: {}", said.err);
        assert!(!folder.join("new").exists(), "{flags} left a folder");
    }
}

/// Half of the classes of street-objects-6 from the other half: 40 pictures a class, in as many epochs, which take the same time, or
/// less with the network of the ONNX file, half as wide as the others. The other half was learned by Espalier, and by PyTorch.
#[test]
fn transfer_beats_scratch() {
    if !heavy("transfer on street-objects-6") {
        return;
    }
    let Some(all) = data("street-objects-6") else { return };
    let folder = fresh("transfer-gain");
    copy(&all, &folder.join("known"), &["bicycle", "bus", "car"], usize::MAX);
    copy(&all, &folder.join("new"), &["dog", "motorcycle", "person"], 40);
    good(&folder, "train {}/known --out {}/known-run --epochs 40 --threads 2");
    fs::copy(STREET, folder.join("street.onnx")).unwrap();
    let accuracy = |name: &str, flags: &str| {
        let once = |seed: usize| {
            let line = format!(
                "train {{}}/new --out {{}}/{name}-{seed} --seed {seed} --epochs 30 --threads 2 --json {flags}"
            );
            answer(&good(&folder, &line))["metrics"]["accuracy"].as_f64().unwrap()
        };
        let all: Vec<f64> = (0..3).map(once).collect();
        println!("{name}: {all:.3?}");
        all.iter().sum::<f64>() / all.len() as f64
    };
    let scratch = accuracy("scratch", "");
    for (name, file, least) in [("package", "known-run/best.espalier", 0.05), ("onnx", "street.onnx", 0.01)] {
        let gain = accuracy(name, &format!("--init {{}}/{file}")) - scratch;
        assert!(gain >= least, "{name}: beginning from {file} gains {gain:.3} on average");
    }
}

/// The first `most` training pictures of each class by name, and all for validation.
fn copy(from: &Path, to: &Path, classes: &[&str], most: usize) {
    for (split, most) in [("train", most), ("val", usize::MAX)] {
        for class in classes {
            let (from, to) = (from.join(split).join(class), to.join(split).join(class));
            fs::create_dir_all(&to).unwrap();
            let mut names: Vec<_> = fs::read_dir(&from).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            for name in names.iter().take(most) {
                fs::copy(from.join(name), to.join(name)).unwrap();
            }
        }
    }
}
