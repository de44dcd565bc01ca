//! `espalier run --input`: raw tensors in, raw tensors out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use espalier_graph::{Bindings, DType, Graph};
use espalier_runtime::{Options, Plan, Pool, lower};
use espalier_tasks::golden::Raw;
use npyz::WriterBuilder;
use serde_json::json;

use crate::exit::usage;
use crate::{open, print};

/// Flags of `run --input`.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Of tensors")]
pub(super) struct Args {
    /// An input tensor; once for each input of the graph.
    #[arg(long, value_name = "NAME=FILE.npy", requires = "out")]
    input: Vec<String>,
    /// Folder for the outputs; made if need be.
    #[arg(long, value_name = "DIR", requires = "input")]
    out: Option<PathBuf>,
}

/// A tensor from a file.
struct Array {
    file: PathBuf,
    shape: Vec<usize>,
    data: Elements,
}

enum Elements {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

pub(super) fn run(args: &super::Args) -> anyhow::Result<()> {
    let out = args.tensors.out.as_deref().context("--input needs --out")?;
    let (isa, threads) = args.compute.own("--input")?;
    let package = open::package(&args.package)?;
    let (graph, weights) = open::folded(&package)?;
    if package.manifest.task.is_none() {
        let sample = &package.golden[..package.golden.len().min(1)];
        let options = Options { isa, threads, bindings: Bindings::batch(1) };
        Raw::new(&graph, &weights, options)?.replay(sample)?;
    }
    let arrays = arrays(&args.tensors.input, &graph)?;
    let bindings = bindings(&graph, &arrays)?;
    let mut plan = lower(&graph, &weights, Options { isa, threads, bindings })?;
    for (name, array) in &arrays {
        fill(&mut plan, name, array);
    }
    plan.run(&mut Pool::new(threads));
    std::fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    let mut written = Vec::new();
    for (name, id) in graph.outputs() {
        let (path, shape) = (out.join(format!("{name}.npy")), graph.ty(*id).shape.bind(bindings));
        write(&path, &shape, plan.output(name)).with_context(|| format!("{}", path.display()))?;
        written.push(json!({"name": name, "shape": shape, "file": path.display().to_string()}));
    }
    let value = json!({"isa": isa.to_string(), "outputs": written});
    print::result(args.json, &value, || print::table(&value, &["name", "shape", "file"]))
}

fn arrays(inputs: &[String], graph: &Graph) -> anyhow::Result<BTreeMap<String, Array>> {
    let mut arrays = BTreeMap::new();
    for text in inputs {
        let (name, file) = text
            .split_once('=')
            .ok_or_else(|| usage(format!("--input {text}: it should be NAME=FILE.npy")))?;
        let array = read(Path::new(file)).with_context(|| file.to_string())?;
        arrays.insert(name.to_string(), array);
    }
    let names: Vec<&str> = graph.inputs().iter().map(|&id| graph.value(id).name.as_str()).collect();
    let given: Vec<&str> = arrays.keys().map(String::as_str).collect();
    let fits = names.len() == given.len() && names.iter().all(|n| given.contains(n));
    if !fits {
        return Err(usage(format!(
            "--input: the graph's inputs are {}, given are {}",
            names.join(", "),
            given.join(", ")
        )));
    }
    Ok(arrays)
}

/// N from the inputs' first axes; every shape must then agree.
fn bindings(graph: &Graph, arrays: &BTreeMap<String, Array>) -> anyhow::Result<Bindings> {
    let mut bindings = Bindings::batch(1);
    for &id in graph.inputs() {
        let (value, array) = (graph.value(id), &arrays[&graph.value(id).name]);
        let symbolic = value.ty.shape.0.iter().position(|d| d.batch == 1 && d.time == 0 && d.factor == 1);
        if let Some(axis) = symbolic {
            bindings.batch = array.shape.get(axis).copied().unwrap_or(0);
        }
    }
    ensure!((1..=65_536).contains(&bindings.batch), "the batch size {} is not in 1..=65536", bindings.batch);
    for &id in graph.inputs() {
        let (value, array) = (graph.value(id), &arrays[&graph.value(id).name]);
        let dtype = match array.data {
            Elements::F32(_) => DType::F32,
            Elements::I32(_) => DType::I32,
        };
        if value.ty.shape.bind(bindings) != array.shape || value.ty.dtype != dtype {
            let (file, have) = (array.file.display(), &array.shape);
            bail!("{file}: it is {dtype}{have:?}, input `{}` is {}", value.name, value.ty);
        }
    }
    Ok(bindings)
}

fn read(path: &Path) -> anyhow::Result<Array> {
    if !path.exists() {
        return Err(usage("there is no such file"));
    }
    let file = npyz::NpyFile::new(BufReader::new(File::open(path)?)).context("it is no .npy file")?;
    ensure!(file.order() == npyz::Order::C, "its order is Fortran's, C's is needed");
    let shape: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
    let dtype = file.dtype();
    let elements = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
    let bytes = std::fs::metadata(path)?.len();
    ensure!(
        elements.is_some_and(|n| n as u64 * 4 <= bytes),
        "its header says more elements than the file holds"
    );
    let data = match dtype {
        npyz::DType::Plain(ref plain) if plain.to_string().ends_with("f4") => Elements::F32(file.into_vec()?),
        npyz::DType::Plain(ref plain) if plain.to_string().ends_with("i4") => Elements::I32(file.into_vec()?),
        other => bail!("its elements are {}, float32 or int32 are needed", other.descr()),
    };
    Ok(Array { file: path.into(), shape, data })
}

fn fill(plan: &mut Plan, name: &str, array: &Array) {
    match &array.data {
        Elements::F32(v) => plan.input(name).copy_from_slice(v),
        Elements::I32(v) => plan.input_i32(name).copy_from_slice(v),
    }
}

fn write(path: &Path, shape: &[usize], data: &[f32]) -> anyhow::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    espalier_graph::files::write_atomic(path, |file: &mut BufWriter<File>| {
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(data.iter().copied())?;
        writer.finish()
    })?;
    Ok(())
}
