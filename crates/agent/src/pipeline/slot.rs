//! Where a new model waits until its pipeline takes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use espalier_tasks::Model;

use super::insights::Watch;
use crate::config::ModelConfig;

/// A model that passed all checks, and what its answers become.
pub(crate) struct Fresh {
    pub(crate) model: Model,
    pub(crate) name: String,
    pub(crate) watch: Watch,
}

/// Between the thread that loads packages and the one that runs them. Neither ever waits for the other.
pub(crate) struct Slot {
    wanted: Mutex<ModelConfig>,
    fresh: Mutex<Option<Fresh>>,
    /// Models that were replaced: giving their memory back takes time, which the loader has.
    spent: Mutex<Vec<Model>>,
    swaps: AtomicU64,
    refusals: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub(crate) fn new(wanted: ModelConfig) -> Slot {
        Slot {
            wanted: Mutex::new(wanted),
            fresh: Mutex::default(),
            spent: Mutex::default(),
            swaps: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        }
    }

    /// The package that should run.
    pub(crate) fn wanted(&self) -> ModelConfig {
        lock(&self.wanted).clone()
    }

    /// Another package should run.
    pub(crate) fn want(&self, config: ModelConfig) {
        *lock(&self.wanted) = config;
    }

    pub(crate) fn offer(&self, fresh: Fresh) {
        *lock(&self.fresh) = Some(fresh);
    }

    /// The new model, where there is one.
    pub(crate) fn take(&self) -> Option<Fresh> {
        lock(&self.fresh).take()
    }

    pub(crate) fn is_taken(&self) -> bool {
        lock(&self.fresh).is_none()
    }

    /// A model was replaced.
    pub(crate) fn spend(&self, model: Model) {
        lock(&self.spent).push(model);
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back the memory of models that were replaced.
    pub(crate) fn clear(&self) {
        let spent = std::mem::take(&mut *lock(&self.spent));
        drop(spent);
    }

    pub(crate) fn refuse(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Models that were replaced, and packages that were refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.swaps.load(Ordering::Relaxed), self.refusals.load(Ordering::Relaxed))
    }
}
