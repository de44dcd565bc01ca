//! Running a plan again and again on the same inputs, to time it.

use std::ops::Deref;
use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::pool::Pool;

/// A plan that gets its inputs anew before every run. Runs may reuse their memory, and bytes of other values are odd floats:
/// where they are below the range of normal ones, some CPUs take a hundred times as long.
pub struct Repeat<'a> {
    plan: &'a mut Plan,
    inputs: Vec<u8>,
}

impl<'a> Repeat<'a> {
    /// Of a plan whose inputs are written.
    pub fn new(plan: &'a mut Plan) -> Self {
        let inputs = plan.inputs().flat_map(|input| &*input).copied().collect();
        Repeat { plan, inputs }
    }

    /// [`Plan::run`], and the time that it took.
    pub fn run(&mut self, pool: &mut Pool) -> Duration {
        self.write_inputs();
        let start = Instant::now();
        self.plan.run(pool);
        start.elapsed()
    }

    /// [`Plan::run_profiled`].
    pub fn run_profiled(&mut self, pool: &mut Pool, times: &mut [Duration]) {
        self.write_inputs();
        self.plan.run_profiled(pool, times);
    }

    fn write_inputs(&mut self) {
        let mut rest = self.inputs.as_slice();
        for input in self.plan.inputs() {
            let (bytes, others) = rest.split_at(input.len());
            input.copy_from_slice(bytes);
            rest = others;
        }
    }
}

/// Of the plan, what can be read.
impl Deref for Repeat<'_> {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        self.plan
    }
}
