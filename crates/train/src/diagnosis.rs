//! What happened in a run, in words, and what to try next.
//!
//! The rules look at trends, not at single epochs: curves are smoothed, their noise is estimated from their own
//! roughness, and a metric over `n` images has to move by more than its standard error. The training loss is measured on
//! augmented images, with smoothed targets, by weights that still change, so only its trend counts, never its distance
//! from the loss on val.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Epoch;
use crate::event::Stopped;

/// The kinds of endings, by what to do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The target was reached.
    Target,
    /// Validation turned, or never followed, while training went on.
    Overfitting,
    /// There was no time, or there were no epochs left, and validation still rose.
    StillImproving,
    /// Validation stayed where it was.
    Plateau,
    /// Neither training nor validation is better than guessing.
    NothingLearned,
    /// Too few epochs to say more.
    Short,
}

/// What happened and what to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What kind of ending it is.
    pub kind: Kind,
    /// One sentence for people.
    pub text: String,
    /// What to try next, the most promising first.
    #[serde(rename = "try")]
    pub advice: Vec<String>,
}

/// What a diagnosis looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// All epochs, at least one.
    pub history: &'a [Epoch],
    /// Why the run ended.
    pub stopped: Stopped,
    /// Name of the primary metric, a share of the images.
    pub metric: &'a str,
    /// The value that it should reach.
    pub target: Option<f64>,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// Images in val.
    pub images: usize,
    /// Share of the most frequent class in val: what guessing without looking reaches.
    pub chance: f64,
}

/// Fewer epochs show no trend.
pub(crate) const EPOCHS_MIN: usize = 3;
/// A loss has to change by this share of itself to count as moved, however little noise there is.
pub(crate) const MOVED: f64 = 0.04;
/// A loss on val has to rise by this share above its lowest to count as turned.
pub(crate) const TURNED: f64 = 0.05;
/// Standard errors beyond which nobody speaks of chance. The best of many epochs is compared, so it is generous.
pub(crate) const SIGMAS: f64 = 3.0;

/// The verdict on a run.
///
/// # Panics
/// Without any epoch.
pub fn diagnose(evidence: &Evidence<'_>) -> Verdict {
    let curves = Curves::new(evidence);
    let verdict = match (evidence.stopped, evidence.target) {
        (Stopped::Target, Some(target)) => return reached(evidence, target),
        _ if evidence.history.len() < EPOCHS_MIN => short(evidence),
        _ if !curves.above_chance() => match curves.by_heart() {
            true => by_heart(&curves),
            false => nothing_learned(&curves),
        },
        _ => match curves.turned() {
            Some(epoch) => overfitting(&curves, epoch),
            None if curves.still_improving() => still_improving(evidence),
            None => plateau(&curves),
        },
    };
    with_missed_target(verdict, evidence)
}

fn reached(evidence: &Evidence<'_>, target: f64) -> Verdict {
    let (metric, epoch) = (evidence.metric, evidence.history.len());
    Verdict {
        kind: Kind::Target,
        text: format!("The target {metric}={target} was reached at epoch {epoch}."),
        advice: Vec::new(),
    }
}

fn nothing_learned(curves: &Curves<'_>) -> Verdict {
    let chance = curves.evidence.chance;
    let (metric, best) = (curves.evidence.metric, curves.highest());
    verdict(
        Kind::NothingLearned,
        format!(
            "Nothing was learned: val {metric} {best:.3} is no better than always guessing the most frequent class \
             ({chance:.3})."
        ),
        &[
            "look at the pictures and labels: are the folders the classes?",
            "another learning rate: a tenth (--lr), or ten times as much where the loss hardly moved",
            "larger pictures (--imgsz) where what tells the classes apart is small",
            "more epochs (--epochs) where these were few",
        ],
    )
}

fn by_heart(curves: &Curves<'_>) -> Verdict {
    let chance = curves.evidence.chance;
    let (metric, best) = (curves.evidence.metric, curves.highest());
    verdict(
        Kind::Overfitting,
        format!(
            "Overfitting: the training pictures were learned by heart ({:.3} of them right), but val {metric} {best:.3} \
             is no better than always guessing the most frequent class ({chance:.3}).",
            curves.train_accuracy()
        ),
        &[
            "check the labels: random or shifted labels look like this",
            "more pictures, or stronger augmentation (--augment strong)",
            "a smaller network (--model, --width) and more weight decay (--weight-decay)",
        ],
    )
}

