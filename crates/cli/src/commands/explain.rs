//! `espalier explain`: what a classifier looks at in a picture.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use espalier_graph::Package;
use espalier_graph::files::write_atomic;
use espalier_tasks::{
    Answer, ClassifyImage, Image, Limits, Model, Prediction, Task, classification, decode, image,
};
use espalier_train::compress::Source;
use espalier_train::explain::{
    Explanation, LayerError, Question, Shown, activation_sheet, blended, explain, filter_sheet, is_quantized,
    page,
};
use espalier_train::run_folder::RunFolder;
use serde_json::{Value, json};

use crate::exit::usage;
use crate::{open, print};

/// Show what a classifier of pictures looks at.
#[derive(clap::Args)]
#[command(after_help = "\
Writes into a folder: heatmap.png (where in the picture the evidence for the answer lies, by Grad-CAM), filters.png (what the \
first layer responds to), activations-1.png and on (which channels the picture excites most, from an early layer to a late \
one), and explanation.html with all of it. A heat on the background instead of the thing says that the network learned \
the wrong thing from its pictures. docs/explain.md says what each picture tells and what not.

Integers have no gradients: for an int8 package, the float package that it was made of is looked at. It is found in the \
same folder, or given with --parent.

Examples:
  espalier explain runs/train/best.espalier dog.jpg
  espalier explain runs/train/best.espalier dog.jpg --class bicycle --out why-bicycle
  espalier explain small.espalier dog.jpg --parent runs/train/best.espalier --json")]
pub(crate) struct Args {
    /// The package, of the task classify-image.
    package: PathBuf,
    /// The picture.
    file: PathBuf,
    /// Look for the evidence of this class; default: of the predicted one.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Look at the map of this layer; default: the last one that has a map of places. Later maps know more of things, earlier
    /// ones more of places.
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// The float package that an int8 package was made of.
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// The folder to write; it must be empty or not exist. Default runs/explain, runs/explain-2, ...
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Worker threads; default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Force an instruction set: scalar; avx2, avx512 (x86-64); neon, neon-dotprod (64-bit Arm).
    #[arg(long)]
    isa: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (isa, threads) = (open::isa(args.isa.as_deref())?, open::threads(args.threads)?);
    let folder = folder(args)?;
    let package = open::package(&args.package)?;
    let task = task(&package).with_context(|| format!("package {}", args.package.display()))?;
    let class = args.class.as_deref().map(|name| class(&task, name)).transpose()?;
    let image = picture(&args.file)?;
    let mut model = open::model(&args.package, isa, threads)?;
    let predicted = predicted(&mut model, &image)?;
    let parent = float_parent(args, &package)?;
    let looked_at = parent.as_ref().map_or(&package, |(_, parent)| parent);
    let class = class.unwrap_or(predicted.index);
    let layer = args.layer.as_deref();
    let question = Question { package: looked_at, task: &task, image: &image, class, layer, isa, threads };
    let explanation = explain(&question).map_err(|error| match error.is::<LayerError>() {
        true => usage(error),
        false => error,
    })?;
    let answered = classification::argmax(&explanation.scores);
    let parent_name = parent.as_ref().map(|(path, _)| name(path));
    let shown = Shown {
        file: &name(&args.file),
        package: &name(&args.package),
        image: &image,
        input: &task.input,
        labels: &task.labels,
        predicted: predicted.index,
        scores: &predicted.scores,
        class,
        parent: parent_name.as_deref().map(|name| (name, answered)),
        explanation: &explanation,
    };
    let mut value = write(&folder, &shown)?;
    value["file"] = args.file.display().to_string().into();
    value["parent"] = parent
        .map(|(path, _)| json!({"file": path.display().to_string(), "label": task.labels[answered]}))
        .into();
    print::result(args.json, &value, || text(&value))
}

