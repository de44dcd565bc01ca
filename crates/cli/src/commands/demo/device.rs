//! The agent on a camera: first as it was trained for, then disturbed.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use espalier_agent::Disturbance;
use espalier_tasks::Limits;
use espalier_tasks::image::write_png;
use espalier_train::data::{Dataset, Sample, Source, Split};

use super::child::{Agent, Line};
use super::told::{All, Told};
use crate::print;
use crate::progress::Progress;

/// The data that the camera of digits shows.
pub(super) const DIGITS: &str = "builtin:mnist-5k";

/// Frames a second of the camera of digits, and frames of each of its scenes, about.
const RATE: u64 = 200;
const FRAMES: u64 = 5 * RATE;
/// The camera ends by itself after that, and the agent with it, should nobody be left who ends it.
const LAST_FRAME: u64 = 10 * FRAMES;
/// Pictures of a folder that are played, at most.
const PICTURES: usize = 1000;
/// For a pipeline to begin, and for all frames of a scene.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent looks at for a while.
pub(super) struct Scene {
    /// The pipeline's name.
    pub(super) name: &'static str,
    /// What is wrong with the camera.
    pub(super) disturbance: Disturbance,
    uri: String,
    /// How many frames; until the source ends, if nothing is said.
    frames: Option<u64>,
}

/// The camera of digits as it should be, and in four other states.
pub(super) fn digits(seed: u64) -> Vec<Scene> {
    let fine = Disturbance::default();
    let states = [
        ("undisturbed", "", fine),
        ("darkness", "&darkness=0.65", Disturbance { darkness: 0.65, ..fine }),
        ("blur", "&blur=1.2", Disturbance { blur: 1.2, ..fine }),
        ("rotation", "&rotation=40", Disturbance { rotation: 40.0, ..fine }),
        ("noise", "&noise=0.13", Disturbance { noise: 0.13, ..fine }),
    ];
    let scene = |(name, options, disturbance)| Scene {
        name,
        disturbance,
        uri: format!("{DIGITS}?rate={RATE}&seed={seed}&frames={LAST_FRAME}{options}"),
        frames: Some(FRAMES),
    };
    // Elsewhere there is no signal that has a configuration read again.
    states.into_iter().take(if cfg!(unix) { 5 } else { 1 }).map(scene).collect()
}

/// The pictures of a split as a source of their own, in `folder`.
pub(super) fn pictures(data: &Dataset, split: Split, folder: &Path) -> anyhow::Result<Vec<Scene>> {
    let samples = data.split(split);
    let chosen = samples.iter().step_by(samples.len().div_ceil(PICTURES)).zip(0..);
    for (sample, number) in chosen {
        let class = folder.join(&data.classes[sample.label]);
        fs::create_dir_all(&class)?;
        lay(sample, &class, number).with_context(|| sample.name())?;
    }
    let uri = folder.canonicalize()?.to_str().context("the folder's name is not UTF-8")?.to_owned();
    Ok(vec![Scene { name: "undisturbed", disturbance: Disturbance::default(), uri, frames: None }])
}

/// A picture into the folder of its class, as a link where that can be.
fn lay(sample: &Sample, class: &Path, number: usize) -> anyhow::Result<()> {
    let to = |extension: &str| class.join(format!("{number:05}.{extension}"));
    match &sample.source {
        Source::File(path) => {
            let (path, extension) = (path.canonicalize()?, path.extension().unwrap_or_default());
            let to = to(&extension.to_string_lossy());
            fs::hard_link(&path, &to).or_else(|_| fs::copy(&path, &to).map(drop))?;
        }
        Source::Row(..) => {
            let file = BufWriter::new(File::create(to("png"))?);
            write_png(&sample.image(&Limits::default())?, file)?;
        }
    }
    Ok(())
}

/// What a user would write into `agent.toml`.
fn config(scene: &Scene, package: &str) -> String {
    let (name, uri, package) =
        (scene.name, toml::Value::from(scene.uri.as_str()), toml::Value::from(package));
    format!(
        r#"[device]
name = "demo"
data = "data"

[status]
listen = "127.0.0.1:0"

[[pipeline]]
name = "{name}"
source = {{ uri = {uri} }}
model = {{ path = {package} }}

[pipeline.aggregate]
span = "1s"

[pipeline.drift]

[pipeline.samples]
folder = "samples"

[[sink]]
type = "folder"
path = "insights"
samples = ["samples"]

[[sink]]
type = "stdout"
"#
    )
}

/// Runs the agent in `folder` through all scenes; what it said.
pub(super) fn run(scenes: &[Scene], package: &Path, folder: &Path) -> anyhow::Result<All> {
    fs::create_dir_all(folder)?;
    let path = folder.join("agent.toml");
    let package = package.canonicalize()?.to_str().context("the package's name is not UTF-8")?.to_owned();
    let (mut all, mut running) = (All::new(), None::<Agent>);
    for scene in scenes {
        fs::write(&path, config(scene, &package))?;
        let agent = match &mut running {
            Some(agent) => {
                agent.reload();
                agent
            }
            none => {
                eprintln!("   espalier agent --config {}", print::line(&path.display().to_string()));
                none.insert(Agent::start(&path)?)
            }
        };
        watch(agent, scene, &mut all)?;
    }
    if let Some(mut agent) = running {
        agent.end(|line| hear(&mut all, line).map(|_| false))?;
    }
    Ok(all)
}

/// Hears what the agent says while it looks at a scene.
fn watch(agent: &mut Agent, scene: &Scene, all: &mut All) -> anyhow::Result<()> {
    let name = scene.name;
    let begins = |line| Ok(hear(all, line)?.as_deref() == Some(name));
    agent.listen(Some(Instant::now() + PATIENCE), begins)?;
    if !all.contains_key(name) {
        agent.wait()?;
        bail!("the agent does not look at the scene `{name}`");
    }
    let goes_on = match scene.frames {
        Some(frames) => see(agent, name, frames, all)?,
        None => agent.listen(None, |line| hear(all, line).map(|_| false))?,
    };
    match all[name].drift.as_ref() {
        Some((statistic, frame)) => eprintln!("   {name}: {statistic} drifts, told at frame {frame}"),
        None => eprintln!("   {name}: no drift"),
    }
    if scene.frames.is_some() && !goes_on {
        agent.wait()?;
        bail!("the agent ended before its time");
    }
    Ok(())
}

/// Hears of so many frames of a pipeline, or as many as there are while anybody has patience; whether the agent goes on.
fn see(agent: &mut Agent, name: &str, frames: u64, all: &mut All) -> anyhow::Result<bool> {
    let mut bar = Progress::new(&format!("   {name}"), "frames", frames, 0);
    let goes_on = agent.listen(Some(Instant::now() + PATIENCE), |line| {
        hear(all, line)?;
        bar.set(all[name].seen.min(frames), "");
        Ok(all[name].seen >= frames)
    });
    bar.finish();
    goes_on
}

/// Takes a line of the agent; the pipeline that an insight is of.
fn hear(all: &mut All, line: Line) -> anyhow::Result<Option<String>> {
    match line {
        Line::Insight(text) => Told::hear(all, &text).context("an insight").map(Some),
        Line::Event(text) => {
            if let Some((_, url)) = text.split_once("status page and metrics: ") {
                eprintln!("   its status page, while it runs: {url}");
            } else if [" error ", " warning "].iter().any(|level| text.contains(level)) {
                eprintln!("   {}", print::line(&text));
            }
            Ok(None)
        }
    }
}
