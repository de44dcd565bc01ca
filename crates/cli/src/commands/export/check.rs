//! Whether an exported file answers as its package does.

use anyhow::Context;
use espalier_graph::{Data, Golden, Graph, Package, Tensor, Weights};
use espalier_passes::fold_batch_norm;
use espalier_runtime::Options;
use espalier_tasks::golden::Raw;
use espalier_tasks::model::content;
use espalier_tasks::{Content, Model, Task};
use serde_json::{Value, json};

use crate::made_up;

/// Outputs may be off by this share of their Euclidean norm: floats are summed in another order.
pub(super) const TOLERANCE: f64 = 1e-4;

/// The same for networks of bytes in other runtimes, which compute some of it with floats: roundings fall to the other side of
/// a tie now and then, and a step goes its way through the layers behind it.
pub(super) const TOLERANCE_BYTES: f64 = 0.05;

/// Made-up samples beside the golden ones.
const MADE_UP: u64 = 4;

/// Samples with the outputs that the package gives for them.
pub(super) struct Reference {
    pub(super) samples: Vec<Golden>,
    /// Whether some of it is computed with bytes.
    pub(super) has_bytes: bool,
    /// Whether the largest number of the only output is the answer.
    classifies: bool,
}

impl Reference {
    /// Replays the package's golden samples, and runs it on made-up ones.
    ///
    /// # Errors
    /// The package does not run here, or answers otherwise than its golden samples say.
    pub(super) fn new(
        package: &Package,
        graph: Graph,
        weights: Weights,
        task: Option<Task>,
        options: Options,
    ) -> anyhow::Result<Reference> {
        let inputs = match &task {
            Some(task) => {
                let mut model =
                    Model::new(graph.clone(), weights.clone(), task.clone(), options.isa, options.threads)?;
                model.replay(&package.golden)?;
                inputs(package, task)?
                    .iter()
                    .map(|content| prepared(task, content))
                    .collect::<Result<Vec<_>, _>>()?
            }
            None => {
                Raw::new(&graph, &weights, options)?.replay(&package.golden)?;
                let golden = package.golden.iter().map(|sample| sample.inputs.clone());
                let made_up = (0..MADE_UP).map(|number| {
                    let streams = 1000 * (number + 1)..;
                    graph
                        .inputs()
                        .iter()
                        .zip(streams)
                        .map(|(&id, at)| made_up::tensor(graph.ty(id), at))
                        .collect()
                });
                golden.chain(made_up).collect()
            }
        };
        let mut raw = Raw::new(&graph, &weights, options)?;
        Ok(Reference {
            samples: inputs.into_iter().map(|inputs| raw.golden(inputs)).collect::<Result<_, _>>()?,
            has_bytes: graph.values().iter().any(|value| value.ty.dtype.quant().is_some()),
            classifies: matches!(task, Some(Task::ClassifyImage(_))),
        })
    }

    /// Runs what our own importer makes of the file.
    ///
    /// # Errors
    /// The importer refuses the file.
    pub(super) fn by_import(&self, bytes: &[u8], options: Options) -> anyhow::Result<Check> {
        let imported = espalier_onnx::from_bytes(bytes.to_vec(), espalier_onnx::Options::default());
        let imported = imported.context("the exported file, read back")?;
        let mut weights = imported.weights;
        let graph = fold_batch_norm(&imported.graph, &mut weights)?;
        let mut raw = Raw::new(&graph, &weights, options)?;
        let outputs = |sample: &Golden| Ok(raw.golden(sample.inputs.clone())?.outputs);
        let got = self.samples.iter().map(outputs).collect::<anyhow::Result<Vec<_>>>()?;
        let names: Vec<String> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        Ok(self.compare("espalier", &got, &names, TOLERANCE))
    }

    /// Compares what `engine` gave, for each sample the outputs called `names`, with the package's.
    pub(super) fn compare(
        &self,
        engine: &'static str,
        got: &[Vec<Tensor>],
        names: &[String],
        tolerance: f64,
    ) -> Check {
        let (mut max_error, mut complaint) = (0.0, None);
        for (number, (sample, got)) in self.samples.iter().zip(got).enumerate() {
            for ((want, got), name) in sample.outputs.iter().zip(got).zip(names) {
                let (want, got) = (floats(want), floats(got));
                let error = distance(got, want);
                max_error = if max_error >= error { max_error } else { error };
                let told = || format!("output `{name}` of sample {number} in {engine}");
                // Not `> tolerance`: a NaN has to differ.
                let is_near = error <= tolerance;
                if !is_near {
                    complaint.get_or_insert_with(|| {
                        format!(
                            "the exported file disagrees with the package: {} is off by {error:.2e} of its norm, \
                             {tolerance:.0e} is allowed",
                            told()
                        )
                    });
                } else if self.classifies && largest(got) != largest(want) && is_sure(want, tolerance) {
                    complaint.get_or_insert_with(|| {
                        let classes = [largest(want), largest(got)].map(|at| at.map_or("none".into(), |at| at.to_string()));
                        let [want, got] = classes;
                        format!(
                            "the exported file disagrees with the package: {} answers class {got} instead of {want}",
                            told()
                        )
                    });
                }
            }
        }
        Check { engine, outcome: Outcome::Ran { samples: got.len(), max_error, complaint } }
    }
}

