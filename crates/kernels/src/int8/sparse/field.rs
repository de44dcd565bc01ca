//! Where the tiles read: every tap of neighbouring output pixels must be neighbouring quads, so that sixteen pixels are
//! one load and a tap is a mere offset.
//!
//! That holds in the input itself where strides are 1 and nothing is padded. Elsewhere the rows that an item needs are
//! copied to scratch, with the zero point around them, as one picture for each residue of rows and columns modulo the
//! strides that some tap reads (one in all at stride 1, four for a 3x3 kernel at stride 2). Either way the *positions*
//! of a field are row after row of `pitch` pixels; those past the last output column of a row are computed and not
//! stored: 61 positions for 7x7 pixels and a 3x3 kernel, 3,246 for 56x56. A copy for each kernel column would do without
//! them, and could begin rows at cache lines; a study of this CPU found that no faster for blocks of two outputs.

use crate::LANES;
use crate::conv::ConvGeometry;
use crate::int8::conv::source::{ALIAS, GATHERED, WAYS, unaliased};
use crate::int8::quads;
use espalier_graph::Window;
use std::ops::Range;

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
    stride: [usize; 2],
    /// Padding above.
    top: usize,
    /// Rows of a phase beyond those of the output.
    extra: usize,
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

/// The residues of one axis that some tap reads.
struct Residues {
    all: Vec<usize>,
    dilation: usize,
    stride: usize,
}

impl Residues {
    fn new(w: &Window, axis: usize) -> Residues {
        let (dilation, stride) = (w.dilation[axis], w.stride[axis]);
        let mut all: Vec<usize> = (0..w.kernel[axis]).map(|k| k * dilation % stride).collect();
        all.sort_unstable();
        all.dedup();
        Residues { all, dilation, stride }
    }

    /// Where kernel position `k` reads: the index of its residue, and how far on there.
    fn place(&self, k: usize) -> [usize; 2] {
        let at = k * self.dilation;
        let residue = self.all.binary_search(&(at % self.stride)).expect("the residue of a tap");
        [residue, at / self.stride]
    }
}

impl Field {
    pub(super) fn new(g: &ConvGeometry, zero: u8) -> Field {
        let w = &g.window;
        let ([height, width], planes) = (g.input, quads(g.channels_in));
        let direct = w.stride == [1, 1] && w.pad == [0; 4];
        let positions = (g.output[0].max(1) - 1) * width + g.output[1];
        let aliased = (4 * height * width).is_multiple_of(ALIAS) && planes > WAYS;
        let gathered = !direct || aliased || positions < LANES;
        let extra = [0, 1].map(|axis| (w.kernel[axis] - 1) * w.dilation[axis] / w.stride[axis]);
        let pitch = if gathered { g.output[1] + extra[1] } else { width };
        let residues = [0, 1].map(|axis| Residues::new(w, axis));
        let count = residues[0].all.len() * residues[1].all.len();
        let row = (planes * count * 4 * pitch).max(1);
        let rows = if gathered { (GATHERED / row).saturating_sub(extra[0]) } else { g.output[0] };
        let rows = rows.clamp(1, g.output[0].max(1));
        let phase = (rows + extra[0]) * pitch * 4;
        let tap = |tap: usize| {
            let [row, column] = [residues[0].place(tap / w.kernel[1]), residues[1].place(tap % w.kernel[1])];
            phase * (row[0] * residues[1].all.len() + column[0]) + 4 * (row[1] * pitch + column[1])
        };
        Field {
            gathered,
            rows,
            pitch,
            plane: if gathered { unaliased(phase * count) } else { 4 * height * width },
            planes,
            taps: (0..w.kernel[0] * w.kernel[1]).map(tap).collect(),
            phases: if gathered { phases(g, &residues, pitch, phase) } else { Vec::new() },
            size: g.input,
            stride: w.stride,
            top: w.pad[0],
            extra: extra[0],
            zero,
        }
    }

