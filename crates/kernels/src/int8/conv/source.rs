//! Where a convolution's tiles read: the input itself, or padded rows of it in scratch.
//!
//! Activations carry no halo in memory. Where a window reaches over the border, the rows that an item needs are copied
//! to scratch with the zero point around them; then every tap is a mere offset, for any kernel, stride and dilation. A
//! halo in the layout would save that copy, 1 to 2 % of a 3x3 convolution (`examples/int8_speed.rs`), but every kernel
//! would have to write it, each consumer could want another width, and a 1x1 convolution with pixels in lanes would
//! compute it.

use super::pack::Arrangement;
use crate::conv::ConvGeometry;
use crate::int8::QUAD;
use std::ops::Range;

/// Bytes that may be gathered at once; weights have room beside them in a level 2 cache.
pub(in crate::int8) const GATHERED: usize = 128 * 1024;
/// Planes a multiple of this apart fall into the same sets of a level 1 cache.
pub(in crate::int8) const ALIAS: usize = 4096;
/// More planes than that evict each other then.
pub(in crate::int8) const WAYS: usize = 8;

/// Bytes of a pixel in a plane.
const UNIT: usize = QUAD;

/// How tiles read the input; lengths are in bytes.
pub(in crate::int8) struct Source {
    /// Whether rows are copied to scratch.
    pub(in crate::int8) gathered: bool,
    /// Output rows of an item at most.
    pub(in crate::int8) rows: usize,
    /// From row to row and from plane to plane, as read.
    row: usize,
    pub(in crate::int8) plane: usize,
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
        let (in_row, in_plane) = (g.input[1] * UNIT, g.input[0] * g.input[1] * UNIT);
        let aliased = in_plane.is_multiple_of(ALIAS) && a.quads > WAYS;
        let gathered = aliased || w.pad != [0; 4];
        let extent = |axis: usize| (w.kernel[axis] - 1) * w.dilation[axis] + 1;
        let columns = (g.output[1].max(1) - 1) * w.stride[1] + extent(1);
        let row = if gathered { columns * UNIT } else { in_row };
        let per_row = if gathered { planes * row * w.stride[0] } else { planes * in_row * w.stride[0] };
        let rows = (GATHERED / per_row.max(1)).clamp(1, g.output[0].max(1));
        let plane = if gathered { unaliased(((rows - 1) * w.stride[0] + extent(0)) * row) } else { in_plane };
        let tap = |[y, x]: [usize; 2]| y * w.dilation[0] * row + x * w.dilation[1] * UNIT;
        Source {
            gathered,
            rows,
            row,
            plane,
            taps: positions(w.kernel).map(tap).collect(),
            step: w.stride[1] * UNIT,
            row_step: w.stride[0] * row,
            planes,
            size: g.input,
            stride: w.stride[0],
            before: [w.pad[0], w.pad[1]],
            extent: extent(0),
            blank: vec![zero; row],
        }
    }

    /// Bytes of scratch.
    pub(in crate::int8) fn scratch(&self) -> usize {
        if self.gathered { self.planes * self.plane } else { 0 }
    }

    /// Bytes of one image of the input.
    pub(in crate::int8) fn image(&self) -> usize {
        self.planes * self.size[0] * self.size[1] * UNIT
    }

    /// The address of plane 0 for the first pixel of output `rows` of an image, of which only `planes` are wanted.
    pub(in crate::int8) fn locate(
        &self,
        x: &[u8],
        image: usize,
        rows: &Range<usize>,
        planes: Range<usize>,
        scratch: &mut [u8],
    ) -> *const u8 {
        let image = &x[image * self.image()..(image + 1) * self.image()];
        if !self.gathered {
            return image[rows.start * self.row_step..].as_ptr();
        }
        assert!(rows.len() <= self.rows, "an item's rows fit the scratch");
        for plane in planes.start..planes.end.min(self.planes) {
            let from = &image[plane * self.size[0] * self.size[1] * UNIT..];
            let to = &mut scratch[plane * self.plane..(plane + 1) * self.plane];
            self.gather(from, rows, to);
        }
        scratch.as_ptr()
    }

    fn gather(&self, from: &[u8], rows: &Range<usize>, to: &mut [u8]) {
        let [height, width] = self.size;
        let [top, left] = self.before;
        let left = (left * UNIT).min(self.row);
        let inside = (width * UNIT).min(self.row - left);
        let needed = (rows.len() - 1) * self.stride + self.extent;
        for (i, to) in to.chunks_exact_mut(self.row).take(needed).enumerate() {
            let at = rows.start * self.stride + i;
            if at < top || at - top >= height {
                to.copy_from_slice(&self.blank);
                continue;
            }
            let from = &from[(at - top) * width * UNIT..][..inside];
            to[..left].copy_from_slice(&self.blank[..left]);
            to[left..left + inside].copy_from_slice(from);
            to[left + inside..].copy_from_slice(&self.blank[left + inside..]);
        }
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
