//! From graph to plan: chooses layouts and kernels, packs constant weights, and says where every value lies.
//!
//! `lower` itself walks the groups that [`fuse`](crate::fuse) made; [`select`](crate::select) holds one rule per op.
//! A value has one native place and, where a kernel wants the other layout, a converted copy that all later steps share.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use espalier_graph::{Bindings, DType, Graph, Op, Source, Tensor, ValueId, Weights, Window};
use espalier_kernels::{Buffer, Io, Isa, Kernel, LANES, Layout, Rows, Worker, int8, layout, movement};

use crate::fuse::{Group, fuse};
use crate::memory::{Block, Interval, aligned, plan_arena};
use crate::plan::{Input, Place, Plan, Step};
use crate::supersteps::supersteps;

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Instruction set of every kernel.
    pub isa: Isa,
    /// Workers of the pool that will run it.
    pub threads: usize,
    /// Batch size and length in time.
    pub bindings: Bindings,
}

/// Why a graph cannot be lowered. Nothing falls back silently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// A value of an element type that no kernel computes with.
    #[error("value `{name}` is {ty}: plans compute with f32, i32 and q8; bytes are states only")]
    Type {
        /// The value.
        name: String,
        /// Its type.
        ty: String,
    },
    /// The content of a state is missing or has another type.
    #[error("state `{name}` should be {want}: {have}")]
    State {
        /// Its name.
        name: String,
        /// The graph's type for it.
        want: String,
        /// What was given.
        have: String,
    },
    /// What integer layers need before they run is computed in a run.
    #[error(
        "value `{name}` should be a state that never changes: integer layers are prepared when the plan is made"
    )]
    Constant {
        /// The value.
        name: String,
    },
    /// Scales that no kernel can compute with.
    #[error("value `{name}`: its scales, in steps of its quantization, are beyond f32")]
    Scale {
        /// The value.
        name: String,
    },
    /// An op of training, in a build that has no kernels for it.
    #[error("node `{node}`: {op} belongs to training, and this build only predicts; `espalier train` trains")]
    Training {
        /// The node.
        node: String,
        /// The op.
        op: &'static str,
    },
    /// More memory than can be addressed or asked for.
    #[error(
        "value `{name}` would take {bytes} bytes at this batch size; at most {MAX_VALUE_BYTES} are possible"
    )]
    TooLarge {
        /// The value.
        name: String,
        /// Its size.
        bytes: usize,
    },
}

/// Largest value of a plan, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 34;

/// A piece of memory that holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Storage(pub(crate) usize);

/// What the order of a packed weight depends on: direction, groups and window of the convolution.
pub(crate) type Form = (&'static str, usize, Window);

/// Where a value lies, and in which order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) storage: Storage,
    pub(crate) layout: Layout,
}

/// Writes a constant, or what a state begins with, into its place, which holds zeros.
type Fill<'a> = Box<dyn FnOnce(&mut [u8]) + Send + 'a>;

struct Region {
    /// Whether it is used anew as soon as nothing reads it any more.
    in_arena: bool,
    bytes: usize,
    first: usize,
    last: usize,
}

/// A step whose storages have no addresses yet.
pub(crate) struct Draft {
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) inputs: Vec<(Storage, usize)>,
    pub(crate) outputs: Vec<(Storage, usize)>,
    pub(crate) node: String,
    pub(crate) op: &'static str,
    pub(crate) macs: usize,
}

/// The state of lowering: what is placed, and the steps so far.
pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) weights: &'a Weights,
    pub(crate) options: Options,
    regions: Vec<Region>,
    /// What regions outside of the arena begin with.
    fills: Vec<(Storage, Fill<'a>)>,
    native: HashMap<ValueId, Located>,
    /// For inputs that are given as bytes: the value that rounds them.
    byte_inputs: HashMap<ValueId, ValueId>,
    /// By storage, layout, and batch, channels and pixels.
    converted: HashMap<(Storage, Layout, [usize; 3]), Storage>,
    packed: HashMap<(ValueId, Form), Storage>,
    states: HashMap<ValueId, Storage>,
    pub(crate) updated: Vec<ValueId>,
    /// Where each output of the graph lies, in their order.
    results: Vec<Storage>,
    steps: Vec<Draft>,
}

/// Lowers `graph` with the content of its states for one batch size, instruction set and number of workers.
///
/// # Errors
/// A value of bytes or of more than [`MAX_VALUE_BYTES`]; a state that is missing in `weights` or has another type.
pub fn lower(graph: &Graph, weights: &Weights, options: Options) -> Result<Plan, LowerError> {
    Lowering::new(graph, weights, options).lower(&fuse(graph))
}

