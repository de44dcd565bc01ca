//! Where the tiles read: every tap of neighbouring output pixels must be neighbouring quads, so that sixteen pixels are
//! one load and a tap is a mere offset.
//!
//! That holds in the input itself where strides are 1 and nothing is padded. Elsewhere, and where many outputs would load
//! across cache lines, the rows that an item needs are copied to scratch, with the zero point around them, as one *phase*
//! for each residue of rows and columns modulo the strides that some tap reads (one in all at stride 1, four for a 3x3
//! kernel at stride 2). Either way the *positions* of a field are row after row of `pitch` pixels; those past the last output
//! column of a row are computed and not stored: 55 positions for 7x7 pixels and a 3x3 kernel, 3,191 for 56x56. A copy for
//! each kernel column does without them, and rows of whole cache lines, or of halves, make more taps begin with lines; either
//! takes more of a level 1 cache, and time. What a block costs in each way is estimated (`Field::cost`), and a way that is clearly
//! cheaper than the simplest is taken: 4x4 pixels are one vector with copies, and 22 positions two.

use super::tile::{LEVEL_1, VECTORS};
use crate::LANES;
use crate::conv::ConvGeometry;
use crate::int8::conv::source::{ALIAS, WAYS, unaliased};
use crate::int8::dots::Dots;
use crate::int8::form::per_form;
use crate::int8::quads;
use crate::int8::share::LINE;
use espalier_graph::Window;
use std::ops::Range;

/// Bytes that may be gathered at once: there are fewer weights beside them in a level 2 cache than in a dense kernel's.
const GATHERED: usize = 256 * 1024;

/// With so many outputs, planes that do not begin with cache lines are copied to where they do: a vector is loaded once for
/// each block that meets it. Measured on Granite Rapids with three quarters of the blocks zero: 256 to 1,024 channels of 14x14
/// pixels a tenth faster, 2,048 to 512 of 7x7 a quarter; with half as many outputs copying takes what it saves.
const MANY: usize = 512;

/// What [`Field::cost`] reckons with, in cycles of Granite Rapids with products of bytes: a vector of a block takes one, and so
/// much more where all loads cross cache lines (seven vectors and their weights in 11.0, and in 8.0 where none does), once loads
/// are what takes longest.
const CROSSED: f64 = 0.5;
const LOADS: usize = 4;

/// How much longer for each level 1 cache that a tile reads beyond the first.
const MISSED: f64 = 0.5;

/// Weights and offset of a block in a tile; copying a cache line.
const TILE: f64 = 1.3;
const COPIED: f64 = 4.5;

/// The share of blocks that are taken not to be zero: which they are is not known yet.
const KEPT: f64 = 0.25;

/// What is not cheaper by so much than a simpler way is not taken.
const WORTH: f64 = 0.95;

/// How pixels lie; lengths are in bytes unless it says positions.
pub(super) struct Field {
    /// Whether rows are copied to scratch.
    pub(super) gathered: bool,
    /// Output rows of an item at most.
    pub(super) rows: usize,
    /// Positions from row to row.
    pub(super) pitch: usize,
    /// From plane to plane.
    plane: usize,
    planes: usize,
    /// Where each tap begins.
    taps: Vec<usize>,
    phases: Vec<Phase>,
    size: [usize; 2],
    output: [usize; 2],
    stride: [usize; 2],
    /// Padding above.
    top: usize,
    /// Rows of a phase beyond those of the output.
    extra: usize,
    /// Padding on the right of a row that is the left one of the next.
    shared: usize,
    zero: u8,
}

/// Every `stride`-th row and column of the padded input.
struct Phase {
    /// Its first padded row.
    row: usize,
    /// Which of its columns hold pixels, and the input column of the first.
    inside: Range<usize>,
    column: usize,
    /// Where it begins in a plane of scratch.
    at: usize,
}

