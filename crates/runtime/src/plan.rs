//! A plan: steps with their addresses resolved, and the one block of memory they work in.

use std::ops::Range;
use std::time::{Duration, Instant};

use espalier_graph::{DType, Data, Quant, Tensor, TensorType, Weights};
use espalier_kernels::{Buffer, Io, Kernel};

use crate::lower::{Draft, Storage};
use crate::memory::Block;
use crate::pool::{Pool, Share};

/// A range of the plan's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Where an input is written before every run.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// As it is given.
    pub(crate) dtype: DType,
}

/// One kernel call.
pub(crate) struct Step {
    kernel: Box<dyn Kernel>,
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
    /// What it is, for people.
    pub info: StepInfo,
}

/// What a step is, for `inspect` and `benchmark --per-layer`.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// Name of the value it makes.
    pub node: String,
    /// The op; `Reorder`, `Pack` and `Copy` are the plan's own.
    pub op: &'static str,
    /// The kernel that runs.
    pub kernel: String,
    /// Whether it computes with bytes or makes them.
    pub integers: bool,
    /// Multiply-accumulates.
    pub macs: usize,
    /// Bytes read and written.
    pub bytes: usize,
    /// Offsets in the plan's memory of what it writes.
    pub offsets: Vec<usize>,
}

impl Step {
    pub(crate) fn new(
        draft: Draft,
        integers: bool,
        memory: &Block,
        place: impl Fn(Storage, usize) -> Place,
    ) -> Self {
        let places =
            |list: &[(Storage, usize)]| list.iter().map(|&(s, bytes)| place(s, bytes)).collect::<Vec<_>>();
        let (inputs, outputs) = (places(&draft.inputs), places(&draft.outputs));
        let buffers =
            |places: &[Place]| places.iter().map(|p| Buffer::new(memory.at(p.offset), p.bytes)).collect();
        let info = StepInfo {
            node: draft.node,
            op: draft.op,
            kernel: draft.kernel.name(),
            integers,
            macs: draft.macs,
            bytes: inputs.iter().chain(&outputs).map(|p| p.bytes).sum(),
            offsets: outputs.iter().map(|p| p.offset).collect(),
        };
        Step { kernel: draft.kernel, inputs: buffers(&inputs), outputs: buffers(&outputs), info }
    }
}

/// Where the plan's memory goes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Values that flow.
    pub arena_bytes: usize,
    /// States and packed weights.
    pub weight_bytes: usize,
    /// Scratch of one worker.
    pub scratch_bytes: usize,
    /// Offset of the first worker's scratch.
    pub(crate) scratch_offset: usize,
    /// Workers it was made for.
    pub threads: usize,
}

/// A graph, lowered: ready to run.
pub struct Plan {
    memory: Block,
    steps: Vec<Step>,
    /// Steps that a worker computes its shares of without waiting for the others.
    supersteps: Vec<Range<usize>>,
    inputs: Vec<Input>,
    outputs: Vec<(String, Place)>,
    /// Name, place, type, and whether runs change it.
    states: Vec<(String, Place, TensorType, bool)>,
    sizes: Sizes,
}

impl Plan {
    pub(crate) fn new(
        memory: Block,
        steps: Vec<Step>,
        supersteps: Vec<Range<usize>>,
        inputs: Vec<Input>,
        outputs: Vec<(String, Place)>,
        states: Vec<(String, Place, TensorType, bool)>,
        sizes: Sizes,
    ) -> Self {
        let plan = Plan { memory, steps, supersteps, inputs, outputs, states, sizes };
        plan.assert_no_step_overlaps_itself();
        plan
    }

    /// The rule of [`Io::new`], checked once for every step.
    fn assert_no_step_overlaps_itself(&self) {
        let range = |b: &Buffer| b.as_ptr() as usize..b.as_ptr() as usize + b.bytes();
        for step in &self.steps {
            for (i, out) in step.outputs.iter().enumerate() {
                let others = step.inputs.iter().chain(&step.outputs[..i]);
                let out = range(out);
                let apart = others
                    .map(range)
                    .all(|r| r.end <= out.start || out.end <= r.start || r.is_empty() || out.is_empty());
                assert!(
                    apart,
                    "step {} ({}) would write over its own input",
                    step.info.node, step.info.kernel
                );
            }
        }
    }

