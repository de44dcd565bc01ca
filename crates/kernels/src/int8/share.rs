//! How workers divide a kernel that fills rows of planes.

use crate::{Rows, Worker};
use std::ops::Range;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Planes of fewer bytes have few cache lines.
const SMALL_PLANE: usize = 1024;

/// The same for depthwise convolutions and gates. Measured on Granite Rapids with cores far apart, 28x28 pixels of 120 channels: a 5x5
/// kernel 14 us by planes, 25 by rows, its gate 4.5 and 13. Convolutions of all channels between them gain nothing by planes, for
/// they would read all of the other's rows.
const SMALL_LONE_PLANE: usize = 4096;

/// A plane of so many rows of so many bytes, as rows that are cache lines where it consists of whole ones and its rows do not: then no
/// line holds rows of two workers. It is for kernels that take every pixel by itself. Measured on Granite Rapids with cores far
/// apart, 28x28 pixels of 512 channels, two workers: a sum 23 us in place of 35, and 29 of one worker.
pub(super) fn by_lines([rows, bytes]: [usize; 2]) -> [usize; 2] {
    let plane = rows * bytes;
    if bytes.is_multiple_of(LINE) || !plane.is_multiple_of(LINE) {
        [rows, bytes]
    } else {
        [plane / LINE, LINE]
    }
}

/// What there is to share out.
pub(super) struct Share {
    /// Rows of all images, and bytes of one.
    pub(super) rows: usize,
    pub(super) row: usize,
    /// Planes, or blocks of them.
    pub(super) planes: usize,
    /// Whether planes are shared out where both ways divide equally well: each may have weights of its own to read.
    pub(super) planes_weigh: bool,
    /// Whether each plane is made of the same plane of one input, as by depthwise convolutions, gates and pools.
    pub(super) plane_by_plane: bool,
}

impl Share {
    /// Whether planes are shared out, not rows. Rows are preferred, so that a worker finds in its cache what it wrote in
    /// the kernel before; but not where many cache lines would hold rows of two workers, which take turns with them then
    /// (14x14 pixels, a gate: two workers were slower than one).
    pub(super) fn by_planes(&self, workers: usize) -> bool {
        let longest = |items: usize| items.div_ceil(workers);
        let by_rows = longest(self.rows) * self.planes;
        let by_planes = longest(self.planes) * self.rows;
        // A row or plane more out of many is less than what moves between caches.
        match by_rows.abs_diff(by_planes) <= by_rows.max(by_planes) / 16 {
            true => self.planes_weigh || self.splits_lines(workers),
            false => by_planes < by_rows,
        }
    }

    /// Whether a cache line of every small plane holds rows of two workers.
    fn splits_lines(&self, workers: usize) -> bool {
        let small = if self.plane_by_plane { SMALL_LONE_PLANE } else { SMALL_PLANE };
        self.rows * self.row < small && !(self.rows / workers * self.row).is_multiple_of(LINE)
    }

    /// What so many workers write by rows, if they do: a tensor of these planes and `images` of equally many rows.
    pub(super) fn written(&self, images: usize, workers: usize) -> Option<Rows> {
        let all = Rows { images, planes: self.planes, rows: self.rows / images.max(1), bytes: self.row };
        (!self.by_planes(workers)).then_some(all)
    }

    /// This worker's part: some planes of some rows.
    pub(super) fn of(&self, worker: Worker) -> (Range<usize>, Range<usize>) {
        match self.by_planes(worker.count) {
            true => (0..self.rows, worker.share(self.planes)),
            false => (worker.share(self.rows), 0..self.planes),
        }
    }
}
