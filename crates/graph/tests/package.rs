//! The package file: round trips, the bytes pinned by a stored file, and hostile files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use espalier_graph::package::{
    Format, MAX_GOLDEN, MAX_HEADER, MAX_REFERENCE, MAX_REFERENCE_ELEMENTS, floats,
};
use espalier_graph::{Data, Golden, Lineage, Manifest, Package, PackageError, Tensor, Weights};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const GRAPH: &str = "\
input x: f32[N,3]
weight fc.weight: f32[2,3]
weight fc.bias: f32[2]
product: f32[N,2] = MatMul(x, fc.weight) trans_a=false trans_b=true
fc: f32[N,2] = Binary(product, fc.bias) f=Add
output y = fc
";

fn package() -> Package {
    let weights = [
        ("fc.weight", Tensor::f32(&[2, 3], vec![0.5, -1.0, 1e-7, 3.25, 0.0, -0.0])),
        ("fc.bias", Tensor::f32(&[2], vec![0.1, f32::MAX])),
    ];
    Package {
        manifest: Manifest {
            name: "tiny".into(),
            network: Some(json!({"width": 1.0, "name": "lenet", "classes": ["ä", "\"b\"\n"]})),
            metric: Some("accuracy".into()),
            metrics: [("loss".into(), 0.1 + 0.2), ("accuracy".into(), 1.0)].into(),
            lineage: Lineage { dataset: Some("sha256:00".into()), ..Lineage::default() },
            version: u64::MAX,
            ..Manifest::default()
        },
        graph: GRAPH.parse().unwrap(),
        weights: weights.map(|(name, tensor)| (name.to_string(), tensor)).into(),
        golden: vec![Golden {
            inputs: vec![Tensor::f32(&[1, 3], vec![1.0, 2.0, 3.0])],
            outputs: vec![Tensor::f32(&[1, 2], vec![-1.4, 3.25])],
        }],
        reference: Weights::new(),
    }
}

/// A file of any header text and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Header and data of a file.
fn split(bytes: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), &bytes[8 + length..])
}

/// The valid file, its header changed.
fn with_header(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let bytes = package().to_bytes().unwrap();
    let (mut header, data) = split(&bytes);
    change(&mut header);
    file(&header.to_string(), data)
}

/// The valid file, its manifest changed.
fn with_manifest(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    with_header(|header| {
        let text = &mut header["__metadata__"]["espalier"];
        let mut manifest: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut manifest);
        *text = manifest.to_string().into();
    })
}

fn check_error(bytes: &[u8], want: &str) {
    let error = Package::from_bytes(bytes).expect_err(want).to_string();
    assert!(error.contains(want), "`{error}` should say `{want}`");
}

fn check_change(change: impl FnOnce(&mut Package), want: &str) {
    let mut package = package();
    change(&mut package);
    let error = package.to_bytes().expect_err(want).to_string();
    assert!(error.contains(want), "`{error}` should say `{want}`");
}

#[test]
fn a_package_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.espalier");
    package().write(&path).unwrap();
    assert_eq!(Package::read(&path).unwrap(), package());
    assert_eq!(fs::read(&path).unwrap(), package().to_bytes().unwrap());
}

/// A stored file, which pins the format. `ESPALIER_BLESS=1` writes it anew, after a change that is meant.
fn stored(name: &str, package: &Package) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("ESPALIER_BLESS").is_some() {
        package.write(&path).unwrap();
    }
    fs::read(&path).unwrap()
}

