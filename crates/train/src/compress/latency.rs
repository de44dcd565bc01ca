//! Which of two plans answers sooner, measured so that both see the same machine; and which of its layers take long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use espalier_graph::Graph;
use espalier_passes::layer::layers;
use espalier_runtime::{Plan, Pool, Repeat};

/// Untimed runs of each before, and least and most timed ones.
const WARM: usize = 5;
const LEAST: usize = 25;
const MOST: usize = 400;
/// Timing ends after this long where the least number of runs is done.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

/// Medians in milliseconds of runs that took turns.
pub(super) fn medians_ms(plans: [&mut Repeat<'_>; 2], pool: &mut Pool) -> [f64; 2] {
    let [a, b] = plans;
    for _ in 0..WARM {
        a.run(pool);
        b.run(pool);
    }
    let (start, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    while times[0].len() < LEAST || (times[0].len() < MOST && start.elapsed() < LONG_ENOUGH) {
        times[0].push(a.run(pool));
        times[1].push(b.run(pool));
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    })
}

/// Seconds that each layer of `graph` takes in `plan`, by the name of its weight.
pub(super) fn layer_seconds(graph: &Graph, plan: &mut Plan, pool: &mut Pool) -> BTreeMap<String, f64> {
    let mut times = vec![Duration::ZERO; plan.steps().count()];
    let mut repeat = Repeat::new(plan);
    for _ in 0..WARM {
        repeat.run(pool);
    }
    (0..LEAST).for_each(|_| repeat.run_profiled(pool, &mut times));
    let seconds: BTreeMap<&str, f64> = plan
        .steps()
        .zip(&times)
        .map(|(step, time)| (step.node.as_str(), time.as_secs_f64() / LEAST as f64))
        .collect();
    let of = |name: &str| seconds.get(name).copied();
    layers(graph)
        .iter()
        .filter_map(|layer| Some((graph.value(layer.weight).name.clone(), of(&layer.name)?)))
        .collect()
}
