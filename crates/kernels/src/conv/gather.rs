//! Copies the part of the input that an item needs into scratch, with padding, stride and dilation along x resolved,
//! so that the pixels of a tap lie one after the other.

use super::space::{Axis, Class, Phase};
use crate::isa::multiversion;
use crate::lanes::Lanes;
use crate::layout::{load_up_to, store_up_to};
use crate::{Isa, LANES, Layout, blocks};
use espalier_graph::Window;
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
    pub(super) size: [usize; 2],
    /// Where kernel columns are folded into channels: how neighbours in a row become lanes.
    pieces: Option<Vec<Piece>>,
}

/// Lanes of one block that are one channel at neighbouring kernel columns.
#[derive(Clone, Copy, Debug)]
struct Piece {
    channel: usize,
    column: usize,
    len: usize,
    block: usize,
    lane: usize,
}

impl Input {
    /// A tensor of `channels` and `size` (height, width); `fold` gives the kernel whose columns are folded into channels.
    pub(super) fn new(layout: Layout, channels: usize, size: [usize; 2], fold: Option<&Window>) -> Input {
        Input { layout, channels, size, pieces: fold.map(|w| pieces(channels, w)) }
    }

    /// Elements of one image.
    pub(super) fn image_len(&self) -> usize {
        crate::physical_len(self.layout, 1, self.channels, self.size[0] * self.size[1])
    }

    fn index(&self, image: usize, channel: usize, row: usize, column: usize) -> usize {
        let [height, width] = self.size;
        let start = image * self.image_len();
        match self.layout {
            Layout::Plain => start + (channel * height + row) * width + column,
            Layout::Blocked => {
                start + ((channel / LANES * height + row) * width + column) * LANES + channel % LANES
            }
        }
    }
}

impl Piece {
    /// The pixels that read inside of the input at all columns of the piece.
    fn inside(&self, x: &Axis) -> Range<usize> {
        let first = x.inside(x.taps[self.column].at);
        let last = x.inside(x.taps[self.column + self.len - 1].at);
        first.start.min(last.end)..last.end
    }
}

