//! The search: candidates are made, measured and compared.

use std::time::{Duration, Instant};

use espalier_graph::{Bindings, Graph, Package, Weights};
use espalier_passes::layer::layers as weighted;
use espalier_runtime::{Options, Plan, Pool, lower};
use espalier_tasks::Metric;

use super::budget::{Excess, Figures};
use super::calibration::Calibration;
use super::candidate::{Bench, Candidate};
use super::fine_tune::Tutor;
use super::histogram::Method;
use super::latency::{layer_seconds, medians_ms};
use super::recipe::Recipe;
use super::sensitivity::sensitivities;
use super::sparsity::sparse;
use super::trained::Trained;
use super::variant::{Structure, Variant, folded};
use super::{Choice, Event, Outcome, Request, Settings, Step, layers};

/// Images that a lesson looks at, all epochs together, and the most epochs.
const IMAGES_SEEN: f64 = 30_000.0;
const MOST_EPOCHS: f64 = 25.0;

pub(super) struct Search<'a> {
    request: &'a Request,
    bench: Bench<'a>,
    calibration: Calibration,
    /// The network that was given is the first.
    variants: Vec<Variant>,
    trained: Trained,
    /// Made when something is first trained.
    tutor: Option<Tutor>,
    pool: Pool,
    deadline: Option<Instant>,
    notify: &'a mut dyn FnMut(Event),
    /// The float network is the first.
    candidates: Vec<Candidate>,
    steps: Vec<Step>,
}

