//! What every kernel is to the runtime: a name, a need for scratch, and a function that all workers call at once.

use std::marker::PhantomData;
use std::ops::Range;

/// One of `count` workers that run a kernel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// `0..count`.
    pub index: usize,
    /// Number of workers, at least 1.
    pub count: usize,
}

impl Worker {
    /// A single worker that does everything.
    pub const ALONE: Worker = Worker { index: 0, count: 1 };

    /// This worker's contiguous share of `items`; the shares of all workers are disjoint and cover `0..items`.
    pub fn share(self, items: usize) -> Range<usize> {
        items * self.index / self.count..items * (self.index + 1) / self.count
    }
}

/// Element types of buffers.
///
/// # Safety
/// Any bit pattern must be a valid value, and the alignment at most 64.
pub unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Element for f32 {}
// SAFETY: plain numbers.
unsafe impl Element for i32 {}
// SAFETY: plain numbers.
unsafe impl Element for u8 {}

/// An address range that outlives the kernel call, aligned to 64 bytes unless [`Buffer::of`] made it.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: a Buffer is an address; access goes through `Io`, whose constructor states the rules.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of `bytes` at `ptr`, which must be 64-byte aligned.
    pub fn new(ptr: *mut u8, bytes: usize) -> Self {
        assert_eq!(ptr.align_offset(64), 0, "buffers are aligned to 64 bytes");
        Buffer { ptr, bytes }
    }

    /// `elements` as the input of a kernel that is said to need no more than their alignment.
    pub fn of<T: Element>(elements: &[T]) -> Self {
        Buffer { ptr: elements.as_ptr().cast_mut().cast(), bytes: size_of_val(elements) }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }
}

/// Inputs and outputs of one kernel call. What a kernel updates in place stands among the outputs only.
#[derive(Clone, Copy)]
pub struct Io<'a> {
    inputs: &'a [Buffer],
    outputs: &'a [Buffer],
}

impl<'a> Io<'a> {
    /// Joins inputs and outputs for a call.
    ///
    /// # Safety
    /// Until the call of all workers has ended, every buffer must be live and initialised, no output may overlap an input
    /// or another output, and nobody else may write to them or read the outputs.
    pub unsafe fn new(inputs: &'a [Buffer], outputs: &'a [Buffer]) -> Self {
        Io { inputs, outputs }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Input `i` as elements.
    pub fn input<T: Element>(&self, i: usize) -> &'a [T] {
        let buffer = &self.inputs[i];
        // SAFETY: `Io::new`: live, initialised, aligned, not written during the call; any bits are a valid T.
        unsafe { std::slice::from_raw_parts(buffer.ptr.cast(), buffer.bytes / size_of::<T>()) }
    }

    /// Output `i`, shared by the workers.
    pub fn output<T: Element>(&self, i: usize) -> Output<'a, T> {
        let buffer = &self.outputs[i];
        Output { ptr: buffer.ptr.cast(), len: buffer.bytes / size_of::<T>(), lifetime: PhantomData }
    }
}

/// An output that several workers write, each its own part.
#[derive(Clone, Copy)]
pub struct Output<'a, T> {
    ptr: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is unsafe and demands disjoint parts.
unsafe impl<T: Send> Send for Output<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T: Element> Output<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of `range`. Panics where it is out of bounds.
    ///
    /// # Safety
    /// While the slice lives, no other slice may overlap it, of this worker or another.
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "output range {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion; live, initialised and exclusive by `Io::new` and this contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// Address of element 0, for kernels that write scattered parts.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.ptr
    }
}

/// A computation with all shapes, the layout and the instruction set already chosen.
pub trait Kernel: Send + Sync {
    /// What runs, for `inspect` and `benchmark --per-layer`: `conv 3x3 direct avx512`.
    fn name(&self) -> String;

    /// How many f32 of scratch each of `workers` workers needs; contents are undefined at the start of a call.
    fn scratch_len(&self, workers: usize) -> usize {
        let _ = workers;
        0
    }

    /// Does this worker's share. All workers are called with the same `io`, and outputs are complete when all have
    /// returned; there is no barrier inside. Results do not depend on the number of workers. Must not allocate.
    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]);
}

/// Scratch as bytes, for kernels that do not compute in f32.
pub(crate) fn as_bytes(scratch: &mut [f32]) -> &mut [u8] {
    // SAFETY: the same memory; bytes need no alignment, and any bits are a valid f32 afterwards.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast(), size_of_val(scratch)) }
}