/// Each channel's kernel columns, cut where a block ends; neighbours in the kernel are neighbours in the row only
/// without dilation.
fn pieces(channels: usize, window: &Window) -> Vec<Piece> {
    let columns = window.kernel[1];
    let mut pieces: Vec<Piece> = Vec::new();
    for lane in 0..channels * columns {
        let (channel, column) = (lane / columns, lane % columns);
        match pieces.last_mut() {
            Some(p) if column > 0 && lane % LANES > 0 && window.dilation[1] == 1 => p.len += 1,
            _ => pieces.push(Piece { channel, column, len: 1, block: lane / LANES, lane: lane % LANES }),
        }
    }
    pieces
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
multiversion!(fn pick_folded(g: &mut Gather<'_>) = gather_folded);

/// The gather for `input`.
pub(super) fn pick(isa: Isa, input: &Input) -> GatherFn {
    match (&input.pieces, input.layout) {
        (Some(_), _) => pick_folded(isa),
        (None, Layout::Blocked) => pick_blocks(isa),
        (None, Layout::Plain) => gather_plain,
    }
}

/// A gathered row.
struct Row {
    image: usize,
    /// The input's, none in the padding.
    input: Option<usize>,
    /// Where it goes, counted from the block and column.
    at: usize,
}

impl<'a> Gather<'a> {
    /// All rows. They are no argument of a function that does something with each: what is not inlined into the function of an
    /// instruction set has none of its instructions.
    fn rows(&self) -> impl Iterator<Item = Row> + use<'a> {
        let (phase, item, pitch) = (self.phase, self.item, self.pitch);
        let classes = phase.classes.iter().scan(0, |slots, class| {
            let first = *slots;
            *slots += item.rows.len() + class.extra;
            Some((class, first..*slots))
        });
        let slots =
            classes.flat_map(|(class, slots)| slots.enumerate().map(move |(row, slot)| (class, row, slot)));
        slots.flat_map(move |(class, row, slot)| {
            let input = input_row(phase, class, item.rows.start + row);
            let row = move |(i, image)| Row { image, input, at: slot * pitch.row + i * pitch.image };
            item.images.clone().enumerate().map(row)
        })
    }
}

impl Gather<'_> {
    /// Writes `pixels` of one lane, which is `channel` at kernel column `column`, from `at` on.
    #[inline(always)]
    fn fill_lane(
        &mut self,
        image: usize,
        channel: usize,
        row: Option<usize>,
        column: usize,
        pixels: Range<usize>,
        at: usize,
    ) {
        let x = &self.phase.x;
        let tap = x.taps[column].at;
        for pixel in pixels {
            let column = (pixel * x.stride) as isize + tap;
            let value = match row {
                Some(row) if (0..x.input as isize).contains(&column) => {
                    self.x[self.input.index(image, channel, row, column as usize)]
                }
                _ => 0.0,
            };
            self.to[at + pixel * LANES] = value;
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
            for Row { image, input, at } in g.rows() {
                let to = &mut g.to[base + at..][..x.count * LANES];
                let (Some(row), false) = (input, inside.is_empty()) else {
                    to.fill(0.0);
                    continue;
                };
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
            }
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

/// From plain input, a lane at a time.
fn gather_plain(g: &mut Gather<'_>) {
    let (pitch, count) = (g.pitch, g.phase.x.count);
    for Row { image, input, at } in g.rows() {
        for (b, block) in g.blocks.clone().enumerate() {
            for lane in 0..LANES.min(g.input.channels - block * LANES) {
                for column in 0..g.phase.x.taps.len() {
                    let at = at + b * pitch.block + column * pitch.column + lane;
                    g.fill_lane(image, block * LANES + lane, input, column, 0..count, at);
                }
            }
        }
    }
}

/// From any layout, with kernel columns folded into channels.
#[inline(always)]
unsafe fn gather_folded<V: Lanes>(g: &mut Gather<'_>) {
    let (input, blocks, pitch) = (g.input, g.blocks.clone(), g.pitch);
    let (x, count) = (&g.phase.x, g.phase.x.count);
    let pieces = input.pieces.as_deref().unwrap_or_default();
    for Row { image, input: row, at } in g.rows() {
        for piece in pieces.iter().filter(|p| blocks.contains(&p.block)) {
            let at = at + (piece.block - blocks.start) * pitch.block + piece.lane;
            let inside = match (row, input.layout) {
                (Some(_), Layout::Plain) => piece.inside(x),
                _ => 0..0,
            };
            for i in 0..piece.len {
                g.fill_lane(image, piece.channel, row, piece.column + i, 0..inside.start, at + i);
                g.fill_lane(image, piece.channel, row, piece.column + i, inside.end..count, at + i);
            }
            if let (Some(row), false) = (row, inside.is_empty()) {
                let column = (inside.start * x.stride) as isize + x.taps[piece.column].at;
                let from = &g.x[input.index(image, piece.channel, row, column as usize)..];
                let to = &mut g.to[at + inside.start * LANES..];
                // SAFETY: this instruction set was picked.
                unsafe { copy_runs::<V>(from, x.stride, to, piece.len, inside.len()) };
            }
        }
    }
}

/// Copies `count` runs of `len` elements, `step` apart, to `len` lanes of pixels.
///
/// # Safety
/// That of [`Lanes`].
#[inline(always)]
unsafe fn copy_runs<V: Lanes>(from: &[f32], step: usize, to: &mut [f32], len: usize, count: usize) {
    assert!((count - 1) * step + len <= from.len(), "the input holds all its rows");
    assert!((count - 1) * LANES + len <= to.len(), "scratch holds all rows");
    for i in 0..count {
        // SAFETY: in bounds by the assertions.
        unsafe {
            let run = load_up_to(from.as_ptr().add(i * step), len, V::zero());
            store_up_to(run, to.as_mut_ptr().add(i * LANES), len);
        }
    }
}
