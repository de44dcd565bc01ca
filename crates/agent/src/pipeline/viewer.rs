//! Frame after frame: each gets its answer, and whoever listens hears of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use espalier_tasks::{Answer, Content, Image, Model, Observation};

use crate::frame::{Fault, Frame};
use crate::queue::{Next, Outcome};
use crate::scheduler::{Client, Turn};
use crate::show::{Board, Shot};
use crate::source::SourceError;
use crate::stream::{Event, Stream};

/// Longest wait before a look at whether the end is wanted.
const PATIENCE: Duration = Duration::from_millis(100);
/// A turn should end within this time after a frame was there, where no deadline is given.
const USUAL_DEADLINE: Duration = Duration::from_secs(1);

/// A frame with its answer.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The frame.
    pub frame: &'a Frame,
    /// Its picture; a row of a series has none.
    pub image: Option<&'a Image>,
    /// What the network says.
    pub answer: &'a Answer,
    /// What picture and answer come to, where the manner asks for it.
    pub observation: Option<&'a Observation>,
    /// Class names of the task.
    pub labels: &'a [String],
    /// Time of the answer, pre-processing included.
    pub inference: Duration,
    /// Time from the frame's last byte to its answer.
    pub latency: Duration,
}

/// Who hears what a viewer sees.
pub trait Listener {
    /// What ends the viewing.
    type Error;

    /// A frame has its answer.
    ///
    /// # Errors
    /// Ends the viewing.
    fn answered(&mut self, seen: &Seen<'_>) -> Result<(), Self::Error>;

    /// A frame is broken.
    fn broken(&mut self, frame: &Frame, fault: &Fault);

    /// The source fails, and is tried again.
    fn failing(&mut self, text: &str);

    /// Called at least ten times a second, with the model, which may be replaced here.
    fn between(&mut self, _model: &mut Model) {}

    /// Whether the end is wanted.
    fn is_over(&self) -> bool;
}

/// How frames are looked at.
#[derive(Default)]
pub struct Manner {
    /// For the turns on shared cores.
    pub client: Option<Arc<Client>>,
    /// The most frames a second.
    pub rate: Option<f64>,
    /// Age at which a frame is no longer worth looking at.
    pub deadline: Option<Duration>,
    /// Whether to say what pictures and answers come to.
    pub observes: bool,
}

/// Answers the frames of a stream.
pub struct Viewer {
    model: Model,
    board: Arc<Board>,
    manner: Manner,
    /// When the next frame may be looked at.
    due: Option<Instant>,
    /// The reading that the last frame was of.
    reading: u64,
}

impl Viewer {
    /// Answers by `model`, and shows and counts on `board`.
    pub fn new(model: Model, board: Arc<Board>, manner: Manner) -> Viewer {
        Viewer { model, board, manner, due: None, reading: 0 }
    }

    /// Follows a stream until it ends or the listener wants the end.
    ///
    /// # Errors
    /// Those of the listener. How the source ended is inside.
    pub fn follow<L: Listener>(
        &mut self,
        stream: &Stream,
        listener: &mut L,
    ) -> Result<Result<(), SourceError>, L::Error> {
        while !listener.is_over() {
            listener.between(&mut self.model);
            match stream.wait(self.patience()) {
                Next::Frame => self.frame(stream, listener)?,
                Next::Word => {
                    if let Some(result) = self.hear(stream.next(Duration::ZERO), listener) {
                        self.count(stream);
                        return Ok(result);
                    }
                }
                Next::Nothing => {}
            }
            self.count(stream);
        }
        Ok(Ok(()))
    }

    /// Takes what the source has to say; how it ended, where it did.
    fn hear<L: Listener>(&self, event: Event, listener: &mut L) -> Option<Result<(), SourceError>> {
        match event {
            Event::Trouble(text) => {
                self.board.failing(&text);
                listener.failing(&text);
                None
            }
            Event::Ended(result) => Some(result),
            Event::Frame(_) | Event::Nothing => None,
        }
    }

    /// Brings the counts of a stream to the board.
    pub fn count(&self, stream: &Stream) {
        self.board.tally(|tally| tally.counts = stream.counts());
    }