/// Where the copies of one axis begin, and what kernel positions read in them.
struct Copies {
    /// The padded row or column that each begins with.
    first: Vec<usize>,
    /// Of each kernel position: which copy it reads, and how far on there.
    places: Vec<[usize; 2]>,
}

impl Copies {
    /// One for each residue modulo the stride that some kernel position reads.
    fn by_residue(w: &Window, axis: usize) -> Copies {
        let (dilation, stride) = (w.dilation[axis], w.stride[axis]);
        let at = |k: usize| k * dilation;
        let mut first: Vec<usize> = (0..w.kernel[axis]).map(|k| at(k) % stride).collect();
        first.sort_unstable();
        first.dedup();
        let copy = |k| first.binary_search(&(at(k) % stride)).expect("the residue of a kernel position");
        let places = (0..w.kernel[axis]).map(|k| [copy(k), at(k) / stride]).collect();
        Copies { first, places }
    }

    /// One for each kernel position.
    fn by_position(w: &Window, axis: usize) -> Copies {
        let all = 0..w.kernel[axis];
        Copies {
            first: all.clone().map(|k| k * w.dilation[axis]).collect(),
            places: all.map(|k| [k, 0]).collect(),
        }
    }

    /// Rows or columns of a copy beyond those of the output.
    fn extra(&self) -> usize {
        self.places.iter().map(|place| place[1]).max().unwrap_or(0)
    }
}

/// Vectors of all positions, with rows of `pitch`.
fn vectors(output: [usize; 2], pitch: usize) -> usize {
    (output[0].max(1) - 1).saturating_mul(pitch).saturating_add(output[1]).div_ceil(LANES)
}

/// Columns of padding that rows have in common, with `extra` columns beyond those of the output.
fn shared(g: &ConvGeometry, extra: usize) -> usize {
    let [_, left, _, right] = g.window.pad;
    if g.window.stride[1] == 1 { left.min(right).min(extra) } else { 0 }
}

impl Field {
    pub(super) fn new(g: &ConvGeometry, zero: u8) -> Field {
        let (w, planes) = (&g.window, quads(g.channels_in));
        let direct = w.stride == [1, 1] && w.pad == [0; 4];
        let [height, width] = g.input;
        let given = 4 * height * width;
        let aliased = given.is_multiple_of(ALIAS) && planes > WAYS;
        let crosses_lines = !given.is_multiple_of(LINE) && g.channels_out >= MANY;
        let positions = (g.output[0].max(1) - 1) * width + g.output[1];
        if direct && !aliased && !crosses_lines && positions >= LANES {
            return Field::direct(g, zero);
        }
        let ways = [Copies::by_residue, Copies::by_position].into_iter().flat_map(|columns| {
            let extra = columns(w, 1).extra();
            let (all, shared) = (g.output[1] + extra, shared(g, extra));
            [(all - shared, shared), (all.next_multiple_of(LANES), 0)]
                .map(|(pitch, shared)| Field::gathered(g, zero, columns(w, 1), pitch, shared))
        });
        let costs = ways.map(|way| (way.cost(g.channels_out), way));
        let cheaper = |best: (f64, Field), next: (f64, Field)| {
            if next.0 < WORTH * best.0 { next } else { best }
        };
        costs.reduce(cheaper).expect("some way").1
    }

    /// In the input itself.
    fn direct(g: &ConvGeometry, zero: u8) -> Field {
        let ([height, width], planes) = (g.input, quads(g.channels_in));
        let [_, columns] = g.window.kernel;
        let [down, right] = g.window.dilation;
        let tap = |tap: usize| 4 * (tap / columns * down * width + tap % columns * right);
        Field {
            gathered: false,
            rows: g.output[0].max(1),
            pitch: width,
            plane: 4 * height * width,
            planes,
            taps: (0..g.window.kernel[0] * columns).map(tap).collect(),
            phases: Vec::new(),
            size: g.input,
            output: g.output,
            stride: g.window.stride,
            top: 0,
            extra: 0,
            shared: 0,
            zero,
        }
    }

