//! Golden samples: what the maker of a package measured, and whether this machine measures the same.

use espalier_graph::{Bindings, Data, Golden, Graph, Tensor, Weights};
use espalier_runtime::{Options, Plan, Pool, lower};

use crate::model::ModelError;

/// Float outputs of our own runtime may differ from a golden sample's by this share of their range.
pub const GOLDEN_TOLERANCE: f32 = 1e-3;

/// The name of our own runtime among engines.
pub(crate) const OWN: &str = "espalier";

/// Compares answers of `engine` with those of golden samples; `got` has, for each sample, the elements of each output.
///
/// # Errors
/// The first element that is further off than the share `tolerance` of its output's range over all samples.
pub(crate) fn compare(
    golden: &[Golden],
    got: &[Vec<Vec<f32>>],
    engine: &str,
    tolerance: f32,
) -> Result<(), ModelError> {
    for output in 0..golden.first().map_or(0, |sample| sample.outputs.len()) {
        let wanted =
            |sample: &'_ Golden| sample.outputs.get(output).and_then(|t| t.as_f32().map(<[f32]>::to_vec));
        let wanted: Option<Vec<Vec<f32>>> = golden.iter().map(wanted).collect();
        let wanted = wanted.ok_or(ModelError::GoldenInput)?;
        let values = wanted.iter().flatten();
        let (lo, hi) = values.fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        let allowed = (hi - lo).max(f32::MIN_POSITIVE) * tolerance;
        for (sample, (want, got)) in wanted.iter().zip(got).enumerate() {
            let got = got.get(output).filter(|got| got.len() == want.len()).ok_or(ModelError::GoldenInput)?;
            // Not `> allowed`: a NaN has to differ.
            let agrees = |got: f32, want: f32| (got - want).abs() <= allowed;
            if let Some(element) = got.iter().zip(want).position(|(&got, &want)| !agrees(got, want)) {
                let (got, want) = (got[element], want[element]);
                let engine = engine.into();
                return Err(ModelError::Golden { engine, sample, output, element, got, want, allowed });
            }
        }
    }
    Ok(())
}

/// A graph without a task, lowered for a batch of one: raw tensors in and out.
pub struct Raw<'a> {
    graph: &'a Graph,
    plan: Plan,
    pool: Pool,
}

impl<'a> Raw<'a> {
    /// Lowers `graph`, batch normalisation folded or not.
    ///
    /// # Errors
    /// The graph cannot be lowered.
    pub fn new(graph: &'a Graph, weights: &Weights, options: Options) -> Result<Self, ModelError> {
        let options = Options { bindings: Bindings::batch(1), ..options };
        Ok(Raw { graph, plan: lower(graph, weights, options)?, pool: Pool::new(options.threads) })
    }

    /// A golden sample of `inputs`, one for each of the graph's.
    ///
    /// # Errors
    /// Inputs that are not the graph's for a batch of one.
    pub fn golden(&mut self, inputs: Vec<Tensor>) -> Result<Golden, ModelError> {
        let outputs = self.outputs(&inputs)?;
        let shape = |id| self.graph.ty(id).shape.bind(Bindings::batch(1));
        let outputs = outputs.into_iter().zip(self.graph.outputs());
        let outputs = outputs.map(|(output, (_, id))| Tensor::f32(&shape(*id), output)).collect();
        Ok(Golden { inputs, outputs })
    }

    /// Answers golden samples again and compares.
    ///
    /// # Errors
    /// The first element outside of [`GOLDEN_TOLERANCE`].
    pub fn replay(&mut self, golden: &[Golden]) -> Result<(), ModelError> {
        let answers =
            golden.iter().map(|sample| self.outputs(&sample.inputs)).collect::<Result<Vec<_>, _>>()?;
        compare(golden, &answers, OWN, GOLDEN_TOLERANCE)
    }

    fn outputs(&mut self, inputs: &[Tensor]) -> Result<Vec<Vec<f32>>, ModelError> {
        let ids = self.graph.inputs();
        let fits = |(id, tensor): (&_, &Tensor)| {
            let ty = self.graph.ty(*id);
            ty.dtype == tensor.data.dtype() && ty.shape.bind(Bindings::batch(1)) == tensor.shape
        };
        if ids.len() != inputs.len() || !ids.iter().zip(inputs).all(fits) {
            return Err(ModelError::GoldenInput);
        }
        for (&id, tensor) in ids.iter().zip(inputs) {
            let name = &self.graph.value(id).name;
            match &tensor.data {
                Data::F32(v) => self.plan.input(name).copy_from_slice(v),
                Data::I32(v) => self.plan.input_i32(name).copy_from_slice(v),
                Data::U8(_) | Data::S8(_) => return Err(ModelError::GoldenInput),
            }
        }
        self.plan.run(&mut self.pool);
        Ok(self.graph.outputs().iter().map(|(name, _)| self.plan.output(name).to_vec()).collect())
    }
}