    /// Until the next look; frames that come meanwhile wait, or replace each other.
    fn patience(&mut self) -> Duration {
        let left = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        std::thread::sleep(left.min(PATIENCE));
        if left > PATIENCE { Duration::ZERO } else { PATIENCE }
    }

    /// Takes a turn, and then the frame that is the next by then.
    fn frame<L: Listener>(&mut self, stream: &Stream, listener: &mut L) -> Result<(), L::Error> {
        if self.due.is_some_and(|due| Instant::now() < due) {
            return Ok(());
        }
        let client = self.manner.client.clone();
        let deadline = Instant::now() + self.manner.deadline.unwrap_or(USUAL_DEADLINE);
        let turn = client.as_ref().map(|client| client.turn(deadline, || listener.is_over()));
        match turn {
            Some(None) => Ok(()),
            turn => match stream.next(Duration::ZERO) {
                Event::Frame(frame) => self.look(stream, &frame, turn.flatten(), listener),
                // While it waited for its turn, the source began to fail; the frame is still the next.
                other => {
                    self.hear(other, listener);
                    Ok(())
                }
            },
        }
    }

    fn look<L: Listener>(
        &mut self,
        stream: &Stream,
        frame: &Frame,
        turn: Option<Turn<'_>>,
        listener: &mut L,
    ) -> Result<(), L::Error> {
        if self.manner.deadline.is_some_and(|deadline| frame.captured.elapsed() > deadline) {
            stream.settle(Outcome::Skipped);
            return Ok(());
        }
        self.pace();
        let looked = catch_unwind(AssertUnwindSafe(|| self.answer(frame)));
        drop(turn);
        match looked.unwrap_or_else(|_| Err(Fault::new("looking at it panicked"))) {
            Ok((content, answer, observation, inference)) => {
                let latency = frame.captured.elapsed();
                stream.settle(Outcome::Processed);
                self.board.tally(|tally| {
                    tally.processed(inference, latency);
                    tally.counts = stream.counts();
                });
                let image = match content {
                    Content::Image(image) => Some(image),
                    Content::Row(_) | Content::Window(_) => None,
                };
                let labels = self.model.task().labels();
                let seen = Seen {
                    frame,
                    image: image.as_ref(),
                    answer: &answer,
                    observation: observation.as_ref(),
                    labels,
                    inference,
                    latency,
                };
                let result = listener.answered(&seen);
                let (inference_ms, latency_ms) = (inference.as_secs_f64() * 1e3, latency.as_secs_f64() * 1e3);
                let (number, captured) = (frame.number, frame.captured);
                self.board.shot(Shot { number, image, answer, inference_ms, latency_ms, captured });
                result
            }
            Err(fault) => {
                stream.settle(Outcome::Broken);
                self.count(stream);
                self.board.fault(&broken(frame, &fault));
                listener.broken(frame, &fault);
                Ok(())
            }
        }
    }

    fn answer(&mut self, frame: &Frame) -> Result<(Content, Answer, Option<Observation>, Duration), Fault> {
        // A source that begins again gives another series, or the same one from its beginning.
        if std::mem::replace(&mut self.reading, frame.reading) != frame.reading {
            self.model.forget();
        }
        let content = frame.content(self.model.task())?;
        let begun = Instant::now();
        let answered = match &content {
            Content::Image(image) if self.manner.observes => {
                self.model.observe(image).map(|(answer, observation)| (answer, Some(observation)))
            }
            _ => self.model.answer(content.input()).map(|answer| (answer, None)),
        };
        let (answer, observation) = answered.map_err(|error| Fault::new(error.to_string()))?;
        Ok((content, answer, observation, begun.elapsed()))
    }

    /// The next look is one period after this one was due.
    fn pace(&mut self) {
        let Some(rate) = self.manner.rate else { return };
        let (now, period) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        self.due = Some(self.due.filter(|due| *due + period > now).unwrap_or(now) + period);
    }
}

/// A broken frame in a sentence.
pub fn broken(frame: &Frame, fault: &Fault) -> String {
    let file = frame.file.as_ref().map(|file| format!(" ({file})")).unwrap_or_default();
    format!("frame {}{file} is broken: {fault}", frame.number)
}