#[test]
fn the_bytes_are_canonical_and_stable() {
    let stored = stored("tiny.espalier", &package());
    assert_eq!(package().to_bytes().unwrap(), stored);
    assert_eq!(Package::from_bytes(&stored).unwrap().to_bytes().unwrap(), stored);

    let (header, _) = split(&stored);
    let manifest = header["__metadata__"]["espalier"].as_str().unwrap();
    let want = r#"{"format":{"major":1,"requires":[]},"graph":"input x: f32[N,3]\nweight"#;
    assert!(manifest.starts_with(want), "{manifest}");
    assert!(manifest.contains(r#""metrics":{"accuracy":1.0,"loss":0.30000000000000004},"name":"tiny","#));
}

#[test]
fn other_readers_find_the_tensors_under_their_names() {
    let bytes = package().to_bytes().unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["@golden/0/input", "@golden/0/output", "fc.bias", "fc.weight"]);
    let weight = tensors.tensor("fc.weight").unwrap();
    assert_eq!(weight.shape(), [2, 3]);
    assert_eq!(weight.data(), package().weights["fc.weight"].data.to_le_bytes());
}

#[test]
fn raw_inputs_of_a_task_may_be_of_any_type() {
    let mut package = package();
    package.manifest.task = Some(json!({"name": "classify-image"}));
    package.golden[0].inputs[0] = Tensor::new(&[2, 3, 3], Data::U8((0..18).collect()));
    package.golden[0].outputs[0] = Tensor::new(&[0, 6], Data::I32(vec![].into()));
    assert_eq!(Package::from_bytes(&package.to_bytes().unwrap()).unwrap(), package);
}

#[test]
fn golden_samples_hold_every_input_and_output() {
    let mut package = package();
    package.graph = format!("input z: f32[N]\n{GRAPH}output product = product\n").parse().unwrap();
    package.golden[0].inputs.insert(0, Tensor::f32(&[1], vec![0.5]));
    package.golden[0].outputs.push(Tensor::f32(&[1, 2], vec![0.25, -0.5]));
    let bytes = package.to_bytes().unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let golden: BTreeSet<&str> = tensors.names().into_iter().filter(|name| name.starts_with('@')).collect();
    let want = ["@golden/0/input", "@golden/0/input/1", "@golden/0/output", "@golden/0/output/1"];
    assert_eq!(golden, want.into());
    assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
}

#[test]
fn reference_statistics_read_back() {
    let mut package = package();
    package.manifest.format = package.manifest.format.with_reference();
    package.reference = [
        ("images".to_owned(), Tensor::new(&[1], Data::I32(vec![40].into()))),
        ("class-mix".to_owned(), Tensor::new(&[2], Data::I32(vec![15, 25].into()))),
        ("energy".to_owned(), Tensor::f32(&[20], (0..20).map(|v| v as f32 / 4.0).collect())),
    ]
    .into();
    let bytes = package.to_bytes().unwrap();
    assert_eq!(bytes, stored("reference.espalier", &package));
    assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("@reference/energy").unwrap().shape(), [20]);
    let (header, _) = split(&bytes);
    let manifest = header["__metadata__"]["espalier"].as_str().unwrap();
    assert!(manifest.starts_with(r#"{"format":{"major":1,"requires":["reference"]}"#), "{manifest}");
}

#[test]
fn reference_statistics_that_are_none_are_refused() {
    let check = |name: &str, tensor: Tensor, want: &str| {
        check_change(
            |package| {
                package.manifest.format = Format::default().with_reference();
                package.reference.insert(name.into(), tensor);
            },
            want,
        );
    };
    let row = |n: usize| Tensor::f32(&[n], vec![0.0; n]);
    check("a b", row(1), "tensor `@reference/a b` should be named by up to 64 small letters");
    check("", row(1), "should be named");
    check("a", row(MAX_REFERENCE_ELEMENTS + 1), "is f32[65537], it should be a row of at most 65536");
    check("a", Tensor::f32(&[1, 1], vec![0.0]), "is f32[1,1], it should be a row");
    check("a", Tensor::new(&[1], Data::U8(vec![0].into())), "it should be a row of at most 65536 f32 or i32");
    check("a", Tensor::f32(&[1], vec![f32::NAN]), "tensor `@reference/a` holds a value that is not finite");
    check("a", Tensor { data: Data::F32(vec![0.0].into()), shape: vec![2] }, "has 1 elements");
    check_change(
        |package| drop(package.reference.insert("a".into(), row(1))),
        "does not require `reference`, though the package holds reference statistics",
    );
    check_change(
        |package| {
            package.manifest.format = Format::default().with_reference();
            (0..=MAX_REFERENCE).for_each(|i| drop(package.reference.insert(format!("a{i}"), row(1))));
        },
        "at most 64 statistics are allowed",
    );
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = package().to_bytes().unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let edges = [0, 1, 7, 8, 9, header - 1, header, header + 1, header + 4, bytes.len() - 1];
    for length in (0..bytes.len()).step_by(97).chain(edges) {
        check_error(&bytes[..length], "not a valid safetensors file");
    }
    check_error(&[&bytes[..], &[0]].concat(), "its tensors take 52 bytes, it holds 53");
}

#[test]
fn lying_lengths_are_refused() {
    for length in [u64::MAX, 1 << 63, MAX_HEADER as u64 + 1] {
        check_error(&length.to_le_bytes(), &format!("the header takes {length} bytes, at most 1048576"));
    }
    check_error(&100u64.to_le_bytes(), "it ends after 8 bytes, its header alone would take 108");
    check_error(&file("{}", &[]), "no metadata `espalier`");
    check_error(&file(&" ".repeat(2 << 20), &[]), "the header takes 2097152 bytes");

    let at = |name: &str, key: &str, value: Value| with_header(|header| header[name][key] = value);
    let offsets = |a: u64, b: u64| at("fc.weight", "data_offsets", json!([a, b]));
    assert_eq!(split(&package().to_bytes().unwrap()).0["fc.weight"]["data_offsets"], json!([28, 52]));
    check_error(&offsets(28, 53), "tensor `fc.weight` has 25 bytes, which F32 of shape [2, 3] has not");
    check_error(&offsets(28, 1 << 40), "which F32 of shape [2, 3] has not");
    check_error(
        &offsets(24, 48),
        "tensor `fc.weight` lies at bytes 24..48 of the data, it should begin at 28",
    );
    check_error(&offsets(52, 28), "lies at bytes 52..28");
    check_error(&offsets(u64::MAX, u64::MAX), "should begin at 28");
    let huge = at("fc.weight", "shape", json!([u64::MAX, u64::MAX]));
    check_error(&huge, "which F32 of shape [18446744073709551615, 18446744073709551615] has not");
    check_error(&at("fc.weight", "shape", json!([-1])), "its header does not parse");
    check_error(&at("fc.weight", "shape", json!([1, 1, 1, 1, 1, 1, 1, 2, 3])), "has 9 axes, at most 8");
    check_error(&at("fc.weight", "dtype", "I32".into()), "is i32[2,3], it should be f32[2,3]");
    check_error(
        &at("fc.weight", "dtype", "U32".into()),
        "has element type U32; F32, I32, U8 and I8 are known",
    );
    check_error(&at("fc.weight", "dtype", "F33".into()), "its header does not parse");
    check_error(&at("fc.weight", "shape", json!([3, 2])), "is f32[3,2], it should be f32[2,3]");
}

#[test]
fn a_name_stands_once() {
    let twice = |key: &str| file(&format!(r#"{{"{key}":{{}},"{key}":{{}}}}"#), &[]);
    check_error(&twice("__metadata__"), "`__metadata__` stands twice");
    let info = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let equal = file(&format!("{{{info},{info}}}"), &[0; 4]);
    check_error(&equal, "`a` stands twice");
    SafeTensors::deserialize(&equal).expect("the crate lets the last one win, hence our own reader");
    check_error(
        &file(r#"{"__metadata__":{"espalier":"a","espalier":"b"}}"#, &[]),
        "duplicate field `espalier`",
    );
    let manifest = r#"{"format":{"major":1},"name":"a","name":"b","graph":""}"#;
    let header = json!({"__metadata__": {"espalier": manifest}}).to_string();
    check_error(&file(&header, &[]), "the manifest does not parse: duplicate field `name`");
}

#[test]
fn malformed_manifests_are_refused() {
    let text = |text: &str| with_header(|header| header["__metadata__"]["espalier"] = text.into());
    check_error(&text(""), "the manifest does not parse");
    check_error(&text("[]"), "the manifest does not parse");
    check_error(&text(&"[".repeat(100_000)), "the manifest does not parse");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep = format!(r#"{{"format":{{"major":1}},"name":"","graph":"","network":{deep}}}"#);
    check_error(&text(&deep), "recursion limit exceeded");
    check_error(&text(&"{".repeat(5000)), "the manifest has more than 4096 objects");
    check_error(&with_manifest(|m| m["graph"] = Value::Null), "the manifest does not parse");
    check_error(&with_manifest(|m| m["version"] = json!(-1)), "the manifest does not parse");
    check_error(&with_manifest(|m| m["graph"] = "input x: f32[N".into()), "the graph is malformed: line 1");
    check_error(&with_manifest(|m| m["graph"] = "".into()), "the graph has no output");
    let dropout =
        GRAPH.replace("output", "input rng: i32[2]\nd: f32[N,2] = Dropout(fc, rng) p=0.5 stream=0\noutput");
    check_error(&with_manifest(|m| m["graph"] = dropout.into()), "`d` (Dropout): the op does not belong");
}

#[test]
fn what_is_not_understood_is_refused_or_ignored() {
    let format = |value: Value| with_manifest(|m| m["format"] = value);
    check_error(
        &format(json!({"major": 2, "requires": ["x"]})),
        "it has format 2, this espalier reads format 1",
    );
    check_error(
        &with_header(|header| {
            header["__metadata__"]["espalier"] = r#"{"format":{"major":3},"graph":{"nodes":[]}}"#.into();
        }),
        "it has format 3",
    );
    check_error(&format(json!({"major": 0})), "it has format 0");
    check_error(
        &format(json!({"major": 1, "requires": ["int5\n"]})),
        r"it requires `int5\n`, which this espalier does not",
    );
    check_error(&format(json!("1")), "the manifest does not parse");

    let unknown = with_manifest(|m| {
        m["mood"] = json!({"deep": [1, 2]});
        m["format"]["minor"] = 7.into();
        m["lineage"]["license"] = "MIT".into();
    });
    assert_eq!(Package::from_bytes(&unknown).unwrap(), package());
    let metadata = with_header(|header| header["__metadata__"]["format"] = "pt".into());
    assert_eq!(Package::from_bytes(&metadata).unwrap(), package());
    let sparse = with_manifest(|m| {
        for key in ["network", "metric", "metrics", "lineage", "version"] {
            m.as_object_mut().unwrap().remove(key);
        }
        m["format"] = json!({"major": 1});
    });
    let manifest = Manifest { name: "tiny".into(), ..Manifest::default() };
    assert_eq!(Package::from_bytes(&sparse).unwrap().manifest, manifest);
}

#[test]
fn weights_are_exactly_the_states() {
    check_change(|p| drop(p.weights.remove("fc.bias")), "tensor `fc.bias` is missing, it should be f32[2]");
    let stray = Tensor::f32(&[], vec![0.0]);
    check_change(
        |p| drop(p.weights.insert("fc".into(), stray.clone())),
        "tensor `fc` is no state of the graph",
    );
    check_change(|p| drop(p.weights.insert("@golden/1/output".into(), stray)), "is no state");
    check_change(
        |p| drop(p.weights.insert("x\u{7f}".repeat(9999), Tensor::f32(&[], vec![0.0]))),
        r"`x\u{7f}x",
    );
    let bias = |data, want| check_change(|p| p.weights.get_mut("fc.bias").unwrap().data = data, want);
    bias(Data::F32(vec![1.0; 3].into()), "tensor `fc.bias` has 3 elements, not those of its shape [2]");
    bias(Data::I32(vec![1; 2].into()), "tensor `fc.bias` is i32[2], it should be f32[2]");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        bias(
            Data::F32(vec![0.0, value].into()),
            "tensor `fc.bias` holds a value that is not finite, at position 1",
        );
    }
    let symbolic = GRAPH.replace("weight fc.bias: f32[2]", "weight fc.bias: f32[N,2]");
    check_change(
        |p| p.graph = symbolic.parse().unwrap(),
        "tensor `fc.bias` is f32[2], it should be f32[N,2]",
    );
}

#[test]
fn golden_samples_are_well_typed() {
    let input = |tensor: Tensor, want: &str| check_change(|p| p.golden[0].inputs[0] = tensor, want);
    input(
        Tensor::f32(&[2, 3], vec![0.0; 6]),
        "`@golden/0/input` is f32[2,3], it should be f32[N,3] for a batch of one",
    );
    input(Tensor::f32(&[3], vec![0.0; 3]), "is f32[3], it should be f32[N,3]");
    input(Tensor::new(&[1, 3], Data::U8(vec![0; 3].into())), "is u8[1,3], it should be f32[N,3]");
    input(
        Tensor::f32(&[1, 3], vec![0.0, f32::NAN, 0.0]),
        "`@golden/0/input` holds a value that is not finite",
    );
    let output = Tensor::f32(&[1, 3], vec![0.0; 3]);
    check_change(
        |p| p.golden[0].outputs[0] = output,
        "`@golden/0/output` is f32[1,3], it should be f32[N,2]",
    );
    check_change(
        |p| {
            p.manifest.task = Some(json!("any"));
            p.golden[0].inputs[0] = Tensor::new(&[0, 4], Data::U8(vec![].into()));
        },
        "`@golden/0/input` has no elements",
    );
    check_change(|p| p.golden = vec![p.golden[0].clone(); MAX_GOLDEN + 1], "at most 64 samples are allowed");
    let two = format!("{GRAPH}output z = product\n");
    check_change(
        |p| p.graph = two.parse().unwrap(),
        "`@golden/0/output` begins a list of 1, the graph has 2 outputs",
    );

    let renamed = |from: &str, to: &str| {
        with_header(|header| {
            let info = header.as_object_mut().unwrap().remove(from).unwrap();
            header[to] = info;
        })
    };
    check_error(&renamed("@golden/0/output", "@golden/0/out"), "tensor `@golden/0/output` is missing");
    check_error(&renamed("@golden/0/input", "@golden/1/input"), "tensor `@golden/0/output` is no state");
    check_error(&renamed("@golden/0/input", "@golden/00/input"), "is no state");
}

#[test]
fn what_cannot_be_read_is_not_written() {
    check_change(
        |p| {
            p.graph = "input x: f32[N,3]\nq: q8(0.5,0)[N,3] = Quantize(x) to=q8(0.5,0)\ny: f32[N,3] = Dequantize(q)\noutput y = y"
                .parse()
                .unwrap();
        },
        "does not require `int8`, which its graph needs",
    );
    check_change(|p| p.manifest.format = Format { major: 2, requires: vec![] }, "it has format 2");
    check_change(|p| p.manifest.metrics = [("loss".into(), f64::NAN)].into(), "the metric `loss` = NaN");
    check_change(|p| p.manifest.name = "x".repeat(MAX_HEADER), "at most 1048576 are allowed");
}

#[test]
fn files_that_are_no_packages_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.espalier");
    let check = |want: &str| {
        let error = Package::read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("package {}: ", path.display())), "{error}");
        assert!(error.contains(want), "`{error}` should say `{want}`");
    };
    check("cannot read: No such file");
    fs::create_dir(&path).unwrap();
    check("not a regular file");
    fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    check("not a regular file");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    check("it ends after 0 bytes");
    fs::File::create(&path).unwrap().set_len((4 << 30) + 1).unwrap();
    check("the file takes 4294967297 bytes, at most 4294967296");
    assert!(Package::read("/dev/zero").unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.espalier");
    let mut bad = package();
    bad.weights.clear();
    assert!(matches!(bad.write(&path).unwrap_err(), PackageError::At { .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let error = package().write("/proc/a.espalier").unwrap_err().to_string();
    assert!(error.starts_with("cannot write /proc/a.espalier: "), "{error}");
    assert!(!Path::new("/proc/a.espalier").exists());
}

/// A file of one tensor `w` of this type and shape.
fn one_tensor(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let info = json!({"dtype": dtype, "shape": shape, "data_offsets": [0, data.len()]});
    file(&json!({"__metadata__": {"format": "pt"}, "w": info}).to_string(), data)
}

#[test]
fn foreign_floats_become_f32() {
    let check = |dtype: &str, data: &[u8], want: &[f32]| {
        let weights = floats(&one_tensor(dtype, &[want.len()], data)).unwrap();
        assert_eq!(weights["w"], Tensor::f32(&[want.len()], want.to_vec()), "{dtype}");
    };
    check("F16", &[0x00, 0x3c, 0x00, 0xc0], &[1.0, -2.0]);
    check("BF16", &[0x80, 0x3f, 0x40, 0xc0], &[1.0, -3.0]);
    check("F32", &0.1f32.to_le_bytes(), &[0.1]);
    check("F64", &0.1f64.to_le_bytes(), &[0.1]);
    assert!(floats(&one_tensor("I64", &[1], &[0; 8])).unwrap().is_empty());
    let of_package = floats(&package().to_bytes().unwrap()).unwrap();
    assert_eq!(of_package["fc.weight"], package().weights["fc.weight"]);

    let check = |bytes: &[u8], want: &str| {
        let error = floats(bytes).expect_err(want).to_string();
        assert!(error.contains(want), "`{error}` should say `{want}`");
    };
    check(&one_tensor("F8_E5M2", &[1], &[0]), "has element type F8_E5M2; F64, F32, F16 and BF16 are known");
    check(&one_tensor("F64", &[1], &1e300f64.to_le_bytes()), "tensor `w` holds a value that is not finite");
    check(&one_tensor("F32", &[1; 9], &[0; 4]), "has 9 axes, at most 8");
    check(&one_tensor("F16", &[3], &[0; 4]), "has 4 bytes, which F16 of shape [3] has not");
    check(&100u64.to_le_bytes(), "its header alone would take 108");
}

/// Bytes that are accepted make a package that is written and read back without change.
fn check_hostile(bytes: &[u8]) {
    if let Ok(package) = Package::from_bytes(bytes) {
        let again = package.to_bytes().unwrap();
        assert_eq!(Package::from_bytes(&again).unwrap().to_bytes().unwrap(), again);
        SafeTensors::deserialize(&again).unwrap();
    }
    if let Ok(weights) = floats(bytes) {
        let lengths: usize = weights.values().map(|tensor| tensor.data.len()).sum();
        assert!(lengths <= bytes.len() / 2, "{lengths} floats from {} bytes", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bits_do_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6)) {
        let mut bytes = package().to_bytes().unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
        }
        check_hostile(&bytes);
    }

    #[test]
    fn spliced_headers_do_no_harm(at in any::<prop::sample::Index>(), cut in 0usize..40, text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,20}") {
        let bytes = package().to_bytes().unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (header, data) = bytes[8..].split_at(length);
        let at = at.index(length);
        let rest = &header[(at + cut).min(length)..];
        let header = [&header[..at], text.as_bytes(), rest].concat();
        let lengths = (header.len() as u64).to_le_bytes();
        check_hostile(&[&lengths[..], &header, data].concat());
    }

    #[test]
    fn any_finite_metric_reads_back(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let mut package = package();
        package.manifest.metrics.insert("loss".into(), value);
        let read = Package::from_bytes(&package.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(read.manifest.metrics["loss"].to_bits(), bits);
    }
}
