//! The register tile: V vectors of 16 positions for a plane of four output channels. Its lists follow one another, each
//! with sums of its own: for every block a load from each vector and a broadcast for each output of the block.

use super::stream::HEADER;
use crate::int8::dots::{self, Dots};
use crate::int8::finish::Finish;
use crate::int8::form::{Form, Step, per_form};
use crate::int8::sums::Sums;

/// Most vectors of a tile, whose sums fill the registers where bytes are multiplied at once. A block has fourteen products for its nine loads then. Four do as
/// well where one product a cycle is the limit (Zen 4); Zen 5 makes two, and is bound by loads that cross cache lines.
pub(super) const VECTORS: usize = 7;

/// Most vectors of a tile that always takes blocks in groups (`G`): their weights are one load, and they add to sums of their
/// own in turn, for a product waits for the one before it in its sum. Measured on Zen 5: a fifth faster with one vector, a
/// tenth with three; with more, products are what takes longest, and shuffles take turns with them.
const FEW: usize = 3;

/// Blocks of lists that are long enough for groups to pay in the largest tiles too, by 2 %.
const LONG: usize = 24;

/// Blocks of a group.
const GROUP: usize = 4;

/// Most sums that an output has.
const CHAINS: usize = 4;

/// Bytes of a level 1 cache; tiles that read more have at most `FAR` vectors, and miss it less. Measured on Granite Rapids:
/// a tenth faster than with seven for 14x14 pixels of 576 and 1,024 channels.
pub(super) const LEVEL_1: usize = 48 * 1024;
const FAR: usize = 5;

/// How many sums an output has in a tile of so many vectors.
const fn chains_of(vectors: usize) -> usize {
    match vectors {
        1 => CHAINS,
        2 | 3 => 2,
        _ => 1,
    }
}

/// Arguments of a tile; lengths are in bytes.
pub(super) struct Call<'a> {
    /// The first position's first quad.
    pub(super) x: *const u8,
    /// From the first vector to the last; the others lie 64 bytes apart.
    pub(super) last: usize,
    /// See [`Stream`](super::stream::Stream): what blocks read, ends of the lists from the first plane's on, and the
    /// plane's header and all weights.
    pub(super) offsets: &'a [u32],
    pub(super) ends: &'a [u32],
    pub(super) header: *const u8,
    pub(super) weights: *const u8,
    /// Planes to compute.
    pub(super) planes: usize,
    pub(super) spots: [Spot; VECTORS],
    /// The first plane of the output and, or null, of the residual; and from plane to plane of both.
    pub(super) y: *mut u8,
    pub(super) residual: *const u8,
    pub(super) y_plane: usize,
    pub(super) finish: Finish,
}

/// Where the results of a vector belong.
#[derive(Clone, Copy, Default)]
pub(super) struct Spot {
    /// Which of its positions are pixels.
    pub(super) chosen: u16,
    /// From the first pixel of a plane to the first of these.
    pub(super) at: usize,
}

/// A tile of some shape.
pub(super) type TileFn = for<'a, 'b> unsafe fn(&'a Call<'b>);

per_form!(fn pick<; const R: usize, const V: usize, const G: bool>(call: &Call<'_>) = tile);

/// Vectors whose sums and operands the registers hold; where a vector takes several, only those of the list that is at work.
const fn most<D: Dots>() -> usize {
    if D::WEIGHTS == 1 { VECTORS } else { 4 / D::SUMS }
}

/// `R` outputs in a block.
#[inline(always)]
unsafe fn tile<D: Dots, const R: usize, const V: usize, const G: bool>(c: &Call<'_>) {
    if V > most::<D>() {
        unreachable!("tiles are chosen to fit the registers");
    }
    // SAFETY: the caller gives addresses that are valid for 16 V positions of all planes and blocks.
    unsafe {
        let (mut header, mut y, mut residual) = (c.header, c.y, c.residual);
        for plane in 0..c.planes {
            let ends = c.ends.as_ptr().add(plane * 4 / R);
            let sums: [[D::Sums; V]; 4] = if R == 2 {
                let (a, b) = (list::<D, R, V, G>(c, ends, header, 0), list::<D, R, V, G>(c, ends, header, 1));
                [a[0], a[R - 1], b[0], b[R - 1]]
            } else {
                [
                    list::<D, R, V, G>(c, ends, header, 0)[0],
                    list::<D, R, V, G>(c, ends, header, 1)[0],
                    list::<D, R, V, G>(c, ends, header, 2)[0],
                    list::<D, R, V, G>(c, ends, header, 3)[0],
                ]
            };
            macro_rules! vectors {
                ($($i:literal)*) => { $(finish::<D::Sums, V, $i>(c, &sums, header, y, residual);)* };
            }
            // As many as the largest V.
            vectors!(0 1 2 3 4 5 6);
            header = header.add(HEADER);
            y = y.wrapping_add(c.y_plane);
            residual = if residual.is_null() { residual } else { residual.wrapping_add(c.y_plane) };
        }
    }
}

/// The sums of one list of a plane.
#[inline(always)]
unsafe fn list<D: Dots, const R: usize, const V: usize, const G: bool>(
    c: &Call<'_>,
    ends: *const u32,
    header: *const u8,
    index: usize,
) -> [[D::Sums; V]; R] {
    // SAFETY: as in `tile`; the blocks of a list have offsets and weights.
    unsafe {
        let starts = header.cast::<i32>().add(R * index);
        let mut chains = [[[D::Sums::splat(0); V]; R]; CHAINS];
        for r in 0..R {
            chains[0][r] = [D::Sums::splat(*starts.add(r)); V];
        }
        let (first, end) = (*ends.add(index) as usize, *ends.add(index + 1) as usize);
        let mut w = c.weights.add(4 * R * first).cast::<i8>();
        let blocks = c.offsets.get_unchecked(first..end);
        let (groups, rest) = if G { blocks.as_chunks::<GROUP>() } else { (&[][..], blocks) };
        for group in groups {
            let mut weights = D::splat_four(w);
            for (i, &offset) in group.iter().enumerate() {
                if i > 0 && (i * R).is_multiple_of(4) {
                    weights = D::splat_four(w.add(4 * R * i));
                }
                let mut own = [weights[i * R % 4]; R];
                for r in 1..R {
                    own[r] = weights[(i * R + r) % 4];
                }
                block::<D, R, V>(c, offset, own, &mut chains[i % chains_of(V)]);
            }
            w = w.add(4 * R * GROUP);
        }
        for &offset in rest {
            let mut own = [D::splat_weights(w); R];
            for r in 1..R {
                own[r] = D::splat_weights(w.add(4 * r));
            }
            block::<D, R, V>(c, offset, own, &mut chains[0]);
            w = w.add(4 * R);
        }
        let mut sums = chains[0];
        for chain in 1..chains_of(V) {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = sums[r][v].add(chains[chain][r][v]);
                }
            }
        }
        sums
    }
}

