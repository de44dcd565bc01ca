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

impl Call<'_> {
    /// Moves on by so many bytes of input, output and residual.
    pub(super) fn advance(&mut self, x: usize, y: usize, residual: usize) {
        self.x = self.x.wrapping_add(x);
        self.y = self.y.wrapping_add(y);
        if !self.residual.is_null() {
            self.residual = self.residual.wrapping_add(residual);
        }
    }
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
                let mut weights = [D::weights(w.cast()); N];
                for n in 1..N {
                    weights[n] = D::weights(w.add(n * c.w_block).cast());
                }
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
        finish_block::<D::Sums, P, N, 0>(c, &sums);
        finish_block::<D::Sums, P, N, 1>(c, &sums);
        finish_block::<D::Sums, P, N, 2>(c, &sums);
        finish_block::<D::Sums, P, N, 3>(c, &sums);
    }
}

/// The epilogue of block `B`. Indices of sums are constants throughout: others would keep the sums in memory.
#[inline(always)]
unsafe fn finish_block<S: Sums, const P: usize, const N: usize, const B: usize>(
    c: &Call<'_>,
    sums: &[[S; N]; P],
) {
    if B >= N {
        return;
    }
    // SAFETY: as in `channels`.
    unsafe {
        finish_four::<S, P, N, B, 0>(c, sums);
        finish_four::<S, P, N, B, 4>(c, sums);
        finish_four::<S, P, N, B, 8>(c, sums);
        finish_four::<S, P, N, B, 12>(c, sums);
    }
}

/// Four pixels from `FIRST` on are four quads of four planes. The last four overlap those before, which get the same
/// values again.
#[inline(always)]
unsafe fn finish_four<S: Sums, const P: usize, const N: usize, const B: usize, const FIRST: usize>(
    c: &Call<'_>,
    sums: &[[S; N]; P],
) {
    if FIRST >= P {
        return;
    }
    let at = if P >= 4 { FIRST.min(P - 4) } else { 0 };
    // SAFETY: as in `channels`.
    unsafe {
        let header = c.w.add(B * c.w_block).cast::<f32>();
        let scale = S::Floats::load(header.add(LANES));
        let planes = c.planes.saturating_sub(4 * B).min(4);
        let mut v = [scale; 4];
        for i in 0..4 {
            v[i] = sums[(at + i).min(P - 1)][B].floats().mul(scale);
        }
        if !c.residual.is_null() {
            let from = c.residual.wrapping_add(4 * B * c.r_plane + 4 * at);
            let residual = S::load_pixels(from, c.r_plane, planes, P.min(4));
            for i in 0..4 {
                v[i] = c.finish.add(v[i], residual[i]);
            }
        }
        if c.float {
            for i in 0..P.min(4) {
                v[i].store(c.y.add(B * c.y_plane).cast::<f32>().add((at + i) * LANES));
            }
        } else {
            let to = c.y.wrapping_add(4 * B * c.y_plane + 4 * at);
            S::store_pixels(c.finish.round4(v), c.finish.limits, to, c.y_plane, planes, P.min(4));
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
                let mut quads = [D::bytes(x); V];
                for v in 1..V {
                    quads[v] = D::bytes(x.add(64 * v));
                }
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
        finish_plane::<D::Sums, B, V, 0>(c, &sums);
        finish_plane::<D::Sums, B, V, 1>(c, &sums);
    }
}

/// The epilogue of plane `Q`.
#[inline(always)]
unsafe fn finish_plane<S: Sums, const B: usize, const V: usize, const Q: usize>(
    c: &Call<'_>,
    sums: &[[S; V]; B],
) {
    if 4 * Q >= B {
        return;
    }
    // SAFETY: as in `pixels`.
    unsafe {
        finish_vector::<S, B, V, Q, 0>(c, sums);
        finish_vector::<S, B, V, Q, 1>(c, sums);
        finish_vector::<S, B, V, Q, 2>(c, sums);
    }
}

/// Sums of four channels are sixteen quads.
#[inline(always)]
unsafe fn finish_vector<S: Sums, const B: usize, const V: usize, const Q: usize, const I: usize>(
    c: &Call<'_>,
    sums: &[[S; V]; B],
) {
    if I >= V {
        return;
    }
    // SAFETY: as in `pixels`.
    unsafe {
        let header = c.w.cast::<f32>().add(4 * (c.plane + Q));
        let four = [sums[4 * Q][I], sums[4 * Q + 1][I], sums[4 * Q + 2][I], sums[4 * Q + 3][I]];
        let residual =
            (!c.residual.is_null()).then(|| S::load_channels(c.residual.add(Q * c.r_plane + 64 * I)));
        let results = c.finish.channels(four, header.add(LANES), residual);
        S::store_channels(results, c.finish.limits, c.y.add(Q * c.y_plane + 64 * I));
    }
}

/// The tiles of one form.
pub(super) struct Tiles {
    channels: [[TileFn; PIXELS]; 2],
    /// Four blocks, for runs too short to hide the latency of the sums with two.
    four: [TileFn; 6],
    /// By pairs of planes and vectors.
    pixels: [[TileFn; 3]; 2],
    /// Most pixels of one, two and four blocks; most planes and vectors with pixels in lanes.
    most: [usize; 3],
    most_planes: usize,
    most_vectors: usize,
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
        #[cfg(target_arch = "aarch64")]
        Step::Neon => dots::Neon::fits,
        #[cfg(target_arch = "aarch64")]
        Step::Dotprod => dots::Dotprod::fits,
    }
}

/// Most pixels of a tile of `blocks` blocks; 0 where there is none.
fn most_pixels(fits: fn(usize, usize, usize) -> bool, blocks: usize, all: usize) -> usize {
    (1..=all).rev().find(|&p| fits(p * blocks, 1, blocks)).unwrap_or(0)
}

impl Tiles {
    pub(super) fn new(form: Form) -> Tiles {
        let fits = fits(form);
        let most_planes = if fits(8, 1, 1) { 2 } else { 1 };
        Tiles {
            channels: [
                by_pixels!(form, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                by_pixels!(form, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            ],
            four: by_pixels!(form, 4: 1 2 3 4 5 6),
            pixels: [by_vectors!(form, 4), by_vectors!(form, 8)],
            most: [most_pixels(fits, 1, PIXELS), most_pixels(fits, 2, PIXELS), most_pixels(fits, 4, 6)],
            most_planes,
            most_vectors: (1..=3).rev().find(|&v| fits(4 * most_planes * v, v, 1)).unwrap_or(1),
        }
    }

    /// Blocks of the next tile with channels in lanes, for a run of `pixels` with `left` blocks to go.
    pub(super) fn blocks(&self, pixels: usize, left: usize) -> usize {
        if left >= 4 && pixels <= self.most[2] {
            return 4;
        }
        if left >= 2 && self.most[1] > 1 { 2 } else { 1 }
    }

    /// Into how many tiles of `blocks` blocks a run of `pixels` is cut; their sizes differ by one at most.
    pub(super) fn cuts(&self, pixels: usize, blocks: usize) -> usize {
        pixels.div_ceil(self.most[blocks / 2])
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
        self.most_planes
    }

    /// Most vectors of such a tile.
    pub(super) fn most_vectors(&self) -> usize {
        self.most_vectors
    }

    /// The tile with pixels in lanes.
    pub(super) fn pixels(&self, planes: usize, vectors: usize) -> TileFn {
        self.pixels[planes - 1][vectors - 1]
    }
}
