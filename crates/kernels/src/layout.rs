//! The physical layouts of activations, and the copies between them.
//!
//! *Plain* is the logical order (NCHW). *Blocked* is nChw16c: `[N][ceil(C/16)][H][W][16]`, where the lanes past C in
//! the last block are finite but otherwise meaningless: no result may depend on them.

use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};

/// Physical order of a value in a plan; of bytes, *blocked* means quads ([`int8`](crate::int8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major in the logical order.
    Plain,
    /// nChw16c, for values of rank 4 (rank 2 counts as H = W = 1).
    Blocked,
}

/// Number of 16-channel blocks that hold `channels`.
pub fn blocks(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Elements that a value of shape `[n, c, spatial]` takes in `layout`.
pub fn physical_len(layout: Layout, n: usize, c: usize, spatial: usize) -> usize {
    match layout {
        Layout::Plain => n * c * spatial,
        Layout::Blocked => n * blocks(c) * LANES * spatial,
    }
}

/// Copies `[n, c, spatial]` from one layout to the other; lanes past C become 0. in: x; out: y.
pub fn reorder(isa: Isa, from: Layout, to: Layout, n: usize, c: usize, spatial: usize) -> Box<dyn Kernel> {
    assert_ne!(from, to, "a reorder changes the layout");
    let copy = if to == Layout::Blocked { pick_to_blocked(isa) } else { pick_to_plain(isa) };
    Box::new(Reorder { isa, to, n, c, spatial, copy })
}

struct Reorder {
    isa: Isa,
    to: Layout,
    n: usize,
    c: usize,
    spatial: usize,
    copy: unsafe fn(*const f32, *mut f32, Tile),
}

/// Up to 16 pixels of up to 16 channels: where channel 0 of it starts in plain memory and pixel 0 in blocked memory.
#[derive(Clone, Copy)]
struct Tile {
    plain: usize,
    blocked: usize,
    channels: usize,
    pixels: usize,
    spatial: usize,
}

impl Reorder {
    fn tile(&self, item: usize) -> Tile {
        let (blocks, tiles) = (blocks(self.c), self.spatial.div_ceil(LANES));
        let (plane, pixel) = (item / tiles, item % tiles * LANES);
        let (image, channel) = (plane / blocks, plane % blocks * LANES);
        Tile {
            plain: (image * self.c + channel) * self.spatial + pixel,
            blocked: (plane * self.spatial + pixel) * LANES,
            channels: LANES.min(self.c - channel),
            pixels: LANES.min(self.spatial - pixel),
            spatial: self.spatial,
        }
    }
}

impl Kernel for Reorder {
    fn name(&self) -> String {
        let to = if self.to == Layout::Blocked { "blocked" } else { "plain" };
        format!("reorder to {to} {}", self.isa)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (io.input::<f32>(0), io.output::<f32>(0));
        let (plain, blocked) = [Layout::Plain, Layout::Blocked]
            .map(|layout| physical_len(layout, self.n, self.c, self.spatial))
            .into();
        let (from, to) = if self.to == Layout::Blocked { (plain, blocked) } else { (blocked, plain) };
        assert_eq!((x.len(), y.len()), (from, to), "{}: elements", self.name());
        let tiles = self.n * blocks(self.c) * self.spatial.div_ceil(LANES);
        for item in worker.share(tiles) {
            // SAFETY: tiles lie inside of both buffers, whose lengths were checked, and are disjoint.
            unsafe { (self.copy)(x.as_ptr(), y.as_mut_ptr(), self.tile(item)) };
        }
    }
}

multiversion! { fn pick_to_blocked(x: *const f32, y: *mut f32, tile: Tile) = to_blocked }
multiversion! { fn pick_to_plain(x: *const f32, y: *mut f32, tile: Tile) = to_plain }

#[inline(always)]
unsafe fn to_blocked<V: Lanes>(x: *const f32, y: *mut f32, tile: Tile) {
    // SAFETY: the caller's tile is in bounds; missing channels are not read.
    unsafe {
        let (x, y) = (x.add(tile.plain), y.add(tile.blocked));
        let mut rows = [V::zero(); LANES];
        for c in 0..tile.channels {
            rows[c] = load_up_to(x.add(c * tile.spatial), tile.pixels, V::zero());
        }
        let columns = V::transpose(rows);
        for pixel in 0..tile.pixels {
            columns[pixel].store(y.add(pixel * LANES));
        }
    }
}

#[inline(always)]
unsafe fn to_plain<V: Lanes>(x: *const f32, y: *mut f32, tile: Tile) {
    // SAFETY: the caller's tile is in bounds; missing channels are not written.
    unsafe {
        let (x, y) = (x.add(tile.blocked), y.add(tile.plain));
        let mut columns = [V::zero(); LANES];
        for pixel in 0..tile.pixels {
            columns[pixel] = V::load(x.add(pixel * LANES));
        }
        let rows = V::transpose(columns);
        for c in 0..tile.channels {
            store_up_to(rows[c], y.add(c * tile.spatial), tile.pixels);
        }
    }
}

/// The first `len` (at most 16) elements at `p`; the lanes past them come from `rest`.
///
/// # Safety
/// `p` must be valid for reading `len` elements; inside of a function made by `multiversion!`.
#[inline(always)]
pub(crate) unsafe fn load_up_to<V: Lanes>(p: *const f32, len: usize, rest: V) -> V {
    // SAFETY: the caller's contract.
    unsafe { if len >= LANES { V::load(p) } else { V::load_first(p, len, rest) } }
}

/// Stores the first `len` (at most 16) lanes at `p`.
///
/// # Safety
/// `p` must be valid for writing `len` elements; inside of a function made by `multiversion!`.
#[inline(always)]
pub(crate) unsafe fn store_up_to<V: Lanes>(v: V, p: *mut f32, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { if len >= LANES { v.store(p) } else { v.store_first(p, len) } }
}

/// Test data in blocked order: what `plain` holds, with `garbage` in the lanes past C.
#[cfg(test)]
pub(crate) fn blocked(plain: &[f32], c: usize, spatial: usize, garbage: f32) -> Vec<f32> {
    let n = plain.len() / (c * spatial);
    let mut out = vec![garbage; physical_len(Layout::Blocked, n, c, spatial)];
    for (i, &v) in plain.iter().enumerate() {
        out[blocked_index(i, c, spatial)] = v;
    }
    out
}

/// The logical elements of a blocked value; fails where a lane past C is not finite.
#[cfg(test)]
pub(crate) fn plain(blocked: &[f32], c: usize, spatial: usize) -> Vec<f32> {
    let n = blocked.len() / (blocks(c) * LANES * spatial);
    let mut rest = blocked.to_vec();
    let out = (0..n * c * spatial)
        .map(|i| std::mem::replace(&mut rest[blocked_index(i, c, spatial)], 0.0))
        .collect();
    assert!(rest.iter().all(|v| v.is_finite()), "lanes past C must be finite");
    out
}

#[cfg(test)]
fn blocked_index(i: usize, c: usize, spatial: usize) -> usize {
    let (image, channel, pixel) = (i / spatial / c, i / spatial % c, i % spatial);
    ((image * blocks(c) + channel / LANES) * spatial + pixel) * LANES + channel % LANES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, run, values};

    #[test]
    fn reorders() {
        for (n, c, spatial) in
            [(1, 1, 1), (2, 3, 5), (1, 16, 16), (2, 17, 49), (3, 40, 33), (1, 33, 64), (2, 5, 1)]
        {
            for isa in Isa::available() {
                check(isa, n, c, spatial);
            }
        }
    }

    fn check(isa: Isa, n: usize, c: usize, spatial: usize) {
        let x = values(1, n * c * spatial);
        let there = reorder(isa, Layout::Plain, Layout::Blocked, n, c, spatial);
        let len = physical_len(Layout::Blocked, n, c, spatial);
        let y = run(&*there, &[Input::F32(&x)], &[Out::Len(len)]).remove(0);
        assert_eq!(y, blocked(&x, c, spatial, 0.0), "{} {n}x{c}x{spatial}", there.name());
        let back = reorder(isa, Layout::Blocked, Layout::Plain, n, c, spatial);
        let garbage = blocked(&x, c, spatial, 1e30);
        let z = run(&*back, &[Input::F32(&garbage)], &[Out::Len(x.len())]).remove(0);
        assert_eq!(z, x, "{} {n}x{c}x{spatial}", back.name());
        assert_eq!(plain(&y, c, spatial), x);
    }
}