fn short(evidence: &Evidence<'_>) -> Verdict {
    let epochs = match evidence.history.len() {
        1 => "one epoch".to_string(),
        n => format!("{n} epochs"),
    };
    let text = format!("After {epochs} there is no trend to read yet.");
    verdict(Kind::Short, text, &[more_of(evidence.stopped)])
}

fn overfitting(curves: &Curves<'_>, turn: usize) -> Verdict {
    let training = if curves.train_fell_since(turn) { "kept falling" } else { "stayed low" };
    let best = curves.evidence.best_epoch;
    verdict(
        Kind::Overfitting,
        format!(
            "Overfitting: validation turned at epoch {} while the loss of training {training}; the weights of epoch \
             {best} were kept.",
            turn + 1
        ),
        &[
            "more pictures, or stronger augmentation (--augment strong)",
            "more weight decay (--weight-decay) or label smoothing (--smoothing)",
            "a smaller network (--model, --width)",
            "fewer epochs, so that the learning rate falls before validation turns (--epochs)",
        ],
    )
}

fn still_improving(evidence: &Evidence<'_>) -> Verdict {
    let why = match evidence.stopped {
        Stopped::Time => "time ran out",
        _ => "the epochs were done",
    };
    let (epoch, more) = (evidence.history.len(), more_of(evidence.stopped));
    verdict(
        Kind::StillImproving,
        format!("Validation was still improving when {why} at epoch {epoch}."),
        &[more, "a higher learning rate (--lr) where more time is not to be had"],
    )
}

fn plateau(curves: &Curves<'_>) -> Verdict {
    let since = curves.flat_since() + 1;
    let mistakes = "look at the most confident mistakes in report.html: they are often wrong labels";
    if curves.train_fell_since(curves.evidence.history.len() - 1 - curves.window()) {
        return verdict(
            Kind::Plateau,
            format!(
                "Validation has not improved since epoch {since}, though the loss of training still fell."
            ),
            &[
                mistakes,
                "more pictures, or stronger augmentation (--augment strong)",
                "more weight decay (--weight-decay)",
            ],
        );
    }
    verdict(
        Kind::Plateau,
        format!("A plateau: neither validation (since epoch {since}) nor training improved any more."),
        &[
            mistakes,
            "a larger network (--model, --width) or larger pictures (--imgsz)",
            "another learning rate (--lr)",
            "more pictures",
        ],
    )
}

pub(crate) fn more_of(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Time => "more time (--max-time)",
        Stopped::Patience => "more patience (--patience)",
        Stopped::Epochs | Stopped::Target => "more epochs (--epochs)",
    }
}

pub(crate) fn verdict(kind: Kind, text: String, advice: &[&str]) -> Verdict {
    Verdict { kind, text, advice: advice.iter().map(|line| line.to_string()).collect() }
}

fn with_missed_target(mut verdict: Verdict, evidence: &Evidence<'_>) -> Verdict {
    if let Some(target) = evidence.target {
        let best = evidence.history[evidence.best_epoch - 1].val[evidence.metric];
        verdict.text +=
            &format!(" The target {}={target} was missed: the best was {best:.4}.", evidence.metric);
    }
    verdict
}

/// The run's curves, smoothed, with their noise.
struct Curves<'a> {
    evidence: &'a Evidence<'a>,
    train: Curve,
    val: Curve,
    metric: Curve,
}

impl<'a> Curves<'a> {
    fn new(evidence: &'a Evidence<'a>) -> Self {
        let curve = |value: &dyn Fn(&Epoch) -> f64| Curve::new(evidence.history.iter().map(value).collect());
        Curves {
            evidence,
            train: curve(&|e| e.train_loss),
            val: curve(&|e| e.val["loss"]),
            metric: curve(&|e| e.val[evidence.metric]),
        }
    }

    fn highest(&self) -> f64 {
        self.metric.raw.iter().copied().fold(0.0, f64::max)
    }

    fn train_accuracy(&self) -> f64 {
        self.evidence.history.iter().filter_map(|e| e.train_accuracy).fold(0.0, f64::max)
    }

    fn above_chance(&self) -> bool {
        let (chance, n) = (self.evidence.chance, self.evidence.images);
        self.highest() > chance + SIGMAS * standard_error(chance, n)
    }

    /// Most of what guessing leaves over is right in training.
    fn by_heart(&self) -> bool {
        self.train_accuracy() > (1.0 + self.evidence.chance) / 2.0
    }

    /// Epochs at the end that are compared with as many before them: a fifth of all, or two of few.
    fn window(&self) -> usize {
        let n = self.evidence.history.len();
        (n / 5).max(2).min(n / 2).max(1)
    }

