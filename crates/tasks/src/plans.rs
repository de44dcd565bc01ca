//! A network in our own runtime: a plan for each batch size that was asked for.

use espalier_graph::{Bindings, Graph, Weights};
use espalier_runtime::{Isa, LowerError, Options, Plan, Pool, Sizes, lower, lower_for_bytes};

use crate::Task;
use crate::slot::{Form, Slot};

/// Plans of this many batch sizes are kept.
const PLANS_MAX: usize = 4;

/// What plans are made of, and those that were made.
pub(crate) struct Plans {
    weights: Weights,
    isa: Isa,
    pool: Pool,
    made: Vec<Planned>,
}

/// A plan, and how it takes its inputs.
pub(crate) struct Planned {
    batch: usize,
    plan: Plan,
    form: Form,
}

impl Plans {
    pub(crate) fn new(weights: Weights, isa: Isa, threads: usize) -> Plans {
        Plans { weights, isa, pool: Pool::new(threads), made: Vec::new() }
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The plan for `batch` inputs, and what runs it.
    pub(crate) fn planned(
        &mut self,
        graph: &Graph,
        task: &Task,
        batch: usize,
    ) -> Result<(&mut Planned, &mut Pool), LowerError> {
        let at = match self.made.iter().position(|planned| planned.batch == batch) {
            Some(at) => at,
            None => self.plan(graph, task, batch)?,
        };
        Ok((&mut self.made[at], &mut self.pool))
    }

    /// Gives back what was planned.
    pub(crate) fn clear(&mut self) {
        self.made.clear();
    }

    /// Gives the weights back; what was planned holds them packed.
    pub(crate) fn forget_weights(&mut self) {
        self.weights = Weights::new();
    }

    fn plan(&mut self, graph: &Graph, task: &Task, batch: usize) -> Result<usize, LowerError> {
        let options =
            Options { isa: self.isa, threads: self.pool.workers(), bindings: Bindings::batch(batch) };
        if self.made.len() == PLANS_MAX {
            self.made.remove(0);
        }
        let (plan, form) = match task.picture_input() {
            Some(input) => {
                let mut plan = lower_for_bytes(graph, &self.weights, options)?;
                let form = match plan.input_bytes(input_name(graph)) {
                    Some((quant, _)) => Form::Bytes(Box::new(input.byte_tables(quant))),
                    None => Form::Floats,
                };
                (plan, form)
            }
            None => (lower(graph, &self.weights, options)?, Form::Floats),
        };
        self.made.push(Planned { batch, plan, form });
        Ok(self.made.len() - 1)
    }
}

impl Planned {
    /// The places of the inputs.
    pub(crate) fn slots(&mut self, graph: &Graph) -> Vec<Slot<'_>> {
        self.form.slots(&mut self.plan, input_name(graph), self.batch)
    }

    /// What memory it takes.
    pub(crate) fn sizes(&self) -> Sizes {
        self.plan.sizes()
    }

    /// Computes what is in the places.
    pub(crate) fn run(&mut self, graph: &Graph, pool: &mut Pool) -> Vec<&[f32]> {
        self.plan.run(pool);
        graph.outputs().iter().map(|(name, _)| self.plan.output(name)).collect()
    }
}

fn input_name(graph: &Graph) -> &str {
    &graph.value(graph.inputs()[0]).name
}
