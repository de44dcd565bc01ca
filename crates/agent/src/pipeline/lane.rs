//! What a pipeline does with what its viewer sees.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use espalier_tasks::Model;
use espalier_wire::{Frames, Kind};

use super::{Fresh, Insights, Listener, Seen, Shared, broken};
use crate::frame::{Fault, Frame};
use crate::log::{Level, Seldom, event};
use crate::moment::Moment;
use crate::samples::SampleError;
use crate::show::Health;
use crate::source::SourceError;

/// Broken frames are named this far apart; all are counted.
const APART: Duration = Duration::from_secs(10);

/// What hears of hard samples.
pub(super) fn samples(shared: Arc<Shared>) -> impl FnMut(Moment, Result<Kind, SampleError>) + Send + 'static {
    let mut losses = Seldom::new(APART);
    move |at, kept| match kept {
        Ok(kind) => {
            shared.told.kept();
            shared.say(at, kind);
        }
        Err(error) => {
            if let Some(text) = losses.pass(&format!("a hard sample is lost: {error}"), Instant::now()) {
                event(Level::Error, shared.name(), &text);
            }
        }
    }
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    insights: Insights,
    faults: Seldom,
    /// Whether the source was said to fail.
    failing: bool,
    /// Whether there was an answer yet.
    answers: bool,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, insights: Insights) -> Lane {
        Lane { shared, insights, faults: Seldom::new(APART), failing: false, answers: false }
    }

    fn say(&self, level: Level, text: &str) {
        event(level, self.shared.name(), text);
    }

    fn push(&self, at: Moment, kinds: Vec<Kind>) {
        kinds.into_iter().for_each(|kind| self.shared.say(at, kind));
    }

    fn frames(&self) -> Frames {
        let counts = self.shared.counts();
        let (processed, skipped, broken) = (counts.processed, counts.skipped, counts.broken);
        Frames { seen: counts.seen(), processed, skipped, broken }
    }

    fn tick(&mut self) {
        let (at, health) = (self.shared.clock.now(), self.shared.board.health());
        let kinds = self.insights.tick(at, self.frames(), health, || self.shared.counters());
        self.push(at, kinds);
        self.shared.told.note(self.insights.figures());
    }

    /// The source has ended, or the end was wanted.
    pub(super) fn end(&mut self, result: Result<Result<(), SourceError>, Infallible>) {
        let Ok(result) = result;
        let wanted = self.is_over();
        let trouble = result.err().map(|error| error.to_string());
        self.shared.board.ended(trouble.clone());
        let at = self.shared.clock.now();
        let kinds = self.insights.end(at, self.frames());
        self.push(at, kinds);
        self.insights.finish();
        self.tick();
        let summary = self.shared.board.tally(|tally| tally.summary());
        match trouble {
            Some(trouble) => {
                self.say(Level::Error, &format!("the source has failed for good: {trouble}; {summary}"))
            }
            None if wanted => self.say(Level::Info, &format!("stopped; {summary}")),
            None => self.say(Level::Info, &format!("the source has ended; {summary}")),
        }
        self.shared.over.store(true, Ordering::Relaxed);
    }

    /// The source gives something again.
    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.say(Level::Info, "the source is back");
        }
    }
}

impl Listener for Lane {
    type Error = Infallible;

    fn answered(&mut self, seen: &Seen<'_>) -> Result<(), Infallible> {
        self.recovered();
        if !std::mem::replace(&mut self.answers, true) {
            let since = self.shared.clock.now().since_start.as_secs_f64() * 1e3;
            self.say(Level::Info, &format!("first answer {since:.1} ms after the start of the agent"));
        }
        let at = self.shared.clock.at(seen.frame.captured, seen.frame.time);
        let kinds = self.insights.frame(at, seen);
        self.push(at, kinds);
        self.insights.keep(at, seen);
        Ok(())
    }

    fn broken(&mut self, frame: &Frame, fault: &Fault) {
        self.recovered();
        if let Some(text) = self.faults.pass(&broken(frame, fault), Instant::now()) {
            self.say(Level::Warning, &text);
        }
    }

    fn failing(&mut self, text: &str) {
        self.failing = true;
        self.say(Level::Warning, &format!("the source is failing: {text}"));
    }

    fn between(&mut self, model: &mut Model) {
        self.shared.live();
        if let Some(Fresh { model: mut fresh, name, watch }) = self.shared.slot.take() {
            fresh.follow(model);
            self.shared.slot.spend(std::mem::replace(model, fresh));
            let at = self.shared.clock.now();
            let ends = self.insights.renew(at, watch);
            self.push(at, ends);
            self.shared.board.replaced(name, model.task().labels().to_vec());
        }
        if self.shared.board.health() != Health::Ended {
            self.tick();
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }
}