impl<'a> Search<'a> {
    /// Measures the float network, and what flows through it.
    pub(super) fn new(
        request: &'a Request,
        pool: Pool,
        deadline: Option<Instant>,
        notify: &'a mut dyn FnMut(Event),
    ) -> anyhow::Result<Search<'a>> {
        let settings = &request.settings;
        let count = settings.calibration_images;
        let calibration =
            Calibration::load(&request.train, &request.task, count, settings.seed, request.threads)?;
        let bench = Bench::new(request, &calibration)?;
        let key = serde_json::to_vec(&(&request.source.digest, bench.dataset(), settings.seed))?;
        let trained = Trained::new(request.folder.join("trained"), key, request.resume);
        let mut search = Search {
            request,
            bench,
            calibration,
            variants: Vec::new(),
            trained,
            tutor: None,
            pool,
            deadline,
            notify,
            candidates: Vec::new(),
            steps: Vec::new(),
        };
        let Package { graph, weights, .. } = &request.source.package;
        search.calibrate(Structure::default(), graph.clone(), weights.clone())?;
        search.float(0)?;
        Ok(search)
    }

    pub(super) fn run(mut self) -> anyhow::Result<Outcome> {
        let Settings { int8, prune, sparsity, .. } = self.request.settings;
        let fixed = Structure { prune, sparsity };
        if fixed.is_whole() {
            self.quantized(0)?;
        } else {
            let variant = self.changed(fixed)?;
            match int8 {
                true => self.quantized(variant)?,
                false => {
                    let at = self.float(variant)?;
                    self.time(at)?;
                }
            }
        }
        self.judge();
        self.outcome()
    }

    /// Takes out of the network what `structure` says; the number of the variant.
    fn changed(&mut self, structure: Structure) -> anyhow::Result<usize> {
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

    fn sparse(&mut self, from: (&Graph, &Weights), share: f64) -> anyhow::Result<Weights> {
        let (graph, weights) = folded(from.0, from.1)?;
        let mut plan = self.plan(&graph, &weights)?;
        let seconds = layer_seconds(&graph, &mut plan, &mut self.pool);
        let (epochs, time) = (self.epochs(), self.time_left());
        self.tutor()?;
        let tutor = self.tutor.as_mut().expect("just made");
        sparse(from, (share, 2), &seconds, tutor, (epochs, time), self.notify)
    }

    /// How often a lesson sees all of train.
    fn epochs(&self) -> f64 {
        (IMAGES_SEEN / self.request.train.list.len() as f64).clamp(1.0, MOST_EPOCHS)
    }

    /// What a lesson may take of the time that there is.
    fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / 2)
    }

    fn tutor(&mut self) -> anyhow::Result<&mut Tutor> {
        if self.tutor.is_none() {
            let Variant { graph, plain, .. } = &self.variants[0];
            self.tutor = Some(Tutor::new(self.request, graph, &plain.weights)?);
        }
        Ok(self.tutor.as_mut().expect("just made"))
    }

    fn calibrate(&mut self, structure: Structure, network: Graph, weights: Weights) -> anyhow::Result<usize> {
        let (start, images) = (Instant::now(), self.calibration.images());
        let notify = &mut *self.notify;
        notify(Event::Began { what: "calibrating".into(), unit: "images", length: images });
        let engine = (self.request.isa, &mut self.pool);
        let mut done = |n| notify(Event::Done(n));
        let variant = Variant::new(structure, network, weights, &self.calibration, engine, &mut done)?;
        let result = format!("{} values seen on {images} images of train", variant.plain.seen.len());
        self.variants.push(variant);
        self.ended("calibrate", result, start);
        Ok(self.variants.len() - 1)
    }

    /// Makes integers of a variant.
    fn quantized(&mut self, variant: usize) -> anyhow::Result<()> {
        let best = self.recipes(variant)?;
        self.time(best)?;
        let excesses = self.excesses(best);
        if !excesses.is_empty() && excesses.iter().all(|excess| excess.is_drop) {
            self.restore_layers(best)?;
        }
        Ok(())
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

    /// A float network, as a device would run it; the number of the candidate.
    fn float(&mut self, variant: usize) -> anyhow::Result<usize> {
        let start = Instant::now();
        let Variant { structure, graph, plain, .. } = &self.variants[variant];
        let made = (graph.clone(), plain.weights.clone());
        let float = self.bench.measure((variant, *structure), None, made, self.notify)?;
        Ok(self.add(float, start))
    }

    /// Notes a candidate that was measured.
    fn add(&mut self, mut made: Candidate, start: Instant) -> usize {
        made.agreement = self.candidates.first().and_then(|float| made.agreement_with(float));
        let (name, result) = (made.name.clone(), self.summary(&made));
        self.candidates.push(made);
        self.ended(&name, result, start);
        self.candidates.len() - 1
    }

    fn summary(&self, candidate: &Candidate) -> String {
        let metric = self.metric().name;
        format!("{metric} {:.4}, {} bytes", candidate.figures.metrics[metric], candidate.figures.size_bytes)
    }

    /// All layers in int8 by several recipes; the one nearest to float, of equals the first.
    fn recipes(&mut self, variant: usize) -> anyhow::Result<usize> {
        let first = self.attempt(variant, Recipe::plain(Method::MinMax))?;
        let mut best = first.expect("nothing is in its way");
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
            && let Some(at) = self.attempt(self.candidates[*best].variant, recipe)?
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
    fn attempt(&mut self, variant: usize, recipe: Recipe) -> anyhow::Result<Option<usize>> {
        let (start, from) = (Instant::now(), &mut self.variants[variant]);
        if !from.prepare(&recipe, &self.calibration, (self.request.isa, &mut self.pool))? {
            return Ok(None);
        }
        let quantized = recipe.make(&from.graph, from.source(&recipe))?;
        let of = (variant, from.structure);
        let made = self.bench.measure(of, Some(recipe), quantized, self.notify)?;
        Ok(Some(self.add(made, start)))
    }

    /// How far from the float network: by the metric, where better is luck and counts as equal; then by the answers.
    fn distance(&self, at: usize) -> (f64, f64) {
        let Candidate { figures, agreement, .. } = &self.candidates[at];
        let drop = figures.drop(&self.candidates[0].figures, self.metric());
        (drop.max(0.0), 1.0 - agreement.unwrap_or(1.0))
    }

    /// Times the candidate in turn with the float network.
    fn time(&mut self, at: usize) -> anyhow::Result<()> {
        let plan = |at: usize| {
            let Package { graph, weights, .. } = &self.candidates[at].package;
            self.plan(graph, weights)
        };
        let (mut float, mut made) = (plan(0)?, plan(at)?);
        let [float, made] = medians_ms([&mut float, &mut made], &mut self.pool);
        self.candidates[0].figures.p50_ms.get_or_insert(float);
        // The float network is timed anew beside each candidate; what it took the first time is the measure of all.
        let base = self.candidates[0].figures.p50_ms.expect("just set");
        self.candidates[at].figures.p50_ms = Some(made * base / float);
        Ok(())
    }

    fn plan(&self, graph: &Graph, weights: &Weights) -> anyhow::Result<Plan> {
        let (isa, threads) = (self.request.isa, self.pool.workers());
        let mut plan = lower(graph, weights, Options { isa, threads, bindings: Bindings::batch(1) })?;
        let input = graph.value(graph.inputs()[0]).name.as_str();
        plan.input(input).copy_from_slice(self.calibration.first());
        Ok(plan)
    }

    /// Why a candidate is no answer.
    fn excesses(&self, at: usize) -> Vec<Excess> {
        let (figures, before) = (&self.candidates[at].figures, &self.candidates[0].figures);
        let mut all = self.request.settings.budget.excesses(figures, before, self.metric());
        if let (Some(float), Some(p50)) = (before.p50_ms, figures.p50_ms)
            && at > 0
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
        let all = self.variants[self.candidates[best].variant].sensitivities.len();
        let (mut fails, mut count) = (0, 1);
        let mut keeps = loop {
            if count >= all || self.is_late() {
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
        let variant = &mut self.variants[self.candidates[best].variant];
        let what = "which layers harm most".to_string();
        (self.notify)(Event::Began { what, unit: "layers", length: weighted(&variant.graph).len() });
        let notify = &mut *self.notify;
        let mut done = |n| {
            notify(Event::Done(n));
            deadline.is_none_or(|deadline| Instant::now() < deadline)
        };
        let engine = (self.request.isa, &mut self.pool);
        let from = variant.source(&recipe);
        let ranked = sensitivities(&variant.graph, &recipe, from, &self.calibration, engine, &mut done)?;
        let first: Vec<&str> = ranked.iter().take(3).map(|s| s.layer.as_str()).collect();
        let result = format!("of {} layers: {}", ranked.len(), first.join(", "));
        variant.sensitivities = ranked;
        self.ended("layers that harm most", result, start);
        Ok(())
    }

    /// Whether the metric is kept with the `count` most harmful layers in float; `None` where that is no longer faster than
    /// float, or too large or slow.
    fn restored(&mut self, best: usize, count: usize) -> anyhow::Result<Option<bool>> {
        let variant = self.candidates[best].variant;
        let first = &self.variants[variant].sensitivities[..count];
        let float = first.iter().map(|s| s.layer.clone()).collect();
        let recipe = Recipe { float, ..self.recipe(best).clone() };
        let at = self.attempt(variant, recipe)?.expect("equalised before");
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
            if let Some(missing) = self.missing(candidate) {
                reasons.push(missing);
            } else if reasons.is_empty() && candidate.figures.p50_ms.is_none() {
                reasons.push("another recipe is nearer to float, and takes the same time".into());
            }
            self.candidates[at].refused = (!reasons.is_empty()).then(|| reasons.join("; "));
        }
    }

    /// What was asked for and is not in it.
    fn missing(&self, candidate: &Candidate) -> Option<String> {
        let Settings { int8, prune, sparsity, .. } = self.request.settings;
        let fixed = Structure { prune, sparsity };
        if !fixed.is_whole() && candidate.structure != fixed {
            return Some(format!("asked for was {}", fixed.name()));
        }
        (int8 && candidate.recipe.is_none()).then(|| "int8 was asked for".into())
    }

    /// The fastest that keeps the budget; else the one that is nearest to it.
    fn choose(&self) -> Choice {
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

    fn outcome(mut self) -> anyhow::Result<Outcome> {
        let chosen = self.choose();
        let at = match chosen {
            Choice::Kept(at) | Choice::Missed { nearest: at, .. } => at,
        };
        let candidate = &self.candidates[at];
        let Variant { graph, sensitivities, .. } = &self.variants[candidate.variant];
        let notes = layers::notes(graph, &candidate.package.graph, candidate.recipe.as_ref(), sensitivities);
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
