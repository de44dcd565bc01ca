//! A network that is ready to answer: graph, task, and what computes it, plans of our own runtime or another engine.
//! Training validates with it, the command line predicts with it, devices run it.

use espalier_graph::{Bindings, Data, Dim, Golden, Graph, Tensor, Weights};
use espalier_runtime::{Isa, LowerError, Sizes};

use crate::anomaly::Monitor;
use crate::engine::{Engine, EngineError, Hosted};
use crate::golden::{GOLDEN_TOLERANCE, OWN, compare};
use crate::plans::Plans;
use crate::reference::{Look, Observation};
use crate::series::{Follows, Row, Window};
use crate::slot::Slot;
use crate::{Answer, Content, Image, ImageError, Input, Task, TaskError};

/// Why a model could not be made or asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The graph cannot be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The task and its input do not agree.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A golden sample is no picture.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A golden sample does not fit what it is replayed by.
    #[error("a golden sample has other inputs or outputs than the graph")]
    GoldenInput,
    /// The task's input or output shape is not the graph's.
    #[error("the graph's {what} is {have}, the task {task} needs {want}")]
    Mismatch {
        /// Input or output.
        what: &'static str,
        /// Type in the graph.
        have: String,
        /// The task's kind.
        task: &'static str,
        /// What would fit.
        want: String,
    },
    /// This machine answers differently from the one that made the package.
    #[error(
        "golden sample {sample}: element {element} of output {output} is {got} in {engine}, the package was made with {want} \
         (allowed difference {allowed}); this machine would answer differently, so the package is refused"
    )]
    Golden {
        /// What computed it.
        engine: String,
        /// Number of the sample.
        sample: usize,
        /// Number of the output.
        output: usize,
        /// Number of the element.
        element: usize,
        /// What this machine computes.
        got: f32,
        /// What the package holds.
        want: f32,
        /// The tolerance.
        allowed: f32,
    },
}

/// A network with its task.
pub struct Model {
    task: Task,
    graph: Graph,
    backend: Backend,
    /// What is remembered of a series.
    monitor: Option<Monitor>,
}

/// What computes the network.
enum Backend {
    Plans(Plans),
    Engine(Hosted),
}

impl Model {
    /// Joins a portable graph with one input, the content of its states, and a task.
    ///
    /// # Errors
    /// The task's input or output shapes are not the graph's.
    pub fn new(
        graph: Graph,
        weights: Weights,
        task: Task,
        isa: Isa,
        threads: usize,
    ) -> Result<Self, ModelError> {
        Model::on(Backend::Plans(Plans::new(weights, isa, threads)), graph, task)
    }