    /// In scratch, with these copies of columns.
    fn gathered(g: &ConvGeometry, zero: u8, columns: Copies, pitch: usize, shared: usize) -> Field {
        let (w, planes) = (&g.window, quads(g.channels_in));
        let copies = [Copies::by_residue(w, 0), columns];
        let (extra, count) = (copies[0].extra(), copies[0].first.len() * copies[1].first.len());
        let row = (planes * count * 4 * pitch).max(1);
        let rows = (GATHERED / row).saturating_sub(extra).clamp(1, g.output[0].max(1));
        let phase = (((rows + extra) * pitch + shared) * 4).next_multiple_of(LINE);
        let tap = |tap: usize| {
            let [row, column] = [copies[0].places[tap / w.kernel[1]], copies[1].places[tap % w.kernel[1]]];
            phase * (row[0] * copies[1].first.len() + column[0]) + 4 * (row[1] * pitch + column[1])
        };
        Field {
            gathered: true,
            rows,
            pitch,
            plane: unaliased(phase * count),
            planes,
            taps: (0..w.kernel[0] * w.kernel[1]).map(tap).collect(),
            phases: phases(g, &copies, pitch, phase),
            size: g.input,
            output: g.output,
            stride: w.stride,
            top: w.pad[0],
            extra,
            shared,
            zero,
        }
    }

    /// Cycles of a block, with its share of the copying of a plane for so many outputs.
    fn cost(&self, outputs: usize) -> f64 {
        let items = self.output[0].div_ceil(self.rows).max(1);
        let rows = self.output[0].div_ceil(items);
        let vectors = vectors([rows, self.output[1]], self.pitch);
        let crossed = match vectors {
            0..LOADS => 0,
            _ => self.taps.iter().filter(|tap| !tap.is_multiple_of(LINE)).count(),
        };
        let taps = self.taps.len().max(1) as f64;
        let missed = (self.tile(vectors.min(VECTORS)) as f64 / LEVEL_1 as f64 - 1.0).max(0.0);
        let products = vectors as f64 * (1.0 + CROSSED * crossed as f64 / taps) * (1.0 + MISSED * missed);
        let lines = 4 * self.phases.len() * self.positions(rows) / LINE;
        let copied = COPIED * lines as f64 / (KEPT * taps * outputs as f64 / 2.0);
        items as f64 * (products + TILE * vectors.div_ceil(VECTORS) as f64 + copied)
    }

    /// Copies of each plane, in whole or in part.
    #[cfg(test)]
    pub(super) fn copies(&self) -> usize {
        self.phases.len()
    }

    /// Bytes from the first pixel of plane 0 to what `tap` of `quad` reads for it.
    pub(super) fn offset(&self, quad: usize, tap: usize) -> usize {
        quad * self.plane + self.taps[tap]
    }

    /// Bytes that a tile of so many vectors reads of all planes, in whole cache lines.
    pub(super) fn tile(&self, vectors: usize) -> usize {
        let lines = |&tap: &usize| tap / LINE..(tap + 4 * LANES * vectors).div_ceil(LINE);
        let mut lines: Vec<usize> = self.taps.iter().flat_map(lines).collect();
        lines.sort_unstable();
        lines.dedup();
        lines.len() * LINE * self.planes
    }

    /// Bytes of scratch; the last positions may be read to the end of their vector.
    pub(super) fn scratch(&self) -> usize {
        if self.gathered { self.planes * self.plane + 4 * LANES } else { 0 }
    }

    /// Bytes of one image of the input.
    pub(super) fn image(&self) -> usize {
        self.planes * self.size[0] * self.size[1] * 4
    }

    /// Positions of a phase for so many output rows.
    fn positions(&self, rows: usize) -> usize {
        (rows + self.extra) * self.pitch + self.shared
    }
}

per_form!(pub(super) fn pick_gather(field: &Field, image: &[u8], rows: &Range<usize>, scratch: &mut [u8]) = gather);

