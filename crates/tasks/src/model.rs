//! A network that is ready to answer: graph, weights and task, with a plan for each batch size that was asked for.
//! Training validates with it, the command line predicts with it, devices run it.

use espalier_graph::{Bindings, Data, Golden, Graph, Tensor, Weights};
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
    /// The task's input shape or number of classes is not the graph's.
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

    /// The plan for `batch` inputs, made at its first use.
    ///
    /// # Errors
    /// The graph cannot be lowered.
    pub fn plan(&mut self, batch: usize) -> Result<&mut Plan, ModelError> {
        let at = match self.plans.iter().position(|(b, _)| *b == batch) {
            Some(at) => at,
            None => {
                let options =
                    Options { isa: self.isa, threads: self.pool.workers(), bindings: Bindings::batch(batch) };
                if self.plans.len() == PLANS_MAX {
                    self.plans.remove(0);
                }
                self.plans.push((batch, lower(&self.graph, &self.weights, options)?));
                self.plans.len() - 1
            }
        };
        Ok(&mut self.plans[at].1)
    }

    /// Runs `batch` inputs that are tensors already, row after row; returns each output's elements.
    ///
    /// # Errors
    /// The graph cannot be lowered. Panics where the length does not fit the batch.
    pub fn infer(&mut self, inputs: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let input = self.graph.value(self.graph.inputs()[0]).name.clone();
        let names: Vec<String> = self.graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        self.plan(batch)?;
        let at = self.plans.iter().position(|(b, _)| *b == batch).expect("just made");
        let plan = &mut self.plans[at].1;
        plan.input(&input).copy_from_slice(inputs);
        plan.run(&mut self.pool);
        Ok(names.iter().map(|name| plan.output(name).to_vec()).collect())
    }

    /// The outputs for one picture, pre-processing included.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn outputs(&mut self, image: &Image) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut tensor = vec![0.0; self.input_len()];
        self.task.preprocess(Input::Image(image), &mut tensor)?;
        self.infer(&tensor, 1)
    }

    /// The answer for one picture.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn answer(&mut self, image: &Image) -> Result<Answer, ModelError> {
        let outputs = self.outputs(image)?;
        let outputs: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
        Ok(self.task.postprocess(&outputs)?)
    }

    /// A golden sample of `image`: its pixels and what this machine answers.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn golden(&mut self, image: &Image) -> Result<Golden, ModelError> {
        let outputs = self.outputs(image)?;
        let shape = [image.height, image.width, image.channels];
        let input = Tensor::new(&shape, Data::U8(image.pixels.clone()));
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
        (&[height, width, channels], Data::U8(pixels)) => Image::new(width, height, channels, pixels.clone()),
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
    let classes = task.labels().len();
    match graph.outputs() {
        [(_, y)] if graph.ty(*y).shape.bind(one) == [1, classes] => Ok(()),
        outputs => {
            let have: Vec<String> = outputs.iter().map(|(_, id)| graph.ty(*id).to_string()).collect();
            Err(mismatch("output", format!("[{}]", have.join(", ")), format!("one of shape [1, {classes}]")))
        }
    }
}
