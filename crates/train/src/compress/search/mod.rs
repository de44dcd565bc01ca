//! The search: candidates are made, measured and compared.

mod change;
mod judge;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use espalier_graph::{Bindings, Graph, Package, Weights};
use espalier_passes::layer::layers as weighted;
use espalier_runtime::energy::Energy;
use espalier_runtime::{Options, Plan, Pool, Repeat, lower};
use espalier_tasks::Metric;

use super::budget::Figures;
use super::calibration::Calibration;
use super::candidate::{Bench, Candidate};
use super::fine_tune::Tutor;
use super::histogram::Method;
use super::latency::medians_ms;
use super::policy::{self, Move, Tried, Verdict};
use super::recipe::Recipe;
use super::sensitivity::sensitivities;
use super::trained::Trained;
use super::variant::{Structure, Variant};
use super::{Event, Outcome, Request, Settings, Step};

/// Times the speed of float that is fast, where nobody says what is.
const FAST: f64 = 3.0;
/// How long to look for that.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

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
    energy: Energy,
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
            energy: Energy::here(request.watts),
            deadline,
            notify,
            candidates: Vec::new(),
            steps: Vec::new(),
        };
        search.calibrate(Structure::default(), search.given())?;
        search.float(0)?;
        Ok(search)
    }

    pub(super) fn run(mut self) -> anyhow::Result<Outcome> {
        let Settings { int8, qat, .. } = self.request.settings;
        let fixed = self.request.settings.structure();
        match fixed.is_whole() && !qat {
            true => self.searched()?,
            false => {
                let variant = if fixed.is_whole() { 0 } else { self.changed(fixed)? };
                match (qat, int8) {
                    (true, _) => drop(self.with_roundings(variant)?),
                    (_, true) => drop(self.quantized(variant)?),
                    _ => {
                        let at = self.float(variant)?;
                        self.time(at)?;
                    }
                }
            }
        }
        if self.is_stopped() {
            self.ended("search", "stopped".into(), Instant::now());
        }
        self.judge();
        self.outcome()
    }

    /// Tries what the policy says, until the budget is kept by something fast; with a time limit, until the time is spent.
    fn searched(&mut self) -> anyhow::Result<()> {
        let (structure, verdict) = (Structure::default(), self.quantized(0)?);
        let mut tried = vec![Tried { structure, qat: false, verdict }];
        let has_time = self.deadline.is_some();
        while !self.is_late()
            && let Some(next) = policy::next(&tried, has_time || self.is_slow())
        {
            if tried.len() == 1 && !self.can_train() {
                break;
            }
            if self.deadline.is_none() && self.is_slow() {
                self.look_for_speed();
            }
            match self.tried(next) {
                Ok(outcome) => tried.push(outcome),
                // What keeps the budget is not lost.
                Err(_) if self.is_stopped() => break,
                Err(error) if self.gain().is_some() => {
                    self.ended("search", format!("ended by an error: {error:#}"), Instant::now());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes one move; what came of it.
    fn tried(&mut self, next: Move) -> anyhow::Result<Tried> {
        let (structure, qat, verdict) = match next {
            Move::Change(structure) if self.is_hopeless(structure)? => (structure, false, Verdict::Costs),
            Move::Change(structure) => {
                let variant = self.changed(structure)?;
                (structure, false, self.quantized(variant)?)
            }
            Move::Qat(structure) => {
                let variant = self.variants.iter().position(|v| v.structure == structure);
                (structure, true, self.with_roundings(variant.expect("it was quantized"))?)
            }
        };
        Ok(Tried { structure, qat, verdict })
    }

    /// Whether what keeps the budget gains little, and nobody said how fast is fast enough.
    fn is_slow(&self) -> bool {
        let Settings { int8, budget, .. } = &self.request.settings;
        let is_told = *int8 || budget.max_latency_ms.is_some() || budget.max_energy_mj.is_some();
        !is_told && self.gain().is_some_and(|gain| gain < FAST)
    }

    /// Gives the search some time to go on though the budget is kept.
    fn look_for_speed(&mut self) {
        let (now, minutes) = (Instant::now(), PATIENCE.as_secs() / 60);
        let gain = self.gain().unwrap_or_default();
        let result = format!(
            "{gain:.2} times as fast as float: looking for {FAST} times, for about {minutes} minutes (--int8 is content with int8, \
             --max-time sets another time)"
        );
        self.ended("search", result, now);
        self.deadline = Some(now + PATIENCE);
    }

    /// How many times as fast as float the fastest is that keeps the budget.
    fn gain(&self) -> Option<f64> {
        let float = self.candidates[0].figures.p50_ms?;
        let kept = (1..self.candidates.len()).filter(|&at| self.verdict(at) == Verdict::Keeps);
        kept.filter_map(|at| self.candidates[at].figures.p50_ms).map(|p50| float / p50).reduce(f64::max)
    }

    /// The network that was given, as it is trained.
    fn given(&self) -> (&'a Graph, &'a Weights) {
        let Package { graph, weights, .. } = &self.request.source.package;
        (graph, weights)
    }

    /// Notes a float network with what flows through it; the number of the variant.
    fn calibrate(&mut self, structure: Structure, network: (&Graph, &Weights)) -> anyhow::Result<usize> {
        let (start, images) = (Instant::now(), self.calibration.images());
        let notify = &mut *self.notify;
        notify(Event::Began { what: "calibrating".into(), unit: "images", length: images });
        let engine = (self.request.isa, &mut self.pool);
        let mut done = |n| notify(Event::Done(n));
        let variant = Variant::new(structure, network, &self.calibration, engine, &mut done)?;
        let result = format!("{} values seen on {images} images of train", variant.plain.seen.len());
        self.variants.push(variant);
        self.ended("calibrate", result, start);
        Ok(self.variants.len() - 1)
    }

    /// Makes integers of a variant, by rounding it.
    fn quantized(&mut self, variant: usize) -> anyhow::Result<Verdict> {
        let best = match self.nearest(0) {
            // What suits the whole network suits what is left of it.
            Some(whole) if variant > 0 => {
                let recipe = self.recipe(whole).rounding();
                let plain = Recipe { equalise: false, ..recipe.clone() };
                match self.attempt(variant, recipe)? {
                    Some(at) => at,
                    None => self.attempt(variant, plain)?.expect("nothing is in its way"),
                }
            }
            _ => self.recipes(variant)?,
        };
        self.time(best)?;
        if self.verdict(best) == Verdict::Drops {
            self.restore_layers(best)?;
        }
        let of_it = |at: &usize| self.candidates[*at].variant == variant;
        let kept = (0..self.candidates.len()).filter(of_it).any(|at| self.verdict(at) == Verdict::Keeps);
        Ok(if kept { Verdict::Keeps } else { self.verdict(best) })
    }

    fn metric(&self) -> Metric {
        self.request.task.primary_metric()
    }

    fn is_late(&self) -> bool {
        self.is_stopped() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn is_stopped(&self) -> bool {
        self.request.stop.load(Ordering::Relaxed)
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
        let per_tensor = self.request.settings.per_tensor;
        let plain = |ranges| Recipe { per_tensor, ..Recipe::plain(ranges) };
        let mut best = self.attempt(variant, plain(Method::MinMax))?.expect("nothing is in its way");
        for method in [Method::Percentile, Method::Mse] {
            self.better(&mut best, plain(method))?;
        }
        for equalise in [false, true] {
            let ranges = self.recipe(best).ranges;
            self.better(&mut best, Recipe { equalise, correct_biases: true, ..plain(ranges) })?;
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

    /// Times the candidate in turn with the float network.
    fn time(&mut self, at: usize) -> anyhow::Result<()> {
        let Package { graph, weights, .. } = &self.candidates[at].package;
        let plan = self.plan(graph, weights)?;
        let figures = self.candidates[at].figures.clone();
        self.candidates[at].figures = self.timed(figures, plan)?;
        Ok(())
    }

    /// `figures` with time and energy of `made`, which takes turns with the float network. The float network is measured anew
    /// beside each candidate; what it took the first time is the measure of all.
    fn timed(&mut self, mut figures: Figures, mut made: Plan) -> anyhow::Result<Figures> {
        let Package { graph, weights, .. } = &self.candidates[0].package;
        let mut float = self.plan(graph, weights)?;
        let (mut float, mut made) = (Repeat::new(&mut float), Repeat::new(&mut made));
        let times = medians_ms([&mut float, &mut made], &mut self.pool);
        let spent = self.energy.per_run([&mut float, &mut made], &mut self.pool);
        let is_told = spent[1].measured_mj.or(spent[1].estimate_mj).is_some();
        let is_asked = self.request.settings.budget.max_energy_mj.is_some();
        ensure!(is_told || !is_asked, "the budget of energy cannot be judged: {}", self.energy);
        let first = &mut self.candidates[0].figures;
        let scaled = |first: &mut Option<f64>, [float, made]: [Option<f64>; 2]| {
            let (float, made) = (float?, made?);
            Some(made * *first.get_or_insert(float) / float)
        };
        figures.p50_ms = scaled(&mut first.p50_ms, times.map(Some));
        figures.energy_mj = scaled(&mut first.energy_mj, spent.map(|s| s.measured_mj));
        figures.energy_mj_estimate = scaled(&mut first.energy_mj_estimate, spent.map(|s| s.estimate_mj));
        Ok(figures)
    }

    fn plan(&self, graph: &Graph, weights: &Weights) -> anyhow::Result<Plan> {
        let (isa, threads) = (self.request.isa, self.pool.workers());
        let mut plan = lower(graph, weights, Options { isa, threads, bindings: Bindings::batch(1) })?;
        let input = graph.value(graph.inputs()[0]).name.as_str();
        plan.input(input).copy_from_slice(self.calibration.first());
        Ok(plan)
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
        let (recipe, deadline, stop) = (self.recipe(best).clone(), self.deadline, &self.request.stop);
        let variant = &mut self.variants[self.candidates[best].variant];
        let what = "which layers harm most".to_string();
        (self.notify)(Event::Began { what, unit: "layers", length: weighted(&variant.graph).len() });
        let notify = &mut *self.notify;
        let mut done = |n| {
            notify(Event::Done(n));
            !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline)
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
        Ok(match self.verdict(at) {
            Verdict::Keeps => Some(true),
            Verdict::Drops => Some(false),
            Verdict::Costs => None,
        })
    }
}
