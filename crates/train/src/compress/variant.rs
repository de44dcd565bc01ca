//! The float networks that recipes begin with: the one that was given, and what pruning made of it.

use espalier_graph::{Graph, Weights};
use espalier_passes::{equalise, fold_batch_norm};
use espalier_runtime::{Isa, Pool};
use serde::Serialize;

use super::calibration::{Calibration, extents};
use super::recipe::{Calibrated, Recipe};
use super::sensitivity::Sensitivity;

/// What was taken out of a network before it is quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Structure {
    /// Share of the multiply-adds that went with channels.
    pub prune: Option<f64>,
    /// Weights of inner layers that are zero.
    pub sparsity: Option<Sparsity>,
}

/// Weights that are zero in blocks, which sparse kernels skip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sparsity {
    /// Share of the weights.
    pub share: f64,
    /// Output channels of a block, by four input channels of a tap.
    pub block_outputs: usize,
}

impl Sparsity {
    /// Kernels are fastest with blocks of two outputs; those of one cost up to twice their time, and less accuracy.
    pub const BLOCKS: [usize; 2] = [2, 1];
}

impl Structure {
    /// Whether it is the network that was given.
    pub fn is_whole(&self) -> bool {
        *self == Structure::default()
    }

    /// In words; empty for the network that was given.
    pub fn name(&self) -> String {
        let percent = |share: f64| (share * 1000.0).round() / 10.0;
        let pruned = self.prune.map(|share| format!("{} % of the work pruned", percent(share)));
        let sparse = self.sparsity.map(|Sparsity { share, block_outputs }| {
            format!("{} % of inner weights zero in blocks of {block_outputs} x 4", percent(share))
        });
        pruned.into_iter().chain(sparse).collect::<Vec<_>>().join(", ")
    }
}

/// A float network with what flows through it.
pub(super) struct Variant {
    pub(super) structure: Structure,
    /// As it is run: batch normalisation folded.
    pub(super) graph: Graph,
    pub(super) plain: Calibrated,
    /// Made when it is first needed; `None` in it where no two layers can be equalised.
    equalised: Option<Option<Calibrated>>,
    /// Of the best recipe, where it was asked for.
    pub(super) sensitivities: Vec<Sensitivity>,
}

impl Variant {
    /// Runs the calibration images through `network`; `done` is told how many are.
    ///
    /// # Errors
    /// A network that cannot be folded or lowered; values that are not finite.
    pub(super) fn new(
        structure: Structure,
        (network, weights): (&Graph, &Weights),
        calibration: &Calibration,
        (isa, pool): (Isa, &mut Pool),
        done: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Variant> {
        let (graph, folded) = folded(network, weights)?;
        let seen = calibration.observe(&graph, &folded, isa, pool, done)?;
        let plain = Calibrated { weights: folded, seen };
        let (equalised, sensitivities) = (None, Vec::new());
        Ok(Variant { structure, graph, plain, equalised, sensitivities })
    }

    /// Makes the equalised network where `recipe` needs it; whether there is one.
    pub(super) fn prepare(
        &mut self,
        recipe: &Recipe,
        calibration: &Calibration,
        (isa, pool): (Isa, &mut Pool),
    ) -> anyhow::Result<bool> {
        if !recipe.equalise {
            return Ok(true);
        }
        if self.equalised.is_none() {
            let mut weights = self.plain.weights.clone();
            let pairs = equalise(&self.graph, &mut weights, &extents(&self.plain.seen))?;
            let mut made = None;
            if pairs > 0 {
                let seen = calibration.observe(&self.graph, &weights, isa, pool, &mut |_| {})?;
                made = Some(Calibrated { weights, seen });
            }
            self.equalised = Some(made);
        }
        Ok(matches!(self.equalised, Some(Some(_))))
    }

    /// What `recipe` begins with, once it is prepared.
    pub(super) fn source(&self, recipe: &Recipe) -> &Calibrated {
        match &self.equalised {
            Some(Some(equalised)) if recipe.equalise => equalised,
            _ => &self.plain,
        }
    }
}

/// A network as it is run, and its weights.
///
/// # Errors
/// Weights that are missing.
pub(super) fn folded(network: &Graph, weights: &Weights) -> anyhow::Result<(Graph, Weights)> {
    let mut weights = weights.clone();
    let graph = fold_batch_norm(network, &mut weights)?;
    weights.retain(|name, _| graph.find(name).is_some());
    Ok((graph, weights))
}
