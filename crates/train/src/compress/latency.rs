//! Which of two plans answers sooner, measured so that both see the same machine.

use std::time::{Duration, Instant};

use espalier_runtime::{Plan, Pool};

/// Untimed runs of each before, and least and most timed ones.
const WARM: usize = 5;
const LEAST: usize = 25;
const MOST: usize = 400;
/// Timing ends after this long where the least number of runs is done.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

/// Medians in milliseconds of runs that took turns.
pub(super) fn medians_ms(plans: [&mut Plan; 2], pool: &mut Pool) -> [f64; 2] {
    let [a, b] = plans;
    for _ in 0..WARM {
        a.run(pool);
        b.run(pool);
    }
    let (start, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    while times[0].len() < LEAST || (times[0].len() < MOST && start.elapsed() < LONG_ENOUGH) {
        times[0].push(timed(a, pool));
        times[1].push(timed(b, pool));
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    })
}

fn timed(plan: &mut Plan, pool: &mut Pool) -> Duration {
    let start = Instant::now();
    plan.run(pool);
    start.elapsed()
}
