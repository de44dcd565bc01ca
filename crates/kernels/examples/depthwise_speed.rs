//! Speed of depthwise convolution, batch normalisation and reordering on one core, on the shapes of MobileNetV2.
//!
//! `cargo run --release --example depthwise_speed -p espalier-kernels [-- ISA]` prints, for each kernel, the rate that
//! its data moves (every input and output counted once), that of its multiply-adds, and the share of the bound: the
//! longer of copying as many bytes within an equal working set and of the multiply-adds with all operands in registers.

use espalier_graph::Window;
use espalier_kernels::conv::{self, ConvGeometry, Epilogue};
use espalier_kernels::layout::reorder;
use espalier_kernels::norm::{NormGeometry, batch_norm_grad, batch_norm_training};
use espalier_kernels::peak::measure;
use espalier_kernels::pool::{PoolGeometry, max_pool, max_pool_grad};
use espalier_kernels::{Activation, Buffer, Io, Isa, Kernel, Layout, Worker, physical_len};

/// batch, channels, input size, stride.
const CASES: [[usize; 4]; 10] = [
    [1, 32, 112, 1],
    [1, 96, 112, 2],
    [1, 144, 56, 1],
    [1, 144, 56, 2],
    [1, 576, 14, 1],
    [1, 960, 7, 1],
    [16, 96, 64, 2],
    [16, 144, 32, 1],
    [16, 576, 8, 1],
    [16, 576, 8, 2],
];

/// How long each kernel is repeated, at least.
const SECONDS: f64 = 0.3;
const RELU6: Activation = Activation::Clip([0.0, 6.0]);

fn main() {
    let name = std::env::args().nth(1);
    let isa = name.map_or(Isa::best(), |name| Isa::named(&name).expect("an instruction set of this CPU"));
    let peak = measure(isa, 1).macs_per_second / 1e9;
    println!("peak {peak:.1} GMAC/s, {isa}; each: GB/s, GMAC/s, share of the bound");
    CASES.iter().for_each(|&case| print_case(case, isa, peak));
}

fn print_case([batch, channels, size, stride]: [usize; 4], isa: Isa, peak: f64) {
    let window = Window::square(3, stride, 1);
    let (input, output) = ([size; 2], window.output([size; 2]).expect("the window fits"));
    let g = ConvGeometry {
        batch,
        channels_in: channels,
        channels_out: channels,
        groups: channels,
        input,
        output,
        window,
    };
    let x = physical_len(Layout::Blocked, batch, channels, size * size);
    let y = physical_len(Layout::Blocked, batch, channels, output[0] * output[1]);
    let (w, c, macs) = (9 * channels, channels, (y * 9) as f64);
    let (packed, packed_grad) = (conv::packed_len(&g), conv::packed_len_input_grad(&g));
    let show = |kernel: &dyn Kernel, macs: f64, inputs: &[usize], outputs: &[usize]| {
        let bytes = 4 * inputs.iter().chain(outputs).sum::<usize>();
        let time = seconds(kernel, inputs, outputs);
        let bound = (macs / peak / 1e9).max(copy_seconds(bytes / 2));
        let [gb, gmac] = [bytes as f64, macs].map(|v| v / time / 1e9);
        println!("  {:40} {gb:6.1} {gmac:6.1} {:4.0} %", kernel.name(), bound / time * 100.0);
    };
    println!("batch {batch}, {channels} channels, {size}x{size}, stride {stride}");
    let e = Epilogue { bias: true, residual: false, activation: RELU6 };
    show(&*conv::forward(isa, &g, Layout::Blocked, e), macs, &[x, packed, c], &[y]);
    show(&*conv::input_grad(isa, &g), macs, &[y, packed_grad], &[x]);
    show(&*conv::weight_grad(isa, &g, Layout::Blocked), macs, &[x, y], &[w]);
    let norm = NormGeometry { batch, channels, spatial: size * size, layout: Layout::Blocked };
    let training = batch_norm_training(isa, norm, 1e-5, 0.1, RELU6);
    show(&*training, 0.0, &[x, c, c], &[x, c, c, c, c]);
    show(&*batch_norm_grad(isa, norm, RELU6), 0.0, &[x, x, c, c, c, c], &[x, c, c]);
    let there = reorder(isa, Layout::Plain, Layout::Blocked, batch, channels, size * size);
    show(&*there, 0.0, &[batch * channels * size * size], &[x]);
    let pool = PoolGeometry { batch, channels, input, output, window, layout: Layout::Blocked };
    show(&*max_pool(isa, pool), 0.0, &[x], &[y]);
    show(&*max_pool_grad(isa, pool), 0.0, &[x, y], &[x]);
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [f32; 16]);

fn lines(len: usize) -> Vec<Line> {
    (0..len.div_ceil(16)).map(|i| Line(std::array::from_fn(|j| ((i * 16 + j) % 61) as f32 * 0.01))).collect()
}

/// Best time of one call by one worker.
fn seconds(kernel: &dyn Kernel, inputs: &[usize], outputs: &[usize]) -> f64 {
    let lens = || inputs.iter().chain(outputs);
    let mut memory: Vec<Vec<Line>> = lens().map(|&len| lines(len)).collect();
    let buffers: Vec<Buffer> =
        memory.iter_mut().zip(lens()).map(|(m, len)| Buffer::new(m.as_mut_ptr().cast(), len * 4)).collect();
    let (ins, outs) = buffers.split_at(inputs.len());
    let mut scratch = vec![0.0; kernel.scratch_len(1)];
    best(|| {
        // SAFETY: the buffers are distinct live vectors that only this thread uses.
        let io = unsafe { Io::new(ins, outs) };
        kernel.run(&io, Worker::ALONE, &mut scratch);
    })
}

/// Best time to copy `bytes`.
fn copy_seconds(bytes: usize) -> f64 {
    let (from, mut to) = (lines(bytes / 4), lines(bytes / 4));
    best(|| to.copy_from_slice(std::hint::black_box(&from)))
}

fn best(mut f: impl FnMut()) -> f64 {
    let (begin, mut best) = (cpu_seconds(), f64::INFINITY);
    while cpu_seconds() - begin < SECONDS {
        let start = cpu_seconds();
        f();
        best = best.min(cpu_seconds() - start);
    }
    best
}

/// Time that this thread has run, so that other programs on the machine do not count.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn cpu_seconds() -> f64 {
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
fn cpu_seconds() -> f64 {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}
