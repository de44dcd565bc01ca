//! Quantization-aware training: the network learns with the roundings of int8 in place.

use std::time::Duration;

use espalier_graph::{Graph, Weights};
use espalier_passes::fake_quant::{FakeQuantized, fake_quant};
use espalier_passes::quantize::{Ranges, quantize};

use super::Event;
use super::calibration::ranges;
use super::fine_tune::{Lesson, Tutor};
use super::recipe::{Calibrated, Recipe, with_integers};

/// The highest learning rate, in units of training's.
const RATE: f32 = 0.05;
/// Share of a lesson's epochs: rounding takes less from a network than pruning does.
const EPOCHS: f64 = 0.3;

/// A folded network whose roundings can be trained.
pub(super) struct Rounded<'a> {
    graph: &'a Graph,
    recipe: &'a Recipe,
    ranges: Ranges,
    fake: FakeQuantized,
}

impl<'a> Rounded<'a> {
    /// `graph` with the roundings of `recipe`, which begin where calibration puts them.
    ///
    /// # Errors
    /// A graph that cannot be quantized.
    pub(super) fn new(
        graph: &'a Graph,
        from: &Calibrated,
        recipe: &'a Recipe,
    ) -> anyhow::Result<Rounded<'a>> {
        let (ranges, settings) = (ranges(&from.seen, recipe.ranges), recipe.settings());
        let quantized = quantize(graph, &from.weights, &ranges, &settings)?;
        let fake = fake_quant(&quantized, &from.weights, &settings)?;
        Ok(Rounded { graph, recipe, ranges, fake })
    }

    /// The network that is trained.
    pub(super) fn network(&self) -> &Graph {
        &self.fake.graph
    }

    /// Its states after training.
    ///
    /// # Errors
    /// As [`Tutor::teach`].
    pub(super) fn train(
        &self,
        tutor: &mut Tutor,
        (epochs, max_time): (f64, Option<Duration>),
        notify: &mut dyn FnMut(Event),
    ) -> anyhow::Result<Weights> {
        let lesson = Lesson {
            what: "with roundings",
            network: &self.fake.graph,
            weights: &self.fake.weights,
            epochs: epochs * EPOCHS,
            rate: RATE,
            max_time,
            after_step: &mut |_, _| {},
        };
        tutor.teach(lesson, notify)
    }

    /// The graph of integers that rounds as the network with the states `trained` does, and its weights.
    ///
    /// # Errors
    /// Weights that are missing or absurdly large.
    pub(super) fn integers(&self, trained: &Weights) -> anyhow::Result<(Graph, Weights)> {
        let settings = self.recipe.settings();
        let ranges = self.fake.ranges(self.graph, &self.ranges, &settings, trained)?;
        let mut weights = trained.clone();
        weights.retain(|name, _| self.graph.find(name).is_some_and(|id| self.graph.is_state(id)));
        Ok(with_integers(quantize(self.graph, &weights, &ranges, &settings)?)?)
    }
}