    /// The epoch (from 0) at which validation turned while training went on.
    fn turned(&self) -> Option<usize> {
        let turn = self.loss_turned().or(self.metric_turned())?;
        let far = self.val.last() - turn >= self.window().max(2);
        (far && (self.train_fell_since(turn) || self.above_val())).then_some(turn)
    }

    /// Where the loss on val was lowest, if it rose since and the metric gained nothing from that.
    fn loss_turned(&self) -> Option<usize> {
        let (turn, last) = (self.val.lowest(), self.val.last());
        let rise = self.val.smooth[last] - self.val.smooth[turn];
        let rose = rise > SIGMAS * self.val.error() && rise > TURNED * self.val.smooth[turn].abs();
        let by_chance = SIGMAS * (self.standard_error() + self.metric.error());
        let gained = self.metric.smooth[last] - self.metric.smooth[turn] > by_chance;
        (rose && !gained).then_some(turn)
    }

    /// Where the metric was last as good as ever, if it fell since.
    fn metric_turned(&self) -> Option<usize> {
        let smooth = &self.metric.smooth;
        let highest = smooth.iter().copied().fold(f64::MIN, f64::max);
        let fall = highest - smooth[self.metric.last()];
        let fell = fall > self.moved() && fall > SIGMAS * self.metric.error();
        smooth.iter().rposition(|&v| v >= highest - self.standard_error()).filter(|_| fell)
    }

    /// A change of the metric that hardly comes from the choice of val's images: two standard errors.
    fn moved(&self) -> f64 {
        let last = standard_error(self.metric.smooth[self.metric.last()], self.evidence.images);
        2.0 * self.standard_error().max(last)
    }

    fn train_fell_since(&self, epoch: usize) -> bool {
        let fall = self.train.smooth[epoch] - self.train.smooth[self.train.last()];
        fall > self.train.error() && fall > MOVED * self.train.smooth[epoch].abs()
    }

    /// More of the training images are right than of val, by far.
    fn above_val(&self) -> bool {
        let last = &self.evidence.history[self.val.last()];
        last.train_accuracy.unwrap_or(0.0) > last.val[self.evidence.metric] + SIGMAS * self.standard_error()
    }

    fn still_improving(&self) -> bool {
        if self.evidence.stopped == Stopped::Patience {
            return false;
        }
        let window = self.window();
        let gain = self.metric.gain(window) > self.moved() + SIGMAS * self.metric.error()
            || self.flat_since() + window > self.val.last();
        let loss = -self.val.gain(window);
        gain || (loss > SIGMAS * self.val.error() && loss > TURNED * self.val.smooth[self.val.last()].abs())
    }

    /// The first epoch (from 0) from which on the smoothed metric stayed within two standard errors of its highest.
    fn flat_since(&self) -> usize {
        let highest = self.metric.smooth.iter().copied().fold(f64::MIN, f64::max);
        self.metric.smooth.iter().position(|&v| v >= highest - self.moved()).unwrap_or(0)
    }

    /// Of the highest metric; where not one image was missed, as if one were.
    fn standard_error(&self) -> f64 {
        let n = self.evidence.images;
        standard_error(self.highest().min(1.0 - 1.0 / n.max(2) as f64), n)
    }
}

/// Of a share that was measured on `n` images.
pub(crate) fn standard_error(share: f64, n: usize) -> f64 {
    (share * (1.0 - share) / n.max(1) as f64).max(0.0).sqrt()
}

/// One value for each epoch.
pub(crate) struct Curve {
    pub(crate) raw: Vec<f64>,
    pub(crate) smooth: Vec<f64>,
    radius: usize,
}

impl Curve {
    pub(crate) fn new(raw: Vec<f64>) -> Curve {
        let radius = (raw.len() / 10).clamp(1, 5);
        let mean_around = |i: usize| mean(&raw[i.saturating_sub(radius)..(i + radius + 1).min(raw.len())]);
        Curve { smooth: (0..raw.len()).map(mean_around).collect(), radius, raw }
    }

    pub(crate) fn last(&self) -> usize {
        self.raw.len() - 1
    }

    pub(crate) fn lowest(&self) -> usize {
        (0..self.raw.len()).min_by(|&a, &b| self.smooth[a].total_cmp(&self.smooth[b])).unwrap_or(0)
    }

