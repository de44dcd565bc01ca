//! What is no library of ONNX Runtime, or too old a one, is named. None is loaded in this process.

use std::path::{Path, PathBuf};
use std::process::Command;

use espalier_engines::{EngineConfig, EngineKind, OnnxRuntime};
use espalier_graph::{Graph, Shape, TensorType, UnaryFn, Weights};

fn refusal(library: &Path) -> String {
    let mut graph = Graph::new();
    let x = graph.add_input("x", TensorType::f32(Shape::known(&[1, 4]))).unwrap();
    let y = graph.unary("y", UnaryFn::Relu, x).unwrap();
    graph.add_output("y", y).unwrap();
    let config = EngineConfig {
        engine: EngineKind::OnnxRuntime,
        library: Some(library.into()),
        ..EngineConfig::default()
    };
    let error = OnnxRuntime::open(&config, &graph, &Weights::new(), 1).err();
    error.unwrap_or_else(|| panic!("{} was taken", library.display())).to_string()
}

fn check(library: &Path, wants: &[&str]) {
    let text = refusal(library);
    assert!(text.contains(&library.display().to_string()), "{text}");
    for want in wants {
        assert!(text.contains(want), "{text}: lacks {want:?}");
    }
}

/// Compiles C to a library.
fn library(folder: &Path, name: &str, code: &str) -> PathBuf {
    let (source, out) = (folder.join("source.c"), folder.join(name));
    std::fs::write(&source, code).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&out, &source]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

/// A library that says that it is ONNX Runtime of this version, and no more.
fn saying(folder: &Path, version: &str) -> PathBuf {
    let code = format!(
        "static const void *api(unsigned version) {{ return 0; }}
         static const char *version(void) {{ return \"{version}\"; }}
         static const struct {{ const void *(*api)(unsigned); const char *(*version)(void); }} base = {{ api, version }};
         const void *OrtGetApiBase(void) {{ return &base; }}"
    );
    library(folder, &format!("libonnxruntime.so.{version}"), &code)
}

#[test]
fn what_is_no_library_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    check(
        &folder.join("libonnxruntime.so"),
        &["No such file", "install ONNX Runtime 1.17 or newer", "ORT_DYLIB_PATH"],
    );
    check(folder, &["is in that folder"]);
    let text = folder.join("libonnxruntime.so.text");
    std::fs::write(&text, "this is no library\n".repeat(100)).unwrap();
    check(&text, &["tried", "install ONNX Runtime"]);
    // The loader's own reason, not only that it failed.
    assert!(!cfg!(target_os = "linux") || refusal(&text).contains("invalid ELF header"));
    std::fs::remove_file(&text).unwrap();
    check(&library(folder, "libother.so", "int other(void) { return 1; }"), &["no function OrtGetApiBase"]);
    let nothing = library(folder, "libnothing.so", "const void *OrtGetApiBase(void) { return 0; }");
    check(&nothing, &["gives nothing"]);
}

#[test]
fn an_old_version_is_named_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    let old = saying(folder, "1.16.3");
    check(&old, &["is ONNX Runtime 1.16.3, 1.17 or newer is needed"]);
    // The folder stands for the library in it.
    assert!(refusal(folder).contains("1.16.3"));
}
