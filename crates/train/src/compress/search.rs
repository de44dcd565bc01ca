//! The search: candidates are made, measured and compared.

use std::time::Instant;

use espalier_graph::{Bindings, Graph, Weights};
use espalier_passes::equalise;
use espalier_passes::layer::layers as weighted;
use espalier_runtime::{Options, Plan, Pool, lower};
use espalier_tasks::Metric;

use super::budget::{Excess, Figures};
use super::calibration::{Calibration, extents};
use super::candidate::{Bench, Candidate};
use super::histogram::Method;
use super::latency::medians_ms;
use super::recipe::{Calibrated, Recipe};
use super::sensitivity::{Sensitivity, sensitivities};
use super::{Choice, Event, Outcome, Request, Step, layers};

pub(super) struct Search<'a> {
    request: &'a Request,
    graph: &'a Graph,
    bench: Bench<'a>,
    calibration: Calibration,
    plain: Calibrated,
    /// Made when it is first needed; `None` in it where no two layers can be equalised.
    equalised: Option<Option<Calibrated>>,
    pool: Pool,
    deadline: Option<Instant>,
    notify: &'a mut dyn FnMut(Event),
    /// The float network is the first.
    candidates: Vec<Candidate>,
    sensitivities: Vec<Sensitivity>,
    steps: Vec<Step>,
}

