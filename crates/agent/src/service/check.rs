//! `--check`: everything that a start would need, without a start.

use std::path::Path;

use super::{AgentError, open, refused, threads, watch, within};
use crate::config::{Config, Fault};
use crate::pipeline::resolve;

/// Opens every package, replays all their golden samples, times them against their budgets, and looks whether the sources
/// are there. What was found, a line for each pipeline.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(path: &Path) -> Result<Vec<String>, AgentError> {
    let config = Config::load(path)?;
    (0..config.pipelines.len()).map(|index| pipeline(path, &config, index)).collect()
}

fn pipeline(path: &Path, config: &Config, index: usize) -> Result<String, AgentError> {
    let pipeline = &config.pipelines[index];
    let mut opened = open(config, index)?;
    let source = resolve(&pipeline.source, opened.model.task()).map_err(|error| {
        within(path, index, Fault::Table { path: "source.uri".into(), right: error.to_string() })
    })?;
    let took = opened
        .check_all(pipeline.model.max_latency, &mut |one| one())
        .map_err(|refusal| refused(config, index, refusal))?;
    watch(path, config, index, &mut opened)?;
    let (threads, samples) = (threads(config, pipeline), opened.golden.len());
    let memory =
        opened.memory.map(|memory| format!("takes {:.1} MB, ", memory.0 as f64 / 1e6)).unwrap_or_default();
    let remark = opened.remark.map(|remark| format!("; {remark}")).unwrap_or_default();
    Ok(format!(
        "{}: {source}; {} {memory}{samples} golden samples agree, {:.2} ms an answer on {threads} cores{remark}",
        pipeline.name,
        opened.name,
        took.as_secs_f64() * 1e3
    ))
}
