//! What the examples that time kernels share: memory, clock, repetition.

use espalier_kernels::{Buffer, Io, Kernel, Worker};

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// Aligned memory for a buffer.
pub(crate) struct Memory {
    lines: Vec<Line>,
    bytes: usize,
}

impl Memory {
    /// Filled from `content`, again and again.
    pub(crate) fn new(bytes: usize, content: &[u8]) -> Memory {
        let mut lines = vec![Line([0; 64]); bytes.div_ceil(64)];
        let all = lines.iter_mut().flat_map(|line| &mut line.0).take(bytes);
        all.zip(content.iter().cycle()).for_each(|(to, &from)| *to = from);
        Memory { lines, bytes }
    }

    fn buffer(&mut self) -> Buffer {
        Buffer::new(self.lines.as_mut_ptr().cast(), self.bytes)
    }
}

/// Best time of one call by one worker, which is repeated for at least `budget` seconds.
pub(crate) fn seconds(
    kernel: &dyn Kernel,
    inputs: &mut [Memory],
    outputs: &mut [Memory],
    budget: f64,
) -> f64 {
    let inputs: Vec<Buffer> = inputs.iter_mut().map(Memory::buffer).collect();
    let outputs: Vec<Buffer> = outputs.iter_mut().map(Memory::buffer).collect();
    let mut scratch = vec![0.0; kernel.scratch_len(1) + 16];
    let align = scratch.as_ptr().align_offset(64);
    best(budget, || {
        // SAFETY: the buffers are distinct live vectors that only this thread uses.
        let io = unsafe { Io::new(&inputs, &outputs) };
        kernel.run(&io, Worker::ALONE, &mut scratch[align..]);
    })
}

/// Best time of one call of `f`: of the shortest of many samples, each long enough for the clock.
pub(crate) fn best(budget: f64, mut f: impl FnMut()) -> f64 {
    const SAMPLE: f64 = 2e-4;
    let mut time = |calls: usize| {
        let start = cpu_seconds();
        (0..calls).for_each(|_| f());
        (cpu_seconds() - start) / calls as f64
    };
    time(1);
    let calls = (SAMPLE / time(1).max(1e-7)).ceil() as usize;
    let (begin, mut best) = (cpu_seconds(), f64::INFINITY);
    while cpu_seconds() - begin < budget {
        best = best.min(time(calls));
    }
    best
}

/// Time that this thread has run, so that other programs on the machine do not count.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) fn cpu_seconds() -> f64 {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: a timespec is two 64-bit integers on 64-bit Linux.
    let result = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the clock of this thread");
    time[0] as f64 + time[1] as f64 / 1e9
}

/// Wall time where the thread's own is not at hand.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(crate) fn cpu_seconds() -> f64 {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}