    /// Bytes from the first pixel of plane 0 to what `tap` of `quad` reads for it.
    pub(super) fn offset(&self, quad: usize, tap: usize) -> usize {
        quad * self.plane + self.taps[tap]
    }

    /// Bytes of scratch; the last positions may be read to the end of their vector.
    pub(super) fn scratch(&self) -> usize {
        if self.gathered { self.planes * self.plane + 4 * LANES } else { 0 }
    }

    /// Bytes of one image of the input.
    pub(super) fn image(&self) -> usize {
        self.planes * self.size[0] * self.size[1] * 4
    }

    /// Copies what output `rows` of an image read.
    pub(super) fn gather(&self, image: &[u8], rows: &Range<usize>, scratch: &mut [u8]) {
        assert!(rows.len() <= self.rows, "an item's rows fit the scratch");
        let [height, width] = self.size;
        let quads = |bytes: usize| bytes / 4;
        let (image, scratch) = (image.as_chunks::<4>().0, scratch.as_chunks_mut::<4>().0);
        for plane in 0..self.planes {
            let from = &image[plane * height * width..(plane + 1) * height * width];
            let to = &mut scratch[quads(plane * self.plane)..];
            for phase in &self.phases {
                let to = &mut to[quads(phase.at)..][..(rows.len() + self.extra) * self.pitch];
                for (i, to) in to.chunks_exact_mut(self.pitch).enumerate() {
                    let row = ((rows.start + i) * self.stride[0] + phase.row).checked_sub(self.top);
                    match row.filter(|&row| row < height) {
                        Some(row) => self.gather_row(phase, &from[row * width..(row + 1) * width], to),
                        None => to.fill([self.zero; 4]),
                    }
                }
            }
        }
    }

    fn gather_row(&self, phase: &Phase, from: &[[u8; 4]], to: &mut [[u8; 4]]) {
        let Range { start, end } = phase.inside;
        to[..start].fill([self.zero; 4]);
        to[end..].fill([self.zero; 4]);
        if start == end {
            return;
        }
        let (from, to) = (&from[phase.column..], &mut to[start..end]);
        match self.stride[1] {
            1 => copy(&from[..to.len()], to),
            2 => every_second(from, to),
            stride => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
        }
    }
}

/// The phases in the order of their residues, `len` bytes apart.
fn phases(g: &ConvGeometry, [rows, columns]: &[Residues; 2], pitch: usize, len: usize) -> Vec<Phase> {
    let (stride, left) = (g.window.stride[1], g.window.pad[1]);
    let pairs = rows.all.iter().flat_map(|&row| columns.all.iter().map(move |&column| (row, column)));
    let phase = |(index, (row, column)): (usize, (usize, usize))| {
        // Column `i` is column `i * stride + column - left` of the input.
        let first_at = |edge: usize| edge.saturating_sub(column).div_ceil(stride).min(pitch);
        let inside = first_at(left)..first_at(left + g.input[1]);
        let column = (inside.start * stride + column).saturating_sub(left);
        Phase { row, inside, column, at: len * index }
    };
    pairs.enumerate().map(phase).collect()
}

/// As `copy_from_slice`, whose call of memcpy costs more than a short row: pieces of one size, the last of which overlaps
/// the one before.
fn copy(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    match to.len() {
        16.. => pieces::<16>(from, to),
        8.. => pieces::<8>(from, to),
        4.. => pieces::<4>(from, to),
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
    }
}

fn pieces<const N: usize>(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    from.as_chunks::<N>().0.iter().zip(to.as_chunks_mut::<N>().0).for_each(|(from, to)| *to = *from);
    let last = "at least one piece";
    *to.last_chunk_mut::<N>().expect(last) = *from.last_chunk::<N>().expect(last);
}

/// In a form that compilers make shuffles of.
fn every_second(from: &[[u8; 4]], to: &mut [[u8; 4]]) {
    let (last, to) = to.split_last_mut().expect("not empty");
    from.as_chunks::<2>().0.iter().zip(&mut *to).for_each(|(from, to)| *to = from[0]);
    *last = from[2 * to.len()];
}
