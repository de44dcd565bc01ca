//! Runs kernels on plain vectors, for tests: aligned and guarded memory, poisoned outputs and scratch.

use crate::{Buffer, Element, Io, Kernel, Rows, Worker};

/// Elements of guard around each buffer; they must be untouched afterwards.
const GUARD: usize = 64;
const POISON: u32 = 0x7fc0_dead;

/// Memory aligned to 64 bytes between two guards.
pub(crate) struct Memory {
    words: Vec<u32>,
    /// First word, and bytes from there on.
    start: usize,
    bytes: usize,
}

impl Memory {
    fn poisoned(bytes: usize) -> Self {
        let words = vec![POISON; bytes.div_ceil(4) + 2 * GUARD + 16];
        let start = GUARD + words[GUARD..].as_ptr().align_offset(64);
        Memory { words, start, bytes }
    }

    fn filled<T: Element>(values: &[T]) -> Self {
        let mut memory = Memory::poisoned(size_of_val(values));
        // SAFETY: T is plain data, and the range is inside `words`.
        unsafe {
            let target = memory.words.as_mut_ptr().add(memory.start).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
        }
        memory
    }

    fn buffer(&mut self) -> Buffer {
        Buffer::new(self.words[self.start..].as_mut_ptr().cast(), self.bytes)
    }

    fn set(&mut self, byte: usize, value: u8) {
        let word = &mut self.words[self.start + byte / 4];
        let mut bytes = word.to_ne_bytes();
        bytes[byte % 4] = value;
        *word = u32::from_ne_bytes(bytes);
    }

    fn scratch(&mut self) -> &mut [f32] {
        let range = self.start..self.start + self.bytes / 4;
        let words = &mut self.words[range];
        // SAFETY: f32 and u32 have the same layout, and any bits are valid.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }

    fn all_bytes(&self) -> impl Iterator<Item = u8> {
        self.words.iter().flat_map(|w| w.to_ne_bytes())
    }

    fn content(&self) -> Vec<u8> {
        self.all_bytes().skip(4 * self.start).take(self.bytes).collect()
    }

    fn check_guards(&self, what: &str) {
        let poison = POISON.to_ne_bytes();
        let inside = 4 * self.start..4 * self.start + self.bytes;
        let kept = |(i, byte): (usize, u8)| inside.contains(&i) || byte == poison[i % 4];
        assert!(self.all_bytes().enumerate().all(kept), "{what}: written outside of the buffer");
    }
}

/// One input.
pub(crate) enum Input<'a> {
    F32(&'a [f32]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

/// One output: its number of f32 or of bytes (poisoned), or its initial content for what is updated in place.
pub(crate) enum Out<'a> {
    Len(usize),
    Bytes(usize),
    InPlace(&'a [f32]),
}

/// Runs `kernel` with each number of workers, one worker after the other, and returns the outputs after checking that
/// all worker counts agree bit for bit.
pub(crate) fn run(kernel: &dyn Kernel, inputs: &[Input<'_>], outputs: &[Out<'_>]) -> Vec<Vec<f32>> {
    let f32s =
        |bytes: Vec<u8>| bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect();
    run_bytes(kernel, inputs, outputs).into_iter().map(f32s).collect()
}

/// As [`run`]; the outputs as bytes.
pub(crate) fn run_bytes(kernel: &dyn Kernel, inputs: &[Input<'_>], outputs: &[Out<'_>]) -> Vec<Vec<u8>> {
    let results: Vec<Vec<Vec<u8>>> =
        [1, 2, 3].map(|workers| run_with(kernel, inputs, outputs, workers)).into();
    for (other, workers) in results[1..].iter().zip([2, 3]) {
        for (i, (a, b)) in results[0].iter().zip(other).enumerate() {
            assert!(a == b, "{}: output {i} differs between 1 and {workers} workers", kernel.name());
        }
    }
    results.into_iter().next().unwrap()
}

/// The bytes that are not the worker's.
fn others_rows(rows: Rows, worker: Worker) -> impl Iterator<Item = usize> {
    let own = worker.share(rows.images * rows.rows);
    let unit = move |byte: usize| {
        let row = byte / rows.bytes.max(1);
        row / (rows.planes * rows.rows) * rows.rows + row % rows.rows
    };
    (0..rows.len()).filter(move |&byte| !own.contains(&unit(byte)))
}

fn run_with(kernel: &dyn Kernel, inputs: &[Input<'_>], outputs: &[Out<'_>], workers: usize) -> Vec<Vec<u8>> {
    let mut ins: Vec<Memory> = inputs
        .iter()
        .map(|input| match input {
            Input::F32(v) => Memory::filled(v),
            Input::I32(v) => Memory::filled(v),
            Input::U8(v) => Memory::filled(v),
        })
        .collect();
    let mut outs: Vec<Memory> = outputs
        .iter()
        .map(|output| match output {
            Out::Len(len) => Memory::poisoned(4 * len),
            Out::Bytes(bytes) => Memory::poisoned(*bytes),
            Out::InPlace(v) => Memory::filled(v),
        })
        .collect();
    let in_buffers: Vec<Buffer> = ins.iter_mut().map(Memory::buffer).collect();
    let out_buffers: Vec<Buffer> = outs.iter_mut().map(Memory::buffer).collect();
    for index in 0..workers {
        let worker = Worker { index, count: workers };
        let mut scratch = Memory::poisoned(4 * kernel.scratch_len(workers));
        let kept: Vec<Vec<u8>> = ins.iter().map(Memory::content).collect();
        let before = outs.iter().map(Memory::content).next().unwrap_or_default();
        // What it promises not to read may hold anything.
        for (i, memory) in ins.iter_mut().enumerate() {
            let others = kernel.reads_rows(i, workers).map(|rows| others_rows(rows, worker));
            others.into_iter().flatten().for_each(|byte| memory.set(byte, index as u8 ^ 0x5a));
        }
        // SAFETY: all buffers are distinct live vectors, and this thread alone uses them.
        let io = unsafe { Io::new(&in_buffers, &out_buffers) };
        kernel.run(&io, worker, scratch.scratch());
        scratch.check_guards(&format!("{} scratch", kernel.name()));
        if let Some(rows) = kernel.writes_rows(workers) {
            let after = outs[0].content();
            assert_eq!((rows.len(), outs.len()), (after.len(), 1), "{}: {rows:?}", kernel.name());
            let kept = others_rows(rows, worker).all(|byte| after[byte] == before[byte]);
            assert!(kept, "{}: {worker:?} writes rows of others", kernel.name());
        }
        for (memory, kept) in ins.iter_mut().zip(kept) {
            kept.into_iter().enumerate().for_each(|(i, byte)| memory.set(i, byte));
        }
    }
    ins.iter().for_each(|m| m.check_guards(&kernel.name()));
    outs.iter().for_each(|m| m.check_guards(&kernel.name()));
    outs.iter().map(Memory::content).collect()
}

/// Fails where an element of `got` is further from `want` than `tolerance * (1 + |want|)`, or only one is NaN.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let close = (f64::from(g) - w).abs() <= tolerance * (1.0 + w.abs())
            || f64::from(g) == w
            || (g.is_nan() && w.is_nan());
        assert!(close, "{what}: element {i} is {g}, reference {w}");
    }
}

/// Reproducible values in -1..1 for a test input.
pub(crate) fn values(stream: u64, len: usize) -> Vec<f32> {
    let mut random = espalier_graph::random::Random::new(7, stream);
    (0..len).map(|_| random.range(-1.0, 1.0)).collect()
}
