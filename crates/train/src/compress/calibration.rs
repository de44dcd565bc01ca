//! What flows through the float network on a few training images.

use std::collections::BTreeMap;

use espalier_graph::random::bits;
use espalier_graph::{Bindings, Dim, Graph, Weights};
use espalier_passes::Extents;
use espalier_passes::quantize::{Ranges, observed};
use espalier_runtime::{Isa, Options, Plan, Pool, lower};
use espalier_tasks::{Limits, Task};

use sha2::{Digest, Sha256};

use super::histogram::{Histogram, Method};
use crate::data::{DataError, Example, Examples, Skipped, parallel};
use crate::digest;

/// Stream of the seed that chooses images.
const CHOICE: u64 = 31;
/// Images in a batch.
const BATCH: usize = 4;
/// Most elements of all calibration inputs together (400 MB).
const MAX_ELEMENTS: usize = 100 << 20;

/// Input tensors of a few images.
pub struct Calibration {
    /// One after the other.
    inputs: Vec<f32>,
    /// Elements of one.
    len: usize,
    /// Images that were chosen and could not be read.
    pub skipped: Vec<Skipped>,
}

/// What one value was over all calibration images.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    histogram: Histogram,
    /// Sum over all elements of each channel.
    sums: Vec<f64>,
    /// Largest magnitude of each channel.
    extents: Vec<f32>,
    /// Elements of one channel that were added.
    count: usize,
    /// Elements that are not finite.
    odd: usize,
}

impl Calibration {
    /// Reads `count` examples chosen by `seed`, fewer where there are not so many or they are large.
    ///
    /// # Errors
    /// None of them can be read.
    pub fn load(
        examples: &Examples,
        task: &Task,
        count: usize,
        seed: u64,
        threads: usize,
    ) -> Result<Calibration, DataError> {
        let len: usize = task.input_shape().iter().product();
        let count = count.min((MAX_ELEMENTS / len.max(1)).max(BATCH)).min(examples.list.len());
        let mut order: Vec<usize> = (0..examples.list.len()).collect();
        order.sort_by_key(|&i| (bits(seed, CHOICE, i as u64), i));
        let chosen: Vec<&Example> = order[..count].iter().map(|&i| &examples.list[i]).collect();
        let mut inputs = vec![0.0; count * len];
        let mut read: Vec<Option<DataError>> = chosen.iter().map(|_| None).collect();
        let rows = inputs.chunks_exact_mut(len.max(1));
        parallel::for_each(threads, chosen.iter().zip(rows).zip(&mut read), |((example, row), error)| {
            let loaded = example.load(&Limits::default());
            *error = loaded.and_then(|(content, _)| Ok(task.preprocess(content.input(), row)?)).err();
        });
        let mut kept = Vec::with_capacity(inputs.len());
        let mut skipped = Vec::new();
        for ((row, error), example) in inputs.chunks_exact(len.max(1)).zip(read).zip(&chosen) {
            match error {
                None => kept.extend_from_slice(row),
                Some(error) => skipped.push(Skipped {
                    name: example.name(),
                    split: Some(examples.split),
                    reason: error.reason(),
                }),
            }
        }
        match (kept.is_empty(), skipped.first()) {
            (true, Some(first)) => {
                Err(DataError::Read { name: first.name.clone(), reason: first.reason.clone() })
            }
            _ => Ok(Calibration { inputs: kept, len, skipped }),
        }
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.inputs.len() / self.len.max(1)
    }