    /// Joins a portable graph with one input, the engine that computes it in the place of our own runtime, and a task.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn with_engine(graph: Graph, engine: Box<dyn Engine>, task: Task) -> Result<Self, ModelError> {
        Model::on(Backend::Engine(Hosted::new(engine, graph.outputs().len())), graph, task)
    }

    fn on(backend: Backend, graph: Graph, task: Task) -> Result<Self, ModelError> {
        task.validate()?;
        check_shapes(&graph, &task)?;
        let monitor = monitor(&task);
        Ok(Model { task, graph, backend, monitor })
    }

    /// What computes the network, for people.
    pub fn engine(&self) -> String {
        match &self.backend {
            Backend::Plans(plans) => format!("{OWN} ({})", plans.isa()),
            Backend::Engine(hosted) => hosted.engine.name(),
        }
    }

    /// Outputs may differ from a golden sample's by this share of their range.
    pub fn tolerance(&self) -> f32 {
        match &self.backend {
            Backend::Plans(_) => GOLDEN_TOLERANCE,
            Backend::Engine(hosted) => hosted.engine.tolerance(),
        }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// What the engine warned of when it opened the network.
    pub fn warnings(&self) -> &[String] {
        match &self.backend {
            Backend::Plans(_) => &[],
            Backend::Engine(hosted) => hosted.engine.warnings(),
        }
    }

    /// Gives the model other settings of its task, another threshold say. What it remembers of a series is forgotten.
    ///
    /// # Errors
    /// As [`Model::new`]; later, that of a plan that cannot be made again once weights were [given back](Self::keep_prepared).
    pub fn set_task(&mut self, task: Task) -> Result<(), ModelError> {
        task.validate()?;
        check_shapes(&self.graph, &task)?;
        if let Backend::Plans(plans) = &mut self.backend {
            plans.clear();
        }
        self.monitor = monitor(&task);
        self.task = task;
        Ok(())
    }

    /// Forgets the series that it was answering: what comes next does not follow on it.
    pub fn forget(&mut self) {
        self.monitor = monitor(&self.task);
    }

    /// Goes on with the series that `before` was answering, so that a model that takes its place need not wait for a window of
    /// rows. Nothing happens where the two take other rows.
    pub fn follow(&mut self, before: &Model) {
        if let (Some(new), Some(old)) = (&mut self.monitor, &before.monitor) {
            new.follow(old);
        }
    }

    /// Elements of one input.
    pub fn input_len(&self) -> usize {
        self.task.input_shape().iter().product()
    }

    /// Whether the graph takes any number of inputs at once, else one.
    pub fn takes_batches(&self) -> bool {
        self.graph.ty(self.graph.inputs()[0]).shape.0.first().is_some_and(|dim| *dim == Dim::N)
    }

    /// Runs `batch` inputs that `fill` writes into their places; `read` gets what that returned, and each output's
    /// elements.
    ///
    /// # Errors
    /// The graph cannot be lowered, the engine failed; what `fill` and `read` say.
    pub fn run<T, R>(
        &mut self,
        batch: usize,
        fill: impl FnOnce(&Task, Vec<Slot<'_>>) -> Result<T, TaskError>,
        read: impl FnOnce(&Task, T, &[&[f32]]) -> Result<R, TaskError>,
    ) -> Result<R, ModelError> {
        let len = self.input_len();
        let Model { task, graph, backend, .. } = self;
        match backend {
            Backend::Plans(plans) => {
                let (planned, pool) = plans.planned(graph, task, batch)?;
                let filled = fill(task, planned.slots(graph))?;
                Ok(read(task, filled, &planned.run(graph, pool))?)
            }
            Backend::Engine(hosted) => {
                let filled = fill(task, hosted.slots(batch, len))?;
                Ok(read(task, filled, &hosted.run(len)?)?)
            }
        }
    }

    /// Runs `batch` inputs that are tensors already, row after row; returns each output's elements.
    ///
    /// # Errors
    /// As [`Model::run`]. Panics where the length does not fit the batch.
    pub fn infer(&mut self, inputs: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let len = self.input_len();
        assert_eq!(inputs.len(), batch * len, "elements of {batch} inputs");
        let fill = |_: &Task, slots: Vec<Slot<'_>>| {
            slots.into_iter().zip(inputs.chunks_exact(len)).try_for_each(|(mut slot, x)| slot.fill_with(x))
        };
        self.run(batch, fill, |_, (), outputs| Ok(outputs.iter().map(|output| output.to_vec()).collect()))
    }

    /// The outputs for one input, pre-processing included.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn outputs<'a>(&mut self, input: impl Into<Input<'a>>) -> Result<Vec<Vec<f32>>, ModelError> {
        self.run(1, filled_with(input.into()), |_, (), outputs| {
            Ok(outputs.iter().map(|output| output.to_vec()).collect())
        })
    }

    /// The answer for one input. Of a series the model remembers the newest rows and what is usual: its rows come one after
    /// another, each is answered in the light of those before, and the network runs where a window is due.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn answer<'a>(&mut self, input: impl Into<Input<'a>>) -> Result<Answer, ModelError> {
        match input.into() {
            Input::Row(row) => self.answer_row(row),
            input => {
                self.run(1, filled_with(input), |task, (), outputs| task.postprocess(input.origin(), outputs))
            }
        }
    }

    fn answer_row(&mut self, row: &Row) -> Result<Answer, ModelError> {
        if let Some(window) = self.monitor()?.push(row)? {
            let outputs = self.outputs(&window)?;
            self.monitor()?.judge(&window, &outputs[0])?;
        }
        Ok(Answer::Reading(self.monitor()?.reading(row)))
    }

    fn monitor(&mut self) -> Result<&mut Monitor, TaskError> {
        let Model { monitor, task, .. } = self;
        monitor.as_mut().ok_or_else(|| task.wants_other())
    }

    /// The answer for one picture, and what picture and answer come to for [`Reference`](crate::Reference) statistics.
    ///
    /// # Errors
    /// As [`Model::run`]; the task looks at no pictures.
    pub fn observe(&mut self, image: &Image) -> Result<(Answer, Observation), ModelError> {
        let origin = Input::Image(image).origin();
        let fill = |task: &Task, slots: Vec<Slot<'_>>| {
            let input = task.picture_input().ok_or_else(|| task.wants_other())?;
            let picture = input.fit(image);
            slots.into_iter().try_for_each(|mut slot| slot.fill_picture(input, &picture))?;
            Ok(Look::of(&picture))
        };
        self.run(1, fill, |task, look, outputs| {
            let answer = task.postprocess(origin, outputs)?;
            let observation = Observation::new(look, &answer, outputs);
            Ok((answer, observation))
        })
    }

    /// A golden sample of a raw input, a picture or a window, and what this machine answers.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn golden<'a>(&mut self, input: impl Into<Input<'a>>) -> Result<Golden, ModelError> {
        let input = input.into();
        let outputs = self.outputs(input)?;
        let input = match input {
            Input::Image(image) => {
                let shape = [image.height, image.width, image.channels];
                Tensor::new(&shape, Data::U8(image.pixels.clone().into()))
            }
            Input::Window(Window { values, .. }) => Tensor::f32(&[values.len()], values.clone()),
            Input::Row(_) => return Err(self.task.wants_other().into()),
        };
        let outputs = outputs.into_iter().map(|output| Tensor::f32(&[output.len()], output)).collect();
        Ok(Golden { inputs: vec![input], outputs })
    }

    /// Answers golden samples again and compares.
    ///
    /// # Errors
    /// The first element outside of the [tolerance](Self::tolerance).
    pub fn replay(&mut self, golden: &[Golden]) -> Result<(), ModelError> {
        self.replay_in_turns(golden, |one| one())
    }

    /// As [`replay`](Self::replay); `turn` gets each inference by itself, to call it when others do not need the cores.
    ///
    /// # Errors
    /// As [`replay`](Self::replay); also where `turn` did not call what it got.
    pub fn replay_in_turns(
        &mut self,
        golden: &[Golden],
        mut turn: impl FnMut(&mut dyn FnMut()),
    ) -> Result<(), ModelError> {
        let mut answers = Vec::with_capacity(golden.len());
        for sample in golden {
            let raw = content(sample.inputs.first().ok_or(ModelError::GoldenInput)?)?;
            let mut answer = Err(ModelError::GoldenInput);
            turn(&mut || answer = self.outputs(raw.input()));
            answers.push(answer?);
        }
        compare(golden, &answers, &self.engine(), self.tolerance())
    }

    /// Lowers the plan for `batch` inputs, where there is none yet, and says what memory it takes; an engine does not tell.
    ///
    /// # Errors
    /// The graph cannot be lowered.
    pub fn prepare(&mut self, batch: usize) -> Result<Option<Sizes>, ModelError> {
        match &mut self.backend {
            Backend::Plans(plans) => Ok(Some(plans.planned(&self.graph, &self.task, batch)?.0.sizes())),
            Backend::Engine(_) => Ok(None),
        }
    }

    /// Gives the weights back, which the plans that were prepared hold packed. Other batch sizes are errors from now on.
    pub fn keep_prepared(&mut self) {
        if let Backend::Plans(plans) = &mut self.backend {
            plans.forget_weights();
        }
    }
}

