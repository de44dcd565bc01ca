//! The register tile of the engine: P output pixels of NB output blocks over all input channels and taps.

use super::channels::CELL;
use super::gather::Pitch;
use super::space::Tap;
use crate::functions::{Clip, Function, HardSwish, Params};
use crate::isa::{Level, multiversion};
use crate::lanes::Lanes;
use crate::{Activation, Isa, LANES};

/// Most pixels and most output blocks of a tile.
pub(super) const PIXELS: usize = 14;
pub(super) const OUTPUTS: usize = 4;

/// Arguments of one tile. Lengths are in elements.
pub(super) struct Call<'a> {
    /// First pixel in the first input block.
    pub(super) x: *const f32,
    pub(super) pitch: Pitch,
    /// Weights between the first output and the first input block.
    pub(super) w: *const f32,
    /// Between the weights of input blocks, and of output blocks.
    pub(super) w_input: usize,
    pub(super) w_output: usize,
    pub(super) taps: &'a [Tap],
    /// Input blocks, and channels in the last of them.
    pub(super) blocks: usize,
    pub(super) last: usize,
    /// The first output block; pixels lie at the offsets `at`, output blocks `y_output` apart.
    pub(super) y: *mut f32,
    pub(super) at: [usize; PIXELS],
    pub(super) y_output: usize,
    /// Continue from the partial sums in `y` instead of from `bias`.
    pub(super) resume: bool,
    pub(super) bias: [f32; OUTPUTS * LANES],
    /// Addressed like `y`, or null.
    pub(super) residual: *const f32,
    pub(super) activation: Activation,
}

/// A tile of some pixels and output blocks.
pub(super) type TileFn = for<'a, 'b> unsafe fn(&'a Call<'b>);

multiversion!(fn pick<; const P: usize, const NB: usize>(call: &Call<'_>) = tile);

#[inline(always)]
unsafe fn tile<V: Lanes, const P: usize, const NB: usize>(c: &Call<'_>) {
    if P * NB + NB + 1 > V::REGISTERS {
        unreachable!("tiles are chosen to fit the registers");
    }
    // SAFETY: the caller gives addresses that are valid for P pixels of NB blocks.
    unsafe {
        let mut acc = begin::<V, P, NB>(c);
        for block in 0..c.blocks {
            let lanes = if block + 1 == c.blocks { c.last } else { LANES };
            let x = c.x.add(block * c.pitch.block);
            let w = c.w.add(block * c.w_input);
            for t in c.taps {
                let at = t.class * c.pitch.class + t.row * c.pitch.row + t.column * c.pitch.column;
                accumulate::<V, P, NB>(&mut acc, x.add(at), w.add(t.weight * CELL), c.w_output, lanes);
            }
        }
        finish::<V, P, NB>(c, acc);
    }
}

#[inline(always)]
unsafe fn accumulate<V: Lanes, const P: usize, const NB: usize>(
    acc: &mut [[V; NB]; P],
    x: *const f32,
    w: *const f32,
    w_output: usize,
    lanes: usize,
) {
    for i in 0..lanes {
        // SAFETY: as in `tile`.
        unsafe {
            let mut weights = [V::zero(); NB];
            for nb in 0..NB {
                weights[nb] = V::load(w.add(nb * w_output + i * LANES));
            }
            for p in 0..P {
                let value = V::splat(*x.add(p * LANES + i));
                for nb in 0..NB {
                    acc[p][nb] = value.mul_add(weights[nb], acc[p][nb]);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn begin<V: Lanes, const P: usize, const NB: usize>(c: &Call<'_>) -> [[V; NB]; P] {
    // SAFETY: as in `tile`.
    unsafe {
        let mut acc = [[V::zero(); NB]; P];
        for p in 0..P {
            for nb in 0..NB {
                let from = match c.resume {
                    true => c.y.add(c.at[p] + nb * c.y_output).cast_const(),
                    false => c.bias.as_ptr().add(nb * LANES),
                };
                acc[p][nb] = V::load(from);
            }
        }
        acc
    }
}

#[inline(always)]
unsafe fn finish<V: Lanes, const P: usize, const NB: usize>(c: &Call<'_>, mut acc: [[V; NB]; P]) {
    // SAFETY: as in `tile`.
    unsafe {
        if !c.residual.is_null() {
            for p in 0..P {
                for nb in 0..NB {
                    acc[p][nb] = acc[p][nb].add(V::load(c.residual.add(c.at[p] + nb * c.y_output)));
                }
            }
        }
        match c.activation {
            Activation::Identity => {}
            Activation::Clip(bounds) => activate::<V, Clip, P, NB>(&mut acc, bounds),
            Activation::HardSwish => activate::<V, HardSwish, P, NB>(&mut acc, [0.0; 2]),
        }
        for p in 0..P {
            for nb in 0..NB {
                acc[p][nb].store(c.y.add(c.at[p] + nb * c.y_output));
            }
        }
    }
}

/// Here the choice stands outside of the loops: inside it would cost short convolutions as much as their products.
#[inline(always)]
unsafe fn activate<V: Lanes, F: Function, const P: usize, const NB: usize>(
    acc: &mut [[V; NB]; P],
    params: Params,
) {
    for p in 0..P {
        for nb in 0..NB {
            // SAFETY: as in `tile`.
            acc[p][nb] = unsafe { F::value(params, acc[p][nb]) };
        }
    }
}

/// The tiles of one instruction set.
pub(super) struct Tiles {
    one: [TileFn; PIXELS],
    two: [TileFn; PIXELS],
    four: [TileFn; 6],
    /// Most pixels and output blocks of a tile.
    most: (usize, usize),
}

macro_rules! by_pixels {
    ($isa:expr, $nb:literal: $($p:literal)*) => { [$(pick::<$p, $nb>($isa)),*] };
}

impl Tiles {
    pub(super) fn new(isa: Isa) -> Tiles {
        Tiles {
            one: by_pixels!(isa, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            two: by_pixels!(isa, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            four: by_pixels!(isa, 4: 1 2 3 4 5 6),
            most: match isa.level() {
                Level::Scalar => (2, 1),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => (6, 1),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => (PIXELS, OUTPUTS),
                #[cfg(target_arch = "aarch64")]
                Level::Neon | Level::NeonDotprod => (6, 1),
            },
        }
    }

    /// Output blocks of the next tile for a run of `pixels` with `left` blocks to go: two, or four where the run is too
    /// short to hide the latency of the accumulators otherwise.
    pub(super) fn outputs(&self, pixels: usize, left: usize) -> usize {
        let want = if pixels <= self.four.len() { 4 } else { 2 };
        match left.min(want).min(self.most.1) {
            3 => 2,
            outputs => outputs,
        }
    }

    /// Into how many tiles a run of `pixels` is cut; their sizes differ by one at most.
    pub(super) fn cuts(&self, pixels: usize) -> usize {
        pixels.div_ceil(self.most.0)
    }

    /// The tile for `pixels` pixels and `outputs` output blocks.
    pub(super) fn get(&self, pixels: usize, outputs: usize) -> TileFn {
        match outputs {
            1 => self.one[pixels - 1],
            2 => self.two[pixels - 1],
            _ => self.four[pixels - 1],
        }
    }
}