/// As [`lower`], for callers that round the inputs themselves: an input that one Quantize alone reads is given as the bytes
/// that it would make ([`Plan::input_bytes`]).
///
/// # Errors
/// As [`lower`].
pub fn lower_for_bytes(graph: &Graph, weights: &Weights, options: Options) -> Result<Plan, LowerError> {
    let mut lowering = Lowering::new(graph, weights, options);
    lowering.byte_inputs = rounded_inputs(graph);
    lowering.lower(&fuse(graph))
}

/// The inputs that nothing reads but one Quantize, and what that makes.
fn rounded_inputs(graph: &Graph) -> HashMap<ValueId, ValueId> {
    let uses = graph.uses();
    let rounded = graph.nodes().iter().filter(|node| matches!(node.op, Op::Quantize { .. }));
    let pairs = rounded.map(|node| (node.inputs[0], node.outputs[0]));
    pairs.filter(|(x, _)| graph.inputs().contains(x) && uses[x.index()] == 1).collect()
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, weights: &'a Weights, options: Options) -> Self {
        Lowering {
            graph,
            weights,
            options,
            regions: Vec::new(),
            fills: Vec::new(),
            native: HashMap::new(),
            byte_inputs: HashMap::new(),
            converted: HashMap::new(),
            packed: HashMap::new(),
            states: HashMap::new(),
            updated: Vec::new(),
            results: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn lower(mut self, groups: &[Group]) -> Result<Plan, LowerError> {
        self.check_values()?;
        self.place_inputs();
        for group in groups {
            // What is given already is not made.
            if !group.outputs.iter().any(|id| self.native.contains_key(id)) {
                self.emit(group)?;
            }
        }
        self.update_states()?;
        self.place_outputs()?;
        self.finish()
    }

    /// The sizes of `id` in the logical order.
    pub(crate) fn dims(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).shape.bind(self.options.bindings)
    }

    /// The physical, row-major sizes of `id` in `layout`.
    pub(crate) fn physical(&self, id: ValueId, layout: Layout) -> Vec<usize> {
        let mut dims = self.dims(id);
        if layout == Layout::Blocked {
            let block = self.block(id);
            dims[1] = dims[1].div_ceil(block);
            dims.push(block);
        }
        dims
    }

    /// Channels side by side in the blocked layout.
    fn block(&self, id: ValueId) -> usize {
        if self.graph.ty(id).dtype.quant().is_some() { int8::QUAD } else { LANES }
    }

    /// Bytes of `id` in `layout`.
    pub(crate) fn bytes(&self, id: ValueId, layout: Layout) -> usize {
        self.physical(id, layout).iter().product::<usize>() * self.graph.ty(id).dtype.bytes()
    }

    fn check_values(&self) -> Result<(), LowerError> {
        for value in self.graph.values() {
            let bytes = matches!(value.ty.dtype, DType::U8 | DType::S8);
            if bytes && !matches!(value.source, Source::State(_)) {
                return Err(LowerError::Type { name: value.name.clone(), ty: value.ty.to_string() });
            }
            let elements = value.ty.shape.elements().bind(self.options.bindings);
            let bytes = elements.saturating_mul(value.ty.dtype.bytes() * LANES);
            if bytes > MAX_VALUE_BYTES {
                return Err(LowerError::TooLarge { name: value.name.clone(), bytes });
            }
        }
        Ok(())
    }

    fn region(&mut self, in_arena: bool, bytes: usize) -> Storage {
        let step = self.steps.len();
        self.regions.push(Region { in_arena, bytes, first: step, last: step });
        Storage(self.regions.len() - 1)
    }

    /// Fresh memory in the arena.
    pub(crate) fn temporary(&mut self, bytes: usize) -> Storage {
        self.region(true, bytes)
    }

    /// Fresh memory for `id` in `layout`, which becomes its native place.
    pub(crate) fn place(&mut self, id: ValueId, layout: Layout) -> (Storage, usize) {
        let bytes = self.bytes(id, layout);
        let storage = self.temporary(bytes);
        self.native.insert(id, Located { storage, layout });
        (storage, bytes)
    }

    /// Says that `id` lies in memory that another value has already.
    pub(crate) fn alias(&mut self, id: ValueId, located: Located) {
        self.native.insert(id, located);
    }

    fn place_inputs(&mut self) {
        for &id in self.graph.inputs() {
            match self.byte_inputs.get(&id) {
                Some(&bytes) => self.place(bytes, Layout::Blocked),
                None => self.place(id, Layout::Plain),
            };
        }
    }

    /// The value that is given for an input.
    fn given(&self, input: ValueId) -> ValueId {
        *self.byte_inputs.get(&input).unwrap_or(&input)
    }

    /// Appends a step; its storages live at least as long.
    pub(crate) fn push(&mut self, draft: Draft) {
        let step = self.steps.len();
        for (storage, _) in draft.inputs.iter().chain(&draft.outputs) {
            let region = &mut self.regions[storage.0];
            region.last = region.last.max(step);
        }
        self.steps.push(draft);
    }

    /// The rows of a storage of one step, where each worker writes its own.
    pub(crate) fn made_by_rows(&self, storage: Storage) -> Option<Rows> {
        let makes = |step: &&Draft| step.outputs.iter().any(|(made, _)| *made == storage);
        self.steps.iter().rev().find(makes)?.kernel.writes_rows(self.options.threads.max(1))
    }

    /// The native place of `id`.
    pub(crate) fn locate(&mut self, id: ValueId) -> Result<Located, LowerError> {
        if let Source::State(_) = self.graph.value(id).source {
            if self.updated.contains(&id) {
                return Err(self.state_error(id, "it is read after its update in the same run".into()));
            }
            return Ok(Located { storage: self.state(id)?, layout: Layout::Plain });
        }
        Ok(self.native[&id])
    }

    /// The memory of `id` in `layout`, converted if need be, with its size.
    pub(crate) fn get(&mut self, id: ValueId, layout: Layout) -> Result<(Storage, usize), LowerError> {
        let bytes = self.bytes(id, layout);
        let from = self.locate(id)?;
        if from.layout == layout || self.same_in_both_layouts(id) {
            return Ok((from.storage, bytes));
        }
        let dims = self.dims(id);
        let [n, c, spatial] = [dims[0], dims[1], dims[2..].iter().product()];
        // Reshaping gives one storage to values of several shapes, which differ in the other layout.
        let key = (from.storage, layout, [n, c, spatial]);
        if let Some(&copy) = self.converted.get(&key) {
            return Ok((copy, bytes));
        }
        let copy = self.temporary(bytes);
        let isa = self.options.isa;
        let kernel = match (self.graph.ty(id).dtype.quant(), layout) {
            (None, _) => layout::reorder(isa, from.layout, layout, n, c, spatial),
            (Some(_), Layout::Blocked) => int8::to_quads(isa, n, c, spatial),
            (Some(_), Layout::Plain) => int8::from_quads(isa, n, c, spatial),
        };
        let inputs = vec![(from.storage, self.bytes(id, from.layout))];
        let node = self.graph.value(id).name.clone();
        self.push(Draft { kernel, inputs, outputs: vec![(copy, bytes)], node, op: "Reorder", macs: 0 });
        self.converted.insert(key, copy);
        Ok((copy, bytes))
    }

    /// Without spatial axes and with whole blocks the two orders are one.
    fn same_in_both_layouts(&self, id: ValueId) -> bool {
        let dims = self.dims(id);
        dims.len() >= 2 && dims[1].is_multiple_of(self.block(id)) && dims[2..].iter().product::<usize>() == 1
    }

    /// The memory of state `id`, which is filled once, when the plan is made.
    fn state(&mut self, id: ValueId) -> Result<Storage, LowerError> {
        if let Some(&storage) = self.states.get(&id) {
            return Ok(storage);
        }
        let tensor = self.host_tensor(id)?;
        let fill = Box::new(move |to: &mut [u8]| to.copy_from_slice(tensor.data.as_bytes()));
        let (storage, _) = self.keep(self.bytes(id, Layout::Plain), fill);
        self.states.insert(id, storage);
        Ok(storage)
    }

    fn host_tensor(&self, id: ValueId) -> Result<&'a Tensor, LowerError> {
        let value = self.graph.value(id);
        let tensor =
            self.weights.get(&value.name).ok_or_else(|| self.state_error(id, "it is missing".into()))?;
        if tensor.ty() != value.ty {
            return Err(self.state_error(id, format!("it is {}", tensor.ty())));
        }
        Ok(tensor)
    }

    fn state_error(&self, id: ValueId, have: String) -> LowerError {
        let value = self.graph.value(id);
        LowerError::State { name: value.name.clone(), want: value.ty.to_string(), have }
    }

    /// Whether `id` never changes while the plan lives.
    fn constant(&self, id: ValueId) -> bool {
        match self.graph.value(id).source {
            Source::State(i) => self.graph.states()[i].next.is_none(),
            Source::Input | Source::Node { .. } => false,
        }
    }

    /// A weight in the form that a kernel wants: packed once where it is constant, else in every run.
    pub(crate) fn packed(
        &mut self,
        id: ValueId,
        form: Form,
        len: usize,
        pack: Box<dyn Kernel>,
    ) -> Result<(Storage, usize), LowerError> {
        let bytes = len * size_of::<f32>();
        if let Some(&storage) = self.packed.get(&(id, form)) {
            return Ok((storage, bytes));
        }
        let storage = if self.constant(id) {
            let weight =
                self.host_tensor(id)?.as_f32().ok_or_else(|| self.state_error(id, "it is no f32".into()))?;
            self.keep(bytes, Box::new(move |to| pack_into(&*pack, weight, to))).0
        } else {
            let plain = self.get(id, Layout::Plain)?;
            let storage = self.temporary(bytes);
            let node = self.graph.value(id).name.clone();
            let outputs = vec![(storage, bytes)];
            self.push(Draft { kernel: pack, inputs: vec![plain], outputs, node, op: "Pack", macs: 0 });
            storage
        };
        self.packed.insert((id, form), storage);
        Ok((storage, bytes))
    }

    /// The content of a state that never changes.
    pub(crate) fn content(&self, id: ValueId) -> Result<&'a Tensor, LowerError> {
        match self.constant(id) {
            true => self.host_tensor(id),
            false => Err(LowerError::Constant { name: self.graph.value(id).name.clone() }),
        }
    }

    /// Memory that holds what `fill` writes as long as the plan lives.
    pub(crate) fn keep(&mut self, bytes: usize, fill: Fill<'a>) -> (Storage, usize) {
        let storage = self.region(false, bytes);
        self.fills.push((storage, fill));
        (storage, bytes)
    }

    pub(crate) fn copy(&mut self, id: ValueId, from: (Storage, usize), to: (Storage, usize)) {
        let kernel = movement::copy(self.options.isa, from.1 / size_of::<f32>());
        let node = self.graph.value(id).name.clone();
        self.push(Draft { kernel, inputs: vec![from], outputs: vec![to], node, op: "Copy", macs: 0 });
    }

    /// States whose next value was made elsewhere get it at the end.
    fn update_states(&mut self) -> Result<(), LowerError> {
        for state in self.graph.states() {
            let Some(next) = state.next else { continue };
            if self.updated.contains(&state.value) {
                continue;
            }
            if self.graph.is_state(next) {
                return Err(self.state_error(state.value, "its next value is another state".into()));
            }
            let from = self.get(next, Layout::Plain)?;
            let storage = self.state(state.value)?;
            self.copy(state.value, from, (storage, from.1));
        }
        Ok(())
    }

    fn place_outputs(&mut self) -> Result<(), LowerError> {
        let graph = self.graph;
        for (_, id) in graph.outputs() {
            let from = self.get_new(*id)?;
            let in_arena = self.regions[from.0.0].in_arena;
            let is_input = matches!(graph.value(*id).source, Source::Input);
            let storage = if in_arena && !is_input {
                from.0
            } else {
                let copy = self.temporary(from.1);
                self.copy(*id, from, (copy, from.1));
                copy
            };
            self.results.push(storage);
            self.regions[storage.0].last = usize::MAX;
        }
        Ok(())
    }

    /// As `get` in the plain layout, but an updated state may be read: as an output it shows its new content.
    fn get_new(&mut self, id: ValueId) -> Result<(Storage, usize), LowerError> {
        match self.states.get(&id) {
            Some(&storage) if self.updated.contains(&id) => Ok((storage, self.bytes(id, Layout::Plain))),
            _ => self.get(id, Layout::Plain),
        }
    }

    fn finish(mut self) -> Result<Plan, LowerError> {
        let threads = self.options.threads.max(1);
        let supersteps = supersteps(&self.steps, threads);
        let arena: Vec<usize> = (0..self.regions.len()).filter(|&i| self.regions[i].in_arena).collect();
        let intervals: Vec<Interval> =
            arena.iter().map(|&i| interval(&self.regions[i], &supersteps)).collect();
        let (offsets, arena_bytes) = plan_arena(&intervals);
        let mut offset_of = vec![0; self.regions.len()];
        arena.iter().zip(offsets).for_each(|(&i, offset)| offset_of[i] = offset);
        let mut persistent = arena_bytes;
        for (i, region) in self.regions.iter().enumerate().filter(|(_, r)| !r.in_arena) {
            offset_of[i] = persistent;
            persistent += aligned(region.bytes);
        }
        let scratch = self.steps.iter().map(|s| s.kernel.scratch_len(threads)).max().unwrap_or(0);
        let scratch_bytes = aligned(scratch * size_of::<f32>());
        let memory = Block::new(persistent + scratch_bytes * threads);
        let place = |storage: Storage, bytes: usize| Place { offset: offset_of[storage.0], bytes };
        let whole = |storage: Storage| place(storage, self.regions[storage.0].bytes);
        let fills = std::mem::take(&mut self.fills);
        fill(fills.into_iter().map(|(storage, fill)| (whole(storage), fill)).collect(), &memory, threads);
        let name = |id: ValueId| self.graph.value(id).name.clone();
        let bytes = |id: ValueId| self.bytes(id, Layout::Plain);
        let input = |&id: &ValueId| {
            let given = self.given(id);
            let Located { storage, layout } = self.native[&given];
            let place = place(storage, self.bytes(given, layout));
            Input { name: name(id), place, dtype: self.graph.ty(given).dtype }
        };
        let inputs = self.graph.inputs().iter().map(input).collect();
        let results = self.graph.outputs().iter().zip(&self.results);
        let outputs =
            results.map(|((name, id), &storage)| (name.clone(), place(storage, bytes(*id)))).collect();
        let states = self.graph.states().iter().filter_map(|s| {
            let storage = self.states.get(&s.value)?;
            let name = self.graph.value(s.value).name.clone();
            Some((
                name,
                place(*storage, self.bytes(s.value, Layout::Plain)),
                self.graph.ty(s.value).clone(),
                s.next.is_some(),
            ))
        });
        let states = states.collect();
        let is_bytes =
            |name: &str| self.graph.find(name).is_some_and(|id| self.graph.ty(id).dtype.quant().is_some());
        let step = |draft: Draft| {
            let integers = draft.op == "QConv" || is_bytes(&draft.node);
            Step::new(draft, integers, &memory, place)
        };
        let steps = self.steps.into_iter().map(step).collect();
        Ok(Plan::new(
            memory,
            steps,
            supersteps,
            inputs,
            outputs,
            states,
            crate::plan::Sizes {
                arena_bytes,
                weight_bytes: persistent - arena_bytes,
                scratch_bytes,
                scratch_offset: persistent,
                threads,
            },
        ))
    }
}

