//! What happened in a run that has a loss and nothing else.

use crate::checkpoint::Epoch;
use crate::diagnosis::{Curve, EPOCHS_MIN, Kind, MOVED, SIGMAS, TURNED, Verdict, more_of, verdict as said};
use crate::event::Stopped;

/// The verdict on a run, by the trends of the loss on train and on val.
///
/// # Panics
/// Without any epoch.
pub(super) fn verdict(history: &[Epoch], stopped: Stopped, best_epoch: usize) -> Verdict {
    let curve = |value: fn(&Epoch) -> f64| Curve::new(history.iter().map(value).collect());
    let (train, val) = (curve(|row| row.train_loss), curve(|row| row.val["loss"]));
    let epochs = history.len();
    if epochs < EPOCHS_MIN {
        let text = format!("After {epochs} epochs there is no trend to read yet.");
        return said(Kind::Short, text, &[more_of(stopped)]);
    }
    let (turn, last) = (val.lowest(), val.last());
    let moved = |curve: &Curve, from: usize, to: usize, share: f64| {
        let fall = curve.smooth[from] - curve.smooth[to];
        fall > SIGMAS * curve.error() && fall > share * curve.smooth[from].abs()
    };
    if moved(&val, last, turn, TURNED) {
        return said(
            Kind::Overfitting,
            format!(
                "Validation turned at epoch {}; the weights of epoch {best_epoch} were kept. Val comes later in time: either \
                 train was learned by heart, or the series has changed.",
                turn + 1
            ),
            &[
                "more rows, so that train has seen what val does",
                "look at the series in report.html: is val unlike train?",
                "fewer epochs (--epochs) or more weight decay (--weight-decay)",
            ],
        );
    }
    let window = (epochs / 5).max(1);
    if stopped != Stopped::Patience && moved(&val, last - window, last, MOVED) {
        let text = format!("Validation was still improving at epoch {epochs}.");
        return said(Kind::StillImproving, text, &[more_of(stopped)]);
    }
    let fell = if moved(&train, last - window, last, MOVED) {
        ", though the loss of training still fell"
    } else {
        ""
    };
    said(
        Kind::Plateau,
        format!("Validation does not improve any more{fell}: the series is learned."),
        &[
            "look at the alarms in report.html",
            "another window (--window) where what is unusual is shorter or longer",
        ],
    )
}
