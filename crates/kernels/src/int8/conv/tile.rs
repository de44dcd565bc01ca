//! The two register tiles. *Channels in lanes*: P pixels of N blocks of 16 output channels, a quad of input broadcast
//! and weights loaded. *Pixels in lanes*: V vectors of 16 pixels of B output channels, input loaded and weights
//! broadcast. Both read the same packed weights and end in the same epilogue.

use super::pack::{HEADER, QUADS};
use crate::int8::dots::Dots;
use crate::int8::finish::Finish;
use crate::int8::form::{Form, per_form};
use crate::int8::sums::Sums;
use crate::lanes::{LANES, Lanes};

/// Most pixels of a tile with channels in lanes.
pub(super) const PIXELS: usize = 14;

/// Arguments of one tile; lengths are in bytes.
pub(super) struct Call<'a> {
    /// First quad of the first pixel.
    pub(super) x: *const u8,
    /// From pixel to pixel (with channels in lanes), and from quad to quad of a tap.
    pub(super) step: usize,
    pub(super) quad: usize,
    /// Where each tap begins, and how many quads it has.
    pub(super) taps: &'a [usize],
    pub(super) quads: usize,
    /// The first packed block, and from block to block.
    pub(super) w: *const u8,
    pub(super) w_block: usize,
    /// Which four channels of the block come first (with pixels in lanes).
    pub(super) plane: usize,
    /// The first pixel in the first plane of quads (or block of f32), and from plane to plane (block to block).
    pub(super) y: *mut u8,
    pub(super) y_plane: usize,
    /// Planes of quads that exist from the first on.
    pub(super) planes: usize,
    /// The first pixel in the first plane of the residual, or null; and from plane to plane.
    pub(super) residual: *const u8,
    pub(super) r_plane: usize,
    /// Whether results are f32 in blocks of 16 channels.
    pub(super) float: bool,
    pub(super) finish: Finish,
}

/// A tile of some shape.
pub(super) type TileFn = for<'a, 'b> unsafe fn(&'a Call<'b>);

