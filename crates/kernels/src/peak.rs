//! What this machine could do at most: the limits that `benchmark --per-layer` compares with.

use std::time::Instant;

use crate::Isa;
use crate::int8::dots::Dots;
use crate::int8::form::{Form, per_form};
use crate::int8::sums::Sums;
use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};

/// Measured limits of several threads together.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// f32 multiply-accumulates per second, from registers.
    pub macs_per_second: f64,
    /// Multiply-accumulates of u8 with s8 per second, from registers.
    pub int8_macs_per_second: f64,
    /// Bytes read per second from memory beyond the second-level cache.
    pub bytes_per_second: f64,
}

/// Independent accumulators: enough to hide the latency of a fused multiply-add, few enough for 16 registers.
const CHAINS: usize = 12;
const ROUNDS: usize = 20_000;
const FLOATS: usize = 4 << 20;
const REPEATS: usize = 5;

multiversion!(fn pick_arithmetic(start: f32, out: &mut f32) = arithmetic);
per_form!(fn pick_products<; const P: usize, const N: usize>(x: &[u8; 512], out: &mut f32) = products);
multiversion!(fn pick_reading(data: &[f32], out: &mut f32) = reading);

#[inline(always)]
unsafe fn arithmetic<V: Lanes>(start: f32, out: &mut f32) {
    // SAFETY: inside of a function made by `multiversion!`.
    unsafe {
        let (mut sums, b) = ([V::splat(start); CHAINS], V::splat(0.999));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = sum.mul_add(b, b);
            }
        }
        *out = add_all(sums).sum();
    }
}

/// P times N sums of products; all operands are fetched anew in each round, or products would be kept.
#[inline(always)]
unsafe fn products<D: Dots, const P: usize, const N: usize>(data: &[u8; 512], out: &mut f32) {
    // SAFETY: inside of a function made by `per_form!`; P and N are at most 7.
    unsafe {
        let mut sums = [[D::Sums::splat(0); N]; P];
        for _ in 0..ROUNDS {
            let data = std::hint::black_box(data).as_ptr();
            let mut weights = [D::weights(data.cast()); N];
            for n in 1..N {
                weights[n] = D::weights(data.add(64 * n).cast());
            }
            for p in 0..P {
                let x = D::splat_bytes(data.add(4 * p));
                for n in 0..N {
                    sums[p][n] = D::dot(sums[p][n], x, weights[n]);
                }
            }
        }
        for sum in sums.as_flattened() {
            *out += sum.floats().sum();
        }
    }
}

#[inline(always)]
unsafe fn add_all<V: Lanes, const N: usize>(sums: [V; N]) -> V {
    let mut total = sums[0];
    for sum in &sums[1..] {
        // SAFETY: as in the callers.
        total = unsafe { total.add(*sum) };
    }
    total
}

#[inline(always)]
unsafe fn reading<V: Lanes>(data: &[f32], out: &mut f32) {
    // SAFETY: inside of a function made by `multiversion!`; every load lies in a whole chunk.
    unsafe {
        let mut sums = [V::zero(); 4];
        for chunk in data.chunks_exact(4 * LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(V::load(chunk.as_ptr().add(i * LANES)));
            }
        }
        *out = add_all(sums).sum();
    }
}

/// Measures both limits on `threads` threads at once, the best of a few repetitions (some tens of milliseconds).
pub fn measure(isa: Isa, threads: usize) -> Peak {
    let each: Vec<Peak> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(move || measure_one(isa))).collect();
        workers.into_iter().map(|w| w.join().expect("measuring does not panic")).collect()
    });
    Peak {
        macs_per_second: each.iter().map(|p| p.macs_per_second).sum(),
        int8_macs_per_second: each.iter().map(|p| p.int8_macs_per_second).sum(),
        bytes_per_second: each.iter().map(|p| p.bytes_per_second).sum(),
    }
}

fn measure_one(isa: Isa) -> Peak {
    let (arithmetic, reading) = (pick_arithmetic(isa), pick_reading(isa));
    let data = vec![1.0f32; FLOATS];
    // SAFETY: `isa` exists on this machine, which is all that both functions ask for.
    let arithmetic = best(|out| unsafe { arithmetic(std::hint::black_box(1.0), out) });
    let (products, tile) = tile(Form::of(isa));
    // SAFETY: as above.
    let products = best(|out| unsafe { products(std::hint::black_box(&[1; 512]), out) });
    // SAFETY: as above.
    let reading = best(|out| unsafe { reading(std::hint::black_box(&data), out) });
    Peak {
        macs_per_second: (CHAINS * ROUNDS * LANES) as f64 / arithmetic,
        int8_macs_per_second: (tile * ROUNDS * LANES * 4) as f64 / products,
        bytes_per_second: size_of_val(&data[..]) as f64 / reading,
    }
}

/// Products in a tile that fits the registers, and how many they are.
fn tile(form: Form) -> (unsafe fn(&[u8; 512], &mut f32), usize) {
    match form.step() {
        #[cfg(target_arch = "x86_64")]
        crate::int8::form::Step::Vnni | crate::int8::form::Step::Vbmi => (pick_products::<7, 4>(form), 28),
        #[cfg(target_arch = "x86_64")]
        crate::int8::form::Step::Avx512 => (pick_products::<6, 3>(form), 18),
        _ => (pick_products::<4, 1>(form), 4),
    }
}

fn best(work: impl Fn(&mut f32)) -> f64 {
    let once = |_| {
        let start = Instant::now();
        let mut out = 0.0;
        work(&mut out);
        std::hint::black_box(out);
        start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(once).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    #[test]
    fn limits_are_positive() {
        for isa in crate::Isa::available() {
            let peak = super::measure(isa, 1);
            let all = [peak.macs_per_second, peak.int8_macs_per_second, peak.bytes_per_second];
            assert!(all.iter().all(|&rate| rate > 1e7), "{isa}: {peak:?}");
        }
    }
}
