//! Rules: what a pipeline is to report of what it sees.

use std::collections::VecDeque;
use std::time::Duration;

use espalier_tasks::Answer;
use espalier_wire::Kind;

use super::config::{RuleConfig, RuleError};
use super::latch::{Latch, Sign, Turn};
use super::smooth::Smoother;
use super::things::{Thing, things};
use crate::moment::Moment;

/// Times within this part of `within_s` are one time: so many are kept at most.
const GRAINS: u32 = 1000;

/// The rules of one pipeline. They take frames in the order of time.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    labels: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    config: RuleConfig,
    smoother: Option<Smoother>,
    appearances: Option<Appearances>,
    latch: Latch,
}

impl Rules {
    /// Rules over answers with these labels.
    ///
    /// # Errors
    /// The first rule that cannot be kept; two rules of one name.
    pub fn new(configs: &[RuleConfig], labels: &[String]) -> Result<Rules, RuleError> {
        for (at, config) in configs.iter().enumerate() {
            config.validate(labels)?;
            if configs[..at].iter().any(|other| other.name == config.name) {
                let reason = "another rule has this name; events are told apart by it".into();
                return Err(RuleError { rule: config.name.clone(), reason });
            }
        }
        Ok(Rules { rules: configs.iter().map(Rule::new).collect(), labels: labels.to_vec() })
    }

    /// What begins or ends with a frame; `size` is its height and width in pixels.
    pub fn frame(&mut self, at: Moment, size: [usize; 2], answer: &Answer) -> Vec<Kind> {
        let labels = &self.labels;
        self.rules.iter_mut().flat_map(|rule| rule.frame(at.since_start, size, answer, labels)).collect()
    }

    /// What ends because time passes without a frame. To be called about once a second.
    pub fn tick(&mut self, at: Moment) -> Vec<Kind> {
        let tick = |rule: &mut Rule| rule.latch.tick(at.since_start).map(|turn| rule.event(turn));
        self.rules.iter_mut().filter_map(tick).collect()
    }

    /// Ends what has begun, because the pipeline stops or gets other rules.
    pub fn stop(&mut self, at: Moment) -> Vec<Kind> {
        let stop = |rule: &mut Rule| rule.latch.stop(at.since_start).map(|turn| rule.event(turn));
        self.rules.iter_mut().filter_map(stop).collect()
    }
}

impl Rule {
    fn new(config: &RuleConfig) -> Rule {
        let seconds = Duration::from_secs_f64;
        let latch = Latch::new(seconds(config.hold_s), seconds(config.release_s), seconds(config.cooldown_s));
        let appearances = config.within_s.map(|within| Appearances::new(seconds(within)));
        Rule {
            smoother: config.smooth.as_ref().map(Smoother::new),
            appearances,
            latch,
            config: config.clone(),
        }
    }

    fn frame(&mut self, at: Duration, size: [usize; 2], answer: &Answer, labels: &[String]) -> Vec<Kind> {
        let found = self.found(at, size, answer, labels);
        let needed = self.config.count;
        let sign = match &mut self.appearances {
            None => found.filter(|sign| sign.count >= needed),
            Some(appearances) => {
                let count = appearances.frame(at, found.as_ref().map_or(0, |sign| sign.count));
                let label = self.config.labels.first().filter(|_| self.config.labels.len() == 1).cloned();
                let unseen = Sign { label, confidence: 0.0, count: 0 };
                (count >= needed).then(|| Sign { count, ..found.unwrap_or(unseen) })
            }
        };
        let mut turns = Vec::new();
        if self.config.change && self.latch.label() != sign.as_ref().and_then(|sign| sign.label.as_deref()) {
            // What held was another label.
            turns.extend(self.latch.frame(at, None));
            // It lasts until its release.
            if self.latch.label().is_some() {
                return turns.into_iter().map(|turn| self.event(turn)).collect();
            }
        }
        turns.extend(self.latch.frame(at, sign));
        turns.into_iter().map(|turn| self.event(turn)).collect()
    }

    /// How many things of a frame the rule is about, and the surest of them; `None` without any.
    fn found(&mut self, at: Duration, size: [usize; 2], answer: &Answer, labels: &[String]) -> Option<Sign> {
        let mut seen = things(answer, size);
        let counts = !matches!(answer, Answer::Label(_));
        if let (Some(smoother), Answer::Label(said), [thing]) = (&mut self.smoother, answer, &mut seen[..]) {
            let (label, confidence) = smoother.label(at, said);
            let label = labels.get(label).unwrap_or(&said.label);
            *thing = Thing { label, confidence, bounds: None };
        }
        let matching: Vec<&Thing<'_>> = seen.iter().filter(|thing| self.is_about(thing)).collect();
        let count = matching.len() as u64;
        let count = match &mut self.smoother {
            Some(smoother) if counts => smoother.count(at, count),
            _ => count,
        };
        let surest = matching.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
        let label = surest.map(|thing| thing.label.to_owned());
        (count > 0).then(|| Sign { label, confidence: surest.map_or(0.0, |thing| thing.confidence), count })
    }

    fn is_about(&self, thing: &Thing<'_>) -> bool {
        let RuleConfig { labels, confidence, zone, anchor, .. } = &self.config;
        let named = labels.is_empty() || labels.iter().any(|label| label == thing.label);
        // What has no place is everywhere.
        let inside = match (zone, thing.bounds) {
            (Some(zone), Some(bounds)) => zone.contains(anchor.of(bounds)),
            _ => true,
        };
        named && inside && thing.confidence >= *confidence
    }

    fn event(&self, turn: Turn) -> Kind {
        let Turn { state, sign: Sign { label, confidence, count }, duration } = turn;
        let is_counted = self.config.count > 1 || self.appearances.is_some() || count > 1;
        Kind::Event {
            rule: self.config.name.clone(),
            state,
            label,
            confidence: (confidence > 0.0).then_some(confidence),
            count: is_counted.then_some(count),
            duration_ms: duration.as_millis() as u64,
        }
    }
}

/// How many things appeared lately: each rise of their number from frame to frame counts.
#[derive(Debug)]
struct Appearances {
    within: Duration,
    last: u64,
    times: VecDeque<(Duration, u64)>,
}

impl Appearances {
    fn new(within: Duration) -> Appearances {
        Appearances { within, last: 0, times: VecDeque::new() }
    }

    fn frame(&mut self, at: Duration, count: u64) -> u64 {
        let new = count.saturating_sub(self.last);
        self.last = count;
        if new > 0 {
            match self.times.back_mut() {
                Some((time, total)) if at.saturating_sub(*time) < self.within / GRAINS => *total += new,
                _ => self.times.push_back((at, new)),
            }
        }
        while self.times.front().is_some_and(|(time, _)| at.saturating_sub(*time) >= self.within) {
            self.times.pop_front();
        }
        self.times.iter().map(|(_, total)| total).sum()
    }
}
