//! Files that lie, and files that are torn: an error in little time and memory, never a panic.

#[path = "common/build.rs"]
mod build;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use build::*;
use espalier_onnx::{Options, from_bytes, from_file};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, so that nobody else allocates.
static ALONE: Mutex<()> = Mutex::new(());

fn check(what: &str, bytes: Vec<u8>, words: &str) {
    let (before, size) = (NOW.load(Relaxed), bytes.len());
    PEAK.store(before, Relaxed);
    let start = Instant::now();
    let error = from_bytes(bytes, Options::default()).expect_err(what).to_string();
    let (taken, seconds) = (PEAK.load(Relaxed) - before, start.elapsed().as_secs_f64());
    println!("{what}: {} KiB of {size} bytes in {seconds:.3} s: {error:.120}", taken >> 10);
    assert!(error.contains(words), "{what}: {error:?} should say {words:?}");
    assert!(error.len() < 4000, "{what}: a message of {} bytes", error.len());
    assert!(taken <= 160 << 20, "{what} took {taken} bytes");
    assert!(seconds < 5.0, "{what} took {seconds} s");
}

fn relu() -> Message {
    node("Relu", &["x"], &["y"])
}

fn with(nodes: &[Message], tensors: &[Message]) -> Vec<u8> {
    model(graph(nodes, tensors))
}

#[test]
fn torn_files() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let whole = small();
    from_bytes(whole.clone(), Options::default()).unwrap();
    for length in 0..whole.len() {
        from_bytes(whole[..length].to_vec(), Options::default()).expect_err("a torn file");
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            // Whatever it says: no panic.
            let _ = from_bytes(bytes, Options::default());
        }
    }
    check("nothing", vec![], "neither a version of ONNX");
    check("a text", b"{\"graph\": 1}".to_vec(), "not a valid ONNX model");
    check("zeros", vec![0; 1 << 20], "not a valid ONNX model");
    check("a group", vec![0x3b; 100], "unknown wire type 3");
    check("a varint of eleven bytes", vec![0xff; 11], "ten bytes");
}

#[test]
fn lying_tensors() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let add = |tensor: Message| with(&[node("Add", &["x", "w"], &["y"])], &[tensor]);
    check("too few bytes", add(tensor("w", &[4], &[0; 12])), "has 12 bytes, not those of its shape [4]");
    check("too many bytes", add(tensor("w", &[4], &[0; 20])), "has 20 bytes");
    check("a huge axis", add(tensor("w", &[1 << 31, 1 << 31], &[0; 16])), "not those of its shape");
    check("an endless shape", add(tensor("w", &[1 << 32; 8], &[0; 16])), "axis of size");
    check("a product beyond 64 bits", add(tensor("w", &[1 << 31; 8], &[0; 16])), "endless");
    check("a negative axis", add(tensor("w", &[-4], &[0; 16])), "axis of size -4");
    check("many axes", add(tensor("w", &[1; 9], &[0; 4])), "9 axes");
    check("a million axes", add(tensor("w", &vec![1; 1_000_000], &[0; 4])), "axes");
    check("an unknown type", add(message().int(1, 4).int(2, 99).text(8, "w")), "element type 99");
    check("text", add(message().int(1, 4).int(2, 8).text(8, "w")), "of string");
    check("no data", add(message().int(1, 4).int(2, 1).text(8, "w")), "has 0 elements");
    check(
        "external data of bytes",
        add(external("w", &[4], &[("location", "w.bin")])),
        "did not come from a file",
    );
    let many = ints("s", &vec![1; (1 << 20) + 1]);
    check("many integers", with(&[node("Reshape", &["x", "s"], &["y"])], &[many]), "integers");
}

