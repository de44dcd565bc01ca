//! Which candidate is the answer, and why the others are not.

use std::cmp::Ordering;

use super::Search;
use crate::compress::budget::{Excess, Figures};
use crate::compress::candidate::Candidate;
use crate::compress::layers::{self, Pruned};
use crate::compress::policy::Verdict;
use crate::compress::variant::Variant;
use crate::compress::{Choice, Outcome, Settings};

impl Search<'_> {
    /// How far from the float network: by the metric, where better is luck and counts as equal; then by the answers.
    pub(super) fn distance(&self, at: usize) -> (f64, f64) {
        let Candidate { figures, agreement, .. } = &self.candidates[at];
        let drop = figures.drop(&self.candidates[0].figures, self.metric());
        (drop.max(0.0), 1.0 - agreement.unwrap_or(1.0))
    }

    /// The candidate of integers of a variant that is nearest to float.
    pub(super) fn nearest(&self, variant: usize) -> Option<usize> {
        let made =
            |at: &usize| self.candidates[*at].variant == variant && self.candidates[*at].recipe.is_some();
        let by_distance = |a: &usize, b: &usize| {
            self.distance(*a).partial_cmp(&self.distance(*b)).unwrap_or(Ordering::Equal)
        };
        (0..self.candidates.len()).filter(made).min_by(by_distance)
    }

    /// Why a candidate is no answer.
    pub(super) fn excesses(&self, at: usize) -> Vec<Excess> {
        let figures = &self.candidates[at].figures;
        match at {
            0 => self.request.settings.budget.excesses(figures, figures, self.metric()),
            _ => self.excesses_of(figures),
        }
    }

    /// Why something with these figures is no answer.
    pub(super) fn excesses_of(&self, figures: &Figures) -> Vec<Excess> {
        let before = &self.candidates[0].figures;
        let mut all = self.request.settings.budget.excesses(figures, before, self.metric());
        if let (Some(float), Some(p50)) = (before.p50_ms, figures.p50_ms)
            && p50 >= float
        {
            let isa = self.request.isa;
            let reason =
                format!("it is no faster than float with {isa}: {p50:.3} ms, not below {float:.3} ms");
            all.push(Excess { reason, times: p50 / float, is_drop: false });
        }
        all
    }

    /// How a candidate stands to the budget; one that was not timed does not keep it.
    pub(super) fn verdict(&self, at: usize) -> Verdict {
        let excesses = self.excesses(at);
        let is_timed = self.candidates[at].figures.p50_ms.is_some();
        match excesses.iter().all(|excess| excess.is_drop) {
            true if excesses.is_empty() && is_timed => Verdict::Keeps,
            true => Verdict::Drops,
            false => Verdict::Costs,
        }
    }

    /// Says of every candidate why it is no answer.
    pub(super) fn judge(&mut self) {
        for at in 0..self.candidates.len() {
            let mut reasons: Vec<String> =
                self.excesses(at).into_iter().map(|excess| excess.reason).collect();
            let candidate = &self.candidates[at];
            if let Some(missing) = self.missing(candidate) {
                reasons.push(missing);
            } else if reasons.is_empty() && candidate.figures.p50_ms.is_none() {
                reasons.push("another recipe is nearer to float, and takes the same time".into());
            }
            self.candidates[at].refused = (!reasons.is_empty()).then(|| reasons.join("; "));
        }
    }

    /// What was asked for and is not in it.
    pub(super) fn missing(&self, candidate: &Candidate) -> Option<String> {
        let Settings { int8, qat, .. } = self.request.settings;
        let fixed = self.request.settings.structure();
        if !fixed.is_whole() && candidate.structure != fixed {
            return Some(format!("asked for was {}", fixed.name()));
        }
        let recipe = candidate.recipe.as_ref();
        if qat && !recipe.is_some_and(|recipe| recipe.trained) {
            return Some("training with roundings was asked for".into());
        }
        (int8 && recipe.is_none()).then(|| "int8 was asked for".into())
    }

    /// The fastest that keeps the budget; else the one that is nearest to it.
    pub(super) fn choose(&self) -> Choice {
        let time = |at: &usize| self.candidates[*at].figures.p50_ms.unwrap_or(f64::INFINITY);
        let kept = (0..self.candidates.len()).filter(|&at| self.candidates[at].refused.is_none());
        if let Some(at) = kept.min_by(|a, b| time(a).total_cmp(&time(b))) {
            return Choice::Kept(at);
        }
        let excess = |at: &usize| self.excesses(*at).iter().map(|excess| excess.times).fold(0.0, f64::max);
        let timed = (0..self.candidates.len()).filter(|&at| {
            let candidate = &self.candidates[at];
            candidate.figures.p50_ms.is_some() && self.missing(candidate).is_none()
        });
        let nearest =
            timed.min_by(|a, b| excess(a).total_cmp(&excess(b))).expect("one of each kind is timed");
        let Candidate { name, refused, .. } = &self.candidates[nearest];
        let late = if self.is_late() { "; --max-time was spent" } else { "" };
        let reason = format!("{name}: {}{late}", refused.as_deref().unwrap_or("not chosen"));
        Choice::Missed { nearest, reason }
    }

    pub(super) fn outcome(mut self) -> anyhow::Result<Outcome> {
        let chosen = self.choose();
        let at = match chosen {
            Choice::Kept(at) | Choice::Missed { nearest: at, .. } => at,
        };
        let candidate = &self.candidates[at];
        let Variant { graph, plain, sensitivities, .. } = &self.variants[candidate.variant];
        let (made, recipe) = (&candidate.package.graph, candidate.recipe.as_ref());
        let pruned = Pruned::between(&self.variants[0].graph, (graph, &plain.weights));
        let notes = layers::notes(graph, made, recipe, sensitivities, &pruned);
        let package = matches!(chosen, Choice::Kept(_)).then(|| candidate.package.clone());
        let request = self.request;
        Ok(Outcome {
            name: request.source.package.manifest.name.clone(),
            images: request.val.list.len(),
            metric: self.metric().name,
            settings: request.settings.clone(),
            isa: request.isa.to_string(),
            threads: request.threads,
            energy: self.energy.to_string(),
            energy_meter: self.energy.meter().ok().map(String::from),
            // The file that was given may hold the network unfolded.
            before: Figures { size_bytes: request.source.size_bytes, ..self.candidates[0].figures.clone() },
            chosen,
            layers: notes,
            steps: std::mem::take(&mut self.steps),
            skipped: std::mem::take(&mut self.calibration.skipped),
            package,
            candidates: self.candidates,
        })
    }
}
