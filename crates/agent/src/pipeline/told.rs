//! Counting what a pipeline says.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a pipeline has said, and how what says it is.
#[derive(Debug, Default)]
pub(crate) struct Told {
    insights: AtomicU64,
    bytes: AtomicU64,
    samples: AtomicU64,
    scenes: AtomicU64,
    drifting: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
}

/// The same as numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TellFigures {
    pub(crate) insights: u64,
    /// Of JSON.
    pub(crate) bytes: u64,
    pub(crate) samples: u64,
    pub(crate) refused: u64,
    pub(crate) dropped: u64,
    pub(crate) scenes: u64,
    pub(crate) drifting: u64,
}

impl Told {
    pub(super) fn insight(&self, bytes: usize) {
        self.insights.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn kept(&self) {
        self.samples.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note(&self, [scenes, drifting, refused, dropped]: [u64; 4]) {
        let samples = [(&self.refused, refused), (&self.dropped, dropped)];
        let all = [(&self.scenes, scenes), (&self.drifting, drifting)].into_iter().chain(samples);
        all.for_each(|(place, value)| place.store(value, Ordering::Relaxed));
    }

    pub(super) fn figures(&self) -> TellFigures {
        let of = |place: &AtomicU64| place.load(Ordering::Relaxed);
        TellFigures {
            insights: of(&self.insights),
            bytes: of(&self.bytes),
            samples: of(&self.samples),
            refused: of(&self.refused),
            dropped: of(&self.dropped),
            scenes: of(&self.scenes),
            drifting: of(&self.drifting),
        }
    }
}