#[test]
fn lying_graphs() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let cycle =
        [node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"]), node("Relu", &["b"], &["y"])];
    check("a cycle", with(&cycle, &[]), "a cycle");
    check("itself", with(&[node("Add", &["x", "y"], &["y"])], &[]), "a cycle");
    check("nobody's value", with(&[node("Add", &["x", "z"], &["y"])], &[]), "`z` is read but never made");
    let huge = model(
        message().message(1, relu()).message(11, value("x", &[1, 1 << 31])).message(12, value("y", &[1])),
    );
    check("a huge input", huge, "the input `x` is [N,2147483648]");
    check("no producer", with(&[node("Relu", &["x"], &["z"])], &[]), "`y` is read but never made");
    check("made twice", with(&[relu(), relu()], &[]), "`y` is made twice");
    check("an input made", with(&[node("Relu", &["x"], &["x"]), relu()], &[]), "`x` is made twice");
    let w = || tensor("w", &[4], &[0; 16]);
    check("a tensor twice", with(&[relu()], &[w(), w()]), "`w` stands twice");
    check("a million nodes", with(&vec![message(); 1_000_000], &[]), "more than 524288 fields");
    check("a hundred thousand nodes", with(&vec![relu(); 100_000], &[]), "at most 65536");
    let inputs = vec!["x"; 70_000];
    check("a node of many inputs", with(&[node("Sum", &inputs, &["y"])], &[]), "more than 65536 fields");
    let old = message().int(1, 8).message(7, graph(&[relu()], &[])).message(8, message().int(2, 6)).0;
    check("an old opset", old, "opset 6, 7 to 21");
    check("no opset", message().int(1, 8).message(7, graph(&[relu()], &[])).0, "which version");
    check("no graph", message().int(1, 8).message(8, message().int(2, 13)).0, "no graph");
    check("no output", model(message().message(1, relu()).message(11, value("x", &[1, 4]))), "no output");
}

#[test]
fn lying_attributes() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let conv = |attribute: Message| {
        let nodes = [
            node("Reshape", &["x", "s"], &["p"]),
            node("Conv", &["p", "w"], &["c"]).message(5, attribute),
            node("Relu", &["c"], &["y"]),
        ];
        with(&nodes, &[ints("s", &[1, 1, 2, 2]), tensor("w", &[1, 1, 1, 1], &[0; 4])])
    };
    let big = i64::MAX;
    check("huge pads", conv(ints_attribute("pads", &[big, 0, 0, 0])), "has a size of");
    check("large pads", conv(ints_attribute("pads", &[1 << 31, 1 << 31, 0, 0])), "too large");
    check("negative pads", conv(ints_attribute("pads", &[-1, 0, 0, 0])), "negative padding");
    check("many pads", conv(ints_attribute("pads", &[0; 5])), "pads 2 axes by");
    check("no stride", conv(ints_attribute("strides", &[0, 1])), "stride or dilation of 0");
    check("many groups", conv(int_attribute("group", big)), "has a size of");
    check("no groups", conv(int_attribute("group", 0)), "groups");
    check("a flag as text", conv(message().text(1, "group").text(4, "x").int(20, 3)), "should be an integer");
    let one = |op: &str, attribute: Message| with(&[node(op, &["x"], &["y"]).message(5, attribute)], &[]);
    check("an axis beyond", one("Flatten", int_attribute("axis", 7)), "axis 7 of 2 axes");
    check("the least axis", one("Softmax", int_attribute("axis", i64::MIN)), "of 2 axes");
    check("axes twice", one("Transpose", ints_attribute("perm", &[0, 0])), "twice");
    check(
        "a huge split",
        with(&[node("Split", &["x", "s"], &["y"])], &[ints("s", &[big, big])]),
        "split into",
    );
    check(
        "a huge tile",
        with(&[node("Tile", &["x", "s"], &["y"])], &[ints("s", &[1, big])]),
        "has a size of",
    );
    check(
        "a huge shape",
        with(&[node("Expand", &["x", "s"], &["y"])], &[ints("s", &[1 << 31, 1 << 31, 1, 4])]),
        "too large",
    );
    let growing = [node("ConstantOfShape", &["s"], &["c"]), node("Add", &["x", "c"], &["y"])];
    check("a constant of 4 GiB", with(&growing, &[ints("s", &[1 << 15, 1 << 15])]), "too much memory");
    let range = [node("Range", &["a", "b", "c"], &["r"]), node("Reshape", &["x", "r"], &["y"])];
    let scalar = |name: &str, v: i64| message().int(2, 7).text(8, name).bytes(9, &v.to_le_bytes());
    check(
        "an endless range",
        with(&range, &[scalar("a", i64::MIN), scalar("b", big), scalar("c", 1)]),
        "too much memory",
    );
    let pad = with(&[node("Pad", &["x", "s"], &["y"])], &[ints("s", &[0, big, 0, big])]);
    check("huge padding", pad, "has a size of");
}