/// Copies what output `rows` of an image read.
#[inline(always)]
unsafe fn gather<D: Dots>(field: &Field, image: &[u8], rows: &Range<usize>, scratch: &mut [u8]) {
    assert!(rows.len() <= field.rows, "an item's rows fit the scratch");
    let (height, stride, zero) = (field.size[0], field.stride, [field.zero; 4]);
    let (image, scratch) = (image.as_chunks::<4>().0, scratch.as_chunks_mut::<4>().0);
    let planes = image.chunks_exact(height * field.size[1]).zip(scratch.chunks_exact_mut(field.plane / 4));
    for (from, to) in planes {
        for phase in &field.phases {
            let to = &mut to[phase.at / 4..][..field.positions(rows.len())];
            // Row `i` of the phase is row `i * stride + phase.row + rows.start * stride - top` of the input.
            let below = phase.row + rows.start * stride[0];
            let first_at = |edge: usize| div_ceil(edge.saturating_sub(below), stride[0]);
            let end = first_at(field.top + height).min(rows.len() + field.extra);
            let first = first_at(field.top).min(end);
            let Some(row) = (first < end).then(|| first * stride[0] + below - field.top) else {
                to.fill(zero);
                continue;
            };
            let inner = Inner { rows: first..end, columns: phase.inside.clone(), pitch: field.pitch };
            if inner.columns.is_empty() {
                to.fill(zero);
                continue;
            }
            let values = &from[row * field.size[1] + phase.column..];
            // Rows that lie as they should are one run; what is between them is not theirs.
            if stride == [1, 1] && field.pitch == field.size[1] && inner.run() >= 4 {
                copy_run(&values[..inner.run()], &mut to[inner.start()..][..inner.run()]);
            } else {
                Rows { values, apart: stride[0] * field.size[1] }.copy(&inner, stride[1], to);
            }
            inner.fill_around(to, zero);
        }
    }
}

/// Division is slow, and strides are few.
#[inline(always)]
fn div_ceil(a: usize, stride: usize) -> usize {
    match stride {
        1 => a,
        2 => a.div_ceil(2),
        _ => a.div_ceil(stride),
    }
}

/// Copies a stretch of at least four pixels, in pieces of one size.
#[inline(always)]
fn copy_run(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    match to.len() {
        16.. => pieces::<16>(from, to),
        8.. => pieces::<8>(from, to),
        _ => pieces::<4>(from, to),
    }
}

/// Where pixels lie in a phase; around them there is padding.
struct Inner {
    rows: Range<usize>,
    columns: Range<usize>,
    pitch: usize,
}

impl Inner {
    #[inline(always)]
    fn start(&self) -> usize {
        self.rows.start * self.pitch + self.columns.start
    }

    /// From the first pixel to the last.
    #[inline(always)]
    fn run(&self) -> usize {
        (self.rows.len() - 1) * self.pitch + self.columns.len()
    }

    #[inline(always)]
    fn fill_around(&self, to: &mut [[u8; 4]], zero: [u8; 4]) {
        let gap = self.pitch - self.columns.len();
        let last = self.start() + self.run();
        to[..self.start()].fill(zero);
        to[last..].fill(zero);
        if gap == 0 {
            return;
        }
        for row in 1..self.rows.len() {
            to[self.start() + row * self.pitch - gap..][..gap].iter_mut().for_each(|quad| *quad = zero);
        }
    }
}

/// Rows of a plane, from one of its pixels on.
struct Rows<'a> {
    values: &'a [[u8; 4]],
    apart: usize,
}

