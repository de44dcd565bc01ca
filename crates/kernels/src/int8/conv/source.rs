//! Where a convolution's tiles read: the input itself, or padded rows of it in scratch.
//!
//! Activations carry no halo in memory. Where a window reaches over the border, the rows that an item needs are copied
//! to scratch with the zero point around them; then every tap is a mere offset, for any kernel, stride and dilation. A
//! halo in the layout would save that copy, 1 to 2 % of a 3x3 convolution (`examples/int8_speed.rs`), but every kernel
//! would have to write it, each consumer could want another width, and a 1x1 convolution with pixels in lanes would
//! compute it. Pixels of few channels lie without gaps there where taps are kernel rows (`pack`).

use super::pack::Arrangement;
use crate::conv::ConvGeometry;
use crate::int8::QUAD;
use std::ops::Range;

/// Bytes that may be gathered at once; weights have room beside them in a level 2 cache.
const GATHERED: usize = 128 * 1024;
/// Planes a multiple of this apart fall into the same sets of a level 1 cache.
pub(in crate::int8) const ALIAS: usize = 4096;
/// More planes than that evict each other then.
pub(in crate::int8) const WAYS: usize = 8;

/// How tiles read the input; lengths are in bytes.
pub(in crate::int8) struct Source {
    /// Whether rows are copied to scratch.
    pub(in crate::int8) gathered: bool,
    /// Output rows of an item at most.
    pub(in crate::int8) rows: usize,
    /// Of a pixel, from row to row, from plane to plane and from quad to quad of a tap, as read.
    pixel: usize,
    row: usize,
    pub(in crate::int8) plane: usize,
    pub(in crate::int8) quad: usize,
    /// Where each tap begins, and from output pixel to pixel and row to row.
    pub(in crate::int8) taps: Vec<usize>,
    pub(in crate::int8) step: usize,
    pub(in crate::int8) row_step: usize,
    /// The input in memory: planes, size.
    planes: usize,
    size: [usize; 2],
    /// Vertical and horizontal stride, and padding before.
    stride: usize,
    before: [usize; 2],
    /// Input rows of an item beyond those its strides cover.
    extent: usize,
    /// A row of zero points.
    blank: Vec<u8>,
}

impl Source {
    pub(in crate::int8) fn new(g: &ConvGeometry, zero: u8, a: &Arrangement) -> Source {
        let w = &g.window;
        let planes = g.channels_in.div_ceil(4);
        let (in_row, in_plane) = (g.input[1] * QUAD, g.input[0] * g.input[1] * QUAD);
        let aliased = in_plane.is_multiple_of(ALIAS) && a.quads > WAYS;
        let gathered = aliased || w.pad != [0; 4] || a.by_rows();
        let extent = |axis: usize| (w.kernel[axis] - 1) * w.dilation[axis] + 1;
        let columns = (g.output[1].max(1) - 1) * w.stride[1] + extent(1);
        let row = if gathered { columns * a.pixel } else { in_row };
        let per_row = if gathered { planes * row * w.stride[0] } else { planes * in_row * w.stride[0] };
        let rows = (GATHERED / per_row.max(1)).clamp(1, g.output[0].max(1));
        let plane = if gathered { unaliased(((rows - 1) * w.stride[0] + extent(0)) * row) } else { in_plane };
        let tap = |[y, x]: [usize; 2]| y * w.dilation[0] * row + x * w.dilation[1] * QUAD;
        let [height, width] = w.kernel;
        Source {
            gathered,
            rows,
            pixel: a.pixel,
            row,
            plane,
            quad: if a.by_rows() { QUAD } else { plane },
            taps: positions([height, if a.by_rows() { 1 } else { width }]).map(tap).collect(),
            step: w.stride[1] * a.pixel,
            row_step: w.stride[0] * row,
            planes,
            size: g.input,
            stride: w.stride[0],
            before: [w.pad[0], w.pad[1]],
            extent: extent(0),
            blank: vec![zero; row],
        }
    }

    /// Bytes of scratch; the last quad of a kernel row may reach past its pixels, where weights are zero.
    pub(in crate::int8) fn scratch(&self) -> usize {
        if self.gathered { self.planes * self.plane + QUAD } else { 0 }
    }

    /// Bytes of one image of the input.
    pub(in crate::int8) fn image(&self) -> usize {
        self.planes * self.size[0] * self.size[1] * QUAD
    }

    /// The address of plane 0 for the first pixel of output `rows` of an image, of which only `planes` are wanted.
    ///
    /// # Safety
    /// `x` must hold that image too, and where rows are gathered, nobody may write it.
    pub(in crate::int8) unsafe fn locate(
        &self,
        x: *const u8,
        image: usize,
        rows: &Range<usize>,
        planes: Range<usize>,
        scratch: &mut [u8],
    ) -> *const u8 {
        let image = x.wrapping_add(image * self.image());
        if !self.gathered {
            return image.wrapping_add(rows.start * self.row_step);
        }
        // SAFETY: the caller's contract.
        let image = unsafe { std::slice::from_raw_parts(image, self.image()) };
        assert!(rows.len() <= self.rows, "an item's rows fit the scratch");
        for plane in planes.start..planes.end.min(self.planes) {
            let from = &image[plane * self.size[0] * self.size[1] * QUAD..];
            let to = &mut scratch[plane * self.plane..(plane + 1) * self.plane];
            self.gather(from, rows, to);
        }
        scratch.as_ptr()
    }

    fn gather(&self, from: &[u8], rows: &Range<usize>, to: &mut [u8]) {
        let [height, width] = self.size;
        let [top, left] = self.before;
        let left = (left * self.pixel).min(self.row);
        let inside = (width * self.pixel).min(self.row - left);
        let needed = (rows.len() - 1) * self.stride + self.extent;
        for (i, to) in to.chunks_exact_mut(self.row).take(needed).enumerate() {
            let at = rows.start * self.stride + i;
            if at < top || at - top >= height {
                to.copy_from_slice(&self.blank);
                continue;
            }
            let from = &from[(at - top) * width * QUAD..][..inside / self.pixel * QUAD];
            to[..left].copy_from_slice(&self.blank[..left]);
            let pixels = &mut to[left..left + inside];
            match self.pixel {
                1 => without_gaps::<1>(from, pixels),
                2 => without_gaps::<2>(from, pixels),
                3 => without_gaps::<3>(from, pixels),
                _ => pixels.copy_from_slice(from),
            }
            to[left + inside..].copy_from_slice(&self.blank[left + inside..]);
        }
    }
}

/// The first `N` bytes of every quad, one after another.
fn without_gaps<const N: usize>(quads: &[u8], to: &mut [u8]) {
    let quads = quads.as_chunks::<QUAD>().0;
    // Whole quads, whose surplus the next one covers, are stored faster than parts of them.
    let whole = (to.len().saturating_sub(QUAD - 1)).div_ceil(N).min(quads.len());
    for (i, quad) in quads[..whole].iter().enumerate() {
        to[i * N..i * N + QUAD].copy_from_slice(quad);
    }
    for (quad, to) in quads.iter().zip(to.as_chunks_mut::<N>().0).skip(whole) {
        to.copy_from_slice(&quad[..N]);
    }
}

/// `len`, or a little more where planes would fall into the same cache sets.
pub(in crate::int8) fn unaliased(len: usize) -> usize {
    if len.is_multiple_of(ALIAS / 4) { len + 64 } else { len }
}

/// All positions of a kernel, row by row.
fn positions([height, width]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..height).flat_map(move |y| (0..width).map(move |x| [y, x]))
}
