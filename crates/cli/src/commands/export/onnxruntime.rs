//! Runs an exported file in ONNX Runtime, where a Python with it is there.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use espalier_graph::{DType, Data, Tensor};
use espalier_onnx::Exported;
use serde_json::json;

use super::check::{Check, Outcome, Reference, TOLERANCE, TOLERANCE_BYTES};

const ENGINE: &str = "onnxruntime";

/// Reads a header, the file and the samples' inputs from stdin; writes all outputs to stdout.
const SCRIPT: &str = include_str!("onnxruntime.py");

/// The status with which the script says that ONNX Runtime is not there.
const ABSENT: i32 = 3;

/// Compares what ONNX Runtime makes of the file with what the package gives.
///
/// # Errors
/// ONNX Runtime refuses the file, or $ESPALIER_PYTHON does not start.
pub(super) fn check(reference: &Reference, exported: &Exported, threads: usize) -> anyhow::Result<Check> {
    let given = std::env::var("ESPALIER_PYTHON").ok().filter(|path| !path.is_empty());
    let python = given.as_deref().unwrap_or("python3");
    let absent = |reason: String| Ok(Check { engine: ENGINE, outcome: Outcome::Absent(reason) });
    let started = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(e) if given.is_none() && e.kind() == ErrorKind::NotFound => {
            return absent("there is no python3, and ESPALIER_PYTHON names no Python".into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot start {python} (ESPALIER_PYTHON)")),
    };
    let request = request(reference, exported, threads);
    let mut stdin = child.stdin.take().context("the Python has no stdin")?;
    // A script that ends early closes the pipe; its status says why.
    let sent = stdin.write_all(&request).and_then(|()| stdin.flush());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("{python}, running ONNX Runtime"))?;
    match output.status.code() {
        Some(0) => sent.with_context(|| format!("{python}, running ONNX Runtime"))?,
        Some(ABSENT) => return absent(format!("{python} lacks the package onnxruntime")),
        _ => {
            let told = String::from_utf8_lossy(&output.stderr);
            let last = told.trim().lines().last().unwrap_or("it said nothing").to_string();
            bail!("ONNX Runtime ({python}) does not run the exported file: {last}");
        }
    }
    let tolerance = if reference.has_bytes { TOLERANCE_BYTES } else { TOLERANCE };
    let got = outputs(reference, &output.stdout)?;
    Ok(reference.compare(ENGINE, &got, &exported.outputs, tolerance))
}

/// One line of JSON, the file, then the inputs of each sample, little-endian.
fn request(reference: &Reference, exported: &Exported, threads: usize) -> Vec<u8> {
    let inputs = reference.samples.first().map(|sample| &sample.inputs[..]).unwrap_or_default();
    let described = |tensor: &Tensor| json!({"shape": tensor.shape, "type": if tensor.data.dtype() == DType::I32 { "<i4" } else { "<f4" }});
    let header = json!({
        "model": exported.bytes.len(), "threads": threads, "samples": reference.samples.len(),
        "inputs": inputs.iter().map(described).collect::<Vec<_>>(), "outputs": exported.outputs,
    });
    let mut request = format!("{header}\n").into_bytes();
    request.extend(&exported.bytes);
    for tensor in reference.samples.iter().flat_map(|sample| &sample.inputs) {
        request.extend(tensor.data.to_le_bytes());
    }
    request
}

/// The outputs of each sample, as long as the package's.
fn outputs(reference: &Reference, mut bytes: &[u8]) -> anyhow::Result<Vec<Vec<Tensor>>> {
    let mut got = Vec::new();
    for sample in &reference.samples {
        let mut outputs = Vec::new();
        for want in &sample.outputs {
            let length = 4 * want.data.len();
            ensure!(bytes.len() >= length, "ONNX Runtime gives fewer numbers than the package");
            let (own, rest) = bytes.split_at(length);
            outputs.push(Tensor::new(&want.shape, Data::from_le_bytes(DType::F32, own)));
            bytes = rest;
        }
        got.push(outputs);
    }
    ensure!(bytes.is_empty(), "ONNX Runtime gives more numbers than the package");
    Ok(got)
}
