//! metrics.csv: a row for each epoch, without times, so that a resumed run has the same bits.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use espalier_graph::files;

use super::Observer;
use crate::checkpoint::Epoch;
use crate::event::Event;
use crate::run_folder::RunFolder;

/// Writes metrics.csv anew after every epoch.
pub struct MetricsCsv {
    path: PathBuf,
}

impl MetricsCsv {
    /// In `folder`.
    pub fn new(folder: &RunFolder) -> Self {
        MetricsCsv { path: folder.metrics() }
    }
}

impl Observer for MetricsCsv {
    fn observe(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        if let Event::Epoch { history, .. } = event {
            files::write_atomic(&self.path, |file| file.write_all(table(history).as_bytes()))?;
        }
        Ok(())
    }
}

fn table(history: &[Epoch]) -> String {
    let names: Vec<&String> = history.first().map(|e| e.val.keys().collect()).unwrap_or_default();
    let has_accuracy = history.iter().any(|row| row.train_accuracy.is_some());
    let mut text = String::from("epoch,lr,train_loss");
    text += if has_accuracy { ",train_accuracy" } else { "" };
    names.iter().for_each(|name| write!(text, ",val_{name}").expect("writing to a string"));
    text.push('\n');
    for row in history {
        let Epoch { epoch, lr, train_loss, train_accuracy, .. } = row;
        write!(text, "{epoch},{lr},{train_loss}").expect("writing to a string");
        train_accuracy.iter().for_each(|share| write!(text, ",{share}").expect("writing to a string"));
        for name in &names {
            let value = row.val.get(*name).map(f64::to_string).unwrap_or_default();
            write!(text, ",{value}").expect("writing to a string");
        }
        text.push('\n');
    }
    text
}
