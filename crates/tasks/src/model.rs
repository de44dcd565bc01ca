//! A network that is ready to answer: graph, weights and task, with a plan for each batch size that was asked for.
//! Training validates with it, the command line predicts with it, devices run it.

use espalier_graph::{Bindings, Data, Dim, Golden, Graph, Tensor, Weights};
use espalier_runtime::{Isa, LowerError, Options, Plan, Pool, lower, lower_for_bytes};

use crate::anomaly::Monitor;
use crate::golden::compare;
use crate::series::{Follows, Row, Window};
use crate::slot::{Form, Slot};
use crate::{Answer, Content, Image, ImageError, Input, Task, TaskError};

/// Why a model could not be made or asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The graph cannot be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
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
        "golden sample {sample}: element {element} of output {output} is {got}, the package was made with {want} (allowed \
         difference {allowed}); this machine would answer differently, so the package is refused"
    )]
    Golden {
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

/// A network with its task, lowered on demand.
pub struct Model {
    task: Task,
    graph: Graph,
    weights: Weights,
    isa: Isa,
    pool: Pool,
    plans: Vec<Planned>,
    /// What is remembered of a series.
    monitor: Option<Monitor>,
}

/// A plan, and how it takes its inputs.
struct Planned {
    batch: usize,
    plan: Plan,
    form: Form,
}

/// Plans of this many batch sizes are kept.
const PLANS_MAX: usize = 4;

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
        task.validate()?;
        check_shapes(&graph, &task)?;
        let monitor = monitor(&task);
        Ok(Model { task, graph, weights, isa, pool: Pool::new(threads), plans: Vec::new(), monitor })
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Gives the model other settings of its task, another threshold say. What it remembers of a series is forgotten.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn set_task(&mut self, task: Task) -> Result<(), ModelError> {
        task.validate()?;
        check_shapes(&self.graph, &task)?;
        self.plans.clear();
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

    /// The pool that runs the plans.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Elements of one input.
    pub fn input_len(&self) -> usize {
        self.task.input_shape().iter().product()
    }

    /// Whether the graph takes any number of inputs at once, else one.
    pub fn takes_batches(&self) -> bool {
        self.graph.ty(self.graph.inputs()[0]).shape.0.first().is_some_and(|dim| *dim == Dim::N)
    }

    /// Where the plan for `batch` inputs is.
    fn planned(&mut self, batch: usize) -> Result<usize, ModelError> {
        if let Some(at) = self.plans.iter().position(|planned| planned.batch == batch) {
            return Ok(at);
        }
        let options =
            Options { isa: self.isa, threads: self.pool.workers(), bindings: Bindings::batch(batch) };
        if self.plans.len() == PLANS_MAX {
            self.plans.remove(0);
        }
        let (plan, form) = match self.task.picture_input() {
            Some(input) => {
                let mut plan = lower_for_bytes(&self.graph, &self.weights, options)?;
                let form = match plan.input_bytes(input_name(&self.graph)) {
                    Some((quant, _)) => Form::Bytes(Box::new(input.byte_tables(quant))),
                    None => Form::Floats,
                };
                (plan, form)
            }
            None => (lower(&self.graph, &self.weights, options)?, Form::Floats),
        };
        self.plans.push(Planned { batch, plan, form });
        Ok(self.plans.len() - 1)
    }

    /// Runs `batch` inputs that `fill` writes into their places; `read` gets what that returned, and each output's
    /// elements.
    ///
    /// # Errors
    /// The graph cannot be lowered; what `fill` and `read` say.
    pub fn run<T, R>(
        &mut self,
        batch: usize,
        fill: impl FnOnce(&Task, Vec<Slot<'_>>) -> Result<T, TaskError>,
        read: impl FnOnce(&Task, T, &[&[f32]]) -> Result<R, TaskError>,
    ) -> Result<R, ModelError> {
        let at = self.planned(batch)?;
        let Model { task, graph, plans, pool, .. } = self;
        let Planned { plan, form, .. } = &mut plans[at];
        let filled = fill(task, form.slots(plan, input_name(graph), batch))?;
        plan.run(pool);
        let outputs: Vec<&[f32]> = graph.outputs().iter().map(|(name, _)| plan.output(name)).collect();
        Ok(read(task, filled, &outputs)?)
    }

    /// Runs `batch` inputs that are tensors already, row after row; returns each output's elements.
    ///
    /// # Errors
    /// The graph cannot be lowered. Panics where the length does not fit the batch.
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
        let Some(mut monitor) = self.monitor.take() else { return Err(self.task.wants_other().into()) };
        let told = self.tell(&mut monitor, row);
        let reading = monitor.reading(row);
        self.monitor = Some(monitor);
        told.map(|()| Answer::Reading(reading))
    }

    fn tell(&mut self, monitor: &mut Monitor, row: &Row) -> Result<(), ModelError> {
        let Some(window) = monitor.push(row)? else { return Ok(()) };
        let outputs = self.outputs(&window)?;
        Ok(monitor.judge(&window, &outputs[0])?)
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
    /// The first element outside of [`GOLDEN_TOLERANCE`](crate::golden::GOLDEN_TOLERANCE).
    pub fn replay(&mut self, golden: &[Golden]) -> Result<(), ModelError> {
        let answers = golden.iter().map(|sample| {
            let input = sample.inputs.first().ok_or(ModelError::GoldenInput)?;
            self.outputs(content(input)?.input())
        });
        compare(golden, &answers.collect::<Result<Vec<_>, _>>()?)
    }
}

fn input_name(graph: &Graph) -> &str {
    &graph.value(graph.inputs()[0]).name
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
