//! The rules that fill in what the user leaves open: from size and shape of the data and the time there is, never from a
//! name or the machine.

use crate::data::Statistics;
use crate::settings::OptimizerName;

/// Images that a default run looks at, all epochs together, where the data is small.
const IMAGES_SEEN: usize = 100_000;
/// Up to so many training images, data counts as small: smaller steps and more weight decay generalise better.
const SMALL: usize = 10_000;
/// Epochs over data that is large.
const EPOCHS_LARGE: usize = 10;
/// Epochs over data that is tiny.
const EPOCHS_MAX: usize = 100;
/// Epochs over data of any size, where there is time for more.
const EPOCHS_TIMED_MAX: usize = 200;
/// A more demanding network or input size must leave time for so many epochs.
const EPOCHS_ENOUGH: f64 = 30.0;
/// Multiply-accumulates of a default run without a time limit: some minutes on two cores for small pictures, some hours
/// for large ones.
const MACS_MAX: f64 = 4e14;
/// Multiply-accumulates that a thread is taken to do in a second of training, so that a time means the same number of
/// epochs everywhere: what a core with AVX-512 does. On slower machines the schedule follows the clock.
const MACS_PER_SECOND: f64 = 4e10;
/// Smallest input that large pictures are shrunk to for lack of time.
const SIDE_MIN: usize = 96;
/// Up to this side, pictures count as small.
const SMALL_SIDE: usize = 64;

/// A network at an input size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) model: String,
    pub(crate) width: f32,
    pub(crate) imgsz: usize,
}

/// How often the arithmetic that a run may take goes over the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    macs: f64,
    timed: bool,
    train: usize,
    grey: bool,
}

impl Budget {
    /// With a time limit in seconds or none.
    pub(crate) fn new(max_time_s: Option<f64>, threads: usize, statistics: &Statistics) -> Budget {
        let macs = max_time_s.map_or(MACS_MAX, |s| s * threads as f64 * MACS_PER_SECOND);
        let train = statistics.images[0].max(1);
        Budget { macs, timed: max_time_s.is_some(), train, grey: statistics.grey }
    }

    /// Epochs that fit, where an image takes `macs` on its way through network `model`.
    fn fitting(&self, model: &str, macs: f64) -> f64 {
        // Backward is twice forward. Depthwise convolutions reach half of the arithmetic that dense ones do.
        let depthwise = ["mobilenet", "efficientnet"].iter().any(|family| model.starts_with(family));
        self.macs / (3.0 * if depthwise { 2.0 } else { 1.0 } * macs * self.train as f64)
    }

    /// Small data is seen often, large data at least ten times; a time limit is used, up to where more epochs hardly help.
    pub(crate) fn epochs(&self, model: &str, macs: f64) -> usize {
        let fitting = self.fitting(model, macs) as usize;
        let most = if self.timed {
            EPOCHS_TIMED_MAX
        } else {
            (IMAGES_SEEN / self.train).clamp(EPOCHS_LARGE, EPOCHS_MAX)
        };
        fitting.clamp(1, most)
    }

    /// The networks and sizes that suit the data, the most demanding first: of those, [`choose`](Self::choose) takes one.
    /// Where no time is given, there is one only.
    ///
    /// Small pictures keep their resolution in a network of plain convolutions, and much data fills a deeper one; large
    /// pictures want depth for few operations. Grey ones do with half the channels.
    pub(crate) fn candidates(
        &self,
        statistics: &Statistics,
        model: Option<&str>,
        width: Option<f32>,
        imgsz: Option<usize>,
    ) -> Vec<Choice> {
        let largest = statistics.image_size();
        let sizes = match imgsz {
            Some(side) => vec![side],
            None if self.timed => (0..).map_while(|i| smaller(largest, i)).collect(),
            None => vec![largest],
        };
        let grey = self.grey;
        let mut choices = Vec::new();
        for imgsz in sizes {
            let networks: &[(&str, f32)] = match model {
                Some(name) => &[(name, if name == "plain6" && grey { 0.5 } else { 1.0 })],
                None if imgsz > SMALL_SIDE => &[("mobilenet_v2", 1.0)],
                None if !self.timed => &[("plain6", if grey { 0.5 } else { 1.0 })],
                None => &[("resnet18", 1.0), ("plain6", 1.0), ("plain6", 0.5)],
            };
            let suits = |&&(name, width): &&(&str, f32)| {
                model.is_some() || !((name == "resnet18" && self.train <= SMALL) || (width < 1.0 && !grey))
            };
            choices.extend(networks.iter().filter(suits).map(|&(name, by_rule)| Choice {
                model: name.to_string(),
                width: width.unwrap_or(by_rule),
                imgsz,
            }));
        }
        choices
    }