    /// Standard error of a smoothed value: the noise of single values is read off the second differences, which a smooth
    /// curve hardly has (a robust form of Gasser, Sroka and Jennen-Steinmetz 1986).
    pub(crate) fn error(&self) -> f64 {
        let mut bends: Vec<f64> = self.raw.windows(3).map(|w| (w[0] - 2.0 * w[1] + w[2]).abs()).collect();
        bends.sort_by(f64::total_cmp);
        let median = bends.get(bends.len() / 2).copied().unwrap_or(0.0);
        median / (0.6745 * 6f64.sqrt()) / (self.radius as f64 + 1.0).sqrt()
    }

    /// By how much the last `window` values lie above the `window` before them, on the average.
    pub(crate) fn gain(&self, window: usize) -> f64 {
        let (before, last) = self.raw.split_at(self.raw.len() - window);
        mean(last) - mean(&before[before.len().saturating_sub(window)..])
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_graph::random::Random;

    /// A history from curves of train loss, train accuracy, val loss and val accuracy over the share of the run, each
    /// with noise in proportion.
    fn history(epochs: usize, noise: f32, seed: u64, curves: [fn(f64) -> f64; 4]) -> Vec<Epoch> {
        let mut random = Random::new(seed, 0);
        (1..=epochs)
            .map(|epoch| {
                let at = epoch as f64 / epochs as f64;
                let [train_loss, train_accuracy, loss, accuracy] =
                    curves.map(|f| f(at) * f64::from(1.0 + noise * random.normal()));
                let val = [("accuracy".into(), accuracy.clamp(0.0, 1.0)), ("loss".into(), loss)].into();
                let train_accuracy = Some(train_accuracy.clamp(0.0, 1.0));
                Epoch { epoch, train_loss, train_accuracy, lr: 0.1, val }
            })
            .collect()
    }

    fn diagnosis(history: &[Epoch], stopped: Stopped, target: Option<f64>) -> Verdict {
        let best = history.iter().max_by(|a, b| a.val["accuracy"].total_cmp(&b.val["accuracy"])).unwrap();
        let best_epoch = best.epoch;
        diagnose(&Evidence {
            history,
            stopped,
            metric: "accuracy",
            target,
            best_epoch,
            images: 1000,
            chance: 0.25,
        })
    }

    /// Over many draws of the noise, the verdict is `kind`.
    fn check(epochs: usize, stopped: Stopped, curves: [fn(f64) -> f64; 4], kind: Kind, words: &str) {
        for seed in 0..200 {
            let history = history(epochs, 0.01, seed, curves);
            let verdict = diagnosis(&history, stopped, None);
            assert_eq!(verdict.kind, kind, "seed {seed}: {}", verdict.text);
            assert!(verdict.text.contains(words), "{:?} should say {words:?}", verdict.text);
            assert!(!verdict.advice.is_empty() || kind == Kind::Target);
        }
    }

    #[test]
    fn each_shape_of_curves_has_its_verdict() {
        use Stopped::{Epochs, Patience, Time};
        let falling = |at: f64| 1.5 * (-3.0 * at).exp();
        let learned: fn(f64) -> f64 = |at| 0.5 + 0.45 * at;
        let saturating = |at: f64| 0.9 - 0.5 * (-10.0 * at).exp();
        let turning = |at: f64| 0.5 + 2.0 * (at - 0.4) * (at - 0.4);
        for epochs in [10, 30, 100] {
            for stopped in [Epochs, Patience, Time] {
                let overfitting = [falling, learned, turning, saturating];
                check(
                    epochs,
                    stopped,
                    overfitting,
                    Kind::Overfitting,
                    "while the loss of training kept falling",
                );
                // At its floor, training cannot fall any more.
                let floor = [|_| 0.5, |_| 0.99, turning, saturating];
                check(epochs, stopped, floor, Kind::Overfitting, "while the loss of training stayed low");
                let flat: [fn(f64) -> f64; 4] = [|_| 0.5, |_| 0.8, |_| 0.6, |_| 0.8];
                check(epochs, stopped, flat, Kind::Plateau, "neither validation");
                let guessing: [fn(f64) -> f64; 4] = [|_| 1.4, |_| 0.25, |_| 1.4, |_| 0.25];
                check(epochs, stopped, guessing, Kind::NothingLearned, "no better than always guessing");
                let by_heart: [fn(f64) -> f64; 4] = [falling, |_| 0.99, |at| 1.4 + 2.0 * at, |_| 0.25];
                check(epochs, stopped, by_heart, Kind::Overfitting, "learned by heart");
            }
            let rising: [fn(f64) -> f64; 4] = [falling, learned, falling, |at| 0.4 + 0.5 * at];
            check(epochs, Time, rising, Kind::StillImproving, "when time ran out");
            check(epochs, Epochs, rising, Kind::StillImproving, "when the epochs were done");
            let stuck = [falling, learned, |_| 0.6, |at: f64| 0.8 - 0.4 * (-20.0 * at).exp()];
            check(epochs, Epochs, stuck, Kind::Plateau, "though the loss of training still fell");
        }
    }

    /// The last few mistakes of 500 come and go.
    #[test]
    fn a_gain_of_two_images_is_chance() {
        let accuracy = [0.986, 0.988, 0.988, 0.986, 0.988, 0.99, 0.998, 0.992, 0.996, 0.996];
        let mut history = history(20, 0.0, 0, [|at| 0.6 - 0.1 * at, |_| 0.99, |_| 0.13, |_| 0.998]);
        for (row, accuracy) in history.iter_mut().skip(5).zip(accuracy) {
            row.val.insert("accuracy".into(), accuracy);
        }
        assert_eq!(diagnosis(&history, Stopped::Epochs, None).kind, Kind::Plateau);
    }

    /// Nothing is left to gain.
    #[test]
    fn a_perfect_run_is_a_plateau() {
        for epochs in [10, 30, 100] {
            let history = history(epochs, 0.0, 0, [|_| 0.5, |_| 1.0, |_| 0.02, |_| 1.0]);
            assert_eq!(diagnosis(&history, Stopped::Epochs, None).kind, Kind::Plateau);
        }
    }

    #[test]
    fn few_epochs_are_enough_for_a_clear_trend() {
        let rising: [fn(f64) -> f64; 4] =
            [|at| 1.4 - at, |at| 0.3 + 0.5 * at, |at| 1.4 - 0.8 * at, |at| 0.2 + 0.6 * at];
        for epochs in [3, 4, 5, 6, 9] {
            check(epochs, Stopped::Epochs, rising, Kind::StillImproving, "when the epochs were done");
        }
    }

    #[test]
    fn a_loss_that_rises_while_the_metric_gains_is_no_overfitting() {
        let turning = |at: f64| 0.5 + (at - 0.4) * (at - 0.4);
        check(
            30,
            Stopped::Epochs,
            [|at| 1.0 - 0.8 * at, |at| 0.5 + 0.4 * at, turning, |at| 0.5 + 0.4 * at],
            Kind::StillImproving,
            "still improving",
        );
    }

    #[test]
    fn the_turn_is_where_it_was() {
        let curves: [fn(f64) -> f64; 4] =
            [|at| 1.5 - at, |at| 0.5 + 0.45 * at, |at| 0.5 + 3.0 * (at - 0.46).abs(), |_| 0.8];
        let text = diagnosis(&history(50, 0.0, 1, curves), Stopped::Patience, None).text;
        assert!(text.contains("turned at epoch 23 "), "{text}");
    }

    #[test]
    fn targets_are_reached_or_missed() {
        let curves: [fn(f64) -> f64; 4] = [|_| 0.5, |_| 0.8, |_| 0.6, |_| 0.8];
        let reached = diagnosis(&history(12, 0.0, 1, curves), Stopped::Target, Some(0.8));
        assert_eq!(
            (reached.kind, &reached.text[..]),
            (Kind::Target, "The target accuracy=0.8 was reached at epoch 12.")
        );
        let missed = diagnosis(&history(12, 0.0, 1, curves), Stopped::Epochs, Some(0.95));
        assert_eq!(missed.kind, Kind::Plateau);
        assert!(
            missed.text.ends_with("The target accuracy=0.95 was missed: the best was 0.8000."),
            "{}",
            missed.text
        );
    }

    #[test]
    fn two_epochs_are_no_trend() {
        let curves: [fn(f64) -> f64; 4] = [|_| 0.5, |_| 0.8, |_| 0.6, |_| 0.8];
        let verdict = |n| diagnosis(&history(n, 0.0, 1, curves), Stopped::Time, None);
        assert_eq!((verdict(1).kind, verdict(2).kind), (Kind::Short, Kind::Short));
        assert!(verdict(1).text.contains("one epoch") && verdict(2).text.contains("2 epochs"));
        assert_ne!(verdict(3).kind, Kind::Short);
    }

    #[test]
    fn the_kind_is_a_word_and_the_advice_is_called_try() {
        let value = serde_json::to_value(verdict(Kind::StillImproving, "t".into(), &["a"])).unwrap();
        assert_eq!(value, serde_json::json!({"kind": "still-improving", "text": "t", "try": ["a"]}));
    }
}
