//! Pruning of neurons: the channels that matter least for the time that they take go, and what is left learns again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::ensure;
use espalier_graph::{Graph, Weights};
use espalier_passes::channels::{Channels, Slice};

use super::Event;
use super::fine_tune::{Lesson, Tutor};
use crate::networks::cost;

/// Channels go in so many rounds, each of which ends with a short lesson.
const ROUNDS: usize = 4;
/// Share of all epochs that is left for the lesson at the end.
const LAST: f64 = 0.6;
/// Batches that gradients are measured on.
const GRADIENT_BATCHES: usize = 24;
/// Of the channels that lie side by side, at least this share stays, all rounds together.
const LEAST: f64 = 0.125;
/// The highest learning rate, in units of training's.
const RATE: f32 = 0.5;

/// How much each unit matters.
type Scores = Vec<f64>;

/// The network with `share` of its multiply-adds removed, in rounds between which `tutor` teaches what is left. `seconds`
/// says how long each layer takes, by the name of its weight.
///
/// A unit is worth what the loss would change by without it, to first order and squared (Molchanov et al. 2019, "Importance
/// estimation for neural network pruning"), over the time that it takes.
///
/// # Errors
/// The network has too few channels that can go; as [`Tutor::teach`].
pub(super) fn pruned(
    (network, weights): (&Graph, &Weights),
    share: f64,
    seconds: &BTreeMap<String, f64>,
    tutor: &mut Tutor,
    (epochs, max_time): (f64, Option<Duration>),
    notify: &mut dyn FnMut(Event),
) -> anyhow::Result<(Graph, Weights)> {
    let all = cost(network).macs as f64;
    let (mut network, mut weights) = (network.clone(), weights.clone());
    for round in 1..=ROUNDS {
        let left = (1.0 - share).powf(round as f64 / ROUNDS as f64);
        let channels = Channels::of(&network);
        let scores = by_loss(&channels, &network, &weights, tutor)?;
        let scores = over_time(&channels, &network, scores, seconds);
        let least = LEAST.powf(1.0 / ROUNDS as f64);
        let gone = choose(&channels, &network, &scores, all * left, least)?;
        weights = channels.remove_weights(&network, &weights, &gone)?;
        network = channels.remove(&network, &gone)?;
        let part = if round < ROUNDS { (1.0 - LAST) / (ROUNDS - 1) as f64 } else { LAST };
        let lesson = Lesson {
            what: &format!("pruning {round} of {ROUNDS}"),
            network: &network,
            weights: &weights,
            epochs: epochs * part,
            rate: RATE,
            max_time: max_time.map(|time| time.mul_f64(part)),
            after_step: &mut |_, _| {},
        };
        weights = tutor.teach(lesson, notify)?;
    }
    Ok((network, weights))
}

/// The network with `share` of its multiply-adds removed at once, by the norms of its weights, and not trained: as small
/// and as fast as the pruned one.
///
/// # Errors
/// The network has too few channels that can go.
pub(super) fn draft(
    (network, weights): (&Graph, &Weights),
    share: f64,
    seconds: &BTreeMap<String, f64>,
) -> anyhow::Result<(Graph, Weights)> {
    let channels = Channels::of(network);
    let scores = over_time(&channels, network, by_norm(&channels, network, weights), seconds);
    let gone = choose(&channels, network, &scores, cost(network).macs as f64 * (1.0 - share), LEAST)?;
    Ok((channels.remove(network, &gone)?, channels.remove_weights(network, weights, &gone)?))
}

/// What the loss would change by without each unit: the product of its weights and their gradients, summed over what makes
/// it, squared, and summed over batches.
fn by_loss(
    channels: &Channels,
    network: &Graph,
    weights: &Weights,
    tutor: &mut Tutor,
) -> anyhow::Result<Scores> {
    let mut scores = vec![0.0; channels.units.len()];
    tutor.gradients(network, weights, GRADIENT_BATCHES, &mut |gradients| {
        for (score, unit) in scores.iter_mut().zip(&channels.units) {
            let change = |slice: &Slice| {
                let name = &network.value(slice.state).name;
                let (Some(gradient), Some(tensor)) = (gradients.get(name), weights.get(name)) else {
                    return 0.0;
                };
                let values = tensor.as_f32().expect("what has a gradient is a float");
                let parts = slice.elements(&tensor.shape);
                parts.map(|at| f64::from(values[at]) * f64::from(gradient[at])).sum::<f64>()
            };
            *score += unit.makers.iter().map(change).sum::<f64>().powi(2);
        }
    })?;
    Ok(scores)
}

