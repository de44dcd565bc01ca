//! Copies the part of the input that an item needs into scratch, with padding, stride and dilation along x resolved,
//! so that the pixels of a tap lie one after the other.

use super::space::{Class, Phase};
use crate::isa::multiversion;
use crate::lanes::Lanes;
use crate::{Isa, LANES, Layout, blocks};
use std::ops::Range;

/// Distances in the gathered input, in elements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pitch {
    /// Between channel blocks.
    pub(super) block: usize,
    /// Between kernel columns.
    pub(super) column: usize,
    /// Between classes of rows, apart from the rows that a tap adds itself.
    pub(super) class: usize,
    pub(super) row: usize,
    pub(super) image: usize,
}

/// Part of an output: some rows of some images.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) images: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl Pitch {
    /// Row by row with all images side by side: the output pixels of an item are one run.
    pub(super) fn by_row(phase: &Phase, item: &Item) -> Pitch {
        let image = phase.x.count * LANES;
        let row = item.images.len() * image;
        let column = phase.slots(item.rows.len()) * row;
        Pitch { block: phase.columns * column, column, class: item.rows.len() * row, row, image }
    }

    /// Image by image: the output pixels of one image are one run.
    pub(super) fn by_image(phase: &Phase, item: &Item) -> Pitch {
        let row = phase.x.count * LANES;
        let image = phase.slots(item.rows.len()) * row;
        let column = item.images.len() * image;
        Pitch { block: phase.columns * column, column, class: item.rows.len() * row, row, image }
    }
}

/// The tensor that is gathered from.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) layout: Layout,
    pub(super) channels: usize,
    /// Whether kernel columns are folded into channels.
    pub(super) folded: bool,
    pub(super) size: [usize; 2],
}

impl Input {
    /// Elements of one image.
    pub(super) fn image_len(&self) -> usize {
        crate::physical_len(self.layout, 1, self.channels, self.size[0] * self.size[1])
    }
}

/// Arguments of one gather.
pub(super) struct Gather<'a> {
    pub(super) input: &'a Input,
    pub(super) phase: &'a Phase,
    pub(super) item: &'a Item,
    pub(super) blocks: Range<usize>,
    pub(super) pitch: Pitch,
    pub(super) x: &'a [f32],
    pub(super) to: &'a mut [f32],
}

/// A gather for one layout and instruction set.
pub(super) type GatherFn = for<'a, 'b> unsafe fn(&'a mut Gather<'b>);

