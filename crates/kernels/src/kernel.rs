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

/// A tensor as rows that workers share out: `[images][planes][rows]`, each of so many bytes. A worker's rows are those of
/// `worker.share(images * rows)`, in all planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Images of the batch.
    pub images: usize,
    /// Planes of an image: blocks of channels, or channels.
    pub planes: usize,
    /// Rows of a plane.
    pub rows: usize,
    /// Of a row.
    pub bytes: usize,
}

impl Rows {
    /// Those of a tensor of bytes with these row-major sizes: images, planes, rows and what a row consists of; with fewer
    /// than four sizes a plane for everything but the last.
    pub fn of(sizes: &[usize]) -> Rows {
        match sizes {
            [images, planes, rows, row @ ..] if !row.is_empty() => {
                Rows { images: *images, planes: *planes, rows: *rows, bytes: row.iter().product() }
            }
            [planes @ .., bytes] => {
                Rows { images: 1, planes: planes.iter().product(), rows: 1, bytes: *bytes }
            }
            [] => Rows { images: 1, planes: 1, rows: 1, bytes: 1 },
        }
    }

    /// Whether so many workers have the same parts by both.
    pub fn parts_as(&self, other: &Rows, workers: usize) -> bool {
        let sizes = |rows: &Rows| (rows.images, rows.planes, rows.rows * rows.bytes);
        // Image, and byte of each of its planes, that a worker begins with.
        let start = |rows: &Rows, index: usize| {
            let row = Worker { index, count: workers }.share(rows.images * rows.rows).start;
            (row / rows.rows.max(1), row % rows.rows.max(1) * rows.bytes)
        };
        sizes(self) == sizes(other) && (0..workers).all(|worker| start(self, worker) == start(other, worker))
    }

    /// Bytes of the tensor.
    pub fn len(&self) -> usize {
        self.images * self.planes * self.rows * self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    /// or another output, and nobody else may write to them or read the outputs. Excepted are rows that the kernel promises
    /// to let alone: those of other workers may be written in an input ([`Kernel::reads_rows`]), and rows that are written
    /// may be read by their worker once its part is done ([`Kernel::writes_rows`]).
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
        // SAFETY: `Io::new`: live, initialised, aligned, not written during the call, since kernels use `input_rows` for inputs
        // that they read by rows; any bits are a valid T.
        unsafe { std::slice::from_raw_parts(buffer.ptr.cast(), buffer.bytes / size_of::<T>()) }
    }

    /// Input `i` as bytes of which others may be writing the rows that are theirs.
    pub fn input_rows(&self, i: usize) -> InputRows<'a> {
        let buffer = &self.inputs[i];
        InputRows { ptr: buffer.ptr, len: buffer.bytes, lifetime: PhantomData }
    }

    /// Output `i`, shared by the workers.
    pub fn output<T: Element>(&self, i: usize) -> Output<'a, T> {
        let buffer = &self.outputs[i];
        Output { ptr: buffer.ptr.cast(), len: buffer.bytes / size_of::<T>(), lifetime: PhantomData }
    }
}

/// An input that kernels read by rows.
#[derive(Clone, Copy)]
pub struct InputRows<'a> {
    ptr: *const u8,
    len: usize,
    lifetime: PhantomData<&'a [u8]>,
}

impl<'a> InputRows<'a> {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of byte 0.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// The bytes of `range`. Panics where it is out of bounds.
    ///
    /// # Safety
    /// They must not be among those that others may write.
    pub unsafe fn slice(&self, range: Range<usize>) -> &'a [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "input range {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion; live, initialised and not written by `Io::new` and this contract.
        unsafe { std::slice::from_raw_parts(self.ptr.add(range.start), range.len()) }
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

    /// The rows of the output, where each of `workers` workers writes its own and nothing else.
    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        let _ = workers;
        None
    }

    /// The rows of input `index`, where each of `workers` workers reads its own and nothing else.
    fn reads_rows(&self, index: usize, workers: usize) -> Option<Rows> {
        let _ = (index, workers);
        None
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