/// The mean square of the weights that make each unit, as a share of its group's.
fn by_norm(channels: &Channels, network: &Graph, weights: &Weights) -> Scores {
    let square = |slice: &Slice| {
        let tensor = &weights[&network.value(slice.state).name];
        let values = tensor.as_f32().expect("a float network");
        slice.elements(&tensor.shape).map(|at| f64::from(values[at]).powi(2)).sum::<f64>()
    };
    let squares = channels.units.iter().map(|unit| unit.makers.iter().map(square).sum::<f64>());
    let mut scores: Scores = squares.collect();
    for group in &channels.groups {
        let mean = group.iter().map(|&unit| scores[unit]).sum::<f64>() / group.len() as f64;
        group.iter().for_each(|&unit| scores[unit] /= mean.max(f64::MIN_POSITIVE));
    }
    scores
}

/// `scores` over the time that each unit takes: its share of the layers that make it and of those that read it.
fn over_time(
    channels: &Channels,
    network: &Graph,
    mut scores: Scores,
    seconds: &BTreeMap<String, f64>,
) -> Scores {
    let time = |slice: &Slice| {
        let value = network.value(slice.state);
        let size = value.ty.shape.0[slice.axis].factor;
        seconds.get(&value.name).map_or(0.0, |seconds| seconds / size as f64)
    };
    let times: Vec<f64> =
        channels.units.iter().map(|unit| unit.makers.iter().chain(&unit.readers).map(time).sum()).collect();
    let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
    // Where nothing was measured, as with a state that no layer has, time does not decide.
    for (score, time) in scores.iter_mut().zip(times) {
        *score /= (time / mean.max(f64::MIN_POSITIVE)).max(0.1);
    }
    scores
}

/// The units to remove, those with the least scores, so that at most `macs` multiply-adds are left, and at least the share
/// `least` of the channels that lie side by side.
fn choose(
    channels: &Channels,
    network: &Graph,
    scores: &Scores,
    macs: f64,
    least: f64,
) -> anyhow::Result<BTreeSet<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    let left = |count: usize| -> anyhow::Result<f64> {
        let gone = rounded(channels, &order[..count], least);
        Ok(cost(&channels.remove(network, &gone)?).macs as f64)
    };
    let fewest = left(order.len())?;
    ensure!(
        fewest <= macs,
        "pruning can leave {fewest:.3e} multiply-adds at the least, asked for are {macs:.3e}: too few of its channels can go"
    );
    let (mut too_few, mut enough) = (0, order.len());
    while enough - too_few > 1 {
        let middle = (enough + too_few) / 2;
        *(if left(middle)? <= macs { &mut enough } else { &mut too_few }) = middle;
    }
    Ok(rounded(channels, &order[..enough], least))
}

/// Of `wanted`, the first of each group that leave a number of channels which kernels like: they compute whole blocks.
fn rounded(channels: &Channels, wanted: &[usize], least: f64) -> BTreeSet<usize> {
    let mut group_of = vec![0; channels.units.len()];
    for (number, group) in channels.groups.iter().enumerate() {
        group.iter().for_each(|&unit| group_of[unit] = number);
    }
    let mut members = vec![Vec::new(); channels.groups.len()];
    wanted.iter().for_each(|&unit| members[group_of[unit]].push(unit));
    let mut gone = BTreeSet::new();
    for (group, members) in channels.groups.iter().zip(members) {
        let keep = kept(group.len(), members.len(), least);
        gone.extend(&members[..group.len() - keep]);
    }
    gone
}

/// How many of `all` channels stay where `wanted` could go: a whole number of blocks, and at least the share `least`.
fn kept(all: usize, wanted: usize, least: f64) -> usize {
    let block = match all {
        64.. => 16,
        32.. => 8,
        _ => 4,
    };
    let least = ((all as f64 * least).ceil() as usize).max(1);
    (all - wanted).max(least).next_multiple_of(block).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::{NAMES, NetworkOptions, build, initial_weights};
    use espalier_passes::portable;

    #[test]
    fn whole_blocks_stay() {
        for (all, wanted, want) in [
            (64, 0, 64),
            (64, 1, 64),
            (64, 20, 48),
            (64, 64, 16),
            (256, 256, 32),
            (6, 5, 4),
            (3, 2, 3),
            (40, 20, 24),
        ] {
            assert_eq!(kept(all, wanted, LEAST), want, "{wanted} of {all}");
        }
    }

    /// Every network can lose half of its work, and a little more than asked for at most.
    #[test]
    fn drafts_have_the_work_that_was_asked_for() {
        for name in NAMES {
            let options = NetworkOptions { classes: 3, channels: 3, size: [32; 2], width: 1.0 };
            let graph = portable(&build(name, &options).unwrap()).unwrap();
            let weights = initial_weights(&graph, 0);
            for share in [0.3, 0.5] {
                let (smaller, left) = draft((&graph, &weights), share, &BTreeMap::new()).unwrap();
                let work = cost(&smaller).macs as f64 / cost(&graph).macs as f64;
                assert!((1.0 - share - 0.15..=1.0 - share).contains(&work), "{name}: {work} for {share}");
                assert!(left.iter().all(|(name, t)| smaller.ty(smaller.find(name).unwrap()) == &t.ty()));
            }
        }
    }
}