multiversion!(fn pick_blocks(g: &mut Gather<'_>) = gather_blocks);
multiversion!(fn pick_lanes(g: &mut Gather<'_>) = gather_lanes);

/// The gather for `input`.
pub(super) fn pick(isa: Isa, input: &Input) -> GatherFn {
    match input.layout {
        Layout::Blocked if !input.folded => pick_blocks(isa),
        _ => pick_lanes(isa),
    }
}

impl Gather<'_> {
    /// Calls `f(image, input row, target)` for each gathered row, `target` counted from the block and column; the input
    /// row is None in the padding.
    #[inline(always)]
    fn for_each_row(&mut self, mut f: impl FnMut(&mut Self, usize, Option<usize>, usize)) {
        let (phase, item, pitch) = (self.phase, self.item, self.pitch);
        let mut slot = 0;
        for class in &phase.classes {
            for row in 0..item.rows.len() + class.extra {
                let input = input_row(phase, class, item.rows.start + row);
                for (i, image) in item.images.clone().enumerate() {
                    f(self, image, input, (slot + row) * pitch.row + i * pitch.image);
                }
            }
            slot += item.rows.len() + class.extra;
        }
    }
}

fn input_row(phase: &Phase, class: &Class, row: usize) -> Option<usize> {
    let at = (row as isize + class.first) * phase.y.stride as isize + class.residue as isize;
    (0..phase.y.input as isize).contains(&at).then_some(at as usize)
}

/// From blocked input, a channel block at a time.
#[inline(always)]
unsafe fn gather_blocks<V: Lanes>(g: &mut Gather<'_>) {
    let (phase, pitch) = (g.phase, g.pitch);
    let x = &phase.x;
    let [height, width] = g.input.size;
    let all = blocks(g.input.channels);
    for (b, block) in g.blocks.clone().enumerate() {
        for (column, tap) in x.taps.iter().enumerate() {
            let base = b * pitch.block + column * pitch.column;
            let inside = x.inside(tap.at);
            let first = (inside.start * x.stride) as isize + tap.at;
            g.for_each_row(|g, image, row, at| {
                let to = &mut g.to[base + at..][..x.count * LANES];
                let (Some(row), false) = (row, inside.is_empty()) else { return to.fill(0.0) };
                let from = ((image * all + block) * height + row) * width + first as usize;
                let last = (from + (inside.len() - 1) * x.stride + 1) * LANES;
                assert!(last <= g.x.len(), "the input holds all its rows");
                to[..inside.start * LANES].fill(0.0);
                to[inside.end * LANES..].fill(0.0);
                // SAFETY: pixels `inside` lie in `to`, and those they come from in `x` by the assertion.
                unsafe {
                    let from = g.x.as_ptr().add(from * LANES);
                    let to = to.as_mut_ptr().add(inside.start * LANES);
                    copy_pixels::<V>(from, x.stride * LANES, to, inside.len());
                }
            });
        }
    }
}

#[inline(always)]
unsafe fn copy_pixels<V: Lanes>(from: *const f32, step: usize, to: *mut f32, count: usize) {
    for i in 0..count {
        // SAFETY: the caller gives `count` pixels on both sides.
        unsafe { V::load(from.add(i * step)).store(to.add(i * LANES)) };
    }
}

/// From any layout, a lane at a time: for few channels, and for kernel columns folded into channels.
#[inline(always)]
unsafe fn gather_lanes<V: Lanes>(g: &mut Gather<'_>) {
    let pitch = g.pitch;
    let channels = g.input.channels;
    let columns = g.phase.x.taps.len();
    for (b, block) in g.blocks.clone().enumerate() {
        for lane in 0..LANES {
            let channel = block * LANES + lane;
            if g.input.folded && channel < channels * columns {
                gather_lane(g, channel % channels, channel / channels, b * pitch.block + lane);
            } else if !g.input.folded && channel < channels {
                for column in 0..columns {
                    gather_lane(g, channel, column, b * pitch.block + column * pitch.column + lane);
                }
            }
        }
    }
}

#[inline(always)]
fn gather_lane(g: &mut Gather<'_>, channel: usize, column: usize, base: usize) {
    let phase = g.phase;
    let x = &phase.x;
    let at_tap = x.taps[column].at;
    let inside = x.inside(at_tap);
    let first = (inside.start * x.stride) as isize + at_tap;
    let [height, width] = g.input.size;
    let (image_len, plane, step) = match g.input.layout {
        Layout::Plain => (g.input.image_len(), channel * height * width, 1),
        Layout::Blocked => {
            (g.input.image_len(), channel / LANES * height * width * LANES + channel % LANES, LANES)
        }
    };
    g.for_each_row(|g, image, row, at| {
        let to = &mut g.to[base + at..][..(x.count - 1) * LANES + 1];
        let (Some(row), false) = (row, inside.is_empty()) else { return fill_lane(to, 0..x.count) };
        fill_lane(to, 0..inside.start);
        fill_lane(to, inside.end..x.count);
        let from = &g.x[image * image_len + plane + (row * width + first as usize) * step..];
        let to = to[inside.start * LANES..].iter_mut().step_by(LANES);
        for (to, from) in to.take(inside.len()).zip(from.iter().step_by(x.stride * step)) {
            *to = *from;
        }
    });
}

#[inline(always)]
fn fill_lane(to: &mut [f32], pixels: Range<usize>) {
    for pixel in pixels {
        to[pixel * LANES] = 0.0;
    }
}
