//! What watches a run: each observer is told every event and keeps a record of its own.
//!
//! An observer never changes what a run computes. One that writes files fails the run where it cannot write; one that
//! depends on the world outside says so in a warning and lets the run go on.

mod csv;
pub mod mlflow;
pub mod report;
pub mod tensorboard;

use crate::event::Event;
use crate::run_folder::RunFolder;

pub use csv::MetricsCsv;
pub use mlflow::Mlflow;
pub use report::Report;
pub use tensorboard::TensorBoard;

/// Something that watches a run.
pub trait Observer {
    /// Sees what happened. Returns when its record is written, as far as the run has to wait for it.
    ///
    /// # Errors
    /// A record that cannot be written, where the run should not go on without it.
    fn observe(&mut self, event: &Event<'_>) -> anyhow::Result<()>;

    /// What the user should know since the last call; none of it stops the run.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// All that watch one run, and whoever asked for it.
pub(crate) struct Observers<'a> {
    list: Vec<Box<dyn Observer>>,
    notify: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Observers<'a> {
    /// The records that every run keeps in its folder, and MLflow where it was asked for.
    pub(crate) fn new(
        folder: &RunFolder,
        server: Option<mlflow::Server>,
        notify: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        let mut list: Vec<Box<dyn Observer>> = vec![
            Box::new(MetricsCsv::new(folder)),
            Box::new(TensorBoard::new(folder)),
            Box::new(Report::new(folder)),
        ];
        if let Some(server) = server {
            list.push(Box::new(Mlflow::new(server, folder)));
        }
        Observers { list, notify }
    }

    /// Tells all of them, and the user what they have to say.
    pub(crate) fn tell(&mut self, event: Event<'_>) -> anyhow::Result<()> {
        for observer in &mut self.list {
            observer.observe(&event)?;
            observer.warnings().iter().for_each(|text| (self.notify)(Event::Warning { text }));
        }
        (self.notify)(event);
        Ok(())
    }
}