#[test]
fn everything_unsupported_is_told_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let nodes = [
        node("TopK", &["x"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("NonZero", &["b"], &["c"]),
        node("TopK", &["c"], &["d"]),
        node("Celu", &["d"], &["y"]).text(7, "com.example"),
    ];
    let words =
        "NonZero (1 times, first `c`), TopK (2 times, first `a`), com.example.Celu (1 times, first `y`)";
    check("three operators", with(&nodes, &[]), words);
}

/// Names that are equal once they are made fit stay apart, and cheap.
#[test]
fn names_of_any_letters() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut nodes = vec![node("Relu", &["x"], &["\u{e9}"]), node("Relu", &["\u{e9}"], &["\u{e8}"])];
    nodes.extend([node("Relu", &["\u{e8}"], &["../../y"]), node("Neg", &["../../y"], &["y"])]);
    let graph = graph(&nodes, &[]).message(12, value("../../y", &[1, 4]));
    let imported = from_bytes(model(graph), Options::default()).unwrap();
    let outputs: Vec<&str> = imported.graph.outputs().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((outputs, imported.renamed.len()), (vec!["y", "y.1"], 1));
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    tensor(name, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

fn quantize(zero: &str) -> Message {
    node("QuantizeLinear", &["x", "s", zero], &["q"])
}

fn dequantize(zero: &str) -> Message {
    node("DequantizeLinear", &["q", "s", zero], &["y"])
}

const UNSIGNED: i64 = 2;
const SIGNED: i64 = 3;

#[test]
fn scales_and_zero_points() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let zeros = [bytes("z", UNSIGNED, &[], &[7]), bytes("i", SIGNED, &[], &[7]), ints("l", &[7])];
    let rounded = |s: Message, zero: &str, back: &str| {
        with(&[quantize(zero), dequantize(back)], &[&[s][..], &zeros].concat())
    };
    let one = |s: f32| floats("s", &[], &[s]);
    from_bytes(rounded(one(0.5), "z", "z"), Options::default()).unwrap();
    from_bytes(rounded(one(0.5), "i", "i"), Options::default()).unwrap();
    for (what, scale) in [("zero", 0.0), ("negative", -1.0), ("NaN", f32::NAN), ("infinite", f32::INFINITY)] {
        check(&format!("a {what} scale"), rounded(one(scale), "z", "z"), "it should be a positive number");
    }
    check("a tiny scale", rounded(one(1e-30), "z", "z"), "it should lie in 1e-12..=1e12");
    check("no scale", rounded(floats("s", &[0], &[]), "z", "z"), "has 1 zero points and 0 scales");
    check("a scale of integers", rounded(ints("s", &[1]), "z", "z"), "where floats are needed");
    check("a zero point of 64 bits", rounded(one(0.5), "l", "l"), "integers that are not bytes");
    check("another zero point", rounded(one(0.5), "z", "i"), "another type than its bytes");
    check("a matrix of scales", rounded(floats("s", &[1, 1], &[0.5]), "z", "z"), "a vector is needed");
    let each = floats("s", &[4], &[0.5; 4]);
    check(
        "scales of channels",
        rounded(each.clone(), "", ""),
        "a scale for each channel of a value that flows",
    );
    let bytes_out = node("QuantizeLinear", &["x", "s"], &["y"]);
    check("an output of bytes", with(&[bytes_out], &[one(0.5)]), "an output of q8(0.5,0)");
    let flat = node("Reshape", &["x", "n"], &["f"]);
    let vector = node("QuantizeLinear", &["f", "s"], &["q"]);
    let tensors = [one(0.5), ints("n", &[4])];
    check("a vector of bytes", with(&[flat, vector, dequantize("")], &tensors), "at least two axes");
    let of_data = node("QuantizeLinear", &["x", "x"], &["q"]);
    check("a scale of data", with(&[of_data, dequantize("")], &[one(0.5)]), "computed from the data");
    let dynamic = [node("DynamicQuantizeLinear", &["x"], &["q"]), node("QLinearConv", &["q"], &["y"])];
    check("others", with(&dynamic, &[]), "DynamicQuantizeLinear (1 times, first `q`), QLinearConv");
}

#[test]
fn weights_of_bytes() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let weight = |axis: i64, scales: usize, zeros: usize, kind: i64| {
        let read = node("DequantizeLinear", &["w", "s", "z"], &["f"]).message(5, int_attribute("axis", axis));
        let product = node("MatMul", &["x", "f"], &["y"]);
        let tensors = [
            bytes("w", SIGNED, &[4, 3], &[5; 12]),
            floats("s", &[scales as i64], &vec![0.5; scales]),
            bytes("z", kind, &[zeros as i64], &vec![0; zeros]),
        ];
        with(&[read, product], &tensors)
    };
    from_bytes(weight(1, 3, 3, SIGNED), Options::default()).unwrap();
    from_bytes(weight(-2, 4, 4, SIGNED), Options::default()).unwrap();
    check("an axis beyond", weight(2, 3, 3, SIGNED), "has axis 2 of 2 axes");
    check("an axis far beyond", weight(i64::MIN, 3, 3, SIGNED), "of 2 axes");
    check("other channels", weight(0, 3, 3, SIGNED), "has 3 scales for axis 0, which has 4 elements");
    check("fewer zero points", weight(1, 3, 2, SIGNED), "has 2 zero points and 3 scales");
    check("unsigned zero points", weight(1, 3, 3, UNSIGNED), "another type than its integers");
    // Each reader of a large constant would make floats of its own.
    let mut nodes = Vec::new();
    for i in 0..2000 {
        nodes.push(node("DequantizeLinear", &["w", "s", "z"], &[&format!("f{i}")]));
        let before = if i == 0 { "x".to_string() } else { format!("a{}", i - 1) };
        nodes.push(node("Add", &[&before, &format!("f{i}")], &[&format!("a{i}")]));
    }
    nodes.push(node("Relu", &["a1999"], &["y"]));
    let tensors = [
        bytes("w", SIGNED, &[1 << 18, 4], &[5; 1 << 20]),
        floats("s", &[], &[0.5]),
        bytes("z", SIGNED, &[], &[0]),
    ];
    check("a constant read often", with(&nodes, &tensors), "too much memory");
}