/// Adds the products of one block.
#[inline(always)]
unsafe fn block<D: Dots, const R: usize, const V: usize>(
    c: &Call<'_>,
    offset: u32,
    weights: [D::Weights; R],
    sums: &mut [[D::Sums; V]; R],
) {
    // SAFETY: as in `tile`.
    unsafe {
        let x = c.x.add(offset as usize);
        for v in 0..V {
            let quads = D::bytes(x.add(if v + 1 == V { c.last } else { 64 * v }));
            for r in 0..R {
                sums[r][v] = D::dot(sums[r][v], quads, weights[r]);
            }
        }
    }
}

/// The epilogue of vector `I`. Indices of sums are constants: others would keep the sums in memory.
#[inline(always)]
unsafe fn finish<S: Sums, const V: usize, const I: usize>(
    c: &Call<'_>,
    sums: &[[S; V]; 4],
    header: *const u8,
    y: *mut u8,
    residual: *const u8,
) {
    if I >= V {
        return;
    }
    // SAFETY: as in `tile`.
    unsafe {
        let Spot { chosen, at } = c.spots[I];
        let added = match (residual.is_null(), chosen) {
            (true, _) => None,
            (false, u16::MAX) => Some(S::load_channels(residual.add(at))),
            (false, _) => Some(S::load_chosen(residual.add(at), chosen)),
        };
        let scale = header.cast::<f32>().add(4);
        let sums = [sums[0][I], sums[1][I], sums[2][I], sums[3][I]];
        let results = c.finish.channels(sums, scale, added);
        match chosen {
            u16::MAX => S::store_channels(results, c.finish.limits, y.add(at)),
            _ => S::store_chosen(results, c.finish.limits, y.add(at), chosen),
        }
    }
}

/// The tiles of one form and block, by their vectors, for lists of `blocks` on average.
pub(super) fn tiles(form: Form, outputs: usize, blocks: usize) -> [TileFn; VECTORS] {
    macro_rules! by_vectors {
        ($r:literal: $($v:literal)*) => { [$(pick::<$r, $v, { $v <= FEW }>(form)),*] };
    }
    let mut tiles = match outputs {
        1 => by_vectors!(1: 1 2 3 4 5 6 7),
        _ => by_vectors!(2: 1 2 3 4 5 6 7),
    };
    if outputs == 2 && blocks >= LONG {
        tiles[5] = pick::<2, 6, true>(form);
        tiles[6] = pick::<2, 7, true>(form);
    }
    tiles
}

/// Most vectors of a tile of `form`, where `reads` tells the bytes that all lists of a tile read again.
pub(super) fn most_vectors(form: Form, reads: impl Fn(usize) -> usize) -> usize {
    let most = fitting_registers(form);
    if reads(most) <= LEVEL_1 { most } else { most.min(FAR) }
}

fn fitting_registers(form: Form) -> usize {
    match form.step() {
        Step::Scalar => most::<dots::Scalar>(),
        #[cfg(target_arch = "x86_64")]
        Step::Avx2 => most::<dots::Avx2>(),
        #[cfg(target_arch = "aarch64")]
        Step::Neon => most::<dots::Neon>(),
        #[cfg(target_arch = "aarch64")]
        Step::Dotprod => most::<dots::Dotprod>(),
        #[cfg(target_arch = "x86_64")]
        Step::Avx512 => most::<dots::Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Step::Vnni | Step::Vbmi => most::<dots::Vnni>(),
    }
}
