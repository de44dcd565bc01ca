//! Independent work on all threads, by the standard library alone.

use std::sync::{Mutex, PoisonError};

/// Calls `f` on every item, on `threads` threads.
pub(crate) fn for_each<I>(threads: usize, items: I, f: impl Fn(I::Item) + Sync)
where
    I: Iterator + Send,
    I::Item: Send,
{
    let queue = Mutex::new(items);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(item) = next() {
            f(item);
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
}

/// `f` of every item, in the items' order.
pub(crate) fn map<T: Sync, R: Send>(threads: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    for_each(threads, items.iter().zip(&mut results), |(item, result)| *result = Some(f(item)));
    results.into_iter().map(|result| result.expect("every item was visited")).collect()
}