/// What becomes integers is looked for in little time, however long the chains are.
#[test]
fn long_quantized_graphs() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let scales = [floats("s", &[], &[0.5]), floats("t", &[], &[0.25])];
    let mut chain = Vec::new();
    for i in 0..10_000 {
        let name = |part: &str, i: usize| format!("{part}{i}");
        let before = if i == 0 { "x".to_string() } else { name("f", i - 1) };
        let scale = ["s", "t"][i % 2];
        chain.push(node("Neg", &[&before], &[&name("n", i)]));
        chain.push(node("QuantizeLinear", &[&name("n", i), scale], &[&name("q", i)]));
        chain.push(node("DequantizeLinear", &[&name("q", i), scale], &[&name("f", i)]));
    }
    chain.push(node("Neg", &["f9999"], &["y"]));
    let mut deep =
        vec![node("QuantizeLinear", &["x", "s"], &["q"]), node("DequantizeLinear", &["q", "s"], &["r0"])];
    deep.extend((0..30_000).map(|i| node("Softmax", &[&format!("r{i}")], &[&format!("r{}", i + 1)])));
    deep.push(node("QuantizeLinear", &["r30000", "s"], &["e"]));
    deep.push(node("DequantizeLinear", &["e", "s"], &["y"]));
    let mut wide = vec![node("QuantizeLinear", &["x", "s"], &["q"])];
    let names: Vec<String> = (0..20_000).map(|i| format!("w{i}")).collect();
    wide.extend(names.iter().map(|name| node("DequantizeLinear", &["q", "s"], &[name])));
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    wide.push(node("Concat", &all, &["c"]).message(5, int_attribute("axis", 1)));
    wide.push(node("QuantizeLinear", &["c", "t"], &["e"]));
    wide.push(node("DequantizeLinear", &["e", "t"], &["y"]));
    for (what, nodes) in [("a chain", chain), ("a deep one", deep), ("a wide one", wide)] {
        let bytes = with(&nodes, &scales);
        let (before, start) = (NOW.load(Relaxed), Instant::now());
        PEAK.store(before, Relaxed);
        let imported = from_bytes(bytes, Options::default()).unwrap();
        let (taken, seconds) = (PEAK.load(Relaxed) - before, start.elapsed().as_secs_f64());
        println!("{what}: {} nodes, {} MiB in {seconds:.3} s", imported.graph.nodes().len(), taken >> 20);
        assert!(taken <= 256 << 20, "{what} took {taken} bytes");
        assert!(seconds < 5.0, "{what} took {seconds} s");
    }
}