impl<'a> Search<'a> {
    /// Measures the float network, and what flows through it.
    pub(super) fn new(
        request: &'a Request,
        graph: &'a Graph,
        weights: Weights,
        mut pool: Pool,
        deadline: Option<Instant>,
        notify: &'a mut dyn FnMut(Event),
    ) -> anyhow::Result<Search<'a>> {
        let settings = &request.settings;
        let start = Instant::now();
        let count = settings.calibration_images;
        let calibration =
            Calibration::load(&request.train, &request.task, count, settings.seed, request.threads)?;
        let bench = Bench::new(request, &calibration)?;
        notify(Event::Began { what: "calibrating".into(), unit: "images", length: calibration.images() });
        let seen =
            calibration.observe(graph, &weights, request.isa, &mut pool, &mut |n| notify(Event::Done(n)))?;
        let result = format!("{} values seen on {} images of train", seen.len(), calibration.images());
        let mut search = Search {
            request,
            graph,
            bench,
            calibration,
            plain: Calibrated { weights, seen },
            equalised: None,
            pool,
            deadline,
            notify,
            candidates: Vec::new(),
            sensitivities: Vec::new(),
            steps: Vec::new(),
        };
        search.ended("calibrate", result, start);
        search.float()?;
        Ok(search)
    }

    pub(super) fn run(mut self) -> anyhow::Result<Outcome> {
        let best = self.recipes()?;
        self.time(best)?;
        let excesses = self.excesses(best);
        if !excesses.is_empty() && excesses.iter().all(|excess| excess.is_drop) {
            self.restore_layers(best)?;
        }
        self.judge();
        self.outcome(best)
    }

    fn metric(&self) -> Metric {
        self.request.task.primary_metric()
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn ended(&mut self, step: &str, result: String, start: Instant) {
        (self.notify)(Event::Ended(format!("{step}: {result}")));
        self.steps.push(Step { step: step.into(), result, seconds: start.elapsed().as_secs_f64() });
    }

    /// The float network, as a device would run it.
    fn float(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let weights = self.plain.weights.clone();
        let float = self.bench.measure(None, self.graph.clone(), weights, self.notify)?;
        let result = self.summary(&float);
        self.candidates.push(float);
        self.ended("float", result, start);
        Ok(())
    }

    fn summary(&self, candidate: &Candidate) -> String {
        let metric = self.metric().name;
        format!("{metric} {:.4}, {} bytes", candidate.figures.metrics[metric], candidate.figures.size_bytes)
    }

    /// All layers in int8 by several recipes; the one nearest to float, of equals the first.
    fn recipes(&mut self) -> anyhow::Result<usize> {
        let mut best = self.attempt(Recipe::plain(Method::MinMax))?.expect("nothing is in its way");
        for method in [Method::Percentile, Method::Mse] {
            self.better(&mut best, Recipe::plain(method))?;
        }
        for equalise in [false, true] {
            let ranges = self.recipe(best).ranges;
            self.better(&mut best, Recipe { equalise, correct_biases: true, ..Recipe::plain(ranges) })?;
        }
        Ok(best)
    }

    /// Tries `recipe` if there is time; `best` is the better of both.
    fn better(&mut self, best: &mut usize, recipe: Recipe) -> anyhow::Result<()> {
        if !self.is_late()
            && let Some(at) = self.attempt(recipe)?
            && self.distance(at) < self.distance(*best)
        {
            *best = at;
        }
        Ok(())
    }

    fn recipe(&self, at: usize) -> &Recipe {
        self.candidates[at].recipe.as_ref().expect("a candidate of integers")
    }

    /// Makes and measures a candidate; `None` where there is nothing to equalise.
    fn attempt(&mut self, recipe: Recipe) -> anyhow::Result<Option<usize>> {
        let start = Instant::now();
        if recipe.equalise && self.equalised()?.is_none() {
            return Ok(None);
        }
        let from = source(&recipe, &self.plain, &self.equalised);
        let (graph, weights) = recipe.make(self.graph, from)?;
        let mut made = self.bench.measure(Some(recipe), graph, weights, self.notify)?;
        made.agreement = made.agreement_with(&self.candidates[0]);
        let (name, result) = (made.name.clone(), self.summary(&made));
        self.candidates.push(made);
        self.ended(&name, result, start);
        Ok(Some(self.candidates.len() - 1))
    }

    /// The equalised network, where two layers can be.
    fn equalised(&mut self) -> anyhow::Result<&Option<Calibrated>> {
        if self.equalised.is_none() {
            let mut weights = self.plain.weights.clone();
            let pairs = equalise(self.graph, &mut weights, &extents(&self.plain.seen))?;
            let made = match pairs {
                0 => None,
                _ => {
                    let seen = self.calibration.observe(
                        self.graph,
                        &weights,
                        self.request.isa,
                        &mut self.pool,
                        &mut |_| {},
                    )?;
                    Some(Calibrated { weights, seen })
                }
            };
            self.equalised = Some(made);
        }
        Ok(self.equalised.as_ref().expect("just made"))
    }

    /// How far from the float network: by the metric, where better is luck and counts as equal; then by the answers.
    fn distance(&self, at: usize) -> (f64, f64) {
        let Candidate { figures, agreement, .. } = &self.candidates[at];
        let drop = figures.drop(&self.candidates[0].figures, self.metric());
        (drop.max(0.0), 1.0 - agreement.unwrap_or(1.0))
    }

    /// Times the candidate in turn with the float network.
    fn time(&mut self, at: usize) -> anyhow::Result<()> {
        let (mut float, mut made) = (self.plan(&self.candidates[0])?, self.plan(&self.candidates[at])?);
        let [float, made] = medians_ms([&mut float, &mut made], &mut self.pool);
        self.candidates[0].figures.p50_ms.get_or_insert(float);
        // The float network is timed anew beside each candidate; what it took the first time is the measure of all.
        let base = self.candidates[0].figures.p50_ms.expect("just set");
        self.candidates[at].figures.p50_ms = Some(made * base / float);
        Ok(())
    }

    fn plan(&self, candidate: &Candidate) -> anyhow::Result<Plan> {
        let options =
            Options { isa: self.request.isa, threads: self.pool.workers(), bindings: Bindings::batch(1) };
        let mut plan = lower(&candidate.package.graph, &candidate.package.weights, options)?;
        let input = self.graph.value(self.graph.inputs()[0]).name.as_str();
        plan.input(input).copy_from_slice(self.calibration.first());
        Ok(plan)
    }

    /// Why a candidate is no answer.
    fn excesses(&self, at: usize) -> Vec<Excess> {
        let (Candidate { figures, recipe, .. }, before) = (&self.candidates[at], &self.candidates[0].figures);
        let mut all = self.request.settings.budget.excesses(figures, before, self.metric());
        if let (Some(float), Some(p50), Some(_)) = (before.p50_ms, figures.p50_ms, recipe)
            && p50 >= float
        {
            let isa = self.request.isa;
            let reason =
                format!("it is no faster than float with {isa}: {p50:.3} ms, not below {float:.3} ms");
            all.push(Excess { reason, times: p50 / float, is_drop: false });
        }
        all
    }

    /// The layers that harm most return to float, until the metric is kept; then fewer, as long as it is.
    fn restore_layers(&mut self, best: usize) -> anyhow::Result<()> {
        self.rank_layers(best)?;
        let (mut fails, mut count) = (0, 1);
        let mut keeps = loop {
            if count >= self.sensitivities.len() || self.is_late() {
                return Ok(());
            }
            match self.restored(best, count)? {
                Some(true) => break count,
                Some(false) => (fails, count) = (count, 2 * count),
                None => return Ok(()),
            }
        };
        while keeps - fails > 1 && !self.is_late() {
            let middle = (keeps + fails) / 2;
            match self.restored(best, middle)? {
                Some(true) => keeps = middle,
                _ => fails = middle,
            }
        }
        Ok(())
    }

    fn rank_layers(&mut self, best: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        let (recipe, deadline) = (self.recipe(best).clone(), self.deadline);
        let from = source(&recipe, &self.plain, &self.equalised);
        let what = "which layers harm most".to_string();
        (self.notify)(Event::Began { what, unit: "layers", length: weighted(self.graph).len() });
        let notify = &mut *self.notify;
        let mut done = |n| {
            notify(Event::Done(n));
            deadline.is_none_or(|deadline| Instant::now() < deadline)
        };
        let engine = (self.request.isa, &mut self.pool);
        self.sensitivities = sensitivities(self.graph, &recipe, from, &self.calibration, engine, &mut done)?;
        let first: Vec<&str> = self.sensitivities.iter().take(3).map(|s| s.layer.as_str()).collect();
        let result = format!("of {} layers: {}", self.sensitivities.len(), first.join(", "));
        self.ended("layers that harm most", result, start);
        Ok(())
    }

    /// Whether the metric is kept with the `count` most harmful layers in float; `None` where that is no longer faster than
    /// float, or too large or slow.
    fn restored(&mut self, best: usize, count: usize) -> anyhow::Result<Option<bool>> {
        let float = self.sensitivities[..count].iter().map(|s| s.layer.clone()).collect();
        let recipe = Recipe { float, ..self.recipe(best).clone() };
        let at = self.attempt(recipe)?.expect("equalised before");
        self.time(at)?;
        let excesses = self.excesses(at);
        Ok(match excesses.iter().all(|excess| excess.is_drop) {
            true => Some(excesses.is_empty()),
            false => None,
        })
    }

    /// Says of every candidate why it is no answer.
    fn judge(&mut self) {
        for at in 0..self.candidates.len() {
            let mut reasons: Vec<String> =
                self.excesses(at).into_iter().map(|excess| excess.reason).collect();
            let candidate = &self.candidates[at];
            if candidate.recipe.is_none() && self.request.settings.int8 {
                reasons.push("int8 was asked for".into());
            } else if reasons.is_empty() && candidate.figures.p50_ms.is_none() {
                reasons.push("another recipe is nearer to float, and takes the same time".into());
            }
            self.candidates[at].refused = (!reasons.is_empty()).then(|| reasons.join("; "));
        }
    }

    /// The fastest that keeps the budget; else the one that is nearest to it.
    fn choose(&self, best: usize) -> Choice {
        let time = |at: &usize| self.candidates[*at].figures.p50_ms.unwrap_or(f64::INFINITY);
        let kept = (0..self.candidates.len()).filter(|&at| self.candidates[at].refused.is_none());
        if let Some(at) = kept.min_by(|a, b| time(a).total_cmp(&time(b))) {
            return Choice::Kept(at);
        }
        let excess = |at: &usize| self.excesses(*at).iter().map(|excess| excess.times).fold(0.0, f64::max);
        let first = usize::from(self.request.settings.int8);
        let timed = (first..self.candidates.len()).filter(|&at| self.candidates[at].figures.p50_ms.is_some());
        let nearest = timed.min_by(|a, b| excess(a).total_cmp(&excess(b))).unwrap_or(best);
        let Candidate { name, refused, .. } = &self.candidates[nearest];
        let late = if self.is_late() { "; --max-time was spent" } else { "" };
        let reason = format!("{name}: {}{late}", refused.as_deref().unwrap_or("not chosen"));
        Choice::Missed { nearest, reason }
    }

    fn outcome(mut self, best: usize) -> anyhow::Result<Outcome> {
        let chosen = self.choose(best);
        let at = match chosen {
            Choice::Kept(at) | Choice::Missed { nearest: at, .. } => at,
        };
        let candidate = &self.candidates[at];
        let notes = layers::notes(
            self.graph,
            &candidate.package.graph,
            candidate.recipe.as_ref(),
            &self.sensitivities,
        );
        let package = matches!(chosen, Choice::Kept(_)).then(|| candidate.package.clone());
        let request = self.request;
        Ok(Outcome {
            name: request.source.package.manifest.name.clone(),
            images: request.val.list.len(),
            metric: self.metric().name,
            settings: request.settings.clone(),
            isa: request.isa.to_string(),
            threads: request.threads,
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

/// What `recipe` begins with.
fn source<'a>(
    recipe: &Recipe,
    plain: &'a Calibrated,
    equalised: &'a Option<Option<Calibrated>>,
) -> &'a Calibrated {
    match equalised {
        Some(Some(equalised)) if recipe.equalise => equalised,
        _ => plain,
    }
}