per_form!(fn pick_channels<; const P: usize, const N: usize>(call: &Call<'_>) = channels);
per_form!(fn pick_pixels<; const B: usize, const V: usize>(call: &Call<'_>) = pixels);

#[inline(always)]
unsafe fn channels<D: Dots, const P: usize, const N: usize>(c: &Call<'_>) {
    if !D::fits(P * N, 1, N) {
        unreachable!("tiles are chosen to fit the registers");
    }
    // SAFETY: the caller gives addresses that are valid for P pixels of N blocks.
    unsafe {
        let mut sums = [[D::Sums::splat(0); N]; P];
        for n in 0..N {
            let start = D::Sums::load(c.w.add(n * c.w_block).cast());
            for p in 0..P {
                sums[p][n] = start;
            }
        }
        let mut w = c.w.add(HEADER);
        for &tap in c.taps {
            let mut x = c.x.add(tap);
            for _ in 0..c.quads {
                let weights: [D::Weights; N] =
                    std::array::from_fn(|n| D::weights(w.add(n * c.w_block).cast()));
                for p in 0..P {
                    let quad = D::splat_bytes(x.add(p * c.step));
                    for n in 0..N {
                        sums[p][n] = D::dot(sums[p][n], quad, weights[n]);
                    }
                }
                x = x.wrapping_add(c.quad);
                w = w.add(QUADS);
            }
        }
        for n in 0..N {
            finish_channels::<D::Sums, P, N>(c, &sums, n);
        }
    }
}

/// The epilogue of block `n`: four pixels at a time are four quads of four planes.
#[inline(always)]
unsafe fn finish_channels<S: Sums, const P: usize, const N: usize>(
    c: &Call<'_>,
    sums: &[[S; N]; P],
    n: usize,
) {
    // SAFETY: as in `channels`.
    unsafe {
        let header = c.w.add(n * c.w_block).cast::<f32>();
        let (scale, bias) = (S::Floats::load(header.add(LANES)), S::Floats::load(header.add(2 * LANES)));
        let planes = c.planes.saturating_sub(4 * n).min(4);
        let mut first = 0;
        while first < P {
            // The last four overlap those before, which get the same values again.
            let at = if P >= 4 { first.min(P - 4) } else { 0 };
            let mut v: [S::Floats; 4] =
                std::array::from_fn(|i| S::fused(sums[(at + i).min(P - 1)][n].floats(), scale, bias));
            if !c.residual.is_null() {
                let from = c.residual.wrapping_add(4 * n * c.r_plane + 4 * at);
                let residual = S::load_pixels(from, c.r_plane, planes, P.min(4));
                v = std::array::from_fn(|i| c.finish.add(v[i], residual[i]));
            }
            if c.float {
                for i in 0..P.min(4) {
                    v[i].store(c.y.add(n * c.y_plane).cast::<f32>().add((at + i) * LANES));
                }
            } else {
                let to = c.y.wrapping_add(4 * n * c.y_plane + 4 * at);
                let v = v.map(|v| c.finish.round(v));
                S::store_pixels(v, c.finish.limits, to, c.y_plane, planes, P.min(4));
            }
            first += 4;
        }
    }
}

#[inline(always)]
unsafe fn pixels<D: Dots, const B: usize, const V: usize>(c: &Call<'_>) {
    if !D::fits(B * V, V, 1) {
        unreachable!("tiles are chosen to fit the registers");
    }
    // SAFETY: the caller gives addresses that are valid for 16 V pixels of B channels.
    unsafe {
        let header = c.w.cast::<i32>().add(4 * c.plane);
        let mut sums = [[D::Sums::splat(0); V]; B];
        for b in 0..B {
            sums[b] = [D::Sums::splat(*header.add(b)); V];
        }
        let mut w = c.w.add(HEADER + 16 * c.plane);
        for &tap in c.taps {
            let mut x = c.x.add(tap);
            for _ in 0..c.quads {
                let quads: [D::Bytes; V] = std::array::from_fn(|v| D::bytes(x.add(64 * v)));
                for b in 0..B {
                    let weights = D::splat_weights(w.add(4 * b).cast());
                    for v in 0..V {
                        sums[b][v] = D::dot(sums[b][v], quads[v], weights);
                    }
                }
                x = x.wrapping_add(c.quad);
                w = w.add(QUADS);
            }
        }
        for q in 0..B / 4 {
            finish_pixels::<D::Sums, V>(c, q, &std::array::from_fn(|i| sums[4 * q + i]));
        }
    }
}

/// The epilogue of plane `q`: sums of four channels are sixteen quads.
#[inline(always)]
unsafe fn finish_pixels<S: Sums, const V: usize>(c: &Call<'_>, q: usize, sums: &[[S; V]; 4]) {
    // SAFETY: as in `pixels`.
    unsafe {
        let header = c.w.cast::<f32>().add(4 * (c.plane + q));
        let splat4 = |at: usize| -> [S::Floats; 4] {
            std::array::from_fn(|i| S::Floats::splat(*header.add(at * LANES + i)))
        };
        let (scale, bias) = (splat4(1), splat4(2));
        for vector in 0..V {
            let (at, r_at) = (q * c.y_plane + 64 * vector, q * c.r_plane + 64 * vector);
            let mut v: [S::Floats; 4] =
                std::array::from_fn(|i| S::fused(sums[i][vector].floats(), scale[i], bias[i]));
            if !c.residual.is_null() {
                let residual = S::load_channels(c.residual.add(r_at));
                v = std::array::from_fn(|i| c.finish.add(v[i], residual[i]));
            }
            S::store_channels(v.map(|v| c.finish.round(v)), c.finish.limits, c.y.add(at));
        }
    }
}

/// The tiles of one form.
pub(super) struct Tiles {
    channels: [[TileFn; PIXELS]; 2],
    /// Four blocks, for runs too short to hide the latency of the sums with two.
    four: [TileFn; 6],
    /// By pairs of planes and vectors.
    pixels: [[TileFn; 3]; 2],
    fits: fn(usize, usize, usize) -> bool,
}

macro_rules! by_pixels {
    ($form:expr, $n:literal: $($p:literal)*) => { [$(pick_channels::<$p, $n>($form)),*] };
}

macro_rules! by_vectors {
    ($form:expr, $b:literal) => {
        [pick_pixels::<$b, 1>($form), pick_pixels::<$b, 2>($form), pick_pixels::<$b, 3>($form)]
    };
}

fn fits(form: Form) -> fn(usize, usize, usize) -> bool {
    use crate::int8::{dots, form::Step};
    match form.step() {
        Step::Scalar => dots::Scalar::fits,
        #[cfg(target_arch = "x86_64")]
        Step::Avx2 => dots::Avx2::fits,
        #[cfg(target_arch = "x86_64")]
        Step::Avx512 => dots::Avx512::fits,
        #[cfg(target_arch = "x86_64")]
        Step::Vnni | Step::Vbmi => dots::Vnni::fits,
    }
}

impl Tiles {
    pub(super) fn new(form: Form) -> Tiles {
        Tiles {
            channels: [
                by_pixels!(form, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                by_pixels!(form, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            ],
            four: by_pixels!(form, 4: 1 2 3 4 5 6),
            pixels: [by_vectors!(form, 4), by_vectors!(form, 8)],
            fits: fits(form),
        }
    }

    /// Most pixels of a tile with `blocks` blocks of channels in lanes; 0 where there is no such tile.
    fn most_pixels(&self, blocks: usize) -> usize {
        let all = if blocks == 4 { self.four.len() } else { PIXELS };
        (1..=all).take_while(|&p| (self.fits)(p * blocks, 1, blocks)).last().unwrap_or(0)
    }

    /// Blocks of the next tile with channels in lanes, for a run of `pixels` with `left` blocks to go.
    pub(super) fn blocks(&self, pixels: usize, left: usize) -> usize {
        if left >= 4 && pixels <= self.most_pixels(4) {
            return 4;
        }
        if left >= 2 && self.most_pixels(2) > 1 { 2 } else { 1 }
    }

    /// Into how many tiles of `blocks` blocks a run of `pixels` is cut; their sizes differ by one at most.
    pub(super) fn cuts(&self, pixels: usize, blocks: usize) -> usize {
        pixels.div_ceil(self.most_pixels(blocks))
    }

    /// The tile with channels in lanes.
    pub(super) fn channels(&self, pixels: usize, blocks: usize) -> TileFn {
        match blocks {
            4 => self.four[pixels - 1],
            _ => self.channels[blocks - 1][pixels - 1],
        }
    }

    /// Most planes of quads of a tile with pixels in lanes: one or two.
    pub(super) fn most_planes(&self) -> usize {
        if (self.fits)(8, 1, 1) { 2 } else { 1 }
    }

    /// Most vectors of such a tile.
    pub(super) fn most_vectors(&self) -> usize {
        let channels = 4 * self.most_planes();
        (1..=3).take_while(|&v| (self.fits)(channels * v, v, 1)).last().unwrap_or(1)
    }

    /// The tile with pixels in lanes.
    pub(super) fn pixels(&self, planes: usize, vectors: usize) -> TileFn {
        self.pixels[planes - 1][vectors - 1]
    }
}
