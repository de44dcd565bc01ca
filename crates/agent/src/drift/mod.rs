//! Drift: whether a pipeline still sees what its model was validated on. docs/drift.md says why the tests are these.
//!
//! A sliding window of scenes is compared with the package's reference statistics, number by number: the distribution of each
//! by Kolmogorov and Smirnov's distance, the share of each class by Chernoff's bound. Both have bounds that hold for samples
//! of any size. What the reference itself may be off by is allowed for once; what a window may be off by is divided by all
//! looks that 10,000 frames bring, so that false alarms are rare over all of them together.

mod bounds;
mod column;
mod config;
mod scenes;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use espalier_tasks::{Observation, Reference, Task, reference};
use espalier_wire::{Kind, State};

use bounds::{band, shares, surprise, surprise_threshold};
use column::Column;
pub use config::{DriftConfig, DriftError};
use scenes::Scenes;

/// Frames that [`DriftConfig::false_alarms`] is about.
const FRAMES: f64 = 10_000.0;

/// Scenes between two looks.
const STRIDE: usize = 10;

/// Fewest scenes that are compared.
const LEAST: usize = 30;

/// An alarm ends once all looks of a window were below this share of the threshold: one that is gone cannot flicker.
const CALM: f64 = 0.8;

/// The statistic of the shares of classes.
const CLASS_MIX: &str = "class-mix";

/// Compares what a pipeline sees with what its model was validated on.
#[derive(Debug)]
pub struct Drift {
    columns: Vec<Column>,
    /// How far the distributions of the reference may be from the true ones.
    off: f64,
    /// Of each class, the shares that may be the true one.
    shares: Vec<[f64; 2]>,
    scenes: Scenes,
    size: usize,
    /// The chance of a false alarm that one comparison may have.
    chance: f64,
    window: VecDeque<Row>,
    /// Of each class, the scenes of the window that it is in.
    classes: Vec<usize>,
    readings: Vec<Reading>,
    since_look: usize,
    counted: u64,
    frames: u64,
}

/// A scene of the window.
#[derive(Debug)]
struct Row {
    /// For each column, where its value lies among the reference's.
    places: Vec<u16>,
    classes: Vec<usize>,
}

/// What the last comparison of one statistic gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its name: `class-mix`, or one of [`espalier_tasks::reference::statistics`].
    pub statistic: String,
    /// The test's value; 0 before the first comparison.
    pub value: f64,
    /// The value from which on it is drift; infinite before the first comparison.
    pub threshold: f64,
    /// Whether it drifts.
    pub drifts: bool,
    /// Looks in a row without a sign of drift.
    calm: usize,
}

impl Drift {
    /// Nothing seen yet; `reference` is that of the pipeline's package.
    ///
    /// # Errors
    /// Settings that cannot be kept; a package without reference statistics, or for series.
    pub fn new(
        config: &DriftConfig,
        reference: Option<&Reference>,
        task: &Task,
    ) -> Result<Drift, DriftError> {
        config.validate()?;
        task.picture_input().ok_or(DriftError::Series)?;
        let reference = reference.ok_or(DriftError::NoReference)?;
        let images = reference.images;
        let names = reference::statistics(task).iter().enumerate();
        let columns: Vec<Column> = names
            .filter_map(|(at, name)| Some(Column::new(at, name, reference.columns.get(*name)?, images)))
            .collect();
        let names = columns.iter().map(|column| column.name).chain([CLASS_MIX]);
        let readings: Vec<Reading> = names.map(Reading::new).collect();
        // Half of the chance is the reference's, once; the other half is the window's, in all looks together.
        let each = config.false_alarms / 2.0 / (columns.len() + reference.classes.len()) as f64;
        Ok(Drift {
            off: band(images, each),
            shares: reference.classes.iter().map(|&hits| shares(hits, images, each)).collect(),
            classes: vec![0; reference.classes.len()],
            columns,
            scenes: Scenes::new(config.same_scene),
            size: config.window,
            chance: each * STRIDE as f64 / FRAMES,
            window: VecDeque::new(),
            readings,
            since_look: 0,
            counted: 0,
            frames: 0,
        })
    }

    /// Takes what a frame and its answer came to; what begins or ends with it.
    pub fn frame(&mut self, observation: &Observation) -> Vec<Kind> {
        self.frames += 1;
        let is_known = observation.values.iter().all(|v| v.is_finite());
        if !is_known || !self.scenes.is_new(&observation.thumbnail) {
            return Vec::new();
        }
        self.push(observation);
        self.since_look += 1;
        if self.since_look < STRIDE || self.window.len() < LEAST {
            return Vec::new();
        }
        self.since_look = 0;
        self.look()
    }

    /// Ends what has begun, because another model answers or the pipeline gets other settings.
    pub fn stop(&mut self) -> Vec<Kind> {
        let drifting = self.readings.iter_mut().filter(|reading| reading.drifts);
        let ends = drifting.map(|reading| {
            reading.drifts = false;
            reading.told(State::Ends, self.frames)
        });
        ends.collect()
    }

    /// The last comparison of every statistic.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// Scenes that were counted; a camera that sees one scene all the time says little.
    pub fn scenes(&self) -> u64 {
        self.counted
    }

    fn push(&mut self, observation: &Observation) {
        if self.window.len() == self.size
            && let Some(row) = self.window.pop_front()
        {
            self.columns.iter_mut().zip(&row.places).for_each(|(column, &place)| column.remove(place));
            row.classes.iter().for_each(|&class| self.classes[class] -= 1);
        }
        let places =
            self.columns.iter_mut().map(|column| column.add(observation.values[column.at])).collect();
        let classes = observation.classes.clone();
        classes.iter().for_each(|&class| self.classes[class] += 1);
        self.window.push_back(Row { places, classes });
        self.counted += 1;
    }

    fn look(&mut self) -> Vec<Kind> {
        let n = self.window.len();
        let distance = self.off + band(n, self.chance);
        let values = self.columns.iter().map(|column| (column.distance(n), distance));
        let odd = self.classes.iter().zip(&self.shares).map(|(&hits, [low, high])| {
            // Against the nearest share that may be the true one.
            surprise(hits, n, (hits as f64 / n as f64).clamp(*low, *high))
        });
        let mix = (odd.fold(0.0, f64::max), surprise_threshold(self.chance));
        let values: Vec<(f64, f64)> = values.chain([mix]).collect();
        let looks = self.size.div_ceil(STRIDE);
        let changed = self.readings.iter_mut().zip(values).filter_map(|(reading, (value, threshold))| {
            let state = reading.update(value, threshold, looks)?;
            Some(reading.told(state, self.frames))
        });
        changed.collect()
    }
}

impl Reading {
    fn new(statistic: &str) -> Reading {
        Reading { statistic: statistic.into(), value: 0.0, threshold: f64::INFINITY, drifts: false, calm: 0 }
    }

    fn told(&self, state: State, frames: u64) -> Kind {
        let Reading { statistic, value, threshold, .. } = self.clone();
        Kind::Drift { state, statistic, value, threshold, frames }
    }

    /// What begins or ends with a new value; `looks` are those of a whole window.
    fn update(&mut self, value: f64, threshold: f64, looks: usize) -> Option<State> {
        (self.value, self.threshold) = (value, threshold);
        self.calm = if value < CALM * threshold { self.calm + 1 } else { 0 };
        match self.drifts {
            false if value >= threshold => {
                self.drifts = true;
                Some(State::Begins)
            }
            true if self.calm >= looks => {
                self.drifts = false;
                Some(State::Ends)
            }
            _ => None,
        }
    }
}