    /// Identifies the inputs: SHA-256 of their tensors.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        self.inputs.iter().for_each(|v| hash.update(v.to_le_bytes()));
        digest::finish(hash)
    }

    /// The first input.
    pub fn first(&self) -> &[f32] {
        &self.inputs[..self.len]
    }

    /// What the values that quantization asks about are, over all images; `done` is told how many are.
    ///
    /// # Errors
    /// The graph cannot be lowered; a value that is not finite.
    pub(super) fn observe(
        &self,
        graph: &Graph,
        weights: &Weights,
        isa: Isa,
        pool: &mut Pool,
        done: &mut dyn FnMut(usize),
    ) -> anyhow::Result<BTreeMap<String, Seen>> {
        let (mut watched, names) = (graph.clone(), observed(graph));
        let outputs: Vec<String> = (0..names.len())
            .map(|i| format!("observed.{i}"))
            .map(|name| if graph.output(&name).is_none() { name } else { format!("{name}.again") })
            .collect();
        for (output, name) in outputs.iter().zip(&names) {
            let id = watched.find(name).expect("the graph's own value");
            watched.add_output(output, id)?;
        }
        let mut seen: BTreeMap<String, Seen> =
            names.iter().map(|name| (name.clone(), Seen::default())).collect();
        self.run(&watched, weights, self.images(), isa, pool, &mut |plan, images, end| {
            for (output, name) in outputs.iter().zip(&names) {
                let id = graph.find(name).expect("the graph's own value");
                let shape = graph.ty(id).shape.bind(Bindings::batch(images));
                seen.get_mut(name).expect("there from the start").add(plan.output(output), &shape);
            }
            done(end);
        })?;
        if let Some((name, _)) = seen.iter().find(|(_, seen)| seen.odd > 0) {
            anyhow::bail!("`{name}` takes values that are not finite on images of train, so it has no range");
        }
        Ok(seen)
    }

    /// The outputs of `graph` for the first `images` images: those of an image one after the other.
    ///
    /// # Errors
    /// The graph cannot be lowered.
    pub(super) fn outputs(
        &self,
        graph: &Graph,
        weights: &Weights,
        images: usize,
        isa: Isa,
        pool: &mut Pool,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut all = vec![Vec::new(); graph.outputs().len()];
        self.run(graph, weights, images, isa, pool, &mut |plan, _, _| {
            for (all, (name, _)) in all.iter_mut().zip(graph.outputs()) {
                all.extend_from_slice(plan.output(name));
            }
        })?;
        Ok(all)
    }

    /// Runs the first `images` images in batches; `read` gets the plan, the images in the batch and how many are done.
    fn run(
        &self,
        graph: &Graph,
        weights: &Weights,
        images: usize,
        isa: Isa,
        pool: &mut Pool,
        read: &mut dyn FnMut(&Plan, usize, usize),
    ) -> anyhow::Result<()> {
        let input = graph.inputs()[0];
        let takes_batches = graph.ty(input).shape.0.first() == Some(&Dim::N);
        let batch = if takes_batches { BATCH } else { 1 };
        let mut plan: Option<(usize, Plan)> = None;
        let mut done = 0;
        for rows in self.inputs[..images.min(self.images()) * self.len].chunks(batch * self.len) {
            let size = rows.len() / self.len;
            if plan.as_ref().is_none_or(|(made_for, _)| *made_for != size) {
                let options = Options { isa, threads: pool.workers(), bindings: Bindings::batch(size) };
                plan = Some((size, lower(graph, weights, options)?));
            }
            let (_, plan) = plan.as_mut().expect("just made");
            plan.input(&graph.value(input).name).copy_from_slice(rows);
            plan.run(pool);
            done += size;
            read(plan, size, done);
        }
        Ok(())
    }
}

impl Seen {
    fn add(&mut self, values: &[f32], shape: &[usize]) {
        self.odd += self.histogram.add(values);
        // Pictures have their channels behind the batch, rows are made of them.
        let (channels, inner) = match *shape {
            [_, channels, height, width] => (channels, height * width),
            _ => (shape.last().copied().unwrap_or(1), 1),
        };
        self.sums.resize(channels, 0.0);
        self.extents.resize(channels, 0.0);
        for (at, part) in values.chunks_exact(inner.max(1)).enumerate() {
            let c = at % channels;
            self.sums[c] += part.iter().map(|&v| f64::from(v)).sum::<f64>();
            self.extents[c] = part.iter().fold(self.extents[c], |most, v| most.max(v.abs()));
        }
        self.count += values.len() / channels.max(1);
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.count.max(1) as f64).collect()
    }
}

/// The ranges by `method`.
pub(super) fn ranges(seen: &BTreeMap<String, Seen>, method: Method) -> Ranges {
    seen.iter().map(|(name, seen)| (name.clone(), seen.histogram.range(method))).collect()
}

/// The means of every channel.
pub(super) fn means(seen: &BTreeMap<String, Seen>) -> BTreeMap<String, Vec<f64>> {
    seen.iter().map(|(name, seen)| (name.clone(), seen.means())).collect()
}

/// The largest magnitudes of every channel.
pub(super) fn extents(seen: &BTreeMap<String, Seen>) -> Extents {
    seen.iter().map(|(name, seen)| (name.clone(), seen.extents.clone())).collect()
}
