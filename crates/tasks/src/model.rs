//! A network that is ready to answer: graph, weights and task, with a plan for each batch size that was asked for.
//! Training validates with it, the command line predicts with it, devices run it.

use espalier_graph::{Bindings, Data, Dim, Golden, Graph, Tensor, Weights};
use espalier_runtime::{Isa, LowerError, Options, Plan, Pool, lower};

use crate::golden::compare;
use crate::{Answer, Image, ImageError, Input, Task, TaskError};

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
    plans: Vec<(usize, Plan)>,
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
        Ok(Model { task, graph, weights, isa, pool: Pool::new(threads), plans: Vec::new() })
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
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

    /// The plan for `batch` inputs, made at its first use.
    ///
    /// # Errors
    /// The graph cannot be lowered.
    pub fn plan(&mut self, batch: usize) -> Result<&mut Plan, ModelError> {
        let at = self.planned(batch)?;
        Ok(&mut self.plans[at].1)
    }

    /// Where the plan for `batch` inputs is.
    fn planned(&mut self, batch: usize) -> Result<usize, ModelError> {
        if let Some(at) = self.plans.iter().position(|(b, _)| *b == batch) {
            return Ok(at);
        }
        let options =
            Options { isa: self.isa, threads: self.pool.workers(), bindings: Bindings::batch(batch) };
        if self.plans.len() == PLANS_MAX {
            self.plans.remove(0);
        }
        self.plans.push((batch, lower(&self.graph, &self.weights, options)?));
        Ok(self.plans.len() - 1)
    }

    /// Runs `batch` inputs that `fill` writes as tensors, row after row; `read` gets what that returned, and each output's
    /// elements.
    ///
    /// # Errors
    /// The graph cannot be lowered; what `fill` and `read` say.
    pub fn run<T, R>(
        &mut self,
        batch: usize,
        fill: impl FnOnce(&Task, &mut [f32]) -> Result<T, TaskError>,
        read: impl FnOnce(&Task, T, &[&[f32]]) -> Result<R, TaskError>,
    ) -> Result<R, ModelError> {
        let at = self.planned(batch)?;
        let Model { task, graph, plans, pool, .. } = self;
        let plan = &mut plans[at].1;
        let filled = fill(task, plan.input(&graph.value(graph.inputs()[0]).name))?;
        plan.run(pool);
        let outputs: Vec<&[f32]> = graph.outputs().iter().map(|(name, _)| plan.output(name)).collect();
        Ok(read(task, filled, &outputs)?)
    }

    /// Runs `batch` inputs that are tensors already, row after row; returns each output's elements.
    ///
    /// # Errors
    /// The graph cannot be lowered. Panics where the length does not fit the batch.
    pub fn infer(&mut self, inputs: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let fill = |_: &Task, x: &mut [f32]| {
            x.copy_from_slice(inputs);
            Ok(())
        };
        self.run(batch, fill, |_, (), outputs| Ok(outputs.iter().map(|output| output.to_vec()).collect()))
    }

    /// The outputs for one picture, pre-processing included.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn outputs(&mut self, image: &Image) -> Result<Vec<Vec<f32>>, ModelError> {
        let fill = |task: &Task, x: &mut [f32]| task.preprocess(Input::Image(image), x);
        self.run(1, fill, |_, (), outputs| Ok(outputs.iter().map(|output| output.to_vec()).collect()))
    }

    /// The answer for one picture.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn answer(&mut self, image: &Image) -> Result<Answer, ModelError> {
        let input = Input::Image(image);
        self.run(
            1,
            |task, x| task.preprocess(input, x),
            |task, (), outputs| task.postprocess(input.origin(), outputs),
        )
    }

    /// A golden sample of `image`: its pixels and what this machine answers.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn golden(&mut self, image: &Image) -> Result<Golden, ModelError> {
        let outputs = self.outputs(image)?;
        let shape = [image.height, image.width, image.channels];
        let input = Tensor::new(&shape, Data::U8(image.pixels.clone().into()));
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
            self.outputs(&picture(input)?)
        });
        compare(golden, &answers.collect::<Result<Vec<_>, _>>()?)
    }
}

fn picture(tensor: &Tensor) -> Result<Image, ImageError> {
    match (&tensor.shape[..], &tensor.data) {
        (&[height, width, channels], Data::U8(pixels)) => {
            Image::new(width, height, channels, pixels.to_vec())
        }
        _ => Image::new(0, 0, 0, Vec::new()),
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