/// What one engine made of the file.
pub(super) struct Check {
    pub(super) engine: &'static str,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Ran {
        samples: usize,
        /// The largest distance of an output from the package's, as a share of its norm.
        max_error: f64,
        /// What is wrong, if something is.
        complaint: Option<String>,
    },
    /// The engine is not here; why.
    Absent(String),
}

impl Check {
    pub(super) fn complaint(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Ran { complaint, .. } => complaint.clone(),
            Outcome::Absent(_) => None,
        }
    }

    /// What the user should know where nothing was compared.
    pub(super) fn note(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Absent(reason) => Some(format!("not checked by {}: {reason}", self.engine)),
            Outcome::Ran { .. } => None,
        }
    }

    pub(super) fn report(&self) -> Value {
        match &self.outcome {
            Outcome::Ran { samples, max_error, complaint } => json!({
                "engine": self.engine, "samples": samples, "max_error": max_error, "agree": complaint.is_none(),
            }),
            Outcome::Absent(reason) => json!({
                "engine": self.engine, "samples": 0, "max_error": null, "agree": null, "reason": reason,
            }),
        }
    }
}

/// The inputs of the golden samples, and made-up pictures for tasks that take pictures.
fn inputs(package: &Package, task: &Task) -> anyhow::Result<Vec<Content>> {
    let golden = package.golden.iter().flat_map(|sample| &sample.inputs).map(|tensor| Ok(content(tensor)?));
    // Others than those that `import` makes golden samples of.
    let made_up = (100..100 + MADE_UP).filter(|_| task.picture_input().is_some());
    golden.chain(made_up.map(|number| Ok(Content::Image(made_up::picture(number))))).collect()
}

/// The input tensor of a raw input.
fn prepared(task: &Task, content: &Content) -> anyhow::Result<Vec<Tensor>> {
    let shape = [vec![1], task.input_shape()].concat();
    let mut x = vec![0.0; shape.iter().product()];
    task.preprocess(content.input(), &mut x)?;
    Ok(vec![Tensor::f32(&shape, x)])
}

fn floats(tensor: &Tensor) -> &[f32] {
    match &tensor.data {
        Data::F32(v) => v,
        _ => &[],
    }
}

/// The Euclidean distance as a share of the norm of `want`; infinite where the lengths differ.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    match norm(&mut want.iter().map(|&w| f64::from(w))) {
        _ if got.len() != want.len() => f64::INFINITY,
        _ if difference == 0.0 => 0.0,
        size => difference / size,
    }
}

/// Where the largest number is.
fn largest(values: &[f32]) -> Option<usize> {
    (0..values.len()).reduce(|best, at| if values[at] > values[best] { at } else { best })
}

/// Whether the largest number leads by more than `tolerance` of the span of all: else the answer is a toss-up.
fn is_sure(values: &[f32], tolerance: f64) -> bool {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    match sorted[..] {
        [first, second, ..] => {
            f64::from(first - second) > tolerance * f64::from(first - sorted[sorted.len() - 1])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(classifies: bool) -> Reference {
        let sample = |output: &[f32]| Golden {
            inputs: Vec::new(),
            outputs: vec![Tensor::f32(&[output.len()], output.to_vec())],
        };
        Reference {
            samples: vec![sample(&[0.0, 3.0, 4.0]), sample(&[1.0, 0.0, 0.0])],
            has_bytes: false,
            classifies,
        }
    }

    fn compared(second: &[f32], tolerance: f64, classifies: bool) -> Check {
        let outputs = |values: &[f32]| vec![Tensor::f32(&[values.len()], values.to_vec())];
        let got = [outputs(&[0.0, 3.0, 4.0]), outputs(second)];
        reference(classifies).compare("an engine", &got, &["y".into()], tolerance)
    }

    #[test]
    fn what_is_off_is_named() {
        assert_eq!(compared(&[1.0, 0.0, 0.0], 1e-4, true).complaint(), None);
        assert_eq!(compared(&[1.0, 0.00005, 0.0], 1e-4, true).complaint(), None);
        let check = compared(&[1.0, 0.5, 0.0], 1e-4, true);
        let complaint = check.complaint().unwrap();
        assert!(complaint.contains("output `y` of sample 1 in an engine is off by 5.00e-1"), "{complaint}");
        assert_eq!(check.report()["agree"], false);
        for wrong in [&[f32::NAN, 0.0, 0.0][..], &[1.0, 0.0], &[]] {
            assert!(compared(wrong, 0.5, false).complaint().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn another_answer_is_named_unless_it_is_a_toss_up() {
        let complaint = compared(&[0.4, 0.5, 0.0], 0.9, true).complaint();
        assert!(complaint.is_some_and(|text| text.contains("class 1 instead of 0")));
        assert_eq!(compared(&[0.4, 0.5, 0.0], 0.9, false).complaint(), None);
        assert!(is_sure(&[1.0, 0.0, -1.0], 0.05) && !is_sure(&[1.0, 0.99, -1.0], 0.05));
    }
}
