//! Speed of the matrix products on one core, against the peak of fused multiply-adds measured beside them.
//!
//! `cargo run --release --example matmul_speed -p espalier-kernels [instruction set]`

use espalier_kernels::matmul::{MatMulGeometry, matmul};
use espalier_kernels::{Buffer, Io, Isa, Worker};
use std::time::{Duration, Instant};

/// Sixty-four bytes, for the alignment of buffers.
#[derive(Clone)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [f32; 16]);

fn memory(len: usize) -> Vec<Line> {
    vec![Line(std::array::from_fn(|i| i as f32 * 0.01 - 0.07)); len.div_ceil(16).max(1)]
}

fn buffer(memory: &mut [Line], len: usize) -> Buffer {
    Buffer::new(memory.as_mut_ptr().cast(), len * 4)
}

/// The shortest of many calls, over about 0.2 s.
fn best(mut call: impl FnMut()) -> Duration {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(200) {
        let now = Instant::now();
        call();
        best = best.min(now.elapsed());
    }
    best
}

/// Multiply-accumulates a second, in units of 10^9.
fn speed(isa: Isa, g: MatMulGeometry) -> f64 {
    let lens = [g.batch * g.m * g.k, if g.shared_b { 1 } else { g.batch } * g.k * g.n, g.batch * g.m * g.n];
    let mut memories = lens.map(memory);
    let buffers: Vec<Buffer> = memories.iter_mut().zip(lens).map(|(m, len)| buffer(m, len)).collect();
    let kernel = matmul(isa, g, false);
    let mut lines = memory(kernel.scratch_len(1));
    // SAFETY: `lines` holds at least so many f32 and is used through this slice only.
    let scratch =
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), kernel.scratch_len(1)) };
    // SAFETY: the buffers are live, distinct and used by this call alone.
    let io = unsafe { Io::new(&buffers[..2], &buffers[2..]) };
    let time = best(|| kernel.run(&io, Worker::ALONE, scratch));
    (g.batch * g.m * g.k * g.n) as f64 / time.as_nanos() as f64
}

fn main() {
    let isa = std::env::args().nth(1).map_or(Isa::best(), |name| Isa::named(&name).expect("instruction set"));
    let plain =
        |m, k, n| MatMulGeometry { batch: 1, m, k, n, trans_a: false, trans_b: false, shared_b: true };
    // Small enough for L1, long enough to forget about loads and stores of the result.
    let peak = speed(isa, plain(14, 256, 32));
    println!("{isa}: a tile in L1 {peak:.1} GMAC/s");
    let cases = [
        plain(256, 256, 256),
        plain(512, 512, 512),
        plain(3136, 384, 384),
        plain(896, 384, 384),
        plain(1, 512, 1000),
        MatMulGeometry { trans_b: true, ..plain(1, 512, 1000) },
        MatMulGeometry { trans_b: true, ..plain(4, 512, 1000) },
        MatMulGeometry { trans_b: true, ..plain(16, 512, 10) },
        MatMulGeometry { trans_b: true, ..plain(16, 512, 1000) },
        MatMulGeometry { trans_b: true, ..plain(64, 512, 10) },
        MatMulGeometry { trans_b: true, ..plain(64, 1280, 1000) },
        plain(64, 1000, 1280),
        plain(64, 10, 512),
        MatMulGeometry { trans_a: true, ..plain(1000, 64, 1280) },
        MatMulGeometry { trans_a: true, ..plain(1000, 16, 512) },
        MatMulGeometry { trans_a: true, ..plain(10, 64, 512) },
        MatMulGeometry { batch: 32, trans_b: true, shared_b: false, ..plain(196, 64, 196) },
        MatMulGeometry { batch: 32, shared_b: false, ..plain(196, 196, 64) },
    ];
    for g in cases {
        let gmacs = speed(isa, g);
        let flags = [(g.trans_a, " a'"), (g.trans_b, " b'")].map(|(set, text)| if set { text } else { "" });
        let size = format!("{}x{}x{}x{}{}{}", g.batch, g.m, g.k, g.n, flags[0], flags[1]);
        println!("{size:24} {gmacs:7.1} GMAC/s  {:3.0} %", 100.0 * gmacs / peak);
    }
}