    /// Memory sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// All steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &StepInfo> {
        self.steps.iter().map(|s| &s.info)
    }

    /// How many times the workers wait for each other in a run: steps may follow one another without that.
    pub fn supersteps(&self) -> usize {
        self.supersteps.len()
    }

    fn given(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// The memory of all inputs.
    pub(crate) fn inputs(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.inputs.iter().map(|Input { place, .. }| {
            // SAFETY: the ranges lie in `memory`, which is borrowed mutably with `self`, and inputs have memory of their own
            // when a run begins.
            unsafe { std::slice::from_raw_parts_mut(self.memory.at(place.offset), place.bytes) }
        })
    }

    fn input_place(&self, name: &str, dtype: DType) -> Place {
        let input = self.given(name).unwrap_or_else(|| panic!("no input `{name}`"));
        assert_eq!(input.dtype, dtype, "element type of input `{name}`");
        input.place
    }

    /// Whether the graph has an input called `name`.
    pub fn has_input(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    /// The f32 input `name`, to be written before every run ([`Repeat`](crate::Repeat) does): runs may reuse its memory. Panics
    /// where there is none.
    pub fn input(&mut self, name: &str) -> &mut [f32] {
        let place = self.input_place(name, DType::F32);
        // SAFETY: the range lies in `memory`, which is borrowed mutably with `self`; floats take any bits.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at(place.offset).cast(), place.bytes / 4) }
    }

    /// The i32 input `name`, as [`Plan::input`].
    pub fn input_i32(&mut self, name: &str) -> &mut [i32] {
        let place = self.input_place(name, DType::I32);
        // SAFETY: as in `input`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at(place.offset).cast(), place.bytes / 4) }
    }

    /// The input `name`, as [`Plan::input`], where it is given as bytes, with their quantization: `[N][ceil(C/4)][H][W][4]`, four
    /// channels of a pixel side by side; those past the last channel may be anything.
    pub fn input_bytes(&mut self, name: &str) -> Option<(Quant, &mut [u8])> {
        let Input { place, dtype, .. } = self.given(name)?;
        let quant = dtype.quant()?;
        // SAFETY: as in `input`.
        Some((quant, unsafe { std::slice::from_raw_parts_mut(self.memory.at(place.offset), place.bytes) }))
    }

    /// The output `name` after a run, in the logical order. Panics where there is none.
    pub fn output(&self, name: &str) -> &[f32] {
        let (_, place) =
            self.outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output `{name}`"));
        // SAFETY: the range lies in `memory`, which nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.at(place.offset).cast(), place.bytes / 4) }
    }

    /// The content of the states that runs change, by name.
    pub fn states(&self) -> Weights {
        let changing = self.states.iter().filter(|(.., changes)| *changes);
        changing.map(|(name, place, ty, _)| (name.clone(), self.read(*place, ty))).collect()
    }

    fn read(&self, place: Place, ty: &TensorType) -> Tensor {
        // SAFETY: the range lies in `memory`, which nobody writes while `self` is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts(self.memory.at(place.offset), place.bytes) };
        let shape: Vec<usize> = ty.shape.0.iter().map(|d| d.factor).collect();
        Tensor::new(&shape, Data::from_le_bytes(ty.dtype, bytes))
    }

    /// The content of the state `name`, in the logical order; `None` where runs do not change it, or it is not of f32.
    pub fn state(&mut self, name: &str) -> Option<&mut [f32]> {
        let is_wanted = |state: &&(String, Place, TensorType, bool)| state.0 == name && state.3;
        let (_, place, ty, _) = self.states.iter().find(is_wanted)?;
        // SAFETY: as in `input`.
        (ty.dtype == DType::F32).then(|| unsafe {
            std::slice::from_raw_parts_mut(self.memory.at(place.offset).cast(), place.bytes / 4)
        })
    }

    /// Sets the states that runs change from `weights`; those that are absent there keep their content.
    ///
    /// # Errors
    /// The first state whose type differs.
    pub fn set_states(&mut self, weights: &Weights) -> Result<(), String> {
        for (name, place, ty, changes) in &self.states {
            let Some(tensor) = weights.get(name).filter(|_| *changes) else { continue };
            if tensor.ty() != *ty {
                return Err(format!("state `{name}` should be {ty}, it is {}", tensor.ty()));
            }
            // SAFETY: the range lies in `memory`, which only `self` may touch.
            let to = unsafe { std::slice::from_raw_parts_mut(self.memory.at(place.offset), place.bytes) };
            to.copy_from_slice(tensor.data.as_bytes());
        }
        Ok(())
    }

    /// Runs all steps on `pool`, which must have as many workers as the plan was made for. Allocates nothing.
    pub fn run(&mut self, pool: &mut Pool) {
        self.run_with(
            pool,
            self.supersteps.len(),
            &|plan, index| plan.supersteps[index].clone(),
            &mut |_| {},
        );
    }

    /// As [`Plan::run`], but with a wait after every step; adds the time of each to `times`, which has one entry per step.
    pub fn run_profiled(&mut self, pool: &mut Pool, times: &mut [Duration]) {
        assert_eq!(times.len(), self.steps.len(), "one time per step");
        let mut last = Instant::now();
        self.run_with(pool, self.steps.len(), &|_, step| step..step + 1, &mut |step| {
            let now = Instant::now();
            times[step] += now - last;
            last = now;
        });
    }

    /// In so many supersteps of these steps; `observe` is told of each when it is complete.
    fn run_with(
        &mut self,
        pool: &mut Pool,
        supersteps: usize,
        steps: &(dyn Fn(&Plan, usize) -> Range<usize> + Sync),
        observe: &mut dyn FnMut(usize),
    ) {
        assert_eq!(pool.workers(), self.sizes.threads, "the plan was made for another number of workers");
        let (this, sizes) = (&*self, self.sizes);
        let job = |Share { step: superstep, worker, thread }: Share| {
            let scratch_at = this.memory.at(sizes.scratch_offset + thread * sizes.scratch_bytes);
            // SAFETY: this thread's own range of the memory, beyond all values; floats take any bits.
            let scratch =
                unsafe { std::slice::from_raw_parts_mut(scratch_at.cast::<f32>(), sizes.scratch_bytes / 4) };
            for step in &this.steps[steps(this, superstep)] {
                // SAFETY: the memory lives and is initialised; outputs overlap nothing the step reads (asserted in `new`);
                // `&mut self` keeps all other access away, and the pool computes one superstep after the other and each share
                // once. Within a superstep workers read only their own rows of what is made there (`supersteps`), and no memory is
                // used twice (the intervals of `lower`).
                let io = unsafe { Io::new(&step.inputs, &step.outputs) };
                step.kernel.run(&io, worker, scratch);
            }
        };
        pool.run(supersteps, &job, observe);
    }
}