    /// The first of `choices` that leaves time for enough epochs, else the last. `macs` gives an image's.
    pub(crate) fn choose<E>(
        &self,
        choices: Vec<Choice>,
        macs: impl Fn(&Choice) -> Result<f64, E>,
    ) -> Result<Choice, E> {
        let last = choices.len() - 1;
        for (i, choice) in choices.into_iter().enumerate() {
            if i == last || self.fitting(&choice.model, macs(&choice)?) >= EPOCHS_ENOUGH {
                return Ok(choice);
            }
        }
        unreachable!("there is a last choice")
    }
}

/// The `i`-th size from `largest` down, in steps of 32; small pictures have one.
fn smaller(largest: usize, i: usize) -> Option<usize> {
    if i == 0 { Some(largest) } else { largest.checked_sub(32 * i).filter(|&side| side >= SIDE_MIN) }
}

pub(crate) fn batch_for(train: usize, imgsz: usize) -> usize {
    let by_size = if imgsz <= SMALL_SIDE && train > SMALL { 64 } else { 32 };
    // At least some ten steps in an epoch.
    by_size.min((train / 10).next_power_of_two()).max(8)
}

pub(crate) fn rate_for(optimizer: OptimizerName, batch: usize) -> f32 {
    match optimizer {
        // The linear rule of Goyal et al. 2017 outside of the usual 32 to 64 images; steps that small are noisier still.
        OptimizerName::Sgd if batch < 32 => 0.1 * batch as f32 / 64.0,
        OptimizerName::Sgd => 0.1 * (batch as f32 / 64.0).max(1.0),
        OptimizerName::Adamw => 2e-3,
    }
}

/// The norm to clip gradients to, 0 for none; `normalised` says that the network is one of ours, or holds norms.
pub(crate) fn clip_for(normalised: bool) -> f32 {
    if normalised { 0.0 } else { 1.0 }
}

pub(crate) fn decay_for(optimizer: OptimizerName, train: usize) -> f32 {
    match optimizer {
        OptimizerName::Sgd if train <= SMALL => 1e-3,
        OptimizerName::Sgd => 5e-4,
        OptimizerName::Adamw => 5e-2,
    }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Range;

    /// Of `train` images with sides of `side`: network, width, size and epochs. An image takes what plain6 takes.
    fn check(
        train: usize,
        side: usize,
        grey: bool,
        max_time_s: Option<f64>,
        want: (&str, f32, usize, usize),
    ) {
        let range = Range { min: side, median: side, max: side };
        let (images, width, height) = ([train, 0, 0], range, range);
        let statistics = Statistics { images, grey, width, height, ..Statistics::default() };
        let budget = Budget::new(max_time_s, 2, &statistics);
        let macs = |choice: &Choice| {
            let of_32 = match choice.model.as_str() {
                "resnet18" => 555e6,
                "mobilenet_v2" => 6e6,
                _ => 34e6,
            };
            of_32 * f64::from(choice.width).powi(2) * (choice.imgsz as f64 / 32.0).powi(2)
        };
        let choices = budget.candidates(&statistics, None, None, None);
        let choice = budget.choose(choices, |choice| Ok::<_, ()>(macs(choice))).unwrap();
        let epochs = budget.epochs(&choice.model, macs(&choice));
        assert_eq!((choice.model.as_str(), choice.width, choice.imgsz, epochs), want, "{train} of {side}");
    }

    #[test]
    fn rules_by_hand() {
        // Without a time: by the number of images, within what a default run may take.
        check(100, 32, false, None, ("plain6", 1.0, 32, 100));
        check(2_400, 32, false, None, ("plain6", 1.0, 32, 41));
        check(4_000, 28, true, None, ("plain6", 0.5, 28, 25));
        check(54_000, 28, true, None, ("plain6", 0.5, 28, 10));
        check(2_000, 480, false, None, ("mobilenet_v2", 1.0, 224, 50));
        check(1_000_000, 480, false, None, ("mobilenet_v2", 1.0, 224, 1));
        // With one: it is used.
        check(2_400, 32, false, Some(360.0), ("plain6", 1.0, 32, 117));
        check(54_000, 28, true, Some(600.0), ("plain6", 0.5, 28, 45));
        check(4_000, 28, true, Some(600.0), ("plain6", 1.0, 28, 153));
        check(100, 32, false, Some(3600.0), ("plain6", 1.0, 32, 200));
        check(50_000, 32, false, Some(36_000.0), ("resnet18", 1.0, 32, 34));
        check(54_000, 28, true, Some(1.0), ("plain6", 0.5, 28, 1));
        check(1_000, 480, false, Some(360.0), ("mobilenet_v2", 1.0, 160, 32));
        check(1_000, 480, false, Some(7200.0), ("mobilenet_v2", 1.0, 224, 200));
        check(100_000, 480, false, Some(60.0), ("mobilenet_v2", 1.0, 96, 1));
    }
}