/// Writes `input` into every place.
fn filled_with<'a>(input: Input<'a>) -> impl FnOnce(&Task, Vec<Slot<'_>>) -> Result<(), TaskError> + 'a {
    move |task, slots| slots.into_iter().try_for_each(|mut slot| slot.fill(task, input))
}

/// The raw input in a golden sample: pixels `[height, width, channels]`, or the numbers of a window.
///
/// # Errors
/// It is neither.
pub fn content(tensor: &Tensor) -> Result<Content, ModelError> {
    match (&tensor.shape[..], &tensor.data) {
        (&[height, width, channels], Data::U8(pixels)) => {
            Ok(Content::Image(Image::new(width, height, channels, pixels.to_vec())?))
        }
        (&[_], Data::F32(values)) => {
            Ok(Content::Window(Window { values: values.to_vec(), follows: Follows::Nothing }))
        }
        _ => Err(ModelError::GoldenInput),
    }
}

fn monitor(task: &Task) -> Option<Monitor> {
    match task {
        Task::ClassifyImage(_) | Task::Detect(_) => None,
        Task::Anomaly(task) => Some(Monitor::new(task)),
    }
}

fn check_shapes(graph: &Graph, task: &Task) -> Result<(), ModelError> {
    let mismatch =
        |what, have: String, want: String| ModelError::Mismatch { what, have, task: task.kind(), want };
    let one = Bindings::batch(1);
    let want = [vec![1], task.input_shape()].concat();
    match graph.inputs() {
        [x] if graph.ty(*x).shape.bind(one) == want => {}
        inputs => {
            let have: Vec<String> = inputs.iter().map(|&id| graph.ty(id).to_string()).collect();
            return Err(mismatch(
                "input",
                format!("[{}]", have.join(", ")),
                format!("one of shape {want:?}"),
            ));
        }
    }
    let shapes: Vec<Vec<usize>> =
        graph.outputs().iter().map(|(_, id)| graph.ty(*id).shape.bind(one)).collect();
    task.check_outputs(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>()).map_err(|want| {
        let have: Vec<String> = graph.outputs().iter().map(|(_, id)| graph.ty(*id).to_string()).collect();
        mismatch("output", format!("[{}]", have.join(", ")), want)
    })
}