fn load(path: &Path, words: Option<&str>) {
    match (from_file(path, Options::default()), words) {
        (Ok(imported), None) => {
            assert_eq!(imported.weights["w"].as_f32(), Some(&[1.0f32, 2.0, 3.0, 4.0][..]))
        }
        (Err(e), Some(words)) => assert!(e.to_string().contains(words), "{e} should say {words:?}"),
        (result, words) => panic!("{result:?} instead of {words:?}"),
    }
}

#[test]
#[cfg(unix)]
fn external_data_stays_in_its_folder() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let folder = tempfile::tempdir().unwrap();
    let (root, inside) = (folder.path(), folder.path().join("model"));
    std::fs::create_dir_all(inside.join("sub")).unwrap();
    let data: Vec<u8> = [0.0f32, 1.0, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for file in
        [root.join("outside.bin"), inside.join("w.bin"), inside.join("sub/w.bin"), inside.join("once.bin")]
    {
        std::fs::write(file, &data).unwrap();
    }
    std::os::unix::fs::symlink(root.join("outside.bin"), inside.join("link.bin")).unwrap();
    std::os::unix::fs::symlink(root, inside.join("up")).unwrap();
    std::fs::hard_link(root.join("outside.bin"), inside.join("hard.bin")).unwrap();
    let status = std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().unwrap();
    assert!(status.success());
    let path = inside.join("model.onnx");
    let check = |entries: &[(&str, &str)], words: Option<&str>| {
        let nodes = [node("Add", &["x", "w"], &["y"])];
        std::fs::write(&path, with(&nodes, &[external("w", &[4], entries)])).unwrap();
        load(&path, words);
    };
    check(&[("location", "w.bin"), ("offset", "4"), ("length", "16"), ("unknown", "key")], None);
    check(&[("location", "./sub/w.bin"), ("offset", "4")], None);
    let absolute = root.join("outside.bin");
    for (location, words) in [
        ("../outside.bin", "below the model's own folder"),
        ("sub/../../outside.bin", "below the model's own folder"),
        ("..\\outside.bin", "below the model's own folder"),
        (absolute.to_str().unwrap(), "below the model's own folder"),
        ("", "below the model's own folder"),
        ("link.bin", "symbolic links are not followed"),
        ("up/outside.bin", "symbolic links are not followed"),
        ("hard.bin", "2 hard links"),
        ("pipe", "not a regular file"),
        ("sub", "not a regular file"),
        ("none.bin", "No such file"),
        ("/dev/zero", "below the model's own folder"),
    ] {
        check(&[("location", location)], Some(words));
    }
    check(&[("location", "w.bin"), ("offset", "8")], Some("it has 20 bytes, 16 from byte 8"));
    check(&[("location", "w.bin"), ("offset", "18446744073709551615")], Some("it has 20 bytes"));
    check(&[("location", "w.bin"), ("offset", "-4")], Some("`offset` is no number"));
    check(&[("location", "w.bin"), ("length", "20")], Some("20 bytes for a tensor that takes 16"));
    check(&[("location", "w.bin"), ("location", "hard.bin")], Some("`location` twice"));
    check(&[("offset", "4")], Some("without a `location`"));
    load(&inside.join("pipe"), Some("not a regular file"));
    load(&inside.join("missing.onnx"), Some("No such file"));
}

mod any_bytes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = from_bytes(bytes, Options::default());
        }

        /// A whole model with pieces exchanged.
        #[test]
        fn nor_do_spliced_models(at in 0usize..200, piece in proptest::collection::vec(any::<u8>(), 1..12)) {
            let mut bytes = small();
            let at = at.min(bytes.len());
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at..end, piece);
            let _ = from_bytes(bytes, Options::default());
        }
    }
}