/// What a page calls a file.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Where to write: a folder that holds nothing yet.
fn folder(args: &Args) -> anyhow::Result<PathBuf> {
    let Some(out) = &args.out else { return Ok(RunFolder::fresh("explain")) };
    let count = match std::fs::read_dir(out) {
        Ok(entries) => entries.count(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(usage(format!("--out {}: {error}", out.display()))),
    };
    match count {
        0 => Ok(out.clone()),
        _ => Err(usage(format!("--out {}: it exists and is not empty", out.display()))),
    }
}

fn task(package: &Package) -> anyhow::Result<ClassifyImage> {
    match open::task(package)? {
        Task::ClassifyImage(task) => Ok(task),
        other => {
            bail!("its task is {}; explain supports classifiers of pictures (classify-image)", other.kind())
        }
    }
}

fn class(task: &ClassifyImage, name: &str) -> anyhow::Result<usize> {
    let found = task.labels.iter().position(|label| label == name);
    found.ok_or_else(|| {
        const MOST: usize = 20;
        let (first, more) =
            (task.labels.iter().take(MOST).cloned().collect::<Vec<_>>().join(", "), task.labels.len() > MOST);
        usage(format!("--class {name}: the classes are {first}{}", if more { ", ..." } else { "" }))
    })
}

fn picture(path: &Path) -> anyhow::Result<Image> {
    let name = path.display();
    if !path.exists() {
        return Err(usage(format!("{name}: there is no such file")));
    }
    let bytes = std::fs::read(path).with_context(|| name.to_string())?;
    decode(&bytes, &Limits::default()).with_context(|| name.to_string())
}

fn predicted(model: &mut Model, image: &Image) -> anyhow::Result<Prediction> {
    match model.answer(image)? {
        Answer::Label(prediction) => Ok(prediction),
        Answer::Boxes(_) | Answer::Reading(_) => {
            bail!("explain supports classifiers of pictures (classify-image)")
        }
    }
}

/// The float package to look at in place of one of integers.
fn float_parent(args: &Args, package: &Package) -> anyhow::Result<Option<(PathBuf, Package)>> {
    let name = args.package.display();
    if !is_quantized(&package.graph) {
        return match &args.parent {
            Some(_) => Err(usage(format!("--parent: {name} computes with floats itself"))),
            None => Ok(None),
        };
    }
    let Some(digest) = &package.manifest.lineage.parent else {
        bail!(
            "{name} computes with integers, which have no gradients, and names no float package that it was made of"
        )
    };
    if let Some(path) = &args.parent {
        let source = Source::read(open::existing(path)?)?;
        if source.digest != *digest {
            let (path, found) = (path.display(), &source.digest);
            return Err(usage(format!(
                "--parent {path}: {name} was not made of it; it should be the file with SHA-256 {digest}, this is {found}"
            )));
        }
        return Ok(Some((path.clone(), source.package)));
    }
    let folder =
        args.package.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = beside(folder, digest);
    found.map(Some).ok_or_else(|| {
        usage(format!(
            "{name} computes with integers, which have no gradients; the float package that it was made of, the file with \
             SHA-256 {digest}, is not in {}: give it with --parent FILE",
            folder.display()
        ))
    })
}

/// The package in `folder` whose file has this digest.
fn beside(folder: &Path, digest: &str) -> Option<(PathBuf, Package)> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "espalier"));
    paths.sort();
    paths.into_iter().find_map(|path| {
        let source = Source::read(&path).ok().filter(|source| source.digest == *digest)?;
        Some((path, source.package))
    })
}

/// Writes pictures and page; what was written.
fn write(folder: &Path, shown: &Shown<'_>) -> anyhow::Result<Value> {
    let Explanation { heat, filters, layers, .. } = shown.explanation;
    std::fs::create_dir_all(folder).with_context(|| format!("--out {}", folder.display()))?;
    let heatmap = png(folder, "heatmap.png", &blended(shown.image, heat, shown.input))?;
    let filters = filters.as_ref().map(|f| png(folder, "filters.png", &filter_sheet(f))).transpose()?;
    let mut activations = Vec::new();
    for (number, active) in layers.iter().enumerate() {
        let file = png(folder, &format!("activations-{}.png", number + 1), &activation_sheet(active))?;
        let channels = active.channels.iter().map(|c| json!({"channel": c.number, "mean": c.mean}));
        activations
            .push(json!({"layer": active.name, "file": file, "channels": channels.collect::<Vec<_>>()}));
    }
    let explanation = folder.join("explanation.html");
    write_atomic(&explanation, |file| file.write_all(page(shown).as_bytes()))?;
    Ok(json!({
        "label": shown.labels[shown.predicted], "confidence": shown.scores[shown.predicted],
        "class": shown.labels[shown.class], "class_confidence": shown.scores[shown.class], "layer": heat.layer,
        "found": heat.is_found(), "heatmap": heatmap, "filters": filters, "activations": activations,
        "page": explanation.display().to_string(),
    }))
}

fn png(folder: &Path, name: &str, image: &Image) -> anyhow::Result<String> {
    let path = folder.join(name);
    write_atomic(&path, |file: &mut BufWriter<File>| image::write_png(image, file))?;
    Ok(path.display().to_string())
}

fn text(value: &Value) -> String {
    let cell = |key: &str| print::cell(&value[key]);
    let percent = |key: &str| value[key].as_f64().unwrap_or(f64::NAN) * 100.0;
    let mut lines = vec![format!("{}  {}  {:.1} %", cell("file"), cell("label"), percent("confidence"))];
    if value["class"] != value["label"] {
        lines.push(format!("evidence for {}, {:.1} %", cell("class"), percent("class_confidence")));
    }
    if value["found"] == false {
        lines.push(format!("nothing in the map {} speaks for {}", cell("layer"), cell("class")));
    }
    if let Some(parent) = value["parent"].as_object() {
        lines.push(format!("looked at through its float parent {}", print::cell(&parent["file"])));
    }
    lines.push(format!("map: {}", cell("layer")));
    lines.push(format!("page: {}", cell("page")));
    lines.iter().map(|line| format!("{}\n", print::line(line))).collect()
}