impl Rows<'_> {
    /// Every `stride`-th pixel to where `inner` says. Pieces of one size, the last of which overlaps the one before: calling
    /// memcpy costs more than a short row.
    #[inline(always)]
    fn copy(&self, inner: &Inner, stride: usize, to: &mut [[u8; 4]]) {
        match (stride, inner.columns.len()) {
            (1, 33..) => self.each(inner, to, pieces::<16>),
            (1, 17..=32) => self.each_and_more::<32>(inner, to),
            (1, 9..=16) => self.each_and_more::<16>(inner, to),
            (1, 5..=8) => self.each_and_more::<8>(inner, to),
            (1, 4) => self.each(inner, to, pieces::<4>),
            (2, 5..=8) => self.each(inner, to, every_second::<4>),
            (2, 9..) => self.each(inner, to, every_second::<8>),
            _ => self.each(inner, to, |from, to| {
                to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
            }),
        }
    }

    /// Rows of more than `N / 2` and at most `N` pixels as `N` each, all but the last: what is too much is overwritten, by the
    /// next row or with what lies around them all.
    #[inline(always)]
    fn each_and_more<const N: usize>(&self, inner: &Inner, to: &mut [[u8; 4]]) {
        let last = inner.rows.len() - 1;
        for row in 0..last {
            let to = &mut to[inner.start() + row * inner.pitch..][..N];
            to.copy_from_slice(&self.values[row * self.apart..][..N]);
        }
        let to = &mut to[inner.start() + last * inner.pitch..][..inner.columns.len()];
        to.copy_from_slice(&self.values[last * self.apart..][..to.len()]);
    }

    #[inline(always)]
    fn each(&self, inner: &Inner, to: &mut [[u8; 4]], copy: impl Fn(&[[u8; 4]], &mut [[u8; 4]])) {
        for row in 0..inner.rows.len() {
            copy(
                &self.values[row * self.apart..],
                &mut to[inner.start() + row * inner.pitch..][..inner.columns.len()],
            );
        }
    }
}

/// The phases, `len` bytes apart: for each copy of rows all copies of columns.
fn phases(g: &ConvGeometry, [rows, columns]: &[Copies; 2], pitch: usize, len: usize) -> Vec<Phase> {
    let (stride, left) = (g.window.stride[1], g.window.pad[1]);
    let pairs = rows.first.iter().flat_map(|&row| columns.first.iter().map(move |&column| (row, column)));
    let phase = |(index, (row, column)): (usize, (usize, usize))| {
        // Column `i` is column `i * stride + column - left` of the input.
        let first_at = |edge: usize| edge.saturating_sub(column).div_ceil(stride).min(pitch);
        let inside = first_at(left)..first_at(left + g.input[1]);
        let column = (inside.start * stride + column).saturating_sub(left);
        Phase { row, inside, column, at: len * index }
    };
    pairs.enumerate().map(phase).collect()
}

/// At least `N` pixels.
#[inline(always)]
fn pieces<const N: usize>(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    let (from, last) = (&from[..to.len()], "at least one piece");
    from.as_chunks::<N>().0.iter().zip(to.as_chunks_mut::<N>().0).for_each(|(from, to)| *to = *from);
    *to.last_chunk_mut::<N>().expect(last) = *from.last_chunk::<N>().expect(last);
}

/// Every second pixel, for at least `N + 1` of them: as the lower halves of pairs, which vectors have an instruction for.
#[inline(always)]
fn every_second<const N: usize>(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    let (last, to) = to.split_last_mut().expect("not empty");
    *last = from[2 * to.len()];
    let pairs = &from.as_chunks::<2>().0[..to.len()];
    let lower = |pairs: &[[[u8; 4]; 2]; N]| {
        pairs.map(|pair| {
            (u64::from_le_bytes(*pair.as_flattened().as_array().expect("eight bytes")) as u32).to_le_bytes()
        })
    };
    let (pieces, last) = (pairs.as_chunks::<N>().0, pairs.last_chunk::<N>().expect("at least one piece"));
    pieces.iter().zip(to.as_chunks_mut::<N>().0).for_each(|(from, to)| *to = lower(from));
    *to.last_chunk_mut::<N>().expect("at least one piece") = lower(last);
}
