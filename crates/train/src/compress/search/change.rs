//! What the search takes out of networks, and trains.

use std::time::{Duration, Instant};

use espalier_graph::{Graph, Weights};

use super::Search;
use crate::compress::fine_tune::Tutor;
use crate::compress::latency::layer_seconds;
use crate::compress::sparsity::sparse;
use crate::compress::variant::{Structure, Variant, folded};

/// Images that a lesson looks at, all epochs together, and the most epochs.
const IMAGES_SEEN: f64 = 30_000.0;
const MOST_EPOCHS: f64 = 25.0;

impl Search<'_> {
    /// Whether the network can be trained; if not, the steps say why.
    pub(super) fn can_train(&mut self) -> bool {
        let start = Instant::now();
        let network = self.variants[0].network.clone();
        let made = self.tutor().and_then(|tutor| tutor.check(&network));
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
            None => {
                let (network, mut weights) =
                    (self.variants[0].network.clone(), self.variants[0].weights.clone());
                if let Some(share) = structure.sparsity {
                    weights = self.sparse((&network, &weights), share)?;
                }
                self.trained.keep(&structure.name(), &network, &weights)?;
                (network, weights)
            }
        };
        self.ended("train", structure.name(), start);
        self.calibrate(structure, network, weights)
    }

    pub(super) fn sparse(&mut self, from: (&Graph, &Weights), share: f64) -> anyhow::Result<Weights> {
        let (graph, weights) = folded(from.0, from.1)?;
        let mut plan = self.plan(&graph, &weights)?;
        let seconds = layer_seconds(&graph, &mut plan, &mut self.pool);
        let (epochs, time) = (self.epochs(), self.time_left());
        self.tutor()?;
        let tutor = self.tutor.as_mut().expect("just made");
        sparse(from, (share, 2), &seconds, tutor, (epochs, time), self.notify)
    }

    /// How often a lesson sees all of train.
    pub(super) fn epochs(&self) -> f64 {
        (IMAGES_SEEN / self.request.train.list.len() as f64).clamp(1.0, MOST_EPOCHS)
    }

    /// What a lesson may take of the time that there is.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / 2)
    }

    pub(super) fn tutor(&mut self) -> anyhow::Result<&mut Tutor> {
        if self.tutor.is_none() {
            let Variant { graph, plain, .. } = &self.variants[0];
            self.tutor = Some(Tutor::new(self.request, graph, &plain.weights)?);
        }
        Ok(self.tutor.as_mut().expect("just made"))
    }
}