/// Bytes that are worth a thread: packing them takes longer than a thread may take to start on a busy machine.
const WORTH_A_THREAD: usize = 1 << 23;

/// Writes contents into the plan's memory, by as many threads as the plan has workers where there is enough for them; large
/// ones first, so that no thread is left with one at the end.
fn fill(mut contents: Vec<(Place, Fill<'_>)>, memory: &Block, threads: usize) {
    contents.sort_by_key(|(place, _)| place.bytes);
    let bytes: usize = contents.iter().map(|(place, _)| place.bytes).sum();
    let threads = threads.min(1 + bytes / WORTH_A_THREAD);
    let contents = Mutex::new(contents);
    let next = || contents.lock().expect("no thread panics while it takes one").pop();
    let work = || {
        while let Some((place, fill)) = next() {
            // SAFETY: regions of the plan's memory are disjoint, zeroed, and nobody else knows them yet.
            fill(unsafe { std::slice::from_raw_parts_mut(memory.at(place.offset), place.bytes) });
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work();
        // Joined, not only awaited: a thread that ends gives memory back, which a run of the plan must not coincide with.
        others.into_iter().for_each(|thread| thread.join().expect("packing does not panic"));
    });
}

/// The supersteps in which a region is used: no worker waits within one, so its memory serves nothing else there.
fn interval(region: &Region, supersteps: &[Range<usize>]) -> Interval {
    let superstep_of = |step: usize| supersteps.partition_point(|superstep| superstep.end <= step);
    Interval { bytes: region.bytes, first: superstep_of(region.first), last: superstep_of(region.last) }
}

/// Runs a packing kernel, which takes weights at any address.
fn pack_into(kernel: &dyn Kernel, weight: &[f32], to: &mut [u8]) {
    let mut scratch = vec![0.0; kernel.scratch_len(1)];
    let (inputs, outputs) = ([Buffer::of(weight)], [Buffer::new(to.as_mut_ptr(), to.len())]);
    // SAFETY: two live slices, of which one is only read and the other this function's own.
    let io = unsafe { Io::new(&inputs, &outputs) };
    kernel.run(&io, Worker::ALONE, &mut scratch);
}
