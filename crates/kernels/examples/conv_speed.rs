//! Speed of the convolution kernels on one core, against the register-only peak of multiply-adds.
//!
//! `cargo run --release --example conv_speed -p espalier-kernels [-- FILTER [ISA]]` prints giga multiply-adds per second
//! (useful ones only) and the share of the peak; best of several repetitions.

use espalier_graph::Window;
use espalier_kernels::conv::{self, ConvGeometry, Epilogue};
use espalier_kernels::{Buffer, Io, Isa, Kernel, Layout, Worker, physical_len};

/// name, batch, channels in and out, input size, kernel, stride, pad.
type Case = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const CASES: &[Case] = &[
    ("resnet", 32, 64, 64, 32, 3, 1, 1),
    ("resnet", 32, 64, 64, 56, 3, 1, 1),
    ("resnet", 32, 128, 128, 16, 3, 1, 1),
    ("resnet", 32, 128, 128, 28, 3, 1, 1),
    ("resnet", 32, 256, 256, 8, 3, 1, 1),
    ("resnet", 32, 256, 256, 14, 3, 1, 1),
    ("resnet", 32, 512, 512, 4, 3, 1, 1),
    ("resnet", 32, 512, 512, 7, 3, 1, 1),
    ("strided", 32, 64, 128, 32, 3, 2, 1),
    ("strided", 32, 256, 512, 14, 3, 2, 1),
    ("strided", 32, 64, 128, 32, 1, 2, 0),
    ("single", 1, 64, 64, 32, 3, 1, 1),
    ("single", 1, 64, 64, 56, 3, 1, 1),
    ("single", 1, 128, 128, 28, 3, 1, 1),
    ("single", 1, 256, 256, 14, 3, 1, 1),
    ("single", 1, 512, 512, 4, 3, 1, 1),
    ("single", 1, 512, 512, 7, 3, 1, 1),
    ("mobile", 16, 96, 24, 32, 1, 1, 0),
    ("mobile", 16, 24, 144, 32, 1, 1, 0),
    ("mobile", 16, 192, 64, 8, 1, 1, 0),
    ("mobile", 16, 960, 160, 4, 1, 1, 0),
    ("mobile", 16, 160, 960, 4, 1, 1, 0),
    ("stem", 32, 3, 64, 32, 3, 1, 1),
    ("stem", 32, 3, 64, 112, 7, 2, 3),
    ("stem", 16, 3, 32, 128, 3, 2, 1),
];

/// How long each kernel is repeated, at least.
const SECONDS: f64 = 0.2;

fn main() {
    let mut args = std::env::args().skip(1);
    let filter = args.next().unwrap_or_default();
    let isa =
        args.next().map_or(Isa::best(), |name| Isa::named(&name).expect("an instruction set of this CPU"));
    let peak = peak();
    println!("peak {peak:.1} GMAC/s, {isa}");
    println!(
        "{:8} {:>5} {:>11} {:>5} {:>6}  {:>14} {:>14} {:>14} {:>8}",
        "", "batch", "channels", "size", "kernel", "forward", "input grad", "weight grad", "pack ms"
    );
    for case in CASES.iter().filter(|case| case.0.contains(&filter)) {
        print_case(case, isa, peak);
    }
}

