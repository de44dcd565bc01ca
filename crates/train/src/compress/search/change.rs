//! What the search takes out of networks, and trains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use espalier_graph::{Graph, Package, Weights};

use super::Search;
use crate::compress::budget::Figures;
use crate::compress::fine_tune::Tutor;
use crate::compress::latency::layer_seconds;
use crate::compress::policy::Verdict;
use crate::compress::qat::Rounded;
use crate::compress::recipe::Recipe;
use crate::compress::variant::{Sparsity, Structure, Variant, folded};
use crate::compress::{candidate, channels, sparsity};

/// Images that a lesson looks at, all epochs together, and the most epochs.
const IMAGES_SEEN: f64 = 40_000.0;
const MOST_EPOCHS: f64 = 30.0;
/// What a lesson may take of the time that is left.
const TIME: f64 = 0.4;

impl Search<'_> {
    /// Whether the network can be trained; if not, the steps say why.
    pub(super) fn can_train(&mut self) -> bool {
        let start = Instant::now();
        let (network, _) = self.given();
        let made = self.tutor().and_then(|tutor| tutor.check(network));
        if let Err(error) = &made {
            self.ended("train", format!("left out: {error:#}"), start);
        }
        made.is_ok()
    }

    /// Takes out of the network what `structure` says; the number of the variant.
    pub(super) fn changed(&mut self, structure: Structure) -> anyhow::Result<usize> {
        let start = Instant::now();
        let (network, weights) = match self.trained.load(&structure.name()) {
            Some(kept) => kept,
            None => self.train(structure)?,
        };
        self.ended("train", structure.name(), start);
        self.calibrate(structure, (&network, &weights))
    }

    fn train(&mut self, structure: Structure) -> anyhow::Result<(Graph, Weights)> {
        let given = self.given();
        let (mut network, mut weights) = (given.0.clone(), given.1.clone());
        if let Some(share) = structure.prune {
            (network, weights) = self.pruned((&network, &weights), share)?;
        }
        if let Some(sparsity) = structure.sparsity {
            weights = self.sparse((&network, &weights), sparsity)?;
        }
        self.trained.keep(&structure.name(), &network, &weights)?;
        Ok((network, weights))
    }

    /// Whether a changed network would be too large or too slow, however well it learned: a draft of it tells.
    pub(super) fn is_hopeless(&mut self, structure: Structure) -> anyhow::Result<bool> {
        let Some(whole) = self.nearest(0) else { return Ok(false) };
        let start = Instant::now();
        let why = match self.drafted(structure) {
            Ok((network, weights)) => self.costs(whole, structure, (&network, &weights))?,
            Err(error) => error.to_string(),
        };
        if !why.is_empty() {
            self.ended(&format!("{}, a draft", structure.name()), why.clone(), start);
        }
        Ok(!why.is_empty())
    }

    /// A network as small and as fast as the changed one, and not trained.
    fn drafted(&mut self, structure: Structure) -> anyhow::Result<(Graph, Weights)> {
        let given = self.given();
        let (mut network, mut weights) = (given.0.clone(), given.1.clone());
        if let Some(share) = structure.prune {
            let seconds = self.layer_seconds((&network, &weights))?;
            (network, weights) = channels::draft((&network, &weights), share, &seconds)?;
        }
        if let Some(zeros) = structure.sparsity {
            weights = sparsity::draft((&network, &weights), zeros)?;
        }
        Ok((network, weights))
    }

    /// Which parts of the budget integers of this network do not keep, in words; whatever it answers.
    fn costs(
        &mut self,
        whole: usize,
        structure: Structure,
        network: (&Graph, &Weights),
    ) -> anyhow::Result<String> {
        let engine = (self.request.isa, &mut self.pool);
        let drafted = Variant::new(structure, network, &self.calibration, engine, &mut |_| {})?;
        let recipe = Recipe { equalise: false, ..self.recipe(whole).rounding() };
        let (graph, weights) = recipe.make(&drafted.graph, drafted.source(&recipe))?;
        let package = Package { graph, weights, ..self.candidates[whole].package.clone() };
        let plan = self.plan(&package.graph, &package.weights)?;
        let size_bytes = package.to_bytes()?.len() as u64;
        let figures = Figures::untimed(self.candidates[0].figures.metrics.clone(), size_bytes);
        let figures = self.timed(figures, plan)?;
        let reasons = self.excesses_of(&figures).into_iter().map(|excess| excess.reason);
        Ok(reasons.collect::<Vec<_>>().join("; "))
    }

    fn pruned(&mut self, from: (&Graph, &Weights), share: f64) -> anyhow::Result<(Graph, Weights)> {
        self.tutor()?;
        let (seconds, length) = (self.layer_seconds(from)?, self.lesson());
        let tutor = self.tutor.as_mut().expect("just made");
        channels::pruned(from, share, &seconds, tutor, length, self.notify)
    }

    fn sparse(&mut self, from: (&Graph, &Weights), zeros: Sparsity) -> anyhow::Result<Weights> {
        self.tutor()?;
        let (seconds, length) = (self.layer_seconds(from)?, self.lesson());
        let tutor = self.tutor.as_mut().expect("just made");
        sparsity::sparse(from, zeros, &seconds, tutor, length, self.notify)
    }

    /// How long each layer takes, by the name of its weight.
    fn layer_seconds(
        &mut self,
        (network, weights): (&Graph, &Weights),
    ) -> anyhow::Result<BTreeMap<String, f64>> {
        let (graph, weights) = folded(network, weights)?;
        let mut plan = self.plan(&graph, &weights)?;
        Ok(layer_seconds(&graph, &mut plan, &mut self.pool))
    }

    /// How often a lesson sees all of train, and what it may take of the time that there is.
    fn lesson(&self) -> (f64, Option<Duration>) {
        let epochs = (IMAGES_SEEN / self.request.train.list.len() as f64).clamp(1.0, MOST_EPOCHS);
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        (epochs, left.map(|left| left.mul_f64(TIME)))
    }

    pub(super) fn tutor(&mut self) -> anyhow::Result<&mut Tutor> {
        if self.tutor.is_none() {
            let Variant { graph, plain, .. } = &self.variants[0];
            self.tutor = Some(Tutor::new(self.request, graph, &plain.weights)?);
        }
        Ok(self.tutor.as_mut().expect("just made"))
    }

    /// Trains a variant with its roundings, from the recipe that is nearest to float; how the outcome stands to the budget.
    pub(super) fn with_roundings(&mut self, variant: usize) -> anyhow::Result<Verdict> {
        let nearest = match self.nearest(variant) {
            Some(at) => at,
            None => self.recipes(variant)?,
        };
        let recipe = Recipe { correct_biases: false, trained: true, ..self.recipe(nearest).clone() };
        self.tutor()?;
        let (start, length) = (Instant::now(), self.lesson());
        let of = &self.variants[variant];
        let rounded = Rounded::new(&of.graph, of.source(&recipe), &recipe)?;
        let name = candidate::name(of.structure, Some(&recipe));
        let trained = match self.trained.load(&name) {
            Some((_, weights)) => weights,
            None => {
                let tutor = self.tutor.as_mut().expect("just made");
                let weights = rounded.train(tutor, length, self.notify)?;
                self.trained.keep(&name, rounded.network(), &weights)?;
                weights
            }
        };
        let (made, of) = (rounded.integers(&trained)?, (variant, of.structure));
        let made = self.bench.measure(of, Some(recipe), made, self.notify)?;
        let at = self.add(made, start);
        self.time(at)?;
        Ok(self.verdict(at))
    }
}