fn print_case(
    &(name, batch, channels_in, channels_out, size, kernel, stride, pad): &Case,
    isa: Isa,
    peak: f64,
) {
    let window = Window::square(kernel, stride, pad);
    let output = window.output([size; 2]).expect("the window fits");
    let g = ConvGeometry { batch, channels_in, channels_out, groups: 1, input: [size; 2], output, window };
    let layout = if channels_in < 4 { Layout::Plain } else { Layout::Blocked };
    let x = physical_len(layout, batch, channels_in, size * size);
    let dx = physical_len(Layout::Blocked, batch, channels_in, size * size);
    let y = physical_len(Layout::Blocked, batch, channels_out, output[0] * output[1]);
    let w = channels_in * channels_out * kernel * kernel;
    let macs = (batch * output[0] * output[1] * w) as f64;
    let (packed, packed_grad) = (conv::packed_len(&g), conv::packed_len_input_grad(&g));
    let rate = |kernel: &dyn Kernel, inputs: &[usize], output: usize| {
        let rate = macs / seconds(kernel, inputs, output) / 1e9;
        format!("{rate:6.1} ({:3.0} %)", rate / peak * 100.0)
    };
    let forward = rate(&*conv::forward(isa, &g, layout, Epilogue::default()), &[x, packed], y);
    let input_grad = rate(&*conv::input_grad(isa, &g), &[y, packed_grad], dx);
    let weight_grad = rate(&*conv::weight_grad(isa, &g, layout), &[x, y], w);
    let pack = seconds(&*conv::pack_weights(isa, &g), &[w], packed) * 1e3;
    let pack_grad = seconds(&*conv::pack_weights_input_grad(isa, &g), &[w], packed_grad) * 1e3;
    let channels = format!("{channels_in}->{channels_out}");
    println!(
        "{name:8} {batch:5} {channels:>11} {size:5} {kernel:4}/{stride}  {forward:>14} {input_grad:>14} {weight_grad:>14} {pack:4.2}+{pack_grad:4.2}"
    );
}

/// Best time of one call by one worker.
fn seconds(kernel: &dyn Kernel, inputs: &[usize], output: usize) -> f64 {
    let mut memory: Vec<Vec<Line>> = inputs.iter().chain([&output]).map(|&len| lines(len)).collect();
    let lens = inputs.iter().chain([&output]);
    let buffers: Vec<Buffer> =
        memory.iter_mut().zip(lens).map(|(m, len)| Buffer::new(m.as_mut_ptr().cast(), len * 4)).collect();
    let mut scratch = vec![0.0; kernel.scratch_len(1) + 16];
    let align = scratch.as_ptr().align_offset(64);
    let (inputs, outputs) = buffers.split_at(inputs.len());
    best(|| {
        // SAFETY: the buffers are distinct live vectors that only this thread uses.
        let io = unsafe { Io::new(inputs, outputs) };
        kernel.run(&io, Worker::ALONE, &mut scratch[align..]);
    })
}

/// Best time of one call of `f`.
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

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [f32; 16]);

fn lines(len: usize) -> Vec<Line> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len.div_ceil(16)).map(|_| Line(std::array::from_fn(|_| next()))).collect()
}

/// Multiply-adds per nanosecond with all operands in registers, at the widest vectors of this CPU.
fn peak() -> f64 {
    const ROUNDS: usize = 100_000;
    let mut width = 0;
    let seconds = best(|| width = multiply_adds(ROUNDS));
    (ROUNDS * width) as f64 / seconds / 1e9
}

/// Does `rounds` rounds, and returns multiply-adds per round.
fn multiply_adds(rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just detected.
            unsafe { avx512(rounds) };
            return 16 * 24;
        }
        if is_x86_feature_detected!("fma") {
            // SAFETY: just detected.
            unsafe { fma(rounds) };
            return 8 * 12;
        }
    }
    let mut sums = [1.0f32; 32];
    for _ in 0..rounds {
        sums = std::hint::black_box(sums).map(|s| s * 0.5 + 0.25);
    }
    std::hint::black_box(sums);
    32
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (half, quarter) = (_mm512_set1_ps(std::hint::black_box(0.5)), _mm512_set1_ps(0.25));
    let mut sums = [quarter; 24];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, half, quarter);
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma")]
fn fma(rounds: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (half, quarter) = (_mm256_set1_ps(std::hint::black_box(0.5)), _mm256_set1_ps(0.25));
    let mut sums = [quarter; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, half, quarter);
        }
    }
    std::hint::black_box(sums);
}
